"""A schema that nobody has seen before is discovered, read and published: every value exact, or its row counted as rejected."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from support.carrying import carry
from support.mariadb import OWNER, MariaDbServer
from support.strange_schemas import Choice, StrangeTable, strange_tables
from support.type_values import MARIADB_VALUES, POSTGRES_SETUP, POSTGRES_VALUES

from services.extractor.dialects import DialectName
from services.extractor.dialects.mysql import MysqlDialect
from services.extractor.dialects.postgresql import SESSION_SETTINGS, PostgresqlDialect
from services.extractor.discovery.postgres import discover_postgres
from services.extractor.discovery.sql import discover_sql
from services.extractor.readers.sql import driver_of
from shared.catalog import load_sources
from shared.domain.contracts import Content, Mask, MaskKind, Publishing, SourceKind, TableContract, Target
from shared.secrets.memory import MemorySecrets

SEEDS = [1, 2]


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


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [SourceKind.POSTGRES, SourceKind.ODBC, SourceKind.SQLALCHEMY])
def test_a_schema_of_postgresql_arrives(
    fresh_database: str, tmp_path: Path, kind: SourceKind, seed: int
) -> None:
    quote = PostgresqlDialect().quote
    choices = {
        type_: [
            *(Choice(sql.Literal(value).as_string()) for value in arriving),
            *(Choice(sql.Literal(value).as_string(), None) for value in rejected),
        ]
        for type_, (arriving, rejected) in POSTGRES_VALUES.items()
    }
    tables = strange_tables(choices, seed=seed, integer="integer", name_bytes=63)
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        connection.execute(POSTGRES_SETUP)
        for table in tables:
            for statement in table.statements(quote):
                connection.execute(statement.encode())
    secrets = secrets_of_postgres(fresh_database)
    contracts = declared(tmp_path, discovered_postgres(kind, secrets))

    for table in tables:
        counts = carry(contracts[table.name], secrets=secrets, warehouse=fresh_database)

        there = values_of(fresh_database, "public", table.name)
        assert values_of(fresh_database, "shop", contracts[table.name].table) == {
            number: there[number] for number in table.arriving
        }
        assert_counted(counts, table)


def secrets_of_postgres(dsn: str) -> dict[str, str]:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    return {
        "env:POSTGRES": dsn,
        "env:SQLALCHEMY": dsn.replace("postgresql://", "postgresql+psycopg://"),
        "env:ODBC": f"Driver={{PostgreSQL Unicode}};Server={parts['host']};Port={parts['port']};"
        f"Database={parts['dbname']};UID={parts['user']};PWD={parts['password']}",
    }


def discovered_postgres(kind: SourceKind, secrets: Mapping[str, str]) -> str:
    if kind is SourceKind.POSTGRES:
        return discover_postgres(
            secrets["env:POSTGRES"], source="shop", reference="env:POSTGRES", schemas=["public"]
        )
    return discovered(kind, DialectName.POSTGRESQL, secrets, schema="public")


def discovered(kind: SourceKind, dialect: DialectName, secrets: Mapping[str, str], *, schema: str) -> str:
    """The file of a database that is reached by a driver."""
    key = {SourceKind.ODBC: "connection_string", SourceKind.SQLALCHEMY: "url"}[kind]
    connection = {key: f"env:{kind.name}"}
    driver = driver_of(
        kind,
        connection,
        dialect=dialect,
        secrets=MemorySecrets(secrets),
        connect_timeout_seconds=10,
        place="source 'shop'",
    )
    dialect_itself = {DialectName.POSTGRESQL: PostgresqlDialect, DialectName.MYSQL: MysqlDialect}[dialect]()
    return discover_sql(
        driver, dialect_itself, source="shop", kind=kind, connection=connection, schemas=[schema]
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [SourceKind.ODBC, SourceKind.SQLALCHEMY])
def test_a_schema_of_mariadb_arrives(
    mariadb_server: MariaDbServer,
    fresh_mariadb_database: str,
    fresh_database: str,
    tmp_path: Path,
    kind: SourceKind,
    seed: int,
) -> None:
    choices = {
        type_: [Choice(literal, text) for literal, text in values.items()]
        for type_, values in MARIADB_VALUES.items()
        if not type_.startswith("LONG")
    }
    tables = strange_tables(choices, seed=seed, integer="INT", name_bytes=63)
    for table in tables:
        mariadb_server.run(
            "SET sql_mode = ''",
            "SET time_zone = '+05:45'",
            *table.statements(MysqlDialect().quote),
            database=fresh_mariadb_database,
        )
    secrets = secrets_of_mariadb(mariadb_server, fresh_mariadb_database)
    text = discovered(kind, DialectName.MYSQL, secrets, schema=fresh_mariadb_database)
    contracts = declared(tmp_path, text)

    for table in tables:
        counts = carry(contracts[table.name], secrets=secrets, warehouse=fresh_database)

        assert values_of(fresh_database, "shop", contracts[table.name].table) == {
            number: [None if choice is None else plain(choice.text or "") for choice in table.rows[number]]
            for number in table.arriving
        }
        assert_counted(counts, table)


def plain(text: str) -> str:
    """A value without the quotes that CSV gives it."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def secrets_of_mariadb(server: MariaDbServer, database: str) -> dict[str, str]:
    return {
        "env:SQLALCHEMY": f"mysql+pymysql://{OWNER}:{server.password}@127.0.0.1:{server.port}/{database}",
        "env:ODBC": f"Driver={{MariaDB Unicode}};Server=127.0.0.1;Port={server.port};Database={database};"
        f"UID={OWNER};PWD={server.password}",
    }
