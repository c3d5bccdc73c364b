"""The life of a batch: every way it may go, who may speak for it, and what it leaves behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest
from support.ledger_rows import (
    BUCKET,
    NOON,
    a_contract,
    a_final_file,
    a_foreign_file,
    a_raw_file,
)
from support.ledgers import SteppingClock

from shared import lifecycle
from shared.domain.batches import (
    EDGES,
    FINAL_STATES,
    GATE_STATES,
    HELD_STATES,
    STAGE_STATES,
    Attempt,
    AttemptState,
    Batch,
    BatchEvent,
    BatchState,
    Stage,
    batch_id,
)
from shared.domain.contracts import MaskEvidence, MaskKind
from shared.domain.files import Area, DataFile, FileStatus
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.windows import PlannedWindow, Window
from shared.errors import LostLease, Refused
from shared.ledger.memory import MemoryLedger
from shared.lifecycle import StageResult
from shared.messages import (
    CheckBatch,
    CleanBatch,
    SetObjectAside,
    parse_clean_message,
    parse_gate_message,
    parse_task_message,
)
from shared.ports import LedgerTransaction, QueueName

BATCH_ID = batch_id("shop", "orders", "initial")
WINDOW = Window(None, NOON)
LEASE = timedelta(minutes=16)
MAX_ATTEMPTS = 3

EXTRACTED = {"rows_read": 6, "rows_written": 6}
PROCESSED = {"rows_decoded": 6, "rows_in_final": 6}


class Life:
    """One batch and those who move it. Each method is one transaction."""

    def __init__(self) -> None:
        self.clock = SteppingClock()
        self.ledger = MemoryLedger(self.clock)
        with self.ledger.transaction() as tx:
            tx.insert_contract(a_contract())
            tx.insert_contract(a_contract(version=2))

    @property
    def batch(self) -> Batch:
        with self.ledger.transaction() as tx:
            batch = tx.batch(BATCH_ID)
        assert batch is not None
        return batch

    @property
    def events(self) -> list[BatchEvent]:
        with self.ledger.transaction() as tx:
            return tx.events(BATCH_ID)

    def files(self, *areas: Area) -> list[DataFile]:
        with self.ledger.transaction() as tx:
            return tx.files(batch_id=BATCH_ID, areas=areas or list(Area))

    def attempt_states(self, stage: Stage) -> list[AttemptState]:
        with self.ledger.transaction() as tx:
            return [attempt.state for attempt in tx.attempts(BATCH_ID) if attempt.stage is stage]

    def sent(self) -> list[tuple[QueueName, object]]:
        """Return what was posted since the last call, as its readers see it."""
        with self.ledger.transaction() as tx:
            pending = tx.pending_messages(limit=100)
            tx.mark_sent([item.id for item in pending])
        return [(item.message.queue, _read(item.message.queue, item.message.body)) for item in pending]

    def plan(self, *, window: Window = WINDOW) -> bool:
        with self.ledger.transaction() as tx:
            planned = PlannedWindow("initial", window)
            return lifecycle.plan(tx, a_contract(), planned=planned, bucket=BUCKET)

    def claim(self, stage: Stage, *, max_attempts: int = MAX_ATTEMPTS) -> Attempt | None:
        with self.ledger.transaction() as tx:
            return lifecycle.claim(
                tx, BATCH_ID, stage, worker="w", lease=LEASE, retry=RetryPolicy(max_attempts)
            )

    def claimed(self, stage: Stage) -> Attempt:
        attempt = self.claim(stage)
        assert attempt is not None
        return attempt

    def renew(self, attempt: Attempt) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.renew(tx, attempt, lease=LEASE)

    def complete(self, attempt: Attempt, result: StageResult | None = None) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.complete(tx, attempt, result or result_of(attempt, self.batch_in(tx)))

    def fail(self, attempt: Attempt, *, detail: str = "connection refused") -> None:
        with self.ledger.transaction() as tx:
            lifecycle.fail_attempt(
                tx, attempt, detail=detail, retry=RetryPolicy(MAX_ATTEMPTS, first_pause=timedelta(0))
            )

    def refuse(
        self,
        attempt: Attempt,
        files: Sequence[DataFile] = (),
        *,
        reason: Reason = Reason.TYPE_CHANGED,
    ) -> None:
        with self.ledger.transaction() as tx:
            lifecycle.refuse_attempt(tx, attempt, reason=reason, detail="amount became text", files=files)

    def expire(self, attempt: Attempt) -> bool:
        with self.ledger.transaction() as tx:
            return lifecycle.expire_attempt(tx, attempt, retry=RetryPolicy(MAX_ATTEMPTS))

    def check(self, area: Area) -> None:
        """Find every file before a gate correct."""
        with self.ledger.transaction() as tx:
            for file in lifecycle.files_to_check(tx, self.batch_in(tx), area):
                assert lifecycle.record_correct(tx, file, area=area)

    def open(self, area: Area) -> bool:
        with self.ledger.transaction() as tx:
            attempt = self.batch_in(tx).attempt_number(lifecycle.writer_of(area))
            return lifecycle.open_gate(tx, BATCH_ID, area=area, attempt=attempt)

    def refuse_file(self, area: Area, *, part: int = 0) -> bool:
        with self.ledger.transaction() as tx:
            file = lifecycle.files_to_check(tx, self.batch_in(tx), area)[part]
            return lifecycle.record_incorrect(
                tx, file, area=area, reason=Reason.SIZE_MISMATCH, detail="found 7 bytes"
            )

    def replay(self, *, contract_version: int = 1, is_approved: bool = False) -> Batch | None:
        with self.ledger.transaction() as tx:
            contract = a_contract(version=contract_version)
            return lifecycle.replay(tx, BATCH_ID, contract=contract, detail="cured", is_approved=is_approved)

    def discard(self) -> Batch | None:
        with self.ledger.transaction() as tx:
            return lifecycle.discard(tx, BATCH_ID, detail="the table is gone")

    def wake(self, state: BatchState) -> bool:
        with self.ledger.transaction() as tx:
            return lifecycle.wake(tx, BATCH_ID, state=state)

    def leftovers(self) -> list[str]:
        with self.ledger.transaction() as tx:
            return [f"{file.area} a{file.attempt}" for file in lifecycle.leftovers(tx, self.batch_in(tx))]

    def delete_leftovers(self) -> None:
        with self.ledger.transaction() as tx:
            for file in lifecycle.leftovers(tx, self.batch_in(tx)):
                lifecycle.record_deleted(tx, file.location)

    def go_to(self, state: BatchState) -> None:
        """Plan the batch if need be and lead it straight to a state."""
        with self.ledger.transaction() as tx:
            is_planned = tx.batch(BATCH_ID) is not None
        if not is_planned:
            self.plan()
        while self.batch.state is not state:
            self._step()

    def _step(self) -> None:
        now = self.batch.state
        for stage, states in STAGE_STATES.items():
            if now is states.waiting:
                self.claim(stage)
                return
            if now is states.running:
                self.complete(self.running(stage))
                return
        for area, (checked, _) in GATE_STATES.items():
            if now is checked:
                self.check(area)
                assert self.open(area)
                return
        raise AssertionError(f"nothing leads on from {now}")

    def running(self, stage: Stage) -> Attempt:
        with self.ledger.transaction() as tx:
            attempt = tx.attempt(BATCH_ID, stage, self.batch_in(tx).attempt_number(stage))
        assert attempt is not None
        return attempt

    @staticmethod
    def batch_in(tx: LedgerTransaction) -> Batch:
        batch = tx.batch(BATCH_ID)
        assert batch is not None
        return batch


ON_THE_STRAIGHT_WAY = [state for state in BatchState if state not in HELD_STATES | FINAL_STATES]
ON_THE_STRAIGHT_WAY.append(BatchState.PUBLISHED)


def result_of(attempt: Attempt, batch: Batch) -> StageResult:
    """Return what a stage that goes well comes to: two files of three rows."""
    number = attempt.number
    match attempt.stage:
        case Stage.EXTRACT:
            files = [a_raw_file(batch, attempt=number, part=part) for part in range(2)]
            return StageResult(files, EXTRACTED, manifest={"attempt": number})
        case Stage.PROCESS:
            files = [a_final_file(batch, attempt=number, part=part) for part in range(2)]
            return StageResult(files, PROCESSED)
        case Stage.PUBLISH:
            return StageResult(counts={"rows_staged": 6})


def _read(queue: QueueName, body: str) -> object:
    if queue in lifecycle.GATE_QUEUES.values():
        return parse_gate_message(body)[0]
    return parse_clean_message(body) if queue is QueueName.CLEAN else parse_task_message(body).task


@pytest.fixture
def life() -> Iterator[Life]:
    life = Life()
    yield life
    # Whatever a test did: the history chains, ends where the batch stands, and went along edges only.
    events = life.events
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert all(before.to_state is after.from_state for before, after in pairwise(events))
    assert {(event.from_state, event.to_state) for event in events[1:]} <= EDGES
    assert events[-1].to_state is life.batch.state


# ---- the straight way ----------------------------------------------------------------------------------------


def test_a_batch_that_meets_no_trouble_goes_straight_to_published(life: Life) -> None:
    life.go_to(BatchState.PUBLISHED)

    straight = [state for state in BatchState if state in ON_THE_STRAIGHT_WAY]
    assert [event.to_state for event in life.events] == straight
    assert life.batch.counts == EXTRACTED | PROCESSED | {"rows_staged": 6}
    assert life.batch.attempts == dict.fromkeys(Stage, 1)
    assert life.batch.committed_attempt == 1


def test_the_history_says_who_spoke(life: Life) -> None:
    life.go_to(BatchState.PUBLISHED)

    assert [event.actor for event in life.events] == [
        "planner",
        "extract#1",
        "extract#1",
        "gate:tmp",
        "gate:input",
        "gate:processing",
        "process#1",
        "process#1",
        "gate:final",
        "publish#1",
        "publish#1",
    ]


@pytest.mark.parametrize(
    ("state", "messages"),
    [
        (BatchState.PLANNED, [(QueueName.EXTRACT, "esclusa.extract")]),
        (BatchState.EXTRACTING, []),
        (BatchState.EXTRACTED, [(QueueName.GATE_TMP, CheckBatch(BATCH_ID, Area.TMP))]),
        (BatchState.ADMITTED, [(QueueName.GATE_INPUT, CheckBatch(BATCH_ID, Area.INPUT))]),
        (BatchState.STAGED, [(QueueName.GATE_PROCESSING, CheckBatch(BATCH_ID, Area.PROCESSING))]),
        (BatchState.READY, [(QueueName.PROCESS, "esclusa.process")]),
        (BatchState.PROCESSING, []),
        (BatchState.PROCESSED, [(QueueName.GATE_FINAL, CheckBatch(BATCH_ID, Area.FINAL))]),
        (
            BatchState.COMMITTED,
            [(QueueName.PUBLISH, "esclusa.publish"), (QueueName.CLEAN, CleanBatch(BATCH_ID))],
        ),
        (BatchState.PUBLISHING, []),
        (BatchState.PUBLISHED, []),
    ],
)
def test_entering_a_state_sends_what_makes_the_batch_go_on(
    life: Life, state: BatchState, messages: list[tuple[QueueName, object]]
) -> None:
    life.plan()
    if state is not BatchState.PLANNED:
        life.sent()
        life.go_to(state)

    sent = life.sent()

    assert sent[len(sent) - len(messages) :] == messages
    assert life.batch.wake_count == (1 if messages else 0)
    assert life.batch.woken_at == (NOON if messages else None)


def test_messages_are_grouped_by_source_so_that_no_source_delays_another(life: Life) -> None:
    life.go_to(BatchState.COMMITTED)

    with life.ledger.transaction() as tx:
        assert {item.message.group for item in tx.pending_messages(limit=100)} == {"shop"}


# ---- planning ------------------------------------------------------------------------------------------------


def test_a_window_is_planned_once_and_the_first_one_stays(life: Life) -> None:
    first = life.plan(window=Window(None, NOON))
    second = life.plan(window=Window(None, NOON + LEASE))

    assert (first, second) == (True, False)
    assert life.batch.window == Window(None, NOON)
    assert len(life.sent()) == len(life.events) == 1


def test_a_planned_batch_freezes_its_contract(life: Life) -> None:
    life.plan()

    assert life.batch.contract_version == 1
    assert life.batch.configuration_sha256 == a_contract().sha256
    assert life.batch.bucket == BUCKET


# ---- claims and leases ---------------------------------------------------------------------------------------


def test_a_claim_takes_a_lease_from_the_clock_of_the_ledger(life: Life) -> None:
    life.plan()
    life.clock.advance(hours=1)

    attempt = life.claimed(Stage.EXTRACT)

    assert (attempt.number, attempt.state) == (1, AttemptState.RUNNING)
    assert (attempt.claimed_at, attempt.lease_until) == (life.clock(), life.clock() + LEASE)


def test_a_redelivered_message_claims_nothing_while_the_lease_holds(life: Life) -> None:
    life.go_to(BatchState.EXTRACTING)
    life.clock.advance(minutes=15)

    assert life.claim(Stage.EXTRACT) is None
    assert life.batch.attempts == {Stage.EXTRACT: 1}


@pytest.mark.parametrize("stage", Stage)
def test_a_claim_finds_nothing_where_the_batch_does_not_wait_for_it(life: Life, stage: Stage) -> None:
    life.go_to(BatchState.EXTRACTED)

    assert life.claim(stage) is None
    assert life.batch.state is BatchState.EXTRACTED


def test_a_claim_of_a_batch_that_is_not_there_finds_nothing() -> None:
    assert Life().claim(Stage.EXTRACT) is None


@pytest.mark.parametrize("stage", Stage)
def test_a_lease_that_is_over_lets_the_next_worker_take_over(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].running)
    life.clock.advance(minutes=16)

    attempt = life.claimed(stage)

    assert attempt.number == 2
    assert life.batch.state is STAGE_STATES[stage].running
    assert life.attempt_states(stage) == [AttemptState.EXPIRED, AttemptState.RUNNING]


def test_a_renewed_lease_keeps_the_next_worker_away(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    life.clock.advance(minutes=15)

    life.renew(attempt)

    life.clock.advance(minutes=15)
    assert life.claim(Stage.EXTRACT) is None


def test_a_worker_whose_lease_is_over_may_finish_if_nobody_took_over(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    life.clock.advance(hours=1)

    life.complete(attempt)

    assert life.batch.state is BatchState.EXTRACTED


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("deed", [Life.renew, Life.complete, Life.fail, Life.refuse])
def test_a_worker_that_lost_its_lease_can_change_nothing(
    life: Life, stage: Stage, deed: Callable[[Life, Attempt], None]
) -> None:
    life.go_to(STAGE_STATES[stage].waiting)
    zombie = life.claimed(stage)
    life.clock.advance(hours=1)
    life.claimed(stage)
    life.sent()
    before = (life.batch, life.files(), life.events)

    with pytest.raises(LostLease, match=f"attempt 1 of {stage} no longer speaks"):
        deed(life, zombie)

    assert (life.batch, life.files(), life.events) == before
    assert life.sent() == []


def test_an_attempt_ends_once(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    life.complete(attempt)

    with pytest.raises(LostLease):
        life.complete(attempt)

    assert len(life.files()) == 2


def test_an_attempt_of_before_a_failure_cannot_speak_for_the_next(life: Life) -> None:
    life.plan()
    failed = life.claimed(Stage.EXTRACT)
    life.fail(failed)
    life.claimed(Stage.EXTRACT)

    with pytest.raises(LostLease):
        life.complete(failed)


@pytest.mark.parametrize("state", sorted(set(AttemptState) - {AttemptState.RUNNING}))
def test_an_attempt_that_ended_cannot_speak_though_its_batch_still_names_it(
    life: Life, state: AttemptState
) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    with life.ledger.transaction() as tx:
        tx.save_attempt(replace(attempt, state=state))

    with pytest.raises(LostLease):
        life.complete(attempt)


def test_an_attempt_that_never_ended_cannot_speak_once_its_batch_names_another(life: Life) -> None:
    life.plan()
    zombie = life.claimed(Stage.EXTRACT)
    life.clock.advance(hours=1)
    life.claimed(Stage.EXTRACT)
    with life.ledger.transaction() as tx:
        tx.save_attempt(zombie)

    with pytest.raises(LostLease):
        life.complete(zombie)


# ---- completing ----------------------------------------------------------------------------------------------


def test_completing_records_files_manifest_and_evidence(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    evidence = MaskEvidence(BATCH_ID, 1, "email", MaskKind.HMAC, "k1", 6)
    life.clock.advance(minutes=1)

    life.complete(attempt, replace(result_of(attempt, life.batch), evidence=[evidence]))

    assert [(file.status, file.recorded_at) for file in life.files(Area.TMP)] == [
        (FileStatus.ANNOUNCED, life.clock())
    ] * 2
    with life.ledger.transaction() as tx:
        assert tx.manifest(BATCH_ID, Stage.EXTRACT, 1) == {"attempt": 1}
        assert tx.mask_evidence(BATCH_ID) == [evidence]
    assert life.attempt_states(Stage.EXTRACT) == [AttemptState.SUCCEEDED]


def test_rows_that_do_not_add_up_are_refused_and_nothing_is_recorded(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    result = replace(result_of(attempt, life.batch), counts={"rows_read": 7, "rows_written": 6})

    with pytest.raises(Refused, match="rows_read is 7") as refusal:
        life.complete(attempt, result)

    assert refusal.value.reason is Reason.COUNTS_DO_NOT_ADD_UP
    assert life.batch.state is BatchState.EXTRACTING
    assert life.files() == []


def test_rows_that_the_processor_lost_are_refused(life: Life) -> None:
    life.go_to(BatchState.PROCESSING)
    attempt = life.running(Stage.PROCESS)

    with pytest.raises(Refused, match="rows_written is 6, but rows_decoded is 5"):
        life.complete(attempt, StageResult(counts={"rows_decoded": 5, "rows_in_final": 5}))


def test_a_file_whose_place_a_foreign_object_took_is_not_passed_over(life: Life) -> None:
    """Else the gate would open without it, and its rows would be lost."""
    life.plan()
    squatter = a_foreign_file(a_raw_file(life.batch, part=1).location.key)
    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(tx, squatter)
    attempt = life.claimed(Stage.EXTRACT)

    with pytest.raises(Refused, match=r"part-00001\.csv") as refusal:
        life.complete(attempt)

    assert refusal.value.reason is Reason.FOREIGN_OBJECT
    assert life.files() == []


def test_a_publisher_that_finds_a_newer_snapshot_supersedes_the_batch(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)

    life.complete(life.running(Stage.PUBLISH), StageResult(is_superseded=True))

    assert life.batch.state is BatchState.SUPERSEDED
    assert life.batch.reason is Reason.NEWER_SNAPSHOT_PUBLISHED


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_nothing_leaves_a_final_state(life: Life, state: BatchState) -> None:
    life.go_to(BatchState.PUBLISHING)
    if state is BatchState.DISCARDED:
        life.refuse(life.running(Stage.PUBLISH))
        life.discard()
    else:
        life.complete(life.running(Stage.PUBLISH), StageResult(is_superseded=state is BatchState.SUPERSEDED))

    assert life.batch.state is state
    assert life.discard() is None
    assert life.replay() is None
    assert [life.claim(stage) for stage in Stage] == [None, None, None]
    assert [life.open(area) for area in GATE_STATES] == [False] * 4


# ---- failing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", Stage)
def test_a_failed_attempt_lets_the_batch_wait_for_the_next_without_a_message(
    life: Life, stage: Stage
) -> None:
    life.go_to(STAGE_STATES[stage].running)
    life.sent()

    life.fail(life.running(stage))

    assert life.batch.state is STAGE_STATES[stage].waiting
    assert (life.batch.reason, life.batch.detail) == (Reason.ATTEMPT_FAILED, "connection refused")
    assert life.sent() == []
    assert (life.batch.woken_at, life.batch.wake_count) == (NOON, 2)


@pytest.mark.parametrize("stage", Stage)
def test_a_batch_whose_every_allowed_attempt_failed_fails(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].waiting)
    life.sent()

    for _ in range(MAX_ATTEMPTS):
        life.fail(life.claimed(stage))

    assert life.batch.state is BatchState.FAILED
    assert life.batch.reason is Reason.ATTEMPTS_EXHAUSTED
    assert life.batch.detail == f"{stage} failed 3 times, the last time: connection refused"
    assert life.sent() == [(QueueName.CLEAN, CleanBatch(BATCH_ID))]


def test_a_success_after_a_failure_forgets_the_failure(life: Life) -> None:
    life.plan()
    life.fail(life.claimed(Stage.EXTRACT))

    life.complete(life.claimed(Stage.EXTRACT))

    assert (life.batch.reason, life.batch.detail) == (None, "")


def test_attempts_of_one_stage_do_not_use_up_those_of_another(life: Life) -> None:
    life.plan()
    for _ in range(MAX_ATTEMPTS - 1):
        life.fail(life.claimed(Stage.EXTRACT))
    life.go_to(BatchState.READY)

    for _ in range(MAX_ATTEMPTS - 1):
        life.fail(life.claimed(Stage.PROCESS))

    assert life.batch.state is BatchState.READY


@pytest.mark.parametrize("stage", Stage)
def test_a_batch_fails_at_the_claim_if_fewer_attempts_are_allowed_now(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].waiting)
    life.fail(life.claimed(stage))

    assert life.claim(stage, max_attempts=1) is None
    assert life.batch.state is BatchState.FAILED


def test_a_take_over_counts_as_an_attempt(life: Life) -> None:
    life.plan()
    for _ in range(MAX_ATTEMPTS):
        life.claimed(Stage.EXTRACT)
        life.clock.advance(hours=1)

    assert life.claim(Stage.EXTRACT) is None
    assert life.batch.state is BatchState.FAILED
    assert life.batch.detail == "extract failed 3 times, the last time: its worker died"
    assert life.attempt_states(Stage.EXTRACT) == [AttemptState.EXPIRED] * 3


def test_a_worker_that_died_is_not_blamed_for_the_failure_before_it(life: Life) -> None:
    life.plan()
    life.fail(life.claimed(Stage.EXTRACT), detail="connection refused")
    life.claimed(Stage.EXTRACT)
    life.clock.advance(hours=1)
    last = life.claimed(Stage.EXTRACT)
    life.clock.advance(hours=1)

    life.expire(last)

    assert life.batch.detail == "extract failed 3 times, the last time: its worker died"


@pytest.mark.parametrize("stage", Stage)
def test_a_refused_attempt_quarantines_the_batch(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].running)
    life.sent()
    evidence = a_raw_file(life.batch, Area.QUARANTINE)

    life.refuse(life.running(stage), [evidence])

    assert life.batch.state is BatchState.QUARANTINED
    assert (life.batch.reason, life.batch.detail) == (Reason.TYPE_CHANGED, "amount became text")
    assert life.attempt_states(stage) == [AttemptState.FAILED]
    assert [file.location for file in life.files(Area.QUARANTINE)] == [evidence.location]
    assert life.sent() == [(QueueName.CLEAN, CleanBatch(BATCH_ID))]


# ---- the sweeper frees leases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", Stage)
def test_the_sweeper_frees_and_wakes_a_batch_whose_lease_is_over(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].waiting)
    first_messages = life.sent()[-1:] if stage is not Stage.PUBLISH else life.sent()[-2:]
    attempt = life.claimed(stage)
    life.clock.advance(minutes=16)

    assert life.expire(attempt)

    assert life.batch.state is STAGE_STATES[stage].waiting
    assert life.batch.reason is Reason.LEASE_EXPIRED
    assert life.sent() == first_messages
    assert life.attempt_states(stage) == [AttemptState.EXPIRED]


def test_the_sweeper_leaves_a_lease_that_holds_or_was_taken_over(life: Life) -> None:
    life.plan()
    attempt = life.claimed(Stage.EXTRACT)
    held = life.expire(attempt)
    life.clock.advance(hours=1)
    life.claimed(Stage.EXTRACT)
    taken_over = life.expire(attempt)
    life.complete(life.running(Stage.EXTRACT))
    completed = life.expire(attempt)

    assert (held, taken_over, completed) == (False, False, False)
    assert life.batch.state is BatchState.EXTRACTED


def test_the_sweeper_fails_a_batch_whose_last_attempt_died(life: Life) -> None:
    life.plan()
    for _ in range(MAX_ATTEMPTS):
        attempt = life.claimed(Stage.EXTRACT)
        life.clock.advance(hours=1)
        life.expire(attempt)

    assert life.batch.state is BatchState.FAILED
    assert life.events[-1].actor == "sweeper"


# ---- gates ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", GATE_STATES)
def test_a_gate_opens_when_every_file_is_correct_and_only_then(life: Life, area: Area) -> None:
    checked, opened = GATE_STATES[area]
    life.go_to(checked)
    with life.ledger.transaction() as tx:
        first, second = lifecycle.files_to_check(tx, life.batch_in(tx), area)

    opens = [life.open(area)]
    for file in (first, second):
        with life.ledger.transaction() as tx:
            lifecycle.record_correct(tx, file, area=area)
        opens.append(life.open(area))

    assert opens == [False, False, True]
    assert life.batch.state is opened


@pytest.mark.parametrize("area", GATE_STATES)
def test_a_gate_that_refuses_a_file_quarantines_the_batch(life: Life, area: Area) -> None:
    life.go_to(GATE_STATES[area][0])
    life.sent()

    assert life.refuse_file(area, part=1)

    assert life.batch.state is BatchState.QUARANTINED
    assert (life.batch.reason, life.batch.detail) == (Reason.SIZE_MISMATCH, "found 7 bytes")
    assert [file.status for file in life.files(area)] == [FileStatus.ANNOUNCED, FileStatus.INCORRECT]
    assert life.sent() == [(QueueName.CLEAN, CleanBatch(BATCH_ID))]


@pytest.mark.parametrize(("area", "next_area"), [(Area.TMP, Area.INPUT), (Area.INPUT, Area.PROCESSING)])
def test_an_opened_gate_announces_the_copies_in_the_next_area(
    life: Life, area: Area, next_area: Area
) -> None:
    life.go_to(GATE_STATES[area][1])

    copies = life.files(next_area)

    assert [copy.location.key for copy in copies] == [
        file.location.key.replace(f"{area}/", f"{next_area}/", 1) for file in life.files(area)
    ]
    assert {copy.status for copy in copies} == {FileStatus.ANNOUNCED}
    assert {copy.sha256 for copy in copies} == {file.sha256 for file in life.files(area)}


def test_a_copy_whose_place_a_foreign_object_took_quarantines_the_batch(life: Life) -> None:
    """Else the next gate would open without it, or wait for ever."""
    life.go_to(BatchState.EXTRACTED)
    squatter = a_foreign_file(a_raw_file(life.batch, Area.INPUT, part=1).location.key)
    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(tx, replace(squatter, area=Area.INPUT))
    life.check(Area.TMP)

    assert not life.open(Area.TMP)

    assert life.batch.state is BatchState.QUARANTINED
    assert life.batch.reason is Reason.FOREIGN_OBJECT
    assert "part-00001.csv" in life.batch.detail


def test_a_duplicate_of_a_check_changes_nothing(life: Life) -> None:
    life.go_to(BatchState.EXTRACTED)
    late = life.files(Area.TMP)[0]
    life.go_to(BatchState.ADMITTED)
    life.sent()
    before = life.batch

    with life.ledger.transaction() as tx:
        recorded = lifecycle.record_correct(tx, late, area=Area.TMP)
        refused = lifecycle.record_incorrect(
            tx, late, area=Area.TMP, reason=Reason.SIZE_MISMATCH, detail="late"
        )

    assert (recorded, refused, life.open(Area.TMP)) == (False, False, False)
    assert life.batch == before
    assert life.sent() == []


def test_a_file_of_an_earlier_attempt_cannot_open_the_gate_of_a_later_one(life: Life) -> None:
    life.go_to(BatchState.EXTRACTED)
    old = life.files(Area.TMP)[0]
    life.refuse_file(Area.TMP)
    life.replay()
    life.go_to(BatchState.EXTRACTED)

    with life.ledger.transaction() as tx:
        recorded = lifecycle.record_correct(tx, old, area=Area.TMP)
        opened = lifecycle.open_gate(tx, BATCH_ID, area=Area.TMP, attempt=old.attempt)

    assert (recorded, opened) == (False, False)
    assert life.batch.attempts == {Stage.EXTRACT: 2}


def test_a_file_of_no_batch_moves_none(life: Life) -> None:
    life.go_to(BatchState.EXTRACTED)

    with life.ledger.transaction() as tx:
        assert not lifecycle.record_correct(tx, a_foreign_file(), area=Area.TMP)


def test_a_batch_without_files_does_not_pass_a_gate(life: Life) -> None:
    life.plan()
    life.complete(life.claimed(Stage.EXTRACT), StageResult())

    assert not life.open(Area.TMP)
    assert life.batch.state is BatchState.EXTRACTED


def test_readers_may_see_the_attempt_that_the_last_gate_found_correct(life: Life) -> None:
    life.go_to(BatchState.PROCESSING)
    life.fail(life.running(Stage.PROCESS))
    life.go_to(BatchState.PROCESSED)
    before = life.batch.committed_attempt

    life.go_to(BatchState.COMMITTED)

    assert (before, life.batch.committed_attempt) == (None, 2)


# ---- foreign objects -----------------------------------------------------------------------------------------


def test_a_foreign_object_is_recorded_and_set_aside(life: Life) -> None:
    life.plan()
    life.sent()

    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(tx, a_foreign_file())
        found = tx.file(a_foreign_file().location)

    assert found is not None
    assert (found.batch_id, found.recorded_at, found.checked_at) == (None, NOON, NOON)
    assert life.sent() == [(QueueName.CLEAN, SetObjectAside(a_foreign_file().location))]


def test_a_foreign_object_that_comes_back_is_set_aside_again(life: Life) -> None:
    life.plan()
    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(tx, a_foreign_file())
        lifecycle.record_deleted(tx, a_foreign_file().location)
    life.clock.advance(hours=1)
    life.sent()

    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(tx, a_foreign_file())
        found = tx.file(a_foreign_file().location)

    assert found is not None
    assert (found.recorded_at, found.checked_at, found.deleted_at) == (NOON, life.clock(), None)
    assert len(life.sent()) == 1


def test_a_file_that_its_attempt_recorded_meanwhile_is_not_set_aside(life: Life) -> None:
    life.go_to(BatchState.EXTRACTED)
    file = life.files(Area.TMP)[0]
    life.sent()

    with life.ledger.transaction() as tx:
        lifecycle.record_foreign(
            tx, a_foreign_file(file.location.key, status=FileStatus.INCORRECT, reason=Reason.FOREIGN_OBJECT)
        )

    assert life.files(Area.TMP)[0] == file
    assert life.sent() == []


# ---- leftovers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ON_THE_STRAIGHT_WAY)
def test_copies_may_go_only_after_the_commit_that_names_the_final_files(
    life: Life, state: BatchState
) -> None:
    life.go_to(state)

    leftovers = life.leftovers()

    if state in {BatchState.COMMITTED, BatchState.PUBLISHING, BatchState.PUBLISHED}:
        assert leftovers == [f"{area} a1" for area in ("input", "processing", "tmp") for _ in range(2)]
    else:
        assert leftovers == []


def test_deleted_copies_are_no_leftovers_and_stay_in_the_ledger(life: Life) -> None:
    life.go_to(BatchState.COMMITTED)
    life.clock.advance(hours=1)

    life.delete_leftovers()

    assert life.leftovers() == []
    deleted_at = {file.deleted_at for file in life.files(Area.TMP, Area.INPUT, Area.PROCESSING)}
    assert deleted_at == {life.clock()}


def test_what_was_deleted_keeps_the_time_it_was_first_deleted(life: Life) -> None:
    life.go_to(BatchState.COMMITTED)
    life.delete_leftovers()
    location = life.files(Area.TMP)[0].location
    life.clock.advance(hours=1)

    with life.ledger.transaction() as tx:
        lifecycle.record_deleted(tx, location)
        lifecycle.record_deleted(tx, a_foreign_file("tmp/never-seen").location)

    assert life.files(Area.TMP)[0].deleted_at == NOON


def test_final_files_that_a_gate_refused_go_when_the_batch_is_held(life: Life) -> None:
    life.go_to(BatchState.PROCESSED)

    life.refuse_file(Area.FINAL)

    assert [leftover for leftover in life.leftovers() if leftover.startswith("final")] == ["final a1"] * 2


def test_final_files_that_readers_see_stay_while_a_publish_is_held(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)

    life.refuse(life.running(Stage.PUBLISH))

    assert not [leftover for leftover in life.leftovers() if leftover.startswith("final")]


def test_final_files_of_an_attempt_before_the_replay_go_when_all_is_published(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH))
    life.delete_leftovers()
    life.replay(contract_version=2)
    life.go_to(BatchState.PUBLISHING)
    while_publishing = [leftover for leftover in life.leftovers() if leftover.startswith("final")]

    life.go_to(BatchState.PUBLISHED)

    assert while_publishing == []
    assert [leftover for leftover in life.leftovers() if leftover.startswith("final")] == ["final a1"] * 2


# ---- replay --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.EXTRACT, Stage.PROCESS])
def test_a_batch_held_before_the_commit_is_replayed_from_the_source(life: Life, stage: Stage) -> None:
    life.go_to(STAGE_STATES[stage].running)
    life.refuse(life.running(stage))
    life.sent()

    replayed = life.replay()

    assert replayed == life.batch
    assert (life.batch.state, life.batch.reason) == (BatchState.PLANNED, Reason.REPLAYED)
    assert life.batch.counts == {}
    assert life.sent() == [(QueueName.EXTRACT, "esclusa.extract")]


def test_a_batch_held_at_the_publisher_goes_on_from_its_committed_files(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH))

    life.replay()

    assert life.batch.state is BatchState.COMMITTED
    assert life.batch.counts == EXTRACTED | PROCESSED
    assert life.batch.committed_attempt == 1
    life.go_to(BatchState.PUBLISHED)


def test_a_snapshot_refused_as_empty_is_read_from_the_source_again(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH), reason=Reason.EMPTY_REPLACE)

    life.replay()

    # Its committed files are empty, and would be refused again however full the source is by now.
    assert life.batch.state is BatchState.PLANNED
    life.go_to(BatchState.PUBLISHED)


def test_a_burst_of_deletes_that_nobody_approved_is_read_from_the_source_again(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH), reason=Reason.DELETE_BURST)

    life.replay()

    # The rows may be back at the source; by the keys that were read they would be gone for ever.
    assert (life.batch.state, life.batch.is_approved) == (BatchState.PLANNED, False)


def test_a_burst_of_deletes_that_was_approved_deletes_what_was_looked_at(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH), reason=Reason.DELETE_BURST)

    life.replay(is_approved=True)

    assert (life.batch.state, life.batch.is_approved) == (BatchState.COMMITTED, True)


@pytest.mark.parametrize("version", [1, 2])
def test_what_is_read_anew_was_approved_by_nobody(life: Life, version: int) -> None:
    life.go_to(BatchState.PUBLISHING if version == 2 else BatchState.PROCESSING)
    life.refuse(life.running(Stage.PUBLISH if version == 2 else Stage.PROCESS))

    life.replay(contract_version=version, is_approved=True)

    assert (life.batch.state, life.batch.is_approved) == (BatchState.PLANNED, False)


def test_a_batch_that_failed_while_it_waited_for_the_publisher_goes_on_from_its_committed_files(
    life: Life,
) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.fail(life.running(Stage.PUBLISH))
    life.claim(Stage.PUBLISH, max_attempts=1)

    life.replay()

    assert life.batch.state is BatchState.COMMITTED


def test_a_new_contract_is_replayed_from_the_source_wherever_the_batch_was_held(life: Life) -> None:
    life.go_to(BatchState.PUBLISHING)
    life.refuse(life.running(Stage.PUBLISH))

    life.replay(contract_version=2)

    assert life.batch.state is BatchState.PLANNED
    assert life.batch.contract_version == 2
    assert life.batch.configuration_sha256 == a_contract(version=2).sha256


def test_a_replay_begins_a_new_series_of_attempts_with_new_numbers(life: Life) -> None:
    life.plan()
    for _ in range(MAX_ATTEMPTS):
        life.fail(life.claimed(Stage.EXTRACT))

    life.replay()

    numbers = []
    for _ in range(MAX_ATTEMPTS):
        attempt = life.claimed(Stage.EXTRACT)
        numbers.append(attempt.number)
        life.fail(attempt)
    assert numbers == [4, 5, 6]
    assert life.batch.state is BatchState.FAILED
    assert life.batch.detail.startswith("extract failed 3 times")


def test_a_replayed_batch_reaches_its_end(life: Life) -> None:
    life.go_to(BatchState.STAGED)
    life.refuse_file(Area.PROCESSING)
    life.delete_leftovers()
    life.replay()

    life.go_to(BatchState.PUBLISHED)

    assert life.batch.attempts == {Stage.EXTRACT: 2, Stage.PROCESS: 1, Stage.PUBLISH: 1}
    assert life.batch.window == Window(None, NOON)


@pytest.mark.parametrize("state", ON_THE_STRAIGHT_WAY)
def test_a_batch_that_is_not_held_is_not_replayed(life: Life, state: BatchState) -> None:
    life.go_to(state)

    assert life.replay() is None
    assert life.batch.state is state


def test_a_batch_that_is_not_there_is_not_replayed() -> None:
    assert Life().replay() is None


# ---- waking --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [states.waiting for states in STAGE_STATES.values()] + [checked for checked, _ in GATE_STATES.values()],
)
def test_waking_sends_the_messages_of_the_state_once_more(life: Life, state: BatchState) -> None:
    life.plan()
    while life.batch.state is not state:
        life.sent()
        life._step()
    messages = life.sent()
    life.clock.advance(hours=1)

    assert life.wake(state)

    assert life.sent() == messages != []
    assert (life.batch.woken_at, life.batch.wake_count) == (life.clock(), 2)
    assert life.batch.state is state


def test_a_batch_that_moved_on_is_not_woken(life: Life) -> None:
    life.go_to(BatchState.EXTRACTING)
    life.sent()

    assert not life.wake(BatchState.PLANNED)
    assert life.sent() == []


def test_a_batch_that_is_not_there_is_not_woken() -> None:
    assert not Life().wake(BatchState.PLANNED)
