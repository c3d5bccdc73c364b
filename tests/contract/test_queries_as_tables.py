"""A query in the place of a table: read, described and refused alike, whatever carries its SQL."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from support.databases import MariaDbDatabase, PostgresDatabase, Source
from support.extraction import HMAC, KEEP, WINDOW, column, updated_at
from support.reading import (
    FEWER_WAYS,
    extract,
    is_mariadb,
    is_sqlite,
    make_changes,
    make_customers,
    reader_on,
    refusal,
    source_by,
)

from shared.catalog.queries import parse_query
from shared.domain.contracts import Column, Cursor, SourceKind, TableContract, keys_of
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window

AFTER_AN_ALTER = timedelta(seconds=0.3)


@pytest.fixture(params=FEWER_WAYS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A fresh database, and one of the ways to read it."""
    with source_by(request, tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def _may_be_described(request: pytest.FixtureRequest) -> None:
    """MySQL describes a query by a table of the session's own."""
    server = request.getfixturevalue("source").server
    if isinstance(server, MariaDbDatabase):
        server.run(f"GRANT CREATE TEMPORARY TABLES ON {server.schema}.* TO {server.reader}@'%'")


def querying(source: Source, text: str, *columns: Column, cursor: Cursor | None = None) -> TableContract:
    """The contract of a query; its cursor is bound as the product's moments or integers are."""
    bound = source.server.bigint if cursor and cursor.column == "id" else source.server.moment
    contract = source.contract(*columns, cursor=cursor)
    product = str(source.server.dialect.name)
    return replace(contract, relation=(), query=parse_query(text, product=product, bound_type=bound))


def changes(source: Source, text: str) -> TableContract:
    """The contract of a query on a table with a row at each of `MOMENTS`."""
    of_table = make_changes(source)
    return querying(source, text, *of_table.columns, cursor=of_table.cursor)


BOUND = """
SELECT c.id, c.updated_at
FROM customers AS c
WHERE c.updated_at >= :window_start AND c.updated_at < :window_end AND ':window_start' <> c.id
"""


def test_a_window_of_a_query_is_that_of_a_table(source: Source) -> None:
    _, rows = extract(source, changes(source, BOUND.replace("<> c.id", "<> ''")))

    assert sorted(row[0] for row in rows) == ["2", "3", "4"]


def test_the_window_holds_whether_or_not_the_query_names_it(source: Source) -> None:
    contract = changes(source, "SELECT c.id, c.updated_at FROM customers c")

    _, rows = extract(source, contract)

    assert sorted(row[0] for row in rows) == ["2", "3", "4"]


def test_what_is_bound_where_there_is_no_bound_leaves_nothing_out(source: Source) -> None:
    contract = changes(source, BOUND.replace("<> c.id", "<> ''"))

    _, first = extract(source, contract, window=Window(None, WINDOW.end))
    _, keys = extract(source, keys_of(contract), window=Window(None, WINDOW.end))
    with reader_on(source, contract) as reader:
        counts = reader.count_rows(), reader.count_rows(WINDOW)
        bounds = reader.cursor_bounds()

    assert sorted(row[0] for row in first) == ["1", "2", "3", "4"]
    assert sorted(row[0] for row in keys) == ["1", "2", "3", "4", "5"]
    assert counts == (5, 2)
    assert bounds is not None


def test_numbers_of_a_cursor_that_counts_are_bound_too(source: Source) -> None:
    make_customers(source)
    source.run("INSERT INTO customers VALUES (1), (2), (3), (4)")
    # Cast, so that what is bound may be larger than what the column holds.
    text = "SELECT c.id FROM customers c WHERE c.id >= :window_start AND c.id < :window_end"
    cursor = Cursor("id", lag=timedelta(0), overlap=timedelta(0))
    contract = querying(source, text, column("id", "int64"), cursor=cursor)

    with reader_on(source, contract) as reader:
        extent = Extent("id", "2", "4")
        counts = reader.count_rows(WINDOW, extent=extent), reader.count_rows()
        with reader.open_snapshot(WINDOW, extent=extent) as snapshot:
            records = b"".join(chunk.body for chunk in snapshot.read())

    assert counts == (2, 4)
    assert sorted(line.strip(b'"') for line in records.splitlines()) == [b"2", b"3"]


def test_a_query_may_join_add_up_and_name_columns_as_it_likes(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES (1, 'a;\"''%s {} \\'), (1, NULL), (2, 'NULL')" if not is_mariadb(source)
               else "INSERT INTO customers VALUES (1, 'a;\"''%s {} '), (1, NULL), (2, 'NULL')")  # fmt: skip
    odd = source.quote("odd %s name")
    text = f"""
        WITH named AS (SELECT id, max(name) AS top FROM customers WHERE name <> 'a -- /* ; :x' OR name IS NULL GROUP BY id)
        SELECT n.id, count(*) AS {odd}, max(n.top) AS top
        FROM named AS n JOIN customers AS c ON c.id = n.id GROUP BY n.id
    """
    columns = column("id"), column("odd %s name"), column("top")
    if is_sqlite(source) and source.kind is SourceKind.ODBC:
        text = text.replace("; ", "")  # its driver looks for semicolons inside of quotes too

    _, rows = extract(source, querying(source, text, *columns))

    assert sorted((row[0], row[1]) for row in rows) == [("1", "2"), ("2", "1")]
    assert "NULL" in [row[2] for row in rows]


def test_values_and_pseudonyms_are_those_of_a_table(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    source.run("INSERT INTO customers VALUES (1, 'Anna'), (2, ''), (3, NULL)")
    columns = column("id"), column("name", mask=HMAC)

    _, by_table = extract(source, source.contract(*columns))
    _, by_query = extract(source, querying(source, "SELECT id, name FROM customers", *columns))

    assert sorted(by_query, key=repr) == sorted(by_table, key=repr)


def test_the_columns_of_a_query_are_described_without_reading_a_row(source: Source) -> None:
    make_customers(source, f"name {source.server.text}", f"seen {source.server.moment}")
    text = "SELECT id, name, seen FROM customers"
    words = source.server.integer, source.server.text, source.server.moment.replace("(6) w", " w")
    contract = querying(
        source,
        text,
        column("id", source_type=words[0]),
        column("name", source_type=words[1]),
        column("seen", "timestamp", source_type=words[2]),
    )

    with reader_on(source, contract) as reader:
        drift = reader.drift()
        findings = reader.check()

    assert (drift.held, drift.applied) == ((), ())
    assert [finding.is_ok for finding in findings] == [True]


def test_another_type_or_a_column_that_is_gone_holds_a_query_and_a_new_one_is_withheld(
    source: Source,
) -> None:
    make_customers(source, f"name {source.server.text}")
    text = "SELECT * FROM customers"
    another = refusal(source, querying(source, text, column("id", source_type=source.server.text)))
    gone = refusal(source, querying(source, text, column("id"), column("email")))

    result, _ = extract(source, querying(source, text, column("id")))

    assert (another.reason, gone.reason) == (Reason.TYPE_CHANGED, Reason.COLUMN_MISSING)
    assert {proof.column: str(proof.mask) for proof in result.evidence}["name"] == "withhold"


def test_a_schema_that_changes_while_a_query_is_read_is_noticed(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    contract = querying(source, "SELECT * FROM customers", column("id"))

    with reader_on(source, contract) as reader, reader.open_snapshot(WINDOW) as snapshot:
        list(snapshot.read())
        alter = "ALTER TABLE customers ADD COLUMN more integer"
        if not is_sqlite(source):
            # Servers hold what is read: it cannot be changed meanwhile.
            wait = "SET SESSION lock_wait_timeout = 1" if is_mariadb(source) else "SET lock_timeout = '200ms'"
            with pytest.raises(Exception, match=r"(?i)lock"):
                source.run(wait, alter)
            return
        source.run(alter)
        assert snapshot.current_fingerprint() != snapshot.fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("SELECT id, id FROM customers", "id"),
        ("SELECT missing_function(id) AS id FROM customers", "missing_function"),
        ("SELECT FROM WHERE id", "syntax"),
    ],
)
def test_a_query_that_the_server_does_not_take_is_refused_in_its_words(
    source: Source, text: str, said: str
) -> None:
    make_customers(source)
    if is_sqlite(source) and text == "SELECT id, id FROM customers":
        pytest.skip("SQLite itself calls the second id:1")

    refused = refusal(source, querying(source, text, column("id")))

    assert refused.reason in {Reason.QUERY_INVALID, Reason.TABLE_MISSING}
    assert said in refused.detail


def test_a_query_on_a_table_that_is_missing_says_which(source: Source) -> None:
    refused = refusal(source, querying(source, "SELECT id FROM nowhere_to_be", column("id")))

    assert "nowhere_to_be" in refused.detail


def test_nothing_is_written_by_a_query_whatever_it_calls(source: Source) -> None:
    make_customers(source)
    if not isinstance(source.server, PostgresDatabase):
        pytest.skip("only PostgreSQL's functions write in a SELECT")
    source.run(
        "CREATE FUNCTION sly() RETURNS integer LANGUAGE sql VOLATILE SECURITY DEFINER "
        "AS 'INSERT INTO public.customers VALUES (7) RETURNING id'",
        "INSERT INTO customers VALUES (1)",
    )

    with pytest.raises(Exception, match=r"25006|ReadOnly"):
        extract(source, querying(source, "SELECT public.sly() AS id FROM public.customers", column("id")))

    with reader_on(source, source.contract(column("id"))) as reader:
        assert reader.count_rows() == 1


def test_a_table_that_is_emptied_while_a_query_begins_is_not_taken_for_an_empty_one(
    source: Source,
) -> None:
    """A TRUNCATE that commits between snapshot and lock would make every row vanish: the query waits for it before."""
    if not isinstance(source.server, PostgresDatabase):
        pytest.skip("only PostgreSQL locks what it reads behind the snapshot")
    make_customers(source)
    source.run("INSERT INTO customers VALUES (1), (2)")
    contract = querying(source, "SELECT id FROM public.customers", column("id"))

    def emptied() -> Iterator[None]:
        with psycopg.connect(source.server._dsn) as other:  # type: ignore[attr-defined]
            other.execute("TRUNCATE customers")
            yield
            other.execute("INSERT INTO customers VALUES (3)")
            other.commit()
            yield

    steps = emptied()
    next(steps)
    with ThreadPoolExecutor() as beside:
        read = beside.submit(extract, source, contract)
        time.sleep(AFTER_AN_ALTER.total_seconds())
        next(steps)
        _, rows = read.result()

    assert rows == [["3"]]


@pytest.mark.parametrize("value", ["2026-01-01'; DROP TABLE customers; --", "') OR (1=1", "%s", "\\'"])
def test_no_text_ever_takes_the_place_of_a_placeholder(source: Source, value: str) -> None:
    """Only typed values of ours are bound: a range of another column, whose ends are texts, is not among them."""
    contract = changes(source, BOUND.replace("<> c.id", "<> ''"))
    text_of_customers = make_named(source, value)

    with reader_on(source, contract) as reader:
        assert reader.count_rows(Window(None, WINDOW.end)) == 4
    by_name = querying(source, "SELECT id, name FROM named", column("id"), column("name", mask=KEEP))
    with reader_on(source, by_name) as reader:
        assert reader.count_rows(extent=Extent("name", value, None)) == text_of_customers


def make_named(source: Source, value: str) -> int:
    """A table of two names, one of them a hostile one; returns how many are at or behind it."""
    source.run(f"CREATE TABLE named (id {source.server.integer} NOT NULL, name {source.server.text})")
    spelt = value.replace("'", "''")
    spelt = spelt.replace("\\", "\\\\") if is_mariadb(source) else spelt
    source.run(f"INSERT INTO named VALUES (1, '{spelt}'), (2, NULL)")
    return 1


def test_the_cursor_of_a_query_is_never_null(source: Source) -> None:
    make_customers(source, f"updated_at {source.server.moment} NULL")
    source.run("INSERT INTO customers VALUES (1, NULL)")
    contract = querying(
        source,
        "SELECT id, updated_at FROM customers",
        column("id"),
        column("updated_at", "timestamp"),
        cursor=updated_at(),
    )

    assert refusal(source, contract).reason is Reason.NULL_CURSOR
