"""The sweeper brings on what was recorded and never happened, and takes away what happened and was never recorded."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from support.journey import LEASE, MAX_ATTEMPTS, MemoryJourney, Part
from support.ledger_rows import NOON, a_batch, a_final_file, a_foreign_file, a_raw_file, add_batch

from lambdas.gate import Verdict
from lambdas.sweeper.actions import TAKES_AWAY, ActionKind
from lambdas.sweeper.handler import sweep_all
from lambdas.sweeper.in_ledger import WAITING_STATES
from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.report import NotReached, SweepPart, SweepReport
from lambdas.sweeper.settings import SweeperSettings
from lambdas.sweeper.sweep import sweep
from shared import lifecycle
from shared.domain.batches import GATE_STATES, STAGE_STATES, STATES_AT_REST, Batch, BatchState, Stage
from shared.domain.compactions import CompactedBatch, Compaction, CompactionState
from shared.domain.files import (
    TRANSIENT_AREAS,
    Area,
    Location,
    copy_key,
    final_key,
    quarantine_key,
    raw_key,
    rejects_key,
)
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard
from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.ledger.memory import MemoryLedger, _MemoryTransaction
from shared.ports import QueueName
from shared.secrets.memory import MemorySecrets
from shared.settings import FleetSettings

LIMITS = SweepLimits(wake_after=timedelta(seconds=60), stray_after=timedelta(hours=2))
ALL_AREAS = (*TRANSIENT_AREAS, Area.FINAL)
DEEP = tuple(Area)
LIMIT_FIELDS = fields(SweepLimits)
SECOND = timedelta(seconds=1)


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


# ---- places at a source ------------------------------------------------------------------------------------------


def test_a_place_that_a_breaker_gives_free_by_the_clock_is_given_to_a_deferred_batch(
    journey: MemoryJourney,
) -> None:
    journey.plan()
    _defer(journey)
    _set_guard(
        journey, SourceGuard("shop", failures_in_a_row=9, open_until=journey.clock() + timedelta(minutes=5))
    )
    assert "start_deferred" not in swept(journey)
    journey.clock.advance(minutes=5)

    report = sweep_report(journey)

    assert report.counts[ActionKind.START_DEFERRED] == 1
    assert told(report)[0] == (
        "start_deferred",
        "shop",
        f"1 places are free, 0 attempts run; waiting: {journey.batch_id}",
    )
    assert journey.queues.waiting(QueueName.EXTRACT)


def test_sources_without_deferred_batches_cost_nothing_however_many_there_are(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journey.ledger.transaction() as tx:
        for number in range(1000):
            tx.save_source_guard(SourceGuard(f"source_{number}"))
    journey.plan()
    _defer(journey)
    counted: list[str] = []
    monkeypatch.setattr(lifecycle, "start_deferred", lambda _, source: counted.append(source) or 1)
    begun = _count_transactions(journey, monkeypatch)

    swept(journey)

    assert counted == ["shop"]
    assert len(begun) < 30


# ---- one at a time -----------------------------------------------------------------------------------------------


def test_a_sweep_beside_another_one_leaves_everything_to_it(journey: MemoryJourney) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    journey.put_by_hand("tmp/notes.csv")
    journey.clock.advance(hours=3)

    with journey.ledger.exclusively(SweepPart.EVERYDAY):
        report = sweep_report(journey, areas=TRANSIENT_AREAS)

    assert report.skipped == [SweepPart.EVERYDAY]
    assert not report.actions
    assert swept(journey)["expire_lease"] == 1


def test_a_deep_sweep_that_takes_long_keeps_no_batch_from_being_healed(journey: MemoryJourney) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    journey.put_by_hand("final/notes.csv")
    journey.clock.advance(hours=3)

    with journey.ledger.exclusively(SweepPart.DEEP):
        report = sweep_report(journey, areas=DEEP)

    assert report.skipped == [SweepPart.DEEP]
    assert report.counts == {ActionKind.EXPIRE_LEASE: 1, ActionKind.SEND_MESSAGES: 2}


def test_a_deep_sweep_beside_an_everyday_one_is_deep_all_the_same(journey: MemoryJourney) -> None:
    journey.put_by_hand("final/notes.csv")
    journey.clock.advance(hours=3)

    with journey.ledger.exclusively(SweepPart.EVERYDAY):
        report = sweep_report(journey, areas=DEEP)

    assert report.counts[ActionKind.SET_ASIDE] == 1


def test_the_next_sweep_is_free_after_one_that_broke_off(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(bucket: str) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(journey.memory, "open_uploads", break_off)
        with pytest.raises(ZeroDivisionError):
            sweep_report(journey)

    assert not sweep_report(journey).skipped


# ---- a dry run ---------------------------------------------------------------------------------------------------


def test_a_dry_run_finds_one_of_each_kind_and_writes_nothing_anywhere(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = _one_of_each_kind(journey)
    before = (journey.object_keys(), list(journey.memory.open_uploads(journey.bucket)), _rows(journey))
    _forbid_writes(journey, monkeypatch)

    report = sweep_report(journey, areas=DEEP, is_dry_run=True)

    assert set(report.counts) == kinds == set(ActionKind)
    after = (journey.object_keys(), list(journey.memory.open_uploads(journey.bucket)), _rows(journey))
    assert after == before


def test_a_run_does_what_a_dry_run_finds(journey: MemoryJourney) -> None:
    kinds = _one_of_each_kind(journey)
    found = told(sweep_report(journey, areas=DEEP, is_dry_run=True))

    report = sweep_report(journey, areas=DEEP)

    assert set(report.counts) == kinds
    # The messages are sent twice: before the search of the buckets, and at the end.
    done = [item for item in told(report) if item[0] != "send_messages"]
    assert sorted(done) == sorted(item for item in found if item[0] != "send_messages")


def test_a_dry_run_is_kept_from_nothing_and_keeps_nobody(journey: MemoryJourney) -> None:
    journey.put_by_hand("tmp/notes.csv")
    journey.clock.advance(hours=3)

    with journey.ledger.exclusively(SweepPart.EVERYDAY):
        report = sweep_report(journey, is_dry_run=True)

    assert report.counts == {ActionKind.SET_ASIDE: 1}


def test_every_action_says_why(journey: MemoryJourney) -> None:
    _one_of_each_kind(journey)

    reasons = {kind: because for kind, _, because in told(sweep_report(journey, areas=DEEP, is_dry_run=True))}

    id_ = journey.batch_id
    assert reasons["expire_lease"] == "extract attempt 2: its lease is over since 2026-11-22T15:05:00Z"
    assert reasons["delete_stray"] == (
        f"written 2026-11-22T12:00:00Z by extract attempt 1 of batch {id_}; attempt 2 came after it"
    )
    assert reasons["set_aside"] == "written 2026-11-22T15:00:00Z by nobody of ours"
    assert reasons["leave_unknown"] == (
        f"written 2026-11-22T15:00:00Z by extract attempt 7 of batch {id_}, of which the ledger knows 2"
    )
    assert reasons["abort_upload"] == "begun 2026-11-22T15:00:00Z by nobody of ours"
    assert reasons["delete_replaced"] == (
        "shop.orders of 2026-11-22: committed, and the files of its 1 batches had their time"
    )
    assert reasons["wake_batch"] == "planned since 2026-11-22T12:00:00Z, 1 messages sent"
    assert (
        reasons["record_expired"] == "recorded on 2026-11-22T12:00:00Z; its bucket does not hold it any more"
    )


# ---- no more than so much ----------------------------------------------------------------------------------------


def test_no_run_takes_away_more_than_its_limit_of_strays_uploads_and_foreign_objects(
    journey: MemoryJourney,
) -> None:
    journey.plan()
    journey.write_raw(journey.claim(Stage.EXTRACT), number=3)
    journey.clock.advance(hours=3)
    journey.claim(Stage.EXTRACT)
    journey.put_by_hand("tmp/a.csv")
    journey.store.open_upload(Location(journey.bucket, "tmp/b.csv"), metadata={})
    journey.clock.advance(hours=3)
    three = [ActionKind.ABORT_UPLOAD, ActionKind.DELETE_STRAY, ActionKind.SET_ASIDE]

    reports = [sweep_report(journey, limits=replace(LIMITS, delete_limit=1)) for _ in three]

    assert [[kind for kind in three if report.counts[kind]] for report in reports] == [
        [ActionKind.ABORT_UPLOAD],
        [ActionKind.SET_ASIDE],
        [ActionKind.DELETE_STRAY],
    ]
    assert [report.is_delete_limit_reached for report in reports] == [True, True, False]


def test_the_limit_that_is_reached_is_an_error_in_the_log(journey: MemoryJourney) -> None:
    for name in "abc":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)

    with capture_logs() as logs:
        report = sweep_report(journey, limits=replace(LIMITS, delete_limit=2))

    assert report.is_worrying
    assert [entry["log_level"] for entry in logs if entry["event"] == "sweep_delete_limit_reached"] == [
        "error"
    ]


def test_as_much_as_the_limit_allows_is_no_worry(journey: MemoryJourney) -> None:
    for name in "ab":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)

    report = sweep_report(journey, limits=replace(LIMITS, delete_limit=2))

    assert report.counts[ActionKind.SET_ASIDE] == 2
    assert not report.is_worrying


def test_what_heals_batches_goes_on_when_the_limit_is_reached(journey: MemoryJourney) -> None:
    journey.plan()
    journey.put_by_hand("tmp/a.csv")
    journey.clock.advance(hours=3)

    report = sweep_report(journey, limits=replace(LIMITS, delete_limit=0))

    assert report.counts == {ActionKind.WAKE_BATCH: 1, ActionKind.SEND_MESSAGES: 2}
    assert report.is_delete_limit_reached


# ---- a ledger that knows too little ------------------------------------------------------------------------------


@pytest.mark.parametrize("area", DEEP)
def test_with_a_ledger_from_before_the_batch_nothing_of_it_goes(journey: MemoryJourney, area: Area) -> None:
    _lead_to(journey, BatchState.COMMITTED)
    key = _own_key(journey, area, part=9)
    journey.put_by_hand(key)
    journey.store.open_upload(Location(journey.bucket, key), metadata={})
    journey.ledger = MemoryLedger(journey.clock)
    objects = journey.object_keys()
    journey.clock.advance(hours=3)

    with capture_logs() as logs:
        report = sweep_report(journey, areas=DEEP)

    assert set(report.counts) == {ActionKind.LEAVE_UNKNOWN}
    assert report.is_worrying
    assert journey.object_keys() == objects
    assert list(journey.memory.open_uploads(journey.bucket))
    assert "objects_of_unknown_attempts" in {e["event"] for e in logs if e["log_level"] == "error"}


def test_with_a_ledger_from_before_an_attempt_nothing_of_that_attempt_goes(journey: MemoryJourney) -> None:
    journey.plan()
    journey.claim(Stage.EXTRACT)
    key = raw_key(Area.TMP, table="orders", batch_id=journey.batch_id, attempt=2, part=0)
    journey.put_by_hand(key)
    journey.clock.advance(hours=3)

    report = sweep_report(journey)

    assert report.counts[ActionKind.LEAVE_UNKNOWN] == 1
    assert key in journey.object_keys()


def test_an_object_of_ours_in_the_bucket_of_another_source_is_foreign(journey: MemoryJourney) -> None:
    _lead_to(journey, BatchState.EXTRACTED)
    key = journey.file(Area.TMP).location.key
    journey.memory.overwrite(Location("esclusa-crm", key), b"copied")
    journey.clock.advance(hours=3)

    report = sweep_report(journey, buckets=["esclusa-crm"])

    assert report.counts[ActionKind.SET_ASIDE] == 1


# ---- graces and clocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minutes_off", [-30, 0, 30])
def test_whatever_the_clock_of_the_store_says_nothing_of_an_attempt_at_work_is_touched(
    journey: MemoryJourney, minutes_off: int
) -> None:
    journey.memory._clock = lambda: journey.clock() + timedelta(minutes=minutes_off)
    journey.plan()
    attempt = journey.claim(Stage.EXTRACT)
    written = journey.write_raw(attempt)
    upload = journey.store.open_upload(
        Location(journey.bucket, _own_key(journey, Area.TMP, part=1)), metadata={}
    )
    impatient = SweepLimits(stray_after=SECOND, upload_after=SECOND, foreign_after=SECOND)
    for _ in range(70):
        journey.clock.advance(minutes=1)
        with journey.ledger.transaction() as tx:
            lifecycle.renew(tx, attempt, lease=LEASE)

        report = sweep_report(journey, limits=impatient, areas=DEEP)

        assert not TAKES_AWAY & set(report.counts)
    assert journey.store.head(written.location)
    upload.complete()


@pytest.mark.parametrize(("minutes_off", "minutes_of_grace"), [(-10, 110), (0, 120), (10, 130)])
def test_a_skew_between_store_and_ledger_moves_a_grace_by_as_much(
    journey: MemoryJourney, minutes_off: int, minutes_of_grace: int
) -> None:
    journey.memory._clock = lambda: journey.clock() + timedelta(minutes=minutes_off)
    journey.put_by_hand("tmp/notes.csv")
    minutes = 0
    while "set_aside" not in swept(journey):
        journey.clock.advance(minutes=1)
        minutes += 1

    assert minutes == minutes_of_grace + 1


def test_each_thing_has_a_grace_of_its_own(journey: MemoryJourney) -> None:
    limits = SweepLimits(
        clean_after=timedelta(minutes=5),
        stray_after=timedelta(minutes=10),
        upload_after=timedelta(minutes=20),
        foreign_after=timedelta(minutes=30),
    )
    _lead_to(journey, BatchState.COMMITTED)
    journey.put_by_hand(
        raw_key(Area.TMP, table="orders", batch_id=_published_batch(journey), attempt=1, part=9)
    )
    journey.put_by_hand("tmp/notes.csv")
    journey.store.open_upload(Location(journey.bucket, "tmp/b.csv"), metadata={})
    first_done: dict[ActionKind, int] = {}
    for minute in range(1, 40):
        journey.clock.advance(minutes=1)
        for kind in sweep_report(journey, limits=limits).counts:
            first_done.setdefault(kind, minute)

    assert first_done[ActionKind.CLEAN_BATCH] == 6
    assert first_done[ActionKind.DELETE_STRAY] == 11
    assert first_done[ActionKind.ABORT_UPLOAD] == 21
    assert first_done[ActionKind.SET_ASIDE] == 31


# ---- time --------------------------------------------------------------------------------------------------------


def test_a_sweep_ends_when_its_time_is_up_and_says_what_it_did_not_reach(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lambdas.sweeper.sweep._OBJECTS_PER_QUESTION", 2)
    for name in "abcdef":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)

    report = sweep_report(journey, areas=[Area.TMP], is_time_up=_after(looks=8))

    ended_after = report.not_reached[0].after
    assert report.not_reached == [NotReached("s3://esclusa-shop/tmp/", ended_after)]
    assert "tmp/a.csv" <= ended_after < "tmp/f.csv"
    # What it had posted is sent all the same.
    assert len(journey.set_aside_messages()) == report.counts[ActionKind.SET_ASIDE] > 0


def test_a_sweep_goes_on_where_an_earlier_one_ended(journey: MemoryJourney) -> None:
    for name in "abcdef":
        journey.put_by_hand(f"tmp/{name}.csv")
    journey.clock.advance(hours=3)
    first = sweep_report(journey, areas=[Area.TMP], is_time_up=_after(looks=6))

    second = sweep_report(
        journey, areas=[Area.TMP], resume_after={item.where: item.after for item in first.not_reached}
    )

    subjects = [
        [action.subject for action in report.actions if action.kind is ActionKind.SET_ASIDE]
        for report in (first, second)
    ]
    assert sorted(subjects[0] + subjects[1]) == [f"s3://esclusa-shop/tmp/{name}.csv" for name in "abcdef"]
    assert all(subjects)
    assert second.finished == ["s3://esclusa-shop/tmp/"]


def test_the_time_of_the_ledgers_steps_is_watched_too(journey: MemoryJourney) -> None:
    with journey.ledger.transaction() as tx:
        for number in range(20):
            add_batch(tx, a_batch(f"slot {number}"))
    journey.clock.advance(hours=3)

    report = sweep_report(journey, is_time_up=_after(looks=5))

    assert report.counts[ActionKind.WAKE_BATCH] == 5
    assert NotReached("wake_batch") in report.not_reached


def test_no_long_area_starves_those_behind_it(journey: MemoryJourney) -> None:
    """Of three buckets one never ends: a run that comes to it gets no further."""
    buckets = ["esclusa-a", "esclusa-b", "esclusa-c"]
    listed: list[str] = []

    def list_and_tell(bucket: str, prefix: str, *, after: str = "") -> Any:
        listed.append(bucket)
        return iter(())

    journey.memory.list = list_and_tell  # type: ignore[method-assign]
    finished: Counter[str] = Counter()
    for _ in range(24):
        listed.clear()
        journey.clock.advance(hours=1)
        report = sweep_report(
            journey, buckets=buckets, areas=[Area.FINAL], is_time_up=lambda: "esclusa-a" in listed
        )
        finished.update(report.finished)

    assert min(finished["s3://esclusa-b/final/"], finished["s3://esclusa-c/final/"]) >= 6


def test_the_lambda_goes_on_where_it_ended_and_then_begins_anew(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.plan()
    for name in "abcdef":
        journey.put_by_hand(f"final/{name}.csv")
    journey.clock.advance(hours=3)
    settings = FleetSettings(ledger_dsn="env:LEDGER_DSN")
    fleet = Fleet(settings, journey.ledger, journey.memory, journey.queues, MemorySecrets({}))
    begun_after: list[str] = []
    listed = journey.memory.list

    def list_and_tell(bucket: str, prefix: str, *, after: str = "") -> Any:
        if prefix == "final/":
            begun_after.append(after)
        return listed(bucket, prefix, after=after)

    monkeypatch.setattr(journey.memory, "list", list_and_tell)

    for looks in (7, 1_000, 1_000):
        report = sweep_all(fleet, areas=[Area.FINAL], is_time_up=_after(looks=looks))

    assert [begun_after[0], begun_after[2]] == ["", ""]
    assert "final/a.csv" <= begun_after[1] < "final/f.csv"
    assert report.finished == ["s3://esclusa-shop/final/"]


# ---- what expired in quarantine ----------------------------------------------------------------------------------


def test_a_file_of_quarantine_that_its_bucket_deleted_is_recorded_as_gone(journey: MemoryJourney) -> None:
    gone, kept = (_set_aside(journey, f"tmp/{name}.csv") for name in ("gone", "kept"))
    journey.clock.advance(hours=24 * 90 + 1)
    journey.memory.delete(gone)

    report = sweep_report(journey, areas=DEEP)

    assert [action.subject for action in report.actions if action.kind is ActionKind.RECORD_EXPIRED] == [
        str(gone)
    ]
    with journey.ledger.transaction() as tx:
        files = [tx.file(gone), tx.file(kept)]
    assert [file is not None and file.deleted_at is not None for file in files] == [True, False]
    assert ActionKind.RECORD_EXPIRED not in sweep_report(journey, areas=DEEP).counts


def test_a_file_of_quarantine_that_has_not_expired_is_not_asked_about(journey: MemoryJourney) -> None:
    young = _set_aside(journey, "tmp/young.csv")
    journey.memory.delete(young)
    journey.clock.advance(hours=24 * 89)

    assert ActionKind.RECORD_EXPIRED not in sweep_report(journey, areas=DEEP).counts


def test_a_foreign_object_whose_cleaner_died_after_its_delete_is_recorded_as_gone(
    journey: MemoryJourney,
) -> None:
    location = Location(journey.bucket, "final/notes.csv")
    with journey.ledger.transaction() as tx:
        tx.insert_file(a_foreign_file(location.key, area=Area.FINAL))

    at_once = sweep_report(journey, areas=DEEP)
    journey.clock.advance(hours=3)
    later = sweep_report(journey, areas=DEEP)

    assert ActionKind.RECORD_EXPIRED not in at_once.counts
    assert later.counts[ActionKind.RECORD_EXPIRED] == 1
    with journey.ledger.transaction() as tx:
        file = tx.file(location)
    assert file is not None
    assert file.deleted_at is not None


def test_a_longer_key_is_not_taken_for_an_expired_one(journey: MemoryJourney) -> None:
    gone = _set_aside(journey, "tmp/gone.csv")
    journey.clock.advance(hours=24 * 90 + 1)
    journey.memory.delete(gone)
    journey.put_by_hand(gone.key + "0")

    assert sweep_report(journey, areas=DEEP).counts[ActionKind.RECORD_EXPIRED] == 1


def test_a_bucket_that_is_gone_with_what_was_set_aside_there_keeps_no_other_from_being_searched(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = _set_aside(journey, "tmp/gone.csv")
    elsewhere = replace(gone, bucket="esclusa-aaa")
    with journey.ledger.transaction() as tx:
        tx.insert_file(a_foreign_file(elsewhere.key, location=elsewhere, area=Area.QUARANTINE))
    journey.clock.advance(hours=24 * 100)
    journey.memory.delete(gone)
    journey.put_by_hand("final/notes.csv")
    journey.clock.advance(hours=3)
    listed = journey.memory.list

    def no_such_bucket(bucket: str, prefix: str, **bounds: Any) -> Any:
        if bucket == "esclusa-aaa":
            raise Unavailable(f"s3://{bucket}/: no such bucket")
        return listed(bucket, prefix, **bounds)

    monkeypatch.setattr(journey.memory, "list", no_such_bucket)

    report = sweep_report(journey, areas=DEEP)

    assert list(report.buckets_not_swept) == ["esclusa-aaa"]
    assert report.counts[ActionKind.RECORD_EXPIRED] == report.counts[ActionKind.SET_ASIDE] == 1


# ---- long waits --------------------------------------------------------------------------------------------------


def test_a_batch_that_is_woken_again_and_again_is_named(journey: MemoryJourney) -> None:
    journey.plan()
    named: list[int] = []
    with capture_logs() as logs:
        for hour in range(12):
            journey.clock.advance(hours=1)
            report = sweep_report(journey)
            named += [hour] * len(report.waiting_long)

    warned = [entry for entry in logs if entry["event"] == "batches_wait_long"]
    assert len(warned) == len(named) >= 3
    assert warned[0]["batch_ids"] == [journey.batch_id]
    assert named[0] >= 2


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
    if area is Area.QUARANTINE:
        return rejects_key(table="orders", batch_id=journey.batch_id, attempt=1)
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


def _defer(journey: MemoryJourney) -> None:
    """Let the batch wait for a place, as a claim without one does."""
    deferred = replace(journey.batch, woken_at=None)
    with journey.ledger.transaction() as tx:
        tx.save_batch(deferred)
    journey.queues.purge()


def _set_guard(journey: MemoryJourney, guard: SourceGuard) -> None:
    with journey.ledger.transaction() as tx:
        tx.save_source_guard(guard)


def _count_transactions(journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    begun: list[int] = []
    begin = journey.ledger.transaction

    def counted() -> Any:
        begun.append(1)
        return begin()

    monkeypatch.setattr(journey.ledger, "transaction", counted)
    return begun


def _after(*, looks: int) -> Callable[[], bool]:
    """Return a clock whose time is up after so many looks at it."""
    seen = itertools.count()
    return lambda: next(seen) >= looks


def _set_aside(journey: MemoryJourney, key: str) -> Location:
    """Put an object into quarantine as a cleaner does, and record it."""
    location = journey.put_by_hand(quarantine_key(key, sha256="0cc1" * 16))
    with journey.ledger.transaction() as tx:
        lifecycle.record_set_aside(tx, a_foreign_file(location.key, location=location))
    return location


def _published_batch(journey: MemoryJourney) -> str:
    """Add a batch that is at rest after one attempt, and return its id."""
    with journey.ledger.transaction() as tx:
        attempts = {Stage.EXTRACT: 1, Stage.PROCESS: 1, Stage.PUBLISH: 1}
        batch = a_batch("another", state=BatchState.PUBLISHED, attempts=attempts, committed_attempt=1)
        return add_batch(tx, batch).id


def _one_of_each_kind(journey: MemoryJourney) -> set[ActionKind]:
    """Bring about something to do of every kind, and return the kinds."""
    journey.plan()
    journey.write_raw(journey.claim(Stage.EXTRACT))
    expired = _set_aside(journey, "tmp/expired.csv")
    with journey.ledger.transaction() as tx:
        add_batch(tx, a_batch("asleep"))
        add_batch(tx, a_batch("deferred", woken_at=None))
        leftover = add_batch(
            tx,
            a_batch("leftover", state=BatchState.PUBLISHED, attempts={Stage.EXTRACT: 1}, committed_attempt=1),
        )
        tx.insert_file(a_raw_file(leftover))
        replaced = add_batch(
            tx,
            a_batch("replaced", state=BatchState.PUBLISHED, attempts={Stage.PROCESS: 1}, committed_attempt=1),
        )
        tx.insert_file(a_final_file(replaced))
        tx.insert_compaction(_shown_compaction(replaced))
    journey.clock.advance(hours=3)
    journey.claim(Stage.EXTRACT)
    journey.memory.delete(expired)
    journey.put_by_hand("tmp/notes.csv")
    journey.put_by_hand("quarantine/notes.csv")
    journey.put_by_hand(raw_key(Area.TMP, table="orders", batch_id=journey.batch_id, attempt=7, part=0))
    journey.store.open_upload(Location(journey.bucket, "tmp/b.csv"), metadata={})
    journey.clock.advance(hours=24 * 91)
    return set(ActionKind)


def _shown_compaction(batch: Batch) -> Compaction:
    return Compaction(
        id="c" + "0" * 24,
        source=batch.source,
        table=batch.table,
        bucket=batch.bucket,
        day="2026-11-22",
        contract_version=1,
        state=CompactionState.COMMITTED,
        batches=(CompactedBatch(batch.id, 0, 3),),
        begun_at=NOON,
        lease_until=NOON,
        decided_at=NOON,
        shown_at=NOON,
        delete_after=NOON + timedelta(days=7),
    )


def _rows(journey: MemoryJourney) -> Any:
    """Everything that the ledger holds."""
    with journey.ledger.transaction() as tx:
        batches = tx.batches()
        of_batches = [(tx.events(batch.id), tx.attempts(batch.id)) for batch in batches]
        return batches, of_batches, tx.files(), tx.source_guards(), tx.pending_message_count()


def _forbid_writes(journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every writing call of every port raise, and every lock."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a dry run wrote")

    monkeypatch.setattr(journey.ledger, "exclusively", refuse)
    for name in ("put", "open_upload", "copy", "delete", "abort_upload"):
        monkeypatch.setattr(journey.memory, name, refuse)
    monkeypatch.setattr(journey.queues, "send", refuse)
    for name in vars(_MemoryTransaction):
        if name.startswith(("insert_", "save_", "append_", "set_", "delete_", "post", "mark_")):
            monkeypatch.setattr(_MemoryTransaction, name, refuse)
    # These lock, or make, the row that they read.
    for name in ("watermark", "source_guard", "pending_messages"):
        monkeypatch.setattr(_MemoryTransaction, name, refuse)


@pytest.mark.parametrize(
    "name", ["files-00000-0cc10cc10cc10cc1.manifest", "rows-00003-0cc10cc10cc10cc1.parquet"]
)
def test_what_a_publisher_wrote_for_its_warehouse_stays_while_it_speaks_and_goes_afterwards(
    journey: MemoryJourney, name: str
) -> None:
    _lead_to(journey, BatchState.COMMITTED)
    key = copy_key(name, table="orders", batch_id=journey.batch_id, attempt=1)
    attempt = journey.claim(Stage.PUBLISH)
    location = journey.put_by_hand(key)
    assert journey.see(Area.TMP, location) is Verdict.NOTHING_TO_DO
    journey.clock.advance(days=2)
    with journey.ledger.transaction() as tx:
        tx.save_attempt(replace(attempt, lease_until=tx.now() + timedelta(hours=1)))
    assert "delete_stray" not in swept(journey)

    with journey.ledger.transaction() as tx:
        lifecycle.complete(tx, attempt, lifecycle.StageResult())
    journey.clock.advance(days=2)

    assert "delete_stray" in swept(journey)
    assert key not in journey.object_keys()
