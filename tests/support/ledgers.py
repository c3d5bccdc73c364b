"""Ledgers for tests: in memory under a clock that the test moves, and on PostgreSQL."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import psycopg
from psycopg import sql
from support.ledger_rows import NOON

from infra import migrations
from local.postgres import EmbeddedPostgres
from shared.ledger.postgres import PostgresLedger


class SteppingClock:
    """A clock that stands still until it is moved."""

    def __init__(self, moment: datetime = NOON) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        return self.moment

    def advance(self, **duration: float) -> None:
        """Move on by `seconds=`, `minutes=`, `hours=` …"""
        self.moment += timedelta(**duration)


@contextmanager
def migrated_template(server: EmbeddedPostgres) -> Iterator[str]:
    """Create a migrated database to copy others from: quicker than to migrate each."""
    with new_database(server) as name:
        migrations.upgrade(server.dsn(name))
        yield name


@contextmanager
def copied_database(server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """Create a database as a copy and return its DSN; it is dropped afterwards."""
    with new_database(server, template=template) as name:
        yield server.dsn(name)


@contextmanager
def postgres_ledger(dsn: str, *, statement_timeout_seconds: int = 30) -> Iterator[PostgresLedger]:
    """Open a ledger and close its pool afterwards."""
    ledger = PostgresLedger(dsn, statement_timeout_seconds=statement_timeout_seconds)
    yield ledger
    ledger.close()


@contextmanager
def new_database(server: EmbeddedPostgres, *, template: str = "template0") -> Iterator[str]:
    """Create a database, as a copy if it is told of which, and give its name; it is dropped afterwards."""
    name = f"ledger_{secrets.token_hex(6)}"
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
