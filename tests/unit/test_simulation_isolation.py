"""A source that hangs, fails or never ends beside a sound one: what the sound one waits for, and that nobody waits for ever."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from support.simulation.promises import assert_promises
from support.simulation.rows import HORIZON, HOUR, Behaviour, SimulatedSource, rows_of_a_morning
from support.simulation.schedules import at_random, run_for, run_to_rest
from support.simulation.world import HARD_TIME_LIMIT, LEASE, SWEEP_EVERY, World, simulation

from shared.domain.batches import Stage
from shared.domain.sources import FAILURES_THAT_OPEN, SourceLimits

#: The world begins at noon.
SOME_QUIET_HOURS = ["11:00-12:20 UTC", "12:10-13:00 UTC", "13:00-20:00 UTC", "12:40-16:00 Europe/Rome"]

BAD = [Behaviour.HUNG, Behaviour.FAILING, Behaviour.ENDLESS]


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulation():
        yield


def a_source(name: str, behaviour: Behaviour = Behaviour.SOUND, *, places: int = 4) -> SimulatedSource:
    """Return a source; a bad one has a long way to catch up with."""
    horizon = HORIZON if behaviour is Behaviour.SOUND else HORIZON + 6 * HOUR
    rows = rows_of_a_morning(random.Random(name))
    return SimulatedSource(name, rows, behaviour, SourceLimits(places), horizon=horizon)


def a_world(*bad: SimulatedSource, workers: int, seed: int = 0) -> World:
    """Return a world in which the bad sources have all the workers that they can get, and the sound one comes."""
    world = World(seed, sources=[*bad, a_source("sound")], extract_workers=workers)
    world.disturbances_left = 0
    names = [source.name for source in bad]
    for _ in range(2):  # the second planner sees the later windows
        world.start_plan(*names)
        run_for(world, timedelta(seconds=30))
    world.start_plan("sound")
    run_for(world, timedelta(seconds=1))
    world.start_plan("sound")
    return world


def waits(world: World, *, planned_since: datetime | None = None) -> list[timedelta]:
    """Return how long each batch of the sound source waited for its first attempt."""
    found = []
    with world.transaction() as tx:
        for batch in tx.batches(source="sound"):
            first = tx.attempt(batch.id, Stage.EXTRACT, 1)
            assert first is not None, f"{batch.id} still waits"
            if planned_since is None or batch.planned_at >= planned_since:
                found.append(first.claimed_at - batch.planned_at)
    return found


def until_at_most_one(*bad: SimulatedSource) -> timedelta:
    """
    Return after how long each bad source holds one worker at most: the bound, in whatever order messages come.

    Who holds two workers has two failures after one time limit, and the third after two; what began before that
    ends after three. The failure of a worker that was killed is noted when its lease is over, by the next sweep.
    Bad sources may take turns.
    """
    greedy = [source for source in bad if source.limits.max_concurrent_extracts > 1]
    return FAILURES_THAT_OPEN * len(greedy) * (HARD_TIME_LIMIT + LEASE + 2 * SWEEP_EVERY)


# ---- the bound ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("behaviour", BAD)
def test_a_sound_source_never_waits_if_the_others_places_are_fewer_than_the_workers(
    behaviour: Behaviour,
) -> None:
    world = a_world(a_source("bad", behaviour, places=2), a_source("worse", behaviour, places=1), workers=4)

    run_for(world, timedelta(hours=1))

    assert waits(world) == [timedelta(0)] * 4


@pytest.mark.parametrize("places", [1, 2, 4])
@pytest.mark.parametrize("behaviour", BAD)
def test_a_sound_source_waits_no_longer_than_until_the_others_hold_one_worker_each(
    behaviour: Behaviour, places: int
) -> None:
    bad = [a_source("bad", behaviour, places=places), a_source("worse", behaviour, places=places)]
    world = a_world(*bad, workers=max(2 * places, 3))

    run_for(world, until_at_most_one(*bad) + timedelta(minutes=5))

    assert max(waits(world)) <= until_at_most_one(*bad)


@pytest.mark.parametrize("behaviour", BAD)
def test_once_their_breakers_opened_bad_sources_hold_one_worker_each_and_delay_nobody(
    behaviour: Behaviour,
) -> None:
    bad = [a_source("bad", behaviour), a_source("worse", behaviour)]
    world = a_world(*bad, workers=3)
    run_for(world, until_at_most_one(*bad))
    settled_at, sound = world.now, world.source("sound")

    for _ in range(3):
        sound.horizon += HOUR
        world.start_plan("sound")
        run_for(world, timedelta(minutes=37))

    assert waits(world, planned_since=settled_at) == [timedelta(0)] * 3


def test_while_a_source_hangs_its_workers_are_few_and_its_attempts_end() -> None:
    world = a_world(a_source("bad", Behaviour.HUNG, places=2), workers=8)

    run_for(world, timedelta(hours=3))

    with world.transaction() as tx:
        ended = [
            attempt.ended_at - attempt.claimed_at
            for batch in tx.batches(source="bad")
            for attempt in tx.attempts(batch.id)
            if attempt.ended_at is not None
        ]
        assert tx.running_extract_count("bad") <= 1
    assert max(ended) <= HARD_TIME_LIMIT + LEASE + 2 * SWEEP_EVERY


# ---- quiet hours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_a_source_in_its_quiet_hours_holds_no_worker_and_all_of_it_arrives_afterwards(seed: int) -> None:
    dice = random.Random(seed)
    quiet = a_source("quiet", places=dice.randrange(1, 4))
    world = World(seed, sources=[quiet, a_source("sound")], extract_workers=1)
    world.set_quiet_hours("quiet", "11:50-14:00 UTC")
    world.start_plan("quiet")
    run_for(world, timedelta(seconds=30))
    world.start_plan("quiet", "sound")
    run_for(world, timedelta(seconds=1))
    world.start_plan("sound")

    run_for(world, timedelta(minutes=90))
    with world.transaction() as tx:
        begun = [attempt for batch in tx.batches(source="quiet") for attempt in tx.attempts(batch.id)]
    if dice.random() < 0.7:
        world.lose_messages()
    run_for(world, timedelta(minutes=40))
    run_to_rest(world)

    assert begun == []
    assert max(waits(world)) <= timedelta(minutes=5)
    assert_promises(world)


# ---- nobody waits for ever -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_after_the_cure_every_batch_arrives_whatever_was_lost_meanwhile(seed: int) -> None:
    dice = random.Random(seed)
    bad = [a_source(name, dice.choice(BAD), places=dice.randrange(1, 4)) for name in ("bad", "worse")]
    world = a_world(*bad, workers=dice.randrange(2, 5), seed=seed)
    world.disturbances_left = 1_000
    world.decide = at_random(seed, probability=0.02, most=15)

    for _ in range(3):
        run_for(world, timedelta(minutes=dice.randrange(40)))
        if dice.random() < 0.7:
            world.lose_messages()
        for source in world.sources:
            world.set_places(source.name, dice.randrange(1, 4))
            world.set_quiet_hours(source.name, *dice.sample(SOME_QUIET_HOURS, dice.randrange(2)))
    for source in bad:
        source.behaviour = Behaviour.SOUND
    run_to_rest(world)

    assert_promises(world)
