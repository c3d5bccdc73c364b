"""Stacks: created, updated, or made to take in a bucket that is there already."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def deploy_stack(client: CloudFormationClient, name: str, template: Template) -> None:
    """
    Bring a stack to a template, creating it if it is not there. Repeating it is no error.

    Raises:
        ConfigurationError: if CloudFormation refuses or rolls back; the message holds its reasons.
    """
    status = _status(client, name)
    if status == "ROLLBACK_COMPLETE":
        # A stack that failed at its creation can only be deleted.
        client.delete_stack(StackName=name)
        _wait(client, "stack_delete_complete", name)
        status = None
    body, capabilities = json.dumps(template), ["CAPABILITY_NAMED_IAM"]
    if status is None:
        client.create_stack(StackName=name, TemplateBody=body, Capabilities=capabilities)  # type: ignore[arg-type]
        _wait(client, "stack_create_complete", name)
        log.info("stack_created", stack=name)
        return
    try:
        client.update_stack(StackName=name, TemplateBody=body, Capabilities=capabilities)  # type: ignore[arg-type]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return
        raise ConfigurationError(f"stack {name}: {error}") from error
    _wait(client, "stack_update_complete", name)
    log.info("stack_updated", stack=name)


def adopt_bucket(client: CloudFormationClient, name: str, template: Template, *, bucket: str) -> None:
    """
    Create a stack around a bucket that exists already, as after the loss of the stack.

    Source: AWS CloudFormation User Guide, "Import AWS resources into a CloudFormation stack".
    """
    client.create_change_set(
        StackName=name,
        ChangeSetName="adopt-bucket",
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps(template),
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
) -> None:
    """Bring the stack of a source to a template; if the stack was lost and the bucket was not, take it in."""
    if _status(client, name) is None and bucket_exists():
        adopt_bucket(client, name, bucket_template, bucket=bucket)
    deploy_stack(client, name, template)


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
        events = client.describe_stack_events(StackName=name)["StackEvents"]
        reasons = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason', '')}"
            for event in events
            if event.get("ResourceStatus", "").endswith("FAILED")
        ]
        raise ConfigurationError(f"stack {name} failed: {'; '.join(reasons) or error}") from error
