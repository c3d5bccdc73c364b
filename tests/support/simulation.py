"""
The fleet in one process and in no time: real stories over memory adapters, driven by a seed.

Every worker, Lambda and sweep is an actor in a thread of its own, but only one runs at a time: at each side effect
(a transaction of the ledger, a call of the store, a send, a commit of the warehouse) it hands control back, and the
seed decides who goes on, and whether the effect is hit by a fault. So a schedule is repeated exactly by its seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from functools import partial
from itertools import pairwise
from typing import Any

from lambdas import gate
from lambdas.cleaner.clean import clean
from lambdas.sweeper.sweep import SweepLimits, sweep
from shared import lifecycle, stage
from shared.csv_dialect import header_line
from shared.domain.batches import FINAL_STATES, HELD_STATES, AttemptState, Batch, BatchState, Stage
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    Cursor,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
)
from shared.domain.counts import Count
from shared.domain.files import (
    TRANSIENT_AREAS,
    Area,
    DataFile,
    FileFormat,
    FileStatus,
    Location,
    final_key,
    raw_key,
    rejects_key,
)
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.windows import Schedule, due_windows
from shared.errors import LostLease, Refused, Unavailable
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import (
    ObjectCreated,
    clean_message,
    gate_message,
    parse_clean_message,
    parse_gate_message,
    parse_task_message,
    set_aside_message,
    task_message,
)
from shared.object_store.memory import MemoryObjectStore
from shared.planning import register_contract
from shared.ports import LedgerTransaction, OutboxMessage, QueueName
from shared.queues.memory import MemoryQueues, QueuedMessage
from shared.stage import Assignment, StageLimits

BUCKET = "esclusa-simulated"
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEASE = timedelta(minutes=5)
#: How long a process stands still: longer than its lease, or than strays are left alone.
STALLS = (3 * LEASE, timedelta(hours=3))
#: Enough that no schedule uses them up; or so few that batches fail, and a person replays them.
MANY_ATTEMPTS, FEW_ATTEMPTS = 50, 2


class Fault(Enum):
    """What can happen to a side effect."""

    NONE = auto()
    #: The process dies before it.
    KILL_BEFORE = auto()
    #: The process dies after it.
    KILL_AFTER = auto()
    #: It happens, but the caller is told that nobody answered.
    REPLY_LOST = auto()
    #: It does not happen; the caller is told that nobody answered.
    REFUSED = auto()
    #: The process stands still, its lease runs out, often the sweeper's patience too, and then it goes on.
    STALL = auto()


class Killed(BaseException):
    """The process is gone. No handler of ours may catch it."""


class Actor:
    """One process at work on one thing. `step` lets it run up to its next side effect."""

    def __init__(self, name: str, work: Callable[[], object], *, on_end: Callable[[Actor], None]) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.is_done = False
        self.wake_at: datetime | None = None
        self._work = work
        self._on_end = on_end
        # Locks that the one side takes and the other releases: half the time of semaphores, which is most of all.
        self._go = threading.Lock()
        self._paused = threading.Lock()
        self._go.acquire()
        self._paused.acquire()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_started = False

    def step(self) -> None:
        if not self._is_started:
            self._is_started = True
            self._thread.start()
        else:
            self._go.release()
        self._paused.acquire()
        if self.is_done:
            self._thread.join()
            self._on_end(self)

    def pause(self) -> None:
        """Hand control back; called by the actor itself."""
        self._paused.release()
        self._go.acquire()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  whatever ends an actor is looked at by the schedule
            self.failure = error
        self.is_done = True
        self._paused.release()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the source: a key, when it changed, and a value."""

    key: int
    changed_at: datetime
    value: int

    def text(self) -> str:
        return f"{self.key},{self.changed_at.isoformat()},{self.value}\n"

    @classmethod
    def parse(cls, line: str) -> Row:
        key, changed_at, value = line.split(",")
        return cls(int(key), datetime.fromisoformat(changed_at), int(value))


@dataclass
class Warehouse:
    """A target table with merge by key, and markers in the same step. `applied` is what readers may see."""

    rows: dict[int, tuple[datetime, datetime, int]] = field(default_factory=dict)
    #: The attempt that loaded a batch last, and the files it loaded.
    markers: dict[str, tuple[int, frozenset[Location]]] = field(default_factory=dict)
    applied: list[tuple[str, frozenset[Location]]] = field(default_factory=list)

    def merge(self, assignment: Assignment, rows: Sequence[Row]) -> None:
        batch, attempt = assignment.batch, assignment.attempt.number
        files = frozenset(file.location for file in assignment.files)
        if marker := self.markers.get(batch.id):
            if marker[0] > attempt:
                raise LostLease(f"{batch.id}: attempt {marker[0]} has loaded it")
            if marker[1] == files:
                return
        for row in rows:
            incoming = (row.changed_at, batch.window.end, row.value)
            stored = self.rows.get(row.key)
            if stored is None or incoming[:2] >= stored[:2]:
                self.rows[row.key] = incoming
        self.markers[batch.id] = attempt, files
        self.applied.append((batch.id, files))


Decide = Callable[[str], Fault]


class World:
    """Everything there is, and the current actor."""

    def __init__(self, seed: int, *, decide: Decide | None = None, max_attempts: int = MANY_ATTEMPTS) -> None:
        self.dice = random.Random(seed)
        self.now = MIDNIGHT + 12 * HOUR
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.effects: list[str] = []
        self.decide: Decide = decide or (lambda _: Fault.NONE)
        self.are_faults_on = True
        self.alterations_left = 0
        self.contract_changes_left = 0
        self.source: list[Row] = _rows_of_a_morning(self.dice)
        self.warehouse = Warehouse()
        self.queues = MemoryQueues(max_receive_count=1_000)
        self.events: list[Location] = []
        self._plain_ledger = MemoryLedger(lambda: self.now)
        self._plain_store = MemoryObjectStore(lambda: self.now)
        self.ledger = SimulatedLedger(self, self._plain_ledger)
        self.store = SimulatedStore(self, self._plain_store)
        self.sender = SimulatedSender(self)
        self.contract = _contract(version=1)
        self.limits = StageLimits(lease=LEASE, retry=RetryPolicy(max_attempts))

    # ---- side effects ------------------------------------------------------------------------------------------

    def effect(self, name: str, do: Callable[[], Any]) -> Any:
        """Do one side effect as the schedule wants it."""
        actor = self.current
        if actor is None:
            return do()
        # Each hand-over costs two switches of threads, most of the time of all. Half of them suffices: any two
        # effects of two actors still meet in either order.
        if self.dice.random() < 0.5:
            actor.pause()
            self.current = actor
        self.effects.append(name)
        fault = self.decide(name) if self.are_faults_on else Fault.NONE
        match fault:
            case Fault.KILL_BEFORE:
                raise Killed(name)
            case Fault.REFUSED:
                raise Unavailable(f"simulated: {name} was refused")
            case Fault.STALL:
                actor.wake_at = self.now + self.dice.choice(STALLS)
                actor.pause()
                self.current = actor
        result = do()
        match fault:
            case Fault.KILL_AFTER:
                raise Killed(name)
            case Fault.REPLY_LOST:
                raise Unavailable(f"simulated: the reply of {name} was lost")
        return result

    # ---- actors ------------------------------------------------------------------------------------------------

    def start(self, name: str, work: Callable[[], object], *, message: QueuedMessage | None = None) -> None:
        """Let a new process begin. Its message is deleted if the work ends well, else it comes back."""

        def settle(actor: Actor) -> None:
            if isinstance(actor.failure, AssertionError):
                raise actor.failure
            if message is None:
                return
            if actor.failure is None:
                self.queues.acknowledge(message)
            else:
                self.queues.release(message)

        self.actors.append(Actor(name, work, on_end=settle))

    def step(self) -> None:
        """Let one actor, chosen by the seed, go on to its next side effect."""
        runnable = [actor for actor in self.actors if actor.wake_at is None or actor.wake_at <= self.now]
        actor = self.dice.choice(runnable)
        actor.wake_at = None
        self.current = actor
        actor.step()
        self.current = None
        if actor.is_done:
            self.actors.remove(actor)
        self._check_what_readers_see()

    def has_runnable(self) -> bool:
        return any(actor.wake_at is None or actor.wake_at <= self.now for actor in self.actors)

    # ---- the fleet ---------------------------------------------------------------------------------------------

    def plan(self) -> None:
        """What cron does."""
        with self.ledger.transaction() as tx:
            watermark = tx.watermark("simulated", "rows")
            version = register_contract(tx, self.contract)
            due = due_windows(watermark, horizon=MIDNIGHT + 6 * HOUR, schedule=self.contract.schedule)
            if watermark is None:
                tx.set_watermark("simulated", "rows", MIDNIGHT + 3 * HOUR)
                due = [replace(due[0], window=replace(due[0].window, end=MIDNIGHT + 3 * HOUR))]
            for window in due:
                lifecycle.plan(tx, version, planned=window, bucket=BUCKET)
            if watermark is not None and due:
                tx.set_watermark("simulated", "rows", due[-1].window.end)

    def start_plan(self) -> None:
        self.start("planner", self.plan)

    def start_sweep(self) -> None:
        """Let a sweeper begin, as a schedule would."""
        limits = SweepLimits(wake_after=timedelta(minutes=1), stray_after=timedelta(hours=2))

        def work() -> None:
            sweep(
                ledger=self.ledger,
                store=self.store,
                sender=self.sender,
                buckets=[BUCKET],
                limits=limits,
                retry=self.limits.retry,
                areas=tuple(Area),
            )

        self.start("sweeper", work)

    def deliver(self, queue: QueueName, index: int = 0) -> None:
        """Hand a waiting message to a new worker or Lambda."""
        message = self.queues.receive(queue, index)
        if message is not None:
            self.start(str(queue), self._handler(queue, message.message.body), message=message)

    def deliver_event(self, index: int) -> None:
        """Hand an S3 event to a gate."""
        location = self.events.pop(index)
        area = Area(location.key.split("/", 1)[0])
        if area is Area.QUARANTINE:
            return
        message = ObjectCreated(location, 0, None)
        self.start(
            f"event:{area}",
            lambda: gate.check(area, message, ledger=self.ledger, store=self.store, sender=self.sender),
        )

    def _handler(self, queue: QueueName, body: str) -> Callable[[], object]:
        work = {
            QueueName.EXTRACT: (Stage.EXTRACT, self.extract),
            QueueName.PROCESS: (Stage.PROCESS, self.process),
            QueueName.PUBLISH: (Stage.PUBLISH, self.publish),
        }
        if queue in work:
            name, story = work[queue]
            batch_id = parse_task_message(body).batch_id
            return lambda: stage.run(
                name,
                batch_id,
                story,
                ledger=self.ledger,
                sender=self.sender,
                worker="simulated",
                limits=self.limits,
                keep_alive=lambda _: nullcontext(),
            )
        if queue is QueueName.CLEAN:
            return lambda: clean(parse_clean_message(body), ledger=self.ledger, store=self.store)
        area = next(area for area, name in lifecycle.GATE_QUEUES.items() if name is queue)
        messages = parse_gate_message(body)

        def check() -> None:
            for message in messages:
                gate.check(area, message, ledger=self.ledger, store=self.store, sender=self.sender)

        return check

    # ---- the work of the three services, small ------------------------------------------------------------------

    def extract(self, assignment: Assignment) -> StageResult:
        window = assignment.batch.window
        rows = [
            row
            for row in self.source
            if row.changed_at < window.end and (window.start is None or row.changed_at >= window.start)
        ]
        files = []
        parts = [rows[::2], rows[1::2]] if len(rows) > 3 else [rows]
        header = _header(assignment)
        for part, chunk in enumerate(parts):
            key = raw_key(
                Area.TMP,
                table=assignment.batch.table,
                batch_id=assignment.batch.id,
                attempt=assignment.attempt.number,
                part=part,
            )
            body = header + "".join(row.text() for row in chunk).encode()
            files.append(
                self._write(
                    Location(BUCKET, key), Area.TMP, FileFormat.CSV, assignment, part, body, len(chunk)
                )
            )
        counts = {Count.ROWS_READ: len(rows), Count.ROWS_WRITTEN: len(rows)}
        return StageResult(files=files, counts=counts)

    def process(self, assignment: Assignment) -> StageResult:
        rows = []
        for file in assignment.files:
            body = self.store.read(file.location)
            if hashlib.sha256(body).hexdigest() != file.sha256:
                raise Refused(Reason.CHECKSUM_MISMATCH, f"{file.location} was altered")
            lines = body.decode().splitlines()
            assert f"{lines[0]}\n".encode() == _header(assignment), "files of another contract"
            rows += [Row.parse(line) for line in lines[1:]]
        assert len(rows) == assignment.batch.counts[Count.ROWS_WRITTEN]
        latest: dict[int, Row] = {}
        for row in sorted(rows, key=lambda row: row.changed_at):
            latest[row.key] = row
        rejects = rejects_key(
            table=assignment.batch.table, batch_id=assignment.batch.id, attempt=assignment.attempt.number
        )
        evidence = self._write(
            Location(BUCKET, rejects), Area.QUARANTINE, FileFormat.REJECTS, assignment, 0, b"line\n", 0
        )
        body = json.dumps([row.text() for row in latest.values()]).encode()
        key = final_key(
            table=assignment.batch.table,
            day="2026-01-01",
            batch_id=assignment.batch.id,
            attempt=assignment.attempt.number,
            part=0,
        )
        file = self._write(
            Location(BUCKET, key), Area.FINAL, FileFormat.PARQUET, assignment, 0, body, len(latest)
        )
        counts = {
            Count.ROWS_DECODED: len(rows),
            Count.ROWS_IN_FINAL: len(latest),
            Count.ROWS_DEDUPLICATED: len(rows) - len(latest),
        }
        evidence = replace(evidence, status=FileStatus.CORRECT)
        return StageResult(files=[file, evidence], counts=counts)

    def publish(self, assignment: Assignment) -> StageResult:
        rows = [
            Row.parse(text)
            for file in assignment.files
            for text in json.loads(self.store.read(file.location))
        ]
        self.effect(
            "warehouse.commit",
            lambda: self.warehouse.merge(assignment, rows),
        )
        return StageResult(counts={Count.ROWS_STAGED: len(rows)})

    def _write(
        self,
        location: Location,
        area: Area,
        file_format: FileFormat,
        assignment: Assignment,
        part: int,
        body: bytes,
        record_count: int,
    ) -> DataFile:
        digest = hashlib.sha256(body).hexdigest()
        metadata = {
            "esclusa-batch": assignment.batch.id,
            "esclusa-attempt": str(assignment.attempt.number),
            "esclusa-source": assignment.batch.source,
        }
        self.store.put(location, body, sha256=digest, metadata=metadata)
        return DataFile(
            location=location,
            area=area,
            format=file_format,
            batch_id=assignment.batch.id,
            attempt=assignment.attempt.number,
            part=part,
            record_count=record_count,
            file_size_in_bytes=len(body),
            sha256=digest,
        )

    # ---- looking -----------------------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """A transaction that no fault hits, for tests that look."""
        return self._plain_ledger.transaction()

    def batches(self) -> list[Batch]:
        with self.transaction() as tx:
            return tx.batches()

    def objects(self) -> list[Location]:
        return [info.location for info in self._plain_store.list(BUCKET, "")]

    def put_by_hand(self, key: str, body: bytes) -> None:
        """Put an object there as a person would."""
        self._plain_store.overwrite(Location(BUCKET, key), body)
        self.events.append(Location(BUCKET, key))

    def _check_what_readers_see(self) -> None:
        # A batch's rows come by one step of the warehouse, so here it is the lake that could be seen in part:
        # a committed attempt has all its files, present and as recorded.
        if self.dice.random() > 0.02:
            return
        with self.transaction() as tx:
            for batch in tx.batches():
                if batch.committed_attempt is None:
                    continue
                files = tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
                assert files, f"{batch.id} is committed without files"
                for file in files:
                    assert self._plain_store.sha256(file.location) == file.sha256


class SimulatedLedger:
    """A ledger whose every transaction is a side effect."""

    def __init__(self, world: World, plain: MemoryLedger) -> None:
        self._world = world
        self._plain = plain

    @contextmanager
    def transaction(self) -> Iterator[LedgerTransaction]:
        world = self._world
        world.effect("ledger.begin", lambda: None)
        actor, world.current = world.current, None
        try:
            with self._plain.transaction() as tx:
                yield tx
        finally:
            world.current = actor
        world.effect("ledger.committed", lambda: None)

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        self._world.effect("ledger.exclusively", lambda: None)
        # The lock of a process that dies goes with it, as the block of a killed actor is left.
        with self._plain.exclusively(name) as is_held:
            yield is_held


class SimulatedStore:
    """A store whose every call is a side effect, and whose new objects cause events."""

    def __init__(self, world: World, plain: MemoryObjectStore) -> None:
        self._world = world
        self._plain = plain

    def put(self, location: Location, body: bytes, *, sha256: str, metadata: Mapping[str, str]) -> None:
        def do() -> None:
            self._plain.put(location, body, sha256=sha256, metadata=metadata)
            self._world.events.append(location)

        self._world.effect("store.put", do)

    def copy(self, source: Location, target: Location, *, sha256: str) -> None:
        def do() -> None:
            self._plain.copy(source, target, sha256=sha256)
            self._world.events.append(target)

        self._world.effect("store.copy", do)

    def delete(self, location: Location) -> None:
        self._world.effect("store.delete", lambda: self._plain.delete(location))

    def list(self, bucket: str, prefix: str, *, after: str = "") -> Iterator[Any]:
        found = self._world.effect("store.list", lambda: list(self._plain.list(bucket, prefix, after=after)))
        return iter(found)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._plain, name)
        return lambda *args, **kwargs: self._world.effect(f"store.{name}", lambda: call(*args, **kwargs))


class SimulatedSender:
    """A sender whose every call is a side effect. It is called within a transaction, so it does not pause."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        world = self._world
        world.effects.append("queue.send")
        fault = world.decide("queue.send") if world.are_faults_on else Fault.NONE
        match fault:
            case Fault.KILL_BEFORE:
                raise Killed("queue.send")
            case Fault.REFUSED | Fault.STALL:
                raise Unavailable("simulated: queue.send was refused")
        sent = world.queues.send(messages)
        match fault:
            case Fault.KILL_AFTER:
                raise Killed("queue.send")
            case Fault.REPLY_LOST:
                raise Unavailable("simulated: the reply of queue.send was lost")
        return sent


# ---- schedules -------------------------------------------------------------------------------------------------


def run_to_rest(world: World, *, max_rounds: int = 200) -> None:
    """Let everything happen that is due, in the seed's order, until the fleet is at rest."""
    for _ in range(max_rounds):
        _drain(world)
        if _is_at_rest(world):
            return
        world.now += timedelta(minutes=30)
        _replay_held(world)
        world.start_plan()
        world.start_sweep()
    states = {batch.id: (str(batch.state), batch.detail) for batch in world.batches()}
    raise AssertionError(f"not at rest after {max_rounds} rounds: {states}; {world.objects()}")


def _drain(world: World) -> None:
    for _ in range(20_000):
        choices: list[Callable[[], None]] = []
        if world.has_runnable():
            choices += [world.step] * 6
        for queue in QueueName:
            if waiting := len(world.queues.waiting(queue)):
                index = world.dice.randrange(waiting)
                choices.append(partial(world.deliver, queue, index))
        if world.events:
            index = world.dice.randrange(len(world.events))
            choices.append(partial(world.deliver_event, index))
        if not choices:
            return
        if world.are_faults_on and world.dice.random() < 0.02:
            _disturb(world)
        else:
            world.dice.choice(choices)()
    raise AssertionError("the fleet does not come to rest: messages go on for ever")


def _disturb(world: World) -> None:
    """Do to queues and buckets what SQS, S3 and people may do at any moment."""
    queue = world.dice.choice(list(QueueName))
    match world.dice.randrange(5):
        case 0 if world.queues.waiting(queue):
            world.queues.duplicate(queue)
        case 1 if world.events:
            world.events.append(world.dice.choice(world.events))
        case 2 if world.events:
            world.events.pop(world.dice.randrange(len(world.events)))
        case 3:
            _send_unasked(world)
        case 4 if world.alterations_left:
            _alter_an_object(world)


def _send_unasked(world: World) -> None:
    """Send a message that is well formed, and that nobody decided to send."""
    if not (batches := world.batches()):
        return
    batch = world.dice.choice(batches)
    unasked = [
        OutboxMessage(QueueName.CLEAN, clean_message(batch.id), "simulated"),
        *(
            OutboxMessage(name, gate_message(batch.id, area), "simulated")
            for area, name in lifecycle.GATE_QUEUES.items()
        ),
        *(
            OutboxMessage(
                queue,
                task_message(
                    f"esclusa.{queue}", {"batch_id": batch.id}, queue=queue, task_id=f"{batch.id}-{queue}"
                ),
                "simulated",
            )
            for queue in (QueueName.EXTRACT, QueueName.PROCESS, QueueName.PUBLISH)
        ),
    ]
    objects = world.objects()
    if objects:
        unasked.append(
            OutboxMessage(QueueName.CLEAN, set_aside_message(world.dice.choice(objects)), "simulated")
        )
    world.queues.send([world.dice.choice(unasked)])


def _alter_an_object(world: World) -> None:
    """
    Overwrite a file that no gate has checked yet, as a careless hand would.

    A raw file at any moment; one in `final/` only while nobody is at work: between the check of a Parquet file
    and the commit behind it there is no copy that would notice.
    """
    areas = TRANSIENT_AREAS if world.actors else (*TRANSIENT_AREAS, Area.FINAL)
    with world.transaction() as tx:
        unchecked = [
            file for file in tx.files(areas=areas, present_only=True) if file.status is FileStatus.ANNOUNCED
        ]
    if unchecked:
        world.alterations_left -= 1
        location = world.dice.choice(unchecked).location
        info = world._plain_store.head(location)
        if info is not None:
            world._plain_store.overwrite(location, b"altered", metadata=info.metadata)


def _replay_held(world: World) -> None:
    """What a person does after the cure, which may be another contract."""
    for batch in world.batches():
        if batch.state in HELD_STATES:
            if world.contract_changes_left:
                world.contract_changes_left -= 1
                world.contract = _contract(version=world.contract_changes_left + 2)
            with world.transaction() as tx:
                version = register_contract(tx, world.contract)
                lifecycle.replay(tx, batch.id, contract=version, detail="cured")


def _is_at_rest(world: World) -> bool:
    batches = world.batches()
    if world.actors or not batches or any(batch.state not in FINAL_STATES for batch in batches):
        return False
    with world.transaction() as tx:
        return (
            tx.watermark("simulated", "rows") == MIDNIGHT + 6 * HOUR
            and not tx.pending_message_count()
            and not tx.batches_with_leftovers(limit=1)
            and not _strays(world, tx)
        )


def _strays(world: World, tx: LedgerTransaction) -> list[Location]:
    recorded = {file.location for file in tx.files(present_only=True)}
    return [location for location in world.objects() if location not in recorded]


# ---- what must hold at rest ---------------------------------------------------------------------------------------


def assert_promises(world: World) -> None:
    """Check target, ledger and bucket against each other. The fleet is at rest."""
    due = {
        row.key: row
        for row in sorted(world.source, key=lambda row: row.changed_at)
        if row.changed_at < MIDNIGHT + 6 * HOUR
    }
    assert {key: row[2] for key, row in world.warehouse.rows.items()} == {
        key: row.value for key, row in due.items()
    }
    batches = world.batches()
    assert len(batches) == 4
    assert {batch.state for batch in batches} == {BatchState.PUBLISHED}
    assert len(set(world.warehouse.applied)) == len(world.warehouse.applied), "loaded twice"
    with world.transaction() as tx:
        for batch in batches:
            _assert_history_chains(tx, batch)
            shown = tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
            assert world.warehouse.markers[batch.id][1] == {file.location for file in shown}
            assert not [each for each in tx.attempts(batch.id) if each.state is AttemptState.RUNNING]
        recorded = {file.location: file for file in tx.files(present_only=True)}
        assert set(world.objects()) == set(recorded)
        assert all(file.area in {Area.FINAL, Area.QUARANTINE} for file in recorded.values())
        committed = {batch.id: batch.committed_attempt for batch in batches}
        for file in recorded.values():
            if file.area is Area.FINAL:
                assert file.batch_id is not None
                assert committed[file.batch_id] == file.attempt
        assert not list(world.store._plain.open_uploads(BUCKET))


def _assert_history_chains(tx: LedgerTransaction, batch: Batch) -> None:
    events = tx.events(batch.id)
    assert events[0].from_state is None
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for before, after in pairwise(events):
        assert after.from_state is before.to_state
    assert events[-1].to_state is batch.state
    numbers: dict[Stage, int] = {}
    for attempt in tx.attempts(batch.id):
        assert attempt.number == numbers.get(attempt.stage, 0) + 1
        numbers[attempt.stage] = attempt.number


def _rows_of_a_morning(dice: random.Random) -> list[Row]:
    rows = []
    for number in range(24):
        moment = MIDNIGHT + timedelta(minutes=15 * number) + timedelta(microseconds=dice.randrange(3))
        rows.append(Row(key=dice.randrange(10), changed_at=moment, value=number))
    return rows


def _header(assignment: Assignment) -> bytes:
    return header_line([column.name for column in assignment.contract.output_columns])


def _contract(*, version: int) -> TableContract:
    keep = Mask(MaskKind.KEEP)
    columns = (
        Column("key", ColumnType(ColumnKind.INT64), keep, nullable=False),
        Column("changed_at", ColumnType(ColumnKind.TIMESTAMPTZ), keep, nullable=False),
        Column(f"value_{version}", ColumnType(ColumnKind.INT64), keep),
    )
    return TableContract(
        origin=Origin("simulated", SourceKind.POSTGRES, {"dsn": "env:SIMULATED_DSN"}),
        table="rows",
        relation=("public", "rows"),
        columns=columns,
        key=("key",),
        cursor=Cursor("changed_at", lag=timedelta(0), overlap=timedelta(0)),
        schedule=Schedule(every=HOUR, max_window=HOUR, catch_up_limit=24),
        publishing=Publishing(PublishMode.MERGE),
    )
