"""What must hold of the history of a batch, whoever made it: a simulation, a fleet that was broken, a long soak."""

from collections.abc import Iterator
from itertools import pairwise

from shared.domain.batches import EDGES, Attempt, AttemptState, Batch, BatchState, Stage
from shared.domain.counts import broken_sum
from shared.ports import LedgerTransaction


def faults_of(tx: LedgerTransaction, batch: Batch) -> list[str]:
    """Return what is wrong with the events, attempts and counts of a batch at rest; nothing if all is well."""
    attempts = tx.attempts(batch.id)
    found = [*_of_events(tx, batch), *_of_attempts(batch, attempts)]
    if batch.state is BatchState.PUBLISHED:
        found += _of_published(tx, batch, attempts)
    return [f"batch {batch.id}: {fault}" for fault in found]


def _of_events(tx: LedgerTransaction, batch: Batch) -> Iterator[str]:
    events = tx.events(batch.id)
    if [event.sequence for event in events] != list(range(1, len(events) + 1)):
        yield "its history has gaps"
    if events[0].from_state is not None or events[-1].to_state is not batch.state:
        yield "its history does not lead to its state"
    for before, after in pairwise(events):
        if after.from_state is not before.to_state or (before.to_state, after.to_state) not in EDGES:
            yield f"event {after.sequence} leads from {after.from_state} to {after.to_state}"
        if before.at > after.at:
            yield f"event {after.sequence} lies before the one that it follows"


def _of_attempts(batch: Batch, attempts: list[Attempt]) -> Iterator[str]:
    numbers: dict[Stage, int] = {}
    for attempt in attempts:
        if attempt.number != numbers.get(attempt.stage, 0) + 1:
            yield f"attempt {attempt.number} of {attempt.stage} is out of turn"
        if attempt.state is AttemptState.RUNNING or attempt.ended_at is None:
            yield f"attempt {attempt.number} of {attempt.stage} has not ended"
        numbers[attempt.stage] = attempt.number
    if numbers != {stage: number for stage, number in batch.attempts.items() if number}:
        yield f"it counts other attempts, {batch.attempts}, than there are, {numbers}"


def _of_published(tx: LedgerTransaction, batch: Batch, attempts: list[Attempt]) -> Iterator[str]:
    if batch.committed_attempt is None:
        yield "it is published, and no attempt is committed"
    for stage in Stage:
        if sentence := broken_sum(stage, batch.counts):
            yield f"{stage}: {sentence}"
        of_stage = [attempt for attempt in attempts if attempt.stage is stage]
        if not of_stage or of_stage[-1].state is not AttemptState.SUCCEEDED:
            yield f"the last attempt of {stage} did not succeed"
        elif tx.manifest(batch.id, stage, of_stage[-1].number) is None:
            yield f"the last attempt of {stage} left no manifest"
