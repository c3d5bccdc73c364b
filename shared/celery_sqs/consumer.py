"""What becomes of a message that Celery itself cannot decode."""

from typing import Any

import structlog
from celery.worker.consumer import Consumer

log = structlog.get_logger()


class SuccessOnlyConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """
    A consumer that deletes no message.

    Stock, it acknowledges what cannot be decoded. The transport writes every envelope anew, so that none should
    come here; if one does after all, it is left to SQS. Celery 5.7.0, `celery.worker.consumer.Consumer`.
    """

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Leave the message to SQS."""
        log.error("message_not_decoded", error=type(exc).__name__)
        message.reject_log_error(log, self.connection_errors)
