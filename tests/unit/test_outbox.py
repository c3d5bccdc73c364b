"""Messages leave after the commit that decided them, whatever lies before them in the outbox."""

from collections.abc import Sequence

import pytest
from support.ledger_rows import NOON

from shared.errors import Unavailable
from shared.ledger.memory import MemoryLedger
from shared.outbox import MESSAGES_PER_TRANSACTION, send_pending
from shared.ports import OutboxMessage, QueueName


class Sender:
    """Sends to all queues but some, and counts how often it is asked."""

    def __init__(self, *refusing: QueueName) -> None:
        self.refusing = refusing
        self.sent: list[str] = []
        self.calls = 0

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        self.calls += 1
        taken = [index for index, message in enumerate(messages) if message.queue not in self.refusing]
        self.sent += [messages[index].body for index in taken]
        return taken


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(lambda: NOON)


def posted(ledger: MemoryLedger, queue: QueueName, *bodies: str) -> None:
    with ledger.transaction() as tx:
        for body in bodies:
            tx.post(OutboxMessage(queue, body, "shop"))


def pending_count(ledger: MemoryLedger) -> int:
    with ledger.transaction() as tx:
        return tx.pending_message_count()


def test_a_queue_that_takes_nothing_holds_up_no_other(ledger: MemoryLedger) -> None:
    stuck = [f"stuck {number}" for number in range(3 * MESSAGES_PER_TRANSACTION)]
    posted(ledger, QueueName.PUBLISH, *stuck)
    posted(ledger, QueueName.EXTRACT, "good")
    sender = Sender(QueueName.PUBLISH)

    count = send_pending(ledger, sender)

    assert (count, sender.sent) == (1, ["good"])
    assert sender.calls == 2
    assert pending_count(ledger) == len(stuck)


def test_what_was_refused_leaves_when_its_queue_takes_it_again(ledger: MemoryLedger) -> None:
    posted(ledger, QueueName.PUBLISH, "late")
    send_pending(ledger, Sender(QueueName.PUBLISH))
    sender = Sender()

    assert send_pending(ledger, sender) == 1
    assert sender.sent == ["late"]


def test_one_message_that_is_refused_does_not_hold_up_its_queue(ledger: MemoryLedger) -> None:
    class Picky(Sender):
        def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
            self.calls += 1
            return [index for index, message in enumerate(messages) if message.body != "poison"]

    good = [str(number) for number in range(2 * MESSAGES_PER_TRANSACTION)]
    posted(ledger, QueueName.EXTRACT, "poison", *good)
    sender = Picky()

    assert send_pending(ledger, sender) == len(good)
    assert sender.calls <= 4
    assert pending_count(ledger) == 1


def test_the_limit_ends_the_sending_and_the_rest_leaves_with_the_next_caller(ledger: MemoryLedger) -> None:
    posted(ledger, QueueName.EXTRACT, *(str(number) for number in range(MESSAGES_PER_TRANSACTION + 1)))

    assert send_pending(ledger, Sender(), limit=1) == MESSAGES_PER_TRANSACTION
    assert send_pending(ledger, Sender()) == 1


@pytest.mark.parametrize("error", [Unavailable("queues: no answer"), ValueError("a defect of ours")])
def test_a_sender_that_breaks_off_never_fails_who_committed(ledger: MemoryLedger, error: Exception) -> None:
    class Broken(Sender):
        def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
            raise error

    posted(ledger, QueueName.EXTRACT, "waits")

    assert send_pending(ledger, Broken()) == 0
    assert pending_count(ledger) == 1
