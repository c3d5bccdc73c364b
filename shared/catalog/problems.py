"""What is wrong with a source file: where, what was expected, what was found."""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from shared.errors import ConfigurationError

#: The way to a value in a file: keys of mappings, positions in lists.
FieldPath: TypeAlias = tuple[str | int, ...]

LONGEST_TEXT_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. Holds no secret: what might be one is described, not shown."""

    file: str
    #: From 1. 0 if the mistake is the file itself.
    line: int
    #: As in `tables.orders.key[0]`; empty for the whole file.
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        what = f" {self.field}:" if self.field else ""
        return f"{where}:{what} expected {self.expected}, found {self.found}"


class SourceFilesInvalid(ConfigurationError):
    """Source files have mistakes. The message lists all of them, `problems` has them one by one."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        files = len({problem.file for problem in problems})
        counted = f"{_count(len(problems), 'mistake')} in {_count(files, 'file')}"
        super().__init__("\n".join([f"{counted}:", *(f"  {problem}" for problem in problems)]))
        self.problems = tuple(problems)


def field_text(path: FieldPath) -> str:
    """
    Return a path as people write it; names that would be misread are quoted.

    >>> field_text(("tables", "order items", "key", 0))
    'tables."order items".key[0]'
    """
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            plain = step.replace("_", "").replace("-", "").isalnum()
            text += ("." if text else "") + (step if plain else json.dumps(step, ensure_ascii=False))
    return text


def shown(value: object) -> str:
    """
    Return a value as a message may show it. Long texts and such as could hold a password are only described.

    >>> shown("mrege"), shown("postgresql://me:secret@host/db"), shown(None)
    ("'mrege'", 'a text of 30 characters (not shown)', 'nothing')
    """
    match value:
        case None:
            return "nothing"
        case str() if len(value) > LONGEST_TEXT_SHOWN or "://" in value or ("@" in value and ":" in value):
            return f"a text of {len(value)} characters (not shown)"
        case str():
            return repr(value)
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return str(value)


def suggestion(word: str, known: Iterable[str]) -> str:
    """
    Return ` (did you mean …?)` if one of the known words is near, else nothing.

    >>> suggestion("colums", ["columns", "key"])
    " (did you mean 'columns'?)"
    """
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), list(folded), n=1)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
