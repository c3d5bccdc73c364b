"""
What each role may do, line by line: the table in docs/security.md, and what the tests try, both ways.

A line names a role, an action and resources. What no line names is denied, and is tried as well: every action that any
line names, and those of `NEVER`, on every resource of its kind. The policies are written elsewhere (`infra.policies`,
`infra.roles`) and by other means, with patterns for resources; so the two can contradict each other, and a test tells.

`python -m infra.matrix --write` writes the table into the page.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from infra.plan import SERVICE_ROLES
from shared.domain.files import Area
from shared.ports import QueueName

PAGE: Final = Path(__file__).resolve().parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"

# ---- resources, by kind --------------------------------------------------------------------------------------

QUARANTINED, REJECTS = "what a gate refused", "lists of rejected rows"
#: It lies in `tmp/`, so that whoever may touch that may touch it.
FOR_COPY = "files for COPY"

#: In the bucket of a source. `quarantine/` holds two things, and a publisher to Redshift lays down a third in `tmp/`.
OBJECTS: Final = (
    *(f"{area}/" for area in Area if area is not Area.QUARANTINE),
    *(QUARANTINED, REJECTS, FOR_COPY),
)
OF_ANOTHER_BUCKET = "objects of another bucket"
QUEUES: Final = tuple(str(queue) for queue in QueueName)
DEAD_LETTERS: Final = tuple(f"{queue}-dlq" for queue in QueueName)
FAILED_CALLS = "failed-calls"
LEDGER, CERTIFICATES, WAREHOUSE, CONNECTIONS, MASK_KEYS, WEBHOOK, OTHER_SECRET = (
    *(
        "ledger",
        "certificates",
        "warehouse",
        "connections of sources",
        "mask keys",
        "alarm webhook",
        "any other secret",
    ),
)
OUR_TABLES, OTHER_TABLES = "tables of our databases", "tables of other databases"

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "object": (*OBJECTS, OF_ANOTHER_BUCKET),
    "bucket": ("our buckets", "another bucket"),
    "queue": (*QUEUES, *DEAD_LETTERS, FAILED_CALLS, "another queue"),
    "secret": (LEDGER, CERTIFICATES, WAREHOUSE, CONNECTIONS, MASK_KEYS, WEBHOOK, OTHER_SECRET),
    "table": (OUR_TABLES, OTHER_TABLES),
    "key": ("the key of the buckets", "another key"),
    "topic": ("the topic of alarms", "another topic"),
    "role": (*(f"role of {role}" for role in SERVICE_ROLES), "another role"),
    "log": ("its own log", "another log"),
    "warehouse": ("our workgroup", "another workgroup"),
}

#: The kind of resource that an action is on.
ACTIONS: Final[Mapping[str, str]] = {
    "s3:GetObject": "object",
    "s3:PutObject": "object",
    "s3:DeleteObject": "object",
    "s3:AbortMultipartUpload": "object",
    "s3:ListBucket": "bucket",
    "s3:ListBucketMultipartUploads": "bucket",
    "kms:Decrypt": "key",
    "kms:GenerateDataKey": "key",
    "sqs:SendMessage": "queue",
    "sqs:ReceiveMessage": "queue",
    "sqs:DeleteMessage": "queue",
    "sqs:ChangeMessageVisibility": "queue",
    "sqs:GetQueueAttributes": "queue",
    "sqs:GetQueueUrl": "queue",
    "sqs:PurgeQueue": "queue",
    "secretsmanager:GetSecretValue": "secret",
    "glue:CreateDatabase": "table",
    "glue:GetTable": "table",
    "glue:CreateTable": "table",
    "glue:UpdateTable": "table",
    "glue:GetPartition": "table",
    "glue:BatchCreatePartition": "table",
    "glue:BatchUpdatePartition": "table",
    "redshift-data:ExecuteStatement": "warehouse",
    "redshift-data:BatchExecuteStatement": "warehouse",
    "redshift-serverless:GetCredentials": "warehouse",
    "sns:Publish": "topic",
    "sts:AssumeRole": "role",
    "logs:CreateLogStream": "log",
    "logs:PutLogEvents": "log",
}

#: What no role may do, on whatever resource.
NEVER: Final[Mapping[str, str]] = {
    "s3:DeleteObjectVersion": "object",
    "s3:PutObjectAcl": "object",
    "s3:PutObjectRetention": "object",
    "s3:DeleteBucket": "bucket",
    "s3:PutBucketPolicy": "bucket",
    "s3:PutBucketNotification": "bucket",
    "s3:PutLifecycleConfiguration": "bucket",
    "s3:PutBucketVersioning": "bucket",
    "kms:ScheduleKeyDeletion": "key",
    "kms:PutKeyPolicy": "key",
    "sqs:DeleteQueue": "queue",
    "sqs:SetQueueAttributes": "queue",
    "secretsmanager:PutSecretValue": "secret",
    "secretsmanager:DeleteSecret": "secret",
    "glue:DeleteTable": "table",
    "glue:DeleteDatabase": "table",
    "sns:SetTopicAttributes": "topic",
    "iam:PassRole": "role",
    "iam:PutRolePolicy": "role",
    "logs:DeleteLogGroup": "log",
}

#: Actions that know no resources, and the roles that may.
WITHOUT_RESOURCE: Final[Mapping[str, tuple[str, ...]]] = {
    "cloudwatch:GetMetricData": ("operator",),
    "redshift-data:DescribeStatement": ("publisher", "auditor", "upkeep"),
    "redshift-data:GetStatementResult": ("publisher", "auditor", "upkeep"),
    "redshift-data:CancelStatement": ("publisher", "auditor", "upkeep"),
    "ecr:GetAuthorizationToken": ("host",),
    "iam:CreateUser": (),
    "lambda:UpdateFunctionCode": (),
    "cloudformation:UpdateStack": (),
}

# ---- the lines -----------------------------------------------------------------------------------------------

Lines = Mapping[str, tuple[str, ...]]

_BUCKETS = ("our buckets",)
_KEY = ("the key of the buckets",)
_READ_KEY: Lines = {"kms:Decrypt": _KEY}
_WRITE_KEY: Lines = {"kms:Decrypt": _KEY, "kms:GenerateDataKey": _KEY}
_LIST: Lines = {"s3:ListBucket": _BUCKETS}
_SEND: Lines = {"sqs:SendMessage": QUEUES}
_LOG: Lines = {"logs:CreateLogStream": ("its own log",), "logs:PutLogEvents": ("its own log",)}


def _consumes(*queues: str) -> Lines:
    actions = ("ReceiveMessage", "DeleteMessage", "ChangeMessageVisibility", "GetQueueAttributes")
    return {f"sqs:{action}": queues for action in actions}


def _secrets(*names: str) -> Lines:
    return {"secretsmanager:GetSecretValue": names}


def _holding(area: str) -> tuple[str, ...]:
    return (area, FOR_COPY) if area == f"{Area.TMP}/" else (area,)


def _gate(own: str, then: str | None = None) -> Lines:
    let_on: Lines = {"s3:PutObject": (then,)} if then else {}
    return {
        **_LOG,
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **_consumes(f"gate-{own.rstrip('/')}"),
        **_LIST,
        "s3:GetObject": (*_holding(own), then) if then else (own,),
        **let_on,
        **(_WRITE_KEY if then else _READ_KEY),
    }


_TMP, _INPUT, _PROCESSING, _FINAL = (
    f"{area}/" for area in (Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL)
)
_EACH_QUEUE = (*QUEUES, *DEAD_LETTERS)
_WAREHOUSE: Lines = {
    "redshift-data:ExecuteStatement": ("our workgroup",),
    "redshift-serverless:GetCredentials": ("our workgroup",),
}

_CATALOG: Lines = {action: (OUR_TABLES,) for action in ACTIONS if action.startswith("glue:")}

#: Of a fleet whose warehouse is Redshift Serverless. With one in PostgreSQL `IN_POSTGRES` takes the place of some lines.
MATRIX: Final[Mapping[str, Lines]] = {
    "gate-tmp": _gate(_TMP, _INPUT),
    "gate-input": _gate(_INPUT, _PROCESSING),
    "gate-processing": _gate(_PROCESSING),
    "gate-final": _gate(_FINAL),
    "cleaner": {
        **_LOG,
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **_consumes("clean"),
        **_LIST,
        "s3:GetObject": OBJECTS,
        "s3:PutObject": (QUARANTINED,),
        "s3:DeleteObject": OBJECTS,
        **_WRITE_KEY,
    },
    "sweeper": {
        **_LOG,
        **_secrets(LEDGER, CERTIFICATES),
        "sqs:SendMessage": (*QUEUES, FAILED_CALLS),
        **_LIST,
        "s3:ListBucketMultipartUploads": _BUCKETS,
        "s3:DeleteObject": tuple(name for name in OBJECTS if name != QUARANTINED),
        "s3:AbortMultipartUpload": tuple(name for name in OBJECTS if name != QUARANTINED),
    },
    "watcher": {
        **_LOG,
        **_secrets(LEDGER, CERTIFICATES, WEBHOOK),
        "sqs:SendMessage": (FAILED_CALLS,),
        "sqs:GetQueueAttributes": _EACH_QUEUE,
        "sqs:GetQueueUrl": _EACH_QUEUE,
        "sns:Publish": ("the topic of alarms",),
    },
    "extractor": {
        **_secrets(LEDGER, CERTIFICATES, CONNECTIONS, MASK_KEYS),
        **_SEND,
        **_consumes("extract", "backfill"),
        **_LIST,
        "s3:GetObject": _holding(_TMP),
        "s3:PutObject": _holding(_TMP),
        "s3:AbortMultipartUpload": _holding(_TMP),
        **_WRITE_KEY,
    },
    "processor": {
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **_consumes("process"),
        **_LIST,
        "s3:GetObject": (_PROCESSING, _FINAL, REJECTS),
        "s3:PutObject": (_FINAL, REJECTS),
        "s3:AbortMultipartUpload": (_FINAL, REJECTS),
        **_WRITE_KEY,
    },
    "publisher": {
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **_consumes("publish"),
        **_LIST,
        "s3:GetObject": (_FINAL, FOR_COPY),
        "s3:PutObject": (FOR_COPY,),
        **_WRITE_KEY,
        **_CATALOG,
        **_WAREHOUSE,
        "redshift-data:BatchExecuteStatement": ("our workgroup",),
    },
    "planner": {**_secrets(LEDGER, CERTIFICATES, CONNECTIONS), **_SEND},
    "auditor": {
        **_secrets(LEDGER, CERTIFICATES, CONNECTIONS, MASK_KEYS),
        **_LIST,
        "s3:GetObject": (_FINAL,),
        **_READ_KEY,
        **_WAREHOUSE,
    },
    "exporter": {
        **_secrets(LEDGER, CERTIFICATES),
        "sqs:GetQueueAttributes": _EACH_QUEUE,
        "sqs:GetQueueUrl": _EACH_QUEUE,
    },
    "operator": {
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **{action: _EACH_QUEUE for action in ACTIONS if action.startswith("sqs:") and "Send" not in action},
        **_LIST,
        "s3:GetObject": (QUARANTINED, REJECTS),
        **_READ_KEY,
    },
    "upkeep": {
        **_secrets(LEDGER, CERTIFICATES),
        **_SEND,
        **_LIST,
        "s3:GetObject": (_FINAL, FOR_COPY),
        "s3:PutObject": (_FINAL, FOR_COPY),
        "s3:AbortMultipartUpload": (_FINAL, FOR_COPY),
        **_WRITE_KEY,
        **_CATALOG,
        **_WAREHOUSE,
        "redshift-data:BatchExecuteStatement": ("our workgroup",),
    },
    "host": {"sts:AssumeRole": tuple(f"role of {role}" for role in SERVICE_ROLES)},
}

_WITHOUT_REDSHIFT: Lines = {action: () for action in ACTIONS if action.startswith("redshift")}

#: The lines that are others with a warehouse in PostgreSQL: its DSN is a secret, and there is nothing to fetch by COPY.
IN_POSTGRES: Final[Mapping[str, Lines]] = {
    "publisher": {
        **_secrets(LEDGER, CERTIFICATES, WAREHOUSE),
        "s3:GetObject": (_FINAL,),
        "s3:PutObject": (),
        "kms:GenerateDataKey": (),
        **_WITHOUT_REDSHIFT,
    },
    "auditor": {**_secrets(LEDGER, CERTIFICATES, WAREHOUSE, CONNECTIONS, MASK_KEYS), **_WITHOUT_REDSHIFT},
    "upkeep": {
        **_secrets(LEDGER, CERTIFICATES, WAREHOUSE),
        "s3:GetObject": (_FINAL,),
        "s3:PutObject": (_FINAL,),
        "s3:AbortMultipartUpload": (_FINAL,),
        **_WITHOUT_REDSHIFT,
    },
}


def lines_of(role: str, *, is_redshift: bool) -> Lines:
    """Return the lines of a role, with either warehouse."""
    return MATRIX[role] if is_redshift else {**MATRIX[role], **IN_POSTGRES.get(role, {})}


# ---- the page ------------------------------------------------------------------------------------------------


def table() -> str:
    """Return the lines as a table in Markdown: actions that are on the same resources stand together."""
    rows = ["| role | may | on |", "|---|---|---|"]
    for role, whole in MATRIX.items():
        lines = lines_of(role, is_redshift=False)
        in_redshift = {action: whole[action] for action in whole if whole[action] != lines[action]}
        rows += _rows(f"`{role}`", {action: found for action, found in lines.items() if found})
        rows += _rows(f"`{role}`, to Redshift", in_redshift)
        free = [action for action, roles in WITHOUT_RESOURCE.items() if role in roles]
        if free:
            rows.append(f"| `{role}` | {_named(free)} | knows no resources |")
    return "\n".join(rows) + "\n"


def _rows(role: str, lines: Lines) -> list[str]:
    together: dict[tuple[str, ...], list[str]] = {}
    for action, resources in lines.items():
        together.setdefault(resources, []).append(action)
    return [
        f"| {role} | {_named(actions)} | {_abridged(resources)} |" for resources, actions in together.items()
    ]


def _named(actions: Sequence[str]) -> str:
    return ", ".join(f"`{action}`" for action in actions)


def _abridged(resources: tuple[str, ...]) -> str:
    for whole, words in (
        (_EACH_QUEUE, "every queue and its dead letters"),
        (QUEUES, "every queue"),
        (OBJECTS, "every area"),
    ):
        if resources[: len(whole)] == whole:
            return ", ".join([words, *resources[len(whole) :]])
    return ", ".join(resources)


def page_with_table(page: str) -> str:
    """Return the page with the table of now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page_with_table(PAGE.read_text()))
    else:
        sys.stdout.write(table())
