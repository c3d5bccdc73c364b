"""The Lambda of the cleaner."""

from collections.abc import Mapping
from typing import Any

from lambdas.cleaner.clean import clean
from lambdas.invocation import Received, handle_messages, warm_fleet
from shared.messages import parse_clean_message


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001  Lambda's signature
    """Delete or set aside what an SQS event names, if the ledger agrees."""
    fleet = warm_fleet("cleaner")

    def clean_one(received: Received) -> None:
        message = parse_clean_message(received.body)
        clean(message, ledger=fleet.ledger, store=fleet.store, trace=received.trace)

    return handle_messages(event, clean_one, function="cleaner")
