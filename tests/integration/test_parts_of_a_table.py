"""Tables cut into parts, and cursors that are days or numbers, on a real PostgreSQL server: every row is read once."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import psycopg
import pytest
from psycopg import conninfo
from support.extraction import column, make_assignment, make_contract

from services.extractor.backfill import backfill_parts
from services.extractor.extract import extract
from services.extractor.readers import CursorBounds, ReadLimits, SourceReader
from services.extractor.readers.postgres import PostgresReader
from services.extractor.scouting import SourceScout, parts_of
from shared.domain.contracts import Cursor, TableContract
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window, counted_windows
from shared.errors import ConfigurationError, Refused, SourceConflict
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets

END = datetime(2026, 3, 1, tzinfo=UTC)
WHOLE = Window(None, END)

MOMENTS = make_contract(
    [column("id", "int32"), column("seen", "timestamptz")],
    cursor=Cursor("seen", lag=timedelta(0), overlap=timedelta(minutes=5)),
)
DAYS = make_contract(
    [column("id", "int32"), column("seen", "date")],
    cursor=Cursor("seen", lag=timedelta(0), overlap=timedelta(0)),
)
NUMBERS = make_contract(
    [column("id", "int64"), column("name")],
    cursor=Cursor("id", lag=timedelta(0), overlap=timedelta(0), overlap_count=3),
)


@contextmanager
def reader_of(dsn: str, contract: TableContract, *statements: str) -> Iterator[SourceReader]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
    secrets = MemorySecrets({"env:SHOP_DSN": dsn})
    reader = PostgresReader(contract, secrets=secrets, limits=ReadLimits())
    try:
        yield reader
    finally:
        reader.close()


def ids(reader: SourceReader, window: Window, extent: Extent | None = None) -> list[int]:
    with reader.open_snapshot(window, extent=extent) as snapshot:
        body = b"".join(chunk.body for chunk in snapshot.read())
    return [int(line.split(",")[0]) for line in body.decode().splitlines()]


def without_overlap(contract: TableContract) -> TableContract:
    assert contract.cursor is not None
    return replace(contract, cursor=replace(contract.cursor, overlap=timedelta(0), overlap_count=0))


def row_ids(reader: SourceReader, windows: Sequence[Window]) -> list[int]:
    return sorted(row for window in windows for row in ids(reader, window))


def test_parts_hold_every_row_once_and_few_more_than_they_should(fresh_database: str) -> None:
    contract = without_overlap(MOMENTS)
    # Most rows lie in one week of ten years, as after a migration.
    table = (
        "CREATE TABLE customers AS SELECT i AS id, CASE WHEN i % 10 = 0 THEN '2016-01-01Z'::timestamptz + i * interval '4 hours' "
        "ELSE '2026-01-01Z'::timestamptz + i * interval '29 seconds' END AS seen FROM generate_series(1, 20000) i"
    )
    with reader_of(fresh_database, contract, table) as reader:
        parts = parts_of(reader, contract, WHOLE, rows_per_part=1_500)

        assert (parts[0].window.start, parts[-1].window.end) == (None, END)
        assert all(one.window.end == other.window.start for one, other in pairwise(parts))
        assert sum(part.row_count for part in parts) == 20_000
        assert max(part.row_count for part in parts) <= 1_500
        assert len(parts) < 30
        assert row_ids(reader, [part.window for part in parts]) == list(range(1, 20_001))


def test_rows_of_one_moment_stay_together(fresh_database: str) -> None:
    table = (
        "CREATE TABLE customers AS SELECT i AS id, '2026-01-01Z'::timestamptz + (i / 1000) * interval '1 day' AS seen "
        "FROM generate_series(0, 2999) i"
    )
    with reader_of(fresh_database, MOMENTS, table) as reader:
        parts = parts_of(reader, MOMENTS, WHOLE, rows_per_part=10)

        assert [part.row_count for part in parts] == [1_000, 1_000, 1_000]


def test_a_table_that_is_small_or_empty_is_one_part(fresh_database: str) -> None:
    table = "CREATE TABLE customers (id int, seen timestamptz)"
    with reader_of(fresh_database, MOMENTS, table) as reader:
        assert [part.window for part in parts_of(reader, MOMENTS, WHOLE, rows_per_part=10)] == [WHOLE]
    with reader_of(fresh_database, MOMENTS, "INSERT INTO customers VALUES (1, '2026-01-01Z')") as reader:
        assert [part.window for part in parts_of(reader, MOMENTS, WHOLE, rows_per_part=10)] == [WHOLE]


def test_moments_beyond_any_calendar_do_not_keep_a_table_from_being_cut(fresh_database: str) -> None:
    table = (
        "CREATE TABLE customers AS SELECT i AS id, '2026-01-01Z'::timestamptz + i * interval '1 minute' AS seen "
        "FROM generate_series(1, 100) i UNION ALL VALUES (101, '4714-11-24Z BC'::timestamptz), (102, '294276-12-31Z'), "
        "(103, 'infinity')"
    )
    with reader_of(fresh_database, MOMENTS, table) as reader:
        assert reader.cursor_bounds() == CursorBounds(
            datetime(2026, 1, 1, 0, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, 40, tzinfo=UTC)
        )
        parts = parts_of(reader, MOMENTS, WHOLE, rows_per_part=60)

        assert sum(part.row_count for part in parts) == 101


def test_a_first_load_that_cannot_be_counted_is_read_whole(fresh_database: str) -> None:
    contract = replace(MOMENTS, schedule=replace(MOMENTS.schedule, rows_per_part=1))
    secrets = MemorySecrets({"env:SHOP_DSN": fresh_database})

    with SourceScout([contract], secrets=secrets) as scout:
        assert scout.first_parts(contract, WHOLE) == [WHOLE]


def test_a_day_is_read_whole_whatever_the_hour(fresh_database: str) -> None:
    table = "CREATE TABLE customers AS SELECT i AS id, date '2026-01-01' + i / 3 AS seen FROM generate_series(0, 29) i"
    first = Window(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC))
    with reader_of(fresh_database, DAYS, table) as reader:
        assert ids(reader, first) == [3, 4, 5, 6, 7, 8]
        assert reader.count_rows(first) == 6
        overlapping = replace(DAYS, cursor=Cursor("seen", timedelta(0), overlap=timedelta(hours=1)))
    with reader_of(fresh_database, overlapping) as reader:
        assert ids(reader, first) == [0, 1, 2, 3, 4, 5, 6, 7, 8]
        parts = parts_of(reader, DAYS, WHOLE, rows_per_part=7)
        assert all(part.window.end.hour == 0 for part in parts)
        assert sum(part.row_count for part in parts) == 30


def test_numbers_are_read_from_a_bit_before_to_just_below(fresh_database: str) -> None:
    table = "CREATE TABLE customers AS SELECT i::bigint AS id, 'x' AS name FROM generate_series(1, 20) i"
    with reader_of(fresh_database, NUMBERS, table) as reader:
        assert reader.cursor_bounds() == CursorBounds(1, 20)
        assert ids(reader, WHOLE, Extent("id", "11", "16")) == list(range(8, 16))
        assert ids(reader, WHOLE, Extent("id", None, "4")) == [1, 2, 3]
        assert reader.count_rows(extent=Extent("id", "11", "16")) == 5
        extents = counted_windows("id", WHOLE, first=1, low=None, high=21, rows_per_part=6)
    with reader_of(fresh_database, without_overlap(NUMBERS)) as reader:
        read = [row for part in extents for row in ids(reader, part.window, part.extent)]
        assert read == list(range(1, 21))


def test_a_row_without_a_number_is_in_no_window_and_refused(fresh_database: str) -> None:
    table = "CREATE TABLE customers AS SELECT NULLIF(i, 3)::bigint AS id, 'x' AS name FROM generate_series(1, 5) i"
    with reader_of(fresh_database, NUMBERS, table) as reader, pytest.raises(Refused) as refused:
        ids(reader, WHOLE, Extent("id", "1", "6"))

    assert refused.value.reason is Reason.NULL_CURSOR


def test_a_backfill_is_cut_by_time_by_rows_or_by_numbers(fresh_database: str) -> None:
    table = (
        "CREATE TABLE customers AS SELECT i AS id, '2026-01-01Z'::timestamptz + i * interval '1 hour' AS seen "
        "FROM generate_series(0, 47) i"
    )
    january = datetime(2026, 1, 1, tzinfo=UTC)
    with reader_of(fresh_database, MOMENTS, table) as reader:

        def cut(start: datetime | None, end: datetime, chunk: timedelta | int | None) -> list[int | None]:
            parts = backfill_parts(MOMENTS, reader, start=start, end=end, chunk=chunk, watermark=END)
            return [part.row_count for part in parts]

        # On multiples of the chunk, as windows are.
        assert cut(None, january + timedelta(days=2), timedelta(hours=20)) == [4, 20, 20, 4]
        assert cut(january + timedelta(hours=1), january + timedelta(hours=7), timedelta(hours=3)) == [3, 3]
        assert sum(count or 0 for count in cut(None, END, 10)) == 48
        assert max(count or 0 for count in cut(None, END, 10)) <= 10
        assert cut(None, END, None) == [48]
        with pytest.raises(ConfigurationError, match="--from before --to"):
            cut(END, january, None)
        with pytest.raises(ConfigurationError, match="at most 10000 parts"):
            cut(january, END, timedelta(seconds=1))


def test_a_backfill_of_numbers_goes_from_a_number_to_a_number(fresh_database: str) -> None:
    table = "CREATE TABLE customers AS SELECT i::bigint AS id, 'x' AS name FROM generate_series(1, 20) i"
    with reader_of(fresh_database, NUMBERS, table) as reader:
        parts = backfill_parts(NUMBERS, reader, start=5, end=15, chunk=4, watermark=END)

        assert [(part.planned.extent, part.row_count) for part in parts] == [
            (Extent("id", "5", "9"), 4),
            (Extent("id", "9", "13"), 4),
            (Extent("id", "13", "15"), 2),
        ]
        with pytest.raises(ConfigurationError, match="from a number to a number"):
            backfill_parts(NUMBERS, reader, start=END, end=15, chunk=None, watermark=END)
        with pytest.raises(ConfigurationError, match="--from below --to"):
            backfill_parts(NUMBERS, reader, start=15, end=15, chunk=None, watermark=END)


def test_a_window_waits_for_a_transaction_that_wrote_and_is_still_open(fresh_database: str) -> None:
    table = "CREATE TABLE customers (id int PRIMARY KEY, seen timestamptz DEFAULT now())"
    contract = replace(MOMENTS, cursor=Cursor("seen", lag=timedelta(0), overlap=timedelta(0)))
    store, secrets = MemoryObjectStore(), MemorySecrets({"env:SHOP_DSN": fresh_database})
    with (
        reader_of(fresh_database, contract, table) as reader,
        psycopg.connect(fresh_database) as writer,
        psycopg.connect(fresh_database) as onlooker,
    ):
        onlooker.execute("SELECT count(*) FROM customers")
        assert reader.open_since() is None
        writer.execute("INSERT INTO customers (id) VALUES (1)")
        began = reader.open_since()
        assert began is not None
        window = Window(None, began + timedelta(microseconds=1))
        assignment = make_assignment(contract, window=window)

        with pytest.raises(SourceConflict, match="has written and is still open"):
            extract(assignment, reader=reader, store=store, secrets=secrets)
        writer.commit()

        assert reader.open_since() is None
        assert extract(assignment, reader=reader, store=store, secrets=secrets).counts["rows_written"] == 1


def test_a_role_that_sees_no_transactions_of_others_waits_for_none(fresh_database: str) -> None:
    table = "CREATE TABLE customers (id int PRIMARY KEY, seen timestamptz DEFAULT now())"
    with (
        reader_of(
            fresh_database,
            MOMENTS,
            table,
            "CREATE ROLE short_sighted LOGIN PASSWORD 'p'",
            "GRANT SELECT ON customers TO short_sighted",
        ),
        psycopg.connect(fresh_database) as writer,
    ):
        writer.execute("INSERT INTO customers (id) VALUES (1)")
        dsn = conninfo.make_conninfo(fresh_database, user="short_sighted", password="p")
        secrets = MemorySecrets({"env:SHOP_DSN": dsn})
        reader = PostgresReader(MOMENTS, secrets=secrets, limits=ReadLimits())
        try:
            assert reader.open_since() is None
        finally:
            reader.close()
