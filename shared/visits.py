"""
Visits at a source: whoever connects to it and is no batch counts among its connections, in the whole fleet.

What a visit takes stands in the ledger under a lease that is renewed while the visitor lives; one that dies is
counted until its lease is over. A source whose file says nothing of `max_connections` is visited freely.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

import structlog

from shared.domain.sources import CONNECTIONS_OF_AN_EXTRACT, SourceGuard, Visit
from shared.errors import Unavailable
from shared.lifecycle import start_deferred
from shared.ports import Ledger

log = structlog.get_logger()

LEASE = timedelta(minutes=1)
#: A command waits no longer for a free connection.
PATIENCE = timedelta(minutes=2)
PAUSE = timedelta(seconds=1)


class SourceBusy(Unavailable):
    """All connections that a source allows are taken. Later there may be one."""


@contextmanager
def visiting(
    source: str,
    *,
    who: str,
    ledger: Ledger,
    connection_count: int = 1,
    may_go_uncounted: bool = False,
    patience: timedelta = PATIENCE,
    lease: timedelta = LEASE,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[None]:
    """
    Hold connections to a source while the block runs, once so many are free.

    `may_go_uncounted`: for those who look at a source also while the ledger is away, and nobody can count.

    Raises:
        SourceBusy: if they are not in so much time.
        Unavailable: if the ledger does not answer.
    """
    visit_id = secrets.token_hex(8)
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            found = _arrive(source, visit_id, who, connection_count, ledger=ledger, lease=lease)
        except Unavailable as error:
            if not may_go_uncounted:
                raise
            log.warning("visit_not_counted", source=source, detail=str(error))
            found = None
        if not isinstance(found, str):
            break
        if time.monotonic() >= deadline:
            raise SourceBusy(f"{found}, for {patience.total_seconds():.0f} s; try later, or raise it")
        sleep(PAUSE.total_seconds())
    if found is None:
        yield
        return
    finished = threading.Event()
    renewal = threading.Thread(
        target=_renew_until,
        args=(finished, found),
        kwargs={"source": source, "ledger": ledger, "lease": lease},
        name="visit-renewal",
        daemon=True,
    )
    renewal.start()
    try:
        yield
    finally:
        finished.set()
        renewal.join(timeout=lease.total_seconds())
        _leave(source, visit_id, ledger=ledger)


def _arrive(
    source: str, visit_id: str, who: str, connection_count: int, *, ledger: Ledger, lease: timedelta
) -> Visit | str | None:
    """Take connections. Return the visit; None if nobody counts them; or, as a text, why there are none."""
    with ledger.transaction() as tx:
        # Not locked, and not made: a source that nobody registered is none of the ledger's.
        known = {guard.source: guard.limits for guard in tx.source_guards()}
        if source not in known or known[source].max_connections is None:
            return None
        guard, now = tx.source_guard(source), tx.now()
        running = tx.running_extract_count(source)
        free = guard.free_connections(running=running, now=now)
        if free is not None and connection_count > free:
            return _told(guard, connection_count, running=running, present=guard.present(now))
        visit = Visit(visit_id, who, connection_count, now + lease)
        tx.save_source_guard(guard.after_arrival(visit, now))
        return visit


def _told(guard: SourceGuard, connection_count: int, *, running: int, present: tuple[Visit, ...]) -> str:
    taken = [f"{running} batches ({running * CONNECTIONS_OF_AN_EXTRACT})"] if running else []
    taken += [f"{visit.who} ({visit.connection_count})" for visit in present]
    return (
        f"source {guard.source!r}: expected {connection_count} of its {guard.limits.max_connections} connections "
        f"(limits.max_connections) to be free, of which {CONNECTIONS_OF_AN_EXTRACT} are left to batches; found "
        f"{', '.join(taken) or 'none'} at it"
    )


def _renew_until(
    finished: threading.Event, visit: Visit, *, source: str, ledger: Ledger, lease: timedelta
) -> None:
    while not finished.wait(lease.total_seconds() / 3):
        try:
            with ledger.transaction() as tx:
                guard, now = tx.source_guard(source), tx.now()
                renewed = replace(visit, lease_until=now + lease)
                tx.save_source_guard(guard.after_arrival(renewed, now))
        except Unavailable as error:
            # The ledger may be back before the lease is over.
            log.warning("visit_not_renewed", source=source, detail=str(error))


def _leave(source: str, visit_id: str, *, ledger: Ledger) -> None:
    """Give the connections back, and let a batch begin that waits for them. A lease that nobody renews does so too."""
    try:
        with ledger.transaction() as tx:
            guard = tx.source_guard(source)
            left = guard.after_leaving(visit_id)
            if left != guard:
                tx.save_source_guard(left)
                start_deferred(tx, source)
    except Unavailable as error:
        log.warning("visit_not_ended", source=source, detail=str(error))
