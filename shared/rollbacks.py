"""Which rollback holds a table at an earlier state, or is about to."""

from datetime import timedelta

from shared.domain.rollbacks import Rollback
from shared.ports import LedgerTransaction

#: A rollback that was begun and not done is under way for so long; afterwards its run is dead, or was refused.
UNDER_WAY = timedelta(hours=4)


def rollback_of(tx: LedgerTransaction, source: str, table: str) -> Rollback | None:
    """Return what holds a table at an earlier state; None if nothing does."""
    done = [rollback for rollback in tx.rollbacks(source, table) if rollback.done_at is not None]
    return done[-1] if done and not done[-1].is_forward else None


def is_moving(tx: LedgerTransaction, source: str, table: str) -> bool:
    """Return whether a table is held at an earlier state, or a rollback is on its way back or forward."""
    if rollback_of(tx, source, table) is not None:
        return True
    known = tx.rollbacks(source, table)
    return bool(known) and known[-1].done_at is None and tx.now() < known[-1].begun_at + UNDER_WAY
