"""The lease of an attempt is renewed while its work goes on, whatever a single renewal meets."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta

import pytest
from support.ledger_rows import NOON, a_batch, add_batch, an_event

from shared import lifecycle
from shared.domain.batches import Attempt, Stage
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.heartbeat import renewing
from shared.ledger.memory import MemoryLedger
from shared.ports import LedgerTransaction

LEASE = timedelta(seconds=0.15)


class FlakyLedger:
    """A ledger whose first transaction fails, and which tells when the third began."""

    def __init__(self, plain: MemoryLedger, error: Exception) -> None:
        self._plain = plain
        self._errors = [error]
        self._count = 0
        self.was_asked_again = threading.Event()

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        return self._transaction()

    @contextmanager
    def _transaction(self) -> Iterator[LedgerTransaction]:
        self._count += 1
        if self._count > 2:
            self.was_asked_again.set()
        if self._errors:
            raise self._errors.pop()
        with self._plain.transaction() as tx:
            yield tx


def lease_of(ledger: MemoryLedger, attempt: Attempt) -> datetime:
    with ledger.transaction() as tx:
        stored = tx.attempt(attempt.batch_id, attempt.stage, attempt.number)
    assert stored is not None
    return stored.lease_until


@pytest.mark.parametrize("error", [Unavailable("the ledger is away"), RuntimeError("anything else")])
def test_a_renewal_that_failed_is_tried_again(error: Exception) -> None:
    plain = MemoryLedger(lambda: NOON)
    with plain.transaction() as tx:
        batch = add_batch(tx, a_batch())
    with plain.transaction() as tx:
        tx.append_event(an_event(batch))
        attempt = lifecycle.claim(
            tx, batch.id, Stage.EXTRACT, worker="w", lease=timedelta(0), retry=RetryPolicy(3)
        )
    assert attempt is not None
    ledger = FlakyLedger(plain, error)

    with renewing(attempt, ledger=ledger, lease=LEASE):
        assert ledger.was_asked_again.wait(timeout=30)

    assert lease_of(plain, attempt) == NOON + LEASE
    assert not [thread for thread in threading.enumerate() if thread.name == "lease-renewal"]
