"""How a Lambda is called by SQS, and how it says which messages must come back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import structlog

from lambdas.emf import LogRecorder
from shared.domain.traces import TraceParent
from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.messages import TRACE_ATTRIBUTE
from shared.settings import FleetSettings
from shared.telemetry.logs import bound, configure_logging
from shared.telemetry.metric_list import MESSAGES_FAILED
from shared.telemetry.metrics import record, record_with
from shared.telemetry.tracing import configure_tracing, flush_spans

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Received:
    """A message, as anybody may have sent it."""

    body: str
    #: Where it says that it belongs in the trace of a batch.
    trace: TraceParent | None = None


def handle_messages(
    event: Mapping[str, Any], handle_message: Callable[[Received], object], *, function: str
) -> dict[str, Any]:
    """
    Hand each message of an SQS event to a function, and return those that failed as a partial batch response.

    A message that fails comes back after its visibility timeout, and ends in the dead-letter queue after the
    queue's maximum of receives; those beside it are not held up.

    Source: AWS Lambda Developer Guide, "Handling errors for an SQS event source in Lambda".
    """
    failures = []
    for message in event["Records"]:
        received = Received(message["body"], _trace_of(message))
        with bound(trace_id=received.trace.trace_id if received.trace else None):
            try:
                handle_message(received)
            except Exception as error:
                # Whatever it was, only success may delete the message.
                log.exception("message_failed", message_id=message["messageId"])
                record(MESSAGES_FAILED, function=function)
                if isinstance(error, Unavailable):
                    forget_fleet()
                failures.append({"itemIdentifier": message["messageId"]})
    flush_spans()  # this process is frozen until the next event, which may never come
    return {"batchItemFailures": failures}


@cache
def warm_fleet(function: str) -> Fleet:
    """Return the connections of this Lambda, made at its first invocation and kept while it is warm."""
    configure_logging(function)
    configure_tracing(function)
    settings = FleetSettings()
    record_with(LogRecorder(settings.bucket_prefix))
    return Fleet.connect(settings)


def _trace_of(message: Mapping[str, Any]) -> TraceParent | None:
    """Return what stands beside the body, if anything does: S3, and older versions, send nothing of it."""
    attribute = (message.get("messageAttributes") or {}).get(TRACE_ATTRIBUTE) or {}
    return TraceParent.parse(attribute.get("stringValue"))


def forget_fleet() -> None:
    """
    Let the next invocation connect anew.

    A warm Lambda lives for hours. When the ledger's password is rotated meanwhile, or its address moves, only
    its secret, read again, tells.
    """
    warm_fleet.cache_clear()
