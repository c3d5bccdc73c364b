"""
Which tables this version of the code works with, and whether a database has them.

A process asks before its first transaction: a statement that fails in the midst of a batch says less, and later.
"""

from typing import Final

from sqlalchemy import Connection, text

from shared.errors import ConfigurationError
from shared.ledger.tables import SCHEMA

#: The newest revision in `infra/migrations/versions`. Older tables lack what the statements of this version name, newer
#: ones were only added to. A test holds both numbers to be those of the newest migrations.
NEEDED_REVISION: Final = "0006"
#: The newest revision in `infra/migrations/post_versions`. A newer one removed what this version may name.
KNOWN_POST_REVISION: Final = ""

#: Where a database says how far each phase came. A ledger of version 0.1 has the first only.
PRE_VERSION_TABLE: Final = "alembic_version"
POST_VERSION_TABLE: Final = "alembic_version_post"


def require_revision(connection: Connection, *, name: str) -> None:
    """
    Make sure that the tables are those that this version works with, or newer ones that still hold them.

    `name` is the database's, for the message.

    Raises:
        ConfigurationError: if they are not; the message says what to do.
    """
    found = _revision(connection, PRE_VERSION_TABLE)
    if found < NEEDED_REVISION:
        raise ConfigurationError(
            f"{name}: this version of Esclusa needs tables of revision {NEEDED_REVISION}, found {found or 'none'}; "
            "migrate it first, with `esclusa migrate --phase pre` of this version"
        )
    removed = _revision(connection, POST_VERSION_TABLE)
    if removed > KNOWN_POST_REVISION:
        raise ConfigurationError(
            f"{name}: a newer version of Esclusa removed what this one works with: it knows removals up to "
            f"{KNOWN_POST_REVISION or 'none'}, found {removed}; run the newer version"
        )


def _revision(connection: Connection, version_table: str) -> str:
    """Return how far a phase came; nothing of a phase that never ran."""
    table = f"{SCHEMA}.{version_table}"
    if connection.execute(text("SELECT to_regclass(:table)"), {"table": table}).scalar_one() is None:
        return ""
    return connection.execute(text(f"SELECT max(version_num) FROM {table}")).scalar_one() or ""
