"""The databases that are read, each with the ways to read it: one suite asks the same of all."""

import secrets
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict
from support.extraction import make_contract
from support.mariadb import MariaDbServer
from support.needs import require_odbc_driver

from local.ports import LOOPBACK
from services.extractor.dialects import Dialect, DialectName
from services.extractor.dialects.registry import dialect_of
from shared.domain.contracts import Column, Cursor, SourceKind, TableContract

#: Kept by the reader's login; no error may show it. With what breaks a careless connection string.
PASSWORD = "hidden;word}@/%"

SECRET = "env:SOURCE"


class Server(Protocol):
    """What a database can be told by its owner."""

    dialect: Dialect
    #: What stands before a table's name.
    schema: str
    #: The words of types for: an integer of 32 bits, one of 64, any text, a moment in UTC to the microsecond.
    integer: str
    bigint: str
    text: str
    moment: str

    def run(self, *statements: str) -> None:
        """Run statements, each a transaction of its own."""
        ...


class PostgresDatabase:
    """A database of PostgreSQL with a login that may read it."""

    dialect = dialect_of(DialectName.POSTGRESQL)
    schema = "public"
    integer, bigint, text, moment = "integer", "bigint", "text", "timestamp(6) without time zone"

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.parts = conninfo_to_dict(dsn)
        self.reader = f"reader_{secrets.token_hex(4)}"
        self.run(
            f"CREATE ROLE {self.reader} LOGIN PASSWORD '{PASSWORD}'",
            f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {self.reader}",
        )

    def run(self, *statements: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[call-overload]

    def leave(self) -> None:
        """Drop the login."""
        self.run(f"DROP OWNED BY {self.reader}", f"DROP ROLE {self.reader}")

    def connection_string(
        self, *, port: object = None, password: str = PASSWORD, driver: str = "PostgreSQL Unicode"
    ) -> str:
        """As ODBC has it."""
        escaped = password.replace("}", "}}")
        return (
            f"Driver={{{driver}}};Server={LOOPBACK};Port={port or self.parts['port']};"
            f"Database={self.parts['dbname']};UID={self.reader};PWD={{{escaped}}}"
        )

    def url(self, scheme: str, *, port: object = None, password: str = PASSWORD) -> str:
        """As psycopg and SQLAlchemy have it."""
        place = f"{LOOPBACK}:{port or self.parts['port']}/{self.parts['dbname']}"
        return f"{scheme}://{self.reader}:{quote(password, safe='')}@{place}"


class MariaDbDatabase:
    """A database of MariaDB with a login that may read it."""

    dialect = dialect_of(DialectName.MYSQL)
    integer, bigint, text, moment = "int(11)", "bigint(20)", "longtext", "datetime(6)"

    def __init__(self, server: MariaDbServer, name: str) -> None:
        self._server = server
        self.schema = name
        self.reader = f"reader_{secrets.token_hex(4)}"
        self.run(
            f"CREATE USER {self.reader}@'%' IDENTIFIED BY '{PASSWORD}'",
            f"GRANT SELECT ON {name}.* TO {self.reader}",
        )

    def run(self, *statements: str) -> None:
        self._server.run(*statements, database=self.schema)

    def leave(self) -> None:
        """Drop the login."""
        self.run(f"DROP USER {self.reader}")

    def connection_string(self, *, port: object = None, password: str = PASSWORD) -> str:
        """As ODBC has it."""
        escaped = password.replace("}", "}}")
        return (
            f"Driver={{MariaDB Unicode}};Server={LOOPBACK};Port={port or self._server.port};"
            f"Database={self.schema};UID={self.reader};PWD={{{escaped}}}"
        )

    def url(self, scheme: str, *, port: object = None, password: str = PASSWORD) -> str:
        """As SQLAlchemy has it."""
        place = f"{LOOPBACK}:{port or self._server.port}/{self.schema}"
        return f"{scheme}://{self.reader}:{quote(password, safe='')}@{place}"


class SqliteDatabase:
    """A database of SQLite, which has no logins."""

    dialect = dialect_of(DialectName.SQLITE)
    schema = "main"
    integer, bigint, text, moment = "INTEGER", "BIGINT", "TEXT", "TIMESTAMP"

    def __init__(self, file: Path) -> None:
        self.file = file
        # Readers and one writer side by side.
        self.run("PRAGMA journal_mode = WAL")

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.file, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)


@dataclass(frozen=True, slots=True)
class Source:
    """A database and a way to read it."""

    server: Server
    kind: SourceKind
    connection: Mapping[str, str]
    #: The connection string or URL that the reference leads to.
    address: str
    #: The same with another password; empty where there is none.
    address_with_wrong_password: str = ""
    #: The same server at a port where nobody listens; empty where there is no server.
    address_of_nobody: str = ""
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> dict[str, str]:
        """What the reference leads to."""
        return {SECRET: self.address}

    def at(self, address: str) -> "Source":
        """The same, reached elsewhere."""
        return replace(self, address=address)

    def with_timeout(self, seconds: int) -> "Source":
        """The same, with a timeout of its own."""
        return replace(self, more={**self.more, "timeout_seconds": str(seconds)})

    def contract(
        self, *columns: Column, table: str = "customers", cursor: Cursor | None = None
    ) -> TableContract:
        """The contract of a table of it."""
        return make_contract(
            columns,
            relation=(self.server.schema, table),
            cursor=cursor,
            kind=self.kind,
            connection={**self.connection, **self.more},
        )

    def quote(self, name: str) -> str:
        """A name in this product's quotes."""
        return self.server.dialect.quote(name)

    def qualified(self, table: str) -> str:
        """A table's name with its schema."""
        return f"{self.quote(self.server.schema)}.{self.quote(table)}"

    def run(self, *statements: str) -> None:
        """Run statements as the owner."""
        self.server.run(*statements)


def by_odbc(server: PostgresDatabase | MariaDbDatabase | SqliteDatabase, *, fetch: str = "bulk") -> Source:
    """A database through its ODBC driver."""
    connection = {"connection_string": SECRET, "dialect": str(server.dialect.name), "fetch": fetch}
    if isinstance(server, SqliteDatabase):
        require_odbc_driver("SQLite3")
        return Source(server, SourceKind.ODBC, connection, f"Driver={{SQLite3}};Database={server.file}")
    is_postgres = isinstance(server, PostgresDatabase)
    require_odbc_driver("PostgreSQL Unicode" if is_postgres else "MariaDB Unicode")
    return Source(
        server,
        SourceKind.ODBC,
        connection,
        server.connection_string(),
        server.connection_string(password=f"not {PASSWORD}"),
        server.connection_string(port=1),
    )


def by_sqlalchemy(server: PostgresDatabase | MariaDbDatabase | SqliteDatabase) -> Source:
    """A database through a driver for Python."""
    connection = {"url": SECRET, "dialect": str(server.dialect.name)}
    if isinstance(server, SqliteDatabase):
        return Source(server, SourceKind.SQLALCHEMY, connection, f"sqlite:///{server.file}")
    scheme = "postgresql+psycopg" if isinstance(server, PostgresDatabase) else "mysql+pymysql"
    return Source(
        server,
        SourceKind.SQLALCHEMY,
        connection,
        server.url(scheme),
        server.url(scheme, password=f"not {PASSWORD}"),
        server.url(scheme, port=1),
    )


def natively(server: PostgresDatabase) -> Source:
    """PostgreSQL by its own protocol."""
    return Source(
        server,
        SourceKind.POSTGRES,
        {"dsn": SECRET},
        server.url("postgresql"),
        server.url("postgresql", password=f"not {PASSWORD}"),
        server.url("postgresql", port=1),
    )
