"""What is MariaDB's own, read through its ODBC driver and through a driver for Python."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.databases import SECRET, MariaDbDatabase, Source, by_odbc, by_sqlalchemy
from support.extraction import DROP, WINDOW, bodies, column, run_extract, updated_at
from support.mariadb import MariaDbServer

from services.extractor.dialects import Dialect
from services.extractor.readers import ReadLimits, SourceColumn, SourceReader, conditions_of, open_reader
from services.extractor.readers.sql import odbc, pages
from services.extractor.readers.sql.odbc import ArrowConnection, DriverTraits
from services.extractor.readers.sql.records import RecordQuery
from services.processor.decode import parse_records
from shared.catalog import load_sources
from shared.domain.contracts import SourceKind, TableContract
from shared.domain.reasons import Reason
from shared.domain.windows import Extent
from shared.errors import Refused, SourceConflict
from shared.secrets.memory import MemorySecrets


@pytest.fixture(params=["odbc", "sqlalchemy"])
def source(
    request: pytest.FixtureRequest, mariadb_server: MariaDbServer, fresh_mariadb_database: str
) -> Iterator[Source]:
    """A fresh database, by each way."""
    server = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    yield by_odbc(server) if request.param == "odbc" else by_sqlalchemy(server)
    server.leave()


def rows_of(source: Source, contract: TableContract, **options: Any) -> list[tuple[str | None, ...]]:
    result, store = run_extract(contract, secrets=source.secrets, **options)
    records = b"".join(bodies(result, store))
    return list(parse_records(records, column_count=len(contract.output_columns), place="test").rows())


def refusal(source: Source, contract: TableContract) -> Refused:
    with pytest.raises(Refused) as refused:
        rows_of(source, contract)
    return refused.value


@contextmanager
def reader_on(source: Source, contract: TableContract) -> Iterator[SourceReader]:
    with open_reader(contract, secrets=MemorySecrets(source.secrets), limits=ReadLimits()) as reader:
        yield reader


@contextmanager
def globally(server: MariaDbServer, name: str, value: str) -> Iterator[None]:
    """A setting of the server that every new session begins with."""
    ((before,),) = server.rows(f"SELECT @@GLOBAL.{name}")
    server.run(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        server.run(f"SET GLOBAL {name} = {before if isinstance(before, int) else repr(before)}")


# ---- from a file of sources --------------------------------------------------------------------------------


def test_a_source_of_a_file_is_checked_and_read(source: Source, tmp_path: Path) -> None:
    source.run(
        "CREATE TABLE orders (id int unsigned PRIMARY KEY, amount decimal(12,2), updated_at datetime(6) NOT NULL)",
        "INSERT INTO orders VALUES (3000000000, 12.50, '2026-01-01 10:00:00.000001')",
    )
    connection = "connection_string" if source.kind is SourceKind.ODBC else "url"
    (tmp_path / "erp.yaml").write_text(
        f"""
name: erp
kind: {source.kind}
dialect: mysql
connection: {{{connection}: "{SECRET}"}}
limits: {{timeout_seconds: 60, deadline: 2m}}
tables:
  orders:
    relation: {source.server.schema}.orders
    columns:
      id: {{source_type: int(10) unsigned, type: int64, nullable: false, mask: keep}}
      amount: {{source_type: "decimal(12,2)", type: "decimal(12,2)", mask: keep}}
      updated_at: {{source_type: datetime(6), type: timestamp, nullable: false, mask: keep}}
    key: [id]
    cursor: {{column: updated_at, lag: 1m, overlap: 5m, timezone: UTC}}
    publish: {{mode: merge}}
"""
    )

    (erp,) = load_sources(tmp_path).sources
    (contract,) = erp.contracts()
    with reader_on(source, contract) as reader:
        findings, now = reader.check(), reader.clock()
    rows = rows_of(source, contract)

    assert erp.references() == [SECRET]
    assert [finding.is_ok for finding in findings] == [True]
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)
    assert rows == [("3000000000", "12.50", "2026-01-01 10:00:00.000001")]


# ---- values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (
            "sql_mode",
            "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE'",
        ),
        ("sql_select_limit", "1"),
        ("time_zone", "'+09:00'"),
        ("character_set_server", "'latin1'"),
        ("collation_connection", "'latin1_general_ci'"),
    ],
)
def test_settings_of_the_server_change_neither_rows_nor_text(
    source: Source, mariadb_server: MariaDbServer, name: str, value: str
) -> None:
    source.run(
        "CREATE TABLE customers (id int, code char(5), note text, moment timestamp(6) NULL, bits bit(3)) CHARSET utf8mb4",
        "SET SESSION time_zone = '+00:00'",
        "INSERT INTO customers VALUES (1, 'ab', 'x\"y\\\\', FROM_UNIXTIME(1770091506.789), b'101'), (2, NULL, '', NULL, NULL)",
    )
    contract = source.contract(
        column("id", "int32"),
        column("code"),
        column("note"),
        column("moment", "timestamptz"),
        column("bits", "int16"),
    )

    with globally(mariadb_server, name, value):
        rows = rows_of(source, contract)

    assert sorted(rows) == [
        ("1", "ab", 'x"y\\', "2026-02-03 04:05:06.789000+00", "5"),
        ("2", None, "", None, None),
    ]


def test_text_of_another_character_set_arrives_in_utf8(source: Source) -> None:
    source.run(
        "CREATE TABLE customers (western varchar(20) CHARSET latin1, greek varchar(20) CHARSET greek, wide varchar(20) CHARSET ucs2)",
        "INSERT INTO customers VALUES ('€\"ü', 'αβγ', 'ω\"')",
    )

    rows = rows_of(source, source.contract(column("western"), column("greek"), column("wide")))

    assert rows == [('€"ü', "αβγ", 'ω"')]


def test_a_value_with_the_character_nul_is_refused_by_name(source: Source) -> None:
    source.run(
        "CREATE TABLE customers (note text)", "INSERT INTO customers VALUES (CONCAT('a', CHAR(0), 'b'))"
    )

    refused = refusal(source, source.contract(column("note")))

    assert refused.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "NUL" in refused.detail


def test_a_record_that_the_server_gives_up_on_is_refused_and_no_null(
    source: Source, mariadb_server: MariaDbServer
) -> None:
    source.run(
        "CREATE TABLE customers (id int, bytes longblob)",
        "INSERT INTO customers VALUES (1, REPEAT('x', 900000))",
    )

    # HEX makes two characters of each byte: more than fit.
    with globally(mariadb_server, "max_allowed_packet", str(1024 * 1024)):
        refused = refusal(source, source.contract(column("id", "int32"), column("bytes", "binary")))

    assert refused.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "max_allowed_packet" in refused.detail


def test_two_tables_whose_names_differ_by_case_alone_are_two(
    source: Source, mariadb_server: MariaDbServer
) -> None:
    if mariadb_server.rows("SELECT @@lower_case_table_names") != ((0,),):
        pytest.skip("this file system takes them for one")
    source.run("CREATE TABLE Orders (a int)", "CREATE TABLE orders (b int)", "INSERT INTO Orders VALUES (1)")

    rows = rows_of(source, source.contract(column("a", "int32"), table="Orders"))
    refused = refusal(source, source.contract(column("a", "int32"), table="orders"))

    assert rows == [("1",)]
    assert refused.reason is Reason.COLUMN_MISSING


# ---- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", ["datetime", "timestamp", "date"])
def test_a_zero_date_in_the_cursor_is_not_passed_over(source: Source, declared: str) -> None:
    source.run(
        f"CREATE TABLE customers (id int, updated_at {declared} NOT NULL DEFAULT 0)",
        "SET SESSION sql_mode = ''",
        "INSERT IGNORE INTO customers VALUES (1, '0000-00-00')",
    )
    kind = {"datetime": "timestamp", "timestamp": "timestamptz", "date": "date"}[declared]

    refused = refusal(
        source, source.contract(column("id", "int32"), column("updated_at", kind), cursor=updated_at())
    )

    assert refused.reason is Reason.NULL_CURSOR
    assert "zero date" in refused.detail


@pytest.mark.parametrize("declared", ["datetime(6)", "timestamp(6)", "bigint(20)"])
def test_a_window_is_found_by_the_index_of_its_cursor(
    source: Source, mariadb_server: MariaDbServer, declared: str
) -> None:
    source.run(
        f"CREATE TABLE customers (id int PRIMARY KEY, updated_at {declared} NOT NULL, filler char(200), INDEX newest (updated_at))",
        "SET SESSION time_zone = '+00:00'",
        "INSERT INTO customers SELECT seq, "
        + ("seq" if "int" in declared else "TIMESTAMPADD(MINUTE, seq, '2025-01-01')")
        + ", 'x' FROM seq_1_to_5000",
        "ANALYZE TABLE customers",
    )
    kind = {"d": "timestamp", "t": "timestamptz", "b": "int64"}[declared[0]]
    contract = source.contract(column("id", "int32"), column("updated_at", kind), cursor=updated_at())
    extent = Extent("updated_at", "10", "60") if "int" in declared else None
    types = {"id": "int(11)", "updated_at": declared}
    query = query_of(contract, source.server.dialect, types, extent=extent)

    plan = mariadb_server.rows(f"EXPLAIN {query}", database=source.server.schema)

    assert plan[0][3:6] == ("range", "newest", "newest")


def query_of(
    contract: TableContract, dialect: Dialect, types: dict[str, str], *, extent: Extent | None
) -> str:
    """The query of a short window with its parameters written out."""
    window = type(WINDOW)(WINDOW.start, (WINDOW.start or WINDOW.end) + timedelta(hours=1))
    columns = [SourceColumn(name, word, is_nullable=False) for name, word in types.items()]
    conditions = conditions_of(contract, window, extent=extent)
    query = RecordQuery(
        contract, dialect=dialect, columns=columns, conditions=conditions, place="test"
    ).statement()
    sql = query.sql
    for parameter in query.parameters:
        sql = sql.replace("?", f"'{parameter}'" if "-" in parameter else parameter, 1)
    return sql


# ---- one snapshot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", ["TRUNCATE customers", "ALTER TABLE customers MODIFY id bigint"])
def test_a_table_that_is_rewritten_between_snapshot_and_read_is_read_again_whole(
    source: Source, statement: str
) -> None:
    source.run("CREATE TABLE customers (id int)", "INSERT INTO customers VALUES (1), (2)")

    def read() -> None:
        with (
            reader_on(source, source.contract(column("id"))) as reader,
            reader.open_snapshot(WINDOW) as snapshot,
        ):
            source.run(statement)
            list(snapshot.read())

    with pytest.raises(SourceConflict, match="1412"):
        read()


def test_nothing_changes_the_table_once_it_is_read(source: Source) -> None:
    source.run("CREATE TABLE customers (id int)", "INSERT INTO customers VALUES (1), (2)")
    rewrite = threading.Thread(target=source.run, args=("TRUNCATE customers",), daemon=True)

    with reader_on(source, source.contract(column("id"))) as reader, reader.open_snapshot(WINDOW) as snapshot:
        record_count = sum(chunk.record_count for chunk in snapshot.read())
        rewrite.start()
        rewrite.join(timeout=0.5)
        held_back = rewrite.is_alive()
        unchanged = snapshot.current_fingerprint() == snapshot.fingerprint
    rewrite.join(timeout=20)

    assert (record_count, held_back, unchanged) == (2, True, True)
    assert not rewrite.is_alive()


def test_what_others_have_not_committed_is_not_read(source: Source, mariadb_server: MariaDbServer) -> None:
    source.run("CREATE TABLE customers (id int)", "INSERT INTO customers VALUES (1)")

    with closing(mariadb_server.connect(database=source.server.schema)) as writer:
        writer.begin()
        writer.cursor().execute("INSERT INTO customers VALUES (2)")
        rows = rows_of(source, source.contract(column("id", "int32")))
        writer.rollback()

    assert rows == [("1",)]


# ---- rights ------------------------------------------------------------------------------------------------


def test_a_login_needs_no_more_than_the_columns_that_leave(source: Source) -> None:
    server = source.server
    assert isinstance(server, MariaDbDatabase)
    source.run(
        "CREATE TABLE customers (id int, secret text)",
        "INSERT INTO customers VALUES (1, 'x')",
        f"REVOKE SELECT ON {server.schema}.* FROM {server.reader}",
        f"GRANT SELECT (id) ON {server.schema}.customers TO {server.reader}",
    )

    rows = rows_of(source, source.contract(column("id", "int32"), column("secret", mask=DROP)))
    refused = refusal(source, source.contract(column("id", "int32"), column("secret")))

    assert rows == [("1",)]
    assert refused.reason is Reason.COLUMN_MISSING


def test_a_login_without_any_right_is_told_so(source: Source) -> None:
    server = source.server
    assert isinstance(server, MariaDbDatabase)
    source.run("CREATE TABLE customers (id int)", f"REVOKE SELECT ON {server.schema}.* FROM {server.reader}")

    with pytest.raises(Exception, match=r"1044|table_missing"):
        rows_of(source, source.contract(column("id", "int32")))


# ---- a driver that nobody knows ----------------------------------------------------------------------------


def test_a_driver_that_nobody_knows_is_asked_in_utf16(
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    source = by_odbc(server).at(server.connection_string() + ";CHARSET=utf8mb4")
    texts = [None, "", "é😀", 'a"b,\n', "x" * 20_000 + "😀"]
    server.run("CREATE TABLE customers (note text)")
    for text in texts:
        server.run("INSERT INTO customers VALUES (" + ("NULL" if text is None else f"'{text}'") + ")")
    monkeypatch.setattr(odbc, "traits_of", lambda _: DriverTraits())

    rows = rows_of(source, source.contract(column("note")))
    server.leave()

    assert [note for (note,) in rows] == texts


# ---- a driver that holds whole results ---------------------------------------------------------------------


@pytest.fixture
def held(
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Source]:
    """A database by a driver that holds whole results, and may hold few rows."""
    server = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    monkeypatch.setattr(pages, "MAX_HELD_OCTETS", 2_000)
    monkeypatch.setattr(
        ArrowConnection, "holds_results", property(lambda _: True, lambda _, __: None), raising=False
    )
    yield by_odbc(server)
    server.leave()


@pytest.mark.parametrize("declared", ["bigint", "int"])
def test_a_result_that_is_too_large_to_hold_is_read_in_parts_of_its_key(held: Source, declared: str) -> None:
    held.run(
        f"CREATE TABLE customers (id {declared} NOT NULL, note varchar(20))",
        "INSERT INTO customers SELECT CAST(seq * seq AS SIGNED) - 900, 'x' FROM seq_1_to_1000",
        # Not unique: the parts must be whole all the same.
        "INSERT INTO customers SELECT 5, 'same' FROM seq_1_to_10",
    )
    contract = held.contract(column("id", "int64"), column("note"))

    with reader_on(held, contract) as reader, reader.open_snapshot(WINDOW) as snapshot:
        held.run("INSERT INTO customers VALUES (7, 'later')")
        text = b"".join(chunk.body for chunk in snapshot.read())

    expected = sorted([f'{n * n - 900},"x"' for n in range(1, 1001)] + ['5,"same"'] * 10)
    assert sorted(text.decode().splitlines()) == expected
    assert snapshot.rows_read_count == 1010


def test_a_result_that_nothing_cuts_is_refused_if_it_is_too_large_to_hold(held: Source) -> None:
    held.run(
        "CREATE TABLE customers (note text)",
        "INSERT INTO customers SELECT REPEAT('x', 100) FROM seq_1_to_100",
    )

    refused = refusal(held, held.contract(column("note")))

    assert refused.reason is Reason.SOURCE_LIMIT_EXCEEDED
    assert "3.1.17" in refused.detail
