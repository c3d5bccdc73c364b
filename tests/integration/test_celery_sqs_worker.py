"""Real workers on a real local SQS: no message is lost, none is held for ever, none stops the others."""

import base64
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.celery_sqs import TestQueue, TestWorker, sqs_client, wait_until, worker_environment
from support.fault_proxy import Fault, FaultProxy

from shared.messages import EXTRACT_TASK, PUBLISH_TASK, task_message

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

StartWorker = Callable[..., TestWorker]


@pytest.fixture
def client(ministack: str) -> "SQSClient":
    return sqs_client(ministack)


@pytest.fixture
def make_queue(client: "SQSClient", request: pytest.FixtureRequest) -> Callable[..., TestQueue]:
    name = re.sub(r"\W", "-", request.node.name)[:40] + f"-{secrets.token_hex(4)}"
    return lambda **options: TestQueue.create(client, name, **options)


@pytest.fixture
def start_worker(ministack: str, tmp_path: Path) -> Iterator[StartWorker]:
    started: list[TestWorker] = []

    def start(queue: TestQueue, *, endpoint: str = ministack, **settings: object) -> TestWorker:
        worker = TestWorker.start(queue, tmp_path / f"worker-{len(started)}", endpoint=endpoint, **settings)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.is_alive():
            worker.kill()


GOOD = task_message(EXTRACT_TASK, {"batch_id": "ok-poison"}, queue="extract", task_id="ok-poison")


def changed(path: str, value: object) -> str:
    """Return a good message with one thing in it replaced."""
    message = json.loads(GOOD)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split("/")]
    target = message
    for step in parents:
        target = target[step]
    target[last] = value
    return json.dumps(message)


def without(field: str) -> str:
    message = json.loads(GOOD)
    del message[field]
    return json.dumps(message)


POISON = {
    "plain text": "hello",
    "a JSON list": "[1, 2, 3]",
    "an empty object": "{}",
    "null": "null",
    "deep nesting": "[" * 50_000,
    "a number without end": "9" * 10_000,
    "not JSON at all": '{"headers": {',
    "an S3 event": '{"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}',
    "a gate's message": '{"version": 1, "kind": "check", "batch_id": "b1", "area": "tmp"}',
    "Celery's protocol 1": '{"task": "esclusa.extract", "id": "1", "args": [], "kwargs": {"batch_id": "ok-1"}}',
    "the base64 of a good one": base64.b64encode(GOOD.encode()).decode(),
    "an unknown task": changed("headers/task", "os.system"),
    "a task of another worker": task_message(PUBLISH_TASK, {"batch_id": "b1"}, queue="publish", task_id="b1"),
    "no task": changed("headers", {"id": "1"}),
    "no id": changed("headers", {"task": EXTRACT_TASK}),
    "an id that is a number": changed("headers/id", 7),
    "headers a list": changed("headers", []),
    "headers a string": changed("headers", "task"),
    "no headers": without("headers"),
    "no properties": without("properties"),
    "properties null": changed("properties", None),
    "no content type": without("content-type"),
    "no body": without("body"),
    "a pickle": changed("content-type", "application/x-python-serialize"),
    "a compressed body": changed("headers/compression", "application/x-gzip"),
    "a body in base64": changed("properties/body_encoding", "base64"),
    "an unknown body encoding": changed("properties/body_encoding", "rot13"),
    "delivery_info a string": changed("properties/delivery_info", "extract"),
    "a body of two parts": changed("body", [[], {"batch_id": "ok-1"}]),
    "a body that is text": changed("body", '[[], {"batch_id": "ok-1"}, {}]'),
    "positional arguments": changed("body/0", ["ok-1"]),
    "an argument too many": changed("body/1/shell", "rm"),
    "an argument that is a list": changed("body/1/batch_id", ["ok-1"]),
    "an argument with a path": changed("body/1/batch_id", "../../etc/passwd"),
    "a callback": changed("body/2/callbacks", [{"task": EXTRACT_TASK}]),
    "a time limit of its own": changed("headers/timelimit", [None, 10**9]),
    "an eta": changed("headers/eta", "not a time"),
    "an expiry in the past": changed("headers/expires", "2001-01-01T00:00:00Z"),
}


def test_poison_of_any_shape_goes_to_the_dead_letters_and_good_messages_behind_it_are_run(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue(max_receive_count=2)
    for body in POISON.values():
        queue.send(body)
    queue.send_task("ok-behind")

    worker = start_worker(queue)
    wait_until(lambda: queue.dead_letter_count() == len(POISON), what="all poison is in the dead letters")
    queue.send_task("ok-after")
    wait_until(lambda: worker.ends("ok-after") == 1, what="the worker still works")
    wait_until(queue.is_empty)

    assert sorted(queue.dead_letters()) == sorted(POISON.values())
    assert worker.ends("ok-behind") == 1
    assert worker.journal().count("start ok-poison") == 0
    assert worker.is_alive()


def test_whatever_ends_a_task_but_success_its_message_comes_back_and_at_last_goes_to_the_dead_letters(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue(max_receive_count=2)
    failing = ["raise-1", "killed-1", "memory-1", "exit-1", "interrupt-1", "retry-1", "ignore-1"]
    overlong = ["sleep_60-soft", "stubborn_60-hard"]
    worker = start_worker(queue, concurrency=2, soft_time_limit_seconds=1, hard_time_limit_seconds=2)

    for batch_id in [*failing, *overlong, "ok-1"]:
        queue.send_task(batch_id)
    wait_until(
        lambda: queue.dead_letter_count() == len(failing) + len(overlong),
        timeout_seconds=60,
        what="all failing messages are in the dead letters",
    )
    queue.send_task("ok-2")
    wait_until(lambda: worker.ends("ok-2") == 1, what="the worker still works")
    wait_until(queue.is_empty)

    assert {batch_id: worker.starts(batch_id) for batch_id in failing + overlong} == dict.fromkeys(
        failing + overlong, 2
    )
    assert worker.ends("ok-1") == 1
    assert worker.is_alive()


def test_the_message_of_a_worker_that_was_killed_is_run_by_another_one(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue()
    killed = start_worker(queue, visibility_timeout_seconds=3)
    queue.send_task("sleep_4-1")
    wait_until(lambda: killed.starts("sleep_4-1") == 1)

    killed.kill()
    wait_until(
        lambda: not any(psutil.pid_exists(pid) for pid in killed.task_pids()), what="its children died"
    )
    heir = start_worker(queue)
    wait_until(lambda: heir.ends("sleep_4-1") == 1)
    wait_until(queue.is_empty)

    assert killed.ends("sleep_4-1") == 0
    assert heir.starts("sleep_4-1") == 1
    assert queue.dead_letter_count() == 0


def test_a_worker_that_is_stopped_ends_short_tasks_and_gives_back_the_messages_of_long_ones_at_once(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue()
    # Nothing comes back by itself within the time of this test.
    worker = start_worker(queue, concurrency=2, visibility_timeout_seconds=600)
    queue.send_task("sleep_1-short")
    queue.send_task("stubborn_60-long")
    wait_until(lambda: worker.starts("sleep_1-short") == worker.starts("stubborn_60-long") == 1)
    queue.send_task("ok-late")

    exit_code = worker.stop()

    assert exit_code == 0
    assert worker.ends("sleep_1-short") == 1
    assert worker.starts("ok-late") == 0
    assert queue.depth() == (2, 0)
    assert not any(psutil.pid_exists(pid) for pid in worker.task_pids())


def test_a_worker_that_is_stopped_while_its_tasks_are_short_does_not_wait_its_full_time(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue()
    worker = start_worker(queue, soft_shutdown_seconds=600)
    queue.send_task("sleep_1-1")
    wait_until(lambda: worker.starts("sleep_1-1") == 1)

    exit_code = worker.stop()

    assert exit_code == 0
    assert worker.ends("sleep_1-1") == 1
    assert queue.is_empty()


def test_a_task_longer_than_the_visibility_timeout_is_delivered_once(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue()
    workers = [start_worker(queue, visibility_timeout_seconds=3) for _ in range(2)]

    queue.send_task("sleep_7-1")
    wait_until(lambda: any(worker.ends("sleep_7-1") for worker in workers))
    wait_until(queue.is_empty)

    assert sum(worker.starts("sleep_7-1") for worker in workers) == 1


@pytest.mark.parametrize(
    ("action", "fault", "times", "runs"),
    [
        ("ReceiveMessage", Fault.SERVICE_UNAVAILABLE, 3, 1),
        ("ReceiveMessage", Fault.DROP, 3, 1),
        ("ReceiveMessage", Fault.BLACK_HOLE, 1, 1),
        ("ReceiveMessage", Fault.ACCESS_DENIED, 2, 1),
        ("DeleteMessage", Fault.ACCESS_DENIED, 1, 2),
        ("DeleteMessage", Fault.SERVICE_UNAVAILABLE, 4, 2),
        # boto3 repeats the call: the message is gone, and SQS takes a second delete for done.
        ("DeleteMessage", Fault.LOSE_ANSWER, 1, 1),
    ],
)
def test_a_worker_outlives_faults_of_sqs(
    make_queue: Callable[..., TestQueue],
    start_worker: StartWorker,
    ministack: str,
    *,
    action: str,
    fault: Fault,
    times: int,
    runs: int,
) -> None:
    queue = make_queue(max_receive_count=8)
    with FaultProxy(ministack).running() as proxy:
        worker = start_worker(queue, endpoint=proxy.url, visibility_timeout_seconds=3)

        proxy.order(action, fault, times=times)
        if action == "ReceiveMessage":
            wait_until(lambda: proxy.is_done(action), what="the faults have happened")
        queue.send_task("ok-1")
        wait_until(queue.is_empty)

        assert proxy.is_done(action)
        assert worker.ends("ok-1") == runs
        assert worker.is_alive()
        worker.kill()


def test_each_line_of_a_workers_log_is_one_record_whoever_wrote_it(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker
) -> None:
    queue = make_queue(max_receive_count=1)
    worker = start_worker(queue)
    for batch_id in ("ok-1", "raise-1", "killed-1"):
        queue.send_task(batch_id)
    queue.send("not\na message")
    wait_until(lambda: queue.dead_letter_count() == 3)
    wait_until(queue.is_empty)

    worker.stop()

    records = [json.loads(line) for line in worker.log().splitlines()]
    events = " ".join(record["event"] for record in records)
    assert {record["service"] for record in records} == {"test-extractor"}
    assert all(
        event in events
        for event in ("worker_starting", "task_spoke", "task_failed", "message_refused", "worker_stopped")
    )


def test_a_worker_that_starts_while_sqs_is_away_works_once_it_is_back(
    make_queue: Callable[..., TestQueue], start_worker: StartWorker, ministack: str
) -> None:
    queue = make_queue()
    queue.send_task("ok-1")
    with FaultProxy(ministack).running() as proxy:
        # As many as boto3 tries by itself.
        proxy.order("GetQueueAttributes", Fault.SERVICE_UNAVAILABLE, times=4)

        worker = start_worker(queue, endpoint=proxy.url)
        wait_until(queue.is_empty)

        assert "queue_unavailable" in worker.log()
        assert worker.ends("ok-1") == 1
        worker.kill()


@pytest.mark.parametrize(("max_receive_count", "is_warned"), [(3, True), (4, False)])
def test_a_worker_warns_of_a_queue_that_gives_up_before_the_ledger(
    make_queue: Callable[..., TestQueue],
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    *,
    max_receive_count: int,
    is_warned: bool,
) -> None:
    monkeypatch.setenv("MAX_ATTEMPTS", "3")
    queue = make_queue(max_receive_count=max_receive_count)

    worker = start_worker(queue)
    queue.send_task("ok-1")
    wait_until(lambda: worker.ends("ok-1") == 1)

    assert ("max_receive_count_too_low" in worker.log()) is is_warned


def test_a_worker_refuses_to_serve_a_queue_without_dead_letters(
    client: "SQSClient", ministack: str, tmp_path: Path
) -> None:
    url = client.create_queue(QueueName=f"no-dead-letters-{os.getpid()}")["QueueUrl"]

    refused = run_worker_to_its_end(url, tmp_path, endpoint=ministack)

    assert refused.returncode != 0
    assert "should have a RedrivePolicy, found none" in refused.stdout


def test_a_worker_refuses_to_serve_a_queue_that_does_not_exist(ministack: str, tmp_path: Path) -> None:
    refused = run_worker_to_its_end(f"{ministack}/000000000000/nowhere", tmp_path, endpoint=ministack)

    assert refused.returncode != 0
    assert "Give the URL of an existing queue" in refused.stdout


def run_worker_to_its_end(url: str, directory: Path, *, endpoint: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "support.celery_sqs_app"],
        cwd=directory,
        env=worker_environment(url, directory, endpoint=endpoint, settings={}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
