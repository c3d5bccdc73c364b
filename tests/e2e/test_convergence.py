"""A fleet that lost everything but S3 and the control database, with batches in every state, comes to rest by itself."""

import shutil
from contextlib import ExitStack, suppress

import psutil
import pytest
from support.at_rest import sweep_without_patience
from support.fleet import OPEN_STATES, SmallFleet, until

from local.processes import living_processes
from shared.domain.batches import BatchState
from shared.domain.files import TRANSIENT_AREAS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Backwards: a batch that is held keeps a worker busy, and the next one need not come as far.
FROM_LAST_TO_FIRST = [state for state in reversed(BatchState) if state in OPEN_STATES]


def test_a_stack_made_anew_on_s3_and_the_ledger_finishes_batches_of_every_state(fleet: SmallFleet) -> None:
    fleet.shop("UPDATE orders SET updated_at = now(), item_count = item_count + 1 WHERE order_id <= 500")
    with ExitStack() as holds:
        caught = {
            state: holds.enter_context(fleet.held_in(state, table="orders")) for state in FROM_LAST_TO_FIRST
        }

        _lose_all_but_s3_and_the_databases(fleet)

    assert {state: fleet.batch(batch_id).state for state, batch_id in caught.items()} == {
        state: state for state in caught
    }
    fleet.up()

    for batch_id in caught.values():
        fleet.wait_for_state(batch_id, BatchState.PUBLISHED)
    fleet.wait_until_at_rest()
    fleet.assert_all_equal()
    sweep_without_patience(fleet, "shop")
    store, bucket = fleet.fleet.store, fleet.bucket("shop")
    until(
        lambda: not [info for area in TRANSIENT_AREAS for info in store.list(bucket, f"{area}/")],
        what="the cleaner to empty the transient areas",
    )


def _lose_all_but_s3_and_the_databases(fleet: SmallFleet) -> None:
    """
    kill -9 AWS and every worker, and forget queues, messages, S3 events, Lambdas, secrets, catalog and uploads.

    The databases run on: the ledger, and the warehouse and sources beside it.
    """
    names = set(living_processes(fleet.home)) - {"postgres", "crm"}
    doomed = [psutil.Process(living_processes(fleet.home)[name]) for name in names]
    doomed += [child for process in doomed for child in process.children(recursive=True)]
    for process in doomed:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=10)
    shutil.rmtree(fleet.home.path / "aws" / "state")
