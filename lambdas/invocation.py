"""How a Lambda is called by SQS, and how it says which messages must come back."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import structlog
from shared.telemetry.logs import configure_logging

from shared.fleet import Fleet
from shared.settings import FleetSettings

log = structlog.get_logger()


def handle_messages(event: Mapping[str, Any], handle_body: Callable[[str], object]) -> dict[str, Any]:
    """
    Hand each message of an SQS event to a function, and return those that failed as a partial batch response.

    A message that fails comes back after its visibility timeout, and ends in the dead-letter queue after the
    queue's maximum of receives; those beside it are not held up.

    Source: AWS Lambda Developer Guide, "Handling errors for an SQS event source in Lambda".
    """
    failures = []
    for record in event["Records"]:
        try:
            handle_body(record["body"])
        except Exception:
            # Whatever it was, only success may delete the message.
            log.exception("message_failed", message_id=record["messageId"])
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


@cache
def warm_fleet(function: str) -> Fleet:
    """Return the connections of this Lambda, made at its first invocation and kept while it is warm."""
    configure_logging(function)
    return Fleet.connect(FleetSettings())
