"""
Stacks: brought to a template by change sets, or made to take in a bucket that is there already.

A change set is made, looked at, and carried out or withdrawn. So a person sees what would be replaced before
anything is, and a stack that is as it should be is left alone.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from infra.templates import Template
from shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_cloudformation.client import CloudFormationClient
    from mypy_boto3_cloudformation.literals import ChangeSetTypeType

log = structlog.get_logger()

#: Source: AWS CloudFormation User Guide, "Understand CloudFormation quotas".
MAX_BODY_BYTES: Final = 51_200
MAX_UPLOADED_BYTES: Final = 1_000_000
MAX_RESOURCES: Final = 500

#: So long a stack may take. A Lambda in a network takes minutes to go.
STACK_SECONDS: Final = 1800.0
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0

#: A stack in one of these never came to be: it can only be deleted. Buckets are retained whatever happens.
#: Source: AWS CloudFormation User Guide, "Understand stack creation events", stack status codes.
_STILLBORN: Final = frozenset(
    {
        "REVIEW_IN_PROGRESS",
        "CREATE_FAILED",
        "ROLLBACK_COMPLETE",
        "ROLLBACK_FAILED",
        "DELETE_FAILED",
        "IMPORT_ROLLBACK_COMPLETE",
    }
)
_SUCCEEDED: Final = frozenset({"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"})

#: What a change set fails with if there is nothing to change.
_NOTHING_TO_DO: Final = ("didn't contain changes", "No updates are to be performed")

#: Puts a template into a bucket, by its file name, and returns its URL.
Upload = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one resource."""

    #: `Add`, `Modify`, `Remove`, `Import`, as CloudFormation says.
    action: str
    logical_id: str
    resource_type: str
    #: `True`, `False`, `Conditional`; empty where the question does not arise.
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What would become of a stack. It is there until it is carried out or withdrawn."""

    stack: str
    name: str
    is_new: bool
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class StackEvent:
    """What CloudFormation tells of one resource on the way."""

    stack: str
    logical_id: str
    resource_type: str
    status: str
    reason: str = ""


def _ignore(_: StackEvent) -> None:
    return


def deploy_stack(
    client: CloudFormationClient,
    name: str,
    template: Template,
    *,
    upload: Upload | None = None,
    on_event: Callable[[StackEvent], None] = _ignore,
) -> bool:
    """
    Bring a stack to a template, creating it if it is not there; False if it was there and as it should be.

    Raises:
        ConfigurationError: if CloudFormation refuses or rolls back; the message holds its reasons.
    """
    change_set = propose(client, name, template, upload=upload)
    if change_set is None:
        return False
    carry_out(client, change_set, on_event=on_event)
    return True


def deploy_source_stack(
    client: CloudFormationClient,
    name: str,
    template: Template,
    *,
    bucket: str,
    bucket_template: Template,
    bucket_exists: Callable[[], bool],
    on_event: Callable[[StackEvent], None] = _ignore,
) -> bool:
    """Bring the stack of a source to a template; if the stack was lost and the bucket was not, take it in."""
    take_in_bucket(client, name, bucket_template, bucket=bucket, bucket_exists=bucket_exists)
    return deploy_stack(client, name, template, on_event=on_event)


def take_in_bucket(
    client: CloudFormationClient,
    name: str,
    template: Template,
    *,
    bucket: str,
    bucket_exists: Callable[[], bool],
) -> None:
    """
    Create a stack around a bucket that exists already, as after the loss of the stack; else do nothing.

    Source: AWS CloudFormation User Guide, "Import AWS resources into a CloudFormation stack".
    """
    if _is_there(client, name) or not bucket_exists():
        return
    with _refusals_told(name):
        client.create_change_set(
            StackName=name,
            ChangeSetName="adopt-bucket",
            ChangeSetType="IMPORT",
            TemplateBody=body_of(template),
            ResourcesToImport=[
                {
                    "ResourceType": "AWS::S3::Bucket",
                    "LogicalResourceId": "Bucket",
                    "ResourceIdentifier": {"BucketName": bucket},
                }
            ],
        )
    carry_out(client, _awaited(client, ChangeSet(name, "adopt-bucket", is_new=True, changes=())))
    log.info("bucket_adopted", stack=name, bucket=bucket)


# ---- change sets ---------------------------------------------------------------------------------------------


def propose(
    client: CloudFormationClient, name: str, template: Template, *, upload: Upload | None = None
) -> ChangeSet | None:
    """
    Make a change set; None if the stack is as the template says.

    Raises:
        ConfigurationError: if the template is too large, or CloudFormation refuses it.
    """
    require_within_limits(name, template)
    is_new = not _is_there(client, name)
    kind: ChangeSetTypeType = "CREATE" if is_new else "UPDATE"
    change_set = ChangeSet(name, f"esclusa-{secrets.token_hex(8)}", is_new, ())
    with _refusals_told(name):
        client.create_change_set(
            StackName=name,
            ChangeSetName=change_set.name,
            ChangeSetType=kind,
            Capabilities=["CAPABILITY_NAMED_IAM"],
            **_where(name, body_of(template), upload),  # type: ignore[arg-type]
        )
    try:
        return _awaited(client, change_set)
    except _NothingToDo:
        withdraw(client, change_set)
        return None
    except ConfigurationError:
        withdraw(client, change_set)
        raise


def withdraw(client: CloudFormationClient, change_set: ChangeSet) -> None:
    """Delete a change set that is not to be carried out, and the empty stack that a new one leaves."""
    with _refusals_told(change_set.stack):
        client.delete_change_set(StackName=change_set.stack, ChangeSetName=change_set.name)
        if change_set.is_new:
            client.delete_stack(StackName=change_set.stack)


def carry_out(
    client: CloudFormationClient,
    change_set: ChangeSet,
    *,
    on_event: Callable[[StackEvent], None] = _ignore,
) -> None:
    """
    Carry out a change set and wait for the stack.

    Raises:
        ConfigurationError: if it failed and was rolled back; the message holds what failed, and why.
    """
    name = change_set.stack
    seen = set(_events(client, name))
    with _refusals_told(name):
        client.execute_change_set(StackName=name, ChangeSetName=change_set.name)
    failures: list[str] = []
    seen_before = len(seen)
    for pause in _pauses(name):
        # Until its first event a stack may still tell how the change before ended.
        has_begun = len(seen) > seen_before
        # The state before the events: of a state at rest no event is missing then.
        status = _status(client, name)
        for key, event in _events(client, name).items():
            if key not in seen:
                seen.add(key)
                on_event(event)
                failures += _failure(event)
        if has_begun and status in _SUCCEEDED and not failures:
            log.info("stack_deployed", stack=name, status=status)
            return
        if status is None or (has_begun and _is_at_rest(status)):
            told = "; ".join([*_validations(client, name), *failures]) or f"it ended as {status}"
            raise ConfigurationError(f"stack {name} failed: {told}")
        time.sleep(pause)


def _failure(event: StackEvent) -> list[str]:
    """Return why a resource failed, unless it was only called off because another one did."""
    if not event.status.endswith("_FAILED") or "cancelled" in event.reason:
        return []
    return [f"{event.logical_id} ({event.resource_type}): {event.reason or event.status}"]


class _NothingToDo(ConfigurationError):
    """The change set is empty."""


def _awaited(client: CloudFormationClient, change_set: ChangeSet) -> ChangeSet:
    for pause in _pauses(change_set.stack):
        with _refusals_told(change_set.stack):
            found = client.describe_change_set(StackName=change_set.stack, ChangeSetName=change_set.name)
        if found["Status"] == "CREATE_COMPLETE":
            return ChangeSet(
                change_set.stack, change_set.name, change_set.is_new, _changes(client, change_set)
            )
        if found["Status"] == "FAILED":
            reason = found.get("StatusReason", "")
            if any(text in reason for text in _NOTHING_TO_DO):
                raise _NothingToDo(change_set.stack)
            reasons = [reason, *_validations(client, change_set.stack)]
            raise ConfigurationError(f"stack {change_set.stack} failed: {'; '.join(filter(None, reasons))}")
        time.sleep(pause)
    raise AssertionError("unreachable: the pauses end with an error")


def _changes(client: CloudFormationClient, change_set: ChangeSet) -> tuple[Change, ...]:
    with _refusals_told(change_set.stack):
        pages = client.get_paginator("describe_change_set").paginate(
            StackName=change_set.stack, ChangeSetName=change_set.name
        )
        found = [change["ResourceChange"] for page in pages for change in page.get("Changes", ())]
    return tuple(
        Change(
            item.get("Action", ""),
            item.get("LogicalResourceId", ""),
            item.get("ResourceType", ""),
            str(item.get("Replacement", "")),
        )
        for item in found
    )


def _validations(client: CloudFormationClient, name: str) -> list[str]:
    """Return what the validation before a change found; servers that know none tell nothing."""
    try:
        events = client.describe_events(StackName=name)["OperationEvents"]
    except (ClientError, BotoCoreError):
        return []
    return [
        f"{event.get('LogicalResourceId', name)}: {event.get('ValidationStatusReason', '')}"
        for event in events
        if event.get("ValidationStatus") == "FAILED"
    ]


# ---- stacks --------------------------------------------------------------------------------------------------


def deployed_template(client: CloudFormationClient, name: str) -> Template | None:
    """Return the template that a stack was brought to last; None if there is no stack that came to be."""
    status = _settled_status(client, name)
    if status is None or status in _STILLBORN:
        return None
    with _refusals_told(name):
        body = client.get_template(StackName=name, TemplateStage="Original")["TemplateBody"]
    # Of JSON boto3 gives the object, of YAML the text.
    document = json.loads(body) if isinstance(body, str) else body
    return dict(json.loads(json.dumps(document)))


def outputs_of(client: CloudFormationClient, name: str) -> dict[str, str]:
    """
    Return what a deployed stack tells.

    Raises:
        ConfigurationError: if there is no such stack.
    """
    with _refusals_told(name):
        (stack,) = client.describe_stacks(StackName=name)["Stacks"]
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def require_within_limits(name: str, template: Template) -> None:
    """
    Check a template against what CloudFormation takes.

    Raises:
        ConfigurationError: if it is too large or has too many resources.
    """
    size, count = len(body_of(template).encode()), len(template["Resources"])
    if size > MAX_UPLOADED_BYTES or count > MAX_RESOURCES:
        raise ConfigurationError(
            f"stack {name}: expected a template of at most {MAX_UPLOADED_BYTES} bytes and {MAX_RESOURCES} resources, "
            f"found {size} bytes and {count} resources"
        )


def body_of(template: Template) -> str:
    """Return a template as it is sent: no blank is spent."""
    return json.dumps(template, separators=(",", ":"))


def _where(name: str, body: str, upload: Upload | None) -> dict[str, str]:
    if len(body.encode()) <= MAX_BODY_BYTES:
        return {"TemplateBody": body}
    if upload is None:
        raise ConfigurationError(
            f"stack {name}: a template of {len(body)} bytes is above the {MAX_BODY_BYTES} that CloudFormation takes at "
            "once, and there is no bucket to put it into"
        )
    return {"TemplateURL": upload(f"{name}.json", body)}


def _is_there(client: CloudFormationClient, name: str) -> bool:
    """Return whether a stack is there to be updated. One that never came to be is deleted first."""
    status = _settled_status(client, name)
    if status in _STILLBORN:
        log.warning("stillborn_stack_deleted", stack=name, status=status)
        with _refusals_told(name):
            client.delete_stack(StackName=name)
        for pause in _pauses(name):
            if _status(client, name) is None:
                break
            time.sleep(pause)
        return False
    return status is not None


def _settled_status(client: CloudFormationClient, name: str) -> str | None:
    """Return how a stack stands, once whoever else is at work on it is done; None if there is none."""
    for pause in _pauses(name):
        status = _status(client, name)
        if status is None or status in _STILLBORN or _is_at_rest(status):
            return status
        time.sleep(pause)
    raise AssertionError("unreachable: the pauses end with an error")


def _is_at_rest(status: str) -> bool:
    return not status.endswith("_IN_PROGRESS")


def _status(client: CloudFormationClient, name: str) -> str | None:
    try:
        with _refusals_told(name):
            stacks = client.describe_stacks(StackName=name)["Stacks"]
    except ConfigurationError as error:
        if "does not exist" in str(error):
            return None
        raise
    status = stacks[0]["StackStatus"] if stacks else None
    return None if status == "DELETE_COMPLETE" else status


def _events(client: CloudFormationClient, name: str) -> dict[str, StackEvent]:
    """Return all events of a stack by id, oldest first."""
    with _refusals_told(name):
        pages = client.get_paginator("describe_stack_events").paginate(StackName=name)
        events = [event for page in pages for event in page["StackEvents"]]
    return {
        event["EventId"]: StackEvent(
            name,
            event.get("LogicalResourceId", ""),
            event.get("ResourceType", ""),
            event.get("ResourceStatus", ""),
            event.get("ResourceStatusReason", ""),
        )
        for event in reversed(events)
    }


def _pauses(name: str) -> Iterator[float]:
    """Return pauses that grow, and end with an error."""
    pause, until = _FIRST_PAUSE_SECONDS, time.monotonic() + STACK_SECONDS
    while time.monotonic() < until:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    raise Unavailable(
        f"stack {name}: expected it to settle within {STACK_SECONDS / 60:.0f} minutes; CloudFormation is still at work "
        "on it, see its events"
    )


def resource_differences(deployed: Template, wanted: Template) -> list[Change]:
    """Return which resources two templates say differently, without asking anybody."""
    old, new = deployed.get("Resources", {}), wanted.get("Resources", {})
    changes = [Change("Remove", name, old[name]["Type"]) for name in old if name not in new]
    changes += [Change("Add", name, new[name]["Type"]) for name in new if name not in old]
    changes += [
        Change("Modify", name, new[name]["Type"]) for name in new if name in old and old[name] != new[name]
    ]
    return sorted(changes, key=lambda change: change.logical_id)


@contextmanager
def _refusals_told(name: str) -> Iterator[None]:
    """
    Tell what CloudFormation refuses in our words, with the stack's name.

    Raises:
        ConfigurationError: if it refuses.
        Unavailable: if it does not answer.
    """
    try:
        yield
    except ClientError as error:
        raise ConfigurationError(f"stack {name}: {error}") from error
    except BotoCoreError as error:
        raise Unavailable(f"CloudFormation: {error}") from error
