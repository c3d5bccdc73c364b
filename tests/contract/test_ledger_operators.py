"""Operators at a ledger: several at once, trials, second readings of a window, and rows that were given up."""

import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from support.ledger_rows import BUCKET, NOON, a_batch, a_contract, a_raw_file, add_batch

from cli.output import NotDone
from cli.replays import Replayed, Replays, discard
from shared import lifecycle
from shared.domain.batches import Batch, BatchState, Stage, batch_id
from shared.domain.files import Area, FileFormat, Location, rejects_key
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.windows import SNAPSHOT_SLOT_PREFIX, PlannedWindow, Window, rejects_slot
from shared.ports import Ledger

HOUR = timedelta(hours=1)
WINDOW = Window(NOON - HOUR, NOON)


def test_a_table_has_come_as_far_while_a_window_is_read_again(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for slot in ("a window", f"{SNAPSHOT_SLOT_PREFIX}of once"):
            add_batch(tx, a_batch(slot, window=WINDOW, state=BatchState.PUBLISHED))
            add_batch(tx, a_batch(rejects_slot(slot, 1), window=WINDOW))
        tx.set_watermark("shop", "orders", NOON + HOUR)

    with ledger.transaction() as tx:
        (progress,) = tx.table_progress()

    assert progress.published_until == NOON + HOUR


def test_batches_with_leftovers_are_also_those_of_which_something_set_aside_was_given_up(
    ledger: Ledger,
) -> None:
    given_up, kept, gone = (
        a_batch(slot, state=BatchState.PUBLISHED) for slot in ("given up", "kept", "gone")
    )
    with ledger.transaction() as tx:
        for batch in (given_up, kept, gone):
            add_batch(tx, batch)
        tx.insert_file(a_raw_file(given_up, Area.QUARANTINE, reason=Reason.DISCARDED))
        tx.insert_file(a_raw_file(kept, Area.QUARANTINE))
        tx.insert_file(a_raw_file(gone, Area.QUARANTINE, reason=Reason.DISCARDED, deleted_at=NOON))

    with ledger.transaction() as tx:
        found = [batch.slot for batch in tx.batches_with_leftovers(limit=10)]

        assert found == ["given up"]
        assert [len(lifecycle.leftovers(tx, batch)) for batch in (given_up, kept, gone)] == [1, 0, 0]


# ---- several operators at once ---------------------------------------------------------------------------------


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Do several things at the same time, and return what each came to: a result, or why it was not done."""
    start = threading.Barrier(len(acts))
    outcomes: list[object] = []

    def do(act: Callable[[], object]) -> None:
        start.wait(timeout=30)
        try:
            outcomes.append(act())
        except NotDone as error:
            outcomes.append(error)

    threads = [threading.Thread(target=do, args=[act]) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(outcomes) == len(acts)
    return outcomes


def hold(ledger: Ledger) -> str:
    contract = a_contract()
    with ledger.transaction() as tx:
        tx.insert_contract(contract)
        lifecycle.plan(tx, contract, planned=PlannedWindow("held", WINDOW), bucket=BUCKET)
    batch = batch_id("shop", "orders", "held")
    with ledger.transaction() as tx:
        attempt = lifecycle.claim(tx, batch, Stage.EXTRACT, worker="w", lease=HOUR, retry=RetryPolicy(3))
    assert attempt is not None
    with ledger.transaction() as tx:
        lifecycle.refuse_attempt(tx, attempt, reason=Reason.COLUMN_MISSING, detail="gone")
    return batch


@pytest.mark.parametrize("rival", ["replays too", "gives it up"])
def test_of_two_operators_at_one_batch_one_acts_and_the_other_hears_of_it(ledger: Ledger, rival: str) -> None:
    batch = hold(ledger)
    replay = partial(Replays(ledger, None).replay, batch)

    outcomes = at_once(
        replay, replay if rival == "replays too" else partial(discard, ledger, batch, because="x")
    )

    (refused,) = [outcome for outcome in outcomes if isinstance(outcome, NotDone)]
    assert "only a batch that is held can be" in str(refused)
    with ledger.transaction() as tx:
        events = tx.events(batch)
    assert [event.actor for event in events].count("operator") == 1


def published_with_rejects(ledger: Ledger, slot: str) -> Batch:
    batch = a_batch(slot, state=BatchState.PUBLISHED, window=WINDOW, attempts={Stage.PROCESS: 1})
    location = Location(BUCKET, rejects_key(table="orders", batch_id=batch.id, attempt=1))
    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_file(a_raw_file(batch, Area.QUARANTINE, location=location, format=FileFormat.REJECTS))
    return batch


def test_rejected_rows_that_several_read_again_at_once_are_read_by_one_batch(ledger: Ledger) -> None:
    first = published_with_rejects(ledger, "once")
    second = published_with_rejects(ledger, rejects_slot("once", 1))
    replays = Replays(ledger, None)

    # The next reading of the first and of the second is the same batch: their rows are two, its id is one.
    outcomes = at_once(
        *(partial(replays.replay_rejects, batch.id) for batch in (first, second, first, second))
    )

    planned = {outcome.planned_batch_id for outcome in outcomes if isinstance(outcome, Replayed)}
    refused = [str(outcome) for outcome in outcomes if isinstance(outcome, NotDone)]
    assert planned == {batch_id("shop", "orders", rejects_slot("once", 2))}
    assert len(refused) == 3
    assert all("reads its rejected rows already" in sentence for sentence in refused)
    with ledger.transaction() as tx:
        assert len(tx.batches()) == 3
        assert tx.pending_message_count() == 1


def test_a_trial_leaves_no_trace(ledger: Ledger) -> None:
    batch = hold(ledger)
    published = published_with_rejects(ledger, "once")
    with ledger.transaction() as tx:
        before = tx.batches(), tx.events(batch), tx.pending_message_count()
    trials = Replays(ledger, None, is_trial=True)

    assert trials.replay(batch).state is BatchState.PLANNED
    assert trials.replay_rejects(published.id).planned_batch_id is not None

    with ledger.transaction() as tx:
        assert (tx.batches(), tx.events(batch), tx.pending_message_count()) == before
