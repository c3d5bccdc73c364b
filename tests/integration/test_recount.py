"""Published windows counted again on a real PostgreSQL server: what came behind them is found, and brought."""

from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs
from support.commands import Ended, Shell
from support.extraction import column
from support.reconciled import Travelled, hour, orders

from cli.output import ExitCode
from cli.recount import SCHEDULED_PART
from reconciliation.history import Span
from reconciliation.recount import Answer, TableRecount
from reconciliation.sides import Side
from services.extractor.readers.postgres import PostgresReader
from shared import lifecycle
from shared.domain.batches import BatchState, Stage
from shared.domain.contracts import Cursor, PublishMode, SourceKind
from shared.domain.retries import RetryPolicy
from shared.domain.windows import PlannedWindow, Window, slot_of
from shared.errors import SourceUnavailable
from shared.planning import retire_source

ONCE = RetryPolicy(1, timedelta(0), timedelta(0))


@pytest.fixture
def shop(fresh_database: str) -> Travelled:
    """Three windows: until hour 1, until hour 2, until hour 3."""
    return three_windows(Travelled(fresh_database))


def three_windows(shop: Travelled) -> Travelled:
    shop.insert(
        (1, "Anna", "1.10", hour(0.5)),
        (2, "Bert", "2", hour(0.75)),
        (3, "Carl", "3", hour(1.5)),
        (4, "Dora", "4", hour(2.5)),
    )
    shop.move(None, hour(1))
    shop.move(hour(1), hour(2))
    shop.move(hour(2), hour(3))
    return shop


def answers(found: TableRecount) -> list[Answer | None]:
    return [count.answer for count in found.windows]


def counts(found: TableRecount) -> list[tuple[int, int]]:
    return [(count.known_row_count, count.found_row_count) for count in found.windows]


def bulk_batch_count(shop: Travelled) -> int:
    with shop.ledger.transaction() as tx:
        return len(tx.batches(bulk_only=True))


# ---- what is found -----------------------------------------------------------------------------------------


def test_windows_that_nothing_happened_to_have_as_many_rows_as_were_read(shop):
    found = shop.recount()

    assert counts(found) == [(2, 2), (1, 1), (1, 1)]
    assert answers(found) == [None, None, None]
    assert found.run is None
    assert found.is_cared_for


def test_a_row_that_came_behind_its_window_is_found_and_arrives(shop):
    shop.insert((5, "late", "5", hour(1.75)))

    with capture_logs() as logs:
        found = shop.recount()
    before = shop.prove().is_equal
    assert found.run is not None
    shop.lead(found.run)

    assert answers(found) == [None, Answer.PLANNED, None]
    assert [batch.window for batch in found.run.batches] == [Window(hour(1), hour(2))]
    assert all(batch.is_bulk for batch in found.run.batches)
    (said,) = [entry for entry in logs if entry["event"] == "window_count_rose"]
    assert (said["known_row_count"], said["found_row_count"]) == (1, 2)
    after = shop.prove()
    assert not before
    assert after.is_equal
    assert after.total(Side.WAREHOUSE).row_count == 5


def test_what_was_found_once_is_not_planned_twice(shop):
    shop.insert((5, "late", "5", hour(1.75)))
    run = shop.recount().run
    assert run is not None

    meanwhile = shop.recount()
    shop.lead(run)
    afterwards = shop.recount()

    assert counts(meanwhile)[1] == (2, 2)
    assert counts(afterwards)[1] == (2, 2)
    assert bulk_batch_count(shop) == 1


def test_windows_that_follow_on_each_other_are_read_together_and_others_apart(fresh_database):
    shop = three_windows(Travelled(fresh_database))
    shop.move(hour(3), hour(4))
    shop.insert((5, "late", "5", hour(0.1)), (6, "late", "6", hour(1.1)), (7, "late", "7", hour(3.1)))

    run = shop.recount().run

    assert run is not None
    assert [batch.window for batch in run.batches] == [Window(None, hour(2)), Window(hour(3), hour(4))]
    shop.lead(run)
    assert shop.prove().total(Side.WAREHOUSE).row_count == 7


def test_rows_that_are_read_again_are_cut_as_a_first_load_is(fresh_database):
    contract = orders()
    contract = replace(contract, schedule=replace(contract.schedule, rows_per_part=2))
    shop = three_windows(Travelled(fresh_database, contract))
    shop.insert((5, "late", "5", hour(0.1)), (6, "late", "6", hour(0.6)))

    run = shop.recount().run

    assert run is not None
    assert len(run.batches) > 1
    shop.lead(run)
    assert shop.prove().is_equal


def test_rows_that_move_on_make_the_count_fall_which_is_noted_for_a_later_rise(shop):
    shop.execute("UPDATE public.orders SET updated_at = %s WHERE id = 1", hour(3.5))
    fallen = shop.recount()
    unchanged = shop.recount()
    shop.insert((5, "late", "5", hour(0.1)))

    risen = shop.recount()

    assert counts(fallen)[0] == (2, 1)
    assert answers(fallen) == [None, None, None]
    assert counts(unchanged)[0] == (1, 1)
    assert counts(risen)[0] == (1, 2)
    assert answers(risen)[0] is Answer.PLANNED


def test_a_rise_that_a_fall_hides_is_left_to_prove(shop):
    shop.execute("UPDATE public.orders SET updated_at = %s WHERE id = 1", hour(3.5))
    shop.insert((5, "late", "5", hour(0.1)))

    found = shop.recount()

    assert counts(found)[0] == (2, 2)
    assert not shop.prove().is_equal


def test_the_overlap_is_counted_as_it_was_read(fresh_database):
    shop = three_windows(Travelled(fresh_database, orders(overlap=timedelta(minutes=30))))
    still = shop.recount()
    shop.insert((5, "late", "5", hour(1.2)))

    found = shop.recount()

    # The last window is not settled: what comes late to it, the next one reads.
    assert counts(still) == [(2, 2), (3, 3)]
    assert counts(found) == [(2, 2), (3, 4)]
    assert found.run is not None
    shop.lead(found.run)
    shop.move(hour(3), hour(4))
    assert shop.prove().is_equal


def test_a_window_that_was_read_again_is_known_as_it_was_read_then(shop):
    with shop.ledger.transaction() as tx:
        (second,) = [batch for batch in tx.batches() if batch.window.start == hour(1)]
    shop.insert((5, "late", "5", hour(1.75)))
    shop.read_again(second)

    found = shop.recount()

    assert counts(found)[1] == (2, 2)
    assert found.run is None


def test_numbers_are_counted_part_by_part(fresh_database):
    cursor = Cursor("id", timedelta(0), timedelta(0), overlap_count=2)
    shop = Travelled(fresh_database, replace(orders(), cursor=cursor))
    shop.execute("INSERT INTO public.orders SELECT i * 2, 'n', i, now() FROM generate_series(1, 9) i")
    shop.move_numbers(Window(None, hour(1)), low=None, high=11, rows_per_part=5)
    shop.move_numbers(Window(hour(1), hour(2)), low=11, high=19)
    still = shop.recount()
    shop.insert((7, "late", "5", hour(1)))

    found = shop.recount()

    assert counts(still) == [(2, 2), (3, 3), (2, 2)]
    assert counts(found) == [(2, 2), (3, 4), (2, 2)]
    assert found.run is not None
    assert [batch.extent and (batch.extent.low, batch.extent.high) for batch in found.run.batches] == [
        ("5", "10")
    ]
    shop.lead(found.run)
    assert shop.prove().is_equal


def test_days_are_counted(fresh_database):
    columns = [column("id", "int64", nullable=False), column("name"), column("day", "date")]
    cursor = Cursor("day", timedelta(0), timedelta(0))
    shop = Travelled(fresh_database, replace(orders(columns=columns), cursor=cursor))
    shop.execute("ALTER TABLE public.orders ADD day date")
    shop.execute("INSERT INTO public.orders (id, day) VALUES (1, '2025-12-31'), (2, '2026-01-01')")
    shop.move(None, hour(0))
    shop.move(hour(0), hour(48))
    shop.execute("INSERT INTO public.orders (id, day) VALUES (3, '2026-01-01')")

    found = shop.recount()

    assert counts(found) == [(1, 1), (1, 2)]
    assert found.run is not None
    shop.lead(found.run)
    assert shop.prove().is_equal


# ---- what is not planned -----------------------------------------------------------------------------------


def test_a_dry_run_tells_and_changes_nothing(shop):
    shop.insert((5, "late", "5", hour(1.75)))

    told = shop.recount(is_dry_run=True)

    assert answers(told) == [None, Answer.DRY_RUN, None]
    assert not told.is_cared_for
    assert bulk_batch_count(shop) == 0
    assert answers(shop.recount()) == [None, Answer.PLANNED, None]


def half_an_hour(start: float) -> PlannedWindow:
    return PlannedWindow(slot_of(hour(start)), Window(hour(start), hour(start + 0.5)))


def test_a_window_that_a_backfill_reads_already_is_left_to_it_and_counted_again(shop):
    run = shop.plan_backfill(half_an_hour(1.5))
    shop.insert((5, "late", "5", hour(1.75)))

    meanwhile = shop.recount()
    shop.lead(run)
    afterwards = shop.recount()

    assert answers(meanwhile) == [None, Answer.UNDER_WAY, None]
    assert meanwhile.is_cared_for
    assert meanwhile.run is None
    # Whether the backfill saw the row nobody knows: the window is read once more.
    assert answers(afterwards) == [None, Answer.PLANNED, None]


def test_a_part_of_a_backfill_that_is_done_may_have_been_read_before_the_row_came(shop):
    run = shop.plan_backfill(half_an_hour(0.5), half_an_hour(1.5))
    shop.lead(replace(run, batches=run.batches[:1]))
    shop.insert((5, "late", "5", hour(0.6)))

    found = shop.recount()

    assert answers(found) == [Answer.UNDER_WAY, None, None]
    assert found.run is None


def test_a_window_whose_backfill_is_held_waits_for_an_operator(shop):
    run = shop.plan_backfill(half_an_hour(1.5))
    shop.insert((5, "late", "5", hour(1.75)))
    with shop.ledger.transaction() as tx:
        stage, id_ = Stage.EXTRACT, run.batches[0].id
        attempt = lifecycle.claim(tx, id_, stage, worker="w", lease=timedelta(minutes=1), retry=ONCE)
        assert attempt is not None
        held = tx.batch(id_)
        assert held is not None
        tx.save_batch(replace(held, state=BatchState.FAILED))

    ended = shell_at(shop).run("recount", "orders")

    assert ended.exit_code == ExitCode.PROBLEM
    assert "a backfill of it is held" in ended.output
    assert bulk_batch_count(shop) == 1


def test_windows_on_their_way_are_not_counted(shop):
    shop.move(hour(3), hour(4), until=Stage.EXTRACT)
    shop.insert((5, "late", "5", hour(3.5)))

    found = shop.recount()

    assert len(found.windows) == 3
    assert found.run is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cursor": None}, "it has no cursor"),
        ({"cursor": Cursor("id", timedelta(0), timedelta(0))}, "its cursor was changed"),
    ],
)
def test_a_table_that_cannot_be_counted_says_why(shop, changes, said):
    shop.contract = replace(shop.contract, **changes)
    shop.move_parts([PlannedWindow("other", Window(hour(3), hour(4)))], until=Stage.EXTRACT)

    found = shop.recount()

    assert found.windows == ()
    assert said in found.remarks[0]


def test_a_source_of_records_is_not_counted(shop):
    origin = replace(shop.contract.origin, kind=SourceKind.REST)
    with shop.ledger.transaction() as tx:
        latest = tx.latest_contract("shop", "orders")
        assert latest is not None
        contract = replace(latest.contract, origin=origin)
        tx.insert_contract(replace(latest, version=2, contract=contract))

    assert "would have to be read to be counted" in shop.recount().remarks[0]


def test_nothing_is_counted_of_a_table_of_which_nothing_is_published(fresh_database):
    shop = Travelled(fresh_database)
    shop.move(None, hour(1), until=Stage.EXTRACT)

    assert shop.recount().remarks == ("nothing of it is published",)


def test_two_recounts_of_a_table_do_not_meet(shop):
    with shop.ledger.exclusively("recount shop.orders"):
        found = shop.recount()

    assert found.remarks == ("another recount of it is at work",)


# ---- the command -------------------------------------------------------------------------------------------


def shell_at(shop: Travelled) -> Shell:
    return Shell(secrets=shop.secrets, warehouse=shop.warehouse, ledger=shop.ledger, store=shop.store)


def row_of(ended: Ended) -> list[str]:
    return ended.output.splitlines()[1].split()


def test_the_command_says_what_is_read_again_and_sends_it_on_its_way(shop):
    shop.insert((5, "late", "5", hour(1.75)))
    shell = shell_at(shop)

    ended = shell.run("recount", "--all")
    again = shell.run("recount", "orders")

    assert ended.exit_code == ExitCode.OK
    assert row_of(ended)[:5] == ["shop.orders", "3", "2", "0", "1"]
    assert "windows that gained rows" in ended.output
    assert "is read again" in ended.output
    assert row_of(again) == ["shop.orders", "3", "3", "0", "0"]
    with shop.ledger.transaction() as tx:
        assert tx.last_run(SCHEDULED_PART) is not None
        assert tx.pending_message_count() == 0


def test_a_source_that_was_retired_is_not_asked_for_all_tables(shop):
    retire_source("shop", ledger=shop.ledger)
    shop.insert((5, "late", "5", hour(1.75)))

    ended = shell_at(shop).run("recount", "--all", "--json")

    assert ended.document["tables"] == []
    assert ended.exit_code == ExitCode.OK


def test_the_document_tells_the_windows_that_gained_rows(shop):
    shop.insert((5, "late", "5", hour(1.75)))
    shop.execute("DELETE FROM public.orders WHERE id = 4")

    ended = shell_at(shop).run("recount", "orders", "--dry-run", "--json")

    (table,) = ended.document["tables"]
    (more,) = table["more"]
    assert ended.exit_code == ExitCode.PROBLEM
    assert ended.document["is_dry_run"] is True
    assert (table["window_count"], table["fewer_count"], table["more_count"]) == (3, 1, 1)
    assert (more["start"], more["end"]) == ("2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z")
    assert (more["known_row_count"], more["found_row_count"], more["answer"]) == (1, 2, "dry_run")


def test_of_an_appended_table_nothing_can_be_read_again_and_it_is_said_each_time(fresh_database):
    shop = three_windows(Travelled(fresh_database, orders(mode=PublishMode.APPEND)))
    shop.insert((5, "late", "5", hour(1.75)))
    shell = shell_at(shop)

    ended, again = shell.run("recount", "orders"), shell.run("recount", "orders", "--json")

    assert (ended.exit_code, again.exit_code) == (ExitCode.PROBLEM, ExitCode.PROBLEM)
    assert "would stand there twice" in ended.output
    assert again.document["tables"][0]["more"][0]["answer"] == "impossible"
    assert bulk_batch_count(shop) == 0


def test_windows_are_chosen_by_age_or_moment(shop):
    by_moment = shop.recount(Span(hour(1), hour(2)))
    by_age = shell_at(shop).run("recount", "orders", "--last", "1h", "--json")
    both = shell_at(shop).run("recount", "orders", "--last", "1h", "--from", "2h")

    assert [count.window.batch.window.end for count in by_moment.windows] == [hour(2)]
    assert by_age.document["tables"][0]["window_count"] == 0
    assert both.exit_code == ExitCode.CONFIGURATION


def test_a_source_that_stops_to_answer_keeps_what_was_counted_before(shop, monkeypatch):
    shop.insert((5, "late", "5", hour(2.75)), (6, "late", "6", hour(0.1)))
    count_rows = PostgresReader.count_rows

    def count_new_ones(self, window=None, *, extent=None):
        if window.start is None:
            raise SourceUnavailable("source 'shop', table 'public.orders': it takes too long")
        return count_rows(self, window, extent=extent)

    monkeypatch.setattr(PostgresReader, "count_rows", count_new_ones)
    stopped = shell_at(shop).run("recount", "orders", "--json")
    monkeypatch.undo()

    (table,) = stopped.document["tables"]
    assert stopped.exit_code == ExitCode.UNAVAILABLE
    assert "was not counted to the end" in stopped.errors
    assert (table["window_count"], table["more_count"]) == (2, 1)
    assert table["run"] is not None
    assert [count.answer for count in shop.recount().windows] == [Answer.PLANNED, None, None]


def test_a_source_that_is_away_ends_with_3(shop):
    shop.secrets = type(shop.secrets)({"env:SHOP_DSN": "postgresql://nobody@127.0.0.1:1/none"})

    ended = shell_at(shop).run("recount", "orders")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert "shop.orders" in ended.errors
