"""What becomes of a message when its task has ended, in one place."""

from typing import Any

import structlog
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker.request import Request
from celery.worker.state import task_ready

from shared.celery_sqs.logs import message_ids
from shared.telemetry.metric_list import TASKS_LOST
from shared.telemetry.metrics import record

log = structlog.get_logger()


class SuccessOnlyRequest(Request):  # type: ignore[misc]  # Celery has no types
    """
    A task whose message is deleted if it returns, and left to SQS if it ends in any other way.

    Celery deletes it also if a task raises `Ignore` or `Retry` or is terminated, and lets a `MemoryError` of a
    task end the whole worker. Celery 5.7.0, `celery.worker.request.Request.on_failure`.
    """

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:  # noqa: ARG002
        """Leave the message to SQS. Called whether the task raised or its process was lost."""
        task_ready(self)
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, WorkerLostError | TimeLimitExceeded):
            record(TASKS_LOST, queue=self.delivery_info["routing_key"])
        log.warning(
            "task_failed",
            task=self.name,
            task_id=self.id,
            **message_ids(self.name, self.message.payload[1]),
            # What a task raised its process has logged; of a process that was lost nobody else tells.
            error=str(error) if isinstance(error, WorkerLostError) else type(error).__name__,
        )
        self.reject()
