"""The door of the processor: one Celery task."""

from celery import shared_task

from services.processor.app import wired_processor
from shared.domain.batches import Stage
from shared.messages import PROCESS_TASK
from shared.work import do_stage


@shared_task(name=PROCESS_TASK)  # type: ignore[untyped-decorator]
def run_process(batch_id: str, traceparent: str | None = None) -> None:
    """Process a batch, if it is there to be done. Raises to have the message come back."""
    processor = wired_processor()
    do_stage(Stage.PROCESS, batch_id, processor.process, fleet=processor.fleet, traceparent=traceparent)
