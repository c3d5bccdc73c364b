"""Stacks: created, updated, or made to take in a bucket that is there already."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from botocore.exceptions import ClientError, WaiterError

from infra.templates import Template
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import WaiterConfigTypeDef

log = structlog.get_logger()

_POLL: WaiterConfigTypeDef = {"Delay": 1, "MaxAttempts": 300}

#: A stack in one of these never came to be: it can only be deleted. Buckets are retained whatever happens.
#: Source: AWS CloudFormation User Guide, "Understand stack creation events", stack status codes.
_STILLBORN = frozenset(
    {
        "REVIEW_IN_PROGRESS",
        "CREATE_FAILED",
        "ROLLBACK_COMPLETE",
        "ROLLBACK_FAILED",
        "DELETE_FAILED",
        "IMPORT_ROLLBACK_COMPLETE",
    }
)


def deploy_stack(client: CloudFormationClient, name: str, template: Template) -> bool:
    """
    Bring a stack to a template, creating it if it is not there; False if it was there and as it should be.

    Raises:
        ConfigurationError: if CloudFormation refuses or rolls back; the message holds its reasons.
    """
    # CloudFormation takes 51,200 bytes at once, so no blank is spent.
    body, capabilities = json.dumps(template, separators=(",", ":")), ["CAPABILITY_NAMED_IAM"]
    if not _is_there(client, name):
        with _refusals_told(name):
            client.create_stack(StackName=name, TemplateBody=body, Capabilities=capabilities)  # type: ignore[arg-type]
        _wait(client, "stack_create_complete", name)
        log.info("stack_created", stack=name)
        return True
    try:
        client.update_stack(StackName=name, TemplateBody=body, Capabilities=capabilities)  # type: ignore[arg-type]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return False
        raise ConfigurationError(f"stack {name}: {error}") from error
    _wait(client, "stack_update_complete", name)
    log.info("stack_updated", stack=name)
    return True


def adopt_bucket(client: CloudFormationClient, name: str, template: Template, *, bucket: str) -> None:
    """
    Create a stack around a bucket that exists already, as after the loss of the stack.

    Source: AWS CloudFormation User Guide, "Import AWS resources into a CloudFormation stack".
    """
    with _refusals_told(name):
        client.create_change_set(
            StackName=name,
            ChangeSetName="adopt-bucket",
            ChangeSetType="IMPORT",
            TemplateBody=json.dumps(template, separators=(",", ":")),
            ResourcesToImport=[
                {
                    "ResourceType": "AWS::S3::Bucket",
                    "LogicalResourceId": "Bucket",
                    "ResourceIdentifier": {"BucketName": bucket},
                }
            ],
        )
        client.get_waiter("change_set_create_complete").wait(
            StackName=name, ChangeSetName="adopt-bucket", WaiterConfig=_POLL
        )
        client.execute_change_set(StackName=name, ChangeSetName="adopt-bucket")
    _wait(client, "stack_import_complete", name)
    log.info("bucket_adopted", stack=name, bucket=bucket)


def deploy_source_stack(
    client: CloudFormationClient,
    name: str,
    template: Template,
    *,
    bucket: str,
    bucket_template: Template,
    bucket_exists: Callable[[], bool],
) -> bool:
    """Bring the stack of a source to a template; if the stack was lost and the bucket was not, take it in."""
    if not _is_there(client, name) and bucket_exists():
        adopt_bucket(client, name, bucket_template, bucket=bucket)
    return deploy_stack(client, name, template)


def _is_there(client: CloudFormationClient, name: str) -> bool:
    """Return whether a stack is there to be updated. One that never came to be is deleted first."""
    status = _settled_status(client, name)
    if status in _STILLBORN:
        log.warning("stillborn_stack_deleted", stack=name, status=status)
        with _refusals_told(name):
            client.delete_stack(StackName=name)
        _wait(client, "stack_delete_complete", name)
        return False
    return status is not None


def _settled_status(client: CloudFormationClient, name: str) -> str | None:
    """Return how a stack stands, once whoever else is at work on it is done; None if there is none."""
    for _ in range(_POLL["MaxAttempts"]):
        status = _status(client, name)
        if status is None or status in _STILLBORN or not status.endswith("_IN_PROGRESS"):
            return status
        time.sleep(_POLL["Delay"])
    raise ConfigurationError(f"stack {name}: expected it to settle within five minutes, found it {status}")


def _status(client: CloudFormationClient, name: str) -> str | None:
    try:
        stacks = client.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise ConfigurationError(f"stack {name}: {error}") from error
    status = stacks[0]["StackStatus"] if stacks else None
    return None if status == "DELETE_COMPLETE" else status


def _wait(client: CloudFormationClient, waiter: str, name: str) -> None:
    try:
        client.get_waiter(waiter).wait(StackName=name, WaiterConfig=_POLL)  # type: ignore[call-overload]
    except WaiterError as error:
        reasons = _failures(client, name)
        raise ConfigurationError(f"stack {name} failed: {'; '.join(reasons) or error}") from error


def _failures(client: CloudFormationClient, name: str) -> list[str]:
    """Return what CloudFormation says of the resources that failed, or failed its validation before."""
    with _refusals_told(name):
        resources = client.describe_stack_events(StackName=name)["StackEvents"]
        validations = client.describe_events(StackName=name)["OperationEvents"]
    failed = [
        f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}"
        for event in resources
        if event.get("ResourceStatus", "").endswith("FAILED")
    ]
    invalid = [
        f"{event.get('LogicalResourceId', name)}: {event.get('ValidationStatusReason', '')}"
        for event in validations
        if event.get("ValidationStatus") == "FAILED"
    ]
    return failed + invalid


@contextmanager
def _refusals_told(name: str) -> Iterator[None]:
    """Tell what CloudFormation refuses in our words, with the stack's name."""
    try:
        yield
    except (ClientError, WaiterError) as error:
        raise ConfigurationError(f"stack {name}: {error}") from error
