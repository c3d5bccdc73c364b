"""
Edits of a source file in place: comments, order and spelling of everything else stay as their author wrote them.

    text = set_value(text, ("tables", "orders", "columns", "amount", "type"), '"decimal(14,2)"')

Only the characters of the value itself are exchanged, found by the marks of the YAML parser. Each edit is read
again: what stands in the file afterwards is what was asked for, or nothing was edited.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from shared.catalog.document import LOADER, parse_document
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
    return set_values(text, {path: value}, after=after)


def set_values(text: str, values: Mapping[FieldPath, str], *, after: str | None = None) -> str:
    """Return a file's text with many values at once; see `set_value`. None of them may be inside another."""
    content = _content_of(text)
    inside: dict[FieldPath, dict[str, str]] = {}
    for path, value in values.items():
        *above, name = path
        _mapping_at(content, above, path)[name] = _content_of_value(value)
        inside.setdefault(tuple(above), {})[str(name)] = value
    root = _root_of(text)
    splices = [
        splice
        # What is added at one place to a mapping and to one inside it: the inner comes first.
        for above_path in sorted(inside, key=len, reverse=True)
        for splice in _settings(text, _node_at(root, above_path), inside[above_path], after=after)
    ]
    return _verified(_spliced(text, splices), content, values)


def remove_value(text: str, path: FieldPath) -> str:
    """
    Return a file's text without a key and its value; a comment behind it goes too, those above it stay.

    Raises:
        NotEdited: if it is not there, or cannot be taken out without touching anything else.
    """
    content = _content_of(text)
    *above, name = path
    if _mapping_at(content, above, path).pop(name, _ABSENT) is _ABSENT:
        raise _not_edited(path, "a key that stands in the file", "none")
    mapping = _node_at(_root_of(text), tuple(above))
    return _verified(_spliced(text, [_removal(text, mapping, path)]), content, [path])


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
    """A key of a mapping, and its value."""

    key: yaml.ScalarNode
    value: yaml.Node


class _Splice(NamedTuple):
    """What stands in the place of some characters."""

    start: int
    end: int
    text: str


def _settings(
    text: str, above: yaml.Node, named: Mapping[str, str], *, after: str | None
) -> Iterator[_Splice]:
    """The splices that set keys of one mapping, those that are there and those that are not."""
    if not isinstance(above, yaml.MappingNode):
        listed = ", ".join(f"{scalar(name)}: {value}" for name, value in named.items())
        yield _replacement(text, above, f"{{{listed}}}")
        return
    entries = _entries(above)
    added = {}
    for name, value in named.items():
        if name in entries:
            yield _replacement(text, entries[name].value, value)
        else:
            added[name] = value
    if added:
        before = entries.get(after) if after is not None else None
        lines = [f"{scalar(name)}: {value}" for name, value in added.items()]
        yield _addition(text, above, before, lines)


def _replacement(text: str, node: yaml.Node, value: str) -> _Splice:
    start, end = node.start_mark.index, _end(node)
    # A value that is not there stands directly behind the colon.
    gap = " " if start == end and text[:start].endswith(":") else ""
    return _Splice(start, end, gap + value)


def _addition(text: str, mapping: yaml.MappingNode, before: _Entry | None, lines: Sequence[str]) -> _Splice:
    if not mapping.value:
        start = mapping.start_mark.index + 1
        return _Splice(start, start, ", ".join(lines))
    end = _end(before.value if before else mapping.value[-1][1])
    if mapping.flow_style:
        return _Splice(end, end, "".join(f", {line}" for line in lines))
    end = _end_of_line(text, end)
    margin = _line_break(text) + " " * mapping.value[0][0].start_mark.column
    return _Splice(end, end, "".join(f"{margin}{line}" for line in lines))


def _removal(text: str, mapping: yaml.Node, path: FieldPath) -> _Splice:
    entries = _entries(mapping) if isinstance(mapping, yaml.MappingNode) else {}
    entry = entries.get(str(path[-1]))
    if entry is None or not isinstance(mapping, yaml.MappingNode):
        raise _not_edited(path, "a key that stands in the file", "none")
    start, end = entry.key.start_mark.index, _end(entry.value)
    if not mapping.flow_style:
        # The line break goes with the line: the first line has none before it.
        end = _end_of_line(text, end)
        rest = text[end:]
        end += len(rest) - len(rest.removeprefix("\r").removeprefix("\n"))
        return _Splice(text.rfind("\n", 0, start) + 1, end, "")
    listed = list(entries.values())
    position = listed.index(entry)
    if position + 1 < len(listed):
        end = listed[position + 1].key.start_mark.index
    elif position:
        start = _end(listed[position - 1].value)
    return _Splice(start, end, "")


def _root_of(text: str) -> yaml.Node:
    node = yaml.compose(text, Loader=LOADER)
    if node is None:
        raise _not_edited((), "a YAML document", "nothing")
    return node


def _node_at(root: yaml.Node, path: FieldPath) -> yaml.Node:
    node = root
    for step in path:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            continue
        entry = _entries(node).get(str(step)) if isinstance(node, yaml.MappingNode) else None
        if entry is None:
            raise _not_edited(path, "a mapping that stands in the file", "none")
        node = entry.value
    return node


def _entries(mapping: yaml.MappingNode) -> dict[str, _Entry]:
    return {str(key.value): _Entry(key, value) for key, value in mapping.value}


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


def _spliced(text: str, splices: Sequence[_Splice]) -> str:
    pieces, position = [], 0
    for splice in sorted(splices, key=lambda splice: splice.start):
        pieces += [text[position : splice.start], splice.text]
        position = splice.end
    return "".join([*pieces, text[position:]])


def _line_break(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


# ---- what has to come out ----------------------------------------------------------------------------------

_ABSENT = object()


def _content_of(text: str) -> dict[str, Any]:
    document = parse_document(text, file="the file")
    if document.problems:
        raise _not_edited((), "a sound YAML document", str(document.problems[0]))
    return document.content


def _content_of_value(value: str) -> object:
    return _content_of(f"value: {value}").get("value")


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


def _verified(text: str, wanted: Mapping[str, Any], paths: Iterable[FieldPath]) -> str:
    found = parse_document(text, file="the edited file")
    if found.problems or found.content != wanted:
        raise _not_edited(
            next(iter(paths)), "a file that can be edited here", "a spelling that no edit keeps whole"
        )
    return text


def _not_edited(path: FieldPath, expected: str, found: str) -> NotEdited:
    where = f"{field_text(path)}: " if path else ""
    return NotEdited(f"{where}expected {expected}, found {found}; edit the file by hand")


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"
