"""
What the messages in a queue are still worth, and bringing those that died back to life.

A message is a hint, so it is judged by what the ledger says of its batch, never by itself. Dead letters bear no
reason: SQS counted their deliveries, nobody noted why they failed.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

import structlog

from shared import lifecycle
from shared.domain.batches import STATES_AT_REST, Batch
from shared.domain.files import FileStatus, Location, ParsedKey, compaction_of_key
from shared.domain.reasons import Reason
from shared.errors import MalformedMessage, Unavailable
from shared.messages import (
    CheckBatch,
    CleanBatch,
    ObjectCreated,
    SetObjectAside,
    parse_clean_message,
    parse_gate_message,
    parse_task_message,
)
from shared.ports import Ledger, LedgerTransaction, QueueInspector, QueueName, SeenMessage

log = structlog.get_logger()

_LOOK_SIZE: Final = 10
#: What is walked past stays hidden for so long, so that the walk comes to its end. If it is not given back, because
#: the command was killed, it is seen again by then.
_HIDDEN_SECONDS: Final = 120
#: Looks in a row that bring nothing new end a walk: what was hidden first is visible again.
_MAX_FRUITLESS_LOOKS: Final = 3

_AREA_OF_GATE = {queue: area for area, queue in lifecycle.GATE_QUEUES.items()}


class Standing(StrEnum):
    """What a message can still do. The most useful comes first."""

    #: Its batch waits for this very message, or nobody has looked at its object yet: delivering it helps.
    WAITING = "waiting"
    #: Its batch is on its way, and waits for something else.
    MOVED_ON = "moved_on"
    #: Its batch is at rest, or its object was dealt with: nothing is left to do.
    AT_REST = "at_rest"
    #: The ledger holds no such batch.
    UNKNOWN_BATCH = "unknown_batch"
    #: Whoever serves the queue cannot read it.
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a message is worth."""

    standing: Standing
    #: The batch that it speaks of, if it speaks of one that the ledger holds.
    batch: Batch | None = None
    #: Why it cannot be read.
    objection: str = ""

    @property
    def reason(self) -> Reason | None:
        """Why the batch is held, or why its last attempt failed."""
        return self.batch.reason if self.batch else None


# ---- judging -----------------------------------------------------------------------------------------------


def judge(message: SeenMessage, *, tx: LedgerTransaction) -> Judgement:
    """Tell what a message is worth, as the ledger stands. Its body may be anything."""
    try:
        judgements = _read(message.queue, message.body, tx)
    except MalformedMessage as error:
        return Judgement(Standing.MALFORMED, objection=str(error))
    # S3's test event speaks of nothing.
    useful_first = list(Standing)
    return min(
        judgements,
        key=lambda judgement: useful_first.index(judgement.standing),
        default=Judgement(Standing.AT_REST),
    )


def _read(queue: QueueName, body: str, tx: LedgerTransaction) -> list[Judgement]:
    if queue in _AREA_OF_GATE:
        return [_of_gate_message(queue, message, tx) for message in parse_gate_message(body)]
    if queue is QueueName.CLEAN:
        message = parse_clean_message(body)
        if isinstance(message, SetObjectAside):
            return [_of_object_to_set_aside(message.location, tx)]
        return [_of_batch_to_clean(message, tx)]
    task = parse_task_message(body)
    expected = f"esclusa.{lifecycle.QUEUE_STAGES[queue]}"
    if task.task != expected:
        raise MalformedMessage(f"headers.task should be {expected!r} in this queue, found {task.task!r}")
    return [_of_batch(queue, task.batch_id, tx)]


def _of_gate_message(
    queue: QueueName, message: CheckBatch | ObjectCreated, tx: LedgerTransaction
) -> Judgement:
    if isinstance(message, ObjectCreated):
        return _of_object(queue, message.location, tx)
    if message.area is not _AREA_OF_GATE[queue]:
        raise MalformedMessage(
            f"area should be {str(_AREA_OF_GATE[queue])!r} in this queue, found {str(message.area)!r}"
        )
    return _of_batch(queue, message.batch_id, tx)


def _of_batch(queue: QueueName, batch_id: str, tx: LedgerTransaction) -> Judgement:
    batch = tx.batch(batch_id)
    if batch is None:
        return Judgement(Standing.UNKNOWN_BATCH)
    if any(awaited.queue is queue for awaited in lifecycle.messages_for(batch)):
        return Judgement(Standing.WAITING, batch)
    return _of_batch_past_it(batch)


def _of_batch_past_it(batch: Batch) -> Judgement:
    return Judgement(Standing.AT_REST if batch.state in STATES_AT_REST else Standing.MOVED_ON, batch)


def _of_object(queue: QueueName, location: Location, tx: LedgerTransaction) -> Judgement:
    file = tx.file(location)
    if file is None:
        return _of_unrecorded_object(location, tx)
    if file.batch_id is None:
        # A compaction wrote it, or nobody of ours, and the ledger knows: the rest is the cleaner's.
        return Judgement(Standing.AT_REST)
    if file.status is FileStatus.ANNOUNCED:
        return _of_batch(queue, file.batch_id, tx)
    batch = tx.batch(file.batch_id)
    return _of_batch_past_it(batch) if batch else Judgement(Standing.UNKNOWN_BATCH)


def _of_unrecorded_object(location: Location, tx: LedgerTransaction) -> Judgement:
    if (compaction_id := compaction_of_key(location.key)) and tx.compaction(compaction_id) is not None:
        # It is proven by who writes it; the gate has nothing to do.
        return Judgement(Standing.AT_REST)
    parsed = ParsedKey.of(location.key)
    batch = tx.batch(parsed.batch_id) if parsed else None
    if parsed is None or batch is None or batch.bucket != location.bucket:
        # Nobody of ours wrote it, and nobody knows yet: the gate has it set aside.
        return Judgement(Standing.WAITING)
    # Its writer died before it could record it, or is about to: the gate leaves that to the sweeper.
    return _of_batch_past_it(batch)


def _of_batch_to_clean(message: CleanBatch, tx: LedgerTransaction) -> Judgement:
    batch = tx.batch(message.batch_id)
    if batch is None:
        return Judgement(Standing.UNKNOWN_BATCH)
    return Judgement(Standing.WAITING, batch) if lifecycle.leftovers(tx, batch) else _of_batch_past_it(batch)


def _of_object_to_set_aside(location: Location, tx: LedgerTransaction) -> Judgement:
    file = tx.file(location)
    is_foreign = file is not None and file.is_foreign and file.deleted_at is None
    return Judgement(Standing.WAITING if is_foreign else Standing.AT_REST)


# ---- walking -----------------------------------------------------------------------------------------------


class Walk:
    """A walk through a queue: what was seen and not deleted is in hand until `walking` gives it back."""

    def __init__(self, inspector: QueueInspector, queue: QueueName, *, dead_letters: bool) -> None:
        self._inspector = inspector
        self._queue = queue
        self._dead_letters = dead_letters
        self._in_hand: dict[str, SeenMessage] = {}
        self._seen_ids: set[str] = set()

    def looks(self, *, max_messages: int) -> Iterator[list[SeenMessage]]:
        """Return messages not seen before, up to ten at a time, until none is left or so many were seen."""
        fruitless = 0
        while len(self._seen_ids) < max_messages and fruitless < _MAX_FRUITLESS_LOOKS:
            messages = self._inspector.look(
                self._queue,
                dead_letters=self._dead_letters,
                max_messages=min(_LOOK_SIZE, max_messages - len(self._seen_ids)),
                hidden_seconds=_HIDDEN_SECONDS,
            )
            if not messages:
                return
            unseen = [message for message in messages if message.id not in self._seen_ids]
            # The newest receipt counts. Without the bodies: those of thousands would fill the memory.
            self._in_hand |= {message.id: replace(message, body="") for message in messages}
            self._seen_ids |= {message.id for message in messages}
            fruitless = 0 if unseen else fruitless + 1
            if unseen:
                yield unseen

    def redrive(self, message: SeenMessage) -> None:
        """
        Send a dead letter to its live queue again, and delete it once its copy was taken.

        If the command dies in between, the message is there twice, which changes nothing. SQS's own
        StartMessageMoveTask moves all or nothing, and local AWS servers do not have it.
        """
        self._inspector.resend(message)
        self.delete(message)

    def delete(self, message: SeenMessage) -> None:
        """Delete a message in hand."""
        self._inspector.delete(message)
        self._in_hand.pop(message.id, None)

    def leave(self, message: SeenMessage) -> None:
        """Leave a message where it is."""

    def give_back(self) -> None:
        """Let everybody see again what is in hand."""
        if self._in_hand:
            self._inspector.give_back(list(self._in_hand.values()))
            self._in_hand.clear()


@contextmanager
def walking(inspector: QueueInspector, queue: QueueName, *, dead_letters: bool) -> Iterator[Walk]:
    """Walk through a queue, and give back at the end whatever was not deleted."""
    walk = Walk(inspector, queue, dead_letters=dead_letters)
    try:
        yield walk
    finally:
        try:
            walk.give_back()
        except Unavailable as error:
            log.warning("messages_not_given_back", queue=queue, detail=str(error))


# ---- sorting dead letters out ------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What was found among the dead letters of a queue, by standing and reason, and what was settled of it."""

    found: Counter[tuple[Standing, Reason | None]] = field(default_factory=Counter)
    settled: Counter[tuple[Standing, Reason | None]] = field(default_factory=Counter)
    #: Whether there may be dead letters that were not looked at.
    is_cut: bool = False
    #: What ended the work before its time.
    error: Unavailable | None = None


def sort_out(
    inspector: QueueInspector,
    queue: QueueName,
    *,
    ledger: Ledger,
    wanted: Callable[[Judgement], bool],
    settle: Callable[[Walk, SeenMessage], None],
    max_settled: int,
    max_looked_at: int,
    on_progress: Callable[[Tally], None],
) -> Tally:
    """
    Judge the dead letters of a queue, settle the wanted ones and leave the others where they are.

    `settle` is `Walk.redrive`, `Walk.delete`, or `Walk.leave` to see what would be done. What ledger or queues
    refuse ends the work and stands in the tally; all that was not settled is given back.
    """
    tally = Tally()
    with walking(inspector, queue, dead_letters=True) as walk:
        try:
            for messages in walk.looks(max_messages=max_looked_at):
                with ledger.transaction() as tx:
                    judged = [(message, judge(message, tx=tx)) for message in messages]
                for message, judgement in judged:
                    name = judgement.standing, judgement.reason
                    tally.found[name] += 1
                    if wanted(judgement) and tally.settled.total() < max_settled:
                        settle(walk, message)
                        tally.settled[name] += 1
                on_progress(tally)
                if tally.settled.total() >= max_settled:
                    break
        except Unavailable as error:
            tally.error = error
    tally.is_cut = tally.found.total() >= max_looked_at or tally.settled.total() >= max_settled
    return tally
