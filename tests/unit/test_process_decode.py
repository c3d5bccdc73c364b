"""CSV is read as it was written: all text, nothing inferred, no record lost at the edge of a block."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.process_batches import column, csv_file, table

from services.processor.decode import decode
from shared.csv_dialect import header_line
from shared.domain.files import Area, DataFile, FileFormat, Location
from shared.domain.reasons import Reason
from shared.errors import Refused

CELLS = st.none() | st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)) | st.sampled_from('",\n\r\ufeff\\N'),
    max_size=12,
)


def read(
    folder: Path, body: bytes, *, columns: int = 2, record_count: int = 1, block_size: int = 1 << 20
) -> list[tuple[int, tuple[str | None, ...]]]:
    """Return line number and cells of each record."""
    path = folder / "file.csv"
    path.write_bytes(body)
    file = DataFile(
        location=Location("b", "processing/x.csv"),
        area=Area.PROCESSING,
        format=FileFormat.CSV,
        batch_id="b1",
        attempt=1,
        part=0,
        record_count=record_count,
        file_size_in_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )
    names = [f"n{number}" for number in range(columns)]
    return [
        (block.first_line + offset, row)
        for block in decode(path, file=file, columns=names, block_size_in_bytes=block_size)
        for offset, row in enumerate(block.frame.iter_rows())
    ]


def refusal(folder: Path, body: bytes, **options: int) -> Refused:
    with pytest.raises(Refused) as caught:
        read(folder, body, **options)
    return caught.value


HEADER = header_line(["n0", "n1"])


def test_null_the_empty_string_and_the_word_null_stay_three_things(tmp_path):
    found = read(tmp_path, HEADER + b',""\nNULL,\n', record_count=2)

    assert found == [(2, (None, "")), (3, ("NULL", None))]


def test_numbers_are_not_inferred(tmp_path):
    found = read(tmp_path, HEADER + b"00123,1e5\n")

    assert found == [(2, ("00123", "1e5"))]


def test_a_single_column_of_nulls_keeps_its_records(tmp_path):
    found = read(tmp_path, header_line(["n0"]) + b'\n""\n\n', columns=1, record_count=3)

    assert found == [(2, (None,)), (3, ("",)), (4, (None,))]


def test_line_numbers_count_records_and_not_line_breaks(tmp_path):
    found = read(tmp_path, HEADER + b'"a\nb",1\n"\r\n",2\nc,3\n', record_count=3)

    assert found == [(2, ("a\nb", "1")), (3, ("\r\n", "2")), (4, ("c", "3"))]


@pytest.mark.parametrize("block_size", [1, 7, 1 << 20])
def test_a_byte_order_mark_is_part_of_its_value(tmp_path, block_size):
    body = HEADER + "\ufeffa,1\n\ufeffb,2\n".encode()

    found = read(tmp_path, body, record_count=2, block_size=block_size)

    assert [row for _, row in found] == [("\ufeffa", "1"), ("\ufeffb", "2")]


@settings(max_examples=200, deadline=None)
@given(width=st.integers(1, 4), data=st.data(), block_size=st.integers(1, 60))
def test_what_is_written_is_read_wherever_the_blocks_are_cut(tmp_path_factory, width, data, block_size):
    rows = data.draw(st.lists(st.tuples(*[CELLS] * width), max_size=12))
    body = csv_file(table(*[column(f"n{number}") for number in range(width)]), rows)

    found = read(
        tmp_path_factory.mktemp("csv"), body, columns=width, record_count=len(rows), block_size=block_size
    )

    assert found == list(enumerate(rows, start=2))


@pytest.mark.parametrize("body", [b"", b'"n0"', b'"n0","N1"\na,b\n', b'"n1","n0"\na,b\n', b"n0,n1\na,b\n"])
def test_another_header_is_refused(tmp_path, body):
    assert refusal(tmp_path, body).reason is Reason.HEADER_MISMATCH


@pytest.mark.parametrize(
    "records",
    [
        pytest.param(b"a,b\nc,d\n", id="a record too many"),
        pytest.param(b"", id="a record too few"),
        pytest.param(b"a,b", id="a record without its end"),
        pytest.param(b"a,b\nc", id="something after the last record"),
        pytest.param(b'a,"b\n', id="an open quote"),
        pytest.param(b"a\n", id="a missing field"),
        pytest.param(b"a,b,c\n", id="a surplus field"),
        pytest.param(b"\xff,b\n", id="no UTF-8"),
        pytest.param(b'a,"b"c\n', id="text after a quote"),
    ],
)
@pytest.mark.parametrize("block_size", [3, 1 << 20])
def test_a_file_without_exactly_its_records_is_refused(tmp_path, records, block_size):
    found = refusal(tmp_path, HEADER + records, block_size=block_size)

    assert found.reason is Reason.RECORD_COUNT_MISMATCH


def test_a_missing_field_is_not_made_up_for_by_delimiters_inside_values(tmp_path):
    found = refusal(tmp_path, HEADER + b'a\n"b,,",\nc,d\n', record_count=3)

    assert found.reason is Reason.RECORD_COUNT_MISMATCH


@given(cut=st.integers(0, 10_000))
def test_a_cut_file_never_passes(tmp_path_factory, cut):
    rows = [(str(number), 'x,"y"\nz') for number in range(20)] + [("last", None)]
    body = csv_file(table(column("n0"), column("n1")), rows)

    found = refusal(
        tmp_path_factory.mktemp("csv"), body[: cut % len(body)], record_count=len(rows), block_size=64
    )

    assert found.reason in {Reason.HEADER_MISMATCH, Reason.RECORD_COUNT_MISMATCH}


def test_a_refusal_does_not_quote_the_row(tmp_path):
    found = refusal(tmp_path, HEADER + b'secret,"value"secret\n')

    assert "secret" not in str(found)
    assert found.__cause__ is None
    assert found.__suppress_context__
