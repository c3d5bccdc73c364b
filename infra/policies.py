"""
Least privilege: what each Lambda and each service may do, and nothing else.

`infra.matrix` says the same as a table, line by line; the tests hold both against each other. What everybody may who
commits to the ledger, sending what the outbox holds, is a managed policy of its own, as are the secrets of sources.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infra.names import (
    dead_letter_queue_name,
    failed_calls_queue_name,
    function_name,
    queue_name,
)
from infra.plan import (
    EXPORTER,
    FUNCTION_QUEUES,
    PLANNER,
    SCHEDULES,
    SWEEPER,
    UPKEEP,
    WATCHER,
    WORKER_QUEUES,
    PackagedCode,
    Plan,
    RedshiftTarget,
)
from shared.domain.files import NEXT_AREA, TRANSIENT_AREAS, Area
from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName
from shared.secrets.reference import SecretScheme, parse_reference

Statement = dict[str, Any]

_AREA_OF_GATE = {str(queue): area for area, queue in GATE_QUEUES.items()}

#: Places within a bucket, as patterns of keys. `quarantine/` has two: the processor's lists of rejected rows, and what
#: a gate refused, which keeps its old key and ends with its checksum (`shared.domain.files.quarantine_key`).
REJECTS = f"{Area.QUARANTINE}/*/rejects-?????.csv"
EVIDENCE = f"{Area.QUARANTINE}/*@{'?' * 16}"
_AREAS = {area: f"{area}/*" for area in (*TRANSIENT_AREAS, Area.FINAL)}
_PLACES = (*_AREAS.values(), REJECTS, EVIDENCE)

#: What a publisher lays down for Redshift to fetch (`shared.domain.files.copy_key`).
COPY_FILES = (f"{Area.TMP}/*/m*/files-?????.manifest", f"{Area.TMP}/*/m*/rows-?????.parquet")

_WRITE = ("s3:PutObject", "s3:AbortMultipartUpload")
_DECRYPT = ("kms:Decrypt",)
_ENCRYPT = ("kms:Decrypt", "kms:GenerateDataKey")


def function_statements(plan: Plan, function: str, *, key: Any) -> list[Statement]:
    """Return what a Lambda may do, beside sending what the outbox holds. `key`: the ARN of the buckets' key."""
    prefix = plan.prefix
    references = plan.ledger_references
    if function == WATCHER:
        references += [text for text in (plan.alarm_webhook_url, plan.alarm_webhook_key) if text]
    own = [_logs(prefix, function), *secret_statements(references)]
    if plan.network is not None:
        own.append(_network_interfaces())
    if function in FUNCTION_QUEUES:
        own.append(_consume(prefix, FUNCTION_QUEUES[function]))
    if function in SCHEDULES:
        own.append(_record_failed_calls(prefix))
    if function in _AREA_OF_GATE:
        area = _AREA_OF_GATE[function]
        return [*own, *_gate(prefix, area), _use_key(key, _ENCRYPT if area in NEXT_AREA else _DECRYPT)]
    match function:
        case "cleaner":
            return [
                *own,
                _list(prefix),
                # Deletes also what was set aside: somebody may give it up.
                *_objects(prefix, _PLACES, "s3:GetObject", "s3:DeleteObject"),
                *_objects(prefix, [EVIDENCE], "s3:PutObject"),
                _use_key(key, _ENCRYPT),
            ]
        case _ if function == SWEEPER:
            return [
                *own,
                _list(prefix, actions=["s3:ListBucket", "s3:ListBucketMultipartUploads"]),
                *_objects(prefix, [*_AREAS.values(), REJECTS], "s3:DeleteObject", "s3:AbortMultipartUpload"),
            ]
        case _:
            tell = [_tell(plan.alarm_topic_arn)] if plan.alarm_topic_arn else []
            return [*own, _look_into_queues(prefix), *tell]


def service_statements(plan: Plan, role: str, *, key: Any) -> list[Statement]:
    """Return what a service may do, beside sending what the outbox holds and reading secrets of sources."""
    prefix = plan.prefix
    own = secret_statements(plan.ledger_references)
    if role in WORKER_QUEUES:
        own.append(_consume(prefix, *WORKER_QUEUES[role]))
    match role:
        case "extractor":
            return [
                *own,
                _list(prefix),
                *_objects(prefix, [_AREAS[Area.TMP]], *_WRITE, "s3:GetObject"),
                _use_key(key, _ENCRYPT),
            ]
        case "processor":
            return [
                *own,
                _list(prefix),
                *_objects(prefix, [_AREAS[Area.PROCESSING], _AREAS[Area.FINAL], REJECTS], "s3:GetObject"),
                *_objects(prefix, [_AREAS[Area.FINAL], REJECTS], *_WRITE),
                _use_key(key, _ENCRYPT),
            ]
        case _ if role == PLANNER:
            return own
        case _ if role == EXPORTER:
            return [*own, _look_into_queues(prefix)]
        case "publisher":
            return [*_warehouse(plan), *own, *_publishing(plan, key=key)]
        case _ if role == UPKEEP:
            # A rollback loads batches anew.
            for_copy = COPY_FILES if plan.redshift is not None else ()
            return [
                *_warehouse(plan),
                *own,
                _list(prefix),
                *_objects(prefix, [_AREAS[Area.FINAL], *for_copy], *_WRITE, "s3:GetObject"),
                _use_key(key, _ENCRYPT),
                _catalog(prefix),
            ]
        case _:
            return [
                *_warehouse(plan, writes=False),
                *own,
                _list(prefix),
                *_objects(prefix, [_AREAS[Area.FINAL]], "s3:GetObject"),
                _use_key(key, _DECRYPT),
            ]


def _publishing(plan: Plan, *, key: Any) -> list[Statement]:
    prefix, final = plan.prefix, _AREAS[Area.FINAL]
    if plan.redshift is None:
        objects = [*_objects(prefix, [final], "s3:GetObject"), _use_key(key, _DECRYPT)]
    else:
        objects = [
            *_objects(prefix, [final, *COPY_FILES], "s3:GetObject"),
            *_objects(prefix, COPY_FILES, "s3:PutObject"),
            _use_key(key, _ENCRYPT),
        ]
    return [_list(prefix), *objects, _catalog(prefix)]


def outbox_statements(prefix: str) -> list[Statement]:
    """Allow to send to every queue: whoever commits empties the outbox, whatever queue its messages are for."""
    return [
        {
            "Sid": "SendOutbox",
            "Effect": "Allow",
            "Action": ["sqs:SendMessage"],
            "Resource": [_queue_arn(queue_name(prefix, queue)) for queue in QueueName],
        }
    ]


def operator_statements(plan: Plan, *, key: Any) -> list[Statement]:
    """Return what people may do whose command looks into queues, puts them in order, and looks at what is held."""
    prefix = plan.prefix
    look = _look_into_queues(prefix)
    handle = ["sqs:ReceiveMessage", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:PurgeQueue"]
    return [
        *secret_statements(plan.ledger_references),
        *outbox_statements(prefix),
        {**look, "Sid": "PutQueuesInOrder", "Action": [*look["Action"], *handle]},
        _list(prefix),
        *_objects(prefix, [REJECTS, EVIDENCE], "s3:GetObject"),
        _use_key(key, _DECRYPT),
        # It knows no resources. Source: Service Authorization Reference, "Amazon CloudWatch".
        _of_no_resource("Ages", ["cloudwatch:GetMetricData"]),
    ]


def host_statements(plan: Plan, role_arns: Sequence[Any]) -> list[Statement]:
    """
    Return what an instance may do itself: take the roles of what it runs, fetch images and source files, let people in.

    Not the managed policy of AWS for sessions: that one reads every parameter of the account.
    Source: AWS Systems Manager User Guide, "Add Session Manager permissions to an existing IAM role".
    """
    repository = "arn:${AWS::Partition}:ecr:${AWS::Region}:${AWS::AccountId}:repository/esclusa-*"
    return [
        *(_source_files(plan.code) if isinstance(plan.code, PackagedCode) else ()),
        {
            "Sid": "TakeServiceRoles",
            "Effect": "Allow",
            "Action": ["sts:AssumeRole"],
            "Resource": list(role_arns),
        },
        {
            "Sid": "PullImages",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": [{"Fn::Sub": repository}],
        },
        _of_no_resource(
            "SignInToImagesAndSessions",
            [
                "ecr:GetAuthorizationToken",
                "ssm:UpdateInstanceInformation",
                "ssmmessages:CreateControlChannel",
                "ssmmessages:CreateDataChannel",
                "ssmmessages:OpenControlChannel",
                "ssmmessages:OpenDataChannel",
            ],
        ),
    ]


def _source_files(code: PackagedCode) -> list[Statement]:
    bucket = f"arn:${{AWS::Partition}}:s3:::{code.bucket}"
    return [
        {
            "Sid": "FetchSourceFiles",
            "Effect": "Allow",
            "Action": ["s3:GetObject"],
            "Resource": [{"Fn::Sub": f"{bucket}/sources/*"}],
        },
        {
            "Sid": "ListSourceFiles",
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [{"Fn::Sub": bucket}],
            "Condition": {"StringLike": {"s3:prefix": "sources/*"}},
        },
    ]


# ---- secrets -------------------------------------------------------------------------------------------------

#: Scheme → action, service and kind of an ARN. Secrets Manager ends each ARN with a dash and six random characters.
_KEPT_IN_AWS: Mapping[SecretScheme, tuple[str, str, str, str, str]] = {
    SecretScheme.SECRETS_MANAGER: (
        *("ReadSecrets", "secretsmanager:GetSecretValue", "secretsmanager"),
        *("secret:{}-??????", "secret:{}*"),
    ),
    SecretScheme.SSM: ("ReadParameters", "ssm:GetParameter", "ssm", "parameter/{}", "parameter/{}*"),
}


def secret_statements(references: Iterable[str], *, folder: str | None = None) -> list[Statement]:
    """
    Allow the secrets that references name, by name; those whose names begin with `folder` by one line for all.

    References to the environment or to a file need no permission.
    """
    resources: dict[SecretScheme, set[str]] = {}
    for text in references:
        reference = parse_reference(text)
        if reference.scheme in _KEPT_IN_AWS:
            resources.setdefault(reference.scheme, set()).add(
                _resource_of(reference.scheme, reference.name, folder)
            )
    statements = []
    for scheme in sorted(resources):
        sid, action, service = _KEPT_IN_AWS[scheme][:3]
        arn = f"arn:${{AWS::Partition}}:{service}:${{AWS::Region}}:${{AWS::AccountId}}:"
        statements.append(
            {
                "Sid": sid,
                "Effect": "Allow",
                "Action": [action],
                "Resource": [{"Fn::Sub": arn + name} for name in sorted(resources[scheme])],
            }
        )
    return statements


def _resource_of(scheme: SecretScheme, name: str, folder: str | None) -> str:
    one, all_of_folder = _KEPT_IN_AWS[scheme][3:]
    plain = name.lstrip("/") if scheme is SecretScheme.SSM else name
    if folder is not None and plain.startswith(folder):
        return all_of_folder.format(folder)
    return one.format(plain)


# ---- objects -------------------------------------------------------------------------------------------------


def _gate(prefix: str, area: Area) -> list[Statement]:
    next_area = NEXT_AREA.get(area)
    if next_area is None:
        return [_list(prefix), *_objects(prefix, [_AREAS[area]], "s3:GetObject")]
    return [
        _list(prefix),
        *_objects(prefix, [_AREAS[area], _AREAS[next_area]], "s3:GetObject"),
        # Not into its own area: a gate can never call itself.
        *_objects(prefix, [_AREAS[next_area]], "s3:PutObject"),
    ]


_OWN_ACCOUNT: Statement = {"StringEquals": {"s3:ResourceAccount": {"Ref": "AWS::AccountId"}}}


def _objects(prefix: str, places: Sequence[str], *actions: str) -> list[Statement]:
    """
    Allow actions on objects in some places of our buckets, and deny them in the others.

    In a policy `*` spans slashes: `esclusa-*/tmp/*` is also `esclusa-shop/final/tmp/x`. No key of ours has a folder
    named as an area (`shared.domain.files.key_segment`), but those of what was set aside: who may touch these
    is denied nothing.
    Source: IAM User Guide, "IAM JSON policy elements: Resource", wildcards.
    """
    name = "".join(action.partition(":")[2].removesuffix("Object") for action in actions)
    allow: Statement = {
        "Sid": name,
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [_objects_arn(prefix, place) for place in places],
        "Condition": _OWN_ACCOUNT,
    }
    others = [] if EVIDENCE in places else _other_places(places)
    deny: Statement = {
        "Sid": f"{name}NowhereElse",
        "Effect": "Deny",
        "Action": list(actions),
        "Resource": [_objects_arn(prefix, place) for place in others],
    }
    return [allow, deny] if others else [allow]


def _other_places(places: Sequence[str]) -> list[str]:
    inner = {_AREAS[Area.TMP]} if set(COPY_FILES).issubset(places) else set()
    others = [place for place in _AREAS.values() if place not in {*places, *inner}]
    if REJECTS not in places:
        return [*others, f"{Area.QUARANTINE}/*"]
    return [*others, EVIDENCE, *(f"{Area.QUARANTINE}/{place}" for place in _AREAS.values())]


def _objects_arn(prefix: str, place: str) -> Statement:
    return {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{prefix}-*/{place}"}


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
        "Condition": _OWN_ACCOUNT,
    }


def _use_key(key: Any, actions: Sequence[str]) -> Statement:
    """
    Allow the key of the buckets, through S3 only. Parts of an upload are decrypted, too.

    Source: Amazon S3 User Guide, "Using server-side encryption with AWS KMS keys", permissions.
    """
    return {
        "Sid": "UseKey",
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [key],
        "Condition": {"StringEquals": {"kms:ViaService": {"Fn::Sub": "s3.${AWS::Region}.${AWS::URLSuffix}"}}},
    }


# ---- queues --------------------------------------------------------------------------------------------------


def _queue_arn(name: str) -> Statement:
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
        "Resource": [_queue_arn(queue_name(prefix, queue)) for queue in queues],
    }


def _look_into_queues(prefix: str) -> Statement:
    """Allow to count messages, and to find the queue that another one's redrive policy names."""
    names = [name(prefix, queue) for queue in QueueName for name in (queue_name, dead_letter_queue_name)]
    return {
        "Sid": "Look",
        "Effect": "Allow",
        "Action": ["sqs:GetQueueAttributes", "sqs:GetQueueUrl"],
        "Resource": [_queue_arn(name) for name in names],
    }


def _record_failed_calls(prefix: str) -> Statement:
    return {
        "Sid": "RecordFailedCalls",
        "Effect": "Allow",
        "Action": ["sqs:SendMessage"],
        "Resource": [_queue_arn(failed_calls_queue_name(prefix))],
    }


# ---- the rest ------------------------------------------------------------------------------------------------


def _tell(topic_arn: str) -> Statement:
    return {"Sid": "Tell", "Effect": "Allow", "Action": ["sns:Publish"], "Resource": [topic_arn]}


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


def _of_no_resource(sid: str, actions: Sequence[str], condition: Statement | None = None) -> Statement:
    statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions), "Resource": ["*"]}
    return statement | ({"Condition": condition} if condition else {})


def _network_interfaces() -> Statement:
    """
    Allow what Lambda does to stand in a network.

    Interfaces have no name of ours, and describing them knows no resources.
    Source: AWS Lambda Developer Guide, "Giving Lambda functions access to resources in an Amazon VPC", permissions.
    """
    return _of_no_resource(
        "StandInNetwork",
        [
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        ],
    )


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


def _warehouse(plan: Plan, *, writes: bool = True) -> list[Statement]:
    """Allow what the warehouse is reached with: the secret of its DSN, or the Data API."""
    if plan.redshift is not None:
        return _redshift(plan.redshift, writes=writes)
    return [
        {**statement, "Sid": f"Warehouse{statement['Sid']}"}
        for statement in secret_statements([plan.warehouse_dsn])
    ]


def _redshift(target: RedshiftTarget, *, writes: bool) -> list[Statement]:
    """
    Allow statements to one warehouse, and to ask after one's own. What they may do is for its own grants to say.

    Asking after a statement knows no resources, only who made it.
    Source: Service Authorization Reference, "Amazon Redshift Data API", "Amazon Redshift", "Amazon Redshift Serverless".
    """
    execute = ["redshift-data:ExecuteStatement", *(["redshift-data:BatchExecuteStatement"] if writes else [])]
    sign_in, at = _sign_in(target)
    return [
        {"Sid": "SendStatements", "Effect": "Allow", "Action": execute, "Resource": [target.arn]},
        {"Sid": "SignIn", "Effect": "Allow", "Action": [sign_in], "Resource": at},
        _of_no_resource(
            "AskAfterOwnStatements",
            [
                "redshift-data:DescribeStatement",
                "redshift-data:GetStatementResult",
                "redshift-data:CancelStatement",
            ],
            {"StringEquals": {"redshift-data:statement-owner-iam-userid": "${aws:userid}"}},
        ),
    ]


def _sign_in(target: RedshiftTarget) -> tuple[str, list[str]]:
    """Return the action by which the Data API signs in, and on what."""
    if target.secret_arn:
        return "secretsmanager:GetSecretValue", [target.secret_arn]
    if target.is_serverless:
        return "redshift-serverless:GetCredentials", [target.arn]
    database = f"{target.arn.replace(':cluster:', ':dbname:')}/{target.database}"
    if target.db_user:
        user = f"{target.arn.replace(':cluster:', ':dbuser:')}/{target.db_user}"
        return "redshift:GetClusterCredentials", [database, user]
    return "redshift:GetClusterCredentialsWithIAM", [database]
