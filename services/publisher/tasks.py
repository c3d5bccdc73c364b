"""The door of the publisher: one Celery task."""

from celery import shared_task

from services.publisher.app import wired_publisher
from shared.domain.batches import Stage
from shared.messages import PUBLISH_TASK
from shared.work import do_stage


@shared_task(name=PUBLISH_TASK)  # type: ignore[untyped-decorator]
def run_publish(batch_id: str, traceparent: str | None = None) -> None:
    """Publish a batch, if it is there to be done. Raises to have the message come back."""
    publisher = wired_publisher()
    do_stage(Stage.PUBLISH, batch_id, publisher.publish, fleet=publisher.fleet, traceparent=traceparent)
