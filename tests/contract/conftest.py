"""Both ledgers, and every way to read a database, for the suites that each has to pass."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.databases import Source
from support.ledgers import copied_database, migrated_template, postgres_ledger
from support.reading import WAYS, source_by

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


@pytest.fixture(params=WAYS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A fresh database, and one of the ways to read it."""
    with source_by(request, tmp_path) as found:
        yield found


@pytest.fixture(params=[name for name in WAYS if "sqlite" not in name])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """The same of products that are servers."""
    with source_by(request, tmp_path) as found:
        yield found
