"""PostgreSQL through ODBC and SQLAlchemy: the same text as by its own protocol, and a driver that must be told things."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.databases import PASSWORD, SECRET, PostgresDatabase, Source, by_odbc, by_sqlalchemy, natively
from support.extraction import WINDOW, bodies, column, run_extract
from support.relay import Away, Relays

from services.extractor.dialects.postgresql import PostgresqlDialect
from services.extractor.readers import ReadLimits, SourceReader, open_reader
from services.extractor.readers.sql import SqlSnapshot, records
from services.processor.decode import parse_records
from shared.domain.contracts import TableContract
from shared.domain.reasons import Reason
from shared.errors import Refused, SourceUnavailable
from shared.secrets.memory import MemorySecrets

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(fresh_database: str) -> Iterator[PostgresDatabase]:
    """A fresh database."""
    server = PostgresDatabase(fresh_database)
    yield server
    server.leave()


@pytest.fixture(params=[by_odbc, by_sqlalchemy], ids=["odbc", "sqlalchemy"])
def source(request: pytest.FixtureRequest, server: PostgresDatabase) -> Source:
    """A fresh database, by each way that is not its own."""
    way: Callable[[PostgresDatabase], Source] = request.param
    return way(server)


def rows_of(source: Source, contract: TableContract, **options: Any) -> list[tuple[str | None, ...]]:
    result, store = run_extract(contract, secrets=source.secrets, **options)
    text = b"".join(bodies(result, store))
    return list(parse_records(text, column_count=len(contract.output_columns), place="test").rows())


@contextmanager
def reader_on(source: Source, contract: TableContract, **limits: Any) -> Iterator[SourceReader]:
    with open_reader(contract, secrets=MemorySecrets(source.secrets), limits=ReadLimits(**limits)) as reader:
        yield reader


# ---- text --------------------------------------------------------------------------------------------------

VALUES = {
    "boolean": ["true", "false"],
    "smallint": ["-32768", "32767"],
    "bigint": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["4294967295"],
    "numeric(38,10)": ["1234567890123456789012345678.0123456789", "NaN"],
    "numeric": ["1e-400", "123456789012345678901234567890123456789012345678901234567890", "Infinity"],
    "real": ["1e-45", "3.4028235e38", "NaN", "-Infinity", "-0"],
    "double precision": ["43.52593972953187", "5e-324", "1.7976931348623157e308", "NaN", "Infinity", "-0"],
    "money": ["92233720368547758.07", "-1234.5"],
    "character(5)": ["ab", "     "],
    "character varying(5)": ["ab  "],
    '"char"': ["x"],
    "name": ["a name"],
    "bytea": ["\\x00ff", ""],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"],
    "time": ["24:00", "00:00:00.000001"],
    "time with time zone": ["12:00+05:30"],
    "timestamp(6) without time zone": ["infinity", "4713-01-01 BC", "294276-12-31 23:59:59.999999"],
    "timestamp with time zone": ["-infinity", "2026-10-25 02:30:00 Europe/Rome", "0044-03-15 BC"],
    "interval": ["1 year -2 days 03:04:05.000006", "-178000000 years"],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "json": ['{"b": 1,  "a": "\\""}'],
    "jsonb": ['{"b": 1,  "a": "\\""}'],
    "inet": ["192.168.0.1", "10.0.0.0/8"],
    "cidr": ["2001:db8::/32"],
    "macaddr": ["08:00:2b:01:02:03"],
    "bit(5)": ["10101"],
    "bit varying": [""],
    "integer[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}"],
    "text[]": ['{"a,b","\\"",NULL,"NULL",""}'],
    "int4range": ["[1,5)", "empty"],
    "point": ["(1.5,-2)"],
    "polygon": ["((0,0),(1,1),(1,0))"],
    "tsvector": ["'a':1 'b,c':2"],
    "mood": ["so, so", '"well"'],
    "pair": ['(1,"a,b")', "(,)", '(,"")'],
}


def test_every_type_has_the_text_that_copy_gives_it(server: PostgresDatabase, source: Source) -> None:
    server.run(
        "CREATE TYPE mood AS ENUM ('so, so', '\"well\"')",
        "CREATE TYPE pair AS (a int, b text)",
        f"CREATE TABLE customers (id int, {', '.join(f'c{n} {word}' for n, word in enumerate(VALUES))})",
        "INSERT INTO customers (id) VALUES (0)",
    )
    for number, (word, texts) in enumerate(VALUES.items()):
        for text in texts:
            quoted = text.replace("'", "''")
            server.run(f"INSERT INTO customers (id, c{number}) VALUES ({number}, '{quoted}'::{word})")
    columns = [column("id", "int32"), *(column(f"c{number}") for number in range(len(VALUES)))]

    by_copy = rows_of(natively(server), natively(server).contract(*columns))
    found = rows_of(source, source.contract(*columns))

    assert found == by_copy
    assert len(found) == 1 + sum(map(len, VALUES.values()))


BOUNDED = [word for word in VALUES if PostgresqlDialect().max_octets_of(word) is not None]


@pytest.mark.parametrize("word", BOUNDED)
def test_no_text_is_longer_than_is_said_of_its_type(server: PostgresDatabase, word: str) -> None:
    server.run(f"CREATE TABLE customers (v {word})")
    server.run(*(f"INSERT INTO customers VALUES ('{text}')" for text in VALUES[word]))

    rows = rows_of(natively(server), natively(server).contract(column("v")))

    longest = max(len((text or "").encode()) for (text,) in rows)
    assert longest <= (PostgresqlDialect().max_octets_of(word) or 0)


# ---- sizes -------------------------------------------------------------------------------------------------


def test_a_value_that_is_longer_than_announced_is_refused_and_never_cut(
    server: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = by_odbc(server)
    server.run(
        "CREATE TABLE customers (note text)", "INSERT INTO customers VALUES ('short'), (repeat('x', 5000))"
    )
    monkeypatch.setattr(records.RecordQuery, "measure", lambda *_: 100)

    with pytest.raises(Refused) as refused:
        rows_of(source, source.contract(column("note")))

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "not cut" in refused.value.detail


def test_rows_that_are_large_are_fetched_few_at_a_time(server: PostgresDatabase) -> None:
    source = by_odbc(server)
    server.run(
        "CREATE TABLE customers (id int, note text)",
        "INSERT INTO customers SELECT n, repeat('y', 3 * 1000 * 1000) FROM generate_series(1, 6) AS n",
    )

    with (
        reader_on(source, source.contract(column("id", "int32"), column("note"))) as reader,
        reader.open_snapshot(WINDOW) as snapshot,
    ):
        assert isinstance(snapshot, SqlSnapshot)
        octets = snapshot.max_record_octets
        sizes = [len(chunk.body) for chunk in snapshot.read()]

    assert 3_000_000 < octets < 3_000_100
    assert sum(sizes) == 6 * 3_000_000 + 6 * len('1,""\n')
    assert len(sizes) > 1


def test_a_record_that_no_process_can_hold_is_refused_by_name(
    server: PostgresDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.run("CREATE TABLE customers (note text)", "INSERT INTO customers VALUES (repeat('x', 5000000))")
    monkeypatch.setattr(records, "MAX_RECORD_OCTETS", 4_000_000)

    with pytest.raises(Refused) as refused:
        rows_of(source, source.contract(column("note")))

    assert refused.value.reason is Reason.SOURCE_LIMIT_EXCEEDED


# ---- the driver --------------------------------------------------------------------------------------------


TEXTS = [None, "", "NULL", "é😀", "a\nb\r\n", '"', "a,b", " ", "x" * 20_000 + "😀"]


def make_notes(server: PostgresDatabase) -> None:
    server.run("CREATE TABLE customers (note text)")
    for text in TEXTS:
        server.run("INSERT INTO customers VALUES (" + ("NULL" if text is None else f"'{text}'") + ")")


@pytest.mark.parametrize("driver", ["PostgreSQL Unicode", "PostgreSQL ANSI"])
@pytest.mark.parametrize("fetch", ["bulk", "rows"])
def test_each_build_of_the_driver_gives_the_same_text(
    server: PostgresDatabase, driver: str, fetch: str
) -> None:
    source = by_odbc(server, fetch=fetch).at(server.connection_string(driver=driver))
    make_notes(server)

    rows = rows_of(source, source.contract(column("note")))

    assert [note for (note,) in rows] == TEXTS


def test_values_one_by_one_come_as_they_do_in_records(
    server: PostgresDatabase, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_notes(server)
    server.run("ALTER TABLE customers ADD id int")
    monkeypatch.setattr(PostgresqlDialect, "record_of", lambda *_: None)

    rows = rows_of(source, source.contract(column("note"), column("id", "int32")))

    assert rows == [(text, None) for text in TEXTS]


READ_BY_NAME = """
import os, sys
from support.extraction import SourceKind, bodies, column, make_contract, run_extract

connection = {"connection_string": "env:SOURCE", "dialect": "postgresql"}
contract = make_contract(
    [column("note")], relation=("public", "ä€"), kind=SourceKind.ODBC, connection=connection
)
result, store = run_extract(contract, secrets={"env:SOURCE": os.environ["SOURCE"]})
sys.stdout.buffer.write(bodies(result, store)[0])
"""


def test_a_data_source_by_name_is_read_whatever_the_locale_of_the_process(
    server: PostgresDatabase, tmp_path: Path
) -> None:
    by_odbc(server)
    server.run('CREATE TABLE "ä€" (note text)', "INSERT INTO \"ä€\" VALUES ('é😀')")
    parts = server.parts
    (tmp_path / "odbc.ini").write_text(
        f"[erp]\nDriver=PostgreSQL Unicode\nServername={parts['host']}\nPort={parts['port']}\n"
        f"Database={parts['dbname']}\nUsername={server.reader}\n"
    )
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "1",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "ODBCINI": str(tmp_path / "odbc.ini"),
        "SOURCE": f"DSN=erp;PWD={{{PASSWORD.replace('}', '}}')}}}",
    }

    done = subprocess.run(
        [sys.executable, "-c", READ_BY_NAME], env=environment, capture_output=True, timeout=120, check=False
    )

    assert done.stderr.decode() == ""
    assert done.stdout.decode() == '"é😀"\n'


@pytest.fixture
def relays() -> Iterator[Relays]:
    with Relays().running() as relays:
        yield relays


@pytest.mark.timeout(120)
def test_a_server_that_falls_silent_is_left_and_asked_again_when_it_is_back(
    server: PostgresDatabase, source: Source, relays: Relays
) -> None:
    server.run("CREATE TABLE customers (id int)", "INSERT INTO customers VALUES (1)")
    port = relays.open(int(str(server.parts["port"])), dependency="database")
    address = (
        server.connection_string(port=port)
        if source.address.startswith("Driver")
        else server.url("postgresql+psycopg", port=port)
    )
    relayed = replace(source, address=address).with_timeout(1)

    with reader_on(relayed, relayed.contract(column("id", "int32"))) as reader:
        reader.clock()
        with relays.away("database", Away.FORGETFUL):
            began_at = time.monotonic()
            with pytest.raises(SourceUnavailable):
                reader.clock()
            waited_seconds = time.monotonic() - began_at
        count = reader.count_rows()

    assert waited_seconds < 30
    assert count == 1


def test_a_batch_ends_if_the_server_falls_silent_in_the_midst_of_it(
    server: PostgresDatabase, source: Source, relays: Relays
) -> None:
    server.run(
        "CREATE TABLE customers (id int, note varchar(100))",
        "INSERT INTO customers SELECT n, repeat('x', 100) FROM generate_series(1, 200000) AS n",
    )
    port = relays.open(int(str(server.parts["port"])), dependency="database")
    address = (
        server.connection_string(port=port)
        if source.address.startswith("Driver")
        else server.url("postgresql+psycopg", port=port)
    )
    relayed = replace(source, address=address).with_timeout(3)
    contract = relayed.contract(column("id", "int32"), column("note"))

    def read() -> None:
        with (
            reader_on(relayed, contract, chunk_size_in_bytes=10_000) as reader,
            reader.open_snapshot(WINDOW) as snapshot,
        ):
            chunks = snapshot.read()
            next(chunks)
            with relays.away("database", Away.FORGETFUL):
                list(chunks)

    began_at = time.monotonic()
    with pytest.raises(SourceUnavailable, match=r"customers"):
        read()

    assert time.monotonic() - began_at < 40


def test_a_relation_that_nothing_locks_fails_the_batch_if_it_changes(
    server: PostgresDatabase, source: Source
) -> None:
    server.run("CREATE MATERIALIZED VIEW customers AS SELECT 1 AS id")

    with (
        reader_on(source, source.contract(column("id", "int32"))) as reader,
        reader.open_snapshot(WINDOW) as snapshot,
    ):
        before = snapshot.fingerprint
        server.run(
            "DROP MATERIALIZED VIEW customers",
            "CREATE MATERIALIZED VIEW customers AS SELECT 1 AS id, 2 AS more",
        )
        after = snapshot.current_fingerprint()

    assert before != after


def test_values_do_not_get_into_errors(server: PostgresDatabase, source: Source) -> None:
    server.run(
        "CREATE TABLE base (name text)",
        "INSERT INTO base VALUES ('clear-name')",
        "CREATE VIEW customers AS SELECT name::int AS id FROM base",
    )

    with pytest.raises(Refused) as refused:
        rows_of(source, source.contract(column("id", "int32")))

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "clear-name" not in str(refused.value) + repr(refused.value.__cause__)


def test_rows_hidden_by_a_policy_are_not_passed_over(server: PostgresDatabase, source: Source) -> None:
    server.run(
        "CREATE TABLE customers (id int)",
        "ALTER TABLE customers ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY nothing ON customers USING (false)",
    )

    with pytest.raises(Refused) as refused:
        rows_of(source, source.contract(column("id", "int32")))

    assert refused.value.reason is Reason.TABLE_MISSING
    assert SECRET not in str(refused.value)
