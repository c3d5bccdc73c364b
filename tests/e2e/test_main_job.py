"""The main job on real parts: rows leave a source, pass every gate, and stand in the warehouse; again and again."""

import os
import threading
from collections import Counter
from itertools import pairwise

import psycopg
import pytest
from support.at_rest import sweep_without_patience
from support.fleet import SmallFleet, until

from local.processes import living_processes, supervise
from shared.domain.batches import BatchState
from shared.domain.counts import Count
from shared.domain.files import TRANSIENT_AREAS, Area
from shared.errors import ConfigurationError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_everything_of_both_sources_arrives_row_by_row(fleet: SmallFleet) -> None:
    fleet.move_everything()

    fleet.assert_all_equal("shop")
    fleet.assert_all_equal("crm")
    assert {
        table: found.warehouse_row_count >= 1000 for table, found in fleet.comparisons("crm").items()
    } == {
        "contacts": True,
        "deals": True,
    }
    assert fleet.comparisons()["orders"].warehouse_row_count >= 1900


def test_a_second_run_brings_what_changed_and_doubles_nothing(fleet: SmallFleet) -> None:
    fleet.move_everything("shop")
    with psycopg.connect(fleet.stack.shop_owner_dsn) as late:
        # Its updated_at is the moment it began: windows that close before it commits cannot see it.
        late.execute(NEW_ORDER, ["late"])
        fleet.shop(NEW_ORDER, ["new"])
        changed = fleet.shop("UPDATE orders SET status = 'returned', updated_at = now() WHERE order_id <= 10")
        deleted = fleet.shop(
            "UPDATE orders SET deleted_at = now(), updated_at = now() WHERE order_id BETWEEN 11 AND 13"
        )
        vanished = fleet.shop(
            "DELETE FROM products WHERE product_id = (SELECT max(product_id) FROM products)"
        )
        fleet.move_everything("shop")
        seen_before_the_late_commit = marked_orders(fleet)
        late.commit()
    # It commits behind every window that covers its moment; the next one reads a little of them again.
    fleet.move_everything("shop")

    fleet.assert_all_equal()
    assert (changed, deleted, vanished) == (10, 3, 1)
    assert seen_before_the_late_commit == Counter({"new": 1})
    assert marked_orders(fleet) == Counter({"new": 1, "late": 1})
    assert fleet.warehouse("SELECT count(*) FROM shop.orders WHERE order_id BETWEEN 11 AND 13") == [(0,)]
    assert fleet.warehouse("SELECT count(*) - count(DISTINCT order_id) FROM shop.orders") == [(0,)]


NEW_ORDER = """
    INSERT INTO orders (customer_id, status, total_amount, currency, item_count, is_gift, reference, ordered_on,
                        metadata, created_at, updated_at)
    VALUES (1, 'new', 1, 'EUR', 1, false, gen_random_uuid(), current_date, json_build_object('mark', %s::text),
            now(), now())
"""


def marked_orders(fleet: SmallFleet) -> Counter[str]:
    rows = fleet.warehouse("SELECT metadata->>'mark' FROM shop.orders WHERE metadata->>'mark' IS NOT NULL")
    return Counter(mark for (mark,) in rows)


@pytest.mark.parametrize("source", ["shop", "crm"])
def test_at_rest_ledger_and_bucket_agree(fleet: SmallFleet, source: str) -> None:
    store, bucket = fleet.fleet.store, fleet.bucket(source)

    def leftovers() -> list[str]:
        return [info.location.key for area in TRANSIENT_AREAS for info in store.list(bucket, f"{area}/")]

    # Attempts that other tests killed left files that nobody names; the deep sweep takes them away.
    fleet.wait_until_at_rest()
    sweep_without_patience(fleet, source)
    fleet.move_everything(source)

    until(lambda: not leftovers(), what="the cleaner to empty the transient areas")
    in_final = {info.location for info in store.list(bucket, "final/")}
    known = {file.location for file in fleet.files(areas=[Area.FINAL]) if file.deleted_at is None}
    assert in_final == {location for location in known if location.bucket == bucket}
    assert not list(store.open_uploads(bucket))
    for batch in fleet.batches(source=source, states=frozenset({BatchState.PUBLISHED})):
        counts = batch.counts
        assert counts[Count.ROWS_READ] == counts[Count.ROWS_WRITTEN] + counts[Count.ROWS_OUTSIDE_WINDOW]
        assert counts[Count.ROWS_STAGED] == counts[Count.ROWS_IN_FINAL]


def test_two_enqueues_at_once_plan_no_window_twice(fleet: SmallFleet) -> None:
    fleet.move_everything()
    before = {batch.id for batch in fleet.batches()}
    barrier = threading.Barrier(4)

    def plan() -> None:
        barrier.wait(timeout=30)
        fleet.enqueue()

    planners = [threading.Thread(target=plan) for _ in range(4)]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join(timeout=60)
    planned = [batch for batch in fleet.batches() if batch.id not in before]
    fleet.wait_until_at_rest()

    assert planned
    for table in ("customers", "orders", "order_items"):
        windows = sorted(
            (batch.window.start, batch.window.end)
            for batch in fleet.batches(table=table)
            if batch.window.start is not None
        )
        assert all(end == start for (_, end), (start, _) in pairwise(windows))
    fleet.move_everything()
    fleet.assert_all_equal()


def test_a_second_up_while_one_is_at_work_is_told_so(fleet: SmallFleet) -> None:
    before = living_processes(fleet.home)

    with supervise(fleet.home, purpose="up"), pytest.raises(ConfigurationError) as refusal:
        fleet.up()

    assert f"`up` (pid {os.getpid()}) is at work on this stack" in str(refusal.value)
    assert living_processes(fleet.home) == before


def test_a_second_up_on_a_running_fleet_starts_nothing(fleet: SmallFleet) -> None:
    before = living_processes(fleet.home)

    fleet.up()

    assert living_processes(fleet.home) == before
