"""The processes of a worker's pool, killed while they wait for work."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from support.celery_sqs import TestQueue, TestWorker, sqs_client, wait_until

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def client(ministack: str) -> "SQSClient":
    return sqs_client(ministack)


@pytest.fixture
def start_worker(ministack: str, tmp_path: Path) -> Iterator[Callable[..., TestWorker]]:
    started: list[TestWorker] = []

    def start(queue: TestQueue, **settings: object) -> TestWorker:
        started.append(TestWorker.start(queue, tmp_path / "worker", endpoint=ministack, **settings))
        return started[-1]

    yield start
    for worker in started:
        if worker.is_alive():
            worker.stop()


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_task_runs_although_an_idle_process_of_the_pool_was_killed(
    client: "SQSClient", start_worker: Callable[..., TestWorker], concurrency: int
) -> None:
    queue = TestQueue.create(client, f"idle-{concurrency}")
    worker = start_worker(queue, concurrency=concurrency)
    queue.send_task("ok-1")
    wait_until(lambda: worker.ends("ok-1") == 1)
    wait_until(queue.is_empty)
    idle = children_of(worker)
    assert len(idle) == concurrency

    # Each of them in turn: one of the idle holds the lock under which a task is read.
    for number, child in enumerate(idle, start=2):
        child.kill()
        wait_until(lambda: len(children_of(worker)) == concurrency, what="another process in its place")
        queue.send_task(f"ok-{number}")
        wait_until(lambda: worker.ends(f"ok-{number}") == 1, what=f"task {number}: {worker.log()[-1500:]}")  # noqa: B023

    wait_until(queue.is_empty)
    assert worker.is_alive()


def children_of(worker: TestWorker) -> list[psutil.Process]:
    """Return the processes that run tasks."""
    children = psutil.Process(worker.process.pid).children()
    return [
        child
        for child in children
        if child.status() != psutil.STATUS_ZOMBIE and "billiard.spawn" in " ".join(child.cmdline())
    ]
