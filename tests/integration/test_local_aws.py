"""What the local AWS server promises, and what of MiniStack our code relies on."""

import base64
import hashlib
import io
import json
import os
import signal
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import boto3
import psutil
import pytest
from botocore.config import Config

from local import aws
from local.ports import LOOPBACK, find_free_port
from local.processes import SOURCE_ROOT, Home, Supervisor, living_processes, supervise

BUCKET = "esclusa-test-bucket"


@pytest.fixture
def supervisor(server_directory: Any) -> Iterator[Supervisor]:
    with supervise(Home(server_directory / f"aws-{time.monotonic_ns()}"), purpose="tests") as supervisor:
        yield supervisor
        supervisor.stop_all()


@pytest.fixture
def port() -> int:
    return find_free_port()


def client(service: str, port: int) -> Any:
    environment = aws.client_environment(port)
    return boto3.client(  # type: ignore[call-overload]
        service,
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        region_name=environment["AWS_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
    )


def make_bucket(port: int) -> Any:
    s3 = client("s3", port)
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": aws.REGION})
    return s3


def kill_hard(supervisor: Supervisor) -> None:
    server = psutil.Process(living_processes(supervisor.home)[aws.PROCESS_NAME])
    os.kill(server.pid, signal.SIGKILL)
    server.wait(10)


def test_it_starts_once_and_is_left_alone_while_it_runs(supervisor: Supervisor, port: int) -> None:
    started = [aws.start(supervisor, port) for _ in range(2)]

    assert started == [True, False]


def test_it_listens_on_loopback_only(supervisor: Supervisor, port: int) -> None:
    aws.start(supervisor, port)

    server = psutil.Process(living_processes(supervisor.home)[aws.PROCESS_NAME])
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in server.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {(LOOPBACK, port)}


def test_queues_have_one_address_whoever_is_asked(supervisor: Supervisor, port: int) -> None:
    aws.start(supervisor, port)
    cloudformation = client("cloudformation", port)
    template = {
        "Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "one"}}},
        "Outputs": {"Url": {"Value": {"Ref": "Queue"}}},
    }

    cloudformation.create_stack(StackName="one", TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="one", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )

    (output,) = cloudformation.describe_stacks(StackName="one")["Stacks"][0]["Outputs"]
    assert output["OutputValue"] == client("sqs", port).get_queue_url(QueueName="one")["QueueUrl"]


def test_objects_with_checksum_and_metadata_survive_a_kill(supervisor: Supervisor, port: int) -> None:
    aws.start(supervisor, port)
    make_bucket(port).put_object(
        Bucket=BUCKET, Key="tmp/a.csv", Body=b"1\n", ChecksumAlgorithm="SHA256", Metadata={"attempt": "1"}
    )

    kill_hard(supervisor)
    aws.start(supervisor, port)

    head = client("s3", port).head_object(Bucket=BUCKET, Key="tmp/a.csv", ChecksumMode="ENABLED")
    assert head["Metadata"] == {"attempt": "1"}
    assert base64.b64decode(head["ChecksumSHA256"]) == hashlib.sha256(b"1\n").digest()
    assert head["ContentLength"] == 2


def test_after_a_checkpoint_queues_and_secrets_survive_a_kill_too(supervisor: Supervisor, port: int) -> None:
    aws.start(supervisor, port)
    queue_url = client("sqs", port).create_queue(QueueName="kept")["QueueUrl"]
    client("secretsmanager", port).create_secret(Name="kept", SecretString="a value")

    aws.checkpoint(supervisor, port)
    kill_hard(supervisor)
    aws.start(supervisor, port)

    client("sqs", port).send_message(QueueUrl=queue_url, MessageBody="still there")
    assert client("secretsmanager", port).get_secret_value(SecretId="kept")["SecretString"] == "a value"


def test_a_lambda_finds_our_source_and_the_local_endpoint(supervisor: Supervisor, port: int) -> None:
    aws.start(supervisor, port)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as entries:
        entries.writestr(
            "index.py",
            "import os\nimport shared.errors\n"
            "def handler(event, context):\n"
            "    return [shared.errors.__file__, os.environ['AWS_ENDPOINT_URL'], os.environ['GIVEN'], os.getcwd()]\n",
        )
    functions = client("lambda", port)
    functions.create_function(
        FunctionName="curious",
        Runtime="python3.11",
        Handler="index.handler",
        Role=f"arn:aws:iam::{aws.ACCOUNT_ID}:role/any",
        Code={"ZipFile": archive.getvalue()},
        Environment={"Variables": {"GIVEN": "by the function"}},
    )

    answer = json.loads(functions.invoke(FunctionName="curious", Payload=b"{}")["Payload"].read())

    assert answer[:3] == [
        str(SOURCE_ROOT / "shared" / "errors.py"),
        aws.endpoint_url(port),
        "by the function",
    ]
    assert answer[3].startswith(str(supervisor.home.path))


def test_the_processes_of_lambdas_end_with_the_server(supervisor: Supervisor, port: int) -> None:
    test_a_lambda_finds_our_source_and_the_local_endpoint(supervisor, port)
    server = psutil.Process(living_processes(supervisor.home)[aws.PROCESS_NAME])
    children = server.children(recursive=True)
    assert children

    supervisor.stop(aws.PROCESS_NAME)

    assert not any(child.is_running() for child in children)


def test_the_test_environment_reaches_the_local_server_and_no_account(aws_env: dict[str, str]) -> None:
    identity = boto3.client("sts").get_caller_identity()

    assert identity["Account"] == aws.ACCOUNT_ID
    assert os.environ["AWS_ENDPOINT_URL"] == aws_env["AWS_ENDPOINT_URL"]
    assert aws_env["AWS_ENDPOINT_URL"].startswith(f"http://{LOOPBACK}:")
