"""
The fleet in one process and in no time: real stories over memory adapters, driven by a seed.

Every worker, Lambda, sweep and person is an actor in a thread of its own, but only one runs at a time: before a side
effect it hands control back, and the seed decides who goes on, and whether the effect is hit by a fault. So a schedule
is repeated exactly by its seed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

import structlog
from support.scouts import ToldScout
from support.simulation.actors import Actor
from support.simulation.effects import EFFECTS, Fault, Killed
from support.simulation.ports import (
    SimulatedCatalog,
    SimulatedLedger,
    SimulatedSecrets,
    SimulatedSender,
    SimulatedStore,
    SimulatedWarehouse,
    watched_lifecycle,
)
from support.simulation.rows import (
    MIDNIGHT,
    Row,
    SimulatedReader,
    SimulatedSource,
    rows_of_a_morning,
)

from lambdas import gate
from lambdas.cleaner.clean import clean
from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.sweep import sweep
from services.extractor.extract import extract
from services.publisher.publish import publish
from shared import heartbeat, lifecycle, stage
from shared.csv_dialect import header_line
from shared.domain.batches import Attempt, Batch, Stage
from shared.domain.counts import Count
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location, final_key, rejects_key
from shared.domain.quiet_hours import QuietHours, quiet_until
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import EsclusaError, IllegalTransition, Interrupted, Refused, Unavailable
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import ObjectCreated, parse_clean_message, parse_gate_message, parse_task_message
from shared.object_store.memory import MemoryObjectStore
from shared.outbox import send_pending
from shared.planning import plan_source, register_contract, register_source
from shared.ports import LedgerTransaction, OutboxMessage, QueueName
from shared.queues.memory import MemoryQueues, QueuedMessage
from shared.stage import Assignment, StageLimits

NOON = MIDNIGHT + timedelta(hours=12)

#: As the settings of a fleet are when nobody sets them.
LEASE = timedelta(minutes=2)
VISIBILITY = timedelta(minutes=2)
SOFT_TIME_LIMIT = timedelta(minutes=14)
HARD_TIME_LIMIT = timedelta(minutes=15)
SWEEP_EVERY = timedelta(minutes=1)
#: Who takes from them reads a source.
EXTRACT_QUEUES = frozenset({QueueName.EXTRACT, QueueName.BACKFILL})
#: How long a process stands still: longer than its lease, or than strays are left alone.
STALLS = (3 * LEASE, timedelta(hours=3))
#: Enough that no schedule uses them up; or so few that batches fail, and a person replays them.
MANY_ATTEMPTS, FEW_ATTEMPTS = 50, 2

#: Each hand-over costs two switches of threads. Some suffice: any two effects of two actors still meet in either order.
HAND_OVER_PROBABILITY = 0.3

Decide = Callable[[], Fault]


@dataclass(slots=True)
class Effect:
    """A side effect that happened, or was hit."""

    name: str
    fault: Fault


class OutOfTime(Exception):
    """What Celery raises into a task at its soft time limit."""


class World:
    """Everything there is, and the current actor."""

    def __init__(
        self,
        seed: int,
        *,
        sources: Sequence[SimulatedSource] | None = None,
        decide: Decide | None = None,
        max_attempts: int = MANY_ATTEMPTS,
        extract_workers: int | None = None,
    ) -> None:
        self.dice = random.Random(seed)
        self.now = NOON
        self.sources = list(sources or [SimulatedSource("simulated", rows_of_a_morning(self.dice))])
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.is_in_transaction = False
        self.effects: list[Effect] = []
        self.decide: Decide = decide or (lambda: Fault.NONE)
        self.are_faults_on = True
        self.alterations_left = 0
        self.contract_changes_left = 0
        self.discards_left = 0
        self.disturbances_left = 1_000
        #: What the next side effects of a name are hit by, whatever the schedule wants.
        self.foreseen: dict[str, list[Fault]] = {}
        #: What a test does after each step.
        self.on_step: list[Callable[[World], None]] = []
        #: How many extract tasks run at once; None for as many as there are messages.
        self.extract_workers = extract_workers
        self.queues = MemoryQueues(max_receive_count=1_000)
        #: Messages in flight that nobody will delete, and those that arrive late, with the time they are seen again.
        self.hidden: list[tuple[datetime, Callable[[], object]]] = []
        self.events: list[Location] = []
        self.swept: Counter[str] = Counter()
        self.redelivered_count = 0
        self._plain_ledger = MemoryLedger(lambda: self.now)
        self.plain_store = MemoryObjectStore(lambda: self.now)
        self.ledger = SimulatedLedger(self, self._plain_ledger)
        self.store = SimulatedStore(self, self.plain_store)
        self.sender = SimulatedSender(self)
        self.secrets = SimulatedSecrets(self)
        self.warehouse = SimulatedWarehouse(self)
        self.catalog = SimulatedCatalog(self)
        self.limits = StageLimits(lease=LEASE, retry=RetryPolicy(max_attempts))
        for source in self.sources:
            self.set_places(source.name, source.limits.max_concurrent_extracts)

    # ---- side effects ------------------------------------------------------------------------------------------

    def effect(
        self,
        name: str,
        do: Callable[[], Any],
        *,
        again: Callable[[], object] | None = None,
        late: Callable[[], object] | None = None,
    ) -> Any:
        """
        Do one side effect as the schedule wants it.

        `again`: what the second of two equal requests does, if not the same; `late`: what stalling means within a
        transaction, where nobody can stand still.
        """
        hit = self.begin_effect(name, late=late)
        self.before_effect(hit)
        result = do()
        if hit.fault is Fault.DUPLICATE:
            if again is None:
                result = do()
            else:
                again()
        self.after_effect(hit)
        return result

    def begin_effect(self, name: str, *, late: Callable[[], object] | None = None) -> Effect:
        """Hand control back, and say by what the next side effect is hit."""
        actor = self.current
        if actor is None:
            return Effect(name, Fault.NONE)
        if actor.is_dead:
            raise Killed(f"{actor.name} is dead: {name}")
        if not self.is_in_transaction and self.dice.random() < HAND_OVER_PROBABILITY:
            self._hand_over(actor)
        hit = Effect(name, self._decide(name))
        self.effects.append(hit)
        if hit.fault is Fault.STALL:
            if late is not None:
                late()
                raise Unavailable(f"simulated: {name} has not answered")
            self.sleep(self.dice.choice(STALLS))
        return hit

    def _decide(self, name: str) -> Fault:
        foreseen = self.foreseen.get(name)
        expected = foreseen.pop(0) if foreseen else Fault.NONE
        wanted = self.decide() if self.are_faults_on else Fault.NONE
        return expected if wanted is Fault.NONE else wanted

    def before_effect(self, hit: Effect) -> None:
        """Let it not happen, if it is hit so."""
        if hit.fault is Fault.KILL_BEFORE:
            self.kill(hit.name)
        if hit.fault is Fault.REFUSED:
            raise Unavailable(f"simulated: {hit.name} was refused")

    def after_effect(self, hit: Effect) -> None:
        """Let its caller not learn of it, if it is hit so."""
        assert hit.name in EFFECTS, f"a side effect that nobody named: {hit.name}"
        if hit.fault is Fault.KILL_AFTER:
            self.kill(hit.name)
        if hit.fault is Fault.REPLY_LOST:
            raise Unavailable(f"simulated: the reply of {hit.name} was lost")

    def kill(self, where: str) -> None:
        """End the current process here: what its handlers still try does not happen."""
        if self.current is not None:
            self.current.is_dead = True
        raise Killed(where)

    def sleep(self, duration: timedelta) -> None:
        """Let the current actor stand still, without a sign of life."""
        actor = self.current
        assert actor is not None
        actor.wake_at = self.now + duration
        self._hand_over(actor)

    def _hand_over(self, actor: Actor) -> None:
        actor.pause()
        self.current = actor

    # ---- attempts that take their time -------------------------------------------------------------------------

    @contextmanager
    def keep_alive(self, attempt: Attempt) -> Iterator[None]:
        """What renews the lease of an attempt; here once at its beginning, and while it sleeps."""
        actor = self.current
        assert actor is not None
        actor.attempt = attempt
        self.renew()
        yield

    def renew(self) -> None:
        """Let the heartbeat of the current actor beat once. What it meets it keeps to itself."""
        assert self.current is not None
        attempt = self.current.attempt
        assert attempt is not None
        heartbeat._renew_until(_OneBeat(), attempt, self.ledger, LEASE)  # type: ignore[arg-type]

    def hang(self) -> None:
        """Let the current attempt wait for ever: its heartbeat beats until the hard time limit kills it."""
        while self._runs_for() < HARD_TIME_LIMIT:
            self.sleep(min(LEASE / 3, HARD_TIME_LIMIT - self._runs_for()))
            self.renew()
        self.kill("the hard time limit")

    def require_time_left(self) -> None:
        """
        Renew the lease of the current attempt, if it is not at its soft time limit.

        Raises:
            OutOfTime: if it is.
        """
        self.renew()
        if self._runs_for() >= SOFT_TIME_LIMIT:
            raise OutOfTime("the task took too long")

    def _runs_for(self) -> timedelta:
        assert self.current is not None
        attempt = self.current.attempt
        assert attempt is not None
        return self.now - attempt.claimed_at

    # ---- actors ------------------------------------------------------------------------------------------------

    def start(self, name: str, work: Callable[[], object]) -> Actor:
        """Let a new process begin."""

        def settle(actor: Actor) -> None:
            if isinstance(actor.failure, Exception) and not _is_foreseen(actor.failure):
                raise actor.failure

        actor = Actor(name, work, on_end=settle)
        self.actors.append(actor)
        return actor

    def step(self) -> None:
        """Let one actor, chosen by the seed, go on to its next side effect."""
        self._run(self.dice.choice([actor for actor in self.actors if self._is_awake(actor)]))

    def _run(self, actor: Actor) -> None:
        actor.wake_at = None
        self.current = actor
        try:
            actor.step()
        finally:
            self.current = None
            if actor.is_done:
                self.actors.remove(actor)

    def has_free_extract_worker(self) -> bool:
        """Whether a worker has time for one more extract task."""
        at_work = sum(1 for actor in self.actors if actor.name in EXTRACT_QUEUES)
        return self.extract_workers is None or at_work < self.extract_workers

    def has_runnable(self) -> bool:
        return any(self._is_awake(actor) for actor in self.actors)

    def _is_awake(self, actor: Actor) -> bool:
        return actor.wake_at is None or actor.wake_at <= self.now

    # ---- messages ----------------------------------------------------------------------------------------------

    def deliver(self, queue: QueueName, index: int = 0) -> None:
        """Let a worker or Lambda receive a waiting message, and begin with it."""
        chosen = self.queues.waiting(queue)[index]
        self._run(self.start(str(queue), lambda: self._consume(queue, chosen)))

    def _consume(self, queue: QueueName, chosen: QueuedMessage) -> None:
        received: list[QueuedMessage] = []

        def receive() -> QueuedMessage | None:
            waiting = self.queues.waiting(queue)
            if chosen not in waiting:
                return None
            taken = self.queues.receive(queue, waiting.index(chosen))
            assert taken is not None
            received.append(taken)
            return taken

        def hand_to_another() -> None:
            if not received:
                return
            twin = replace(received[0])
            self.start(str(queue), lambda: self._handle(queue, twin))

        try:
            message = self.effect("queue.receive", receive, again=hand_to_another)
        except BaseException:
            # Received, and in nobody's hands.
            for lost in received:
                self._hide(lost, VISIBILITY)
            raise
        if message is None:
            return
        if message.receive_count > 1:
            self.redelivered_count += 1
        self._handle(queue, message)

    def _handle(self, queue: QueueName, message: QueuedMessage) -> None:
        """What Celery and Lambda do with a message: nothing but success deletes it."""
        try:
            self._handler(queue, message.message.body)()
            self.effect("queue.acknowledge", lambda: self.queues.acknowledge(message))
        except BaseException as error:
            if not _is_foreseen(error):
                self._hide(message, VISIBILITY)
                raise
            backoff = self.limits.retry.pause_after(message.receive_count)
            self._put_back(message, timedelta(0) if isinstance(error, Interrupted) else backoff)

    def _put_back(self, message: QueuedMessage, pause: timedelta) -> None:
        try:
            self.effect("queue.hide", lambda: None)
        except Unavailable:
            pause = VISIBILITY
        except BaseException:
            self._hide(message, VISIBILITY)
            raise
        self._hide(message, pause)

    def _hide(self, message: QueuedMessage, duration: timedelta) -> None:
        self.hidden.append((self.now + duration, lambda: self.queues.release(message)))

    def send_late(self, messages: Sequence[OutboxMessage]) -> None:
        """Let messages arrive some time later, whatever their sender was told."""
        arrives_at = self.now + self.dice.choice(STALLS)
        self.hidden.append((arrives_at, lambda: self.queues.send(messages)))

    def show_hidden(self) -> None:
        """Let every message be seen whose time has come."""
        due = [show for at, show in self.hidden if at <= self.now]
        self.hidden = [entry for entry in self.hidden if entry[0] > self.now]
        for show in due:
            show()

    def lose_messages(self) -> None:
        """Lose every message and every event, wherever it is."""
        self.queues.purge()
        self.hidden.clear()
        self.events.clear()

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
            QueueName.BACKFILL: (Stage.EXTRACT, self.extract),
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
                keep_alive=self.keep_alive,
            )
        if queue is QueueName.CLEAN:
            return lambda: clean(parse_clean_message(body), ledger=self.ledger, store=self.store)
        area = next(area for area, name in lifecycle.GATE_QUEUES.items() if name is queue)
        messages = parse_gate_message(body)

        def check() -> None:
            for message in messages:
                gate.check(area, message, ledger=self.ledger, store=self.store, sender=self.sender)

        return check

    # ---- the work of the three services --------------------------------------------------------------------------

    def extract(self, assignment: Assignment) -> StageResult:
        """The real story over a simulated source."""
        self.secrets.resolve("env:SIMULATED_DSN")
        reader = SimulatedReader(self, self.source(assignment.batch.source), assignment.contract)
        # Two parts for the larger windows. An actor is one thread, so it sends both itself.
        return extract(
            assignment,
            reader=reader,
            store=self.store,
            secrets=self.secrets,
            part_size_in_bytes=150,
            parts_at_once=0,
        )

    def process(self, assignment: Assignment) -> StageResult:
        """What the processor does, small: JSON in place of Parquet, which would be most of the time of all."""
        rows: list[Row] = []
        for file in assignment.files:
            with self.store.open(file.location) as source:
                body = source.read()
            if hashlib.sha256(body).hexdigest() != file.sha256:
                raise Refused(Reason.CHECKSUM_MISMATCH, f"{file.location} was altered")
            lines = body.decode().splitlines()
            assert f"{lines[0]}\n".encode() == _header(assignment), "files of another contract"
            rows += [Row.parse(line) for line in lines[1:]]
        assert len(rows) == assignment.batch.counts[Count.ROWS_WRITTEN]
        kept = _latest(rows) if assignment.contract.key else rows
        evidence = self._write_rejects(assignment)
        file = self._write_final(assignment, kept)
        counts = {
            Count.ROWS_DECODED: len(rows),
            Count.ROWS_IN_FINAL: len(kept),
            Count.ROWS_DEDUPLICATED: len(rows) - len(kept),
        }
        return StageResult(files=[file, evidence], counts=counts)

    def publish(self, assignment: Assignment) -> StageResult:
        """The real story over a simulated warehouse and catalog."""
        return publish(assignment, warehouse=self.warehouse, catalog=self.catalog)

    def _write_rejects(self, assignment: Assignment) -> DataFile:
        batch, number = assignment.batch, assignment.attempt.number
        location = Location(batch.bucket, rejects_key(table=batch.table, batch_id=batch.id, attempt=number))
        body = b"line\n"
        digest = hashlib.sha256(body).hexdigest()
        self.store.put(location, body, sha256=digest, metadata=_metadata(assignment))
        file = _file(assignment, location, Area.QUARANTINE, FileFormat.REJECTS, body, record_count=0)
        return replace(file, status=FileStatus.CORRECT)

    def _write_final(self, assignment: Assignment, rows: Sequence[Row]) -> DataFile:
        batch, number = assignment.batch, assignment.attempt.number
        key = final_key(table=batch.table, day="2026-01-01", batch_id=batch.id, attempt=number, part=0)
        location = Location(batch.bucket, key)
        body = json.dumps([row.text() for row in rows]).encode()
        upload = self.store.open_upload(location, metadata=_metadata(assignment))
        try:
            upload.write(body)
            upload.complete()
        except BaseException:
            upload.abort()
            raise
        return _file(assignment, location, Area.FINAL, FileFormat.PARQUET, body, record_count=len(rows))

    # ---- who comes by itself -------------------------------------------------------------------------------------

    def start_plan(self, *names: str) -> None:
        """Let cron begin, for all sources or for those named."""
        for source in [source for source in self.sources if not names or source.name in names]:
            self.start("planner", lambda source=source: self._plan(source))  # type: ignore[misc]

    def _plan(self, source: SimulatedSource) -> None:
        """What `esclusa enqueue` does for one source."""
        contracts = source.contracts()
        register_source(
            contracts,
            expected_by={contract.table: timedelta(hours=1) for contract in contracts},
            limits=source.limits,
            ledger=self.ledger,
        )
        self.secrets.resolve("env:SIMULATED_DSN")
        reader = SimulatedReader(self, source, contracts[0])
        plan_source(
            contracts,
            ledger=self.ledger,
            scout=ToldScout(reader.clock, reader.open_since),
            bucket=source.bucket,
        )
        send_pending(self.ledger, self.sender)

    def start_sweep(self) -> None:
        """Let a sweeper begin, as a schedule would."""
        limits = SweepLimits(wake_after=timedelta(minutes=1), stray_after=timedelta(hours=2))

        def work() -> None:
            report = sweep(
                ledger=self.ledger,
                store=self.store,
                sender=self.sender,
                buckets=[source.bucket for source in self.sources],
                limits=limits,
                retry=self.limits.retry,
                areas=tuple(Area),
            )
            self.swept.update({str(kind): count for kind, count in report.counts.items()})

        self.start("sweeper", work)

    def start_replay(self, batch: Batch) -> None:
        """Let a person send a held batch on its way again, after a cure that may be another contract."""
        source = self.source(batch.source)
        if self.contract_changes_left:
            self.contract_changes_left -= 1
            source.contract_version += 1
        contract = next(each for each in source.contracts() if each.table == batch.table)

        def work() -> None:
            with self.ledger.transaction() as tx:
                version = register_contract(tx, contract)
                lifecycle.replay(tx, batch.id, contract=version, detail="cured")

        self.start("operator", work)

    def start_second_reading(self, batch: Batch) -> None:
        """Let a person have a published window read again for its rejected rows, and give the list of them up."""

        def work() -> None:
            with self.ledger.transaction() as tx:
                version = tx.contract(batch.source, batch.table, batch.contract_version)
                lifecycle.plan_again(tx, batch, contract=version, detail="cured")
            with self.ledger.transaction() as tx:
                lifecycle.discard_rejects(tx, batch, detail="read again")

        self.start("operator", work)

    def start_discard(self, batch: Batch) -> None:
        """Let a person give a held batch up."""

        def work() -> None:
            with self.ledger.transaction() as tx:
                lifecycle.discard(tx, batch.id, detail="given up")

        self.start("operator", work)

    # ---- looking -----------------------------------------------------------------------------------------------

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """A transaction that no fault hits, for tests that look."""
        return self._plain_ledger.transaction()

    def source(self, name: str) -> SimulatedSource:
        return next(source for source in self.sources if source.name == name)

    def batches(self) -> list[Batch]:
        with self.transaction() as tx:
            return tx.batches()

    def watermark(self, source: str, table: str) -> datetime | None:
        with self.transaction() as tx:
            return tx.watermark(source, table)

    def objects(self) -> list[Location]:
        return [info.location for source in self.sources for info in self.plain_store.list(source.bucket, "")]

    def put_by_hand(self, key: str, body: bytes) -> None:
        """Put an object into the first bucket as a person would."""
        location = Location(self.sources[0].bucket, key)
        self.plain_store.overwrite(location, body)
        self.events.append(location)

    def set_places(self, source: str, max_concurrent_extracts: int) -> None:
        """Say how many extract attempts of a source may run at once from now on."""
        sought = self.source(source)
        sought.limits = replace(sought.limits, max_concurrent_extracts=max_concurrent_extracts)
        with self.transaction() as tx:
            guard = tx.source_guard(source)
            tx.save_source_guard(replace(guard, limits=sought.limits))

    def set_quiet_hours(self, source: str, *hours: str) -> None:
        """Say in which hours no extract attempt of a source may begin from now on."""
        sought = self.source(source)
        sought.limits = replace(sought.limits, quiet_hours=tuple(QuietHours.parse(text) for text in hours))
        with self.transaction() as tx:
            tx.save_source_guard(replace(tx.source_guard(source), limits=sought.limits))

    def check_place(self, claimed: Attempt) -> None:
        """Check that an attempt that was claimed just now has a place at its source."""
        if claimed.stage is not Stage.EXTRACT:
            return
        with self.transaction() as tx:
            batch = tx.batch(claimed.batch_id)
            assert batch is not None
            running = tx.running_extract_count(batch.source)
            # Not what the file says: a planner that stood still may have recorded what it said before.
            limits = tx.source_guard(batch.source).limits
        places = limits.max_concurrent_extracts
        assert quiet_until(limits.quiet_hours, self.now) is None, f"{batch.source} is read in its quiet hours"
        assert running <= places, (
            f"{running} extract attempts of {batch.source} run at once, in {places} places"
        )


def _is_foreseen(error: BaseException) -> bool:
    """Whether an error is one that a message comes back for; anything else is a defect."""
    return isinstance(error, OutOfTime | EsclusaError) and not isinstance(error, IllegalTransition)


def _header(assignment: Assignment) -> bytes:
    return header_line([column.name for column in assignment.contract.output_columns])


def _latest(rows: Sequence[Row]) -> list[Row]:
    latest = {row.key: row for row in sorted(rows, key=lambda row: row.changed_at)}
    return list(latest.values())


def _metadata(assignment: Assignment) -> dict[str, str]:
    return {
        "esclusa-batch": assignment.batch.id,
        "esclusa-attempt": str(assignment.attempt.number),
        "esclusa-source": assignment.batch.source,
    }


def _file(
    assignment: Assignment,
    location: Location,
    area: Area,
    file_format: FileFormat,
    body: bytes,
    *,
    record_count: int,
) -> DataFile:
    return DataFile(
        location=location,
        area=area,
        format=file_format,
        batch_id=assignment.batch.id,
        attempt=assignment.attempt.number,
        part=0,
        record_count=record_count,
        file_size_in_bytes=len(body),
        sha256=hashlib.sha256(body).hexdigest(),
    )


class _OneBeat:
    """Stands where a heartbeat expects the event that ends it: lets it beat once."""

    def __init__(self) -> None:
        self._has_beaten = False

    def wait(self, seconds: float) -> bool:
        before, self._has_beaten = self._has_beaten, True
        return before


@contextmanager
def simulation() -> Iterator[None]:
    """What every simulation needs of the process it runs in."""
    with (
        mock.patch.multiple(lifecycle, **watched_lifecycle()),
        # The simulated processor writes JSON: the check of real footers has tests of its own.
        mock.patch.object(gate, "_compare_footer"),
    ):
        # Millions of log lines would be most of the time.
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        try:
            yield
        finally:
            structlog.reset_defaults()
