"""Thousands of random values by every way from every database to the warehouse, compared with what Python put in."""

import math
import random
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.carrying import carry
from support.databases import (
    MariaDbDatabase,
    PostgresDatabase,
    Source,
    SqliteDatabase,
    by_odbc,
    by_sqlalchemy,
    natively,
)
from support.extraction import column
from support.mariadb import MariaDbServer

ROW_COUNT = 3000

#: Of each product, the types of: a number, a float of each size, a decimal, a moment, a text, bytes.
TYPES = {
    "postgresql": ["bigint", "double precision", "real", "numeric(38,10)", "timestamp", "text", "bytea"],
    "mysql": ["BIGINT", "DOUBLE", "FLOAT", "DECIMAL(38,10)", "DATETIME(6)", "LONGTEXT", "LONGBLOB"],
    "sqlite": ["INTEGER", "REAL", "REAL", "TEXT", "DATETIME", "TEXT", "BLOB"],
}
NAMES = ["n", "whole", "wide", "narrow", "exact", "moment", "words", "bytes"]

WAYS = {
    "postgresql natively": (PostgresDatabase, natively),
    "postgresql by odbc": (PostgresDatabase, by_odbc),
    "postgresql by sqlalchemy": (PostgresDatabase, by_sqlalchemy),
    "mariadb by odbc": (MariaDbDatabase, by_odbc),
    "mariadb by sqlalchemy": (MariaDbDatabase, by_sqlalchemy),
    "sqlite by odbc": (SqliteDatabase, by_odbc),
    "sqlite by sqlalchemy": (SqliteDatabase, by_sqlalchemy),
}


def random_rows(seed: int) -> list[tuple[Any, ...]]:
    """Values of which each column's type holds every one, NULLs among them."""
    dice = random.Random(seed)
    return [(number, *_random_row(dice)) for number in range(ROW_COUNT)]


def _random_row(dice: random.Random) -> list[Any]:
    row = [
        dice.randrange(-(2**63), 2**63) >> dice.randrange(64),
        _float(dice, "<d"),
        _float(dice, "<f"),
        Decimal(dice.randrange(-(10**38) + 1, 10**38) // 10 ** dice.randrange(38)).scaleb(-10),
        datetime(1, 1, 2) + timedelta(microseconds=dice.randrange(9998 * 365 * 86400 * 10**6)),  # noqa: DTZ001
        "".join(chr(_code_point(dice)) for _ in range(dice.randrange(12))),
        dice.randbytes(dice.randrange(20)),
    ]
    return [None if dice.random() < 1 / 20 else value for value in row]


def _float(dice: random.Random, layout: str) -> float:
    while True:
        (found,) = struct.unpack(layout, dice.randbytes(struct.calcsize(layout)))
        if math.isfinite(found):
            return float(found)


def _code_point(dice: random.Random) -> int:
    if dice.random() < 1 / 2:
        return ord(dice.choice("\",\n\r\\'\ta \x01\x7f"))
    point = dice.randrange(1, 0x110000)
    return point if not 0xD800 <= point < 0xE000 else 0x20


@pytest.fixture(params=WAYS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    kind, reached = WAYS[request.param]
    database: Any
    if kind is PostgresDatabase:
        database = PostgresDatabase(request.getfixturevalue("fresh_database"))
    elif kind is MariaDbDatabase:
        server, name = (
            request.getfixturevalue("mariadb_server"),
            request.getfixturevalue("fresh_mariadb_database"),
        )
        database = MariaDbDatabase(server, name)
    else:
        database = SqliteDatabase(tmp_path / "things.sqlite")
    yield reached(database)
    if kind is not SqliteDatabase:
        database.leave()


def fill(source: Source, dsn: str, mariadb: MariaDbServer | None, rows: Sequence[tuple[Any, ...]]) -> None:
    """Make the table and put the rows in, by the product's own driver for Python."""
    types = TYPES[source.server.dialect.name]
    names = [f"{source.quote(name)} {type_}" for name, type_ in zip(NAMES, ["INTEGER", *types], strict=True)]
    source.run(f"CREATE TABLE things ({', '.join(names)})")
    marks = ", ".join(["%s"] * len(names))
    if isinstance(source.server, PostgresDatabase):
        with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO things VALUES ({marks})", rows)
    elif isinstance(source.server, SqliteDatabase):
        adapted = [tuple(map(_as_sqlite_keeps, row)) for row in rows]
        with closing(sqlite3.connect(source.server.file)) as connection, connection:
            connection.executemany(f"INSERT INTO things VALUES ({marks.replace('%s', '?')})", adapted)
    else:
        assert mariadb is not None
        with (
            closing(mariadb.connect(database=source.server.schema)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.executemany(f"INSERT INTO things VALUES ({marks})", rows)


def _as_sqlite_keeps(value: Any) -> Any:
    """It has neither decimals nor moments: people write them as text."""
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value) if isinstance(value, datetime) else value


def test_random_values_arrive_as_python_put_them_in(
    request: pytest.FixtureRequest, fresh_database: str, source: Source
) -> None:
    rows = random_rows(seed=7)
    mariadb = (
        request.getfixturevalue("mariadb_server") if isinstance(source.server, MariaDbDatabase) else None
    )
    fill(source, fresh_database, mariadb, rows)
    kinds = ["int32", "int64", "float64", "float32", "decimal(38,10)", "timestamp", "string", "binary"]
    if isinstance(source.server, SqliteDatabase):
        kinds[0], kinds[3] = "int64", "float64"
    columns = [column(name, kind) for name, kind in zip(NAMES, kinds, strict=True)]

    counts = carry(
        source.contract(*columns, table="things"), secrets=source.secrets, warehouse=fresh_database
    )

    assert counts["rows_rejected"] == 0
    with psycopg.connect(fresh_database) as connection:
        found = connection.execute("SELECT * FROM shop.things ORDER BY n", binary=True).fetchall()
    assert len(found) == ROW_COUNT
    for expected, arrived in zip(rows, found, strict=True):
        assert expected == arrived
