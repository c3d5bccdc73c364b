"""Thousands of seeded schedules of crash, duplicate, loss and reorder over the real stories, and what must hold."""

import logging
import os
import random
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog
from support.simulation import (
    BUCKET,
    FEW_ATTEMPTS,
    MANY_ATTEMPTS,
    Fault,
    World,
    assert_promises,
    run_to_rest,
)

from lambdas import gate
from shared.domain.files import Area
from shared.domain.reasons import Reason

SCHEDULES = int(os.environ.get("ESCLUSA_SIMULATED_SCHEDULES", "1500"))
GROUPS = 20
#: Every how manieth side effect is hit by a single fault. 1 hits each; a prime wanders over the kinds.
STRIDE = int(os.environ.get("ESCLUSA_SIMULATED_STRIDE", "11"))

_FAULTS = [fault for fault in Fault if fault is not Fault.NONE]


@pytest.fixture(autouse=True)
def _no_logs() -> Iterator[None]:
    """Millions of log lines would be most of the time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _footers_are_not_parquet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated processor writes JSON: the check of real footers has tests of its own."""
    monkeypatch.setattr(gate, "_compare_footer", lambda *_: None)


def test_without_faults_every_row_arrives() -> None:
    world = World(seed=0)
    world.start_plan()

    run_to_rest(world)

    assert_promises(world)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_row_arrives_once_in_every_order_and_under_random_faults(group: int) -> None:
    for seed in range(group, SCHEDULES, GROUPS):
        world = World(seed, max_attempts=FEW_ATTEMPTS if seed % 2 else MANY_ATTEMPTS)
        world.decide = _at_random(seed, probability=0.04, most=25)
        world.alterations_left = seed % 3
        world.contract_changes_left = seed % 4
        world.start_plan()
        world.start_plan()

        try:
            run_to_rest(world)
            assert_promises(world)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("fault", _FAULTS)
def test_every_row_arrives_whichever_single_side_effect_is_hit(fault: Fault) -> None:
    plain = World(seed=1)
    plain.start_plan()
    run_to_rest(plain)
    effect_count = len(plain.effects)
    assert effect_count > 200

    for index in range(_FAULTS.index(fault), effect_count, STRIDE):
        world = World(seed=1)
        world.decide = _at_index(index, fault)
        world.start_plan()

        try:
            run_to_rest(world)
            assert_promises(world)
        except BaseException as error:
            error.add_note(f"effect {index} of {effect_count}, {fault}")
            raise


@pytest.mark.parametrize("seed", range(50))
def test_every_row_arrives_when_all_queues_are_purged_and_all_events_lost(seed: int) -> None:
    world = World(seed)
    world.start_plan()
    for _ in range(seed * 5):
        _step_once(world)
        world.queues.purge()
        world.events.clear()

    run_to_rest(world)

    assert_promises(world)


@pytest.mark.parametrize("area", [Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL])
def test_an_object_put_there_by_hand_is_set_aside_and_nothing_else_changes(area: Area) -> None:
    world = World(seed=3)
    world.start_plan()
    world.put_by_hand(f"{area}/rows/notes.csv", b"mine")

    run_to_rest(world)

    with world.transaction() as tx:
        kept = [file for file in tx.files(areas=[Area.QUARANTINE]) if file.reason is Reason.FOREIGN_OBJECT]
    assert [file.file_size_in_bytes for file in kept] == [4]
    assert kept[0].location.bucket == BUCKET
    assert_promises(world)


def test_the_schedules_hit_every_kind_of_side_effect() -> None:
    hit: Counter[str] = Counter()
    for seed in range(100):
        world = World(seed)
        chosen = _at_random(seed, probability=0.04, most=25)

        def counting(effect: str, chosen=chosen) -> Fault:  # type: ignore[no-untyped-def]
            fault = chosen(effect)
            if fault is not Fault.NONE:
                hit[effect] += 1
            return fault

        world.decide = counting
        world.start_plan()
        run_to_rest(world)

    expected = {
        *("ledger.begin", "ledger.committed", "queue.send", "warehouse.commit"),
        *(
            "store.put",
            "store.copy",
            "store.delete",
            "store.head",
            "store.sha256",
            "store.read",
            "store.list",
        ),
    }
    assert expected <= set(hit)


def _at_random(seed: int, *, probability: float, most: int):  # type: ignore[no-untyped-def]
    """Faults at random side effects, but not without end: a fleet that is always hit never rests."""
    dice = random.Random(f"faults {seed}")
    left = most

    def decide(effect: str) -> Fault:
        nonlocal left
        if left and dice.random() < probability:
            left -= 1
            return dice.choice(_FAULTS)
        return Fault.NONE

    return decide


def _at_index(index: int, fault: Fault):  # type: ignore[no-untyped-def]
    """One fault, at the side effect of a number."""
    count = -1

    def decide(effect: str) -> Fault:
        nonlocal count
        count += 1
        return fault if count == index else Fault.NONE

    return decide


def _step_once(world: World) -> None:
    if world.has_runnable():
        world.step()
        return
    world.start_sweep()
