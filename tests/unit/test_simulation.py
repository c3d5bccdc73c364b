"""Thousands of seeded schedules of crash, duplicate, loss and reorder over the real stories, and what must hold."""

import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from support.crash_points import Healer, try_all
from support.simulation.effects import EFFECTS, FAULTS, TRANSACTIONS_BY_LIFECYCLE, Fault
from support.simulation.journeys import JOURNEYS, Journey, plain
from support.simulation.ports import (
    SimulatedBody,
    SimulatedCatalog,
    SimulatedLedger,
    SimulatedSecrets,
    SimulatedSender,
    SimulatedStore,
    SimulatedUpload,
    SimulatedWarehouse,
    lifecycle_functions,
)
from support.simulation.promises import assert_promises
from support.simulation.rows import (
    FIRST_HORIZON,
    SimulatedReader,
    SimulatedSnapshot,
    SimulatedSource,
    rows_of_a_morning,
)
from support.simulation.schedules import at_random, run_to_rest
from support.simulation.world import FEW_ATTEMPTS, MANY_ATTEMPTS, World, simulation

from services.extractor.readers import SourceReader, SourceSnapshot
from services.publisher.catalog import LakeCatalog
from services.publisher.warehouse import Warehouse
from shared.domain.batches import BatchState, Stage
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.ports import ByteReader, Ledger, ObjectStore, QueueSender, SecretStore, Upload

SCHEDULES = int(os.environ.get("ESCLUSA_SIMULATED_SCHEDULES", "2000"))
GROUPS = 20
#: Every how manieth side effect is hit by a single fault. 1 hits each; a prime wanders over the kinds.
STRIDE = int(os.environ.get("ESCLUSA_SIMULATED_STRIDE", "61"))


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulation():
        yield


def test_without_faults_every_row_arrives_at_the_first_attempt() -> None:
    world = plain()

    assert_promises(world)
    assert {number for batch in world.batches() for number in batch.attempts.values()} == {1}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_row_arrives_once_in_every_order_and_under_random_faults(group: int) -> None:
    for seed in range(group, SCHEDULES, GROUPS):
        world = World(seed, max_attempts=FEW_ATTEMPTS if seed % 2 else MANY_ATTEMPTS)
        world.decide = at_random(seed, probability=0.04, most=25)
        world.set_places("simulated", 1 + seed % 4)
        world.alterations_left = seed % 3
        world.contract_changes_left = seed % 4
        world.discards_left = 1 if seed % 5 == 0 else 0
        world.start_plan()
        world.start_plan()

        try:
            run_to_rest(world)
            assert_promises(world, discarded_count=1 if seed % 5 == 0 else 0)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.__name__)
def test_every_row_arrives_whichever_single_side_effect_is_hit(journey: Journey, fault: Fault) -> None:
    start = (FAULTS.index(fault) * 7) % STRIDE

    trials = list(try_all(journey, faults=[fault], start=start, step=STRIDE))

    assert trials
    if journey is plain:
        assert not [trial for trial in trials if Healer.PERSON in trial.healers]


def test_the_journeys_have_every_side_effect() -> None:
    seen = Counter(effect.name for journey in JOURNEYS for effect in journey(None).effects)

    assert set(seen) == set(EFFECTS)


def test_random_schedules_hit_every_side_effect_of_the_plain_way() -> None:
    hit: Counter[str] = Counter()
    for seed in range(100):
        world = World(seed)
        world.decide = at_random(seed, probability=0.04, most=25)
        world.start_plan()
        run_to_rest(world)
        hit.update(effect.name for effect in world.effects if effect.fault is not Fault.NONE)

    assert {effect.name for effect in plain().effects} <= set(hit)


@pytest.mark.parametrize("seed", range(50))
def test_every_row_arrives_when_all_queues_are_purged_and_all_events_lost(seed: int) -> None:
    world = World(seed)
    world.set_places("simulated", 1 + seed % 2)
    world.start_plan()
    for _ in range(seed * 5):
        _step_once(world)
        world.lose_messages()

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
    assert kept[0].location.bucket == world.sources[0].bucket
    assert_promises(world)


def test_what_readers_saw_stays_while_a_replay_fails_as_well() -> None:
    source = SimulatedSource("simulated", rows_of_a_morning(random.Random(5)), horizon=FIRST_HORIZON)
    world = World(5, sources=[source], max_attempts=FEW_ATTEMPTS)
    world.disturbances_left = 0
    world.contract_changes_left = 1
    # Shown, but not known to be; then another attempt is committed, and never shown.
    world.foreseen = {
        "catalog.put_partition": [Fault.REPLY_LOST, Fault.REPLY_LOST],
        "warehouse.load": [Fault.NONE, Fault.NONE, Fault.REFUSED, Fault.REFUSED],
    }
    world.start_plan()

    run_to_rest(world)  # looks with the eyes of a reader after each step

    (batch,) = world.batches()
    assert (batch.state, batch.committed_attempt, batch.attempts[Stage.PUBLISH]) == (
        BatchState.PUBLISHED,
        2,
        5,
    )
    assert [location.key.split("/")[4] for location in world.objects() if "final/" in location.key] == ["a2"]


# ---- nothing is missed -----------------------------------------------------------------------------------------

#: What no batch needs on its way: people and tests ask it.
ASKED_BY_PEOPLE = {
    # A key sweep is a batch like others until its last step, whose marker is that of a load.
    Warehouse: {"row_count", "read_rows", "query", "prune", "rebuild"},
    LakeCatalog: {"change_types", "put_partitions", "switch_partitions"},
    SourceReader: {"check", "count_rows", "cursor_bounds", "drift"},
}
#: What is known without asking anybody, or costs the outside nothing.
WITHOUT_EFFECT = {
    Upload: {"file_size_in_bytes", "sha256"},
    ByteReader: {"close"},
    SourceReader: {"close"},
    SourceSnapshot: {
        "taken_at",
        "open_since",
        "fingerprint",
        "rows_read_count",
        "rows_outside_window_count",
        "unclassified_columns",
    },
}


@pytest.mark.parametrize(
    ("port", "simulated"),
    [
        (Ledger, SimulatedLedger),
        (ObjectStore, SimulatedStore),
        (Upload, SimulatedUpload),
        (ByteReader, SimulatedBody),
        (QueueSender, SimulatedSender),
        (SecretStore, SimulatedSecrets),
        (Warehouse, SimulatedWarehouse),
        (LakeCatalog, SimulatedCatalog),
        (SourceReader, SimulatedReader),
        (SourceSnapshot, SimulatedSnapshot),
    ],
)
def test_every_call_of_a_port_is_a_side_effect(port: type[Protocol], simulated: type[Any]) -> None:  # type: ignore[valid-type]
    calls = {name for name in vars(port) if not name.startswith("_")}
    expected = calls - ASKED_BY_PEOPLE.get(port, set()) - WITHOUT_EFFECT.get(port, set())

    without = [name for name in expected if not _has_an_effect(getattr(simulated, name, None), simulated)]

    assert not without


def _has_an_effect(method: Any, owner: type[Any], depth: int = 2) -> bool:
    """Whether a method, or another of its class that it calls, asks the world for an effect."""
    code = getattr(getattr(method, "__wrapped__", method), "__code__", None)
    if code is None:
        return False
    if {"effect", "begin_effect"} & set(code.co_names):
        return True
    called = [getattr(owner, name, None) for name in code.co_names]
    return depth > 0 and any(_has_an_effect(each, owner, depth - 1) for each in called)


def test_every_change_that_the_lifecycle_makes_is_a_side_effect_of_its_own() -> None:
    reading = {
        "contract_of",
        "key_sweep_of",
        "known_cells_of",
        "carried_rows_of",
        "files_to_check",
        "leftovers",
        "readings_after",
        "rejects_files",
    }

    assert set(lifecycle_functions()) == TRANSACTIONS_BY_LIFECYCLE | reading


def _step_once(world: World) -> None:
    if world.has_runnable():
        world.step()
        return
    world.start_sweep()
