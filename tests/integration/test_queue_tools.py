"""The commands that put queues in order, on a real local SQS, with workers that really fail."""

import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.aws_endpoint import use_aws_endpoint
from support.celery_sqs import TestQueue, TestWorker, sqs_client, wait_until
from support.commands import Shell
from support.ledger_rows import a_batch, add_batch

from cli.output import ExitCode
from shared.domain.batches import Batch, BatchState
from shared.lifecycle import messages_for
from shared.ports import QueueName
from shared.queues.sqs import SqsInspector, make_metrics_client, make_sqs_client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

pytestmark = pytest.mark.timeout(120)

MAX_RECEIVE_COUNT = 2


@dataclass
class Scene:
    """A queue of extract on SQS, and a shell whose ledger is in memory."""

    queue: TestQueue
    shell: Shell

    def keep(self, batch: Batch) -> Batch:
        with self.shell.ledger.transaction() as tx:
            return add_batch(tx, batch)

    def let_die(self, *bodies: str) -> None:
        for body in bodies:
            self.queue.client.send_message(QueueUrl=self.queue.url, MessageBody=body, MessageGroupId="shop")
        # SQS moves a message at the receive after the last one allowed.
        wait_until(lambda: self._are_all_dead(len(bodies)), what="all are dead")

    def _are_all_dead(self, count: int) -> bool:
        self.queue.client.receive_message(
            QueueUrl=self.queue.url, MaxNumberOfMessages=10, VisibilityTimeout=0
        )
        return self.queue.dead_letter_count() == count


@pytest.fixture
def scene(ministack: str, monkeypatch: pytest.MonkeyPatch) -> Scene:
    use_aws_endpoint(ministack, monkeypatch)
    client: SQSClient = sqs_client(ministack)
    region = client.meta.region_name
    queue = TestQueue.create(client, f"tools-{secrets.token_hex(6)}", max_receive_count=MAX_RECEIVE_COUNT)
    inspector = SqsInspector(
        make_sqs_client(region), {QueueName.EXTRACT: queue.url}, metrics=make_metrics_client(region)
    )
    return Scene(queue, Shell(queues=inspector))


@pytest.fixture
def start_worker(ministack: str, tmp_path: Path) -> Iterator[Callable[[TestQueue], TestWorker]]:
    started: list[TestWorker] = []

    def start(queue: TestQueue) -> TestWorker:
        worker = TestWorker.start(queue, tmp_path / f"worker-{len(started)}", endpoint=ministack)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.is_alive():
            worker.kill()


def task_of(batch: Batch) -> str:
    (message,) = messages_for(batch)
    return message.body


def line_of(scene: Scene) -> dict[str, Any]:
    found: dict[str, Any] = scene.shell.run("queues", "--json").document["queues"][0]
    return found


@pytest.mark.slow
def test_dead_letters_are_found_judged_and_redriven_to_a_worker_that_does_them(
    scene: Scene, start_worker: Callable[[TestQueue], TestWorker]
) -> None:
    waiting = [scene.keep(a_batch(f"waiting {number}")) for number in range(12)]
    published = [scene.keep(a_batch(f"done {number}", state=BatchState.PUBLISHED)) for number in range(3)]
    settled = [task_of(a_batch(f"done {number}")) for number in range(len(published))]
    scene.let_die(*(task_of(batch) for batch in waiting), *settled, "hello", "[" * 5_000)

    line = line_of(scene)
    peeked = scene.shell.run("peek", "extract", "--dead", "--limit", "50", "--json").document["messages"]
    dry = scene.shell.run("redrive", "extract", "--dry-run", "--json").document
    untouched = scene.queue.depth(), scene.queue.dead_letter_count()
    redriven = scene.shell.run("redrive", "extract", "--json")
    worker = start_worker(scene.queue)
    wait_until(lambda: all(worker.starts(batch.id) == 1 for batch in waiting))

    assert (line["visible"], line["dead_letters"]) == (0, 17)
    assert line["dead_letters_oldest_age_from"] == "messages"
    standings = [message["standing"] for message in peeked]
    assert {name: standings.count(name) for name in set(standings)} == {
        "waiting": 12,
        "at_rest": 3,
        "malformed": 2,
    }
    assert dry["redriven_count"] == 12
    assert untouched == ((0, 0), 17)
    assert (redriven.exit_code, redriven.document["redriven_count"]) == (ExitCode.OK, 12)
    assert sorted(scene.queue.dead_letters()) == sorted([*settled, "hello", "[" * 5_000])


@pytest.mark.slow
def test_looking_as_often_as_one_likes_loses_no_dead_letter_and_burns_no_delivery(scene: Scene) -> None:
    batch = scene.keep(a_batch("waiting"))
    scene.let_die("hello")
    scene.queue.send(task_of(batch))

    for _ in range(MAX_RECEIVE_COUNT + 2):
        scene.shell.run("queues")
        scene.shell.run("peek", "extract")
        scene.shell.run("peek", "extract", "--dead")

    (message,) = scene.queue.client.receive_message(
        QueueUrl=scene.queue.url, MessageSystemAttributeNames=["ApproximateReceiveCount"]
    )["Messages"]
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert scene.queue.dead_letter_count() == 1


def test_dead_letters_are_purged_by_reason_and_then_whole(scene: Scene) -> None:
    scene.let_die("hello", json.dumps({"x": 1}), task_of(a_batch("nobody's")))

    by_reason = scene.shell.run("purge", "extract", "--dead", "--reason", "malformed", "--yes", "--json")
    left = scene.queue.dead_letter_count()
    whole = scene.shell.run("purge", "extract", "--dead", typed="extract\n")

    assert by_reason.document["deleted_count"] == 2
    assert left == 1
    assert whole.exit_code == ExitCode.OK
    assert scene.queue.dead_letter_count() == 0
