"""SQLite from the file to the view of an analyst: a value arrives as it is, is rejected and counted, or refuses the batch."""

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.carrying import carry
from support.databases import Source, SqliteDatabase, by_odbc, by_sqlalchemy
from support.extraction import column

from services.extractor.dialects.sqlite import SqliteDialect
from shared.domain.contracts import TableContract, Target
from shared.domain.reasons import Reason
from shared.errors import Refused

DIALECT = SqliteDialect()
BYTES = bytes(range(256))

#: Of each declared type: the values that are kept, and what arrives. Ellipsis: the row is rejected.
VALUES: dict[str, list[tuple[Any, Any]]] = {
    "INTEGER": [(-(2**63), -(2**63)), (2**63 - 1, 2**63 - 1), ("12", 12), (1.5, ...), ("x", ...), (None, None)],
    "BOOLEAN": [(0, False), (1, True), (2, ...), ("yes", ...), (None, None)],
    "REAL": [(0.1, 0.1), (5e-324, 5e-324), (-1.7976931348623157e308, -1.7976931348623157e308), (math.inf, math.inf),
             (1.0147586862778776e216, 1.0147586862778776e216), (2**53 + 1, float(2**53)), ("x", ...), (math.nan, None)],
    "TEXT": [("", ""), ("NULL", "NULL"), ('a"b,c\r\n', 'a"b,c\r\n'), ("\ufeffx", "\ufeffx"), (1, "1"), (0.1, "0.1"), (None, None)],
    "BLOB": [(BYTES, BYTES), (b"", b""), ("x", ...), (1, ...), ("\\x00", ...), (None, None)],
    "NUMERIC": [("9223372036854775807", "9223372036854775807"), (0.1, "0.1"), ("1.10", "1.1"), ("x", "x"), (0.1 + 0.2, "0.3000000000000000444")],
    "DATE": [("2026-02-28", "2026-02-28"), ("9999-12-31", "9999-12-31"), ("2026-02-30", ...), (20260228, ...), ("28.2.2026", ...)],
    "DATETIME": [("2026-03-29 02:30:00", "2026-03-29 02:30:00"), ("2026-03-29T02:30:00.123456", "2026-03-29 02:30:00.123456"),
                 ("2026-03-29 02:30:00Z", ...), (1767261600, ...), ("now", ...)],
    "JSON": [('{"a":  1.50}', '{"a":  1.50}'), ("{", ...), ("null", "null")],
    "": [("x", "x"), (1, "1"), (1.5, "1.5"), (None, None)],
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "things.sqlite"


@pytest.fixture(params=[by_odbc, by_sqlalchemy])
def source(request: pytest.FixtureRequest, file: Path) -> Source:
    source: Source = request.param(SqliteDatabase(file))
    return source


def fill(file: Path, *statements: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Run statements, and the last one for each row."""
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        connection.executemany(statements[-1], rows)


def contract_of(source: Source, file: Path, table: str = "things", **types: str) -> TableContract:
    """The contract of a table without a key, all columns kept, in the type that its fate says or that is given."""
    with closing(sqlite3.connect(file)) as connection:
        described = connection.execute("SELECT name, type FROM pragma_table_xinfo(?)", [table]).fetchall()
    columns = [
        column(name, types.get(name, str(DIALECT.fate_of(word).type)), source_type=word)
        for name, word in described
    ]
    return replace(source.contract(*columns, table=table), key=())


def arrived(dsn: str) -> dict[int, Any]:
    with psycopg.connect(dsn) as connection:
        for name in ("date", "timestamp", "json"):
            connection.adapters.register_loader(name, psycopg.types.string.TextLoader)
        return dict(connection.execute("SELECT n, v FROM shop.things").fetchall())


@pytest.mark.parametrize("declared", VALUES)
def test_values_of_every_declared_type_arrive_unchanged_or_are_rejected_and_counted(
    fresh_database: str, source: Source, file: Path, declared: str
) -> None:
    values = VALUES[declared]
    fill(
        file,
        f"CREATE TABLE things (n INTEGER PRIMARY KEY, v {declared})",
        "INSERT INTO things VALUES (?, ?)",
        rows=[(number, value) for number, (value, _) in enumerate(values)],
    )

    counts = carry(contract_of(source, file), secrets=source.secrets, warehouse=fresh_database)

    assert arrived(fresh_database) == {
        number: found for number, (_, found) in enumerate(values) if found is not ...
    }
    assert counts["rows_rejected"] == [found for _, found in values].count(...)
    assert counts["rows_read"] == counts["rows_in_final"] + counts["rows_rejected"]


@pytest.mark.parametrize("value", [b"abc", "a\0b"])
def test_a_text_that_is_none_refuses_the_batch(
    fresh_database: str, source: Source, file: Path, value: object
) -> None:
    fill(file, "CREATE TABLE things (n INTEGER, v TEXT)", "INSERT INTO things VALUES (1, ?)", rows=[(value,)])

    with pytest.raises(Refused) as refused:
        carry(contract_of(source, file), secrets=source.secrets, warehouse=fresh_database)

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "abc" not in str(refused.value)


def test_decimals_kept_as_floats_arrive_with_their_digits(
    fresh_database: str, source: Source, file: Path
) -> None:
    fill(
        file,
        "CREATE TABLE things (n INTEGER, v DECIMAL(15,4))",
        "INSERT INTO things VALUES (?, ?)",
        rows=[(number, f"{number * 7919}.{number:04}") for number in range(1, 2000)],
    )

    counts = carry(
        contract_of(source, file, v="decimal(15,4)"),
        secrets=source.secrets,
        warehouse=fresh_database,
    )

    assert {number: str(value) for number, value in arrived(fresh_database).items()} == {
        number: f"{number * 7919}.{number:04}" for number in range(1, 2000)
    }
    assert counts["rows_rejected"] == 0


@pytest.mark.parametrize(
    "name", ["select", "Mixed Case", "a.b", "qu`ote", 'dou"ble', "100%", ":bind", "?", "[x]", "ñ漢", "x" * 63]
)
def test_a_name_that_means_something_elsewhere_is_carried(
    fresh_database: str, source: Source, file: Path, name: str
) -> None:
    quoted = DIALECT.quote(name)
    source.run(
        f"CREATE TABLE {quoted} (n INTEGER, {quoted} TEXT)", f"INSERT INTO {quoted} VALUES (1, 'here')"
    )

    carry(contract_of(source, file, name), secrets=source.secrets, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        query = psycopg.sql.SQL("SELECT * FROM shop.{}").format(psycopg.sql.Identifier(name))
        assert connection.execute(query).fetchall() == [(1, "here")]


@pytest.mark.parametrize(
    "definitions",
    [
        ["CREATE TABLE things (n INTEGER PRIMARY KEY, v TEXT) WITHOUT ROWID"],
        ["CREATE TABLE things (n INTEGER, v TEXT) STRICT"],
        ["CREATE TABLE base (n INTEGER, v TEXT)", "CREATE VIEW things AS SELECT n, v || '' AS v FROM base"],
        ["CREATE TABLE things (n INTEGER, v TEXT, twice INTEGER AS (n * 2))"],
    ],
    ids=["without rowid", "strict", "view", "generated"],
)
def test_a_relation_of_any_kind_arrives_whole(
    fresh_database: str, source: Source, file: Path, definitions: list[str]
) -> None:
    filled = "base" if "base" in definitions[0] else "things"
    source.run(*definitions, f"INSERT INTO {filled} (n, v) VALUES (1, 'a'), (2, NULL), (3, '')")

    carry(contract_of(source, file), secrets=source.secrets, warehouse=fresh_database)

    assert arrived(fresh_database) == {1: "a", 2: None, 3: ""}


def test_a_file_in_utf16_arrives(fresh_database: str, source: Source, file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("PRAGMA encoding = 'UTF-16le'")
        connection.execute("CREATE TABLE things (n INTEGER, v TEXT)")
        connection.execute("INSERT INTO things VALUES (1, ?)", ["é漢😀"])

    carry(contract_of(source, file), secrets=source.secrets, warehouse=fresh_database)

    assert arrived(fresh_database) == {1: "é漢😀"}


LONG = "é" * 63 + "x"


def test_a_name_of_127_bytes_arrives_where_the_target_has_such_names(
    fresh_database: str, source: Source, file: Path
) -> None:
    source.run(f"CREATE TABLE things (n INTEGER, {LONG} TEXT)", "INSERT INTO things VALUES (1, 'here')")
    contract = contract_of(source, file)
    external = replace(contract, publishing=replace(contract.publishing, target=Target.EXTERNAL))

    counts = carry(external, secrets=source.secrets, warehouse=fresh_database)

    assert counts["rows_in_final"] == 1


def test_a_name_that_the_warehouse_cannot_have_is_refused_by_name_and_nothing_is_published(
    fresh_database: str, source: Source, file: Path
) -> None:
    source.run(f"CREATE TABLE things (n INTEGER, {LONG} TEXT)", "INSERT INTO things VALUES (1, 'here')")

    with pytest.raises(Refused, match=LONG) as refused:
        carry(contract_of(source, file), secrets=source.secrets, warehouse=fresh_database)

    assert refused.value.reason is Reason.TARGET_INCOMPATIBLE
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT to_regclass('shop.things')").fetchone() == (None,)
