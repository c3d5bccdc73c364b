"""What the warehouse in PostgreSQL promises beyond the port: types, views, refusals, queries, crashes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal

import polars as pl
import psycopg
import pytest
import structlog
from psycopg import sql
from support.publish_batches import (
    APPEND,
    MERGE,
    REPLACE,
    BreakingStore,
    Published,
    at,
    column,
    contract_of,
    load_and_hang,
    write_file,
)

from local.ports import find_free_port
from services.publisher import postgres_load
from services.publisher.postgres import PostgresWarehouse
from services.publisher.warehouse import QueryFailed
from shared.domain.contracts import MaskKind, PublishMode, keys_of
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, Refused, Unavailable
from shared.object_store.memory import MemoryObjectStore

ANNA, BERT = (1, "Anna", at(1)), (2, "Bert", at(2))


@pytest.fixture
def published(fresh_database: str) -> Published:
    store = MemoryObjectStore()
    return Published(PostgresWarehouse(fresh_database, store=store), store, fresh_database)


def rows_of(published, query, *values):
    with published.connect() as connection:
        return connection.execute(query, values).fetchall()


def execute(published, statements):
    with published.connect() as connection:
        connection.execute(statements)


# ---- values --------------------------------------------------------------------------------------------------


# Moments stand in Parquet without a zone.
# ruff: noqa: DTZ001
VALUES = {
    "string": ["", "NULL", "\\N", "\\.", 'say "hi", ok', "two\nlines\r\nand\rmore", " pad ", "'", "\U0001f600 é", "\\x41"],
    "boolean": [True, False],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "float32": [0.5, -0.0, float("inf"), float("-inf"), 3.4028234663852886e38, 1.401298464324817e-45],
    "float64": [0.1, 5e-324, 1.7976931348623157e308, float("inf"), 1e22],
    "decimal(38,2)": [Decimal("999999999999999999999999999999999999.99"), Decimal("-0.01"), Decimal("1.50")],
    "decimal(20,0)": [Decimal(10**20 - 1)],
    "date": [date(1, 1, 1), date(9999, 12, 31), date(2024, 2, 29)],
    "timestamp": [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(1969, 12, 31, 23, 59, 59, 1)],
    "timestamptz": [datetime(1, 1, 1), datetime(2026, 3, 29, 1, 30, 0, 1), datetime(9999, 12, 31)],
    "json": ['{"b": 1, "a": 1.0, "a":  [null, "\\u00e9"]}', '""', "null", "12345678901234567890.10"],
    "binary": [b"", b"\x00\xff\\", b"text"],
}  # fmt: skip


@pytest.mark.parametrize("kind", VALUES)
def test_every_value_of_every_kind_arrives_as_it_was(published, kind):
    values = [*VALUES[kind], None]
    contract = contract_of(column("id", "int32"), column("value", kind), cursor=None)

    published.load(list(enumerate(values)), contract)

    # psycopg reads a real by its shortest text, and parses json.
    cast = {"json": "text", "float32": "float8"}.get(kind)
    selected = f"value::{cast}" if cast else "value"
    found = [value for _, value in sorted(rows_of(published, f"SELECT id, {selected} FROM shop.orders"))]
    expected = [
        value.replace(tzinfo=found[0].tzinfo) if kind == "timestamptz" and value else value
        for value in values
    ]
    assert found == expected
    assert [str(value) for value in found] == [str(value) for value in expected]


def test_a_table_of_one_column_keeps_null_empty_and_the_end_of_data_mark_apart(published):
    contract = contract_of(column("value"), mode=PublishMode.APPEND, key=(), cursor=None)

    published.load([("",), (None,), ("\\.",), ("",)], contract)

    assert published.rows() == [("",), ("",), ("\\.",), (None,)]


@pytest.mark.parametrize(
    ("kind", "microseconds_or_days", "expected"),
    [
        ("timestamp", 253_402_300_800_000_000, "10000-01-01 00:00:00"),
        ("timestamp", -62_135_596_800_000_001, "0001-12-31 23:59:59.999999 BC"),
        ("date", 2_932_897, "10000-01-01"),
        ("date", -719_163, "0001-12-31 BC"),
    ],
)
def test_moments_beyond_the_calendar_of_python_arrive(published, kind, microseconds_or_days, expected):
    contract = contract_of(column("id", "int32"), column("value", kind), cursor=None)

    published.load([(1, microseconds_or_days), (2, 0)], contract)

    assert rows_of(published, "SELECT value::text FROM shop.orders WHERE id = 1") == [(expected,)]


def test_a_value_that_the_warehouse_cannot_hold_refuses_the_batch_by_column_and_without_the_value(published):
    contract = contract_of(column("id", "int32"), column("extra: x", "json"), cursor=None)

    with pytest.raises(Refused) as refusal:
        published.load([(1, "{}"), (2, "{secret")], contract)

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "extra" in refusal.value.detail
    assert "row 2" in refusal.value.detail
    assert "secret" not in refusal.value.detail
    assert refusal.value.__suppress_context__


def test_what_a_trigger_says_of_a_row_is_not_told(published):
    published.load([(1, "Anna", at(1))])
    with published.connect() as connection:
        connection.execute(
            "CREATE FUNCTION protest() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'I do not like %', NEW.name; END $$"
        )
        connection.execute(
            "CREATE TRIGGER t BEFORE INSERT ON shop__base.orders FOR EACH ROW EXECUTE FUNCTION protest()"
        )

    with pytest.raises(Unavailable) as failed:
        published.load([(2, "Bert", at(20))], quarter=2)

    assert "Bert" not in str(failed.value)
    assert "P0001" in str(failed.value)
    assert failed.value.__suppress_context__


# ---- what analysts see -----------------------------------------------------------------------------------------


def test_the_view_shows_the_contracts_columns_in_their_order_and_none_of_ours(published):
    published.load([ANNA])

    answer = published.warehouse.query("SELECT * FROM shop.orders", row_limit=10, timeout_seconds=10)

    assert answer.columns == ("id", "name", "changed")
    assert answer.rows == ((1, "Anna", "2026-11-22 12:01:00+00"),)


def test_comments_say_what_is_masked_and_what_the_table_is(published):
    contract = contract_of(
        column("id", "int64"), column("e-mail", mask=MaskKind.HMAC), column("gone", "timestamp"), deleted_at="gone",
        cursor=None,
    )  # fmt: skip
    published.load([(1, "ffff", None)], contract)

    comments = dict(
        rows_of(
            published,
            "SELECT attname, col_description(attrelid, attnum) FROM pg_attribute "
            "WHERE attrelid = 'shop.orders'::regclass AND attnum > 0",
        )
    )
    on_view = rows_of(published, "SELECT obj_description('shop.orders'::regclass, 'pg_class')")[0][0]
    on_base = rows_of(published, "SELECT obj_description('shop__base.orders'::regclass, 'pg_class')")[0][0]

    assert comments["e-mail"] == "masked: hmac of customer, key k1"
    assert on_view == "shop.orders: the newest version of each row; rows with gone are left out; contract 1"
    assert on_base == "base of " + on_view


def test_clear_values_that_remain_under_a_new_mask_are_reported_once(published):
    masked = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC), MERGE.columns[2])
    published.load([(1, "Anna", at(1))], quarter=1)

    with structlog.testing.capture_logs() as logs:
        published.load([(2, "f00d", at(20))], masked, quarter=2, version=2)
        published.load([(3, "beef", at(40))], masked, quarter=3, version=2)

    reports = [entry for entry in logs if entry["event"] == "clear_values_remain"]
    assert [(entry["table"], entry["columns"]) for entry in reports] == [("shop.orders", ["name"])]


def test_grants_outlive_a_view_that_is_made_anew(published):
    published.load([ANNA], quarter=1)
    with published.connect() as connection:
        connection.execute('DROP ROLE IF EXISTS "the analyst\'s"')
        connection.execute('CREATE ROLE "the analyst\'s"')
        connection.execute('GRANT SELECT ON shop.orders TO "the analyst\'s" WITH GRANT OPTION')
        connection.execute("GRANT SELECT ON shop.orders TO PUBLIC")
    turned = contract_of(*reversed(MERGE.columns))

    published.load([tuple(reversed(BERT))], turned, quarter=2, version=2)

    with published.connect() as connection:
        grants = connection.execute(
            "SELECT grantee, is_grantable FROM information_schema.role_table_grants "
            "WHERE table_schema = 'shop' AND table_name = 'orders' AND grantee <> grantor"
        ).fetchall()
        connection.execute('DROP OWNED BY "the analyst\'s"')
        connection.execute('DROP ROLE "the analyst\'s"')
    assert sorted(grants) == [("PUBLIC", "NO"), ("the analyst's", "YES")]
    assert published.rows() == [tuple(reversed(ANNA)), tuple(reversed(BERT))]


def test_a_new_last_column_leaves_what_analysts_built_on_the_view(published):
    published.load([ANNA], quarter=1)
    execute(published, "CREATE VIEW public.mine AS SELECT name FROM shop.orders")

    published.load(
        [(2, "Bert", at(20), "Bonn")], contract_of(*MERGE.columns, column("city")), quarter=2, version=2
    )

    assert sorted(rows_of(published, "SELECT name FROM public.mine")) == [("Anna",), ("Bert",)]


def test_a_view_that_others_stand_on_is_not_taken_away(published):
    published.load([ANNA], quarter=1)
    execute(published, "CREATE VIEW public.mine AS SELECT name FROM shop.orders")

    with pytest.raises(Refused) as refusal:
        published.load(
            [(at(20),)], contract_of(column("changed", "timestamptz"), key=("changed",)), quarter=2, version=2
        )

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "view mine depends on" in refusal.value.detail
    assert rows_of(published, "SELECT name FROM public.mine") == [("Anna",)]


def test_a_load_that_changes_no_contract_takes_no_lock_that_readers_feel(published):
    published.load([ANNA], quarter=1)
    with published.connect() as reader, reader.transaction():
        reader.execute("SELECT * FROM shop.orders").fetchall()

        published.load([BERT], quarter=2)

    assert published.rows() == [ANNA, BERT]


def test_readers_see_the_old_or_the_new_snapshot_at_every_instant(published):
    old, new = [(n, "old", at(1)) for n in range(3000)], [(n, "new", at(1)) for n in range(2000)]
    published.load(old, REPLACE, quarter=1)
    seen, is_done = set(), threading.Event()

    def read():
        with published.connect() as connection:
            while not is_done.is_set():
                seen.add(
                    connection.execute("SELECT count(*), min(name), max(name) FROM shop.orders").fetchone()
                )

    reader = threading.Thread(target=read)
    reader.start()
    for quarter in range(2, 8):
        published.load(new if quarter % 2 == 0 else old, REPLACE, quarter=quarter)
    is_done.set()
    reader.join(30)

    assert seen <= {(3000, "old", "old"), (2000, "new", "new")}


def test_the_marker_tells_batch_window_files_and_counts(published):
    load = published.batch([ANNA, BERT], version=4, attempt=3)
    published.warehouse.load(load)

    found = rows_of(
        published,
        "SELECT batch_id, source, table_name, mode, slot, window_start, window_end, contract_version, publish_attempt,"
        " manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged FROM _esclusa.loads",
    )

    assert found == [
        (
            load.batch_id,
            "shop",
            "orders",
            "merge",
            load.slot,
            load.window.start,
            load.window.end,
            4,
            3,
            load.manifest_sha256,
            2,
            2,
            0,
            0,
        )
    ]


# ---- what does not fit -----------------------------------------------------------------------------------------


def refused(published, *args, **kwargs):
    with pytest.raises(Refused) as refusal:
        published.load(*args, **kwargs)
    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    return refusal.value.detail


def test_a_type_that_no_longer_fits_is_refused_by_name(published):
    published.load([ANNA], quarter=1)
    changed = contract_of(column("id", "string"), *MERGE.columns[1:])

    detail = refused(published, [("one", "Anna", at(20))], changed, quarter=2, version=2)

    assert "column 'id' should be text, found bigint" in detail
    assert published.rows() == [ANNA]


def keys_under(published, rows, contract):
    """Return the key sweep that found these keys after the contract was changed."""
    load = published.batch(rows, keys_of(contract), quarter=2, version=2)
    return replace(load, batch_id="b5wee9", slot="keys of today", same_key_versions=(1, 2))


def test_a_sweep_finds_rows_by_a_key_whose_column_is_not_widened_yet(published):
    narrow = contract_of(column("id", "int32"), *MERGE.columns[1:])
    published.load([ANNA, BERT], narrow, quarter=1)

    result = published.warehouse.prune(keys_under(published, [(ANNA[0],)], MERGE))

    assert result.rows_deleted == 1
    assert published.rows() == [ANNA]


def test_a_sweep_by_a_key_of_another_type_is_refused_by_name(published):
    published.load([ANNA], quarter=1)
    changed = contract_of(column("id", "string"), *MERGE.columns[1:])

    with pytest.raises(Refused) as refusal:
        published.warehouse.prune(keys_under(published, [("one",)], changed))

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "column 'id' should be text, found bigint" in refusal.value.detail
    assert published.rows() == [ANNA]


WIDENED = contract_of(
    column("id", "int64"), column("size", "int64"), column("price", "decimal(14,4)"), cursor=None
)
NARROW = contract_of(
    column("id", "int32"), column("size", "int16"), column("price", "decimal(12,2)"), cursor=None
)


def test_a_column_that_the_contract_widens_is_widened_with_its_values_and_grants(published):
    published.load([(1, 7, Decimal("1.50"))], NARROW, quarter=1)
    execute(published, "GRANT SELECT ON shop.orders TO PUBLIC")

    with structlog.testing.capture_logs() as logs:
        published.load([(2**40, 2**50, Decimal("0.0001"))], WIDENED, quarter=2, version=2)

    assert published.rows() == [(1, 7, Decimal("1.5000")), (2**40, 2**50, Decimal("0.0001"))]
    (widened,) = [entry for entry in logs if entry["event"] == "native_columns_widened"]
    assert widened["columns"]["size"] == ["smallint", "bigint"]
    types = rows_of(
        published,
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = 'shop.orders'::regclass AND attnum > 0 ORDER BY attnum",
    )
    assert types == [("bigint",), ("bigint",), ("numeric(14,4)",)]
    granted = "SELECT grantee FROM information_schema.role_table_grants WHERE table_schema = 'shop' AND grantee = 'PUBLIC'"
    assert rows_of(published, granted) == [("PUBLIC",)]


def test_a_batch_of_the_narrower_contract_still_fits_into_a_widened_table(published):
    published.load([(2, 2**50, Decimal("0.0001"))], WIDENED, quarter=1, version=2)

    published.load([(1, 7, Decimal("1.50"))], NARROW, quarter=2, version=1)

    assert published.rows() == [(1, 7, Decimal("1.5000")), (2, 2**50, Decimal("0.0001"))]


def test_only_the_newest_contract_widens(published):
    published.load([(1, 7, Decimal("1.50"))], NARROW, quarter=1, version=2)

    detail = refused(published, [(2, 2**50, Decimal("0.0001"))], WIDENED, quarter=2, version=1)

    assert "column 'size' should be bigint, found smallint" in detail


def test_what_analysts_built_on_a_view_is_not_taken_away_by_a_widening(published):
    published.load([(1, 7, Decimal("1.50"))], NARROW, quarter=1)
    execute(published, "CREATE VIEW public.mine AS SELECT size FROM shop.orders")

    detail = refused(published, [(2, 2**50, Decimal("0.0001"))], WIDENED, quarter=2, version=2)

    assert "view mine depends on" in detail
    assert rows_of(published, "SELECT size FROM public.mine") == [(7,)]


def test_a_smaller_integer_fits_into_a_larger_one(published):
    published.load([ANNA], quarter=1)
    smaller = contract_of(column("id", "int16"), *MERGE.columns[1:])

    published.load([BERT], smaller, quarter=2, version=2)

    assert published.rows() == [ANNA, BERT]


@pytest.mark.parametrize(
    ("contract", "row", "expected"),
    [
        (contract_of(table="t" * 64), ANNA, "t" * 64),
        (contract_of(table="é" * 32), ANNA, "64 bytes"),
        (contract_of(source="s" * 58), ANNA, "__base"),
        (contract_of(source="pg_temp"), ANNA, "pg_temp"),
        (contract_of(source="shop__base"), ANNA, "shop__base"),
        (contract_of(column("id", "int64"), column("c" * 64), cursor=None), (1, "x"), "c" * 64),
        (contract_of(column("id", "int64"), column("_esclusa_batch_id"), cursor=None), (1, "x"), "_esclusa_batch_id"),
        (contract_of(column("id", "json"), cursor=None), ("1",), "key column 'id'"),
        (contract_of(column("id", "int64", mask=MaskKind.DROP), column("x"), cursor=None), ("1",), "key column 'id'"),
        (contract_of(key=()), ANNA, "needs key columns"),
    ],
    ids=lambda value: value.table[:10] if hasattr(value, "table") else None,
)  # fmt: skip
def test_a_name_that_postgresql_does_not_take_is_refused_by_name(published, contract, row, expected):
    assert expected in refused(published, [row], contract)


def test_a_key_too_long_for_an_index_is_refused(published):
    contract = contract_of(column("id"), cursor=None)
    incompressible = "".join(chr(0x4E00 + (n * n * 7919) % 20000) for n in range(4000))

    detail = refused(published, [(incompressible,)], contract)

    assert "ProgramLimitExceeded" in detail
    assert incompressible[:5] not in detail


def test_a_merge_into_a_table_with_doubles_is_refused(published):
    contract = contract_of(mode=PublishMode.APPEND)
    published.load([ANNA, ANNA], contract, quarter=1)

    detail = refused(published, [BERT], MERGE, quarter=2, version=2)

    assert "UniqueViolation" in detail


def test_more_columns_than_postgresql_has_are_refused(published):
    columns = [column(f"c{n}", "int16") for n in range(1599)]

    assert "1598" in refused(published, [(1,) * 1599], contract_of(*columns, key=("c0",), cursor=None))


def test_a_table_of_somebody_else_is_left_alone(published):
    execute(published, "CREATE SCHEMA shop; CREATE TABLE shop.orders (mine int)")

    assert "another relation has its name" in refused(published, [ANNA])

    assert rows_of(published, "SELECT count(*) FROM shop.orders") == [(0,)]


def test_a_base_table_of_somebody_else_is_left_alone(published):
    execute(published, "CREATE SCHEMA shop__base; CREATE TABLE shop__base.orders (id bigint)")

    assert "'_esclusa_batch_id' should be text, found none" in refused(published, [ANNA])


# ---- faults ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", [APPEND, MERGE, REPLACE], ids=["append", "merge", "replace"])
def test_a_load_that_breaks_off_half_way_leaves_nothing(published, contract):
    published.load([ANNA], contract, quarter=1)

    def break_off():
        raise Unavailable("the store is away")

    store = BreakingStore(break_off)
    breaking = Published(PostgresWarehouse(published.dsn, store=store), store, published.dsn)
    with pytest.raises(Unavailable, match="the store is away"):
        breaking.load([BERT, (3, "Cleo", at(3))], contract, quarter=2)

    assert published.rows() == [ANNA]
    assert rows_of(published, "SELECT count(*) FROM _esclusa.loads") == [(1,)]


def test_a_publisher_killed_half_way_leaves_neither_rows_nor_locks(published):
    context = multiprocessing.get_context("spawn")
    is_half_way = context.Event()
    publisher = context.Process(target=load_and_hang, args=[published.dsn, is_half_way])
    publisher.start()
    assert is_half_way.wait(60)
    assert rows_of(published, "SELECT count(*) FROM _esclusa.loads") == [(0,)]

    os.kill(publisher.pid, signal.SIGKILL)
    publisher.join(60)
    published.load([ANNA, BERT], attempt=2)

    assert published.rows() == [ANNA, BERT]


def test_many_tables_of_a_new_source_can_be_loaded_at_once(published):
    loads = [published.batch([ANNA], contract_of(table=f"t{n}")) for n in range(8)]
    errors = []

    def load(one):
        try:
            published.warehouse.load(one)
        except Exception as error:  # noqa: BLE001 (whatever it is, the test fails by it)
            errors.append(error)

    threads = [threading.Thread(target=load, args=[one]) for one in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    assert [published.rows(f"t{n}") for n in range(8)] == [[ANNA]] * 8


def test_a_load_waits_no_longer_than_its_time_for_another(published):
    published.load([ANNA], quarter=1)
    hasty = PostgresWarehouse(published.dsn, store=published.store, load_timeout_seconds=0.3)
    with published.connect() as other, other.transaction():
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('esclusa load shop.orders', 0))")

        with pytest.raises(Unavailable, match=r"shop\.orders"):
            hasty.load(published.batch([BERT], quarter=2))

    assert published.rows() == [ANNA]


def test_a_warehouse_that_is_away_is_unavailable_and_its_password_is_not_told():
    warehouse = PostgresWarehouse(
        f"postgresql://role:hunter2@127.0.0.1:{find_free_port()}/none", store=MemoryObjectStore()
    )

    with pytest.raises(Unavailable) as error:
        warehouse.row_count("shop", "orders")

    assert "hunter2" not in str(error.value)


def test_a_dsn_that_is_none_is_told_without_quoting_it():
    with pytest.raises(ConfigurationError) as error:
        PostgresWarehouse("hunter2", store=MemoryObjectStore())

    assert "hunter2" not in str(error.value)


@pytest.fixture
def poor_role(fresh_database: str) -> Iterator[str]:
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
        yield psycopg.conninfo.make_conninfo(fresh_database, user="poor", password="poor")
        connection.execute("DROP ROLE poor")


def test_a_missing_right_is_told_as_such(published, poor_role):
    warehouse = PostgresWarehouse(poor_role, store=published.store)

    with pytest.raises(ConfigurationError, match="permission denied for database"):
        warehouse.load(published.batch([ANNA]))


# ---- questions of people ---------------------------------------------------------------------------------------


def ask(published, question, *, row_limit=100, timeout_seconds=10.0):
    return published.warehouse.query(question, row_limit=row_limit, timeout_seconds=timeout_seconds)


def test_an_answer_is_cut_at_its_limit_and_says_so(published):
    cut = ask(published, "SELECT generate_series(1, 100000000)", row_limit=3)
    whole = ask(published, "SELECT n FROM generate_series(1, 3) AS n", row_limit=3)

    assert (cut.rows, cut.is_cut) == (((1,), (2,), (3,)), True)
    assert (whole.rows, whole.is_cut) == (((1,), (2,), (3,)), False)


def test_an_answer_without_rows_still_names_its_columns(published):
    answer = ask(published, "SELECT 1 AS one, 2 AS two WHERE false")

    assert answer.columns == ("one", "two")
    assert answer.rows == ()


def test_a_percent_sign_and_moments_without_end_are_no_trouble(published):
    answer = ask(
        published, "SELECT 'infinity'::timestamptz, '-infinity'::date, '{\"a\":1}'::json WHERE 'x' LIKE '%'"
    )

    assert answer.rows == (("infinity", "-infinity", '{"a":1}'),)


@pytest.mark.parametrize(
    "question",
    [
        "DELETE FROM shop.orders",
        "WITH gone AS (DELETE FROM shop.orders RETURNING *) SELECT * FROM gone",
        "COMMIT; DELETE FROM shop.orders",
        "SELECT 1; SELECT 2",
        "DROP TABLE shop__base.orders",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SET TRANSACTION READ WRITE",
        "CREATE TABLE x (y int)",
        "SELEKT",
        "SELECT * FROM nothing",
        "SELECT 1/0",
        "SELECT $1",
        "COPY shop.orders TO STDOUT",
        "",
    ],
)
def test_a_question_that_is_none_is_refused_and_changes_nothing(published, question):
    published.load([ANNA])

    with pytest.raises(QueryFailed):
        ask(published, question)

    assert published.rows() == [ANNA]


def test_a_question_that_takes_too_long_is_ended(published):
    with pytest.raises(QueryFailed, match=r"0\.2 seconds"):
        ask(published, "SELECT pg_sleep(30)", timeout_seconds=0.2)


# ---- the analysts' role ------------------------------------------------------------------------------------


@pytest.fixture
def analysts(fresh_database: str) -> Iterator[str]:
    """A role of people who may log in nowhere and read nothing yet."""
    role = 'the "analysts"'
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        yield role
        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def read_as(published, role, question):
    with published.connect() as connection:
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        return connection.execute(question).fetchall()


def test_analysts_may_read_every_table_also_one_that_came_later(published, analysts):
    published.load([ANNA])
    published.warehouse = PostgresWarehouse(published.dsn, store=published.store, analysts_role=analysts)
    published.load([ANNA], contract_of(table="later"))

    for table in ("orders", "later", "_esclusa_loads"):
        assert read_as(published, analysts, f'SELECT count(*) > 0 FROM shop."{table}"') == [(True,)]
    for hidden in ("shop__base.orders", "_esclusa.loads"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            read_as(published, analysts, f"SELECT * FROM {hidden}")


def test_a_role_of_analysts_that_is_not_there_is_told_by_name(published):
    published.warehouse = PostgresWarehouse(published.dsn, store=published.store, analysts_role="nobody")

    with pytest.raises(ConfigurationError, match="no role 'nobody'"):
        published.load([ANNA])


# ---- proof -------------------------------------------------------------------------------------------------


NUMBERS = contract_of(
    column("id", "int64"),
    column("amount", "decimal(38,10)"),
    column("note"),
    cursor=None,
    mode=PublishMode.APPEND,
)


def changed_on_the_way(monkeypatch, change):
    """Have something between the files and the staging table change rows."""
    original = postgres_load.as_csv
    monkeypatch.setattr(postgres_load, "as_csv", lambda block: original(change(block)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda rows: rows.with_columns(note=None),
            "'note': values that are not NULL: 2 in its files, 0 staged",
        ),
        (lambda rows: rows.with_columns(id=pl.col("id") + 1), "'id': the sum"),
        (lambda rows: rows.with_columns(amount=pl.col("amount").reverse()), None),
        (lambda rows: rows.with_columns(id=pl.Series([0, 3])), "'id': the minimum"),
    ],
    ids=["nulls", "sum", "none", "minimum"],
)
def test_rows_that_change_between_file_and_warehouse_are_noticed_by_their_measures(
    published, monkeypatch, change, told
):
    changed_on_the_way(monkeypatch, change)
    load = published.batch([], NUMBERS)
    rows = [(1, Decimal("-0.0000000001"), "a"), (2, Decimal("9" * 28 + "." + "9" * 10), "b")]
    load = replace(load, files=(write_file(published.store, rows, NUMBERS, batch=load.batch_id, part=1),))

    if told is None:
        published.warehouse.load(load)
        return
    with pytest.raises(Refused) as refused:
        published.warehouse.load(load)

    assert refused.value.reason is Reason.PROOF_FAILED
    assert told in refused.value.detail
