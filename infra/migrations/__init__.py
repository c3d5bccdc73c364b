"""
Bring the ledger's tables up to date, in two phases: what is added before new code runs, what is removed after.

    upgrade(dsn)                 both phases to their newest revision; nothing happens if they are there already
    upgrade(dsn, chains=[PRE])   only what is added
    pending(dsn, PRE)            the revisions that a database lacks
    current(dsn)                 the revision a database is at
    newest()                     the revision that this version of the code needs

`docs/upgrades.md` says what may stand in which phase, and tests/house holds it.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from shared.errors import ConfigurationError, Unavailable
from shared.ledger.connection import Database
from shared.ledger.revision import POST_VERSION_TABLE, PRE_VERSION_TABLE
from shared.ledger.tables import SCHEMA

log = structlog.get_logger()

# A lock of ours alone: two deployments that start at once must not create the same table.
_LOCK_NUMBER = 0x657363_6C757361

# Far above any migration, and above the time one has to wait for another.
STATEMENT_TIMEOUT_SECONDS = 900
CONNECT_TIMEOUT_SECONDS = 10

# Whoever waits for the lock of a table makes everybody else wait behind it: the fleet stands still for as long. So a
# migration gives way, and tries again.
LOCK_TIMEOUT_SECONDS = 5
LOCK_ATTEMPTS = 12
LOCK_PAUSE_SECONDS = 5.0


class Phase(StrEnum):
    """When a migration runs."""

    #: Before any process of the new version starts. It only adds, so that processes of the version before go on.
    PRE = "pre"
    #: When no process of the version before is left. It removes what only that one used.
    POST = "post"


@dataclass(frozen=True, slots=True)
class Chain:
    """The migrations of one phase, one after the other."""

    phase: Phase
    directory: Path
    #: The table of the ledger that says how far the chain came.
    version_table: str


PRE: Final = Chain(Phase.PRE, Path(__file__).parent / "versions", PRE_VERSION_TABLE)
POST: Final = Chain(Phase.POST, Path(__file__).parent / "post_versions", POST_VERSION_TABLE)


def upgrade(dsn: str, *, chains: Sequence[Chain] = (PRE, POST)) -> list[str]:
    """
    Migrate a database to the newest revision of each chain; return what ran, as `pre 0002`.

    All of it is one transaction. A second caller waits, and finds nothing to do. A database that a newer version
    migrated is left as it is.

    Raises:
        ConfigurationError: if `dsn` is no connection string, or the phase before was not run.
        Unavailable: if the database cannot be reached, or a table stayed locked by others.
    """
    database = _database(dsn)
    try:
        for attempts_left in reversed(range(LOCK_ATTEMPTS)):
            try:
                with database.transaction() as connection, database.errors_translated(connection):
                    return _upgrade(connection, chains, name=database.name)
            except Unavailable as error:
                if not attempts_left or not isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
                    raise
                log.warning("ledger_locked", error=str(error), pause_seconds=LOCK_PAUSE_SECONDS)
                time.sleep(LOCK_PAUSE_SECONDS)
        raise AssertionError("the last attempt returns or raises")
    finally:
        database.close()


def pending(dsn: str, chain: Chain = PRE) -> list[str]:
    """Return the revisions of a chain that a database lacks, in the order in which they would run."""
    found = current(dsn, chain) or ""
    return [revision for revision in revisions(chain) if revision > found]


def current(dsn: str, chain: Chain = PRE) -> str | None:
    """Return the revision of a database; None if it was never migrated."""
    database = _database(dsn)
    try:
        with database.transaction() as connection, database.errors_translated(connection):
            return _current(connection, chain)
    finally:
        database.close()


def newest(chain: Chain = PRE) -> str | None:
    """Return the newest revision, without asking any database; None if the chain has none."""
    return next(reversed(revisions(chain)), None)


def revisions(chain: Chain = PRE) -> list[str]:
    """
    Return the revisions of a chain, the first one first. They are numbers of four digits: their order is that of text.
    """
    scripts = ScriptDirectory.from_config(_configuration(chain))
    return [script.revision for script in reversed(list(scripts.walk_revisions()))]


def _upgrade(connection: Connection, chains: Sequence[Chain], *, name: str) -> list[str]:
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _LOCK_NUMBER})
    # Not before: another deployment may take its time.
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    done = []
    for chain in chains:
        found = _current(connection, chain) or ""
        if chain.phase is Phase.POST:
            _require_pre(connection, name=name)
        missing = [revision for revision in revisions(chain) if revision > found]
        if not missing:
            continue
        configuration = _configuration(chain)
        configuration.attributes["connection"] = connection
        configuration.attributes["version_table"] = chain.version_table
        command.upgrade(configuration, "head")
        done += [f"{chain.phase} {revision}" for revision in missing]
    return done


def _require_pre(connection: Connection, *, name: str) -> None:
    found, expected = _current(connection, PRE) or "", newest(PRE) or ""
    if found < expected:
        raise ConfigurationError(
            f"{name}: expected revision {expected} before anything is removed, found {found or 'none'}; run "
            "`esclusa migrate --phase pre`, replace every process of the version before, and then run this again"
        )


def _current(connection: Connection, chain: Chain) -> str | None:
    return MigrationContext.configure(
        connection, opts={"version_table_schema": SCHEMA, "version_table": chain.version_table}
    ).get_current_revision()


def _database(dsn: str) -> Database:
    return Database(
        dsn,
        statement_timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
        connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
    )


def _configuration(chain: Chain) -> Config:
    configuration = Config()
    for option, path in (("script_location", Path(__file__).parent), ("version_locations", chain.directory)):
        # Alembic reads the option as a format string.
        configuration.set_main_option(option, str(path).replace("%", "%%"))
    # A directory may have blanks and colons in its name.
    configuration.set_main_option("path_separator", "newline")
    return configuration
