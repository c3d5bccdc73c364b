"""Planning tiles a table's time without gap, whatever becomes of its contract and of the source's clock."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from support.ledger_rows import BUCKET, NOON, a_contract
from support.ledgers import SteppingClock
from support.scouts import ToldScout

from shared import lifecycle
from shared.domain.batches import Batch, BatchState
from shared.domain.contracts import Publishing, PublishMode, TableContract
from shared.domain.progress import Expectation
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard, SourceLimits
from shared.domain.windows import Window
from shared.ledger.memory import MemoryLedger
from shared.planning import plan_source, register_source, retire_source

QUARTER = timedelta(minutes=15)
WITH_CURSOR = a_contract().contract
LAG = timedelta(seconds=30)
SNAPSHOT = replace(WITH_CURSOR, cursor=None, publishing=Publishing(PublishMode.REPLACE))


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(lambda: NOON)


def planned(ledger: MemoryLedger, contract: TableContract, moment: datetime) -> list[Window]:
    (table,) = plan_source([contract], ledger=ledger, scout=ToldScout(lambda: moment), bucket=BUCKET)
    return [window.window for window in table.planned]


def batches(ledger: MemoryLedger) -> Sequence[Batch]:
    with ledger.transaction() as tx:
        return tx.batches()


def settle(ledger: MemoryLedger) -> None:
    """Let nothing be on its way any more."""
    for batch in batches(ledger):
        with ledger.transaction() as tx:
            lifecycle.claim(
                tx, batch.id, lifecycle.Stage.EXTRACT, worker="w", lease=QUARTER, retry=RetryPolicy(0)
            )
    assert {batch.state for batch in batches(ledger)} == {BatchState.FAILED}


def test_a_snapshot_table_that_is_given_a_cursor_misses_no_time(ledger: MemoryLedger) -> None:
    planned(ledger, SNAPSHOT, NOON)
    settle(ledger)

    windows = planned(ledger, WITH_CURSOR, NOON + QUARTER + LAG)

    assert windows == [Window(NOON, NOON + QUARTER)]


def test_a_table_that_loses_its_cursor_and_gets_it_back_misses_no_time(ledger: MemoryLedger) -> None:
    planned(ledger, WITH_CURSOR, NOON + LAG)
    planned(ledger, SNAPSHOT, NOON + 2 * QUARTER)
    settle(ledger)

    assert planned(ledger, SNAPSHOT, NOON + 3 * QUARTER) == [Window(None, NOON + 3 * QUARTER)]
    assert planned(ledger, WITH_CURSOR, NOON + 4 * QUARTER + LAG) == [
        Window(NOON + 3 * QUARTER, NOON + 4 * QUARTER)
    ]


def test_a_clock_that_was_set_back_plans_nothing_until_it_has_caught_up(ledger: MemoryLedger) -> None:
    planned(ledger, WITH_CURSOR, NOON + LAG)

    assert planned(ledger, WITH_CURSOR, NOON - timedelta(hours=5)) == []
    assert planned(ledger, WITH_CURSOR, NOON + QUARTER + LAG) == [Window(NOON, NOON + QUARTER)]


def test_another_interval_begins_where_the_last_window_ended(ledger: MemoryLedger) -> None:
    hourly = replace(WITH_CURSOR, schedule=replace(WITH_CURSOR.schedule, every=timedelta(hours=1)))
    planned(ledger, WITH_CURSOR, NOON + QUARTER + LAG)

    assert planned(ledger, hourly, NOON + 2 * QUARTER) == []
    assert planned(ledger, hourly, NOON + timedelta(hours=1) + LAG) == [
        Window(NOON + QUARTER, NOON + timedelta(hours=1))
    ]


def test_a_table_far_behind_is_caught_up_call_by_call_without_gap(ledger: MemoryLedger) -> None:
    planned(ledger, WITH_CURSOR, NOON + LAG)
    late = NOON + timedelta(hours=10) + LAG

    windows = [window for _ in range(4) for window in planned(ledger, WITH_CURSOR, late)]

    assert windows[0].start == NOON
    assert windows[-1].end == NOON + timedelta(hours=10)
    assert all(one.end == next_one.start for one, next_one in pairwise(windows))


def test_two_planners_with_different_contracts_plan_each_window_once(ledger: MemoryLedger) -> None:
    other = a_contract(version=2).contract
    moment = NOON + LAG

    first, second = planned(ledger, WITH_CURSOR, moment), planned(ledger, other, moment)

    assert (len(first), second) == (1, [])
    assert [batch.contract_version for batch in batches(ledger)] == [1]


def test_a_snapshot_on_its_way_is_not_followed_by_another(ledger: MemoryLedger) -> None:
    planned(ledger, SNAPSHOT, NOON)

    assert planned(ledger, SNAPSHOT, NOON + QUARTER) == []


# ---- what a source's file says of how it is run ------------------------------------------------------------------


def register(ledger: MemoryLedger, *tables: str, places: int = 4, patience: timedelta = QUARTER) -> None:
    register_source(
        [replace(WITH_CURSOR, table=table) for table in tables],
        expected_by=dict.fromkeys(tables, patience),
        limits=SourceLimits(places),
        ledger=ledger,
    )


def expectations(ledger: MemoryLedger) -> dict[str, Expectation]:
    with ledger.transaction() as tx:
        return {f"{item.source}.{item.table}": item for item in tx.expectations()}


def guard(ledger: MemoryLedger) -> SourceGuard:
    with ledger.transaction() as tx:
        return tx.source_guard("shop")


def test_a_source_is_expected_from_the_moment_it_is_first_enqueued() -> None:
    clock = SteppingClock()
    ledger = MemoryLedger(clock)
    register(ledger, "orders")
    clock.advance(hours=1)

    register(ledger, "orders", patience=2 * QUARTER)

    assert expectations(ledger) == {
        "shop.orders": Expectation("shop", "orders", QUARTER, 2 * QUARTER, since=NOON)
    }


def test_a_table_that_left_the_file_is_expected_no_more_and_other_sources_are(ledger: MemoryLedger) -> None:
    other = replace(WITH_CURSOR, origin=replace(WITH_CURSOR.origin, source="crm"))
    register(ledger, "orders", "customers")
    register_source([other], expected_by={"orders": QUARTER}, limits=SourceLimits(1), ledger=ledger)

    register(ledger, "orders")

    assert set(expectations(ledger)) == {"shop.orders", "crm.orders"}


def test_the_places_of_a_source_follow_its_file_and_leave_its_breaker_alone(ledger: MemoryLedger) -> None:
    register(ledger, "orders", places=2)
    with ledger.transaction() as tx:
        tx.save_source_guard(replace(tx.source_guard("shop"), failures_in_a_row=3, open_until=NOON))

    register(ledger, "orders", places=7)

    assert guard(ledger) == SourceGuard("shop", SourceLimits(7), failures_in_a_row=3, open_until=NOON)


def test_a_retired_source_is_expected_no_more_and_counts_as_answering(ledger: MemoryLedger) -> None:
    register(ledger, "orders", "customers", places=2)
    with ledger.transaction() as tx:
        tx.save_source_guard(replace(tx.source_guard("shop"), failures_in_a_row=3, open_until=NOON))

        tx.save_expectation(Expectation("crm", "deals", QUARTER, QUARTER, since=NOON))

    counts = [retire_source("shop", ledger=ledger), retire_source("shop", ledger=ledger)]

    assert counts == [2, 0]
    assert set(expectations(ledger)) == {"crm.deals"}
    assert guard(ledger) == SourceGuard("shop", SourceLimits(2))
