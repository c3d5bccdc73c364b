"""The names of what is deployed, so that templates, settings and tests agree on them."""

from shared.ports import QueueName


def queue_name(prefix: str, queue: QueueName) -> str:
    """Return the name of a queue in SQS."""
    return f"{prefix}-{queue}"


def dead_letter_queue_name(prefix: str, queue: QueueName) -> str:
    """Return the name of the queue that takes what another could not deliver."""
    return f"{prefix}-{queue}-dlq"


def function_name(prefix: str, function: str) -> str:
    """Return the name of a Lambda."""
    return f"{prefix}-{function}"


def stack_name(prefix: str, source: str | None = None) -> str:
    """Return the name of the stack of a source, or of what all sources share."""
    return f"{prefix}-{source.replace('_', '-')}-source" if source else f"{prefix}-shared"


def logical_id(*words: str) -> str:
    """
    Return words as a logical id of CloudFormation.

    >>> logical_id("gate-tmp", "queue")
    'GateTmpQueue'
    """
    return "".join(part.capitalize() for word in words for part in word.replace("_", "-").split("-"))
