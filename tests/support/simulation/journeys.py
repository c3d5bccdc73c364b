"""The ways of batches whose every side effect is hit: one that goes well, and two on which much is amiss already."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.simulation.effects import Fault
from support.simulation.rows import SimulatedSource, rows_of_a_morning
from support.simulation.schedules import Decide, alter, run_to_rest
from support.simulation.world import FEW_ATTEMPTS, World

from shared.domain.batches import BatchState
from shared.domain.files import Area, FileStatus
from shared.domain.sources import SourceLimits
from shared.ports import QueueName

#: A journey makes a world, lets it be hit as told, and brings it to rest.
Journey = Callable[[Decide | None], World]


def plain(decide: Decide | None = None) -> World:
    """Four windows of a table go from their source to the analysts."""
    world = World(1, decide=decide)
    world.disturbances_left = 0
    world.start_plan()
    run_to_rest(world)
    return world


def failing_source(decide: Decide | None = None) -> World:
    """
    A source with one place, a table with a cursor and one without, that fails and refuses at first.

    Attempts fail until the breaker opens, batches fail and are refused, wait for the place, are given up and replayed.
    """
    source = SimulatedSource(
        "simulated",
        rows_of_a_morning(random.Random(2)),
        limits=SourceLimits(1),
        has_snapshot=True,
        failures_left=4,
        refusals_left=2,
    )
    world = World(2, sources=[source], decide=decide, max_attempts=FEW_ATTEMPTS)
    world.disturbances_left = 0
    world.discards_left = 1
    world.start_plan()
    run_to_rest(world)
    return world


def lost_and_altered(decide: Decide | None = None) -> World:
    """
    Workers die with an upload open and with an object written, or give one up; messages are lost, a hand alters a file
    and adds one.

    So the sweeper, the cleaner and people have all to do that they can do; and what they do is hit, too.
    """
    world = World(3, decide=decide)
    world.disturbances_left = 0
    world.foreseen = {
        "store.complete_upload": [Fault.NONE, Fault.KILL_BEFORE, Fault.NONE, Fault.KILL_AFTER],
        "store.write_part": [Fault.NONE] * 4 + [Fault.REFUSED],
        "source.fingerprint": [Fault.NONE, Fault.REFUSED],
    }
    lost_from = (QueueName.PUBLISH, QueueName.CLEAN)
    world.on_step = [_alter_a_raw_file(), *map(_lose_messages, lost_from), _read_again()]
    world.put_by_hand("tmp/rows/notes.csv", b"mine")
    world.start_plan()
    run_to_rest(world)
    return world


def told_to_stop(decide: Decide | None = None) -> World:
    """Workers are told to stop while they read a source with one place: their batches are free at once."""
    source = SimulatedSource(
        "simulated", rows_of_a_morning(random.Random(4)), limits=SourceLimits(1), interruptions_left=3
    )
    world = World(4, sources=[source], decide=decide)
    world.disturbances_left = 0
    world.start_plan()
    run_to_rest(world)
    return world


JOURNEYS: tuple[Journey, ...] = (plain, failing_source, lost_and_altered, told_to_stop)


def _alter_a_raw_file() -> Callable[[World], None]:
    return _once(_altered)


def _altered(world: World) -> bool:
    with world.transaction() as tx:
        unchecked = [file for file in tx.files(areas=[Area.INPUT]) if file.status is FileStatus.ANNOUNCED]
    if unchecked:
        alter(world, unchecked[0].location)
    return bool(unchecked)


def _lose_messages(queue: QueueName) -> Callable[[World], None]:
    """Lose all messages as soon as one waits in a queue."""

    def lost(world: World) -> bool:
        if not world.queues.waiting(queue):
            return False
        world.lose_messages()
        return True

    return _once(lost)


def _read_again() -> Callable[[World], None]:
    def read_again(world: World) -> bool:
        published = [batch for batch in world.batches() if batch.state is BatchState.PUBLISHED]
        if published:
            world.start_second_reading(published[0])
        return bool(published)

    return _once(read_again)


def _once(act: Callable[[World], bool]) -> Callable[[World], None]:
    """Return what is tried after each step, until it could be done."""
    is_done = False

    def try_it(world: World) -> None:
        nonlocal is_done
        if not is_done:
            is_done = act(world)

    return try_it
