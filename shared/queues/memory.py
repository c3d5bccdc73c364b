"""
Queues in memory, as mistrustful as SQS: a message may come twice, late, in any order, and ends in the dead letters.

Nothing here is left to chance: the caller says which message comes next, so that a seed can choose.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from shared.ports import OutboxMessage, QueueDepth, QueueName


@dataclass(slots=True)
class QueuedMessage:
    """A message in a queue, or in the hands of a receiver. A duplicate has an id of its own."""

    id: int
    message: OutboxMessage
    receive_count: int = 0


class MemoryQueues:
    """`QueueSender` and `QueueInspector`, and the receiving side that SQS offers to workers and Lambdas."""

    def __init__(self, *, max_receive_count: int = 5) -> None:
        self._max_receive_count = max_receive_count
        self._ids = itertools.count(1)
        self._waiting: dict[QueueName, list[QueuedMessage]] = {queue: [] for queue in QueueName}
        self._in_flight: dict[int, QueuedMessage] = {}
        self._dead: dict[QueueName, list[QueuedMessage]] = {queue: [] for queue in QueueName}

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Send messages; see `QueueSender`."""
        for message in messages:
            self._waiting[message.queue].append(QueuedMessage(next(self._ids), message))
        return list(range(len(messages)))

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        """Return how full a queue is; see `QueueInspector`."""
        if dead_letters:
            return QueueDepth(visible=len(self._dead[queue]), in_flight=0, delayed=0)
        in_flight = sum(1 for held in self._in_flight.values() if held.message.queue == queue)
        return QueueDepth(visible=len(self._waiting[queue]), in_flight=in_flight, delayed=0)

    def waiting(self, queue: QueueName) -> Sequence[QueuedMessage]:
        """Return the messages that could be received now, in the order they came."""
        return tuple(self._waiting[queue])

    def in_flight(self) -> Sequence[QueuedMessage]:
        """Return the messages that were received, and neither acknowledged nor released."""
        return tuple(self._in_flight.values())

    def dead_letters(self, queue: QueueName) -> Sequence[QueuedMessage]:
        """Return what was received too often."""
        return tuple(self._dead[queue])

    def receive(self, queue: QueueName, index: int = 0) -> QueuedMessage | None:
        """Take the waiting message at an index; None if there is none."""
        waiting = self._waiting[queue]
        if not waiting:
            return None
        taken = waiting.pop(index)
        taken.receive_count += 1
        self._in_flight[taken.id] = taken
        return taken

    def acknowledge(self, taken: QueuedMessage) -> None:
        """Delete a received message. Doing it late or again changes nothing."""
        self._in_flight.pop(taken.id, None)

    def release(self, taken: QueuedMessage) -> None:
        """Give a received message back, as when its visibility timeout is over; in the end to the dead letters."""
        if self._in_flight.pop(taken.id, None) is None:
            return
        is_dead = taken.receive_count >= self._max_receive_count
        (self._dead if is_dead else self._waiting)[taken.message.queue].append(taken)

    def duplicate(self, queue: QueueName, index: int = 0) -> None:
        """Let a waiting message come twice, as a standard queue may."""
        self._waiting[queue].append(QueuedMessage(next(self._ids), self._waiting[queue][index].message))

    def purge(self) -> None:
        """Lose every message, also those in flight and the dead ones."""
        self._in_flight.clear()
        for messages in (*self._waiting.values(), *self._dead.values()):
            messages.clear()
