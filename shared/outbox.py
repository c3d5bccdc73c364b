"""The way of messages out of the ledger: only after the commit that decided them, and again until they left."""

from collections.abc import Collection

import structlog

from shared.errors import Unavailable
from shared.ports import Ledger, QueueName, QueueSender

log = structlog.get_logger()

MESSAGES_PER_TRANSACTION = 100


def send_pending(ledger: Ledger, sender: QueueSender, *, limit: int = 1_000) -> int:
    """
    Send messages of the outbox and return how many left.

    Whoever commits calls this; it never fails its caller, because what does not leave now leaves with the
    next caller or the sweeper. A message may leave twice, if the ledger goes away between send and commit.
    A queue that takes nothing is passed over, however many messages for it wait at the head.
    """
    sent = 0
    refusing: set[QueueName] = set()
    try:
        while sent < limit:
            tried, taken = _send_some(ledger, sender, without=refusing)
            if not tried:
                break
            sent += len(taken)
            refusing |= set(tried) - set(taken)
    except Unavailable as error:
        log.warning("outbox_not_sent", detail=str(error))
    except Exception:
        # A message that cannot be sent at all, say. What the caller did is committed, and stays done.
        log.exception("outbox_failed")
    return sent


def _send_some(
    ledger: Ledger, sender: QueueSender, *, without: Collection[QueueName]
) -> tuple[list[QueueName], list[QueueName]]:
    """Send the oldest messages; return the queue of each that was tried, and of each that left."""
    with ledger.transaction() as tx:
        pending = tx.pending_messages(limit=MESSAGES_PER_TRANSACTION, without=without)
        if not pending:
            return [], []
        sent = sender.send([entry.message for entry in pending])
        tx.mark_sent([pending[index].id for index in sent])
        return [entry.message.queue for entry in pending], [pending[index].message.queue for index in sent]
