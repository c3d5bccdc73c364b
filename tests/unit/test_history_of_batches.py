"""The check of histories, on which simulation, chaos and soak stand, finds what is wrong."""

from dataclasses import replace

from support.history import faults_of
from support.journey import MemoryJourney

from shared.domain.batches import BatchState, Stage


def test_a_history_that_is_whole_has_no_fault() -> None:
    journey = MemoryJourney()
    journey.plan()

    with journey.ledger.transaction() as tx:
        (batch,) = tx.batches()
        assert faults_of(tx, batch) == []


def test_what_is_wrong_is_told() -> None:
    journey = MemoryJourney()
    journey.plan()
    journey.claim(Stage.EXTRACT)

    with journey.ledger.transaction() as tx:
        (batch,) = tx.batches()
        faults = faults_of(tx, replace(batch, state=BatchState.PUBLISHED, attempts={}))

    assert [fault.removeprefix(f"batch {batch.id}: ") for fault in faults] == [
        "its history does not lead to its state",
        "attempt 1 of extract has not ended",
        "it counts other attempts, {}, than there are, {<Stage.EXTRACT: 'extract'>: 1}",
        "it is published, and no attempt is committed",
        *(f"the last attempt of {stage} did not succeed" for stage in Stage),
    ]
