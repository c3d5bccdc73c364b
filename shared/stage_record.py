"""What logs, metrics and spans are told of a stage: beside the story in `shared.stage`, and never in its way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from shared.domain.batches import Attempt, Batch, Stage
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.domain.traces import TraceParent
from shared.errors import Interrupted, Unavailable
from shared.lifecycle import StageResult
from shared.telemetry import metric_list, tracing
from shared.telemetry.logs import bind
from shared.telemetry.metrics import record


class Ending(StrEnum):
    """How a message to a worker ends that has no `Outcome`: it comes back."""

    #: The attempt failed, another one follows.
    FAILED = "failed"
    #: The worker was told to stop.
    INTERRUPTED = "interrupted"
    #: There was no attempt: the ledger could not be asked.
    NOT_CLAIMED = "not_claimed"


#: Stands for a label that has nothing to say.
NONE = "none"


@dataclass(slots=True)
class StageRecord:
    """Notes one message to a worker from beginning to end."""

    stage: Stage
    #: As the message says.
    hint: TraceParent | None
    outcome: str = ""
    reason: str = NONE
    is_claimed: bool = False
    _begun_at: int = field(default_factory=time.time_ns)
    _begun: float = field(default_factory=time.monotonic)

    def know(self, batch: Batch | None) -> None:
        """Let every log line from now on say what the ledger knows of the batch."""
        if batch is not None:
            bind(
                source=batch.source,
                table=batch.table,
                attempt=batch.attempt_number(self.stage),
                trace_id=batch.trace_id,
            )

    @contextmanager
    def claimed(self, batch: Batch, attempt: Attempt) -> Iterator[None]:
        """Be the span of an attempt, from its claim on."""
        self.is_claimed = True
        # From nothing on: of a counter that begins with its first event Prometheus sees no increase.
        record(metric_list.LEASE_LOSSES, 0, stage=self.stage)
        claimed_at = time.time_ns()
        if batch.trace_id is None:
            yield
            return
        ids = {"batch_id": batch.id, "source": batch.source, "table": batch.table}
        if batch.attempts_of_run == 1:
            begun_at = int(batch.planned_at.timestamp() * 1e9) if attempt.number == 1 else self._begun_at
            tracing.root_span(
                "planned", TraceParent.root_of(batch.trace_id), begun_at=begun_at, ended_at=claimed_at, **ids
            )
        with tracing.span(
            str(self.stage),
            below=TraceParent.below(batch.trace_id, self.hint),
            begun_at=self._begun_at,
            attempt=attempt.number,
            **ids,
        ):
            tracing.past_span("claim", begun_at=self._begun_at, ended_at=claimed_at)
            yield

    def done(self, result: StageResult, *, read: tuple[DataFile, ...]) -> None:
        """Count what a recorded attempt was given and made."""
        for count, number in result.counts.items():
            if count.startswith("rows_"):
                record(metric_list.ROWS, number, stage=self.stage, count=count)
        for direction, files in (("read", read), ("written", result.files)):
            size = sum(file.file_size_in_bytes for file in files)
            record(metric_list.BYTES, size, stage=self.stage, direction=direction)

    def lost(self) -> None:
        """Count an attempt that no longer spoke for its batch."""
        record(metric_list.LEASE_LOSSES, stage=self.stage)

    def ended(self) -> None:
        """Count what came of the message."""
        record(metric_list.BATCHES, stage=self.stage, outcome=self.outcome, reason=self.reason)
        if self.is_claimed:
            seconds = time.monotonic() - self._begun
            record(metric_list.STAGE_DURATION_SECONDS, seconds, stage=self.stage, outcome=self.outcome)


@contextmanager
def recorded(stage: Stage, *, hint: TraceParent | None) -> Iterator[StageRecord]:
    """Record the block, which is about one message."""
    noted = StageRecord(stage, hint)
    try:
        yield noted
    except BaseException as error:
        noted.outcome, noted.reason = _ending(noted, error)
        raise
    finally:
        noted.ended()


def _ending(noted: StageRecord, error: BaseException) -> tuple[str, str]:
    if isinstance(error, Interrupted):
        return Ending.INTERRUPTED, NONE
    if not noted.is_claimed and isinstance(error, Unavailable):
        return Ending.NOT_CLAIMED, NONE
    return Ending.FAILED, Reason.ATTEMPT_FAILED
