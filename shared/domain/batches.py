"""Batches, their attempts, and the only ways from one state to the next."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window, backfill_run


class Stage(StrEnum):
    """What a worker does with a batch."""

    EXTRACT = "extract"
    PROCESS = "process"
    PUBLISH = "publish"


class BatchState(StrEnum):
    """Where a batch stands. The way is straight; `EDGES` holds it and its few branches."""

    #: Its window is frozen; an extractor may claim it.
    PLANNED = "planned"
    #: An attempt reads the source.
    EXTRACTING = "extracting"
    #: Its CSV files lie in `tmp/`; the gate of `tmp/` checks them.
    EXTRACTED = "extracted"
    #: The gate of `tmp/` found them correct; their copies in `input/` are checked.
    ADMITTED = "admitted"
    #: The gate of `input/` found them correct; their copies in `processing/` are checked.
    STAGED = "staged"
    #: The gate of `processing/` found them correct; a processor may claim the batch.
    READY = "ready"
    #: An attempt writes Parquet.
    PROCESSING = "processing"
    #: Its Parquet files lie in `final/`; the gate of `final/` checks them.
    PROCESSED = "processed"
    #: The gate of `final/` found them correct; readers may see them, a publisher may claim the batch.
    COMMITTED = "committed"
    #: An attempt writes to the warehouse.
    PUBLISHING = "publishing"
    #: Analysts see its rows. Final.
    PUBLISHED = "published"
    #: A newer snapshot made it needless. Final.
    SUPERSEDED = "superseded"
    #: It was held, and an operator gave it up: its rows will not come. Final.
    DISCARDED = "discarded"
    #: Refused for a reason that repeating does not cure. At rest until an operator replays or discards it.
    QUARANTINED = "quarantined"
    #: Every allowed attempt failed. At rest until an operator replays or discards it.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StageStates:
    """The states a stage leads through: claimed from `waiting`, held in `running`, left to `done`."""

    waiting: BatchState
    running: BatchState
    done: BatchState


STAGE_STATES = {
    Stage.EXTRACT: StageStates(BatchState.PLANNED, BatchState.EXTRACTING, BatchState.EXTRACTED),
    Stage.PROCESS: StageStates(BatchState.READY, BatchState.PROCESSING, BatchState.PROCESSED),
    Stage.PUBLISH: StageStates(BatchState.COMMITTED, BatchState.PUBLISHING, BatchState.PUBLISHED),
}

#: The state in which a gate checks the files of its area, and the state it opens.
GATE_STATES = {
    Area.TMP: (BatchState.EXTRACTED, BatchState.ADMITTED),
    Area.INPUT: (BatchState.ADMITTED, BatchState.STAGED),
    Area.PROCESSING: (BatchState.STAGED, BatchState.READY),
    Area.FINAL: (BatchState.PROCESSED, BatchState.COMMITTED),
}

#: States that nothing leaves.
FINAL_STATES = frozenset({BatchState.PUBLISHED, BatchState.SUPERSEDED, BatchState.DISCARDED})

#: States that only an operator leaves, by a replay or by giving the batch up.
HELD_STATES = frozenset({BatchState.QUARANTINED, BatchState.FAILED})

#: States in which a batch needs nothing more from the fleet.
STATES_AT_REST = FINAL_STATES | HELD_STATES

#: States whose batch has its rows safely in `final/`: the copies before it may go.
STATES_IN_FINAL = frozenset({BatchState.COMMITTED, BatchState.PUBLISHING, BatchState.PUBLISHED})

#: States of a batch whose source was read under the contract that the batch has.
STATES_AFTER_READING = frozenset(BatchState) - {
    BatchState.PLANNED,
    BatchState.EXTRACTING,
    # A replay may have given it another contract, under which it was not read yet.
    BatchState.QUARANTINED,
    BatchState.FAILED,
    BatchState.DISCARDED,
}


def _edges() -> frozenset[tuple[BatchState, BatchState]]:
    edges: set[tuple[BatchState, BatchState]] = set()
    for states in STAGE_STATES.values():
        edges |= {
            (states.waiting, states.running),
            (states.running, states.done),
            (states.running, states.waiting),  # the attempt failed or died, another may follow
            (states.running, BatchState.QUARANTINED),
            (states.running, BatchState.FAILED),
            (states.waiting, BatchState.FAILED),  # the allowed number of attempts was lowered
        }
    for checked, opened in GATE_STATES.values():
        edges |= {(checked, opened), (checked, BatchState.QUARANTINED)}
    for held in HELD_STATES:
        edges |= {(held, BatchState.PLANNED), (held, BatchState.COMMITTED)}  # an operator's replay
        edges.add((held, BatchState.DISCARDED))
    edges.add((BatchState.PUBLISHING, BatchState.SUPERSEDED))
    return frozenset(edges)


#: Every allowed transition. The ledger holds the same list and refuses any other.
EDGES = _edges()


def batch_id(source: str, table: str, slot: str) -> str:
    """
    Return the id of a batch: a pure function of source, table and slot.

    >>> batch_id("shop", "orders", "initial")
    'b888a02b48a9b1c2eb734a753'
    """
    text = f"esclusa batch\0{source}\0{table}\0{slot}"
    return "b" + hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Batch:
    """One window of one table: planned, retried, quarantined and published whole."""

    id: str
    source: str
    table: str
    slot: str
    #: Frozen by the first insert, as are `contract_version` and `configuration_sha256`.
    window: Window
    contract_version: int
    configuration_sha256: str
    bucket: str
    state: BatchState
    planned_at: datetime
    #: When the state was entered.
    changed_at: datetime
    #: The number of the latest attempt of each stage; absent before the first.
    attempts: dict[Stage, int] = field(default_factory=dict)
    #: How often each stage may still be tried counts from here: a replay begins a new series.
    attempts_before_replay: dict[Stage, int] = field(default_factory=dict)
    #: The process attempt whose files in `final/` readers may see; None before a gate found them correct.
    committed_attempt: int | None = None
    #: Rows by name, see `shared.domain.counts`.
    counts: dict[str, int] = field(default_factory=dict)
    #: Why it is held, or why its last attempt failed.
    reason: Reason | None = None
    detail: str = ""
    #: When a message last went out for the state it is in, and how often one did. None in a state that waits for
    #: none, and in `planned` while the batch waits for a place at its source.
    woken_at: datetime | None = None
    wake_count: int = 0
    #: The next attempt begins no earlier; None if the last one did not fail.
    not_before: datetime | None = None
    #: Which rows of the window it reads; None: all of them. Frozen like the window, as is `is_bulk`.
    extent: Extent | None = None
    #: It waits behind the windows that are due now: a part of a first load, or of a backfill.
    is_bulk: bool = False
    #: An operator approved what its limits would hold back.
    is_approved: bool = False
    #: The trace of its run, anew with each replay; None of batches from before there were traces.
    trace_id: str | None = None
    #: Counts up with every change; a change of a stale copy is refused.
    revision: int = 0

    @property
    def as_of(self) -> datetime:
        """
        The moment whose state of the table it brings: of two versions of a row with equal cursors the later one stays.

        A backfill looks at an old window as it is now: by the ledger's clock, which may be behind the source's.
        """
        if backfill_run(self.slot) is None:
            return self.window.end
        return max(self.planned_at, self.window.end)

    def attempt_number(self, stage: Stage) -> int:
        """Return the number of the latest attempt of a stage, 0 before the first."""
        return self.attempts.get(stage, 0)

    @property
    def attempts_of_run(self) -> int:
        """How many attempts of any stage were made since it was planned, or replayed."""
        return sum(self.attempts.values()) - sum(self.attempts_before_replay.values())

    @property
    def latest_attempt_number(self) -> int:
        """The number of the latest attempt of the stage that it came to last, 0 before the first."""
        return next((number for stage in reversed(Stage) if (number := self.attempt_number(stage))), 0)

    def may_show(self, process_attempt: int) -> bool:
        """
        Return whether readers may see the files in `final/` of a process attempt.

        They see the committed one. Until the batch is published they may also see one before it: a publisher that
        gave up may have shown it, and a replay committed another since.
        """
        if self.committed_attempt is None:
            return False
        if self.state in {BatchState.PUBLISHED, BatchState.SUPERSEDED}:
            return process_attempt == self.committed_attempt
        return process_attempt <= self.committed_attempt


class AttemptState(StrEnum):
    """How an attempt stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    #: Its lease ran out, another attempt took over, or its worker was told to stop.
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claimed try of one stage of one batch, numbered from 1."""

    batch_id: str
    stage: Stage
    number: int
    worker: str
    state: AttemptState
    claimed_at: datetime
    lease_until: datetime
    ended_at: datetime | None = None
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """One transition of a batch. Events are appended, never changed."""

    batch_id: str
    sequence: int
    from_state: BatchState | None
    to_state: BatchState
    at: datetime
    #: Who spoke: `planner`, `extract#2`, `gate:tmp`, `sweeper`, `operator`.
    actor: str
    reason: Reason | None = None
    detail: str = ""
