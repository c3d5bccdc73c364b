"""Records of databases over SQL: those that the server wrote, and those that are made of its values."""

from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extraction import KEEP, REDACT, column, make_contract

from services.extractor.dialects import DialectName
from services.extractor.dialects.registry import dialect_of
from services.extractor.readers import Chunk, SourceColumn
from services.extractor.readers.sql.records import RecordQuery, chunks_of
from shared.csv_dialect import record_line
from shared.domain.contracts import Mask
from shared.domain.reasons import Reason
from shared.errors import Refused

Value = str | None

TEXTS = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), st.sampled_from(',"\n\r\ufeff')
    )
)
VALUES = st.one_of(st.none(), st.sampled_from(["", "NULL", '"', ",", "\n"]), TEXTS)


def a_query(masks: Sequence[Mask], *, of_records: bool = True) -> RecordQuery:
    names = [f"c{number}" for number in range(len(masks))]
    contract = make_contract([column(name, mask=mask) for name, mask in zip(names, masks, strict=True)])
    query = RecordQuery(
        contract,
        dialect=dialect_of(DialectName.MYSQL if of_records else DialectName.SQLSERVER),
        columns=[SourceColumn(name, "longtext" if of_records else "nvarchar(50)") for name in names],
        conditions=[],
        place="here",
    )
    assert query.is_of_records is of_records
    return query


def a_batch(*columns: Sequence[Value], type_: pa.DataType | None = None) -> pa.RecordBatch:
    arrays = [pa.array(found, type_ or pa.string()) for found in columns]
    return pa.record_batch(arrays, names=[f"c{number}" for number in range(len(arrays))])


def read(
    batches: Sequence[pa.RecordBatch], query: RecordQuery, *, size_in_bytes: int = 1 << 20
) -> list[Chunk]:
    return list(chunks_of(batches, query=query, size_in_bytes=size_in_bytes))


@pytest.mark.parametrize(
    "record",
    [
        "1,a,b,c\n",
        "1,a\n",
        '1,a,b"\n',
        '1,"a,b\n',
        '1,a"b"c,d\n',
        '1,"a"b,c\n',
        "1,a,b\n2,c,d\n",
        "1,a,b\n\n",
        "\n",
        '1,a,"b",\n',
    ],
)
@pytest.mark.parametrize("place", range(3))
def test_records_that_lost_their_quotes_are_refused_where_anything_is_masked(record: str, place: int) -> None:
    query = a_query([REDACT if number == place else KEEP for number in range(3)])

    with pytest.raises(Refused) as refused:
        read([a_batch(["1,2,3\n", record])], query)

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "its quotes were lost" in str(refused.value)


@pytest.mark.parametrize("record", [None, "", "1,2,3", "1,2,", "1,\0,3\n"])
@pytest.mark.parametrize("mask", [KEEP, REDACT])
def test_records_that_came_cut_are_refused(record: Value, mask: Mask) -> None:
    query = a_query([KEEP, mask, KEEP])

    with pytest.raises(Refused) as refused:
        read([a_batch(["1,2,3\n", record])], query)

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=20), st.integers(1, 200), st.integers(1, 7)
)
@settings(max_examples=200, deadline=None)
def test_records_of_the_server_are_taken_as_they_are_in_whatever_batches(
    rows: list[list[Value]], size_in_bytes: int, batch_size: int
) -> None:
    records = [record_line(row) for row in rows]
    whole = a_batch([record.decode() for record in records])
    batches = [whole.slice(at, batch_size) for at in range(0, len(rows), batch_size)]

    chunks = read(
        [whole.slice(0, 0), *batches, whole.slice(0, 0)],
        a_query([KEEP, REDACT, KEEP]),
        size_in_bytes=size_in_bytes,
    )

    assert_records(chunks, records)


@given(
    st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=20), st.integers(1, 200), st.integers(1, 7)
)
@settings(max_examples=200, deadline=None)
def test_values_are_written_as_records_in_whatever_batches(
    rows: list[list[Value]], size_in_bytes: int, batch_size: int
) -> None:
    whole = a_batch(*([row[number] for row in rows] for number in range(3)))
    batches = [whole.slice(at, batch_size) for at in range(0, len(rows), batch_size)]

    chunks = read(
        [whole.slice(0, 0), *batches], a_query([KEEP] * 3, of_records=False), size_in_bytes=size_in_bytes
    )

    assert_records(chunks, [record_line(row) for row in rows])


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_texts_of_any_layout_of_arrow_are_read(type_: pa.DataType) -> None:
    records = a_batch(["skipped\n", '1,"a,b",3\n', "4,5,6\n"], type_=type_).slice(1)
    values = a_batch(["skipped", "1"], ["skipped", "a,b"], ["skipped", None], type_=type_).slice(1)

    assert_records(read([records], a_query([KEEP, REDACT, KEEP])), [b'1,"a,b",3\n', b"4,5,6\n"])
    assert_records(read([values], a_query([KEEP] * 3, of_records=False)), [b'1,"a,b",\n'])


def test_the_widest_records_are_looked_through() -> None:
    query = a_query([REDACT] * 1600)
    record = '"a,b",' * 1599 + '"a,b"\n'

    assert_records(read([a_batch([record])], query), [record.encode()])
    with pytest.raises(Refused):
        read([a_batch([f"x,{record}"])], query)


def assert_records(chunks: Sequence[Chunk], records: Sequence[bytes]) -> None:
    found = [
        bytes(chunk.body[begin:end])
        for chunk in chunks
        for begin, end in zip(chunk.offsets[:-1], chunk.offsets[1:], strict=True)
    ]
    assert found == list(records)
    assert all(chunk.record_count for chunk in chunks)
