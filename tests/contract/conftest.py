"""Both ledgers, for the suites that every ledger has to pass."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from support.ledgers import copied_database, migrated_template, postgres_ledger

from local.postgres import EmbeddedPostgres
from shared.ledger.memory import MemoryLedger
from shared.ports import Ledger


@pytest.fixture(scope="module")
def template(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a migrated database that tests copy."""
    with migrated_template(postgres_server) as name:
        yield name


@pytest.fixture
def dsn(postgres_server: EmbeddedPostgres, template: str) -> Iterator[str]:
    """The DSN of an empty ledger in PostgreSQL."""
    with copied_database(postgres_server, template) as dsn:
        yield dsn


@pytest.fixture(params=["memory", "postgres"])
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """An empty ledger: one in memory, one in PostgreSQL."""
    if request.param == "memory":
        yield MemoryLedger(lambda: datetime.now(UTC))
        return
    with postgres_ledger(request.getfixturevalue("dsn")) as ledger:
        yield ledger
