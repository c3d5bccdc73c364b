"""The way of messages out of the ledger: only after the commit that decided them, and again until they left."""

import structlog

from shared.errors import Unavailable
from shared.ports import Ledger, QueueSender

log = structlog.get_logger()

MESSAGES_PER_TRANSACTION = 100


def send_pending(ledger: Ledger, sender: QueueSender, *, limit: int = 1_000) -> int:
    """
    Send messages of the outbox and return how many left.

    Whoever commits calls this; it never fails its caller, because what does not leave now leaves with the
    next caller or the sweeper. A message may leave twice, if the ledger goes away between send and commit.
    """
    sent = 0
    try:
        while sent < limit and (count := _send_some(ledger, sender)):
            sent += count
    except Unavailable as error:
        log.warning("outbox_not_sent", detail=str(error))
    return sent


def _send_some(ledger: Ledger, sender: QueueSender) -> int:
    with ledger.transaction() as tx:
        pending = tx.pending_messages(limit=MESSAGES_PER_TRANSACTION)
        if not pending:
            return 0
        sent = sender.send([entry.message for entry in pending])
        tx.mark_sent([pending[index].id for index in sent])
        return len(sent)
