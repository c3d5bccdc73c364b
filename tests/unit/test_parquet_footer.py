"""The gate of `final/` sees from a footer alone whether a file is the one the ledger names."""

import io
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.process_batches import BUCKET, Scene, column, table

from shared.domain.batches import Stage
from shared.domain.contracts import ColumnKind, ColumnType
from shared.domain.files import Location
from shared.domain.reasons import Reason
from shared.errors import ObjectNotFound, Refused
from shared.object_store.memory import MemoryObjectStore
from shared.parquet_footer import (
    TAIL_SIZE_IN_BYTES,
    Footer,
    check_footer,
    expected_columns,
    footer_metadata,
    parquet_type,
    read_footer,
)

AT = Location(BUCKET, "final/x.parquet")
EVERY_KIND = table(
    *[column(kind, "decimal(12,2)" if kind is ColumnKind.DECIMAL else str(kind)) for kind in ColumnKind]
)
SCENE = Scene(EVERY_KIND, attempt=2)


def parquet(contract: Any = EVERY_KIND, record_count: int = 0) -> bytes:
    scene = Scene(contract, attempt=2)
    scene.add_rows(*[[None] * len(contract.columns)] * record_count)
    (file,) = scene.process().files
    return scene.store.read(file.location)


def read(body: bytes) -> Footer:
    store = MemoryObjectStore()
    store.overwrite(AT, body)
    return read_footer(store, AT, file_size_in_bytes=len(body))


def check(footer: Footer, **changes: Any) -> None:
    facts = {"location": AT, "contract": EVERY_KIND, "batch": SCENE.batch, "record_count": 3} | changes
    check_footer(footer, **facts)


def refusal_of(footer: Footer, **changes: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        check(footer, **changes)
    return caught.value


def right_footer() -> Footer:
    metadata = footer_metadata(batch=SCENE.batch, attempt=2, contract=EVERY_KIND, record_count=3)
    return Footer(3, expected_columns(EVERY_KIND), metadata)


def test_what_the_processor_writes_passes():
    check(read(parquet(record_count=3)))


def test_every_kind_has_a_parquet_type():
    assert [found for _, found in expected_columns(EVERY_KIND)] == [
        "string",
        "bool",
        "int16",
        "int32",
        "int64",
        "float",
        "double",
        "decimal128(12, 2)",
        "date32[day]",
        "timestamp[us]",
        "timestamp[us]",
        "string",
        "binary",
    ]


def test_only_the_tail_is_read():
    class CountingStore(MemoryObjectStore):
        def read(self, location: Location, *, start: int | None = None, length: int | None = None) -> bytes:
            body = super().read(location, start=start, length=length)
            sizes.append(len(body))
            return body

    sizes: list[int] = []
    store, sink = CountingStore(), io.BytesIO()
    pq.write_table(pa.table({"x": list(range(300_000))}), sink, compression="none", use_dictionary=False)
    store.overwrite(AT, sink.getvalue())

    footer = read_footer(store, AT, file_size_in_bytes=len(sink.getvalue()))

    assert footer.record_count == 300_000
    assert sizes == [TAIL_SIZE_IN_BYTES]


def test_a_footer_longer_than_the_tail_is_read_whole():
    contract = table(*[column(f"a column with a long name {number}" * 3) for number in range(1000)])

    footer = read(parquet(contract))

    assert footer.columns == expected_columns(contract)
    assert len(footer.metadata["esclusa.columns"]) > TAIL_SIZE_IN_BYTES


def _cut(body: bytes) -> bytes:
    return body[:-1]


def _grown(body: bytes) -> bytes:
    return body + b"\0"


def _length_beyond_the_file(body: bytes) -> bytes:
    return body[:-8] + (len(body)).to_bytes(4, "little") + b"PAR1"


def _length_in_gigabytes(body: bytes) -> bytes:
    return body[:-8] + b"\xff\xff\xff\xff" + b"PAR1"


def _no_length(body: bytes) -> bytes:
    return body[:-8] + bytes(4) + b"PAR1"


def _another_magic(body: bytes) -> bytes:
    return body[:-4] + b"PARE"


def _csv(body: bytes) -> bytes:
    return b'"a","b"\n1,2\n3,4\n'


def _empty(body: bytes) -> bytes:
    return b""


def _magic_only(body: bytes) -> bytes:
    return b"PAR1PAR1"


@pytest.mark.parametrize(
    "mangle",
    [
        _cut,
        _grown,
        _length_beyond_the_file,
        _length_in_gigabytes,
        _no_length,
        _another_magic,
        _csv,
        _empty,
        _magic_only,
    ],
)
def test_what_does_not_end_as_parquet_is_unreadable(mangle):
    with pytest.raises(Refused) as caught:
        read(mangle(parquet()))

    assert caught.value.reason is Reason.FOOTER_UNREADABLE
    assert str(AT) in caught.value.detail


@pytest.mark.parametrize("mangle", [_length_beyond_the_file, _length_in_gigabytes])
def test_a_footer_that_claims_too_much_is_not_read(mangle):
    with pytest.raises(Refused, match=r"its footer claims \d+ bytes, at most \d+ are possible"):
        read(mangle(parquet()))


def test_a_footer_that_contradicts_itself_is_unreadable():
    body = parquet(record_count=3)
    details = []
    # Somewhere there the number 3 stands twice, as Thrift writes it: for the file and for its row group.
    for position in range(len(body) - 8 - int.from_bytes(body[-8:-4], "little"), len(body) - 8):
        if body[position] == 6:
            with suppress(Refused):
                assert read(body[:position] + b"\x08" + body[position + 1 :]).record_count == 3
                continue
            with pytest.raises(Refused) as caught:
                read(body[:position] + b"\x08" + body[position + 1 :])
            details.append(type(caught.value.__cause__).__name__ + str(caught.value.__cause__))

    assert "ValueErrorthe file counts 4 records, its row groups 3" in details
    assert "ValueErrorthe file counts 3 records, its row groups 4" in details


@given(st.data())
def test_a_damaged_footer_is_refused_or_reads_as_something_but_never_breaks_the_gate(data):
    body = bytearray(DAMAGEABLE)
    for _ in range(data.draw(st.integers(1, 5))):
        body[data.draw(st.integers(4, len(body) - 9))] = data.draw(st.integers(0, 255))

    # Whatever else it raised would break the gate instead of refusing the file.
    with suppress(Refused):
        assert isinstance(read(bytes(body)), Footer)


DAMAGEABLE = parquet(record_count=2)


def test_a_missing_object_is_named():
    with pytest.raises(ObjectNotFound):
        read_footer(MemoryObjectStore(), AT, file_size_in_bytes=100)


def test_the_right_footer_passes():
    check(right_footer())


def test_another_record_count_is_refused():
    found = refusal_of(right_footer(), record_count=4)

    assert found.reason is Reason.RECORD_COUNT_MISMATCH
    assert "should have 4 records, its footer counts 3" in found.detail


@pytest.mark.parametrize(
    ("position", "wrong"),
    [
        (9, ("timestamp", "timestamp[ns]")),
        (9, ("timestamp", "timestamp[us, tz=UTC]")),
        (7, ("decimal", "decimal128(12, 3)")),
        (4, ("int64", "int32")),
        (0, ("String", "string")),
    ],
)
def test_another_column_is_refused_by_name(position, wrong):
    columns = list(right_footer().columns)
    columns[position] = wrong

    found = refusal_of(replace(right_footer(), columns=tuple(columns)))

    assert found.reason is Reason.FOOTER_MISMATCH
    assert repr(wrong[0]) in found.detail
    assert wrong[1] in found.detail


def test_missing_and_surplus_columns_are_refused():
    columns = right_footer().columns

    for wrong in (columns[:-1], (*columns, ("email", "string")), ()):
        assert refusal_of(replace(right_footer(), columns=wrong)).reason is Reason.FOOTER_MISMATCH


def test_columns_in_another_order_are_refused():
    columns = right_footer().columns

    found = refusal_of(replace(right_footer(), columns=columns[::-1]))

    assert found.reason is Reason.FOOTER_MISMATCH


@pytest.mark.parametrize("key", sorted(right_footer().metadata))
def test_a_footer_that_names_another_origin_is_refused(key):
    for metadata in (
        {**right_footer().metadata, key: "other"},
        {name: value for name, value in right_footer().metadata.items() if name != key},
    ):
        found = refusal_of(replace(right_footer(), metadata=metadata))

        assert found.reason is Reason.FOOTER_MISMATCH
        assert key in found.detail


def test_the_file_of_an_earlier_attempt_is_refused():
    later = replace(SCENE.batch, attempts={Stage.PROCESS: 3})

    assert refusal_of(right_footer(), batch=later).reason is Reason.FOOTER_MISMATCH


def test_a_moment_says_that_its_zone_is_utc():
    metadata = right_footer().metadata["esclusa.columns"]

    assert '{"name":"timestamptz","type":"timestamptz","zone":"UTC"}' in metadata
    assert '{"name":"timestamp","type":"timestamp"}' in metadata


def test_decimals_of_every_size_have_a_type_of_their_own():
    assert parquet_type(ColumnType.parse("decimal(38,38)")) == "decimal128(38, 38)"
