"""A source file is edited in place: what was asked for stands in it, and everything else as its author wrote it."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.catalog.document import parse_document, read_text
from shared.catalog.editing import (
    NotEdited,
    flow_mapping,
    remove_value,
    scalar,
    set_value,
    set_values,
    write_in_place,
)

ORDERS = """\
# The shop.
name: shop
tables:
  orders:   # what people bought
    columns:
      id: {source_type: bigint, type: int64}  # the key
      # In euros.
      amount: {source_type: "numeric(12,2)", type: "decimal(12,2)", mask: keep}

      note:
        source_type: text   # free
        mask:
          hmac: {domain: note}
        # Nobody reads it.
    # The newest version of each.
    key: [id]
"""
COLUMNS = ("tables", "orders", "columns")


def content_of(text: str) -> Any:
    """The content of a text that has to be sound."""
    document = parse_document(text, file="test.yaml")
    assert not document.problems
    return document.content


def comments_of(text: str) -> list[str]:
    """Every comment of a text in which `#` stands nowhere else."""
    return [line[line.index("#") :] for line in text.splitlines() if "#" in line]


def test_a_value_in_braces_is_exchanged_and_nothing_else() -> None:
    edited = set_value(ORDERS, (*COLUMNS, "amount", "type"), '"decimal(14,2)"')

    assert edited == ORDERS.replace('"decimal(12,2)"', '"decimal(14,2)"')


def test_a_value_on_lines_of_its_own_is_exchanged_whole() -> None:
    edited = set_value(ORDERS, (*COLUMNS, "note", "mask"), "keep")

    assert content_of(edited)["tables"]["orders"]["columns"]["note"] == {
        "source_type": "text",
        "mask": "keep",
    }
    assert comments_of(edited) == comments_of(ORDERS)


def test_a_key_is_added_in_braces_and_on_lines() -> None:
    edited = set_value(ORDERS, (*COLUMNS, "id", "mask"), "keep")
    edited = set_value(edited, (*COLUMNS, "note", "type"), "json", after="source_type")

    assert "id: {source_type: bigint, type: int64, mask: keep}  # the key\n" in edited
    assert "        source_type: text   # free\n        type: json\n        mask:\n" in edited


def test_a_column_is_added_behind_the_last_one() -> None:
    edited = set_value(ORDERS, (*COLUMNS, "new one"), flow_mapping({"type": "date", "mask": "withhold"}))

    assert (
        "hmac: {domain: note}\n      new one: {type: date, mask: withhold}\n        # Nobody reads it.\n"
        in edited
    )


def test_a_column_is_taken_out_with_its_line_and_the_comments_above_stay() -> None:
    edited = remove_value(ORDERS, (*COLUMNS, "amount"))

    assert "amount" not in edited
    assert "      # In euros.\n\n      note:\n" in edited


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_column_is_taken_out_of_braces(name: str) -> None:
    text = "columns: {a: {x: y}, b: z,\n  c: }\n"

    edited = remove_value(text, ("columns", name))

    expected = content_of(text)
    del expected["columns"][name]
    assert content_of(edited) == expected


def test_no_comma_is_left_behind_the_last_one() -> None:
    assert remove_value("{a: x, b: y}\n", ("b",)) == "{a: x}\n"
    assert remove_value("{a: x, b: y}\n", ("a",)) == "{b: y}\n"


def test_many_values_are_set_at_once_wherever_they_stand() -> None:
    edited = set_values(
        ORDERS,
        {
            (*COLUMNS, "added"): "{mask: keep}",
            (*COLUMNS, "note", "nullable"): "false",
            (*COLUMNS, "amount", "type"): "string",
            (*COLUMNS, "id", "nullable"): "false",
            (*COLUMNS, "id", "mask"): "keep",
        },
    )

    assert "id: {source_type: bigint, type: int64, nullable: false, mask: keep}  # the key\n" in edited
    assert "type: string, mask: keep}\n" in edited
    assert "          hmac: {domain: note}\n        nullable: false\n      added: {mask: keep}\n" in edited
    assert comments_of(edited) == comments_of(ORDERS)


def test_nothing_to_set_leaves_a_text_as_it_is() -> None:
    assert set_values(ORDERS, {}) == ORDERS


def test_a_value_that_is_not_there_yet_is_written_behind_its_colon() -> None:
    assert set_value("a:\nb: c\n", ("a",), "d") == "a: d\nb: c\n"
    assert set_value("a:\nb: c\n", ("a", "e"), "d") == "a: {e: d}\nb: c\n"


def test_line_breaks_stay_as_they_are() -> None:
    text = ORDERS.replace("\n", "\r\n")

    edited = set_value(text, (*COLUMNS, "added"), "{mask: keep}")
    edited = remove_value(edited, (*COLUMNS, "amount"))

    assert edited.count("\n") == edited.count("\r\n")


def test_what_no_edit_keeps_whole_is_refused() -> None:
    with pytest.raises(NotEdited, match="by hand"):
        set_value(ORDERS, ("tables", "customers", "key"), "[id]")
    with pytest.raises(NotEdited, match="by hand"):
        remove_value(ORDERS, (*COLUMNS, "absent"))
    with pytest.raises(NotEdited, match="a spelling that no edit keeps whole"):
        remove_value("list:\n  - a: x\n    b: y\n", ("list", 0, "a"))
    with pytest.raises(NotEdited, match="by hand"):
        set_value("a: &x 1\nb: 2\nc: *x\n", ("b",), "3")


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text("name: shop\n")
    text = read_text(file)
    file.write_text("name: shop # edited\n")

    with pytest.raises(NotEdited, match="changed meanwhile"):
        write_in_place(file, "name: other\n", instead_of=text)

    assert file.read_text() == "name: shop # edited\n"


def test_mode_and_byte_order_mark_stay(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_bytes("\ufeffname: shop\r\n".encode())
    file.chmod(0o640)
    text = read_text(file)

    write_in_place(file, set_value(text, ("name",), "other"), instead_of=text)

    assert file.read_bytes() == "\ufeffname: other\r\n".encode()
    assert file.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_one_and_what_it_leads_to_is_edited(tmp_path: Path) -> None:
    file, link = tmp_path / "shop.yaml", tmp_path / "link.yaml"
    file.write_text("name: shop\n")
    link.symlink_to(file)

    write_in_place(link, "name: other\n", instead_of="name: shop\n")

    assert link.is_symlink()
    assert file.read_text() == "name: other\n"


# ---- any file, any edit ------------------------------------------------------------------------------------

_NAMES = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="#\u2028\u2029\x85\ufeff"),
    min_size=1,
    max_size=12,
)
_FIELDS = st.dictionaries(st.sampled_from(["type", "source_type", "mask", "nullable"]), _NAMES, min_size=1)
_TABLES = st.dictionaries(_NAMES, _FIELDS, min_size=2, max_size=5)


@st.composite
def _written(draw: st.DrawFn) -> tuple[str, dict[str, dict[str, str]]]:
    """The columns of a table, each in braces or on lines, with comments and empty lines anywhere."""
    columns = draw(_TABLES)
    lines = ["# head", "columns:"]
    for number, (name, fields) in enumerate(columns.items()):
        lines += [f"  # above {number}"] * draw(st.integers(0, 1)) + [""] * draw(st.integers(0, 1))
        behind = f"  # behind {number}" * draw(st.integers(0, 1))
        if draw(st.booleans()):
            lines.append(f"  {scalar(name)}: {flow_mapping(fields)}{behind}")
        else:
            lines.append(f"  {scalar(name)}:{behind}")
            lines += [f"    {scalar(key)}: {scalar(value)}  # inside" for key, value in fields.items()]
    return "\n".join([*lines, "key: [id]  # tail"]) + "\n" * draw(st.integers(0, 1)), columns


@given(_written(), _NAMES, st.sampled_from(["type", "source_type", "mask"]), st.data())
def test_any_value_of_any_column_is_set_and_no_comment_is_lost(
    written: tuple[str, dict[str, dict[str, str]]], value: str, key: str, data: st.DataObject
) -> None:
    text, columns = written
    name = data.draw(st.sampled_from(sorted(columns)))
    wanted = copy.deepcopy(content_of(text))
    wanted["columns"][name][key] = value

    edited = set_value(text, ("columns", name, key), scalar(value))

    assert content_of(edited) == wanted
    assert comments_of(edited) == comments_of(text)


@given(_written(), _NAMES, _FIELDS)
def test_any_column_is_added_and_taken_out_again(
    written: tuple[str, dict[str, dict[str, str]]], name: str, fields: dict[str, str]
) -> None:
    text, columns = written
    if name in columns:
        return

    added = set_value(text, ("columns", name), flow_mapping(fields))

    assert content_of(added)["columns"] == {**columns, name: fields}
    assert remove_value(added, ("columns", name)) == text
