"""What every reader of a database promises, whatever carries its SQL: one suite, asked of all."""

import hmac
import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from support.databases import (
    PASSWORD,
    Source,
)
from support.extraction import (
    DROP,
    HMAC,
    KEEP,
    MASK_KEY,
    REDACT,
    WINDOW,
    WITHHOLD,
    column,
    updated_at,
)
from support.reading import (
    extract,
    is_mariadb,
    is_sqlite,
    make_changes,
    make_customers,
    reader_on,
    refusal,
)

from services.extractor.dialects import DialectName
from shared.domain.contracts import SourceKind
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import ConfigurationError, SourceUnavailable, Unavailable

# ---- rows and windows --------------------------------------------------------------------------------------


def test_a_table_without_a_cursor_is_read_whole(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES (1, 'a'), (2, NULL)")

    result, rows = extract(source, source.contract(column("id"), column("name")))

    assert sorted(rows) == [["1", "a"], ["2", None]]
    assert result.counts["rows_read"] == result.counts["rows_written"] == 2


def test_a_window_is_half_open_to_the_microsecond_and_reaches_back_by_the_overlap(source: Source) -> None:
    contract = make_changes(source)

    _, rows = extract(source, contract)

    assert sorted(row[0] for row in rows) == ["2", "3", "4"]
    assert {row[0]: (row[1] or "")[:26] for row in rows}["3"] == "2026-01-01 10:00:00.000001"


def test_a_first_window_has_no_lower_bound(source: Source) -> None:
    contract = make_changes(source)

    _, rows = extract(source, contract, window=Window(None, WINDOW.end))

    assert sorted(row[0] for row in rows) == ["1", "2", "3", "4"]


def test_an_extent_narrows_what_is_read(source: Source) -> None:
    contract = make_changes(source)

    with reader_on(source, contract) as reader:
        count = reader.count_rows(Window(None, WINDOW.end), extent=Extent("id", "2", "4"))
        with reader.open_snapshot(Window(None, WINDOW.end), extent=Extent("id", "2", "4")) as snapshot:
            records = b"".join(chunk.body for chunk in snapshot.read())

    assert count == 2
    assert sorted(line.split(b",")[0].strip(b'"') for line in records.splitlines()) == [b"2", b"3"]


def test_rows_of_a_window_are_counted_without_its_overlap_and_its_bounds_are_told(source: Source) -> None:
    contract = make_changes(source)

    with reader_on(source, contract) as reader:
        counts = reader.count_rows(), reader.count_rows(WINDOW)
        bounds = reader.cursor_bounds(WINDOW)

    assert counts == (5, 2)
    assert bounds is not None
    assert bounds.low == datetime(2026, 1, 1, 10, 0, 0, 1, tzinfo=UTC)
    assert bounds.high == datetime(2026, 1, 1, 23, 59, 59, 999999, tzinfo=UTC)


def test_rows_without_a_cursor_value_are_not_passed_over(source: Source) -> None:
    make_customers(source, f"updated_at {source.server.moment} NULL")
    source.run("INSERT INTO customers VALUES (1, NULL)")

    refused = refusal(
        source, source.contract(column("id"), column("updated_at", "timestamp"), cursor=updated_at())
    )

    assert refused.reason is Reason.NULL_CURSOR
    assert "'updated_at'" in refused.detail


def test_a_window_without_rows_makes_one_file_of_a_header(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")

    result, rows = extract(source, source.contract(column("id"), column("name")))

    assert (len(result.files), rows) == (1, [])


def test_all_is_read_from_one_snapshot(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({n}, 'before')" for n in range(500)))

    with (
        reader_on(source, source.contract(column("id"), column("name")), chunk_size_in_bytes=500) as reader,
        reader.open_snapshot(WINDOW) as snapshot,
    ):
        source.run("DELETE FROM customers", "INSERT INTO customers VALUES (0, 'after')")
        chunks = list(snapshot.read())

    assert sum(chunk.record_count for chunk in chunks) == snapshot.rows_read_count == 500
    assert len(chunks) > 1
    assert b"after" not in b"".join(chunk.body for chunk in chunks)


def test_everything_that_had_committed_by_the_snapshots_moment_is_in_it(source: Source) -> None:
    make_customers(source)
    contract = source.contract(column("id"))

    with reader_on(source, contract) as reader:
        for number in range(5):
            source.run(f"INSERT INTO customers VALUES ({number})")
            committed_at = reader.clock()
            with reader.open_snapshot(WINDOW) as snapshot:
                record_count = sum(chunk.record_count for chunk in snapshot.read())

            assert snapshot.taken_at >= committed_at
            assert record_count == number + 1


# ---- values ------------------------------------------------------------------------------------------------

NASTY = [None, "", "NULL", "null", "\\N", "\\.", " ", "\t", "a,b", '"', '""', "\n", "\r", "\r\n", "a\rb", "'; --",
         "\ufeffbom", "#x", "00123", "1e5", "\u2028", "😀", "e\u0301", "é", "\x01", "\x7f", "=1+1", "%s ? :p {}",
         "x" * 100_000, "😀" * 30_000, '"' * 50_000]  # fmt: skip


def literal(value: str | None, source: Source) -> str:
    """A text as SQL, without a backslash that MySQL would take for its own."""
    if value is None:
        return "NULL"
    if is_mariadb(source):
        return f"CONVERT(X'{value.encode().hex()}' USING utf8mb4)" if value else "''"
    return "'" + value.replace("'", "''") + "'"


@pytest.mark.parametrize("mask", [KEEP, REDACT], ids=["plain", "beside a masked column"])
def test_every_text_comes_as_it_is(source: Source, mask: Any) -> None:
    make_customers(source, f"secret {source.server.text}", f"name {source.server.text}")
    source.run(
        *(
            f"INSERT INTO customers VALUES ({n}, 's', {literal(value, source)})"
            for n, value in enumerate(NASTY)
        )
    )

    _, rows = extract(source, source.contract(column("id"), column("secret", mask=mask), column("name")))

    assert {int(row[0] or -1): row[2] for row in rows} == dict(enumerate(NASTY))


def test_one_column_of_nulls_is_carried_as_empty_lines(source: Source) -> None:
    source.run(f"CREATE TABLE customers (note {source.server.text})")
    source.run("INSERT INTO customers VALUES (NULL), (''), ('NULL'), (NULL)")

    result, rows = extract(source, source.contract(column("note")))

    assert sorted(rows, key=repr) == sorted([[None], [""], ["NULL"], [None]], key=repr)
    assert result.counts["rows_written"] == 4


def test_one_long_value_among_many_short_ones_is_not_cut(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({n}, 'short')" for n in range(300)))
    source.run(f"INSERT INTO customers VALUES (300, '{'long' * 500_000}')")

    _, rows = extract(source, source.contract(column("id"), column("name")))

    lengths = sorted(len(row[1] or "") for row in rows)
    assert lengths == [5] * 300 + [2_000_000]


def test_a_table_of_very_many_columns_is_read(source: Source) -> None:
    names = [f"c{number}" for number in range(400)]
    make_customers(source, *(f"{name} {source.server.integer}" for name in names))
    source.run(f"INSERT INTO customers VALUES (0, {', '.join(str(n) for n in range(400))})")

    _, rows = extract(source, source.contract(*(column(name) for name in names)))

    assert rows == [[str(number) for number in range(400)]]


HOSTILE_NAMES = ['a"b', "a`b", "a b; DROP TABLE customers; --", "%s %(x)s", "{}", "what?", ":p", "ä€", "SELECT", "MixedCase",
                 "mixedcase_", "'", "[x]", "a.b", "\\", "x" * 63, "é" * 31, "a\tb"]  # fmt: skip


def test_any_legal_name_is_carried(source: Source) -> None:
    # The ODBC driver of SQLite looks for semicolons and braces inside of quotes too; what it makes of them is an error.
    is_confused = is_sqlite(source) and source.kind is SourceKind.ODBC
    names = [name for name in HOSTILE_NAMES if not (is_confused and set(name) & set(";{"))]
    for name in names:
        source.run(f"CREATE TABLE {source.qualified(name)} ({source.quote(name)} {source.server.integer})")
        source.run(f"INSERT INTO {source.qualified(name)} VALUES (7)")

    found = {name: extract(source, source.contract(column(name), table=name))[1] for name in names}

    assert found == {name: [["7"]] for name in names}


def test_the_longest_name_is_carried(source: Source) -> None:
    name = "n" * (64 if is_mariadb(source) or is_sqlite(source) else 63)
    source.run(f"CREATE TABLE {source.qualified(name)} ({source.quote(name)} {source.server.integer})")

    _, rows = extract(source, source.contract(column(name), table=name))

    assert rows == []


def test_a_pseudonym_is_the_same_whatever_the_source(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES (1, 'Anna')")

    _, rows = extract(source, source.contract(column("name", mask=HMAC)))

    expected = hmac.new(MASK_KEY.encode(), b"customer\0Anna", sha256).hexdigest()
    assert rows == [[expected]]


# ---- what does not fit -------------------------------------------------------------------------------------


def test_what_does_not_leave_is_not_asked_for_and_what_is_new_is_withheld(source: Source) -> None:
    text = source.server.text
    make_customers(source, f"secret {text}", f"undecided {text}", f"arrived_later {text}")
    source.run("INSERT INTO customers VALUES (1, 'clear-secret', 'clear-undecided', 'clear-later')")
    contract = source.contract(column("id"), column("secret", mask=DROP), column("undecided", mask=WITHHOLD))

    result, rows = extract(source, contract)

    assert rows == [["1"]]
    assert "clear-" not in repr(result)
    assert {proof.column for proof in result.evidence} == {"id", "secret", "undecided", "arrived_later"}


def test_a_missing_table_is_refused(source: Source) -> None:
    refused = refusal(source, source.contract(column("id")))

    assert refused.reason is Reason.TABLE_MISSING
    assert "customers" in refused.detail


def test_all_columns_that_are_gone_are_named(source: Source) -> None:
    make_customers(source)

    refused = refusal(source, source.contract(column("id"), column("name"), column("email")))

    assert refused.reason is Reason.COLUMN_MISSING
    assert "'name'" in refused.detail
    assert "'email'" in refused.detail


def test_a_column_of_another_type_is_refused(source: Source) -> None:
    make_customers(source)

    refused = refusal(source, source.contract(column("id", source_type=source.server.text)))

    assert refused.reason is Reason.TYPE_CHANGED
    assert source.server.integer in refused.detail


def test_a_check_says_what_is_wrong_and_what_is_new(source: Source) -> None:
    contract = source.contract(column("id"), column("name"))

    with reader_on(source, contract) as reader:
        missing = reader.check()
        make_customers(source)
        wrong = reader.check()
        source.run("ALTER TABLE customers ADD COLUMN name " + source.server.text)
        source.run("ALTER TABLE customers ADD COLUMN more " + source.server.text)
        right = reader.check()

    assert [finding.is_ok for finding in missing] == [False]
    assert [finding.detail.split(":")[0] for finding in wrong] == ["column_missing"]
    assert [finding.is_ok for finding in right] == [True]
    assert "'more'" in right[0].detail


def test_a_view_is_read(source: Source) -> None:
    make_customers(source)
    source.run(
        "INSERT INTO customers VALUES (1), (2)", "CREATE VIEW newest AS SELECT id FROM customers WHERE id > 1"
    )

    _, rows = extract(source, source.contract(column("id"), table="newest"))

    assert rows == [["2"]]


# ---- outages -----------------------------------------------------------------------------------------------


def test_a_server_that_is_away_may_be_back_later(served: Source) -> None:
    with pytest.raises(SourceUnavailable, match="customers") as away:
        extract(served.at(served.address_of_nobody), served.contract(column("id")))

    assert PASSWORD not in str(away.value)


def test_a_wrong_password_is_told_and_not_shown(served: Source) -> None:
    with pytest.raises(SourceUnavailable, match="customers") as refused:
        extract(served.at(served.address_with_wrong_password), served.contract(column("id")))

    assert PASSWORD not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    "address", ["hidden;word}@/%", "Driver={none};PWD=hidden;word}@/%", "none+none://u:hidden@h/x"]
)
def test_an_address_that_leads_nowhere_is_named_and_not_shown(source: Source, address: str) -> None:
    with pytest.raises((ConfigurationError, SourceUnavailable)) as wrong:
        extract(source.at(address), source.contract(column("id")))

    assert "hidden" not in str(wrong.value)
    assert wrong.value.__suppress_context__ or wrong.value.__context__ is None


SLOW_VIEWS = {
    DialectName.POSTGRESQL: "CREATE VIEW customers AS SELECT 1 AS id FROM pg_sleep(60)",
    DialectName.MYSQL: "CREATE VIEW customers AS SELECT SLEEP(60) AS id",
    DialectName.SQLITE: "CREATE VIEW customers AS WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n) "
    "SELECT max(id) AS id FROM n",
}


def test_a_source_that_takes_too_long_is_left(source: Source) -> None:
    source.run(SLOW_VIEWS[source.server.dialect.name])
    began_at = time.monotonic()

    with pytest.raises(Unavailable, match=r"QueryCanceled|57014|1969|no answer in time"):
        extract(source, source.with_timeout(1).contract(column("id")))

    assert time.monotonic() - began_at < 40


def test_reading_can_be_left_in_the_midst(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({n}, '{'x' * 1000}')" for n in range(2000)))

    with reader_on(source, source.contract(column("id"), column("name")), chunk_size_in_bytes=1000) as reader:
        with reader.open_snapshot(WINDOW) as snapshot:
            chunks = snapshot.read()
            first = next(chunks)
            chunks.close()
        count = reader.count_rows()

    assert 0 < first.record_count < 2000
    assert count == 2000
