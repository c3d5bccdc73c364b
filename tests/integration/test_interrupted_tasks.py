"""A worker that is told to stop and has a long task: the task hears of it, and its message is there for others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.celery_sqs import TestQueue, TestWorker, sqs_client, wait_until

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


@pytest.fixture
def queue(ministack: str) -> TestQueue:
    return TestQueue.create(sqs_client(ministack), f"interrupted-{os.getpid()}")


@pytest.fixture
def worker(ministack: str, queue: TestQueue, tmp_path: Path) -> Iterator[TestWorker]:
    # Nothing comes back by itself within the time of this test.
    worker = TestWorker.start(
        queue,
        tmp_path / "worker",
        endpoint=ministack,
        visibility_timeout_seconds=600,
        soft_shutdown_seconds=1,
    )
    yield worker
    if worker.is_alive():
        worker.kill()


def test_a_long_task_is_interrupted_before_it_is_killed_and_its_message_given_back(
    queue: TestQueue, worker: TestWorker
) -> None:
    queue.send_task("sleep_90-long")
    wait_until(lambda: worker.starts("sleep_90-long") == 1)

    exit_code = worker.stop()

    assert exit_code == 0
    assert worker.ends("sleep_90-long") == 0
    assert '"error": "Interrupted"' in worker.log()
    assert "task_process_killed" not in worker.log()
    assert queue.depth() == (1, 0)
