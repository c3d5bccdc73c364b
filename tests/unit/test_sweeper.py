"""The sweeper brings on what was recorded and never happened, and takes away what happened and was never recorded."""

import hashlib
from collections.abc import Collection
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from support.journey import LEASE, MAX_ATTEMPTS, MemoryJourney, Part
from support.ledger_rows import a_batch, add_batch

from lambdas.gate import Verdict
from lambdas.sweeper.actions import ActionKind
from lambdas.sweeper.in_ledger import WAITING_STATES
from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.report import SweepReport
from lambdas.sweeper.settings import SweeperSettings
from lambdas.sweeper.sweep import sweep
from shared import lifecycle
from shared.domain.batches import GATE_STATES, STAGE_STATES, STATES_AT_REST, BatchState, Stage
from shared.domain.files import (
    TRANSIENT_AREAS,
    Area,
    Location,
    final_key,
    quarantine_key,
    raw_key,
    rejects_key,
)
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.object_store.memory import MemoryObjectStore
from shared.ports import QueueName

LIMITS = SweepLimits(wake_after=timedelta(seconds=60), stray_after=timedelta(hours=2))
ALL_AREAS = (*TRANSIENT_AREAS, Area.FINAL)
DEEP = tuple(Area)
LIMIT_FIELDS = fields(SweepLimits)


@pytest.fixture
def journey() -> MemoryJourney:
    return MemoryJourney()


def swept(
    journey: MemoryJourney,
    *,
    buckets: Collection[str] = ("esclusa-shop",),
    areas: Collection[Area] = ALL_AREAS,
) -> dict[str, int]:
    """Sweep, and return what was done how often."""
    report = sweep_report(journey, buckets=buckets, areas=areas)
    return {str(kind): count for kind, count in report.counts.items() if count}


def sweep_report(
    journey: MemoryJourney,
    *,
    buckets: Collection[str] = ("esclusa-shop",),
    areas: Collection[Area] = ALL_AREAS,
    limits: SweepLimits = LIMITS,
    **options: Any,
) -> SweepReport:
    return sweep(
        ledger=journey.ledger,
        store=journey.store,
        sender=journey.sender,
        buckets=buckets,
        limits=limits,
        retry=RetryPolicy(MAX_ATTEMPTS),
        areas=areas,
        **options,
    )


def told(report: SweepReport) -> list[tuple[str, str, str]]:
    """What a report tells: what, to what, and why."""
    return [(str(action.kind), action.subject, action.because) for action in report.actions]


# ---- leases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [Stage.EXTRACT, Stage.PROCESS, Stage.PUBLISH])
def test_a_batch_whose_worker_died_waits_again_and_its_message_is_sent(
    journey: MemoryJourney, stage: Stage
) -> None:
    _lead_to(journey, STAGE_STATES[stage].waiting)
    journey.claim(stage)
    journey.queues.purge()
    journey.clock.advance(seconds=LEASE.total_seconds() + 1)

    report = swept(journey)

    assert report["expire_lease"] == 1
    assert journey.batch.state is STAGE_STATES[stage].waiting
    assert journey.queues.waiting(QueueName(str(stage)))


def test_a_lease_that_holds_is_left_alone(journey: MemoryJourney) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    journey.clock.advance(seconds=LEASE.total_seconds() - 1)

    assert "expire_lease" not in swept(journey)
    assert journey.batch.state is BatchState.EXTRACTING


# ---- waking ------------------------------------------------------------------------------------------------------


def test_every_state_in_which_a_batch_waits_is_watched() -> None:
    running = {states.running for states in STAGE_STATES.values()}

    assert frozenset(BatchState) - STATES_AT_REST - running == WAITING_STATES


@pytest.mark.parametrize("state", sorted(WAITING_STATES))
def test_a_batch_that_waits_with_all_queues_purged_is_woken(
    journey: MemoryJourney, state: BatchState
) -> None:
    _lead_to(journey, state)
    journey.queues.purge()
    journey.clock.advance(seconds=61)

    report = swept(journey)

    assert report["wake_batch"] == 1
    assert any(journey.queues.waiting(queue) for queue in QueueName if queue is not QueueName.CLEAN)


def test_a_batch_that_moved_lately_is_left_to_its_message(journey: MemoryJourney) -> None:
    journey.plan()
    journey.clock.advance(seconds=59)

    assert "wake_batch" not in swept(journey)


def test_patience_doubles_with_each_message_up_to_sixty_four_times(journey: MemoryJourney) -> None:
    journey.plan()
    woken_after_minutes, last = [], 0
    for minute in range(1, 400):
        journey.clock.advance(seconds=60)
        if "wake_batch" in swept(journey):
            woken_after_minutes.append(minute - last)
            last = minute

    # A minute more each time: exactly as long back as the patience is not longer.
    assert woken_after_minutes[:6] == [2, 3, 5, 9, 17, 33]
    assert set(woken_after_minutes[6:]) == {65}


def test_batches_whose_time_has_not_come_take_no_place_of_one_whose_time_has(journey: MemoryJourney) -> None:
    with journey.ledger.transaction() as tx:
        for number in range(LIMITS.step_limit):
            patient = a_batch(f"backlog {number}", woken_at=journey.clock(), wake_count=7)
            add_batch(tx, patient)
    journey.clock.advance(seconds=60)
    journey.plan()
    journey.clock.advance(seconds=61)

    assert swept(journey)["wake_batch"] == 1
    assert journey.batch.wake_count == 2


def test_a_batch_that_moves_on_is_woken_soon_again(journey: MemoryJourney) -> None:
    journey.plan()
    for _ in range(300):
        journey.clock.advance(seconds=60)
        swept(journey)
    journey.extract()
    journey.queues.purge()
    journey.clock.advance(seconds=61)

    assert swept(journey)["wake_batch"] == 1


def test_messages_that_never_left_leave_now(journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(messages: Any) -> list[int]:
        raise Unavailable("queues: no answer")

    journey.plan()
    with monkeypatch.context() as patch:
        patch.setattr(journey.queues, "send", away)
        assert "send_messages" not in swept(journey)

    assert swept(journey)["send_messages"] == 1


# ---- leftovers ---------------------------------------------------------------------------------------------------


def test_a_batch_that_the_cleaner_missed_is_sent_to_it(journey: MemoryJourney) -> None:
    _lead_to(journey, BatchState.COMMITTED)
    journey.queues.purge()
    journey.clock.advance(seconds=61)

    assert swept(journey)["clean_batch"] == 1
    assert journey.queues.waiting(QueueName.CLEAN)


def test_a_batch_that_was_committed_just_now_is_left_to_its_message(journey: MemoryJourney) -> None:
    _lead_to(journey, BatchState.COMMITTED)

    assert "clean_batch" not in swept(journey)


# ---- strays ------------------------------------------------------------------------------------------------------


def test_what_a_dead_attempt_left_is_removed(journey: MemoryJourney) -> None:
    journey.plan()
    stray = journey.write_raw(journey.claim(Stage.EXTRACT), number=3)
    journey.clock.advance(hours=3)
    swept(journey)
    journey.extract()

    report = swept(journey)

    assert report["delete_stray"] == 1
    assert stray.location.key not in journey.object_keys()
    assert len(journey.object_keys()) == 2


@pytest.mark.parametrize("state", sorted(set(BatchState) - STATES_AT_REST - {BatchState.PLANNED}))
def test_what_the_latest_attempt_of_a_batch_on_its_way_left_stays(
    journey: MemoryJourney, state: BatchState
) -> None:
    _lead_to(journey, state)
    key = raw_key(Area.TMP, table="orders", batch_id=journey.batch_id, attempt=1, part=9)
    journey.put_by_hand(key)
    journey.clock.advance(hours=3)

    report = swept(journey)

    assert "delete_stray" not in report
    assert key in journey.object_keys()


@pytest.mark.parametrize("area", ALL_AREAS)
def test_what_was_never_recorded_goes_once_its_batch_is_at_rest(journey: MemoryJourney, area: Area) -> None:
    _lead_to(journey, BatchState.PUBLISHING)
    with journey.ledger.transaction() as tx:
        attempt = tx.attempt(journey.batch_id, Stage.PUBLISH, 1)
        assert attempt is not None
        lifecycle.complete(tx, attempt, lifecycle.StageResult())
    committed = journey.file(Area.FINAL).location.key
    key = _own_key(journey, area, part=9)
    journey.put_by_hand(key)
    journey.clock.advance(hours=3)

    swept(journey)

    assert key not in journey.object_keys()
    assert committed in journey.object_keys()


def test_a_copy_that_came_back_after_it_was_cleaned_is_removed(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    journey.overwrite(journey.file(Area.TMP), b"other")
    journey.check(Area.TMP)
    location = journey.file(Area.TMP).location
    with journey.ledger.transaction() as tx:
        lifecycle.record_deleted(tx, location)
    journey.clock.advance(hours=3)

    assert swept(journey)["delete_stray"] == 1
    assert location.key not in journey.object_keys()


def test_an_object_younger_than_the_patience_is_left_alone(journey: MemoryJourney) -> None:
    journey.put_by_hand("tmp/notes.csv")
    journey.clock.advance(hours=1)

    assert swept(journey) == {}


@pytest.mark.parametrize("area", ALL_AREAS)
def test_a_foreign_object_whose_event_was_lost_is_told_to_the_cleaner(
    journey: MemoryJourney, area: Area
) -> None:
    location = journey.put_by_hand(f"{area}/notes.csv")
    journey.clock.advance(hours=3)

    report = swept(journey)

    assert report["set_aside"] == 1
    assert journey.set_aside_messages() == [location]


def test_a_foreign_object_whose_message_was_lost_is_told_again_but_not_each_minute(
    journey: MemoryJourney,
) -> None:
    location = journey.put_by_hand("tmp/notes.csv")
    assert journey.see(Area.TMP, location) is Verdict.FOREIGN
    journey.queues.purge()
    told = 0

    for _ in range(6 * 60):
        journey.clock.advance(seconds=60)
        told += swept(journey).get("set_aside", 0)

    assert told == 2
    assert set(journey.set_aside_messages()) == {location}


def test_final_is_searched_only_when_asked(journey: MemoryJourney) -> None:
    journey.put_by_hand("final/notes.csv")
    journey.clock.advance(hours=3)

    assert swept(journey, areas=TRANSIENT_AREAS) == {}


def test_a_long_area_is_asked_about_page_by_page(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambdas.sweeper.sweep._OBJECTS_PER_QUESTION", 2)
    journey.go_to(Area.TMP)
    for name in "abcde":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)

    report = swept(journey, areas=[Area.TMP])

    assert report["set_aside"] == 5


def test_files_that_the_ledger_knows_cost_one_question_for_all(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.go_to(Area.TMP)
    journey.clock.advance(hours=3)
    judged: list[Location] = []
    monkeypatch.setattr("lambdas.sweeper.sweep.judge_object", lambda info, *_, **__: judged.append(info))

    swept(journey, areas=[Area.TMP])

    assert len(journey.object_keys()) == 2
    assert judged == []


# ---- strays in quarantine --------------------------------------------------------------------------------------


def test_a_copy_in_quarantine_that_a_dead_cleaner_did_not_record_is_adopted(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    journey.overwrite(journey.file(Area.TMP), b"other")
    journey.check(Area.TMP)
    refused = journey.file(Area.TMP)
    key = quarantine_key(refused.location.key, sha256=hashlib.sha256(b"other").hexdigest())
    journey.put_by_hand(key, b"other")
    journey.clock.advance(hours=3)

    report = swept(journey, areas=DEEP)

    adopted = journey.files(Area.QUARANTINE)
    assert report["adopt"] == 1
    assert [file.location.key for file in adopted] == [key]
    assert (adopted[0].batch_id, adopted[0].reason) == (journey.batch_id, Reason.SIZE_MISMATCH)
    # The ledger has no checksum of bytes that nobody has read.
    assert (adopted[0].file_size_in_bytes, adopted[0].sha256) == (5, "")
    assert "adopt" not in swept(journey, areas=DEEP)


def test_an_adopted_copy_has_the_checksum_of_its_original_if_its_key_says_so(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    original = journey.file(Area.TMP)
    journey.put_by_hand(quarantine_key(original.location.key, sha256=original.sha256))
    journey.clock.advance(hours=3)

    swept(journey, areas=DEEP)

    assert [file.sha256 for file in journey.files(Area.QUARANTINE)] == [original.sha256]


def test_what_somebody_put_into_quarantine_is_recorded_once_and_stays(journey: MemoryJourney) -> None:
    journey.put_by_hand("quarantine/notes.csv")
    for _ in range(3):
        journey.clock.advance(hours=3)
        swept(journey, areas=DEEP)

    with journey.ledger.transaction() as tx:
        kept = tx.files(areas=[Area.QUARANTINE])
    assert [(file.location.key, file.reason) for file in kept] == [
        ("quarantine/notes.csv", Reason.FOREIGN_OBJECT)
    ]
    assert journey.object_keys() == ["quarantine/notes.csv"]
    assert journey.set_aside_messages() == []


def test_rejects_of_a_dead_attempt_are_removed_and_those_of_one_at_work_stay(journey: MemoryJourney) -> None:
    _lead_to(journey, BatchState.READY)
    journey.claim(Stage.PROCESS)
    key = rejects_key(table="orders", batch_id=journey.batch_id, attempt=1)
    journey.put_by_hand(key)
    journey.clock.advance(hours=3)
    swept(journey, areas=DEEP)
    assert key in journey.object_keys()

    journey.claim(Stage.PROCESS)
    report = swept(journey, areas=DEEP)

    assert report["delete_stray"] == 1
    assert key not in journey.object_keys()


def test_quarantine_is_searched_only_when_asked(journey: MemoryJourney) -> None:
    journey.put_by_hand("quarantine/notes.csv")
    journey.clock.advance(hours=3)

    assert swept(journey) == {}


# ---- uploads -----------------------------------------------------------------------------------------------------


def test_an_upload_that_nobody_will_complete_is_aborted(journey: MemoryJourney) -> None:
    journey.store.open_upload(Location(journey.bucket, "tmp/notes.csv"), metadata={})
    journey.clock.advance(hours=3)

    assert swept(journey)["abort_upload"] == 1
    assert not list(journey.memory.open_uploads(journey.bucket))


def test_an_upload_of_an_attempt_at_work_is_left_to_it_however_long_it_takes(
    journey: MemoryJourney,
) -> None:
    journey.plan()
    attempt = journey.claim(Stage.EXTRACT)
    upload = journey.store.open_upload(
        Location(journey.bucket, _own_key(journey, Area.TMP, part=0)), metadata={}
    )
    for _ in range(60):
        journey.clock.advance(minutes=4)
        with journey.ledger.transaction() as tx:
            lifecycle.renew(tx, attempt, lease=LEASE)

    assert "abort_upload" not in swept(journey)
    upload.complete()


def test_an_upload_of_an_attempt_that_was_taken_over_is_aborted(journey: MemoryJourney) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    journey.store.open_upload(Location(journey.bucket, _own_key(journey, Area.TMP, part=0)), metadata={})
    journey.clock.advance(hours=3)
    journey.claim(Stage.EXTRACT)

    assert swept(journey)["abort_upload"] == 1


def test_a_young_upload_is_left_alone(journey: MemoryJourney) -> None:
    journey.store.open_upload(Location(journey.bucket, "tmp/notes.csv"), metadata={})
    journey.clock.advance(hours=1)

    assert "abort_upload" not in swept(journey)


# ---- what must not stop it ---------------------------------------------------------------------------------------


def test_the_bucket_of_one_source_that_is_away_does_not_keep_it_from_the_others(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = journey.memory.open_uploads

    def away_for_one(bucket: str) -> Any:
        if bucket == "esclusa-aaa":
            raise Unavailable(f"s3://{bucket}/: no such bucket")
        return uploads(bucket)

    monkeypatch.setattr(journey.memory, "open_uploads", away_for_one)
    journey.put_by_hand("tmp/notes.csv")
    journey.clock.advance(hours=3)

    report = sweep_report(journey, buckets=["esclusa-aaa", "esclusa-shop"])

    assert list(report.buckets_not_swept) == ["esclusa-aaa"]
    assert report.counts[ActionKind.SET_ASIDE] == 1


def test_a_key_that_the_ledger_cannot_hold_does_not_keep_it_from_the_other_objects(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_nul(tx: Any, file: Any) -> None:
        # As PostgreSQL does, whose text knows no NUL.
        if "\0" in file.location.key:
            raise ValueError("NUL")
        record(tx, file)

    record = lifecycle.record_foreign
    monkeypatch.setattr(lifecycle, "record_foreign", refuse_nul)
    journey.put_by_hand("tmp/a\0b")
    journey.put_by_hand("tmp/z")
    journey.clock.advance(hours=3)

    report = sweep_report(journey)

    assert report.objects_not_judged == ["s3://esclusa-shop/tmp/a\0b"]
    assert report.counts[ActionKind.SET_ASIDE] == 1


def test_sweeping_twice_at_once_does_nothing_twice(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    journey.clock.advance(hours=3)
    listed = MemoryObjectStore.open_uploads

    def sweep_meanwhile(bucket: str) -> Any:
        monkeypatch.setattr(journey.memory, "open_uploads", lambda name: listed(journey.memory, name))
        assert swept(journey) == {}
        return listed(journey.memory, bucket)

    monkeypatch.setattr(journey.memory, "open_uploads", sweep_meanwhile)

    assert swept(journey)["expire_lease"] == 1
    assert journey.batch.attempt_number(Stage.EXTRACT) == 1


# ---- settings ----------------------------------------------------------------------------------------------------


def test_the_settings_are_the_limits_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(SweeperSettings.model_fields)
    for number, name in enumerate(names, 1):
        monkeypatch.setenv(f"ESCLUSA_{name.upper()}", str(number))

    limits = SweeperSettings().limits()

    told = [
        f"{item.name}_seconds" if isinstance(item.default, timedelta) else item.name for item in LIMIT_FIELDS
    ]
    assert [f"sweep_{name}" for name in told] == names
    given = [getattr(limits, item.name) for item in LIMIT_FIELDS]
    seconds = [value.total_seconds() if isinstance(value, timedelta) else value for value in given]
    assert seconds == list(range(1, len(names) + 1))


def test_the_settings_as_they_come_are_the_limits_as_they_come() -> None:
    assert SweeperSettings().limits() == SweepLimits()


@pytest.mark.parametrize("name", sorted(set(SweeperSettings.model_fields) - {"sweep_delete_limit"}))
def test_a_limit_of_nothing_is_no_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"ESCLUSA_{name.upper()}", "0")

    with pytest.raises(ValidationError):
        SweeperSettings()


def test_a_refused_batch_waits_for_an_operator_and_not_for_the_sweeper(journey: MemoryJourney) -> None:
    journey.plan()
    journey.extract([Part(header=b"")])
    journey.check(Area.TMP)
    journey.clock.advance(hours=3)

    report = swept(journey)

    assert "wake_batch" not in report
    assert journey.batch.reason is Reason.HEADER_MISMATCH


def _own_key(journey: MemoryJourney, area: Area, *, part: int) -> str:
    if area is Area.FINAL:
        return final_key(table="orders", day="2026-11-22", batch_id=journey.batch_id, attempt=1, part=part)
    return raw_key(area, table="orders", batch_id=journey.batch_id, attempt=1, part=part)


def _lead_to(journey: MemoryJourney, state: BatchState) -> None:
    """Lead a new batch straight to a state."""
    journey.plan()
    stages = {states.waiting: stage for stage, states in STAGE_STATES.items()}
    work = {BatchState.PLANNED: journey.extract, BatchState.READY: journey.process}
    gates = {checked: area for area, (checked, _) in GATE_STATES.items()}
    while (now := journey.batch.state) is not state:
        if now in stages and state is STAGE_STATES[stages[now]].running:
            journey.claim(stages[now])
        elif now in gates:
            assert journey.check(gates[now]) is Verdict.OPENED
        else:
            work[now]()
