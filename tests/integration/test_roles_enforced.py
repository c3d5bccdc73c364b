"""
Roles on a server that enforces IAM: really assumed, and each tries every line of the matrix that this server knows.

What it does not enforce (keys of KMS, statements to a warehouse) is tried on the policies alone, in
`tests/unit/test_iam_matrix.py`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from support.commands import Shell

from cli.checks import Verdict
from cli.context import Connections
from cli.diagnosis_aws import look_at_bucket, look_at_identity, look_at_queue
from cli.findings import Finding, Patient
from infra import matrix
from infra.deploy import deploy_stack
from infra.names import host_role_name, role_name
from infra.plan import SERVICE_ROLES, WORKER_QUEUES, InlineCode, Plan
from infra.templates import shared_template, source_template
from local import aws
from local.ports import find_free_port
from local.processes import Home, supervise
from shared.catalog import Catalog
from shared.domain.contracts import Origin, SourceKind
from shared.domain.files import Area, copy_key, quarantine_key, raw_key, rejects_key
from shared.ports import QueueName
from shared.settings import FleetSettings

PREFIX = "held"
BUCKET = f"{PREFIX}-shop"
PLAN = Plan(
    prefix=PREFIX,
    ledger_dsn="secretsmanager:held/ledger#dsn",
    warehouse_dsn="secretsmanager:held/warehouse#dsn",
    code=InlineCode(),
    ca_certificates="secretsmanager:held/rds#ca",
    alarm_webhook_url="secretsmanager:held/alarms#url",
    alarm_topic_arn=f"arn:aws:sns:{aws.REGION}:{aws.ACCOUNT_ID}:on-call",
)
ORIGIN = Origin(
    "shop",
    SourceKind.POSTGRES,
    {"dsn": "secretsmanager:held/sources/shop#dsn"},
    {"k1": "secretsmanager:held/masks/2026#k1"},
)
SECRETS = {
    matrix.LEDGER: "held/ledger",
    matrix.CERTIFICATES: "held/rds",
    matrix.WAREHOUSE: "held/warehouse",
    matrix.CONNECTIONS: "held/sources/shop",
    matrix.MASK_KEYS: "held/masks/2026",
    matrix.WEBHOOK: "held/alarms",
    matrix.OTHER_SECRET: "others/ledger",
}
BATCH = "b" + "0" * 24
_KEYS = {
    matrix.QUARANTINED: quarantine_key(
        raw_key(Area.TMP, table="orders", batch_id=BATCH, attempt=1, part=0), sha256="0cc1" * 16
    ),
    matrix.REJECTS: rejects_key(table="orders", batch_id=BATCH, attempt=1),
    matrix.FOR_COPY: copy_key("files-00000.manifest", table="orders", batch_id=BATCH, attempt=1),
}
#: What is about who may take which role is tried where it is told: the host's lines.
_TRIED_KINDS = {"object", "bucket", "queue", "secret", "topic", "role"}
_REFUSED = {"AccessDenied", "AccessDeniedException", "AccessDeniedFault", "AuthorizationError", "403"}


@dataclass
class Account:
    """An account whose server enforces IAM, with the fleet's roles in it."""

    endpoint: str

    def client(self, service: str, credentials: Mapping[str, str] | None = None) -> Any:
        keys = credentials or {"AccessKeyId": "test", "SecretAccessKey": "test"}
        return boto3.session.Session().client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name=aws.REGION,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys.get("SessionToken"),
            config=Config(retries={"total_max_attempts": 1}),
        )

    def assume(self, role: str, credentials: Mapping[str, str] | None = None) -> dict[str, str]:
        arn = f"arn:aws:iam::{aws.ACCOUNT_ID}:role/{role}"
        answer = self.client("sts", credentials).assume_role(RoleArn=arn, RoleSessionName="tries")
        return dict(answer["Credentials"])

    def let_root_take(self, role: str) -> None:
        """Let the tests in where only a service of AWS is let in. The policies stay as they are."""
        trust = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": f"arn:aws:iam::{aws.ACCOUNT_ID}:root"},
                    "Action": "sts:AssumeRole",
                }
            ],
        }
        self.client("iam").update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(trust))


@pytest.fixture(scope="module")
def account(server_directory: Path) -> Iterator[Account]:
    """The fleet's queues, roles and a bucket; no Lambda, for nothing is to be done with what is tried."""
    home, port = Home(server_directory / "enforcing"), find_free_port()
    process = aws.process(home, port)
    with supervise(home, purpose="tests") as supervisor:
        (home.path / "aws" / "temporary").mkdir(parents=True)
        supervisor.start(replace(process, environment={**process.environment, "AUTH": "true"}))
        supervisor.wait_until(aws.PROCESS_NAME, lambda: aws.answers(port), within_seconds=60)
        account = Account(aws.endpoint_url(port))
        _prepare(account)
        yield account
        supervisor.stop_all()


def _prepare(account: Account) -> None:
    cloudformation = account.client("cloudformation")
    shared = shared_template(PLAN, [ORIGIN])
    shared["Resources"] = {
        name: resource
        for name, resource in shared["Resources"].items()
        if resource["Type"].startswith(("AWS::IAM::", "AWS::KMS::")) or resource["Type"] == "AWS::SQS::Queue"
    }
    deploy_stack(cloudformation, "shared", shared)
    source = source_template(PLAN, source="shop", bucket=BUCKET, database="held_shop")
    del source["Resources"]["BucketPolicy"]
    del source["Resources"]["Bucket"]["Properties"]["NotificationConfiguration"]
    deploy_stack(cloudformation, "shop", source)
    location = {"LocationConstraint": aws.REGION}
    account.client("s3").create_bucket(Bucket="others", CreateBucketConfiguration=location)
    account.client("sqs").create_queue(QueueName="others")
    for topic in ("on-call", "others"):
        account.client("sns").create_topic(Name=topic)
    for name in SECRETS.values():
        account.client("secretsmanager").create_secret(Name=name, SecretString="{}")


@pytest.fixture(scope="module")
def credentials(account: Account) -> dict[str, dict[str, str]]:
    """What each role was given: a service's by the host, as on an instance."""
    functions = [role for role in matrix.MATRIX if role not in {*SERVICE_ROLES, "operator", "host"}]
    for role in functions:
        account.let_root_take(role_name(PREFIX, role))
    account.let_root_take(host_role_name(PREFIX))
    host = account.assume(host_role_name(PREFIX))
    return {
        "host": host,
        **{role: account.assume(role_name(PREFIX, role)) for role in functions},
        **{role: account.assume(role_name(PREFIX, role), host) for role in SERVICE_ROLES},
        "operator": _person(account, "operator"),
    }


def _person(account: Account, policy: str) -> dict[str, str]:
    iam = account.client("iam")
    iam.create_user(UserName=policy)
    arn = f"arn:aws:iam::{aws.ACCOUNT_ID}:policy/{PREFIX}-{policy}"
    iam.attach_user_policy(UserName=policy, PolicyArn=arn)
    return dict(iam.create_access_key(UserName=policy)["AccessKey"])


@dataclass
class Hands:
    """What a role does with its credentials, action by action."""

    account: Account
    credentials: Mapping[str, str]

    def __post_init__(self) -> None:
        self.clients = {
            service: self.account.client(service, self.credentials)
            for service in ("s3", "sqs", "secretsmanager", "sns", "sts")
        }

    def attempt(self, action: str, name: str) -> bool:
        """Return whether it was let through; that something is not there, or makes no sense, comes after that."""
        service, operation = action.split(":")
        try:
            getattr(self, f"_{service}")(operation, name)
        except ClientError as error:
            return error.response["Error"]["Code"] not in _REFUSED
        return True

    def _s3(self, operation: str, name: str) -> None:
        s3 = self.clients["s3"]
        if operation.startswith("ListBucket"):
            bucket = {"Bucket": BUCKET if name == "our buckets" else "others"}
            (s3.list_objects_v2 if operation == "ListBucket" else s3.list_multipart_uploads)(**bucket)
            return
        where = {"Bucket": "others", "Key": "tmp/orders/part-00000.csv"}
        if name != matrix.OF_ANOTHER_BUCKET:
            key = raw_key(Area.TMP, table="orders", batch_id=BATCH, attempt=1, part=0).removeprefix("tmp/")
            where = {"Bucket": BUCKET, "Key": _KEYS.get(name, f"{name}{key}")}
        match operation:
            case "GetObject":
                s3.get_object(**where)
            case "PutObject":
                s3.put_object(**where, Body=b"")
            case "DeleteObject":
                s3.delete_object(**where)
            case "AbortMultipartUpload":
                s3.abort_multipart_upload(**where, UploadId="none")

    def _sqs(self, operation: str, name: str) -> None:
        queue = "others" if name == "another queue" else f"{PREFIX}-{name}"
        if operation == "GetQueueUrl":
            self.clients["sqs"].get_queue_url(QueueName=queue)
            return
        where = {"QueueUrl": f"{self.account.endpoint}/{aws.ACCOUNT_ID}/{queue}"}
        sqs = self.clients["sqs"]
        match operation:
            case "SendMessage":
                sqs.send_message(**where, MessageBody="{}")
            case "ReceiveMessage":
                sqs.receive_message(**where, VisibilityTimeout=0, WaitTimeSeconds=0)
            case "DeleteMessage":
                sqs.delete_message(**where, ReceiptHandle="none")
            case "ChangeMessageVisibility":
                sqs.change_message_visibility(**where, ReceiptHandle="none", VisibilityTimeout=0)
            case "GetQueueAttributes":
                sqs.get_queue_attributes(**where, AttributeNames=["QueueArn"])
            case "PurgeQueue":
                sqs.purge_queue(**where)

    def _secretsmanager(self, _: str, name: str) -> None:
        self.clients["secretsmanager"].get_secret_value(SecretId=SECRETS[name])

    def _sns(self, _: str, name: str) -> None:
        topic = "on-call" if name == "the topic of alarms" else "others"
        self.clients["sns"].publish(
            TopicArn=f"arn:aws:sns:{aws.REGION}:{aws.ACCOUNT_ID}:{topic}", Message="tries"
        )

    def _sts(self, _: str, name: str) -> None:
        role = "admin" if name == "another role" else role_name(PREFIX, name.removeprefix("role of "))
        self.clients["sts"].assume_role(
            RoleArn=f"arn:aws:iam::{aws.ACCOUNT_ID}:role/{role}", RoleSessionName="tries"
        )


@pytest.mark.parametrize("role", matrix.MATRIX)
def test_an_assumed_role_is_let_through_on_its_lines_and_refused_on_all_others(
    account: Account, credentials: dict[str, dict[str, str]], role: str
) -> None:
    hands = Hands(account, credentials[role])

    wrong = [
        f"{action} on {name}: the matrix says {expected}"
        for action, name, expected in lines(role)
        if hands.attempt(action, name) is not expected
    ]

    assert wrong == []


def lines(role: str) -> Iterator[tuple[str, str, bool]]:
    """Every line that is allowed, and all others but those on queues, of which each role tries some of its own."""
    turn = list(matrix.MATRIX).index(role)
    for action, kind in matrix.ACTIONS.items():
        for place, name in enumerate(matrix.KINDS[kind] if kind in _TRIED_KINDS else ()):
            expected = name in matrix.lines_of(role, is_redshift=False).get(action, ())
            if expected or kind != "queue" or (place + turn) % 5 == 0:
                yield action, name, expected


def test_nobody_but_our_host_takes_the_role_of_a_service(
    account: Account, credentials: dict[str, dict[str, str]]
) -> None:
    for role in ("extractor", "operator"):
        with pytest.raises(ClientError, match="AccessDenied"):
            account.assume(role_name(PREFIX, "publisher"), credentials[role])


def test_a_bucket_answers_nobody_who_comes_without_tls(
    account: Account, credentials: dict[str, dict[str, str]]
) -> None:
    template = source_template(PLAN, source="shop", bucket=BUCKET, database="held_shop")
    document = json.dumps(template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"])
    arn = f"arn:aws:s3:::{BUCKET}"
    for reference, text in (
        ('{"Fn::GetAtt": ["Bucket", "Arn"]}', f'"{arn}"'),
        ('{"Fn::Sub": "${Bucket.Arn}/*"}', f'"{arn}/*"'),
    ):
        document = document.replace(reference, text)
    extractor = Hands(account, credentials["extractor"])
    assert extractor.attempt("s3:PutObject", "tmp/")

    account.client("s3").put_bucket_policy(Bucket=BUCKET, Policy=document)
    try:
        # This server speaks HTTP only, so that everyone comes without.
        assert not extractor.attempt("s3:PutObject", "tmp/")
    finally:
        with suppress(ClientError):
            account.client("s3").delete_bucket_policy(Bucket=BUCKET)


# ---- what a doctor finds -------------------------------------------------------------------------------------


def examined(
    account: Account, monkeypatch: pytest.MonkeyPatch, *, role: str, credentials: Mapping[str, str]
) -> dict[str, Finding]:
    """What `esclusa doctor` finds of AWS when it is called in a role with some credentials."""
    for name, value in {
        "AWS_ENDPOINT_URL": account.endpoint,
        "AWS_ACCESS_KEY_ID": credentials["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": credentials["SecretAccessKey"],
        "AWS_SESSION_TOKEN": credentials["SessionToken"],
    }.items():
        monkeypatch.setenv(name, value)
    settings = FleetSettings(
        ledger_dsn="env:LEDGER",
        bucket_prefix=PREFIX,
        queue_urls={queue: f"{account.endpoint}/{aws.ACCOUNT_ID}/{PREFIX}-{queue}" for queue in QueueName},
    )
    fleet = replace(Shell().fleet, settings=settings)
    patient = Patient(role, fleet, Connections(), Catalog(Path(), ()), timedelta(seconds=10))
    found = [look_at_bucket(patient, BUCKET), look_at_identity(patient)]
    found += [look_at_queue(patient, queue) for queue in WORKER_QUEUES[role]]
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize("role", WORKER_QUEUES)
def test_a_doctor_finds_that_a_worker_may_do_its_work_and_no_more(
    account: Account, credentials: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    found = examined(account, monkeypatch, role=role, credentials=credentials[role])

    assert {finding.verdict for finding in found.values()} == {Verdict.OK}, found
    s3 = account.client("s3")
    assert not s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads")
    assert not [
        version
        for version in s3.list_object_versions(Bucket=BUCKET).get("Versions", ())
        if "doctor" in version["Key"]
    ]


def test_a_doctor_finds_what_another_role_lacks_and_what_it_may_beyond(
    account: Account, credentials: dict[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = examined(account, monkeypatch, role="processor", credentials=credentials["publisher"])
    beyond = examined(account, monkeypatch, role="publisher", credentials=credentials["processor"])

    bucket = lacking[f"bucket {BUCKET}"]
    assert bucket.verdict is Verdict.FAILED
    assert "s3:GetObject in processing/" in bucket.found
    assert "s3:PutObject in final/ (AccessDenied)" in bucket.found
    assert lacking["queue process"].verdict is Verdict.FAILED
    assert "expected the role held-processor" in lacking["identity"].found
    assert beyond[f"bucket {BUCKET}"].verdict is Verdict.WARNING
    assert "more than a publisher: processing/" in beyond[f"bucket {BUCKET}"].found
