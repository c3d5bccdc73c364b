"""Planning tiles a table's time without gap, whatever becomes of its contract and of the source's clock."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from support.ledger_rows import BUCKET, NOON, a_contract

from shared import lifecycle
from shared.domain.batches import Batch, BatchState
from shared.domain.contracts import Publishing, PublishMode, TableContract
from shared.domain.retries import RetryPolicy
from shared.domain.windows import Window
from shared.ledger.memory import MemoryLedger
from shared.planning import plan_source

QUARTER = timedelta(minutes=15)
WITH_CURSOR = a_contract().contract
LAG = timedelta(seconds=30)
SNAPSHOT = replace(WITH_CURSOR, cursor=None, publishing=Publishing(PublishMode.REPLACE))


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger(lambda: NOON)


def planned(ledger: MemoryLedger, contract: TableContract, moment: datetime) -> list[Window]:
    (table,) = plan_source([contract], ledger=ledger, source_clock=lambda: moment, bucket=BUCKET)
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
