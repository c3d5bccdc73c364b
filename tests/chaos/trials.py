"""
One trial: a batch of its own goes its whole way, one side effect of it is hit by one fault, and all is well at the end.

What is hit is not listed anywhere: it is what a batch of each profile was seen to do when nothing went wrong.
"""

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg
from chaos.controller import Controller, Effect, Fault, Mode
from chaos.fleet import PROFILES, ChaosFleet, source_file
from support.fleet import until
from support.history import faults_of
from support.scouts import ToldScout

from local.processes import PYTHON, SOURCE_ROOT
from services.publisher.catalog import database_name
from shared.domain.batches import STATES_AT_REST, Batch, BatchState, batch_id
from shared.domain.contracts import TableContract
from shared.domain.files import Area, Location
from shared.domain.windows import INITIAL_SLOT
from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.outbox import send_pending
from shared.planning import plan_source
from shared.settings import FleetSettings

#: The most that a trial may take to its rest, and then to the end of what is swept.
PATIENCE_SECONDS = 240.0

#: What is wrong already in a profile, so that effects are seen which a smooth way has not.
STUMBLES = (
    Fault(Mode.UNAVAILABLE, Effect("extractor", "s3 PutObject tmp/")),
    Fault(Mode.UNAVAILABLE, Effect("processor", "s3 PutObject final/")),
    Fault(Mode.UNAVAILABLE, Effect("publisher", "glue BatchCreatePartition")),
)
DEATHS = (
    Fault(Mode.KILL_AFTER, Effect("extractor", "s3 PutObject tmp/")),
    Fault(Mode.KILL_BEFORE, Effect("gate-input", "ledger open gate")),
    Fault(Mode.KILL_AFTER, Effect("processor", "s3 PutObject final/")),
    Fault(Mode.KILL_AFTER, Effect("publisher", "warehouse COMMIT")),
)
SLOWNESS = (
    Fault(None, Effect("extractor", "s3 PutObject tmp/"), sleep_seconds=5.0),
    Fault(None, Effect("processor", "s3 PutObject final/"), sleep_seconds=5.0),
    Fault(None, Effect("publisher", "glue BatchCreatePartition"), sleep_seconds=5.0),
)
#: In place of the id of a batch that is not planned yet.
_NOT_YET = "?"


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of way of a batch: how its table is loaded, and what goes wrong on it in any case."""

    name: str
    table: str
    troubles: tuple[Fault, ...] = ()
    is_planned_by_command: bool = False
    #: Whether its end is that it is set aside.
    is_held: bool = False


SMOOTH = (
    Profile("merge", "merge"),
    Profile("append", "append"),
    Profile("replace", "replace"),
)
PLANNED = Profile("planned", "merge", is_planned_by_command=True)
LARGE = Profile("large", "large")
TROUBLED = (
    Profile("stumbling", "append", STUMBLES),
    Profile("dying", "append", DEATHS),
    Profile("slow", "append", SLOWNESS),
)
HELD = Profile("held", "held", is_held=True)
ALL_PROFILES = (*SMOOTH, PLANNED, LARGE, HELD, *TROUBLED)


@dataclass(frozen=True, slots=True)
class Trial:
    """What to break, on which way of a batch."""

    profile: Profile
    effect: Effect
    mode: Mode
    occurrence: int = 1
    #: Whether it hits whatever batch is next: an effect of a process that does not know for which it is.
    is_of_anybody: bool = False

    @property
    def may_hit_others(self) -> bool:
        """Whether a batch of another trial may be hit, too or instead."""
        return self.is_of_anybody or self.effect.role.endswith("(main)")

    @property
    def name(self) -> str:
        """As `CHAOS_TRIAL` takes it."""
        star = "*" if self.is_of_anybody else ""
        return f"{self.profile.name}{star}: {self.effect.role}: {self.effect.name}: {self.mode}: {self.occurrence}"

    @classmethod
    def parse(cls, name: str) -> "Trial":
        """Return the trial of a name."""
        profile, role, effect, mode, occurrence = name.split(": ")
        found = next(each for each in ALL_PROFILES if each.name == profile.removesuffix("*"))
        return cls(
            found, Effect(role, effect), Mode(mode), int(occurrence), is_of_anybody=profile.endswith("*")
        )


@dataclass(slots=True)
class Outcome:
    """What came of a trial."""

    trial: Trial
    batch_id: str
    #: Empty if all is well.
    complaints: list[str]
    was_hit: bool
    #: Attempts by stage, from the ledger.
    attempts: dict[str, int] = field(default_factory=dict)
    #: Who mended it.
    healed_by: str = ""
    #: From the plan to the batch at rest.
    rest_seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.was_hit and not self.complaints


# ---- what can be hit -------------------------------------------------------------------------------------------


def is_shared(effect: Effect) -> bool:
    """Whether an effect is of a process that works for all batches at once, before it knows for which."""
    return effect.role.endswith("(main)") and "ReceiveMessage" in effect.name


def is_read(effect: Effect) -> bool:
    """Whether an effect changes nothing: most of what can happen to it is then one and the same."""
    return re.search(r" (read|SELECT|SET|(Get|Head|List)[A-Z]\w+)\b", effect.name) is not None


def modes_of(effect: Effect) -> list[Mode]:
    """Return what can happen to an effect."""
    service = effect.name.partition(" ")[0]
    if service in {"ledger", "warehouse", "source"}:
        if effect.name.endswith(" connect"):
            # A connection nobody learns of is no other thing than one that was refused.
            return [Mode.KILL_BEFORE, Mode.KILL_AFTER, Mode.UNAVAILABLE, Mode.ZOMBIE]
        # A transaction that is sent twice is two transactions; a statement within one changes nothing outside.
        return [mode for mode in Mode if mode is not Mode.DUPLICATE]
    return list(Mode)


# ---- one trial ---------------------------------------------------------------------------------------------------


class Laboratory:
    """Does trials on a fleet; one at a time to each of its sources."""

    def __init__(self, fleet: ChaosFleet) -> None:
        self.fleet = fleet
        self._numbers = iter(range(1, 1_000_000))
        self._lock = threading.Lock()
        self._connected: dict[str, Fleet] = {}
        self._expected: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        self.glue = fleet.small.client("glue")

    @property
    def controller(self) -> Controller:
        return self.fleet.controller

    def connection(self, source: str) -> Fleet:
        """Return the connections of the one who does trials on a source."""
        with self._lock:
            if source not in self._connected:
                self._connected[source] = Fleet.connect(FleetSettings())
            return self._connected[source]

    def run(self, trial: Trial | None, *, profile: Profile, source: str) -> "Running":
        """
        Send a batch on its way with a fault, and wait until it is at rest.

        Raises:
            TimeoutError: if it does not come to rest.
        """
        with self._lock:
            table = f"t{next(self._numbers)}"
        began_at = time.monotonic()
        is_certain = PROFILES[profile.table][2] != "replace"
        known_id = batch_id(source, table, INITIAL_SLOT) if is_certain else None
        faults = [self._fault(trial, batch=known_id, tag=table)] if trial else []
        troubles = [_aimed(fault, known_id) for fault in profile.troubles]
        running = Running(self, trial, profile, source, table, faults[0] if faults else None)
        with self.controller.faults(*troubles, *faults):
            if trial and trial.is_of_anybody:
                self._end_idle_processes(trial.effect.role)
            if profile.is_planned_by_command:
                self._plan_by_command(running)
            else:
                self._plan(running, faults)
            running.wait_until_at_rest()
            running.rest_seconds = time.monotonic() - began_at
            # The way of the batch may end before the fault's place comes: the cleaner is not waited for.
            if faults:
                running.wait_until_hit()
        return running

    def _fault(self, trial: Trial, *, batch: str | None, tag: str) -> Fault:
        role = trial.effect.role
        if role == "planner":
            return Fault(trial.mode, trial.effect, tag=tag, occurrence=trial.occurrence)
        if is_shared(trial.effect) and trial.mode in {Mode.KILL_BEFORE, Mode.UNAVAILABLE, Mode.ZOMBIE}:
            return Fault(trial.mode, trial.effect)
        if trial.is_of_anybody:
            return Fault(trial.mode, trial.effect)
        return Fault(trial.mode, trial.effect, batch_id=batch or _NOT_YET, occurrence=trial.occurrence)

    def _plan(self, running: "Running", faults: Sequence[Fault]) -> None:
        fleet = self.connection(running.source)
        planned = until(lambda: plan_table(running.contract(), fleet), what="a batch to be planned")
        for fault in faults:
            if fault.batch_id == _NOT_YET:
                fault.batch_id = planned
        send_pending(fleet.ledger, fleet.sender)

    def _plan_by_command(self, running: "Running") -> None:
        """Plan as cron does: again and again, whatever becomes of one command."""
        sources = self.fleet.small.home.path / "planned" / running.table
        sources.mkdir(parents=True)
        text = source_file(running.source, {running.table: running.profile.table})
        (sources / f"{running.source}.yaml").write_text(text)
        command = [PYTHON, "-m", "cli.main", "enqueue", "--sources", str(sources)]
        environment = {**os.environ, "CHAOS_TAG": running.table}
        environment["PYTHONPATH"] = os.pathsep.join([str(SOURCE_ROOT), os.environ["PYTHONPATH"]])

        def is_planned() -> bool:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=120
            )
            running.commands.append(done.returncode)
            # The first may die; whoever comes next has no fault in his way.
            return done.returncode == 0 and bool(running.batches())

        until(is_planned, what="a command that plans", within_seconds=PATIENCE_SECONDS)

    def _end_idle_processes(self, role: str) -> None:
        """What a process does at its start is seen only if one starts."""
        for pid in self.controller.pids_of(role):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def expected(self, source: str, profile: str) -> list[tuple[Any, ...]]:
        """Return the rows of a profile's source table; they never change."""
        key = (source, PROFILES[profile][0])
        if key not in self._expected:
            self._expected[key] = self.fleet.source_rows(source, profile)
        return self._expected[key]


def plan_table(contract: TableContract, fleet: Fleet) -> str | None:
    """Plan the first batch of a table, and return its id."""
    planned = plan_source(
        [contract],
        ledger=fleet.ledger,
        scout=ToldScout(lambda: datetime.now(UTC)),
        bucket=fleet.settings.bucket(contract.source),
    )
    slots = [window.slot for table in planned for window in table.planned]
    return batch_id(contract.source, contract.table, slots[0]) if slots else None


def _aimed(fault: Fault, batch: str | None) -> Fault:
    return Fault(fault.mode, fault.effect, batch_id=batch, sleep_seconds=fault.sleep_seconds)


@dataclass(slots=True)
class Running:
    """A trial that was begun, and what is looked at until all of it is at rest."""

    laboratory: Laboratory
    trial: Trial | None
    profile: Profile
    source: str
    table: str
    fault: Fault | None
    rest_seconds: float = 0.0
    commands: list[int] = field(default_factory=list)

    # ---- until it is at rest -----------------------------------------------------------------------------------

    def contract(self) -> TableContract:
        return self.laboratory.fleet.contract(self.source, self.profile.table, table=self.table)

    def batches(self) -> list[Batch]:
        with self._fleet.ledger.transaction() as tx:
            return tx.batches(source=self.source, table=self.table)

    @property
    def _fleet(self) -> Fleet:
        return self.laboratory.connection(self.source)

    def wait_until_at_rest(self) -> None:
        def at_rest() -> bool:
            batches = self.batches()
            return bool(batches) and all(batch.state in STATES_AT_REST for batch in batches)

        try:
            until(at_rest, what="its batches to come to rest", within_seconds=PATIENCE_SECONDS, pause=0.5)
        except TimeoutError as error:
            states = [f"{batch.id} {batch.state} {batch.detail}" for batch in self.batches()]
            raise TimeoutError(f"{error}: {states}") from None

    def wait_until_hit(self) -> None:
        """Give what comes after the last state, cleaner and late messages, a little time to be hit."""
        # What a dead attempt left is swept only after a while.
        patience_seconds = 90 if self.fault and self.fault.effect.role == "sweeper" else 8
        deadline = time.monotonic() + patience_seconds
        while self.fault and self.fault.hit_at is None and time.monotonic() < deadline:
            time.sleep(0.2)

    # ---- when it is at rest --------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether nothing stands still because of the fault any more, and what went on then had a moment."""
        return self.fault is None or self.fault.hit_at is None or time.monotonic() > self.fault.over_at + 3

    def complaints(self) -> list[str]:
        """Compare target, ledger, bucket and catalog with each other and with the source; what is not well."""
        try:
            return [
                *self._of_rows(),
                *(sentence for batch in self.batches() for sentence in self._of_ledger(batch)),
                *self._of_bucket(),
                *self._of_catalog(),
                *self._of_reader(),
            ]
        except (Unavailable, psycopg.Error) as error:
            return [f"could not look: {type(error).__name__}: {error}"]

    def _of_rows(self) -> Iterator[str]:
        if self.profile.is_held:
            return
        expected = self.laboratory.expected(self.source, self.profile.table)
        found = self.laboratory.fleet.warehouse_rows(self.source, self.table)
        if found != expected:
            missing, unexpected = len(set(expected) - set(found)), len(set(found) - set(expected))
            yield (
                f"the warehouse differs from the source: {len(found)} rows in place of {len(expected)}, "
                f"{missing} missing, {unexpected} unexpected"
            )

    def _of_ledger(self, batch: Batch) -> Iterator[str]:
        if batch.state is not (BatchState.QUARANTINED if self.profile.is_held else BatchState.PUBLISHED):
            yield f"batch {batch.id} is {batch.state}: {batch.reason} {batch.detail}"
        with self._fleet.ledger.transaction() as tx:
            yield from faults_of(tx, batch)

    def _of_bucket(self) -> Iterator[str]:
        bucket, store = self._fleet.settings.bucket(self.source), self._fleet.store
        areas = [*Area, *(f"{Area.QUARANTINE}/{area}" for area in Area)]
        listed = {info.location for area in areas for info in store.list(bucket, f"{area}/{self.table}/")}
        with self._fleet.ledger.transaction() as tx:
            files = [
                file
                for batch in tx.batches(source=self.source, table=self.table)
                for file in tx.files(batch_id=batch.id)
            ]
        present = {file.location for file in files if file.deleted_at is None}
        if strays := listed - present:
            yield f"objects that the ledger does not name: {_keys(strays)}"
        if lost := present - listed:
            yield f"files of the ledger that the bucket does not hold: {_keys(lost)}"
        committed = {(batch.id, batch.committed_attempt) for batch in self.batches()}
        for file in files:
            is_shown = file.area is Area.FINAL and (file.batch_id, file.attempt) in committed
            is_set_aside = file.area is Area.QUARANTINE and self.profile.is_held
            if file.deleted_at is None and not is_shown and not is_set_aside:
                yield f"left over: {file.location.key}"
        if uploads := [
            each.location.key for each in store.open_uploads(bucket) if f"/{self.table}/" in each.location.key
        ]:
            yield f"uploads left open: {uploads}"

    def _of_catalog(self) -> Iterator[str]:
        """The lake shows exactly the committed files."""
        if self.profile.is_held:
            return
        database = database_name(self.source, prefix=self._fleet.settings.bucket_prefix)
        glue = self.laboratory.glue
        if PROFILES[self.profile.table][2] == "replace":
            shown = [glue.get_table(DatabaseName=database, Name=self.table)["Table"]]
        else:
            shown = glue.get_partitions(DatabaseName=database, TableName=self.table)["Partitions"]
        folders = {each["StorageDescriptor"]["Location"] for each in shown}
        bucket = self._fleet.settings.bucket(self.source)
        seen = {
            info.location
            for folder in folders
            for info in self._fleet.store.list(bucket, folder.removeprefix(f"s3://{bucket}/"))
        }
        with self._fleet.ledger.transaction() as tx:
            committed = {
                file.location
                for batch in tx.batches(source=self.source, table=self.table)
                for file in tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
            }
        if seen != committed:
            yield f"the lake shows {_keys(seen)}, committed are {_keys(committed)}"

    def _of_reader(self) -> Iterator[str]:
        if partial := self.laboratory.fleet.reader.partial(self.source, self.table):
            yield f"a reader saw a part of a batch: {partial}"

    # ---- who mended it -----------------------------------------------------------------------------------------

    def outcome(self, complaints: list[str]) -> Outcome:
        assert self.trial is not None
        batches = self.batches()
        first = batches[0].id if batches else ""
        with self._fleet.ledger.transaction() as tx:
            attempts = tx.attempts(first)
        counts = {str(each.stage): each.number for each in attempts}
        return Outcome(
            trial=self.trial,
            batch_id=first,
            complaints=complaints,
            was_hit=self.fault is not None and self.fault.hit_at is not None,
            attempts=counts,
            healed_by=self._healed_by(first, [str(each.state) for each in attempts], counts),
            rest_seconds=round(self.rest_seconds, 1),
        )

    def _healed_by(self, batch: str, states: list[str], counts: dict[str, int]) -> str:
        if len(self.commands) > 1:
            return "next enqueue"
        hit_at = self.fault.hit_at if self.fault else None
        later = [each.effect for each in self.laboratory.controller.seen(batch) if each.at > (hit_at or 0.0)]
        swept = {each.name for each in later if each.role == "sweeper"}
        if "expired" in states:
            who = "sweeper" if "ledger end attempt" in swept else "takeover"
            return f"{who}, attempt {max(counts.values())}"
        if "failed" in states:
            who = "sweeper" if "ledger wake" in swept else "redelivery"
            return f"{who}, attempt {max(counts.values())}"
        if "ledger wake" in swept:
            return "sweeper woke it"
        if any(name.startswith("sqs SendMessageBatch") for name in swept):
            return "sweeper sent it"
        return "in place"


def _keys(locations: set[Location]) -> list[str]:
    return sorted(location.key for location in locations)
