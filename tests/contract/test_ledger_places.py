"""Many workers at the places of one source in PostgreSQL: never too many, and nobody waits for another in a circle."""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest
from support.ledger_rows import a_batch, a_contract, add_batch
from support.ledgers import copied_database, postgres_ledger

from local.postgres import EmbeddedPostgres
from shared import lifecycle
from shared.domain.batches import Attempt, BatchEvent, BatchState, Stage
from shared.domain.counts import Count
from shared.domain.progress import Expectation
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard, SourceLimits
from shared.errors import LostLease
from shared.ledger.postgres import PostgresLedger
from shared.lifecycle import StageResult
from shared.planning import retire_source
from shared.ports import LedgerTransaction

PLACES = 3
THREADS = 8
SECONDS = 8.0
LEASE = timedelta(seconds=3)
#: Short pauses, so that the breaker opens and closes all the time.
RETRY = RetryPolicy(
    1_000_000, first_pause=timedelta(milliseconds=2), longest_pause=timedelta(milliseconds=20)
)
BATCHES = [a_batch(f"slot {number}", woken_at=None) for number in range(12)]


@pytest.fixture
def ledger(postgres_server: EmbeddedPostgres, template: str) -> Iterator[PostgresLedger]:
    with copied_database(postgres_server, template) as dsn, postgres_ledger(dsn) as ledger:
        with ledger.transaction() as tx:
            tx.save_source_guard(SourceGuard("shop", SourceLimits(PLACES)))
            for batch in BATCHES:
                add_batch(tx, batch)
                tx.append_event(_planned(tx, batch.id))
        yield ledger


class Crowd:
    """Threads that do at random what workers, sweepers and people do with the batches of one source."""

    def __init__(self, ledger: PostgresLedger) -> None:
        self.ledger = ledger
        self.ends_at = time.monotonic() + SECONDS
        self.done: Counter[str] = Counter()
        self.most_running = 0
        self.failures: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=[random.Random(n)]) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=SECONDS + 60)

    def _work(self, dice: random.Random) -> None:
        acts = [self._claim_and_end] * 6 + [self._expire, self._start_deferred, self._wake]
        while time.monotonic() < self.ends_at:
            try:
                dice.choice(acts)(dice)
            except LostLease:
                self.done["lost"] += 1
            except Exception as error:  # noqa: BLE001  whatever it is, the test tells it
                self.failures.append(repr(error))

    def _claim_and_end(self, dice: random.Random) -> None:
        with self.ledger.transaction() as tx:
            attempt = claim(tx, dice.choice(BATCHES).id)
            if attempt is not None:
                # The source is still locked: whoever comes next counts this one.
                self.most_running = max(self.most_running, tx.running_extract_count("shop"))
        if attempt is None:
            self.done["nothing"] += 1
            return
        time.sleep(0.02)
        end = dice.choice(["refuse"] * 16 + ["fail"] * 3 + ["die", "let_go"])
        with self.ledger.transaction() as tx:
            if end == "fail":
                lifecycle.fail_attempt(tx, attempt, detail="connection refused", retry=RETRY)
            elif end == "let_go":
                lifecycle.let_go(tx, attempt)
            elif end == "refuse":
                lifecycle.refuse_attempt(tx, attempt, reason=Reason.TABLE_MISSING, detail="no such table")
        if end == "refuse":
            with self.ledger.transaction() as tx:
                lifecycle.replay(tx, attempt.batch_id, contract=a_contract(), detail="cured")
        self.done[end] += 1

    def _expire(self, dice: random.Random) -> None:
        with self.ledger.transaction() as tx:
            expired = tx.expired_attempts(limit=10)
        for attempt in expired:
            with self.ledger.transaction() as tx:
                self.done["expired"] += lifecycle.expire_attempt(tx, attempt, retry=RETRY)

    def _start_deferred(self, dice: random.Random) -> None:
        with self.ledger.transaction() as tx:
            self.done["started"] += lifecycle.start_deferred(tx, "shop")

    def _wake(self, dice: random.Random) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.wake(tx, dice.choice(BATCHES).id, state=BatchState.PLANNED)


@pytest.mark.slow
def test_workers_of_one_source_never_deadlock_and_never_exceed_its_places(ledger: PostgresLedger) -> None:
    crowd = Crowd(ledger)

    crowd.run()

    assert crowd.failures == []
    assert crowd.most_running == PLACES
    assert {"refuse", "started", "nothing"} <= set(crowd.done)


@pytest.mark.slow
def test_after_any_turmoil_every_batch_of_the_source_gets_its_place(ledger: PostgresLedger) -> None:
    Crowd(ledger).run()

    for _ in range(200):
        with ledger.transaction() as tx:
            tx.mark_sent([item.id for item in tx.pending_messages(limit=10_000)])  # every message is lost
            waiting = [batch for batch in tx.batches() if batch.state is not BatchState.EXTRACTED]
        if not waiting:
            break
        _sweep(ledger)
        _receive_all(ledger)
        time.sleep(0.05)

    assert not waiting


def test_a_source_can_be_retired_while_somebody_registers_it(ledger: PostgresLedger) -> None:
    expectation = Expectation("shop", "orders", LEASE, LEASE, since=a_batch().planned_at)
    with ledger.transaction() as tx:
        tx.save_expectation(expectation)
    retired: list[int] = []
    retiring = threading.Thread(target=lambda: retired.append(retire_source("shop", ledger=ledger)))

    with ledger.transaction() as tx:  # as registering does it
        tx.source_guard("shop")
        retiring.start()
        time.sleep(0.5)
        tx.save_expectation(expectation)
    retiring.join(30)

    assert retired == [1]


def _sweep(ledger: PostgresLedger) -> None:
    with ledger.transaction() as tx:
        expired = tx.expired_attempts(limit=100)
        states = [BatchState.PLANNED]
        sleeping = tx.batches_to_wake(states=states, woken_before=[tx.now()], limit=100)
    for attempt in expired:
        with ledger.transaction() as tx:
            lifecycle.expire_attempt(tx, attempt, retry=RETRY)
    for batch in sleeping:
        with ledger.transaction() as tx:
            lifecycle.wake(tx, batch.id, state=batch.state)
    with ledger.transaction() as tx:
        lifecycle.start_deferred(tx, "shop")


def _receive_all(ledger: PostgresLedger) -> None:
    """Do the work that the messages of the outbox ask for, and only that."""
    with ledger.transaction() as tx:
        bodies = [item.message.body for item in tx.pending_messages(limit=1_000)]
    asked = [batch for batch in BATCHES if any(batch.id in body for body in bodies)]
    for batch in asked:
        with ledger.transaction() as tx:
            attempt = claim(tx, batch.id)
        if attempt is not None:
            with ledger.transaction() as tx:
                result = StageResult(counts={Count.ROWS_READ: 0, Count.ROWS_WRITTEN: 0})
                lifecycle.complete(tx, attempt, result)


def claim(tx: LedgerTransaction, batch_id: str) -> Attempt | None:
    return lifecycle.claim(tx, batch_id, Stage.EXTRACT, worker="w", lease=LEASE, retry=RETRY)


def _planned(tx: LedgerTransaction, batch_id: str) -> BatchEvent:
    return BatchEvent(batch_id, 1, None, BatchState.PLANNED, tx.now(), "planner")
