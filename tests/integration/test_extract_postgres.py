"""The extractor on a real PostgreSQL server."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest
from psycopg import sql
from support.extraction import (
    DROP,
    HMAC_EMAIL,
    KEEP,
    LAST4,
    MASK_KEY,
    REDACT,
    WINDOW,
    WITHHOLD,
    bodies,
    column,
    make_assignment,
    make_contract,
    run_extract,
    updated_at,
)

from local.postgres import EmbeddedPostgres
from services.extractor.extract import extract
from services.extractor.pace import read_limits_of
from services.extractor.readers import ReadLimits, open_reader
from services.extractor.readers.postgres import PostgresReader, PostgresSnapshot
from shared.domain.batches import Stage
from shared.domain.contracts import MaskKind, TableContract
from shared.domain.counts import broken_sum
from shared.domain.reasons import Reason
from shared.domain.sources import SourceLimits
from shared.domain.windows import Extent, Window
from shared.errors import (
    ConfigurationError,
    ObjectConflict,
    Refused,
    SourceConflict,
    SourceUnavailable,
    Unavailable,
)
from shared.lifecycle import StageResult
from shared.object_store.memory import MemoryObjectStore
from shared.ports import ObjectStore
from shared.secrets.memory import MemorySecrets

BEGINNING = Window(None, WINDOW.end)


class Shop:
    """A source database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def extract(self, contract: TableContract, **options: Any) -> tuple[StageResult, ObjectStore]:
        return run_extract(contract, secrets={"env:SHOP_DSN": self.dsn}, **options)

    def reason(self, contract: TableContract, **options: Any) -> Refused:
        with pytest.raises(Refused) as refused:
            self.extract(contract, **options)
        return refused.value


@pytest.fixture
def shop(fresh_database: str) -> Shop:
    return Shop(fresh_database)


@contextmanager
def reader_on(shop: Shop, contract: TableContract, **limits: Any) -> Iterator[Any]:
    secrets = MemorySecrets({"env:SHOP_DSN": shop.dsn})
    with open_reader(contract, secrets=secrets, limits=ReadLimits(**limits)) as reader:
        yield reader


def text_of(result: StageResult, store: ObjectStore) -> bytes:
    return b"".join(bodies(result, store))


# ---- rows and windows --------------------------------------------------------------------------------------


def test_a_table_without_a_cursor_is_read_whole(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int, name text)", "INSERT INTO customers VALUES (1, 'a'), (2, NULL)")

    result, store = shop.extract(make_contract([column("id", "int32"), column("name")]))

    assert store.read(result.files[0].location) == b'"id","name"\n1,a\n2,\n'
    assert result.counts["rows_read"] == result.counts["rows_written"] == 2


def test_a_window_is_half_open_and_reaches_back_by_the_overlap(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers (id int, updated_at timestamptz NOT NULL)",
        """INSERT INTO customers VALUES
           (1, '2025-12-31 23:49:59.999999+00'), (2, '2025-12-31 23:50:00+00'), (3, '2026-01-01 12:00:00+02'),
           (4, '2026-01-01 23:59:59.999999+00'), (5, '2026-01-02 00:00:00+00')""",
    )
    contract = make_contract(
        [column("id", "int32"), column("updated_at", "timestamptz")],
        cursor=updated_at(overlap=timedelta(minutes=10)),
    )

    result, store = shop.extract(contract)

    assert [line.split(b",")[0] for line in text_of(result, store).splitlines()] == [b"2", b"3", b"4"]
    assert b"3,2026-01-01 10:00:00+00\n" in text_of(result, store)
    assert result.manifest["window"] == {
        "cursor": "updated_at",
        "start": "2026-01-01T00:00:00.000000Z",
        "end": "2026-01-02T00:00:00.000000Z",
        "read_from": "2025-12-31T23:50:00.000000Z",
    }


def test_a_first_window_has_no_lower_bound(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers (id int, updated_at timestamp NOT NULL)",
        "INSERT INTO customers VALUES (1, '0044-03-15 BC'), (2, '2026-01-01 23:59:59.999999'), (3, '2026-01-02')",
    )
    contract = make_contract([column("id", "int32"), column("updated_at", "timestamp")], cursor=updated_at())

    result, store = shop.extract(contract, window=BEGINNING)

    assert [line[:1] for line in text_of(result, store).splitlines()] == [b"1", b"2"]


@pytest.mark.parametrize("value", ["NULL", "'infinity'", "'-infinity'"])
def test_a_row_whose_cursor_is_in_no_window_is_not_passed_over(shop: Shop, value: str) -> None:
    shop.run(
        "CREATE TABLE customers (id int, updated_at timestamptz)",
        f"INSERT INTO customers VALUES (1, {value})",
    )
    contract = make_contract(
        [column("id", "int32"), column("updated_at", "timestamptz")], cursor=updated_at()
    )

    refused = shop.reason(contract)

    assert refused.reason is Reason.NULL_CURSOR
    assert "'updated_at'" in refused.detail


def test_a_window_that_rows_may_still_enter_waits(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int, updated_at timestamptz NOT NULL)")
    contract = make_contract(
        [column("id", "int32"), column("updated_at", "timestamptz")],
        cursor=updated_at(lag=timedelta(hours=2)),
    )
    now = datetime.now(UTC)

    with pytest.raises(Unavailable, match="rows of the window may still come"):
        shop.extract(contract, window=Window(now - timedelta(hours=3), now - timedelta(hours=1)))


def test_a_window_without_rows_makes_one_file_of_a_header(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int, name text, note text)")

    result, store = shop.extract(
        make_contract([column("id", "int32"), column("name"), column("note", mask=DROP)])
    )

    (file,) = result.files
    assert store.read(file.location) == b'"id","name"\n'
    assert (file.record_count, result.counts["rows_read"]) == (0, 0)


def test_parts_rotate_and_lose_no_record(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers AS SELECT i AS id, repeat(E'\\n\"x,', i % 50) AS name FROM generate_series(1, 5000) i"
    )
    contract = make_contract([column("id", "int32"), column("name")])

    whole, whole_store = shop.extract(contract, part_size_in_bytes=10**9)
    parted, store = shop.extract(
        contract, part_size_in_bytes=100_000, limits=ReadLimits(chunk_size_in_bytes=10_000)
    )

    assert len(whole.files) == 1
    assert len(parted.files) > 5
    assert text_of(parted, store) == text_of(whole, whole_store)
    assert sum(file.record_count for file in parted.files) == 5000
    for number, file in enumerate(parted.files):
        stored = store.read(file.location)
        assert file.location.key.endswith(f"/a1/part-{number:05d}.csv")
        assert stored.startswith(b'"id","name"\n')
        assert (file.file_size_in_bytes, file.sha256) == (len(stored), sha256(stored).hexdigest())
        assert file.file_size_in_bytes <= 100_000
    assert [part["sha256"] for part in parted.manifest["parts"]] == [file.sha256 for file in parted.files]  # type: ignore[attr-defined,index]


def test_all_is_read_from_one_snapshot(shop: Shop) -> None:
    shop.run("CREATE TABLE customers AS SELECT i AS id FROM generate_series(1, 1000) i")
    contract = make_contract([column("id", "int32")])

    with (
        reader_on(shop, contract, chunk_size_in_bytes=100) as reader,
        reader.open_snapshot(WINDOW) as snapshot,
    ):
        shop.run("DELETE FROM customers", "INSERT INTO customers SELECT 0 FROM generate_series(1, 5)")
        chunks = list(snapshot.read())

    assert sum(chunk.record_count for chunk in chunks) == 1000
    assert b"0\n" not in b"".join(chunk.body for chunk in chunks).splitlines(keepends=True)


@pytest.mark.parametrize("statement", ["TRUNCATE customers", "ALTER TABLE customers ALTER id TYPE bigint"])
def test_nothing_empties_the_table_between_lock_and_read(shop: Shop, statement: str) -> None:
    shop.run("CREATE TABLE customers AS SELECT i AS id FROM generate_series(1, 10) i")
    contract = make_contract([column("id", "int32")])
    rewrite = threading.Thread(target=shop.run, args=(statement,), daemon=True)

    with reader_on(shop, contract) as reader, reader.open_snapshot(WINDOW) as snapshot:
        rewrite.start()
        rewrite.join(timeout=0.5)
        held_back = rewrite.is_alive()
        record_count = sum(chunk.record_count for chunk in snapshot.read())
        unchanged = snapshot.current_fingerprint() == snapshot.fingerprint
    rewrite.join(timeout=20)

    assert held_back
    assert (record_count, unchanged) == (10, True)
    assert not rewrite.is_alive()


# ---- values ------------------------------------------------------------------------------------------------

NASTY = [None, "", "NULL", "null", "\\N", "\\.", " ", "\t", "a,b", '"', '""', "\n", "\r", "\r\n", "a\rb", "'; --",
         "\ufeffbom", "#x", "00123", "1e5", "\u2028", "😀", "é", "é", "\x01", "\x7f", "=1+1", "x" * 100_000]  # fmt: skip


def test_masking_one_column_leaves_the_bytes_of_all_others(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int, a text, b text, c text)")
    with psycopg.connect(shop.dsn) as connection:
        for number, value in enumerate(NASTY * 2):
            connection.execute("INSERT INTO customers VALUES (%s, %s, 'secret', %s)", [number, value, value])
    columns = [column("a"), column("b", mask=REDACT), column("c")]

    plain, plain_store = shop.extract(make_contract([column("a"), column("c")]))
    masked, store = shop.extract(make_contract(columns), limits=ReadLimits(chunk_size_in_bytes=500))

    with psycopg.connect(shop.dsn) as connection, connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT a, '[redacted]', c FROM customers) TO STDOUT (FORMAT csv)") as copy:
            expected = b"".join(copy)
        with cursor.copy("COPY (SELECT a, c FROM customers) TO STDOUT (FORMAT csv)") as copy:
            expected_plain = b"".join(copy)
    assert text_of(masked, store) == expected
    assert text_of(plain, plain_store) == expected_plain


def test_one_column_of_nulls_is_carried_as_empty_lines(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers (note text)", "INSERT INTO customers VALUES (NULL), (''), ('NULL'), (NULL)"
    )

    plain, plain_store = shop.extract(make_contract([column("note")]))
    masked, store = shop.extract(make_contract([column("note", mask=LAST4)]))

    assert store.read(masked.files[0].location) == b'"note"\n\n""\n****\n\n'
    assert plain_store.read(plain.files[0].location) == b'"note"\n\n""\nNULL\n\n'
    assert plain.counts["rows_written"] == masked.counts["rows_written"] == 4


def test_settings_of_database_and_role_do_not_change_the_text(shop: Shop) -> None:
    name = psycopg.conninfo.conninfo_to_dict(shop.dsn)["dbname"]
    shop.run(
        *(
            f'ALTER DATABASE "{name}" SET {setting}'
            for setting in (
                "DateStyle = 'German'",
                "TimeZone = 'Asia/Tokyo'",
                "IntervalStyle = 'sql_standard'",
                "bytea_output = 'escape'",
                "extra_float_digits = 0",
                "statement_timeout = 1",
            )
        )
    )
    with psycopg.connect(shop.dsn, options="-c statement_timeout=0", autocommit=True) as connection:
        connection.execute(
            """CREATE TABLE customers AS SELECT '2026-02-03 04:05:06.789+00'::timestamptz AS moment, true AS flag,
               '2026-02-03'::date AS day, 'P1DT2H'::interval AS span, '\\x00ff'::bytea AS bytes, 0.1::float8 + 0.2 AS sum"""
        )
    contract = make_contract(
        [column("moment", "timestamptz"), column("flag", "boolean"), column("day", "date"), column("span"),
         column("bytes", "binary"), column("sum", "float64")]
    )  # fmt: skip

    result, store = shop.extract(contract)

    expected = b"2026-02-03 04:05:06.789+00,true,2026-02-03,P1DT2H,\\x00ff,0.30000000000000004\n"
    assert text_of(result, store) == expected


@pytest.mark.parametrize(
    "name", ['a"b', "a b; DROP TABLE x --", "%s", "{}", "ä€😀", "SELECT", "x" * 63, "a\nb", "'"]
)
def test_any_legal_name_is_carried(shop: Shop, name: str) -> None:
    with psycopg.connect(shop.dsn) as connection:
        quoted = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(quoted))
        connection.execute(
            sql.SQL("CREATE TABLE {0}.{0} AS SELECT 1 AS {0}, now() - interval '1 day' AS updated_at").format(
                quoted
            )
        )
    contract = make_contract([column(name, "int32")], relation=(name, name))

    result, store = shop.extract(contract)

    header = b'"' + name.replace('"', '""').encode() + b'"\n'
    assert store.read(result.files[0].location) == header + b"1\n"
    assert store.head(result.files[0].location).metadata["esclusa-attempt"] == "1"  # type: ignore[union-attr]


def test_text_that_is_not_utf8_is_refused_by_name(shop: Shop, postgres_server: EmbeddedPostgres) -> None:
    shop.run(
        "CREATE DATABASE ascii_only TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
    )
    ascii_only = Shop(postgres_server.dsn("ascii_only"))
    try:
        ascii_only.run(
            "CREATE TABLE customers (id int, name text)",
            "INSERT INTO customers VALUES (1, convert_from('\\xff41'::bytea, 'SQL_ASCII'))",
        )
        for mask in (KEEP, REDACT):
            refused = ascii_only.reason(make_contract([column("id", "int32"), column("name", mask=mask)]))

            assert refused.reason is Reason.VALUE_NOT_REPRESENTABLE
    finally:
        shop.run("DROP DATABASE ascii_only WITH (FORCE)")


# ---- masks -------------------------------------------------------------------------------------------------


def test_what_does_not_leave_is_not_asked_for(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers (id int, secret text, undecided text, arrived_later text)",
        "INSERT INTO customers VALUES (1, 'clear-secret', 'clear-undecided', 'clear-later')",
    )
    contract = make_contract(
        [column("id", "int32"), column("secret", mask=DROP), column("undecided", mask=WITHHOLD)]
    )

    result, store = shop.extract(contract)

    assert store.read(result.files[0].location) == b'"id"\n1\n'
    assert "clear-" not in repr(result)
    assert result.counts["columns_withheld"] == 3
    assert {(proof.column, proof.mask) for proof in result.evidence} == {
        ("id", MaskKind.KEEP),
        ("secret", MaskKind.DROP),
        ("undecided", MaskKind.WITHHOLD),
        ("arrived_later", MaskKind.WITHHOLD),
    }
    assert [column["name"] for column in result.manifest["withheld"] if column["is_new"]] == ["arrived_later"]  # type: ignore[attr-defined]


def test_evidence_counts_the_masked_values_and_names_the_key(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers AS SELECT i AS id, CASE WHEN i % 4 > 0 THEN 'p' || i || '@Example.com' END AS email "
        "FROM generate_series(1, 1000) i"
    )
    contract = make_contract([column("id", "int32"), column("email", mask=HMAC_EMAIL)])

    result, store = shop.extract(contract, limits=ReadLimits(chunk_size_in_bytes=1000))

    (proof,) = [proof for proof in result.evidence if proof.column == "email"]
    assert (proof.mask, proof.key_id, proof.masked_value_count) == (MaskKind.HMAC, "k1", 750)
    assert b"@" not in text_of(result, store)
    assert result.counts["columns_masked"] == 1
    assert broken_sum(Stage.EXTRACT, result.counts) is None
    assert MASK_KEY not in repr(result)


# ---- what does not fit -------------------------------------------------------------------------------------


def test_a_missing_table_is_refused(shop: Shop) -> None:
    refused = shop.reason(make_contract([column("id", "int32")]))

    assert refused.reason is Reason.TABLE_MISSING
    assert "public.customers" in refused.detail


def test_all_columns_that_are_gone_are_named(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int)")

    refused = shop.reason(make_contract([column("id", "int32"), column("name"), column("email")]))

    assert refused.reason is Reason.COLUMN_MISSING
    assert "'name'" in refused.detail
    assert "'email'" in refused.detail


@pytest.mark.parametrize(
    ("declared", "source_type", "found"),
    [
        ("string", "text", "integer"),
        ("int32", "integer", "bigint"),
        ("int32", "", "text"),
        ("int16", "", "integer"),
    ],
)
def test_a_column_of_another_type_is_refused(shop: Shop, declared: str, source_type: str, found: str) -> None:
    shop.run(f"CREATE TABLE customers (id {found})")

    refused = shop.reason(make_contract([column("id", declared, source_type=source_type)]))

    assert refused.reason is Reason.TYPE_CHANGED
    assert found in refused.detail


def test_a_table_that_is_exchanged_between_lock_and_read_fails_the_batch(shop: Shop) -> None:
    shop.run("CREATE MATERIALIZED VIEW customers AS SELECT 1 AS id")
    store = MemoryObjectStore()

    class Exchanging(PostgresReader):
        """PostgreSQL gives no lock on a materialized view, so it can be another one a moment later."""

        @contextmanager
        def open_snapshot(
            self, window: Window, *, extent: Extent | None = None
        ) -> Iterator[PostgresSnapshot]:
            with super().open_snapshot(window, extent=extent) as snapshot:
                shop.run(
                    "DROP MATERIALIZED VIEW customers",
                    "CREATE MATERIALIZED VIEW customers AS SELECT 1 AS id, 2 AS more",
                )
                yield snapshot

    contract, secrets = make_contract([column("id", "int32")]), MemorySecrets({"env:SHOP_DSN": shop.dsn})
    with (
        closing(Exchanging(contract, secrets=secrets, limits=ReadLimits())) as reader,
        pytest.raises(Refused) as refused,
    ):
        extract(make_assignment(contract), reader=reader, store=store, secrets=secrets)

    assert refused.value.reason is Reason.SCHEMA_CHANGED_DURING_READ
    assert list(store.list("esclusa-shop", "")) == []


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE VIEW customers AS SELECT i AS id FROM generate_series(1, 3) i",
        "CREATE MATERIALIZED VIEW customers AS SELECT i AS id FROM generate_series(1, 3) i",
        """CREATE TABLE customers (id int) PARTITION BY RANGE (id);
           CREATE TABLE low PARTITION OF customers FOR VALUES FROM (0) TO (2);
           CREATE TABLE high PARTITION OF customers FOR VALUES FROM (2) TO (9);
           INSERT INTO customers VALUES (1), (2), (3)""",
    ],
    ids=["view", "materialized view", "partitioned"],
)
def test_views_and_partitioned_tables_are_read(shop: Shop, definition: str) -> None:
    shop.run(definition)

    result, store = shop.extract(make_contract([column("id", "int32")]))

    assert text_of(result, store) == b"1\n2\n3\n"


def test_a_role_needs_no_more_than_the_columns_that_leave(shop: Shop) -> None:
    with restricted_role(shop, "GRANT SELECT (id) ON customers TO {role}") as restricted:
        contract = make_contract([column("id", "int32"), column("secret", mask=DROP)])

        result, store = restricted.extract(contract)
        refused = restricted.reason(make_contract([column("id", "int32"), column("secret")]))

    assert text_of(result, store) == b"1\n"
    assert refused.reason is Reason.TABLE_MISSING
    assert "permission denied" in refused.detail


def test_a_role_without_any_right_is_told_so(shop: Shop) -> None:
    with restricted_role(shop, "SELECT 1") as restricted:
        refused = restricted.reason(make_contract([column("id", "int32")]))

    assert refused.reason is Reason.TABLE_MISSING
    assert "may not read" in refused.detail


def test_rows_hidden_by_a_policy_are_not_passed_over(shop: Shop) -> None:
    policy = (
        "GRANT SELECT ON customers TO {role}; ALTER TABLE customers ENABLE ROW LEVEL SECURITY; "
        "CREATE POLICY nothing ON customers USING (false)"
    )
    with restricted_role(shop, policy) as restricted:
        refused = restricted.reason(make_contract([column("id", "int32")]))

    assert refused.reason is Reason.TABLE_MISSING
    assert "row-level security" in refused.detail


@contextmanager
def restricted_role(shop: Shop, grant: str) -> Iterator[Shop]:
    """The same database through a role that was given only what `grant` says."""
    role = f"r{abs(hash(shop.dsn)) % 10**9}"
    parts = psycopg.conninfo.conninfo_to_dict(shop.dsn)
    shop.run(
        "CREATE TABLE customers (id int, secret text)",
        "INSERT INTO customers VALUES (1, 'x')",
        f"CREATE ROLE {role} LOGIN PASSWORD 'test'",
        grant.format(role=role),
    )
    try:
        yield Shop(psycopg.conninfo.make_conninfo(**{**parts, "user": role, "password": "test"}))
    finally:
        shop.run(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_values_do_not_get_into_errors(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE base (name text)",
        "INSERT INTO base VALUES ('clear-name')",
        "CREATE VIEW customers AS SELECT name::int AS id FROM base",
    )

    refused = shop.reason(make_contract([column("id", "int32")]))

    assert refused.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "clear-name" not in repr(refused.__cause__) + repr(refused.__context__.__class__) + str(refused)


@pytest.mark.parametrize(
    "body", ["RAISE EXCEPTION 'found %', name", "EXECUTE name"], ids=["raises it", "runs it"]
)
def test_values_that_a_views_function_repeats_do_not_get_into_errors(shop: Shop, body: str) -> None:
    shop.run(
        "CREATE TABLE base (name text)",
        "INSERT INTO base VALUES ('clearname')",
        f"CREATE FUNCTION told(name text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN 1; END $$",
        "CREATE VIEW customers AS SELECT told(name) AS id FROM base",
    )

    with pytest.raises(Unavailable) as failed:
        shop.extract(make_contract([column("id", "int32")]))

    assert "clearname" not in str(failed.value)
    assert "SQLSTATE" in str(failed.value)


# ---- outages -----------------------------------------------------------------------------------------------


def test_an_unreachable_database_may_be_back_later(shop: Shop) -> None:
    contract = make_contract([column("id", "int32")])

    with pytest.raises(Unavailable, match=r"public\.customers"):
        run_extract(contract, secrets={"env:SHOP_DSN": "postgresql://u:hidden-word@127.0.0.1:1/x"})


@pytest.mark.parametrize(
    "dsn", ["hidden-word", "postgresql://u:hidden-word@h/x?nonsense=1", "host='hidden-word"]
)
def test_a_bad_connection_string_is_named_and_not_shown(dsn: str) -> None:
    contract = make_contract([column("id", "int32")])

    with pytest.raises(ConfigurationError, match="env:SHOP_DSN") as wrong:
        run_extract(contract, secrets={"env:SHOP_DSN": dsn})

    assert "hidden-word" not in str(wrong.value)
    assert wrong.value.__suppress_context__


def test_a_source_that_takes_too_long_is_left(shop: Shop) -> None:
    shop.run("CREATE VIEW customers AS SELECT 1 AS id FROM pg_sleep(60)")

    with pytest.raises(Unavailable, match="QueryCanceled"):
        shop.extract(make_contract([column("id", "int32")]), limits=ReadLimits(read_timeout_seconds=1))


def test_the_source_may_have_its_own_timeout(shop: Shop) -> None:
    shop.run("CREATE VIEW customers AS SELECT 1 AS id FROM pg_sleep(60)")
    contract = make_contract(
        [column("id", "int32")], connection={"dsn": "env:SHOP_DSN", "timeout_seconds": "1"}
    )

    with pytest.raises(Unavailable, match="QueryCanceled"):
        shop.extract(contract)


def test_a_table_that_somebody_locks_is_not_waited_for_long(shop: Shop) -> None:
    shop.run("CREATE TABLE customers (id int)")
    with psycopg.connect(shop.dsn) as migration:
        migration.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")

        with pytest.raises(SourceConflict, match="LockNotAvailable"):
            shop.extract(make_contract([column("id", "int32")]), limits=ReadLimits(lock_timeout_seconds=1))


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("40001", SourceConflict),  # also "canceling statement due to conflict with recovery"
        ("40P01", SourceConflict),
        ("53300", SourceUnavailable),
    ],
)
def test_what_the_source_breaks_off_for_the_sake_of_others_is_no_fault_of_it(
    shop: Shop, state: str, error: type[Exception]
) -> None:
    shop.run(
        f"CREATE FUNCTION break_off(n int) RETURNS int LANGUAGE plpgsql AS "
        f"$$BEGIN IF n > 900 THEN RAISE 'broken off' USING ERRCODE = '{state}'; END IF; RETURN n; END$$",
        "CREATE VIEW customers AS SELECT break_off(i) AS id FROM generate_series(1, 1000) i",
    )
    store = MemoryObjectStore()

    with pytest.raises(error) as raised:
        shop.extract(make_contract([column("id", "int32")]), store=store)

    assert type(raised.value) is error
    assert list(store.list("esclusa-shop", "")) == []


def test_a_source_is_read_at_its_pace_and_what_is_read_is_the_same(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers AS SELECT i AS id, repeat('x', 1000) AS name FROM generate_series(1, 1000) i"
    )
    contract = make_contract([column("id", "int32"), column("name", mask=REDACT)])
    limits = SourceLimits(2, rows_per_second=1_500)
    secrets = MemorySecrets({"env:MASK_KEY": MASK_KEY, "env:SHOP_DSN": shop.dsn})
    began_at = time.monotonic()

    with open_reader(contract, secrets=secrets, limits=read_limits_of(limits)) as reader:
        slow = extract(
            replace(make_assignment(contract), source_limits=limits),
            reader=reader,
            store=MemoryObjectStore(),
            secrets=secrets,
        )

    assert time.monotonic() - began_at >= 1_000 / 750
    fast, _ = shop.extract(contract)
    assert slow.files == fast.files


def test_a_connection_that_breaks_while_parts_are_sent_ends_the_attempt(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers AS SELECT i AS id, repeat('x', 1000) AS name FROM generate_series(1, 50000) i"
    )

    class Breaker(MemoryObjectStore):
        def put(self, *arguments: Any, **options: Any) -> None:
            shop.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'esclusa-extractor'"
            )
            super().put(*arguments, **options)

    store = Breaker()
    contract = make_contract([column("id", "int32"), column("name", mask=REDACT)])
    with pytest.raises(Unavailable):
        shop.extract(
            contract, store=store, part_size_in_bytes=50_000, limits=ReadLimits(chunk_size_in_bytes=10_000)
        )

    assert list(store.list("esclusa-shop", ""))


def test_a_store_that_breaks_ends_the_reading_at_once(shop: Shop) -> None:
    shop.run(
        "CREATE TABLE customers AS SELECT i AS id, repeat('x', 1000) AS name FROM generate_series(1, 50000) i"
    )

    class Full(MemoryObjectStore):
        def put(self, *arguments: Any, **options: Any) -> None:
            raise ObjectConflict("no")

    for mask in (KEEP, REDACT):
        contract = make_contract([column("id", "int32"), column("name", mask=mask)])
        with pytest.raises(ObjectConflict):
            shop.extract(
                contract,
                store=Full(),
                part_size_in_bytes=50_000,
                limits=ReadLimits(chunk_size_in_bytes=10_000),
            )


# ---- beside the story --------------------------------------------------------------------------------------


def test_the_clock_is_the_sources_own(shop: Shop) -> None:
    with reader_on(shop, make_contract([column("id", "int32")])) as reader:
        first, second = reader.clock(), reader.clock()

    assert first.tzinfo is UTC
    assert first < second
    assert abs(first - datetime.now(UTC)) < timedelta(minutes=1)


def test_rows_can_be_counted(shop: Shop) -> None:
    shop.run("CREATE TABLE customers AS SELECT i AS id FROM generate_series(1, 7) i")

    with reader_on(shop, make_contract([column("id", "int32")])) as reader:
        assert reader.count_rows() == 7


def test_a_check_says_what_is_wrong_and_what_is_new(shop: Shop) -> None:
    contract = make_contract([column("id", "int32"), column("name")])

    with reader_on(shop, contract) as reader:
        missing = reader.check()
        shop.run("CREATE TABLE customers (id bigint, more text)")
        wrong = reader.check()
        shop.run("ALTER TABLE customers ALTER id TYPE int, ADD name text")
        right = reader.check()
    unreachable = replace(contract, origin=replace(contract.origin, connection={"dsn": "env:OTHER"}))
    with reader_on(shop, unreachable) as reader:
        lost = reader.check()

    assert [finding.is_ok for finding in missing] == [False]
    assert [finding.detail.split(":")[0] for finding in wrong] == ["type_changed", "column_missing"]
    assert [finding.is_ok for finding in right] == [True]
    assert "'more'" in right[0].detail
    assert "env:OTHER" in lost[0].detail
