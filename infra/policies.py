"""Least privilege: what each Lambda and each worker may do, and nothing else."""

from collections.abc import Iterable, Sequence
from typing import Any

from infra.names import dead_letter_queue_name, function_name, queue_name
from shared.domain.contracts import Origin
from shared.domain.files import NEXT_AREA, TRANSIENT_AREAS, Area
from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName

Statement = dict[str, Any]

_AREA_OF_GATE = {str(queue): area for area, queue in GATE_QUEUES.items()}


def function_statements(prefix: str, function: str, ledger_dsn: str) -> list[Statement]:
    """Return what a Lambda may do."""
    own = [_logs(prefix, function), *_secrets([ledger_dsn]), _send(prefix)]
    if function in _AREA_OF_GATE:
        area = _AREA_OF_GATE[function]
        return [*own, _consume(prefix, GATE_QUEUES[area]), *_gate(prefix, area)]
    if function == "cleaner":
        return [
            *own,
            _consume(prefix, QueueName.CLEAN),
            _list(prefix),
            _objects("Read", prefix, ["s3:GetObject"], [*TRANSIENT_AREAS, Area.FINAL, Area.QUARANTINE]),
            _objects("SetAside", prefix, ["s3:PutObject"], [Area.QUARANTINE]),
            # Also what was set aside: somebody may give it up.
            _objects("Delete", prefix, ["s3:DeleteObject"], [*TRANSIENT_AREAS, Area.FINAL, Area.QUARANTINE]),
        ]
    uploads = ["s3:AbortMultipartUpload"]
    return [
        *own,
        _list(prefix, actions=["s3:ListBucket", "s3:ListBucketMultipartUploads"]),
        _objects("DeleteStrays", prefix, ["s3:DeleteObject"], [*TRANSIENT_AREAS, Area.FINAL]),
        _delete_rejects(prefix),
        _keep_evidence(prefix),
        _objects("AbortUploads", prefix, uploads, [*TRANSIENT_AREAS, Area.FINAL, Area.QUARANTINE]),
    ]


def watcher_statements(
    prefix: str, function: str, references: Iterable[str], *, topic_arn: str | None
) -> list[Statement]:
    """Return what the watcher may do: look at every queue, touch nothing, and tell one topic at most."""
    statements = [_logs(prefix, function), *_secrets(references), _look_into_queues(prefix)]
    if topic_arn is not None:
        statements.append(
            {"Sid": "Tell", "Effect": "Allow", "Action": ["sns:Publish"], "Resource": [topic_arn]}
        )
    return statements


def worker_statements(
    prefix: str,
    worker: str,
    queues: Sequence[QueueName],
    *,
    ledger_dsn: str,
    warehouse_dsn: str,
    origins: Sequence[Origin],
) -> list[Statement]:
    """Return what a worker may do. `origins`: of every source, for the extractor reads their secrets."""
    references = [ledger_dsn]
    if worker == "extractor":
        for origin in origins:
            references += [*origin.mask_keys.values(), *origin.connection.values()]
    elif worker == "publisher":
        references.append(warehouse_dsn)
    own = [*_secrets(references), _send(prefix), _consume(prefix, *queues)]
    write = ["s3:PutObject", "s3:AbortMultipartUpload"]
    match worker:
        case "extractor":
            return [
                *own,
                _list(prefix),
                _objects("Write", prefix, [*write, "s3:GetObject"], [Area.TMP]),
            ]
        case "processor":
            return [
                *own,
                _list(prefix),
                _objects("Read", prefix, ["s3:GetObject"], [Area.PROCESSING]),
                _objects("Write", prefix, [*write, "s3:GetObject"], [Area.FINAL, Area.QUARANTINE]),
            ]
        case _:
            return [
                *own,
                _list(prefix),
                _objects("Read", prefix, ["s3:GetObject"], [Area.FINAL]),
                _catalog(prefix),
            ]


def _gate(prefix: str, area: Area) -> list[Statement]:
    next_area = NEXT_AREA.get(area)
    areas = [area] if next_area is None else [area, next_area]
    statements = [_list(prefix), _objects("Read", prefix, ["s3:GetObject"], areas)]
    if next_area is not None:
        # Not into its own area: a gate can never call itself.
        statements.append(_objects("LetOn", prefix, ["s3:PutObject"], [next_area]))
    return statements


def _objects(sid: str, prefix: str, actions: Sequence[str], areas: Iterable[Area]) -> Statement:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [{"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{prefix}-*/{area}/*"} for area in areas],
        "Condition": {"StringEquals": {"s3:ResourceAccount": {"Ref": "AWS::AccountId"}}},
    }


def _delete_rejects(prefix: str) -> Statement:
    """Allow to delete what a processor that died wrote to `quarantine/`; what a gate refused is evidence."""
    return {
        "Sid": "DeleteRejects",
        "Effect": "Allow",
        "Action": ["s3:DeleteObject"],
        "Resource": [
            {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{prefix}-*/{Area.QUARANTINE}/*/rejects-?????.csv"}
        ],
        "Condition": {"StringEquals": {"s3:ResourceAccount": {"Ref": "AWS::AccountId"}}},
    }


def _keep_evidence(prefix: str) -> Statement:
    """
    Deny to delete what was set aside.

    In a policy `*` spans slashes: `esclusa-*/tmp/*` is also `esclusa-shop/quarantine/tmp/x.csv@0cc1…`.
    Source: IAM User Guide, "IAM JSON policy elements: Resource", wildcards.
    """
    return {
        "Sid": "KeepEvidence",
        "Effect": "Deny",
        "Action": ["s3:DeleteObject"],
        "Resource": [{"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{prefix}-*/{Area.QUARANTINE}/*@{'?' * 16}"}],
    }


def _list(prefix: str, *, actions: Sequence[str] = ("s3:ListBucket",)) -> Statement:
    """
    Allow to ask what a bucket holds.

    Without it S3 answers 403 instead of 404 for an object that is not there. It is not narrowed to areas by
    `s3:prefix`: a request for one object has no prefix, so S3 would answer 403 again.
    Source: Amazon S3 API Reference, "HeadObject", permissions.
    """
    return {
        "Sid": "List",
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [{"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{prefix}-*"}],
        "Condition": {"StringEquals": {"s3:ResourceAccount": {"Ref": "AWS::AccountId"}}},
    }


def _queue_arn(prefix: str, queue: QueueName) -> Statement:
    name = queue_name(prefix, queue)
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{name}"}


def _consume(prefix: str, *queues: QueueName) -> Statement:
    return {
        "Sid": "Consume",
        "Effect": "Allow",
        "Action": [
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:ChangeMessageVisibility",
            "sqs:GetQueueAttributes",
        ],
        "Resource": [_queue_arn(prefix, queue) for queue in queues],
    }


def _look_into_queues(prefix: str) -> Statement:
    """Allow to count messages, and to find the queue that another one's redrive policy names."""
    names = [name(prefix, queue) for queue in QueueName for name in (queue_name, dead_letter_queue_name)]
    arn = "arn:${AWS::Partition}:sqs:${AWS::Region}:${AWS::AccountId}:"
    return {
        "Sid": "Look",
        "Effect": "Allow",
        "Action": ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"],
        "Resource": [{"Fn::Sub": arn + name} for name in names],
    }


def _send(prefix: str) -> Statement:
    # Whoever commits empties the outbox, whatever queue its messages are for.
    return {
        "Sid": "SendOutbox",
        "Effect": "Allow",
        "Action": ["sqs:SendMessage"],
        "Resource": [_queue_arn(prefix, queue) for queue in QueueName],
    }


def _secrets(references: Iterable[str]) -> list[Statement]:
    """Allow exactly the secrets that references name."""
    secrets: set[str] = set()
    parameters: set[str] = set()
    for reference in references:
        scheme, _, rest = reference.partition(":")
        if scheme == "secretsmanager":
            secrets.add(rest.partition("#")[0])
        elif scheme == "ssm":
            parameters.add(rest.lstrip("/"))
    arn = "arn:${AWS::Partition}:%s:${AWS::Region}:${AWS::AccountId}:%s"
    statements = []
    if secrets:
        # Secrets Manager ends each ARN with a dash and six random characters.
        resources = [
            {"Fn::Sub": arn % ("secretsmanager", f"secret:{name}-??????")} for name in sorted(secrets)
        ]
        statements.append(
            {
                "Sid": "ReadSecrets",
                "Effect": "Allow",
                "Action": ["secretsmanager:GetSecretValue"],
                "Resource": resources,
            }
        )
    if parameters:
        resources = [{"Fn::Sub": arn % ("ssm", f"parameter/{name}")} for name in sorted(parameters)]
        statements.append(
            {
                "Sid": "ReadParameters",
                "Effect": "Allow",
                "Action": ["ssm:GetParameter"],
                "Resource": resources,
            }
        )
    return statements


def _logs(prefix: str, function: str) -> Statement:
    group = f"/aws/lambda/{function_name(prefix, function)}"
    return {
        "Sid": "Log",
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": [
            {
                "Fn::Sub": f"arn:${{AWS::Partition}}:logs:${{AWS::Region}}:${{AWS::AccountId}}:log-group:{group}:*"
            }
        ],
    }


def _catalog(prefix: str) -> Statement:
    database = prefix.replace("-", "_") + "_*"
    arn = "arn:${AWS::Partition}:glue:${AWS::Region}:${AWS::AccountId}:"
    return {
        "Sid": "RegisterTables",
        "Effect": "Allow",
        "Action": [
            "glue:CreateDatabase",
            "glue:GetTable",
            "glue:CreateTable",
            "glue:UpdateTable",
            "glue:GetPartition",
            "glue:BatchCreatePartition",
            "glue:BatchUpdatePartition",
        ],
        "Resource": [
            {"Fn::Sub": arn + "catalog"},
            {"Fn::Sub": f"{arn}database/{database}"},
            {"Fn::Sub": f"{arn}table/{database}/*"},
        ],
    }
