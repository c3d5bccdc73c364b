"""What `esclusa doctor` looks at in AWS: who one is there, buckets, queues, the catalog; each tried as the role may."""

import json
import secrets as random_names
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from cli.checks import Verdict
from cli.findings import (
    ADVICE,
    SKEW_WARNING,
    Finding,
    Patient,
    ok,
    skewed,
    skipped,
)
from infra.matrix import QUARANTINED, REJECTS
from infra.plan import OPERATOR, WORKER_QUEUES
from shared.celery_sqs.settings import WorkerSettings
from shared.domain.files import Area, quarantine_key, raw_key, rejects_key
from shared.errors import Unavailable
from shared.ports import QueueName


def _client(patient: Patient, service: str) -> Any:
    import boto3
    from botocore.config import Config

    seconds = max(1, int(patient.patience.total_seconds() / 2))
    config = Config(connect_timeout=seconds, read_timeout=seconds, retries={"total_max_attempts": 1})
    return boto3.session.Session().client(
        service,  # type: ignore[call-overload]
        region_name=patient.fleet.settings.region,
        config=config,
    )


def _answer(call: Callable[[], Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    """
    Return the code of an error, or nothing, and the answer.

    Raises:
        Unavailable: if nobody answered, or nobody knows who asks.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return "", call()
    except ClientError as error:
        return str(error.response["Error"]["Code"]), error.response
    except BotoCoreError as error:
        raise Unavailable(str(error)) from error


_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403", "Forbidden"})


def look_at_identity(patient: Patient) -> Finding:
    """Look as whom AWS knows this process, and at the clock it is signed with."""
    code, answer = _answer(_client(patient, "sts").get_caller_identity)
    if code:
        return Finding("identity", Verdict.FAILED, f"AWS refuses the credentials: {code}", ADVICE["identity"])
    skew = _skew_of(answer)
    arn = answer["Arn"]
    if skew is not None and abs(skew) > SKEW_WARNING:
        return skewed("identity", skew, whose="AWS")
    if patient.is_local:
        return ok("identity", f"{arn}, on the local server, which refuses nobody")
    if patient.role == OPERATOR:
        return ok("identity", arn)
    expected = f"{patient.fleet.settings.bucket_prefix}-{patient.role}"
    if f":assumed-role/{expected}/" not in arn:
        return Finding(
            "identity",
            Verdict.WARNING,
            f"{arn}; expected the role {expected}",
            "what follows tells what this identity may do, not what the role may",
        )
    return ok("identity", arn)


def _skew_of(answer: Mapping[str, Any]) -> timedelta | None:
    from email.utils import parsedate_to_datetime

    text = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    return datetime.now(UTC) - parsedate_to_datetime(text) if text else None


def look_at_bucket(patient: Patient, bucket: str) -> Finding:
    """Try what the role may do in a bucket, and look whether it may read more."""
    name = f"bucket {bucket}"
    if not any(action.startswith("s3:") for action in patient.lines):
        return skipped(name, "this role has nothing to do with buckets")
    client, refused, tried, more = _client(patient, "s3"), [], [], []
    code, _ = _answer(partial(client.list_objects_v2, Bucket=bucket, MaxKeys=1))
    if code:
        return Finding(name, Verdict.FAILED, f"s3:ListBucket: {code}", ADVICE["bucket"])
    for place, key in _trial_keys().items():
        may_read = place in patient.lines.get("s3:GetObject", ())
        # An object that there is not: 404 for those who may read it, 403 for others.
        code, _ = _answer(partial(client.head_object, Bucket=bucket, Key=key))
        if may_read and code in _DENIED:
            refused.append(f"s3:GetObject in {place}")
        elif not may_read and code not in _DENIED:
            more.append(place)
        tried += [f"read {place}"] if may_read else []
        if place in patient.lines.get("s3:PutObject", ()):
            tried.append(f"write {place}")
            refused += _tried_to_write(client, bucket, key, place=place)
    if refused:
        return Finding(name, Verdict.FAILED, f"refused: {', '.join(refused)}", ADVICE["bucket"])
    found = f"may {', '.join(tried)}; deletes are not tried" if tried else "may list it"
    if more and not patient.is_local:
        return Finding(
            name,
            Verdict.WARNING,
            f"{found}. It may read more than a {patient.role}: {', '.join(more)}",
            "give the process the role of its service",
        )
    return ok(name, found)


def _trial_keys() -> dict[str, str]:
    batch = f"b{random_names.token_hex(12)}"
    keys = {
        f"{area}/": f"{area}/esclusa-doctor/{batch}/a1/part-00000.csv"
        for area in Area
        if area is not Area.QUARANTINE
    }
    keys[f"{Area.TMP}/"] = raw_key(Area.TMP, table="esclusa-doctor", batch_id=batch, attempt=1, part=0)
    return keys | {
        REJECTS: rejects_key(table="esclusa-doctor", batch_id=batch, attempt=1),
        QUARANTINED: quarantine_key(keys[f"{Area.TMP}/"], sha256=random_names.token_hex(32)),
    }


def _tried_to_write(client: Any, bucket: str, key: str, *, place: str) -> list[str]:
    """Begin an upload and abort it: nobody sees an object, no event is sent, no version stays."""
    code, answer = _answer(partial(client.create_multipart_upload, Bucket=bucket, Key=key))
    if code:
        return [f"s3:PutObject in {place} ({code})"]
    code, _ = _answer(
        partial(client.abort_multipart_upload, Bucket=bucket, Key=key, UploadId=answer["UploadId"])
    )
    return [f"s3:AbortMultipartUpload in {place} ({code})"] if code else []


def look_at_queue(patient: Patient, queue: QueueName) -> Finding:
    """Look whether the role may serve a queue, and whether it is as the workers expect it."""
    name, settings = f"queue {queue}", patient.fleet.settings
    url = settings.queue_url(queue)
    client = _client(patient, "sqs")
    code, answer = _answer(
        partial(
            client.get_queue_attributes, QueueUrl=url, AttributeNames=["RedrivePolicy", "VisibilityTimeout"]
        )
    )
    if code:
        return Finding(name, Verdict.FAILED, f"sqs:GetQueueAttributes: {code}", ADVICE["queue"])
    # A receipt that nobody was given: those who may delete hear that it is none.
    code, _ = _answer(partial(client.delete_message, QueueUrl=url, ReceiptHandle="esclusa-doctor"))
    if code in _DENIED:
        return Finding(name, Verdict.FAILED, "sqs:DeleteMessage is refused", ADVICE["queue"])
    attributes = answer.get("Attributes", {})
    redrive = json.loads(attributes.get("RedrivePolicy", "{}"))
    most = int(redrive.get("maxReceiveCount", 0))
    if not redrive.get("deadLetterTargetArn"):
        return Finding(
            name,
            Verdict.FAILED,
            "it has no dead-letter queue: poison would go round for ever",
            ADVICE["queue"],
        )
    if most <= settings.max_attempts:
        return Finding(
            name,
            Verdict.FAILED,
            f"its messages die after {most} receives, and a batch has ESCLUSA_MAX_ATTEMPTS ({settings.max_attempts}) attempts",
            "raise ESCLUSA_INFRA_MAX_RECEIVE_COUNT and deploy, or lower ESCLUSA_MAX_ATTEMPTS",
        )
    wanted, found = WorkerSettings().visibility_timeout_seconds, int(attributes.get("VisibilityTimeout", 0))
    if patient.role in WORKER_QUEUES and found != wanted:
        return Finding(
            name,
            Verdict.WARNING,
            f"it hides messages for {found} seconds, this worker for {wanted}",
            "set ESCLUSA_VISIBILITY_TIMEOUT_SECONDS alike for `esclusa infra deploy` and for the workers",
        )
    return ok(name, f"dead letters after {most} receives; hidden for {found} seconds; sending is not tried")


def look_at_catalog(patient: Patient) -> Finding:
    """Ask Glue for a table that there is not."""
    database = f"{patient.fleet.settings.bucket_prefix.replace('-', '_')}_esclusa_doctor"
    code, _ = _answer(partial(_client(patient, "glue").get_table, DatabaseName=database, Name="none"))
    if code and code != "EntityNotFoundException":
        return Finding("catalog", Verdict.FAILED, f"glue:GetTable: {code}", ADVICE["catalog"])
    return ok("catalog", "Glue answers; writing is not tried")
