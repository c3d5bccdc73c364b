"""Any part killed with -9 while it is at work: once it is back, nothing is missing and nothing is doubled."""

from contextlib import suppress

import psutil
import pytest
from support.fleet import SmallFleet, until

from local.processes import living_processes
from shared.domain.batches import STAGE_STATES, AttemptState, BatchState, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

WORKERS = {"extractor": Stage.EXTRACT, "processor": Stage.PROCESS, "publisher": Stage.PUBLISH}


@pytest.fixture(autouse=True)
def changed_orders(fleet: SmallFleet) -> None:
    """Work for the next batch: the shop at rest in the warehouse, and some of its orders changed since."""
    fleet.move_everything("shop")
    fleet.shop("UPDATE orders SET updated_at = now(), item_count = item_count + 1 WHERE order_id <= 1000")


def kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_task_killed_between_its_work_and_its_record_is_done_again(fleet: SmallFleet, worker: str) -> None:
    stage = WORKERS[worker]
    with fleet.held_in(STAGE_STATES[stage].running, table="orders") as batch_id:
        at_work = until(
            lambda: set(fleet.blocked_clients()) & set(fleet.children(worker)), what="a finished task"
        )

        kill_all(list(at_work))

    # Nobody repairs anything: the worker lives, and finds that its child died.
    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()
    with fleet.fleet.ledger.transaction() as tx:
        attempts = [attempt.state for attempt in tx.attempts(batch_id) if attempt.stage is stage]
    assert (attempts[0], attempts[-1]) == (AttemptState.EXPIRED, AttemptState.SUCCEEDED)


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_killed_with_its_tasks_changes_nothing_once_it_is_back(
    fleet: SmallFleet, worker: str
) -> None:
    stage = WORKERS[worker]
    with fleet.held_in(STAGE_STATES[stage].running, table="orders") as batch_id:
        main = psutil.Process(living_processes(fleet.home)[worker])

        kill_all([main, *fleet.children(worker)])

    fleet.repair()
    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()
    assert living_processes(fleet.home)[worker] != main.pid


def test_a_lambda_killed_in_its_invocation_changes_nothing(fleet: SmallFleet) -> None:
    server = psutil.Process(living_processes(fleet.home)["aws"])
    with fleet.held_in(BatchState.EXTRACTED, table="orders") as batch_id:
        at_work = until(
            lambda: set(fleet.blocked_clients()) & set(server.children(recursive=True)), what="a gate at work"
        )

        kill_all(list(at_work))

    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()
    assert server.is_running()


@pytest.mark.parametrize("part", ["aws", "postgres"])
def test_a_server_killed_under_the_fleet_changes_nothing_once_it_is_back(
    fleet: SmallFleet, part: str
) -> None:
    others = {"extractor", "processor", "publisher"}
    before = living_processes(fleet.home)
    with fleet.held_in(BatchState.PROCESSING, table="orders") as batch_id:
        fleet.kill(part)

    fleet.repair()
    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()
    after = living_processes(fleet.home)
    assert after[part] != before[part]
    assert {name: after[name] for name in others} == {name: before[name] for name in others}


def test_after_a_kill_of_the_whole_fleet_up_brings_back_all_of_it(fleet: SmallFleet) -> None:
    with fleet.held_in(BatchState.EXTRACTING, table="orders") as batch_id:
        kill_all(fleet.everything())

    fleet.up()

    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()


def test_the_fleet_goes_on_with_every_queue_purged(fleet: SmallFleet) -> None:
    sqs = fleet.client("sqs")
    with fleet.held_in(BatchState.EXTRACTED, table="orders") as batch_id:
        for queue in fleet.fleet.settings.queue_urls:
            sqs.purge_queue(QueueUrl=fleet.queue_url(queue))

    fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.wait_until_at_rest()
    fleet.assert_all_equal()
