"""A gate lets through what the ledger and the object agree on, refuses anything else by a reason, and believes no message."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from support.journey import HEADER, MemoryJourney, Part, parquet_of

from lambdas import gate
from lambdas.gate import Verdict
from shared import lifecycle
from shared.domain.batches import BatchState, Stage
from shared.domain.files import NEXT_AREA, Area, DataFile, FileStatus, Location, final_key, raw_key
from shared.domain.reasons import Reason
from shared.errors import MalformedMessage, Unavailable
from shared.messages import CheckBatch
from shared.ports import QueueName

GATED = [Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL]
RAW = GATED[:3]


@pytest.fixture
def journey() -> MemoryJourney:
    return MemoryJourney()


# ---- the straight way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", GATED)
def test_a_gate_opens_when_every_file_is_as_announced(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)

    verdict = journey.check(area)

    assert verdict is Verdict.OPENED
    assert {file.status for file in journey.files(area)} == {FileStatus.CORRECT}


@pytest.mark.parametrize("area", [Area.TMP, Area.INPUT])
def test_what_passes_a_gate_lies_in_the_next_area_as_it_was(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)

    journey.check(area)

    for file, copy in zip(journey.files(area), journey.files(NEXT_AREA[area]), strict=True):
        assert journey.memory.read(copy.location) == journey.memory.read(file.location)
        assert journey.memory.head(copy.location).metadata == journey.metadata(1)  # type: ignore[union-attr]
        assert (copy.sha256, copy.record_count) == (file.sha256, file.record_count)


@pytest.mark.parametrize(
    ("area", "queue"),
    [
        (Area.TMP, QueueName.GATE_INPUT),
        (Area.INPUT, QueueName.GATE_PROCESSING),
        (Area.PROCESSING, QueueName.PROCESS),
        (Area.FINAL, QueueName.PUBLISH),
    ],
)
def test_an_open_gate_sends_the_batch_on(journey: MemoryJourney, area: Area, queue: QueueName) -> None:
    journey.go_to(area)

    journey.check(area)

    assert journey.queues.waiting(queue)


@pytest.mark.parametrize("area", GATED)
def test_events_alone_open_a_gate_with_the_last_file(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    files = journey.files(area)

    verdicts = [journey.see(area, file.location) for file in files]

    assert verdicts == [*[Verdict.WAITING] * (len(files) - 1), Verdict.OPENED]


def test_a_batch_without_rows_passes_every_gate(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP, parts=[Part(rows=b"", record_count=0)])

    assert [journey.check(area) for area in RAW] == [Verdict.OPENED] * 3


# ---- what is refused, and why ----------------------------------------------------------------------------------

Tamper = Callable[[MemoryJourney, DataFile], object]

#: What strangers do to an object, and the reason it is refused for.
TAMPERED: dict[str, tuple[Reason, Tamper]] = {
    "deleted": (Reason.OBJECT_MISSING, lambda j, f: j.memory.delete(f.location)),
    "emptied": (Reason.SIZE_MISMATCH, lambda j, f: j.overwrite(f, b"")),
    "truncated": (Reason.SIZE_MISMATCH, lambda j, f: j.overwrite(f, j.memory.read(f.location)[:-1])),
    "prolonged": (Reason.SIZE_MISMATCH, lambda j, f: j.overwrite(f, j.memory.read(f.location) + b"x")),
    "altered": (Reason.CHECKSUM_MISMATCH, lambda j, f: j.overwrite(f, _flipped(j, f))),
    "without metadata": (Reason.METADATA_MISMATCH, lambda j, f: j.overwrite(f, metadata={})),
    "of another batch": (Reason.METADATA_MISMATCH, lambda j, f: _with(j, f, "esclusa-batch", "b" + "0" * 24)),
    "of another attempt": (Reason.METADATA_MISMATCH, lambda j, f: _with(j, f, "esclusa-attempt", "2")),
    "of another source": (Reason.METADATA_MISMATCH, lambda j, f: _with(j, f, "esclusa-source", "crm")),
}

#: What a writer that is not in its right mind announces, and the reason it is refused for.
WRONG_CSV: dict[str, tuple[Reason, Part]] = {
    "no header": (Reason.HEADER_MISMATCH, Part(header=b"")),
    "columns in another order": (Reason.HEADER_MISMATCH, Part(header=b'"name","id"\n')),
    "a column more": (Reason.HEADER_MISMATCH, Part(header=HEADER[:-1] + b',"phone"\n')),
    "rows where none are announced": (Reason.RECORD_COUNT_MISMATCH, Part(record_count=0)),
    "no rows where some are announced": (Reason.RECORD_COUNT_MISMATCH, Part(rows=b"", record_count=2)),
    "fewer bytes than records": (Reason.RECORD_COUNT_MISMATCH, Part(rows=b"1,a\n", record_count=5)),
}

WRONG_PARQUET: dict[str, tuple[Reason, Callable[..., bytes], int]] = {
    "no Parquet": (Reason.FOOTER_UNREADABLE, lambda _: b"id,name\n1,a\n", 3),
    "an empty object": (Reason.FOOTER_UNREADABLE, lambda _: b"", 3),
    "another type": (Reason.FOOTER_MISMATCH, lambda j: _parquet(j, ids=("1", "2", "3")), 3),
    "the footer of another attempt": (Reason.FOOTER_MISMATCH, lambda j: _parquet(j, attempt=7), 3),
    "rows that are not announced": (Reason.RECORD_COUNT_MISMATCH, lambda j: _parquet(j, attempt=1), 2),
}


@pytest.mark.parametrize("area", GATED)
@pytest.mark.parametrize("tampered", TAMPERED)
def test_a_tampered_object_is_refused_for_its_reason(
    journey: MemoryJourney, area: Area, tampered: str
) -> None:
    reason, tamper = TAMPERED[tampered]
    journey.go_to(area)
    tamper(journey, journey.file(area))

    verdict = journey.check(area)

    assert verdict is Verdict.REFUSED
    assert (journey.batch.state, journey.batch.reason) == (BatchState.QUARANTINED, reason)
    file = journey.file(area)
    assert (file.status, file.reason) == (FileStatus.INCORRECT, reason)
    assert file.location.key in file.detail


@pytest.mark.parametrize("wrong", WRONG_CSV)
def test_a_wrong_csv_file_is_refused_although_it_is_as_announced(journey: MemoryJourney, wrong: str) -> None:
    reason, part = WRONG_CSV[wrong]
    journey.plan()
    journey.extract([part])

    assert journey.check(Area.TMP) is Verdict.REFUSED
    assert journey.batch.reason is reason


@pytest.mark.parametrize("wrong", WRONG_PARQUET)
def test_a_wrong_parquet_file_is_refused_although_it_is_as_announced(
    journey: MemoryJourney, wrong: str
) -> None:
    reason, body_of, record_count = WRONG_PARQUET[wrong]
    journey.plan()
    journey.extract()
    for area in RAW:
        journey.check(area)
    journey.process(body_of(journey), record_count=record_count)

    assert journey.check(Area.FINAL) is Verdict.REFUSED
    assert journey.batch.reason is reason
    assert journey.batch.committed_attempt is None


def test_files_that_together_hold_other_rows_than_the_attempt_counted_are_refused(
    journey: MemoryJourney,
) -> None:
    journey.plan()
    journey.extract(row_count=4)

    assert journey.check(Area.TMP) is Verdict.REFUSED
    assert journey.batch.reason is Reason.RECORD_COUNT_MISMATCH
    assert re.search("should hold 4 records, found 3", journey.batch.detail)


def test_every_reason_of_a_gate_has_a_case_here() -> None:
    cases = [*TAMPERED.values(), *WRONG_CSV.values(), *WRONG_PARQUET.values()]

    covered = {case[0] for case in cases} | {Reason.FOREIGN_OBJECT}

    reasons = list(Reason)
    assert covered == set(reasons[: reasons.index(Reason.TABLE_MISSING)])


@pytest.mark.parametrize("area", RAW)
def test_a_refused_file_moves_no_further_and_its_batch_goes_to_the_cleaner(
    journey: MemoryJourney, area: Area
) -> None:
    journey.go_to(area)
    journey.overwrite(journey.file(area), b"other")
    before = journey.object_keys()

    journey.check(area)

    assert journey.object_keys() == before
    assert journey.queues.waiting(QueueName.CLEAN)


@pytest.mark.parametrize("area", [Area.TMP, Area.INPUT])
@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        (lambda j, f, _: j.memory.delete(f.location), Reason.OBJECT_MISSING),
        (lambda j, f, _: j.overwrite(f, b"other"), Reason.CHECKSUM_MISMATCH),
        (lambda j, _, copy: j.memory.overwrite(copy, b"other"), Reason.CHECKSUM_MISMATCH),
    ],
    ids=["deleted", "altered", "its place taken"],
)
def test_a_file_that_changes_between_its_check_and_its_copy_holds_the_batch_and_not_the_gate(
    journey: MemoryJourney, area: Area, meddle: Any, reason: Reason
) -> None:
    journey.go_to(area)
    first, second = journey.files(area)
    assert journey.see(area, first.location) is Verdict.WAITING
    meddle(journey, first, lifecycle.copy_location(first, journey.batch, NEXT_AREA[area]))

    verdict = journey.see(area, second.location)

    assert verdict is Verdict.REFUSED
    assert (journey.batch.state, journey.batch.reason) == (BatchState.QUARANTINED, reason)


def test_an_object_that_goes_while_it_is_looked_at_is_missing(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.go_to(Area.TMP)
    location = journey.file(Area.TMP).location
    look = journey.memory.head

    def look_and_lose(at: Location) -> Any:
        info = look(at)
        journey.memory.delete(location)
        return info

    monkeypatch.setattr(journey.memory, "head", look_and_lose)

    assert journey.check(Area.TMP) is Verdict.REFUSED
    assert journey.batch.reason is Reason.OBJECT_MISSING


# ---- early, late, doubled, forged ------------------------------------------------------------------------------


def test_an_event_before_the_commit_of_its_writer_changes_nothing(journey: MemoryJourney) -> None:
    journey.plan()
    attempt = journey.claim(Stage.EXTRACT)
    early = journey.write_raw(attempt)

    verdict = journey.see(Area.TMP, early.location)

    assert verdict is Verdict.NOTHING_TO_DO
    assert journey.files() == []
    assert not journey.set_aside_messages()


@pytest.mark.parametrize("area", GATED)
def test_doubled_and_late_messages_change_nothing(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    journey.check(area)
    batch, keys = journey.batch, journey.object_keys()

    verdicts = [journey.check(area), *(journey.see(area, file.location) for file in journey.files(area))]

    assert set(verdicts) == {Verdict.NOTHING_TO_DO}
    assert (journey.batch, journey.object_keys()) == (batch, keys)


def test_an_event_for_an_object_that_the_cleaner_has_deleted_changes_nothing(
    journey: MemoryJourney,
) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)
    location = journey.file(Area.TMP).location
    journey.memory.delete(location)

    assert journey.see(Area.TMP, location) is Verdict.NOTHING_TO_DO


def test_an_event_for_an_object_that_is_gone_and_was_never_known_changes_nothing(
    journey: MemoryJourney,
) -> None:
    assert journey.see(Area.TMP, Location(journey.bucket, "tmp/gone")) is Verdict.NOTHING_TO_DO


def test_a_late_event_of_an_attempt_before_a_replay_cannot_hold_the_batch(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    late = journey.file(Area.TMP, part=1)
    journey.overwrite(journey.file(Area.TMP), b"other")
    journey.check(Area.TMP)
    with journey.ledger.transaction() as tx:
        lifecycle.replay(tx, journey.batch_id, contract=journey.contract, detail="cured")
    journey.memory.delete(late.location)
    journey.extract()

    verdict = journey.see(Area.TMP, late.location)

    assert verdict is Verdict.NOTHING_TO_DO
    assert journey.batch.state is BatchState.EXTRACTED


def test_a_gate_whose_batch_moved_on_while_it_looked_refuses_nothing(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.go_to(Area.TMP)
    look = journey.memory.head

    def look_late(at: Location) -> Any:
        monkeypatch.setattr(journey.memory, "head", look)
        assert journey.check(Area.TMP) is Verdict.OPENED
        journey.memory.delete(at)
        return None

    monkeypatch.setattr(journey.memory, "head", look_late)

    assert journey.check(Area.TMP) is Verdict.NOTHING_TO_DO
    assert journey.batch.state is BatchState.ADMITTED


def test_a_message_for_a_batch_that_is_not_there_changes_nothing(journey: MemoryJourney) -> None:
    assert journey.check(Area.TMP) is Verdict.NOTHING_TO_DO


@pytest.mark.parametrize("area", GATED)
def test_a_message_for_another_gate_is_malformed(journey: MemoryJourney, area: Area) -> None:
    other = next(candidate for candidate in GATED if candidate is not area)
    message = CheckBatch(journey.batch_id, other)

    with pytest.raises(MalformedMessage, match=f"for the gate of {other}/ came to the gate of {area}/"):
        gate.check(area, message, ledger=journey.ledger, store=journey.store, sender=journey.sender)


@pytest.mark.parametrize("area", GATED)
def test_a_forged_event_of_another_area_opens_nothing(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    other = next(candidate for candidate in GATED if candidate is not area)
    before = journey.batch

    verdicts = {journey.see(other, file.location) for file in journey.files(area)}

    assert verdicts == {Verdict.NOTHING_TO_DO}
    assert journey.batch == before


# ---- objects of nobody -----------------------------------------------------------------------------------------

FOREIGN_KEYS = {
    "any name": "notes.csv",
    "a folder": "",
    "Unicode and signs": "übung/ñ 日本 +%20&=?#'\"\\.csv",
    "as long as S3 allows": "x" * 1000,
    "a line break": "a\nb\r.csv",
    "dots": "../../final/orders/x.parquet",
}


@pytest.mark.parametrize("area", GATED)
@pytest.mark.parametrize("name", FOREIGN_KEYS)
def test_an_object_that_no_attempt_wrote_is_recorded_and_told_to_the_cleaner(
    journey: MemoryJourney, area: Area, name: str
) -> None:
    location = journey.put_by_hand(f"{area}/{FOREIGN_KEYS[name]}")

    verdict = journey.see(area, location)

    assert verdict is Verdict.FOREIGN
    with journey.ledger.transaction() as tx:
        file = tx.file(location)
    assert file is not None
    assert (file.batch_id, file.area, file.status) == (None, area, FileStatus.INCORRECT)
    assert (file.reason, file.file_size_in_bytes) == (Reason.FOREIGN_OBJECT, 4)
    assert journey.set_aside_messages() == [location]


@pytest.mark.parametrize(
    "claimed",
    [
        {"attempt": 2},  # nobody has claimed it yet
        {"attempt": 0},
        {"batch_id": "b" + "0" * 24},  # no such batch
    ],
)
def test_a_key_like_ours_makes_no_object_ours(journey: MemoryJourney, claimed: dict[str, Any]) -> None:
    journey.go_to(Area.TMP)
    parts = {"table": "orders", "batch_id": journey.batch_id, "attempt": 1, "part": 9} | claimed
    location = journey.put_by_hand(raw_key(Area.TMP, **parts))

    assert journey.see(Area.TMP, location) is Verdict.FOREIGN


def test_a_key_of_ours_in_the_bucket_of_another_source_is_foreign(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    location = Location("esclusa-crm", journey.file(Area.TMP).location.key)
    journey.memory.overwrite(location, b"mine", metadata=journey.metadata(1))

    assert journey.see(Area.TMP, location) is Verdict.FOREIGN


def test_an_object_beside_the_files_of_an_attempt_in_final_is_never_committed(
    journey: MemoryJourney,
) -> None:
    journey.go_to(Area.FINAL)
    key = final_key(table="orders", day="2026-11-22", batch_id=journey.batch_id, attempt=1, part=1)
    beside = journey.put_by_hand(key, b"PAR1 mine")

    assert journey.see(Area.FINAL, beside) is Verdict.NOTHING_TO_DO
    assert journey.check(Area.FINAL) is Verdict.OPENED
    assert beside not in {file.location for file in journey.files(Area.FINAL)}


def test_a_foreign_object_seen_twice_is_recorded_once(journey: MemoryJourney) -> None:
    location = journey.put_by_hand("tmp/notes.csv")

    verdicts = [journey.see(Area.TMP, location) for _ in range(2)]

    assert verdicts == [Verdict.FOREIGN] * 2
    with journey.ledger.transaction() as tx:
        assert len(tx.files()) == 1


# ---- dying, waiting, being one of two ----------------------------------------------------------------------------


@pytest.mark.parametrize("area", [Area.TMP, Area.INPUT])
@pytest.mark.parametrize("copies_made", [1, 2])
def test_a_gate_that_dies_between_copy_and_commit_is_finished_by_the_next(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch, area: Area, copies_made: int
) -> None:
    journey.go_to(area)
    copy, made = journey.memory.copy, 0

    def copy_and_die(source: Location, target: Location, *, sha256: str) -> None:
        nonlocal made
        copy(source, target, sha256=sha256)
        made += 1
        if made == copies_made:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journey.memory, "copy", copy_and_die)
        with pytest.raises(KeyboardInterrupt):
            journey.check(area)
    strays = [journey.see(NEXT_AREA[area], file.location) for file in _copies(journey, area)[:copies_made]]
    assert set(strays) == {Verdict.NOTHING_TO_DO}

    assert journey.check(area) is Verdict.OPENED
    assert len(journey.files(NEXT_AREA[area])) == 2


def test_a_store_that_is_away_refuses_nothing(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    journey.go_to(Area.TMP)

    def away(at: Location) -> Any:
        raise Unavailable(f"{at}: no answer")

    with monkeypatch.context() as patch:
        patch.setattr(journey.memory, "sha256", away)
        with pytest.raises(Unavailable):
            journey.check(Area.TMP)

    assert journey.batch.state is BatchState.EXTRACTED
    assert journey.check(Area.TMP) is Verdict.OPENED


def test_messages_that_cannot_leave_now_do_not_shut_the_gate(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(messages: Any) -> list[int]:
        raise Unavailable("queues: no answer")

    journey.go_to(Area.TMP)
    monkeypatch.setattr(journey.queues, "send", away)

    assert journey.check(Area.TMP) is Verdict.OPENED
    with journey.ledger.transaction() as tx:
        assert tx.pending_message_count() > 0


def _flipped(journey: MemoryJourney, file: DataFile) -> bytes:
    body = bytearray(journey.memory.read(file.location))
    body[len(body) // 2] ^= 1
    return bytes(body)


def _with(journey: MemoryJourney, file: DataFile, name: str, value: str) -> None:
    journey.overwrite(file, metadata=journey.metadata(file.attempt) | {name: value})


def _parquet(journey: MemoryJourney, *, attempt: int = 1, **changes: Any) -> bytes:
    batch = replace(journey.batch, attempts={**journey.batch.attempts, Stage.PROCESS: attempt})
    return parquet_of(batch, attempt, journey.contract.contract, **changes)


def _copies(journey: MemoryJourney, area: Area) -> list[DataFile]:
    batch, target = journey.batch, NEXT_AREA[area]
    return [
        replace(file, location=lifecycle.copy_location(file, batch, target)) for file in journey.files(area)
    ]
