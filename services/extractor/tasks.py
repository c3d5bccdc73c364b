"""The door of the extractor: one Celery task."""

from celery import shared_task

from services.extractor.app import wired_extractor
from shared.domain.batches import Stage
from shared.messages import EXTRACT_TASK
from shared.work import do_stage


@shared_task(name=EXTRACT_TASK)  # type: ignore[untyped-decorator]
def run_extract(batch_id: str, traceparent: str | None = None) -> None:
    """Extract a batch, if it is there to be done. Raises to have the message come back."""
    extractor = wired_extractor()
    do_stage(Stage.EXTRACT, batch_id, extractor.extract, fleet=extractor.fleet, traceparent=traceparent)
