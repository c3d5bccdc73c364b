"""How a Lambda is called by SQS, and how it says which messages must come back."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import structlog

from shared.errors import Unavailable
from shared.fleet import Fleet
from shared.settings import FleetSettings
from shared.telemetry.logs import configure_logging

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
        except Exception as error:
            # Whatever it was, only success may delete the message.
            log.exception("message_failed", message_id=record["messageId"])
            if isinstance(error, Unavailable):
                forget_fleet()
            failures.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failures}


@cache
def warm_fleet(function: str) -> Fleet:
    """Return the connections of this Lambda, made at its first invocation and kept while it is warm."""
    configure_logging(function)
    return Fleet.connect(FleetSettings())


def forget_fleet() -> None:
    """
    Let the next invocation connect anew.

    A warm Lambda lives for hours. When the ledger's password is rotated meanwhile, or its address moves, only
    its secret, read again, tells.
    """
    warm_fleet.cache_clear()
