"""The Lambda at the door of `tmp/`."""

from collections.abc import Mapping
from typing import Any

from lambdas.gate import handle_area
from shared.domain.files import Area


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001  Lambda's signature
    """Check what an SQS event names in `tmp/`."""
    return handle_area(Area.TMP, event)
