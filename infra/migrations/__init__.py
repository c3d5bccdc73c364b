"""
Bring the ledger's tables up to date.

    upgrade(dsn)    to the newest revision; nothing happens if it is there already
    current(dsn)    the revision a database is at
    newest()        the revision that this version of the code needs
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shared.ledger.connection import Database
from shared.ledger.tables import SCHEMA

# A lock of ours alone: two deployments that start at once must not create the same table.
_LOCK_NUMBER = 0x657363_6C757361

# Far above any migration, and above the time one has to wait for another.
STATEMENT_TIMEOUT_SECONDS = 900
CONNECT_TIMEOUT_SECONDS = 10


def upgrade(dsn: str) -> None:
    """
    Migrate a database to the newest revision, in one transaction. A second caller waits, and finds nothing to do.

    Raises:
        ConfigurationError: if `dsn` is no connection string.
        Unavailable: if the database cannot be reached.
    """
    database = _database(dsn)
    try:
        with database.transaction() as connection, database.errors_translated(connection):
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            command.upgrade(_configuration(connection), "head")
    finally:
        database.close()


def current(dsn: str) -> str | None:
    """Return the revision of a database; None if it was never migrated."""
    database = _database(dsn)
    try:
        with database.transaction() as connection, database.errors_translated(connection):
            return MigrationContext.configure(
                connection, opts={"version_table_schema": SCHEMA}
            ).get_current_revision()
    finally:
        database.close()


def newest() -> str | None:
    """Return the newest revision, without asking any database."""
    configuration = Config()
    configuration.set_main_option("script_location", _script_location())
    return ScriptDirectory.from_config(configuration).get_current_head()


def _database(dsn: str) -> Database:
    return Database(
        dsn,
        statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
        connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
    )


def _configuration(connection: Connection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", _script_location())
    configuration.attributes["connection"] = connection
    return configuration


def _script_location() -> str:
    # Alembic reads the option as a format string.
    return str(Path(__file__).parent).replace("%", "%%")
