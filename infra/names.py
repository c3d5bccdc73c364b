"""The names of what is deployed, so that templates, settings and tests agree on them."""

from shared.ports import QueueName


def queue_name(prefix: str, queue: QueueName) -> str:
    """Return the name of a queue in SQS."""
    return f"{prefix}-{queue}"


def dead_letter_queue_name(prefix: str, queue: QueueName) -> str:
    """Return the name of the queue that takes what another could not deliver."""
    return f"{prefix}-{queue}-dlq"


def failed_calls_queue_name(prefix: str) -> str:
    """Return the name of the queue that takes the calls of schedules that failed, or could not be made."""
    return f"{prefix}-failed-calls"


def function_name(prefix: str, function: str) -> str:
    """Return the name of a Lambda, and of its role."""
    return f"{prefix}-{function}"


def role_name(prefix: str, role: str) -> str:
    """Return the name of a service's role."""
    return f"{prefix}-{role}"


def host_role_name(prefix: str) -> str:
    """Return the name of the role of an EC2 instance that runs the services."""
    return f"{prefix}-host"


def key_export_name(prefix: str) -> str:
    """Return under which name the shared stack tells the sources' stacks the key of the buckets."""
    return f"{prefix}-key-arn"


def source_secrets_folder(prefix: str) -> str:
    """
    Return how the names of secrets begin that hold connections of sources, so that one line of a policy covers them.

    Secrets under other names get a line each.
    """
    return f"{prefix}/sources/"


def mask_keys_folder(prefix: str) -> str:
    """Return how the names of secrets begin that hold keys of pseudonyms; see `source_secrets_folder`."""
    return f"{prefix}/masks/"


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
