"""The cleaner deletes what the ledger says may go, sets aside what was refused, and can be stopped anywhere."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from support.journey import MemoryJourney, Part
from support.ledger_rows import a_raw_file

from lambdas.cleaner import clean as cleaner
from lambdas.cleaner.clean import clean
from shared import lifecycle
from shared.domain.batches import BatchState, Stage
from shared.domain.files import Area, FileStatus, Location, ParsedKey, quarantine_key
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.messages import CleanBatch, SetObjectAside
from shared.object_store.memory import MemoryObjectStore

RAW = [Area.TMP, Area.INPUT, Area.PROCESSING]


@pytest.fixture
def journey() -> MemoryJourney:
    return MemoryJourney()


def clean_batch(journey: MemoryJourney) -> int:
    return clean(CleanBatch(journey.batch_id), ledger=journey.ledger, store=journey.store)


def set_aside(journey: MemoryJourney, location: Location) -> int:
    return clean(SetObjectAside(location), ledger=journey.ledger, store=journey.store)


def areas_held(journey: MemoryJourney) -> list[str]:
    return [key.partition("/")[0] for key in journey.object_keys()]


def refuse_at(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    journey.overwrite(journey.file(area), b"other")
    journey.check(area)


# ---- after success -----------------------------------------------------------------------------------------------


def test_copies_go_once_the_rows_are_in_final_and_stay_in_the_ledger(journey: MemoryJourney) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)

    deleted = clean_batch(journey)

    assert deleted == 6
    assert areas_held(journey) == ["final"]
    assert {bool(file.deleted_at) for file in journey.files(*RAW)} == {True}


@pytest.mark.parametrize("area", [*RAW, Area.FINAL])
def test_a_message_that_comes_early_deletes_nothing(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    before = journey.object_keys()

    assert clean_batch(journey) == 0
    assert journey.object_keys() == before


def test_a_doubled_message_finds_nothing_left(journey: MemoryJourney) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)

    assert [clean_batch(journey) for _ in range(3)] == [6, 0, 0]


def test_a_message_for_a_batch_that_is_not_there_deletes_nothing(journey: MemoryJourney) -> None:
    assert clean_batch(journey) == 0


@pytest.mark.parametrize("dies_after", range(1, 7))
def test_a_cleaner_that_dies_between_two_deletes_is_finished_by_the_next(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)

    with monkeypatch.context() as patch:
        die_after(patch, journey.memory, "delete", dies_after)
        with pytest.raises(KeyboardInterrupt):
            clean_batch(journey)
    assert clean_batch(journey) == 6

    assert areas_held(journey) == ["final"]


def test_a_batch_of_many_files_is_cleaned_over_several_lives_of_a_cleaner(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Lambda has a minute. What one life of it deleted must not be done all over again by each of the next."""
    journey.go_to(Area.FINAL)
    batch = journey.batch
    with journey.ledger.transaction() as tx:
        for part in range(10, 1_010):
            tx.insert_file(a_raw_file(batch, part=part))
    journey.check(Area.FINAL)
    lives = 0

    while lives < 10 and any(file.deleted_at is None for file in journey.files(*RAW)):
        lives += 1
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            die_after(patch, journey.memory, "delete", 300)
            clean_batch(journey)

    assert lives <= 6


# ---- after a refusal ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("area", RAW)
def test_of_a_refused_batch_the_furthest_copies_are_kept_with_their_reason(
    journey: MemoryJourney, area: Area
) -> None:
    refuse_at(journey, area)

    clean_batch(journey)

    kept = journey.files(Area.QUARANTINE)
    assert sorted(journey.object_keys()) == sorted(file.location.key for file in kept)
    assert [file.part for file in kept] == [0, 1]
    assert [(file.status, file.reason) for file in kept] == [
        (FileStatus.INCORRECT, Reason.SIZE_MISMATCH),
        (FileStatus.CORRECT, None),
    ]
    assert all(file.location.key.startswith(f"quarantine/{area}/orders/") for file in kept)


def test_what_is_set_aside_is_what_was_found_there_not_what_was_announced(journey: MemoryJourney) -> None:
    refuse_at(journey, Area.TMP)

    clean_batch(journey)

    kept = journey.files(Area.QUARANTINE)[0]
    assert journey.memory.read(kept.location) == b"other"
    assert kept.file_size_in_bytes == 5
    assert kept.sha256 == journey.memory.sha256(kept.location)
    assert kept.location.key == quarantine_key(journey.file(Area.TMP).location.key, sha256=kept.sha256)


def test_a_parquet_file_that_the_gate_of_final_refused_is_set_aside_too(journey: MemoryJourney) -> None:
    refuse_at(journey, Area.FINAL)

    clean_batch(journey)

    kept = journey.files(Area.QUARANTINE)
    assert sorted(file.location.key.split("/")[1] for file in kept) == ["final", "processing", "processing"]
    assert set(areas_held(journey)) == {"quarantine"}


def test_a_batch_that_failed_for_want_of_attempts_keeps_its_copies_aside(journey: MemoryJourney) -> None:
    journey.plan()
    journey.extract()
    for area in RAW:
        journey.check(area)
    for _ in range(3):
        attempt = journey.claim(Stage.PROCESS)
        with journey.ledger.transaction() as tx:
            lifecycle.fail_attempt(
                tx, attempt, detail="out of memory", retry=RetryPolicy(3, first_pause=timedelta(0))
            )
    assert journey.batch.state is BatchState.FAILED

    clean_batch(journey)

    assert areas_held(journey) == ["quarantine", "quarantine"]


def test_committed_files_stay_while_the_publish_is_held(journey: MemoryJourney) -> None:
    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)
    attempt = journey.claim(Stage.PUBLISH)
    with journey.ledger.transaction() as tx:
        lifecycle.refuse_attempt(tx, attempt, reason=Reason.PROOF_FAILED, detail="other rows")

    clean_batch(journey)

    assert "final" in areas_held(journey)


@pytest.mark.parametrize("call", ["copy", "delete"])
@pytest.mark.parametrize("dies_after", [1, 2])
def test_a_cleaner_that_dies_while_it_sets_aside_loses_nothing(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch, call: str, dies_after: int
) -> None:
    refuse_at(journey, Area.INPUT)
    bodies = {journey.memory.read(file.location) for file in journey.files(Area.INPUT)}

    with monkeypatch.context() as patch:
        die_after(patch, journey.memory, call, dies_after)
        with pytest.raises(KeyboardInterrupt):
            clean_batch(journey)
    clean_batch(journey)

    kept = journey.files(Area.QUARANTINE)
    assert sorted(journey.object_keys()) == sorted(file.location.key for file in kept)
    assert {journey.memory.read(file.location) for file in kept} == bodies


def test_what_was_set_aside_once_is_not_read_again_by_the_next_cleaner(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_at(journey, Area.TMP)
    read: list[Location] = []
    digest = journey.memory.sha256
    monkeypatch.setattr(journey.memory, "sha256", lambda at: read.append(at) or digest(at))

    for _ in range(3):
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            die_after(patch, journey.memory, "copy", 2)
            clean_batch(journey)

    assert len(read) <= 3
    assert len(journey.files(Area.QUARANTINE)) == 2


def test_a_store_that_is_away_leaves_everything_recorded_as_present(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(at: Location) -> None:
        raise Unavailable(f"{at}: no answer")

    journey.go_to(Area.FINAL)
    journey.check(Area.FINAL)
    monkeypatch.setattr(journey.memory, "delete", away)

    with pytest.raises(Unavailable):
        clean_batch(journey)

    assert not any(file.deleted_at for file in journey.files())


def test_a_missing_object_of_a_refused_batch_stops_nothing(journey: MemoryJourney) -> None:
    journey.go_to(Area.TMP)
    journey.memory.delete(journey.file(Area.TMP).location)
    journey.check(Area.TMP)

    clean_batch(journey)

    assert [file.part for file in journey.files(Area.QUARANTINE)] == [1]
    assert areas_held(journey) == ["quarantine"]


def test_a_replayed_batch_keeps_what_its_new_attempt_wrote(journey: MemoryJourney) -> None:
    refuse_at(journey, Area.TMP)
    with journey.ledger.transaction() as tx:
        lifecycle.replay(tx, journey.batch_id, contract=journey.contract, detail="cured")
    journey.extract([Part()])

    clean_batch(journey)

    present = {parsed.attempt for key in journey.object_keys() if (parsed := ParsedKey.of(key))}
    assert present == {1, 2}  # the first attempt's wait until the batch is at rest again


# ---- objects of nobody -------------------------------------------------------------------------------------------


def foreign(journey: MemoryJourney, key: str, body: bytes = b"mine") -> Location:
    location = journey.put_by_hand(key, body)
    journey.see(Area(key.partition("/")[0]), location)
    return location


@pytest.mark.parametrize("name", ["x.csv", "", "übung/日本 +%&.csv", "x" * 1000, "a\nb"])
def test_a_foreign_object_is_moved_into_quarantine(journey: MemoryJourney, name: str) -> None:
    location = foreign(journey, f"final/{name}")

    assert set_aside(journey, location) == 1

    (key,) = journey.object_keys()
    assert key.startswith("quarantine/")
    assert len(key.encode()) <= 1024
    assert journey.memory.read(Location(journey.bucket, key)) == b"mine"
    with journey.ledger.transaction() as tx:
        (kept,) = tx.files(areas=[Area.QUARANTINE])
        original = tx.file(location)
    assert (kept.reason, kept.sha256) == (Reason.FOREIGN_OBJECT, journey.memory.sha256(kept.location))
    assert original is not None
    assert original.deleted_at is not None


def test_two_foreign_objects_of_one_key_are_both_kept(journey: MemoryJourney) -> None:
    for body in (b"first", b"second"):
        set_aside(journey, foreign(journey, "tmp/x.csv", body))

    assert {journey.memory.read(Location(journey.bucket, key)) for key in journey.object_keys()} == {
        b"first",
        b"second",
    }


@pytest.mark.parametrize("area", [*RAW, Area.FINAL])
def test_a_forged_message_cannot_move_what_the_ledger_names(journey: MemoryJourney, area: Area) -> None:
    journey.go_to(area)
    before = journey.object_keys()

    moved = [set_aside(journey, file.location) for file in journey.files()]

    assert set(moved) == {0}
    assert journey.object_keys() == before


def test_a_forged_message_cannot_move_what_the_ledger_does_not_name(journey: MemoryJourney) -> None:
    location = journey.put_by_hand("tmp/x.csv")

    assert set_aside(journey, location) == 0
    assert journey.object_keys() == ["tmp/x.csv"]


def test_what_is_in_quarantine_is_not_set_aside_again(journey: MemoryJourney) -> None:
    set_aside(journey, foreign(journey, "tmp/x.csv"))
    (key,) = journey.object_keys()

    assert set_aside(journey, Location(journey.bucket, key)) == 0
    assert journey.object_keys() == [key]


def test_a_doubled_message_does_not_take_what_came_to_the_key_later(journey: MemoryJourney) -> None:
    location = foreign(journey, "tmp/x.csv")
    set_aside(journey, location)
    journey.put_by_hand("tmp/x.csv", b"later")

    assert set_aside(journey, location) == 0
    assert journey.memory.read(location) == b"later"


def test_an_object_too_large_for_a_lambda_stays_and_its_message_is_done(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = foreign(journey, "tmp/huge.bin")
    pretend_size(monkeypatch, journey.memory, location, 6 * 1024**3)

    assert set_aside(journey, location) == 0

    assert journey.object_keys() == ["tmp/huge.bin"]
    with journey.ledger.transaction() as tx:
        known = tx.file(location)
    assert known is not None
    assert known.deleted_at is None


def test_an_object_too_large_for_a_lambda_does_not_hold_up_the_rest_of_its_batch(
    journey: MemoryJourney, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_at(journey, Area.TMP)
    huge = journey.file(Area.TMP).location
    pretend_size(monkeypatch, journey.memory, huge, cleaner.MAX_SIZE_SET_ASIDE_IN_BYTES + 1)

    assert clean_batch(journey) == 1

    assert areas_held(journey) == ["quarantine", "tmp"]


def pretend_size(patch: pytest.MonkeyPatch, store: MemoryObjectStore, location: Location, size: int) -> None:
    """Let one object seem as large as no test can hold; whoever reads it all is told."""
    head = store.head

    def pretended(at: Location) -> Any:
        info = head(at)
        return replace(info, file_size_in_bytes=size) if info and at == location else info

    def unread(at: Location) -> str:
        assert at != location, "read through"
        return MemoryObjectStore.sha256(store, at)

    patch.setattr(store, "head", pretended)
    patch.setattr(store, "sha256", unread)


def die_after(patch: pytest.MonkeyPatch, store: MemoryObjectStore, call: str, count: int) -> None:
    """Let the process end after so many calls of the store."""
    plain, made = getattr(store, call), 0

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal made
        plain(*args, **kwargs)
        made += 1
        if made == count:
            raise KeyboardInterrupt

    patch.setattr(store, call, dying)
