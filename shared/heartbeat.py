"""The sign of life of an attempt: its lease is renewed while its worker lives, by a thread of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from datetime import timedelta

import structlog

from shared import lifecycle
from shared.domain.batches import Attempt
from shared.errors import LostLease, Unavailable
from shared.ports import Ledger
from shared.telemetry.metric_list import LEASE_RENEWALS
from shared.telemetry.metrics import record

log = structlog.get_logger()


@contextmanager
def renewing(attempt: Attempt, *, ledger: Ledger, lease: timedelta) -> Iterator[None]:
    """
    Renew the lease of an attempt every third of its length while the block runs.

    A worker that hangs keeps its lease only until the task's hard time limit kills it. Losing the lease is
    not signalled into the block: recording its result will be refused.
    """
    finished = threading.Event()
    # In a copy of the context: its log lines are about this attempt, too.
    thread = threading.Thread(
        target=copy_context().run,
        args=(_renew_until, finished, attempt, ledger, lease),
        name="lease-renewal",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(timeout=lease.total_seconds())


def _renew_until(finished: threading.Event, attempt: Attempt, ledger: Ledger, lease: timedelta) -> None:
    while not finished.wait(lease.total_seconds() / 3):
        try:
            with ledger.transaction() as tx:
                lifecycle.renew(tx, attempt, lease=lease)
            outcome = "renewed"
        except LostLease as error:
            log.warning("lease_lost", detail=str(error))
            record(LEASE_RENEWALS, stage=attempt.stage, outcome="lost")
            return
        except Unavailable as error:
            # The ledger may be back before the lease is over.
            log.warning("lease_not_renewed", detail=str(error))
            outcome = "unavailable"
        except Exception:
            # Whatever it is, the next renewal may succeed; without any, every long attempt would be done twice.
            log.exception("lease_renewal_failed")
            outcome = "failed"
        record(LEASE_RENEWALS, stage=attempt.stage, outcome=outcome)
