"""
Queues in memory, as mistrustful as SQS: a message may come twice, late, in any order, and ends in the dead letters.

Nothing here is left to chance: the caller says which message comes next, so that a seed can choose.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from shared.ports import OutboxMessage, QueueDepth, QueueName, SeenMessage


def _wall_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class QueuedMessage:
    """A message in a queue, or in the hands of a receiver. A duplicate has an id of its own."""

    id: int
    message: OutboxMessage
    sent_at: datetime
    receive_count: int = 0


class MemoryQueues:
    """`QueueSender` and `QueueInspector`, and the receiving side that SQS offers to workers and Lambdas."""

    def __init__(self, *, max_receive_count: int = 5, clock: Callable[[], datetime] = _wall_clock) -> None:
        self._max_receive_count = max_receive_count
        self._clock = clock
        self._ids = itertools.count(1)
        self._waiting: dict[QueueName, list[QueuedMessage]] = {queue: [] for queue in QueueName}
        self._in_flight: dict[int, QueuedMessage] = {}
        self._dead: dict[QueueName, list[QueuedMessage]] = {queue: [] for queue in QueueName}
        self._dead_looked_at: dict[int, QueuedMessage] = {}

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Send messages; see `QueueSender`."""
        for message in messages:
            self._waiting[message.queue].append(self._queued(message))
        return list(range(len(messages)))

    # ---- the receiving side ----------------------------------------------------------------------------------

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
        self._waiting[queue].append(self._queued(self._waiting[queue][index].message))

    def purge(self) -> None:
        """Lose every message, also those in flight and the dead ones."""
        for queue in QueueName:
            self.empty(queue, dead_letters=False)
            self.empty(queue, dead_letters=True)

    # ---- looking ---------------------------------------------------------------------------------------------

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        """Return how full a queue is; see `QueueInspector`."""
        visible = self._dead if dead_letters else self._waiting
        held = self._dead_looked_at if dead_letters else self._in_flight
        in_flight = sum(1 for each in held.values() if each.message.queue == queue)
        return QueueDepth(visible=len(visible[queue]), in_flight=in_flight, delayed=0)

    def oldest_ages(self, *, dead_letters: bool = False) -> dict[QueueName, timedelta]:
        """Return how old the oldest message of each queue is; see `QueueInspector`."""
        visible = self._dead if dead_letters else self._waiting
        held = self._dead_looked_at if dead_letters else self._in_flight
        oldest: dict[QueueName, datetime] = {}
        for each in itertools.chain(held.values(), *visible.values()):
            queue = each.message.queue
            oldest[queue] = min(oldest.get(queue, each.sent_at), each.sent_at)
        return {queue: self._clock() - sent_at for queue, sent_at in oldest.items()}

    def look(
        self,
        queue: QueueName,
        *,
        dead_letters: bool,
        max_messages: int,
        hidden_seconds: int,  # noqa: ARG002  # no time passes here
    ) -> list[SeenMessage]:
        """Receive up to ten messages, until they are given back; see `QueueInspector`."""
        visible = (self._dead if dead_letters else self._waiting)[queue]
        held = self._dead_looked_at if dead_letters else self._in_flight
        taken = visible[: min(max_messages, 10)]
        del visible[: len(taken)]
        for each in taken:
            each.receive_count += 1
            held[each.id] = each
        return [_seen(each, is_dead=dead_letters) for each in taken]

    def give_back(self, messages: Sequence[SeenMessage]) -> None:
        """Let everybody see messages again; see `QueueInspector`."""
        for seen in messages:
            if not seen.is_dead and (taken := self._in_flight.get(int(seen.id))):
                self.release(taken)
            elif seen.is_dead and (letter := self._dead_looked_at.pop(int(seen.id), None)):
                self._dead[seen.queue].append(letter)

    def resend(self, message: SeenMessage) -> None:
        """Send the same body to the live queue; see `QueueInspector`."""
        self.send([OutboxMessage(message.queue, message.body, message.group or "")])

    def delete(self, message: SeenMessage) -> None:
        """Delete a message that is being looked at; see `QueueInspector`."""
        (self._dead_looked_at if message.is_dead else self._in_flight).pop(int(message.id), None)

    def empty(self, queue: QueueName, *, dead_letters: bool) -> None:
        """Delete every message of a queue or of its dead letters; see `QueueInspector`."""
        (self._dead if dead_letters else self._waiting)[queue].clear()
        held = self._dead_looked_at if dead_letters else self._in_flight
        for each in [each for each in held.values() if each.message.queue == queue]:
            del held[each.id]

    def _queued(self, message: OutboxMessage) -> QueuedMessage:
        return QueuedMessage(next(self._ids), message, sent_at=self._clock())


def _seen(queued: QueuedMessage, *, is_dead: bool) -> SeenMessage:
    return SeenMessage(
        queue=queued.message.queue,
        is_dead=is_dead,
        id=str(queued.id),
        body=queued.message.body,
        group=queued.message.group or None,
        sent_at=queued.sent_at,
        receive_count=queued.receive_count,
        receipt=f"{queued.id}.{queued.receive_count}",
    )
