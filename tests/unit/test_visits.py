"""Connections to a source are counted, whoever opens them; nobody waits for ever, and the dead give theirs back."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from support.ledger_rows import a_batch, add_batch, an_attempt
from support.ledgers import SteppingClock

from shared.domain.batches import BatchState
from shared.domain.sources import SourceGuard, SourceLimits, Visit
from shared.errors import Unavailable
from shared.ledger.memory import MemoryLedger
from shared.ports import Ledger
from shared.visits import SourceBusy, visiting

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHORT = timedelta(seconds=0)


def guard(*visits: int, max_connections: int | None, batches: int = 4) -> SourceGuard:
    limits = SourceLimits(batches, max_connections=max_connections)
    return SourceGuard(
        "shop",
        limits,
        visits=tuple(
            Visit(str(number), "prove", count, NOW + timedelta(minutes=1))
            for number, count in enumerate(visits)
        ),
    )


@pytest.mark.parametrize(
    ("found", "running", "places"),
    [
        (guard(max_connections=None), 0, 4),
        (guard(max_connections=4), 0, 1),  # two connections are kept for visits
        (guard(max_connections=5), 0, 1),
        (guard(max_connections=9), 1, 2),
        (guard(2, max_connections=9), 0, 3),
        (guard(2, 1, max_connections=9), 1, 2),
        (guard(max_connections=100), 0, 4),
    ],
)
def test_batches_begin_while_connections_are_free(found: SourceGuard, running: int, places: int) -> None:
    assert found.free_places(running=running, now=NOW) == places


@pytest.mark.parametrize(
    ("found", "running", "free"),
    [
        (guard(max_connections=None), 9, None),
        (guard(max_connections=4), 0, 2),  # two are kept for a batch
        (guard(max_connections=4), 1, 2),
        (guard(1, max_connections=4), 1, 1),
        (guard(2, max_connections=4), 0, 0),
        (guard(max_connections=4), 3, 0),
    ],
)
def test_visits_have_what_is_left(found: SourceGuard, running: int, free: int | None) -> None:
    assert found.free_connections(running=running, now=NOW) == free


def test_whatever_comes_no_more_connections_are_open_than_there_may_be_and_neither_side_is_shut_out() -> None:
    for most in range(4, 20):
        for visitors in range(most):
            found = guard(*([1] * visitors), max_connections=most, batches=100)
            if (found.free_connections(running=0, now=NOW) or 0) == 0 and visitors > most - 2:
                continue  # so many never get in
            running = found.free_places(running=0, now=NOW)
            assert 2 * running + visitors <= most
            assert running >= 1
        alone = guard(max_connections=most, batches=100)
        full = alone.free_places(running=0, now=NOW)
        # `check`, `contract` and `prove` take two.
        assert (alone.free_connections(running=full, now=NOW) or 0) >= 2


def ledger_with(limits: SourceLimits, clock: Callable[[], datetime] | None = None) -> MemoryLedger:
    ledger = MemoryLedger(clock or (lambda: datetime.now(UTC)))
    with ledger.transaction() as tx:
        tx.save_source_guard(replace(tx.source_guard("shop"), limits=limits))
    return ledger


def visits(ledger: Ledger) -> list[str]:
    with ledger.transaction() as tx:
        return [visit.who for visit in tx.source_guard("shop").visits]


def test_a_visit_is_counted_while_it_lasts() -> None:
    ledger = ledger_with(SourceLimits(max_connections=4))

    with visiting("shop", who="enqueue", ledger=ledger):
        during = visits(ledger)

    assert (during, visits(ledger)) == (["enqueue"], [])


def test_who_finds_no_connection_free_waits_and_is_then_told_who_has_them() -> None:
    ledger = ledger_with(SourceLimits(max_connections=4))
    slept: list[float] = []

    with visiting("shop", who="prove", ledger=ledger, connection_count=2):
        with (
            pytest.raises(
                SourceBusy, match=r"1 of its 4 connections \(limits.max_connections\).*found prove \(2\)"
            ),
            visiting(
                "shop", who="check", ledger=ledger, patience=timedelta(seconds=0.01), sleep=slept.append
            ),
        ):
            pass
        assert visits(ledger) == ["prove"]
    with visiting("shop", who="check", ledger=ledger, patience=SHORT):
        assert visits(ledger) == ["check"]

    assert slept


def test_who_waits_gets_in_once_another_leaves() -> None:
    ledger = ledger_with(SourceLimits(max_connections=4))
    with ExitStack() as first:
        first.enter_context(visiting("shop", who="prove", ledger=ledger, connection_count=2))

        with visiting("shop", who="check", ledger=ledger, sleep=lambda _: first.close()):
            assert visits(ledger) == ["check"]


def test_what_the_dead_had_is_free_when_their_lease_is_over() -> None:
    clock = SteppingClock()
    ledger = ledger_with(SourceLimits(max_connections=4), clock)
    with ledger.transaction() as tx:
        gone = Visit("x", "prove", 2, tx.now() + timedelta(minutes=1))
        tx.save_source_guard(tx.source_guard("shop").after_arrival(gone, tx.now()))
    with pytest.raises(SourceBusy), visiting("shop", who="check", ledger=ledger, patience=SHORT):
        pass

    clock.advance(minutes=2)

    with visiting("shop", who="check", ledger=ledger, patience=SHORT):
        assert visits(ledger) == ["check"]


def test_a_visit_that_lasts_is_renewed() -> None:
    ledger = ledger_with(SourceLimits(max_connections=4))
    lease = timedelta(seconds=0.3)

    with visiting("shop", who="prove", ledger=ledger, connection_count=2, lease=lease):
        threading.Event().wait(1.0)
        with pytest.raises(SourceBusy), visiting("shop", who="check", ledger=ledger, patience=SHORT):
            pass


def test_batches_that_are_read_are_counted_and_the_end_of_a_visit_wakes_one_that_waits() -> None:
    ledger = ledger_with(SourceLimits(max_connections=4))
    with visiting("shop", who="prove", ledger=ledger, connection_count=2), ledger.transaction() as tx:
        add_batch(tx, a_batch(woken_at=None))
        before = tx.pending_message_count()
    with ledger.transaction() as tx:
        woken = tx.pending_message_count() - before
        running = add_batch(tx, a_batch("running", state=BatchState.EXTRACTING))
        tx.insert_attempt(an_attempt(running, lease_until=datetime.now(UTC) + timedelta(minutes=1)))

    assert woken == 1
    with (
        pytest.raises(SourceBusy, match=r"found 1 batches \(2\)"),
        visiting("shop", who="check", ledger=ledger, connection_count=3, patience=SHORT),
    ):
        pass


@pytest.mark.parametrize("source", ["shop", "unknown"])
def test_where_nobody_counts_nothing_is_written(source: str) -> None:
    ledger = ledger_with(SourceLimits())

    with visiting(source, who="discover", ledger=ledger, connection_count=99):
        assert visits(ledger) == []

    with ledger.transaction() as tx:
        assert [guard.source for guard in tx.source_guards()] == ["shop"]


def test_only_who_may_goes_uncounted_while_the_ledger_is_away() -> None:
    class Away(MemoryLedger):
        def transaction(self) -> None:  # type: ignore[override]
            raise Unavailable("the ledger does not answer")

    ledger = Away(lambda: NOW)

    with visiting("shop", who="check", ledger=ledger, may_go_uncounted=True):
        pass
    with pytest.raises(Unavailable, match="does not answer"), visiting("shop", who="prove", ledger=ledger):
        pass
