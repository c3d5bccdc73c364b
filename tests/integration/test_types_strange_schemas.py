"""A schema that nobody has seen before is discovered, read and published: every value exact, or its row counted as rejected."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.carrying import carry
from support.databases import (
    SECRET,
    MariaDbDatabase,
    PostgresDatabase,
    Source,
    by_odbc,
    by_sqlalchemy,
    natively,
)
from support.mariadb import MariaDbServer
from support.strange_schemas import Choice, StrangeTable, strange_tables
from support.type_values import MARIADB_VALUES, POSTGRES_SETUP, POSTGRES_VALUES

from services.extractor.dialects.postgresql import SESSION_SETTINGS
from services.extractor.discovery.postgres import discover_postgres
from services.extractor.discovery.sql import discover_sql
from services.extractor.readers.sql import driver_of
from shared.catalog import load_sources
from shared.domain.contracts import Content, Mask, MaskKind, Publishing, SourceKind, TableContract, Target
from shared.secrets.memory import MemorySecrets

SEEDS = [1, 2]


def by_odbc_in_rows(database: PostgresDatabase | MariaDbDatabase) -> Source:
    """Through pyodbc, row by row."""
    return by_odbc(database, fetch="rows")


def declared(directory: Path, text: str) -> dict[str, TableContract]:
    """The contracts of a discovered file by name at the source, with every column kept, published as native tables."""
    (directory / "shop.yaml").write_text(text)
    # A key of text is withheld until somebody decides; ours are numbers.
    found = load_sources(directory).contracts()
    return {
        contract.relation[1]: replace(
            contract,
            columns=tuple(
                replace(column, mask=Mask(MaskKind.KEEP), content=Content.VALUE)
                for column in contract.columns
            ),
            publishing=Publishing(contract.publishing.mode, Target.NATIVE),
        )
        for contract in found
    }


def values_of(dsn: str, *relation: str) -> dict[int, list[str | None]]:
    """The rows of a relation by number, each value as the server writes it."""
    with psycopg.connect(dsn, options="-c TimeZone=UTC") as connection:
        for name, value in SESSION_SETTINGS.items():
            connection.execute(sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        cursor = connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(*relation)))
        result = cursor.pgresult
        assert result is not None
        rows = [
            [
                None if (value := result.get_value(row, position)) is None else value.decode()
                for position in range(result.nfields)
            ]
            for row in range(result.ntuples)
        ]
    return {int(row[0] or 0): row[1:] for row in rows}


def assert_counted(counts: Mapping[str, int], table: StrangeTable) -> None:
    assert counts["rows_read"] == len(table.rows)
    assert counts["rows_rejected"] == len(table.rows) - len(table.arriving)
    assert counts["rows_in_final"] == len(table.arriving)


def discovered(source: Source) -> str:
    """The file that discovery writes of a source."""
    secrets = MemorySecrets(source.secrets)
    if source.kind is SourceKind.POSTGRES:
        return discover_postgres(source.address, source="shop", reference=SECRET, schemas=["public"])
    driver = driver_of(
        source.kind,
        source.connection,
        dialect=source.server.dialect.name,
        secrets=secrets,
        connect_timeout_seconds=10,
        place="source 'shop'",
    )
    connection = {name: text for name, text in source.connection.items() if text == SECRET}
    return discover_sql(
        driver,
        source.server.dialect,
        source="shop",
        kind=source.kind,
        connection=connection,
        schemas=[source.server.schema],
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reached", [natively, by_odbc, by_odbc_in_rows, by_sqlalchemy])
def test_a_schema_of_postgresql_arrives(
    fresh_database: str, tmp_path: Path, reached: Callable[[PostgresDatabase], Source], seed: int
) -> None:
    choices = {
        type_: [
            *(Choice(sql.Literal(value).as_string()) for value in arriving),
            *(Choice(sql.Literal(value).as_string(), None) for value in rejected),
        ]
        for type_, (arriving, rejected) in POSTGRES_VALUES.items()
    }
    tables = strange_tables(choices, seed=seed, integer="integer", name_bytes=63)
    database = PostgresDatabase(fresh_database)
    source = reached(database)
    source.run(POSTGRES_SETUP, *(made for table in tables for made in table.statements(source.quote)))
    contracts = declared(tmp_path, discovered(source))

    for table in tables:
        counts = carry(contracts[table.name], secrets=source.secrets, warehouse=fresh_database)

        there = values_of(fresh_database, "public", table.name)
        assert values_of(fresh_database, "shop", contracts[table.name].table) == {
            number: there[number] for number in table.arriving
        }
        assert_counted(counts, table)
    database.leave()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("reached", [by_odbc, by_odbc_in_rows, by_sqlalchemy])
def test_a_schema_of_mariadb_arrives(
    mariadb_server: MariaDbServer,
    fresh_mariadb_database: str,
    fresh_database: str,
    tmp_path: Path,
    reached: Callable[[MariaDbDatabase], Source],
    seed: int,
) -> None:
    choices = {
        type_: [Choice(literal, text) for literal, text in values.items()]
        for type_, values in MARIADB_VALUES.items()
        if not type_.startswith("LONG")
    }
    tables = strange_tables(choices, seed=seed, integer="INT", name_bytes=63)
    database = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    source = reached(database)
    source.run(
        "SET sql_mode = ''",
        "SET time_zone = '+05:45'",
        *(made for table in tables for made in table.statements(source.quote)),
    )
    contracts = declared(tmp_path, discovered(source))

    for table in tables:
        counts = carry(contracts[table.name], secrets=source.secrets, warehouse=fresh_database)

        assert values_of(fresh_database, "shop", contracts[table.name].table) == {
            number: [None if choice is None else plain(choice.text or "") for choice in table.rows[number]]
            for number in table.arriving
        }
        assert_counted(counts, table)
    database.leave()


def plain(text: str) -> str:
    """A value without the quotes that CSV gives it."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
