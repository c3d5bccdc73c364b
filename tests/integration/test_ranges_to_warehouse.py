"""Tables read by ranges of their key, and tables that are queries: through ledger and every service, and proven."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.extraction import column
from support.reconciled import Travelled, orders

from reconciliation.findings import TableFinding
from shared.catalog.queries import parse_query
from shared.domain.batches import Batch, Stage
from shared.domain.contracts import DeleteMode, Deletes, KeyRanges, PublishMode, TableContract

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ranged(**changes: object) -> TableContract:
    return replace(orders(mode=PublishMode.REPLACE), key_ranges=KeyRanges(rows_per_range=10), **changes)  # type: ignore[arg-type]


@pytest.fixture
def travelled(fresh_database: str) -> Travelled:
    """A hundred orders, read by ranges."""
    found = Travelled(fresh_database, ranged())
    found.execute(
        "INSERT INTO public.orders SELECT i, 'n' || i, i, '2026-01-01Z' FROM generate_series(1, 100) AS i"
    )
    return found


def read_and_carried(batch: Batch) -> tuple[int, int]:
    return batch.counts["rows_read"], batch.counts.get("rows_carried_over", 0)


def names(travelled: Travelled) -> dict[int, str]:
    rows = [row for block in travelled.warehouse.read_rows(travelled.contract) for row in block.iter_rows()]
    return {row[0]: row[1] for row in rows}


def is_equal(finding: TableFinding) -> bool:
    return finding.is_equal and bool(finding.windows)


def test_a_snapshot_by_ranges_is_the_table_and_is_proven(travelled: Travelled) -> None:
    first = travelled.move(None, NOON)
    travelled.execute("UPDATE public.orders SET name = 'changed' WHERE id = 5")
    travelled.execute("DELETE FROM public.orders WHERE id = 95")
    # A row that moves to another key is gone where it was.
    travelled.execute("UPDATE public.orders SET id = 1000 WHERE id = 50")

    second = travelled.move(None, NOON + HOUR)
    third = travelled.move(None, NOON + 2 * HOUR)

    assert read_and_carried(first) == (100, 0)
    assert sum(read_and_carried(second)) == 99
    assert second.counts["rows_read"] < 60
    assert read_and_carried(third) == (0, 99)
    found = names(travelled)
    assert found[5] == "changed"
    assert found.keys() == {*range(1, 101), 1000} - {50, 95}
    assert is_equal(travelled.prove())


def test_what_was_not_published_is_not_known(travelled: Travelled) -> None:
    """A batch that ends before its rows are seen may never be: its checksums count for nothing."""
    travelled.move(None, NOON)
    travelled.execute("UPDATE public.orders SET name = 'changed' WHERE id = 5")
    travelled.move(None, NOON + HOUR, until=Stage.PROCESS)

    later = travelled.move(None, NOON + 2 * HOUR)

    assert later.counts["rows_read"] > 0
    assert names(travelled)[5] == "changed"


def test_another_contract_reads_everything(travelled: Travelled) -> None:
    travelled.move(None, NOON)
    travelled.contract = replace(travelled.contract, columns=travelled.contract.columns[:3])

    again = travelled.move(None, NOON + HOUR)
    then = travelled.move(None, NOON + 2 * HOUR)

    assert (read_and_carried(again), read_and_carried(then)) == ((100, 0), (0, 100))


def test_rows_that_were_rejected_are_read_until_they_fit(travelled: Travelled) -> None:
    travelled.execute("UPDATE public.orders SET updated_at = 'infinity' WHERE id = 7")
    first = travelled.move(None, NOON)
    travelled.move(None, NOON + HOUR)
    travelled.execute("UPDATE public.orders SET updated_at = '2026-01-01Z' WHERE id = 7")
    mended = travelled.move(None, NOON + 2 * HOUR)

    assert first.counts["rows_rejected"] == 1
    assert read_and_carried(mended) == (100, 0)
    assert len(names(travelled)) == 100


def test_keys_are_swept_by_ranges_beside_windows_that_are_read_whole(fresh_database: str) -> None:
    swept = orders(
        key_ranges=KeyRanges(rows_per_range=10),
        deletes=Deletes(DeleteMode.SWEEP, max_rows=10, max_ratio=0.2),
    )
    travelled = Travelled(fresh_database, swept)
    travelled.execute(
        "INSERT INTO public.orders SELECT i, 'n', 1, '2026-01-01Z' FROM generate_series(1, 100) AS i"
    )
    window = travelled.move(None, NOON)
    first = travelled.sweep_keys(NOON)
    travelled.execute("DELETE FROM public.orders WHERE id = 33")

    second = travelled.sweep_keys(NOON + HOUR)

    assert "rows_carried_over" not in window.counts
    assert read_and_carried(first) == (100, 0)
    assert (sum(read_and_carried(second)), second.counts["rows_deleted"]) == (99, 1)
    assert second.counts["rows_read"] < 40
    assert 33 not in names(travelled)


def test_a_query_is_proven_and_counted_again_like_a_table(fresh_database: str) -> None:
    text = """
        SELECT o.id, o.name, o.price * 2 AS double_price, o.updated_at FROM public.orders AS o
        WHERE o.updated_at >= :window_start AND o.updated_at < :window_end
    """
    contract = orders(
        columns=[
            column("id", "int64", nullable=False),
            column("name"),
            column("double_price", "decimal(12,2)"),
            column("updated_at", "timestamptz"),
        ],
    )
    query = parse_query(text, product="postgresql", bound_type="timestamp with time zone")
    travelled = Travelled(fresh_database, replace(contract, relation=(), query=query))
    travelled.insert((1, "a", 1, NOON - HOUR), (2, "b", 2, NOON + HOUR / 2))
    travelled.move(None, NOON)
    travelled.move(NOON, NOON + HOUR)
    travelled.move(NOON + HOUR, NOON + 2 * HOUR)

    proven = is_equal(travelled.prove())
    travelled.insert((3, "late", 3, NOON - HOUR))
    differs = travelled.first_difference()
    counted = travelled.recount(is_dry_run=True)

    assert proven
    assert differs.batch.window.end == NOON
    assert [window.found_row_count - window.known_row_count for window in counted.windows] == [1, 0, 0]
