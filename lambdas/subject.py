"""What the log lines and the span of a Lambda are about, bound in one place."""

from collections.abc import Iterator
from contextlib import contextmanager

from shared.domain.batches import Batch
from shared.domain.traces import TraceParent
from shared.telemetry.logs import bound
from shared.telemetry.tracing import span


@contextmanager
def about(batch: Batch, *, stage: str, attempt: int, hint: TraceParent | None) -> Iterator[None]:
    """
    Let every log line of the block tell the batch and the attempt it looks at, and be a span of the batch's trace.

    `hint`: below which span the message says that it belongs. What the ledger says of the trace goes before it.
    """
    below = TraceParent.below(batch.trace_id, hint) if batch.trace_id else None
    with (
        bound(
            batch_id=batch.id,
            source=batch.source,
            table=batch.table,
            stage=stage,
            attempt=attempt,
            trace_id=batch.trace_id,
        ),
        span(stage, below=below, batch_id=batch.id, source=batch.source, table=batch.table, attempt=attempt),
    ):
        yield
