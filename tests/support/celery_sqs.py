"""Queues on a real local SQS, and real worker processes that serve them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import boto3

from shared.messages import EXTRACT_TASK, task_message

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

REPOSITORY = Path(__file__).parents[2]


def wait_until(condition: Callable[[], bool], *, timeout_seconds: float = 30, what: str = "") -> None:
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what or condition}")
        time.sleep(0.05)


@dataclass
class TestQueue:
    """A queue with its dead letters."""

    __test__ = False

    client: "SQSClient"
    url: str
    dead_letters_url: str

    @classmethod
    def create(
        cls, client: "SQSClient", name: str, *, max_receive_count: int = 3, visibility_timeout: int = 4
    ) -> "TestQueue":
        dead_url = client.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        url = client.create_queue(
            QueueName=name,
            Attributes={
                "VisibilityTimeout": str(visibility_timeout),
                "RedrivePolicy": f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": "{max_receive_count}"}}',
            },
        )["QueueUrl"]
        return cls(client, url, dead_url)

    def send(self, body: str) -> None:
        self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def send_task(self, batch_id: str) -> None:
        self.send(
            task_message(EXTRACT_TASK, {"batch_id": batch_id}, queue="extract", task_id=f"{batch_id}-extract")
        )

    def depth(self) -> tuple[int, int]:
        """Return how many messages are visible and how many in flight."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]  # type: ignore[arg-type]
        return int(found[names[0]]), int(found[names[1]])

    def is_empty(self) -> bool:
        return self.depth() == (0, 0)

    def dead_letters(self) -> list[str]:
        """Return the bodies of the dead letters. They stay where they are, hidden for a moment."""
        bodies = []
        while True:
            messages = self.client.receive_message(
                QueueUrl=self.dead_letters_url, MaxNumberOfMessages=10, VisibilityTimeout=1
            ).get("Messages", [])
            if not messages:
                return bodies
            bodies += [message["Body"] for message in messages]

    def dead_letter_count(self) -> int:
        name = "ApproximateNumberOfMessages"
        found = self.client.get_queue_attributes(QueueUrl=self.dead_letters_url, AttributeNames=[name])
        return int(found["Attributes"][name])


@dataclass
class TestWorker:
    """A worker process with its journal of tasks and its log."""

    __test__ = False

    process: subprocess.Popen[bytes]
    directory: Path
    log_path: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log_path = self.directory / "worker.log"

    @classmethod
    def start(
        cls,
        queue: TestQueue,
        directory: Path,
        *,
        endpoint: str,
        module: str = "support.celery_sqs_app",
        variables: Mapping[str, str] = MappingProxyType({}),
        **settings: object,
    ) -> "TestWorker":
        """Start a worker with short times and wait until it receives."""
        directory.mkdir()
        environment = worker_environment(queue.url, directory, endpoint=endpoint, settings=settings)
        environment.update(variables)
        with (directory / "worker.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=directory,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        worker = cls(process, directory)
        alive_file = directory / "alive"
        wait_until(
            lambda: alive_file.exists() or process.poll() is not None, timeout_seconds=60, what="worker is up"
        )
        assert process.poll() is None, worker.log()
        return worker

    def journal(self) -> list[str]:
        """Return what its tasks wrote: `start BATCH` or `end BATCH`."""
        return [line.rpartition(" ")[0] for line in self._journal_lines()]

    def task_pids(self) -> set[int]:
        return {int(line.rpartition(" ")[2]) for line in self._journal_lines()}

    def _journal_lines(self) -> list[str]:
        path = self.directory / "journal"
        return path.read_text().splitlines() if path.exists() else []

    def starts(self, batch_id: str) -> int:
        return self.journal().count(f"start {batch_id}")

    def ends(self, batch_id: str) -> int:
        return self.journal().count(f"end {batch_id}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> int:
        """Ask it to stop and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def kill(self) -> None:
        """End it as a power cut would. Its children end with it."""
        self.process.kill()
        self.process.wait(timeout=10)


def worker_environment(
    queue_url: str, directory: Path, *, endpoint: str, settings: Mapping[str, object]
) -> dict[str, str]:
    short_times = {
        "wait_time_seconds": 1,
        "receive_timeout_seconds": 2,
        "visibility_timeout_seconds": 4,
        "backoff_base_seconds": 1,
        "backoff_max_seconds": 1,
        "soft_shutdown_seconds": 2,
        "metrics_port": 0,
    }
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
        "JOURNAL": str(directory / "journal"),
        "QUEUE_URL": queue_url,
        "MAX_ATTEMPTS": os.environ.get("MAX_ATTEMPTS", "1"),
        "ESCLUSA_ALIVE_FILE": str(directory / "alive"),
        **{f"ESCLUSA_{name.upper()}": str(value) for name, value in {**short_times, **settings}.items()},
        **aws_environment(endpoint),
    }


def aws_environment(endpoint: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def sqs_client(endpoint: str) -> "SQSClient":
    return boto3.client(
        "sqs",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
