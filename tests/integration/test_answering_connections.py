"""A server that takes everything and answers nothing is left after a bounded time, by each part that asks one."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from support.ledger_rows import a_contract
from support.relay import Away, Relays

from infra.migrations import upgrade
from local.postgres import EmbeddedPostgres
from services.extractor.readers import ReadLimits
from services.extractor.readers.postgres import PostgresReader
from services.publisher.postgres import PostgresWarehouse
from shared.answering import ANSWER_MARGIN_SECONDS, connect
from shared.domain.contracts import Origin, SourceKind
from shared.errors import Unavailable
from shared.ledger.postgres import PostgresLedger
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets

TIMEOUT_SECONDS = 3

#: Both together, and as much again for a machine that is busy.
BOUND_SECONDS = 2 * (TIMEOUT_SECONDS + ANSWER_MARGIN_SECONDS) + 10

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def relays() -> Iterator[Relays]:
    with Relays().running() as relays:
        yield relays


@pytest.fixture
def relayed_dsn(relays: Relays, postgres_server: EmbeddedPostgres, fresh_database: str) -> str:
    port = relays.open(postgres_server.port, dependency="database")
    return fresh_database.replace(f":{postgres_server.port}/", f":{port}/")


def asks_of_ledger(dsn: str) -> Callable[[], object]:
    upgrade(dsn)
    ledger = PostgresLedger(dsn, statement_timeout_seconds=TIMEOUT_SECONDS)

    def ask() -> object:
        with ledger.transaction() as tx:
            return tx.now()

    return ask


def asks_of_source(dsn: str) -> Callable[[], object]:
    origin = Origin("silent", SourceKind.POSTGRES, {"dsn": "env:SOURCE"})
    contract = replace(a_contract().contract, origin=origin)
    secrets = MemorySecrets({"env:SOURCE": dsn})
    limits = ReadLimits(read_timeout_seconds=TIMEOUT_SECONDS)
    return PostgresReader(contract, secrets=secrets, limits=limits).clock


@pytest.mark.parametrize("asks", [asks_of_ledger, asks_of_source])
def test_a_server_that_falls_silent_for_good_is_left_and_the_next_connection_is_answered(
    relays: Relays, relayed_dsn: str, asks: Callable[[str], Callable[[], object]]
) -> None:
    ask = asks(relayed_dsn)
    ask()

    with relays.away("database", Away.FORGETFUL):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            ask()
        waited_seconds = time.monotonic() - began

    assert waited_seconds < BOUND_SECONDS
    ask()


def test_a_warehouse_that_falls_silent_over_a_query_is_left(relays: Relays, relayed_dsn: str) -> None:
    warehouse = PostgresWarehouse(relayed_dsn, store=MemoryObjectStore())

    def ask() -> object:
        return warehouse.query("SELECT pg_sleep(2.5)", row_limit=1, timeout_seconds=TIMEOUT_SECONDS)

    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(ask)
        time.sleep(1)
        with relays.away("database", Away.FORGETFUL), pytest.raises(Unavailable):
            answer.result(timeout=BOUND_SECONDS)


def test_a_call_that_is_under_way_ends_and_so_does_what_is_left_to_do_on_its_connection(
    relays: Relays, relayed_dsn: str
) -> None:
    connection = connect(relayed_dsn, statement_timeout_seconds=TIMEOUT_SECONDS)
    connection.execute("SELECT 1")

    with relays.away("database", Away.FORGETFUL):
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError, match="no answer within 8 seconds"):
            connection.execute("SELECT 2")
        with pytest.raises(psycopg.OperationalError):
            connection.rollback()
        waited_seconds = time.monotonic() - began

    assert connection.closed
    assert waited_seconds < BOUND_SECONDS
