"""
Edits of a source file in place: comments, order and spelling of everything else stay as their author wrote them.

    text = set_value(text, ("tables", "orders", "columns", "amount", "type"), '"decimal(14,2)"')

Only the characters of the value itself are exchanged, found by the marks of the YAML parser. Each edit is read
again: what stands in the file afterwards is what was asked for, or nothing was edited.
"""

import copy
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from shared.catalog.document import Document, parse_document
from shared.catalog.problems import FieldPath, field_text
from shared.errors import ConfigurationError

_PLAIN = re.compile(
    r"[A-Za-z_/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*|secretsmanager:[A-Za-z0-9/_+=.@-]+(#[A-Za-z0-9_.-]+)?"
)
_NOT_PLAIN = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


class NotEdited(ConfigurationError):
    """A file is written in a way that no edit keeps whole; a person has to do it."""


def scalar(text: str) -> str:
    """
    Return a text as a YAML scalar that every YAML reader takes for that text.

    >>> scalar("order_id"), scalar("no"), scalar('a "b": c')
    ('order_id', '"no"', '"a \\\\"b\\\\": c"')
    """
    if _PLAIN.fullmatch(text) and text.lower() not in _NOT_PLAIN:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def flow_mapping(fields: Mapping[str, str]) -> str:
    """
    Return texts by name as a YAML mapping on one line.

    >>> flow_mapping({"source_type": "numeric(12,2)", "mask": "keep"})
    '{source_type: "numeric(12,2)", mask: keep}'
    """
    return "{" + ", ".join(f"{scalar(name)}: {scalar(value)}" for name, value in fields.items()) + "}"


def set_value(text: str, path: FieldPath, value: str, *, after: str | None = None) -> str:
    """
    Return a file's text with a value at a path, as YAML on one line; a key that is not there yet is added.

    It is added behind the key `after`, or as the last of its mapping. The mapping itself has to be there.

    Raises:
        NotEdited: if the value cannot be put there without touching anything else.
    """
    content = _content_of(text, path)
    *above, name = path
    _mapping_at(content, above, path)[name] = _content_of_value(value, path)
    return _verified(_with_value(text, path, value, after=after), content, path)


def remove_value(text: str, path: FieldPath) -> str:
    """
    Return a file's text without a key and its value; a comment behind it goes too, those above it stay.

    Raises:
        NotEdited: if it is not there, or cannot be taken out without touching anything else.
    """
    content = _content_of(text, path)
    *above, name = path
    if _mapping_at(content, above, path).pop(name, _ABSENT) is _ABSENT:
        raise _not_edited(path, "a key that stands in the file", "none")
    return _verified(_without_value(text, path), content, path)


def write_in_place(file: Path, text: str, *, instead_of: str) -> None:
    """
    Put a new text in the place of a file's, whole or not at all; the file's mode stays.

    Raises:
        NotEdited: if the file does not hold the old text any more.
        ConfigurationError: if it cannot be written.
    """
    file = file.resolve()  # a link stays one
    try:
        raw = file.read_bytes()
        mark = b"\xef\xbb\xbf" if raw.startswith(b"\xef\xbb\xbf") else b""
        if raw != mark + instead_of.encode():
            raise NotEdited(f"{file}: expected it as it was read, found it changed meanwhile; try again")
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(mark + text.encode())
            Path(name).chmod(file.stat().st_mode & 0o7777)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error.strerror}") from error


# ---- where things stand ------------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A key of a mapping, its value, and the mapping."""

    key: yaml.ScalarNode
    value: yaml.Node
    mapping: yaml.MappingNode


def _with_value(text: str, path: FieldPath, value: str, *, after: str | None) -> str:
    above = _node_at(text, path[:-1])
    if not isinstance(above, yaml.MappingNode):
        return _spliced(text, _span(above), f"{{{scalar(str(path[-1]))}: {value}}}")
    entry = _entry(above, str(path[-1]))
    if entry is not None:
        return _spliced(text, _span(entry.value), value)
    line = f"{scalar(str(path[-1]))}: {value}"
    before = _entry(above, after) if after is not None else None
    if above.flow_style:
        return _added_to_flow(text, above, before, line)
    return _added_to_block(text, above, before, line)


def _added_to_flow(text: str, mapping: yaml.MappingNode, before: _Entry | None, line: str) -> str:
    if not mapping.value:
        start = mapping.start_mark.index + 1
        return text[:start] + line + text[start:]
    end = _end(before.value if before else mapping.value[-1][1])
    return f"{text[:end]}, {line}{text[end:]}"


def _added_to_block(text: str, mapping: yaml.MappingNode, before: _Entry | None, line: str) -> str:
    indent = " " * mapping.value[0][0].start_mark.column
    end = _end_of_line(text, _end(before.value if before else mapping.value[-1][1]))
    return f"{text[:end]}{_line_break(text)}{indent}{line}{text[end:]}"


def _without_value(text: str, path: FieldPath) -> str:
    above = _node_at(text, path[:-1])
    entry = _entry(above, str(path[-1])) if isinstance(above, yaml.MappingNode) else None
    if entry is None:
        raise _not_edited(path, "a key that stands in the file", "none")
    start, end = entry.key.start_mark.index, _end(entry.value)
    if not entry.mapping.flow_style:
        # The line break goes with the line: the first line has none before it.
        line_start = text.rfind("\n", 0, start) + 1
        return text[:line_start] + text[_end_of_line(text, end) :].removeprefix("\r").removeprefix("\n")
    pairs = entry.mapping.value
    position = next(number for number, (key, _) in enumerate(pairs) if key is entry.key)
    if position + 1 < len(pairs):
        end = pairs[position + 1][0].start_mark.index
    elif position:
        start = _end(pairs[position - 1][1])
    return text[:start] + text[end:]


def _node_at(text: str, path: FieldPath) -> yaml.Node:
    # Not the parser in C: its marks do not count characters in every version.
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    for step in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            continue
        entry = _entry(node, str(step)) if isinstance(node, yaml.MappingNode) else None
        if entry is None:
            raise _not_edited(path, "a mapping that stands in the file", "none")
        node = entry.value
    if node is None:
        raise _not_edited(path, "a YAML document", "nothing")
    return node


def _entry(mapping: yaml.MappingNode, name: str) -> _Entry | None:
    return next((_Entry(key, value, mapping) for key, value in mapping.value if key.value == name), None)


def _span(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.index, _end(node)


def _end(node: yaml.Node) -> int:
    """Where a value ends. Of a collection in block style that is where its last value does: its own mark lies further."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _end_of_line(text: str, position: int) -> int:
    found = text.find("\n", position)
    end = len(text) if found < 0 else found
    return end - 1 if text[:end].endswith("\r") else end


def _spliced(text: str, span: tuple[int, int], value: str) -> str:
    start, end = span
    # A value that is not there stands directly behind the colon.
    gap = " " if start == end and text[:start].endswith(":") else ""
    return text[:start] + gap + value + text[end:]


def _line_break(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# ---- what has to come out ----------------------------------------------------------------------------------

_ABSENT = object()


def _content_of(text: str, path: FieldPath) -> dict[str, Any]:
    document = parse_document(text, file="the file")
    if document.problems:
        raise _not_edited(path, "a sound YAML document", str(document.problems[0]))
    return copy.deepcopy(document.content)


def _content_of_value(value: str, path: FieldPath) -> object:
    return _content_of(f"value: {value}", path)["value"]


def _mapping_at(content: object, above: list[str | int], path: FieldPath) -> dict[str | int, Any]:
    holder: Any = {"": content}
    name: str | int = ""
    for step in above:
        holder, name = holder[name], step
        if not isinstance(holder, dict | list) or (isinstance(holder, dict) and step not in holder):
            raise _not_edited(path, "a mapping around it that stands in the file", "none")
    if holder[name] is None:
        holder[name] = {}
    found = holder[name]
    if not isinstance(found, dict):
        raise _not_edited(path, "a mapping around it", "something else")
    return found


def _verified(text: str, wanted: Mapping[str, Any], path: FieldPath) -> str:
    found: Document = parse_document(text, file="the edited file")
    if found.problems or found.content != wanted:
        raise _not_edited(path, "a file that can be edited here", "a spelling that no edit keeps whole")
    return text


def _not_edited(path: FieldPath, expected: str, found: str) -> NotEdited:
    return NotEdited(f"{field_text(path)}: expected {expected}, found {found}; edit the file by hand")


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
