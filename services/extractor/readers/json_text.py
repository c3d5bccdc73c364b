"""JSON read strictly, with numbers that keep their text, and rendered as text that is the same for the same value."""

import json
from collections.abc import Sequence
from typing import Any, NoReturn

#: Deeper than any record that people design; each level costs the reader and the processor a stack frame.
MAX_NESTING = 32


class NumberText(str):
    """A number as the source wrote it: `1.10` stays `1.10`, and no float comes near it."""

    __slots__ = ()


class TooDeep(ValueError):
    """A value is nested deeper than `MAX_NESTING`."""


def parse_json(body: bytes) -> Any:
    """
    Read a document; numbers become `NumberText`.

    Raises:
        ValueError: if it is not JSON in UTF-8, has `NaN` or `Infinity`, or an object with one name twice. The
            message repeats nothing of the document.
    """
    try:
        return json.loads(
            body.decode(),
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique_names,
        )
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON, at character {error.pos} of {len(error.doc)}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def field_text(value: Any, *, as_json: bool) -> str | None:
    """
    Return a value as the text of a CSV field; None for null.

    Strings and numbers keep their text, objects and lists become JSON. With `as_json` everything is JSON, so
    that the string `1` and the number 1 stay two things.

    Raises:
        TooDeep: if it is nested too deeply.
    """
    if value is None:
        return None
    if as_json or isinstance(value, dict | list | bool):
        return render_json(value)
    return str(value)


def render_json(value: Any, *, depth: int = 0) -> str:
    """
    Return a value as canonical JSON: names sorted, no white space, numbers in their own text.

    >>> render_json({"b": [NumberText("1.10"), None], "a": "é"})
    '{"a":"é","b":[1.10,null]}'

    Raises:
        TooDeep: if it is nested too deeply.
    """
    if depth > MAX_NESTING:
        raise TooDeep(f"a value is nested deeper than {MAX_NESTING} levels")
    match value:
        case NumberText():
            return str(value)
        case dict():
            members = (
                f"{_render_string(name)}:{render_json(value[name], depth=depth + 1)}"
                for name in sorted(value)
            )
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(render_json(item, depth=depth + 1) for item in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def value_at(document: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path of names; None if nothing does."""
    for name in path:
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document


def _render_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no JSON number")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("it holds an object with one name twice")
    return members
