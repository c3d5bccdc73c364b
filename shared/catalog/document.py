"""
A YAML file as plain texts, lists and mappings, with the line of each.

Every scalar stays the text that stands in the file, so that `0123`, `no` and `1.10` are what their author
wrote; the forms turn texts into numbers and durations where a number or a duration is meant. Keys that
stand twice, aliases and tags are mistakes: YAML would take them silently, and one of two masks would be lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shared.catalog.problems import FieldPath, Problem, SourceFilesInvalid, field_text

MAX_FILE_SIZE_IN_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 16

_NULL_TAG = "tag:yaml.org,2002:null"
_PLAIN_TAGS = {
    _NULL_TAG,
    *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "timestamp", "value", "merge")),
}

#: The same parser in C, some ten times faster, where libyaml is at hand.
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Document:
    """A file that was read, and what is wrong with it so far."""

    file: str
    content: dict[str, Any] = field(default_factory=dict)
    lines: dict[FieldPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def report(self, path: FieldPath, *, expected: str, found: str) -> None:
        """Add a mistake at a field, or at the nearest one around it that stands in the file."""
        self.problems.append(self._problem(path, expected=expected, found=found))

    def warn(self, path: FieldPath, *, expected: str, found: str) -> None:
        """Add something that is allowed and that its author may not have meant."""
        self.warnings.append(self._problem(path, expected=expected, found=found))

    def written(self, path: FieldPath) -> FieldPath:
        """Return the longest beginning of a path that stands in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return path

    def _problem(self, path: FieldPath, *, expected: str, found: str) -> Problem:
        line = self.lines.get(self.written(path), 1)
        return Problem(self.file, line, field_text(path), expected, found)


def read_document(file: Path) -> Document:
    """Read a file. Whatever is wrong with it is in the document's problems; then its content may be empty."""
    document = Document(str(file))
    text = _read_text(file, document)
    if text is not None:
        _read_yaml(text, document)
    return document


def parse_document(text: str, *, file: str) -> Document:
    """Read the text of a file that is held in memory; `file` is how its problems call it."""
    document = Document(file)
    _read_yaml(text, document)
    return document


def read_text(file: Path) -> str:
    """
    Return the text of a file, to be edited: without a byte order mark, line breaks as they are.

    Raises:
        SourceFilesInvalid: if it cannot be read, is too big or not in UTF-8.
    """
    document = Document(str(file))
    text = _read_text(file, document)
    if text is None:
        raise SourceFilesInvalid(document.problems)
    return text


def _read_text(file: Path, document: Document) -> str | None:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_SIZE_IN_BYTES + 1)
    except OSError as error:
        _report_file(document, expected="a file that can be read", found=error.strerror or "an error")
        return None
    if len(raw) > MAX_FILE_SIZE_IN_BYTES:
        _report_file(document, expected=f"at most {MAX_FILE_SIZE_IN_BYTES} bytes", found="more")
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        document.problems.append(
            Problem(document.file, line, "", "text in UTF-8", f"the byte 0x{raw[error.start]:02x}")
        )
        return None


def _read_yaml(text: str, document: Document) -> None:
    try:
        if too_deep := _line_of_excess_depth(text):
            document.problems.append(
                Problem(document.file, too_deep, "", f"at most {MAX_DEPTH} levels of nesting", "more")
            )
            return
        root = yaml.compose(text, Loader=LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # Only the parser's own words: its full message quotes the line, which may hold a secret.
        found = (error.problem or error.context or "something else").removeprefix("found ")
        found = found.replace("did not find expected", "something other than")
        document.problems.append(
            Problem(document.file, mark.line + 1 if mark else 0, "", "a single YAML document", found)
        )
        return
    except yaml.YAMLError as error:
        _report_file(document, expected="a YAML document", found=f"something else ({type(error).__name__})")
        return
    if not isinstance(root, yaml.MappingNode):
        _report_file(
            document,
            expected="a mapping with name, kind, connection and tables",
            found="nothing" if root is None else "something else",
        )
        return
    content = _Reading(document).value(root, path=())
    document.content = content if isinstance(content, dict) else {}
    if not document.content and not document.problems:
        _report_file(document, expected="name, kind, connection and tables", found="an empty mapping")


def _line_of_excess_depth(text: str) -> int | None:
    """
    Return the line where values are nested too deeply, or None.

    The parser gives events one by one, but composing them recurses: in C, a file of a hundred thousand
    brackets ends the process with a segmentation fault.
    """
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            return event.start_mark.line + 1 if event.start_mark else 1
    return None


def _report_file(document: Document, *, expected: str, found: str) -> None:
    document.problems.append(Problem(document.file, 0, "", expected, found))


class _Reading:
    """One walk through the nodes of a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._seen: set[int] = set()

    def value(self, node: yaml.Node, *, path: FieldPath) -> object:
        """Return a node as text, list, mapping or None; None too for what is a mistake."""
        # An alias is the very node of its anchor. It may even hold itself.
        if id(node) in self._seen:
            self._document.report(path, expected="the value written out", found="an alias")
            return None
        self._seen.add(id(node))
        match node:
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, path=path)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                return self._sequence(node, path=path)
            case yaml.ScalarNode() if node.tag in _PLAIN_TAGS:
                return None if node.tag == _NULL_TAG else str(node.value)
        self._document.report(path, expected="a value without a tag", found=f"the tag {node.tag}")
        return None

    def _mapping(self, node: yaml.MappingNode, *, path: FieldPath) -> Mapping[str, object]:
        entries: dict[str, object] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self._document.report(path, expected="names as keys", found=f"another key on line {line}")
                continue
            here = (*path, str(key.value))
            if key.value in entries:
                first = self._document.lines[here]
                self._document.problems.append(
                    Problem(
                        self._document.file,
                        line,
                        field_text(here),
                        "each key once",
                        f"it on line {first} too",
                    )
                )
                continue
            self._document.lines[here] = line
            entries[key.value] = self.value(value, path=here)
        return entries

    def _sequence(self, node: yaml.SequenceNode, *, path: FieldPath) -> list[object]:
        items = []
        for position, item in enumerate(node.value):
            here = (*path, position)
            self._document.lines[here] = item.start_mark.line + 1
            items.append(self.value(item, path=here))
        return items
