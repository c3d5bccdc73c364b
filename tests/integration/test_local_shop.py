"""What the sample shop promises: two fills are equal, every common type and every nasty value stands somewhere."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from local import shop
from local.postgres import EmbeddedPostgres
from local.processes import inherited_environment
from local.shop import DSN_VARIABLE, ShopSize, fill_shop, write_for

ANCHOR = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SMALL = ShopSize(customers=3_000, products=150, orders=3_000)
TABLES = ("customers", "products", "orders", "order_items")

COMMON_TYPES = {
    *(
        "smallint",
        "integer",
        "bigint",
        "numeric",
        "real",
        "double precision",
        "boolean",
        "text",
        "character varying",
    ),
    *(
        "character",
        "date",
        "timestamp without time zone",
        "timestamp with time zone",
        "time without time zone",
    ),
    *("interval", "uuid", "json", "jsonb", "bytea", "ARRAY", "USER-DEFINED", "inet"),
}


@pytest.fixture(scope="module")
def filled(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """A small shop that no test changes."""
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE shop_to_read")
    dsn = postgres_server.dsn("shop_to_read")
    assert fill_shop(dsn, size=SMALL, anchor=ANCHOR)
    yield dsn
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE shop_to_read WITH (FORCE)")


def ask(dsn: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query).fetchall()


def digests(dsn: str) -> list[tuple[object, ...]]:
    return [
        row
        for table in TABLES
        for row in ask(
            dsn, f"SELECT count(*), md5(string_agg(row::text, E'\\n' ORDER BY row::text)) FROM {table} AS row"
        )
    ]


def test_two_fills_with_one_anchor_are_equal(filled: str, fresh_database: str) -> None:
    fill_shop(fresh_database, size=SMALL, anchor=ANCHOR)

    assert digests(fresh_database) == digests(filled)


def test_filling_again_changes_nothing(filled: str) -> None:
    before = digests(filled)

    assert not fill_shop(filled, size=SMALL, anchor=ANCHOR)

    assert digests(filled) == before


def test_a_fill_that_breaks_off_leaves_nothing_half_done(
    fresh_database: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = tmp_path_factory.mktemp("seed") / "seed.sql"
    broken.write_text("INSERT INTO products (product_id) VALUES (1)")
    with monkeypatch.context() as patched:
        patched.setattr(shop, "SEED_FILE", broken)
        with pytest.raises(psycopg.errors.NotNullViolation):
            fill_shop(fresh_database, size=SMALL)

    assert fill_shop(fresh_database, size=SMALL)


def test_the_default_size_is_what_the_demo_promises() -> None:
    assert ShopSize().orders >= 200_000
    assert ShopSize().customers >= 20_000
    assert ShopSize().products >= 500


def test_the_tables_hold_the_rows_asked_for(filled: str) -> None:
    assert [ask(filled, f"SELECT count(*) FROM {table}") for table in TABLES] == [
        [(3_000,)],
        [(150,)],
        [(3_000,)],
        [(6_000,)],
    ]


def test_every_common_type_stands_somewhere(filled: str) -> None:
    types = {
        name
        for (name,) in ask(
            filled, "SELECT data_type FROM information_schema.columns WHERE table_schema = 'public'"
        )
    }

    assert types >= COMMON_TYPES


def test_products_bear_no_time_of_change_and_items_have_two_key_columns(filled: str) -> None:
    columns = ask(filled, "SELECT column_name FROM information_schema.columns WHERE table_name = 'products'")
    key = ask(
        filled,
        "SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) "
        "WHERE i.indrelid = 'order_items'::regclass AND i.indisprimary ORDER BY 1",
    )

    assert ("updated_at",) not in columns
    assert key == [("line_no",), ("order_id",)]


@pytest.mark.parametrize("table", ["customers", "orders", "order_items"])
def test_changes_lie_in_the_90_days_before_the_anchor(filled: str, table: str) -> None:
    ((first, last, distinct, total),) = ask(
        filled, f"SELECT min(updated_at), max(updated_at), count(DISTINCT updated_at), count(*) FROM {table}"
    )

    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    assert ANCHOR - timedelta(days=90) <= first < ANCHOR - timedelta(days=85)
    assert ANCHOR - timedelta(days=5) < last < ANCHOR
    # Some rows share their moment: a cursor alone does not tell them apart.
    assert isinstance(distinct, int)
    assert isinstance(total, int)
    assert distinct < total


@pytest.mark.parametrize(
    "value",
    [
        "",
        "NULL",
        "null",
        "\\N",
        "\\.",
        " ",
        '"',
        '""',
        "'",
        "two\nlines",
        "carriage\r\nreturn",
        "=1+1",
        "007",
        "NaN",
        "北京",
        "🚚📦",
        "e\u0301 is not é",
        "zero\u200bwidth",
        "; DROP TABLE orders; --",
        "back\\slash",
        "%s %(name)s {}",
        "long " * 2_000,
    ],
)
def test_the_notes_hold_what_breaks_careless_readers(filled: str, value: str) -> None:
    with psycopg.connect(filled) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM customers WHERE notes = %s", [value]
        ).fetchone() or (0,)

    assert count > 0


def test_null_empty_and_the_text_null_are_three_things(filled: str) -> None:
    ((absent, empty, text),) = ask(
        filled,
        "SELECT count(*) FILTER (WHERE email IS NULL), count(*) FILTER (WHERE email = ''), "
        "count(*) FILTER (WHERE email = 'NULL') FROM customers",
    )

    assert (absent, empty, text) == (60, 57, 54)


def test_the_extremes_of_number_types_are_there(filled: str) -> None:
    (extremes,) = ask(
        filled,
        "SELECT (SELECT max(total_amount) FROM orders)::text, (SELECT min(exchange_rate) FROM orders)::text, "
        "(SELECT max(exchange_rate) FROM orders)::text, (SELECT min(loyalty_points) FROM customers)::text, "
        "(SELECT max(cost_exact) FROM products)::text",
    )

    assert extremes == (
        *("9999999999.99", "5e-324", "1.7976931348623157e+308", "-32768"),
        "12345678901234567890.123456789012345678",
    )


def test_the_writer_makes_every_kind_of_change(fresh_database: str) -> None:
    fill_shop(fresh_database, size=SMALL)
    started = datetime.now(UTC)

    written = write_for(fresh_database, seconds=4, seed=11, rows_per_second=150, late_commit_seconds=0.5)

    ((orders, items, touched, products),) = ask(
        fresh_database,
        f"SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM order_items), "
        f"(SELECT count(*) FROM orders WHERE updated_at >= '{started.isoformat()}' AND order_id <= 3000), "
        f"(SELECT count(*) FROM products)",
    )
    assert (
        min(
            written.inserted,
            written.updated,
            written.soft_deleted,
            written.products_deleted,
            written.late_commits,
        )
        > 0
    )
    assert orders == 3_000 + written.inserted + written.late_commits
    assert items == 6_000 + 2 * (written.inserted + written.late_commits)
    assert products == 150 - written.products_deleted
    assert isinstance(touched, int)
    assert 0 < touched <= written.updated + written.soft_deleted


def test_a_late_commit_shows_rows_older_than_some_seen_before(fresh_database: str) -> None:
    fill_shop(fresh_database, size=SMALL)
    with psycopg.connect(fresh_database) as connection:
        connection.execute(
            "CREATE TABLE seen (order_id bigint, updated_at timestamptz, committed_at timestamptz)"
        )
        connection.execute(
            "CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO seen VALUES (new.order_id, new.updated_at, clock_timestamp()); RETURN NULL; END $$"
        )
        connection.execute(
            "CREATE CONSTRAINT TRIGGER remember AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION remember()"
        )

    written = write_for(fresh_database, seconds=4, seed=1, rows_per_second=20, late_commit_seconds=1.5)

    overtaken = ask(
        fresh_database,
        "SELECT DISTINCT late.order_id FROM seen AS late JOIN seen AS early "
        "ON early.updated_at > late.updated_at AND early.committed_at < late.committed_at "
        "WHERE late.committed_at - late.updated_at > interval '1.4 seconds'",
    )
    assert written.late_commits > 0
    assert len(overtaken) == written.late_commits


def test_the_writer_runs_as_a_command_and_tells_what_it_wrote(fresh_database: str) -> None:
    fill_shop(fresh_database, size=SMALL)

    writer = subprocess.run(
        [sys.executable, "-m", "local.shop", "writer", "--seconds", "1", "--seed", "5"],
        env=inherited_environment() | {DSN_VARIABLE: fresh_database},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    written = json.loads(writer.stdout)
    assert written["inserted"] > 0
    assert ask(fresh_database, "SELECT count(*) FROM orders") == [
        (3_000 + written["inserted"] + written["late_commits"],)
    ]


def test_the_writer_without_an_address_says_which_variable_it_wants() -> None:
    writer = subprocess.run(
        [sys.executable, "-m", "local.shop", "writer"],
        env={name: text for name, text in inherited_environment().items() if name != DSN_VARIABLE},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert writer.returncode == 2
    assert f"the environment variable {DSN_VARIABLE} must hold the address of the shop" in writer.stderr
