"""
Every message on the wire: how it is written, and how it is read as something that anybody may have sent.

Messages are hints. They carry ids only, as plain readable JSON: a task of a worker, a batch that a gate should
check, a batch or an object that the cleaner should look at, and what S3 tells of a new object.
Standard library only: the Lambdas read and write them too.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_plus

from shared.domain.files import Area, Location
from shared.errors import MalformedMessage

#: The attribute beside a body that says where it belongs in the trace of its batch. No part of the body: readers of
#: before there were traces take exactly the fields they know, and do not ask for attributes.
TRACE_ATTRIBUTE: Final = "traceparent"

#: The version of check and clean messages.
VERSION: Final = 1

#: Source: Amazon SQS Developer Guide, "Amazon SQS message quotas".
MAX_SQS_MESSAGE_BYTES: Final = 1024 * 1024
#: Source: Amazon S3 User Guide, "Naming Amazon S3 objects".
MAX_S3_KEY_BYTES: Final = 1024

#: The tasks of the workers. The names are a contract on the wire: workers register exactly these.
EXTRACT_TASK: Final = "esclusa.extract"
PROCESS_TASK: Final = "esclusa.process"
PUBLISH_TASK: Final = "esclusa.publish"
TASK_NAMES: Final = frozenset({EXTRACT_TASK, PROCESS_TASK, PUBLISH_TASK})

#: A task's body is nested JSON, not a string of JSON: people read it in the queue.
TASK_CONTENT_TYPE: Final = "application/x-plain-json"
TASK_CONTENT_ENCODING: Final = "binary"

_BATCH_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TASK_ID = re.compile(r"[A-Za-z0-9_.:-]{1,200}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEQUENCER = re.compile(r"[0-9A-Fa-f]{1,64}")


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A task that a worker should run for a batch."""

    #: One of `TASK_NAMES`.
    task: str
    #: The same each time the message is sent anew.
    task_id: str
    batch_id: str


@dataclass(frozen=True, slots=True)
class CheckBatch:
    """A gate should check the files of a batch in an area."""

    batch_id: str
    area: Area


@dataclass(frozen=True, slots=True)
class CleanBatch:
    """The cleaner should delete what a batch no longer needs."""

    batch_id: str


@dataclass(frozen=True, slots=True)
class SetObjectAside:
    """The cleaner should move one object that no batch wrote into quarantine."""

    location: Location


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """S3 says that an object appeared."""

    location: Location
    file_size_in_bytes: int
    #: Orders the events of one key; absent in some emulations of S3.
    sequencer: str | None


GateMessage: TypeAlias = CheckBatch | ObjectCreated
CleanMessage: TypeAlias = CleanBatch | SetObjectAside


# ---- writing -----------------------------------------------------------------------------------------------


def task_message(task: str, kwargs: Mapping[str, str], *, queue: str, task_id: str) -> str:
    """
    Return the body of a message that makes a Celery worker on `queue` run a task.

    The envelope is Celery's, protocol 2, reduced to what a worker needs.

    Raises:
        MalformedMessage: if no worker would take it: an unknown task, or arguments other than a `batch_id`.

    Source: Celery documentation, "Message Protocol"; kombu 5.7.0, `kombu.transport.virtual.base.Message`.
    """
    body = _written(
        {
            "headers": {"task": task, "id": task_id},
            "properties": {
                "correlation_id": task_id,
                "body_encoding": None,
                "delivery_info": {"exchange": "", "routing_key": str(queue)},
            },
            "content-type": TASK_CONTENT_TYPE,
            "content-encoding": TASK_CONTENT_ENCODING,
            "body": [[], dict(kwargs), {}],
        }
    )
    parse_task_message(body)
    return body


def gate_message(batch_id: str, area: Area) -> str:
    """Return the body of a message that makes the gate of `area` check a batch."""
    return _written({"version": VERSION, "kind": "check", "batch_id": batch_id, "area": str(area)})


def clean_message(batch_id: str) -> str:
    """Return the body of a message that makes the cleaner delete what a batch no longer needs."""
    return _written({"version": VERSION, "kind": "clean", "batch_id": batch_id})


def set_aside_message(location: Location) -> str:
    """Return the body of a message that makes the cleaner set an object aside."""
    return _written({"version": VERSION, "kind": "set-aside", "bucket": location.bucket, "key": location.key})


def _written(message: dict[str, Any]) -> str:
    return json.dumps(message, ensure_ascii=True, separators=(", ", ": "))


# ---- reading: everything below treats its input as hostile ---------------------------------------------------


def parse_task_message(body: str) -> TaskMessage:
    """
    Read a task from the body of a message.

    Closed on purpose: a field that `task_message` does not write (an `eta`, a `timelimit`, a callback) is
    refused, not ignored, for its sender expects something that will not happen.

    Raises:
        MalformedMessage: if it is not exactly as `task_message` writes it.
    """
    fields = _fields(
        _read_object(body),
        "message",
        required={"headers", "properties", "content-type", "content-encoding", "body"},
    )
    if fields["content-type"] != TASK_CONTENT_TYPE or fields["content-encoding"] != TASK_CONTENT_ENCODING:
        raise MalformedMessage(
            f"content-type and content-encoding should be {TASK_CONTENT_TYPE!r} and {TASK_CONTENT_ENCODING!r}, "
            f"found {_shown(fields['content-type'])} and {_shown(fields['content-encoding'])}"
        )
    headers = _fields(fields["headers"], "headers", required={"task", "id"})
    task = _text(headers["task"], "headers.task", max_length=100)
    if task not in TASK_NAMES:
        raise MalformedMessage(
            f"headers.task should be one of {', '.join(sorted(TASK_NAMES))}, found {_shown(task)}"
        )
    task_id = _matching(headers["id"], _TASK_ID, "headers.id")
    _check_properties(fields["properties"], task_id=task_id)
    return TaskMessage(task, task_id, _batch_id_of_task(fields["body"]))


def _batch_id_of_task(body: object) -> str:
    match body:
        case [[], dict() as kwargs, {**embed}] if not embed:
            return _batch_id(_fields(kwargs, "body[1]", required={"batch_id"})["batch_id"])
        case _:
            raise MalformedMessage(f'body should be [[], {{"batch_id": …}}, {{}}], found {_shown(body)}')


def _check_properties(value: object, *, task_id: str) -> None:
    properties = _fields(value, "properties", required={"correlation_id", "body_encoding", "delivery_info"})
    info = _fields(
        properties["delivery_info"], "properties.delivery_info", required={"exchange", "routing_key"}
    )
    # The routing key is not compared with the queue: a message may be moved there by hand.
    _text(info["routing_key"], "properties.delivery_info.routing_key", max_length=100)
    if (properties["correlation_id"], properties["body_encoding"], info["exchange"]) != (task_id, None, ""):
        raise MalformedMessage(
            f"properties should hold correlation_id {task_id!r}, body_encoding null and exchange '', "
            f"found {_shown(value)}"
        )


def parse_gate_message(body: str) -> list[GateMessage]:
    """
    Read what a gate is asked to look at: a batch, or the objects of an S3 event; nothing for S3's test event.

    Raises:
        MalformedMessage: if it is neither.
    """
    message = _read_object(body)
    if "kind" in message:
        fields = _fields(message, "message", required={"version", "kind", "batch_id", "area"})
        _check_head(fields, kind="check")
        return [CheckBatch(_batch_id(fields["batch_id"]), _area(fields["area"]))]
    return list(_objects_created(message))


def parse_clean_message(body: str) -> CleanMessage:
    """
    Read what the cleaner is asked to look at.

    Raises:
        MalformedMessage: if it is as neither `clean_message` nor `set_aside_message` writes it.
    """
    message = _read_object(body)
    if message.get("kind") == "set-aside":
        fields = _fields(message, "message", required={"version", "kind", "bucket", "key"})
        _check_head(fields, kind="set-aside")
        return SetObjectAside(Location(_bucket(fields["bucket"], "bucket"), _key(fields["key"], "key")))
    fields = _fields(message, "message", required={"version", "kind", "batch_id"})
    _check_head(fields, kind="clean")
    return CleanBatch(_batch_id(fields["batch_id"]))


def _objects_created(event: dict[str, Any]) -> list[ObjectCreated]:
    """
    Read the objects that an S3 event names; none for the test event sent when a notification is configured.

    Keys come form-encoded: a space is `+`, other characters are `%XX` of their UTF-8 bytes, and a slash is
    either `/` or `%2F`.

    Source: Amazon S3 User Guide, "Event message structure".
    """
    if event.get("Event") == "s3:TestEvent":
        return []
    records = event.get("Records")
    if not isinstance(records, list) or not records:
        raise MalformedMessage(f"Records should be a list of events, found {_shown(records)}")
    return [_object_created(record, f"Records[{index}]") for index, record in enumerate(records)]


def _object_created(record: object, where: str) -> ObjectCreated:
    # S3 adds fields to its events from time to time: those we do not read are left alone.
    fields = _object(record, where)
    name = _text(fields.get("eventName"), f"{where}.eventName", max_length=100)
    if fields.get("eventSource") != "aws:s3" or not name.startswith("ObjectCreated:"):
        raise MalformedMessage(
            f"{where} should be an ObjectCreated event of aws:s3, "
            f"found {_shown(name)} of {_shown(fields.get('eventSource'))}"
        )
    s3 = _object(fields.get("s3"), f"{where}.s3")
    bucket = _object(s3.get("bucket"), f"{where}.s3.bucket")
    created = _object(s3.get("object"), f"{where}.s3.object")
    return ObjectCreated(
        Location(
            _bucket(bucket.get("name"), f"{where}.s3.bucket.name"),
            _key(_unquoted(created.get("key"), f"{where}.s3.object.key"), f"{where}.s3.object.key"),
        ),
        _byte_count(created.get("size"), f"{where}.s3.object.size"),
        _sequencer(created.get("sequencer"), f"{where}.s3.object.sequencer"),
    )


# ---- reading single values -----------------------------------------------------------------------------------


def _read_object(body: str) -> dict[str, Any]:
    if len(body.encode("utf-8", "surrogatepass")) > MAX_SQS_MESSAGE_BYTES:
        raise MalformedMessage(f"a message should have at most {MAX_SQS_MESSAGE_BYTES} bytes, found more")
    try:
        message = json.loads(body, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    # RecursionError: thousands of opening brackets. ValueError: no JSON, or a number of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"a message should be a JSON object, found {len(body)} characters") from error
    return _object(message, "message")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return fields


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedMessage(f"{where} should be an object, found {_shown(value)}")
    return value


def _fields(value: object, where: str, *, required: set[str]) -> dict[str, Any]:
    fields = _object(value, where)
    if set(fields) != required:
        raise MalformedMessage(
            f"{where} should be an object with the fields {', '.join(sorted(required))}, found {_shown(fields)}"
        )
    return fields


def _check_head(fields: dict[str, Any], *, kind: str) -> None:
    # `True == 1` in Python, so the type is asked for too.
    if type(fields["version"]) is not int or fields["version"] != VERSION or fields["kind"] != kind:
        raise MalformedMessage(
            f"version and kind should be {VERSION} and {kind!r}, "
            f"found {_shown(fields['version'])} and {_shown(fields['kind'])}"
        )


def _text(value: object, where: str, *, max_length: int) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= max_length:
        raise MalformedMessage(
            f"{where} should be text of 1 to {max_length} characters, found {_shown(value)}"
        )
    return value


def _matching(value: object, pattern: re.Pattern[str], where: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise MalformedMessage(f"{where} should match {pattern.pattern}, found {_shown(value)}")
    return value


def _batch_id(value: object) -> str:
    return _matching(value, _BATCH_ID, "batch_id")


def _bucket(value: object, where: str) -> str:
    return _matching(value, _BUCKET, where)


def _sequencer(value: object, where: str) -> str | None:
    return None if value is None else _matching(value, _SEQUENCER, where)


def _area(value: object) -> Area:
    if not isinstance(value, str) or value not in list(Area):
        raise MalformedMessage(f"area should be one of {', '.join(Area)}, found {_shown(value)}")
    return Area(value)


def _byte_count(value: object, where: str) -> int:
    if type(value) is not int or value < 0:
        raise MalformedMessage(f"{where} should be a count of bytes, found {_shown(value)}")
    return value


def _unquoted(value: object, where: str) -> str:
    # Three characters stand for one byte at most.
    quoted = _text(value, where, max_length=3 * MAX_S3_KEY_BYTES)
    try:
        return unquote_plus(quoted, errors="strict")
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"{where} should be form-encoded UTF-8, found {_shown(quoted)}") from error


def _key(value: object, where: str) -> str:
    key = _text(value, where, max_length=MAX_S3_KEY_BYTES)
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:  # half of a surrogate pair, written as \ud800
        raise MalformedMessage(f"{where} should be Unicode text, found {_shown(key)}") from error
    if size > MAX_S3_KEY_BYTES:
        raise MalformedMessage(f"{where} should have at most {MAX_S3_KEY_BYTES} bytes, found {size}")
    return key


def _shown(value: object) -> str:
    """Return enough of a value to recognise it, bounded and in one line. It may be anything: no more than that."""
    if isinstance(value, str):
        return ascii(value if len(value) <= 40 else f"{value[:40]}…")
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return (
            f"an object with the fields {', '.join(_shown(name) for name in sorted(value)[:10]) or '(none)'}"
        )
    return ascii(value)[:40]
