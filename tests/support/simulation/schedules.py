"""How a world goes on until it is at rest, in the seed's order and time."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from support.simulation.effects import FAULTS, Fault
from support.simulation.promises import assert_readers_see_whole_batches, is_telling
from support.simulation.world import EXTRACT_QUEUES, SWEEP_EVERY, Decide, World

from shared import lifecycle
from shared.domain.batches import FINAL_STATES, HELD_STATES
from shared.domain.files import TRANSIENT_AREAS, Area, FileStatus, Location
from shared.messages import clean_message, gate_message, set_aside_message, task_message
from shared.ports import OutboxMessage, QueueName

#: Quiet minutes in which a sweeper finds nothing are passed over, up to so many at once.
_LONGEST_QUIET = timedelta(minutes=30)


def run_to_rest(world: World, *, max_rounds: int = 400) -> None:
    """Let everything happen that is due, in the seed's order, until the fleet is at rest."""
    quiet = SWEEP_EVERY
    for _ in range(max_rounds):
        drain(world)
        assert_readers_see_whole_batches(world)
        if is_at_rest(world):
            return
        quiet = advance(world, quiet)
        decide_held(world)
        world.start_plan()
        world.start_sweep()
    states = {batch.id: (str(batch.state), batch.detail) for batch in world.batches()}
    raise AssertionError(f"not at rest after {max_rounds} rounds: {states}; {world.objects()}")


def run_for(world: World, duration: timedelta) -> None:
    """Let a time pass, with a sweep each minute."""
    until = world.now + duration
    while world.now < until:
        drain(world)
        before = world.now
        advance(world, SWEEP_EVERY)
        if before.replace(second=0, microsecond=0) != world.now.replace(second=0, microsecond=0):
            world.start_sweep()
    drain(world)


def advance(world: World, quiet: timedelta) -> timedelta:
    """Move the clock to where something is due, or on by a quiet time; return the next quiet time."""
    moments = [at for at, _ in world.hidden]
    moments += [actor.wake_at for actor in world.actors if actor.wake_at is not None]
    earliest = min(moments, default=None)
    if earliest is not None and earliest <= world.now + quiet:
        world.now = max(earliest, world.now)
        world.show_hidden()
        return quiet
    world.now += quiet
    return min(quiet * 3, _LONGEST_QUIET)


def drain(world: World) -> None:
    """Let happen what can happen now."""
    for _ in range(20_000):
        choices: list[Callable[[], None]] = []
        if world.has_runnable():
            choices += [world.step] * 6
        for queue in QueueName:
            waiting = len(world.queues.waiting(queue))
            if waiting and (queue not in EXTRACT_QUEUES or world.has_free_extract_worker()):
                choices.append(partial(world.deliver, queue, world.dice.randrange(waiting)))
        if world.events:
            index = world.dice.randrange(len(world.events))
            choices.append(partial(world.deliver_event, index))
        if not choices:
            return
        if world.are_faults_on and world.disturbances_left and world.dice.random() < 0.02:
            disturb(world)
        else:
            world.dice.choice(choices)()
        for act in world.on_step:
            act(world)
        # To look each time would be most of the time of all.
        last = world.effects[-1].name if world.effects else ""
        if world.dice.random() < (0.3 if is_telling(last) else 0.01):
            assert_readers_see_whole_batches(world)
    raise AssertionError("the fleet does not come to rest: messages go on for ever")


def is_at_rest(world: World) -> bool:
    """Whether nothing more will happen that changes anything."""
    batches = world.batches()
    if (
        world.actors
        or world.hidden
        or len(batches) < sum(len(source.contracts()) for source in world.sources)
    ):
        return False
    if any(batch.state not in FINAL_STATES for batch in batches):
        return False
    if any(list(world.plain_store.open_uploads(source.bucket)) for source in world.sources):
        return False
    with world.transaction() as tx:
        present = tx.files(present_only=True)
        return (
            all(
                tx.watermark(source.name, contract.table) == source.horizon
                for source in world.sources
                for contract in source.contracts()
            )
            and not tx.pending_message_count()
            and not tx.batches_with_leftovers(limit=1)
            # What a hand put there is recorded before it is set aside.
            and all(file.area not in TRANSIENT_AREAS for file in present)
            and {file.location for file in present}.issuperset(world.objects())
        )


# ---- what people and services do of their own accord ---------------------------------------------------------------


def decide_held(world: World) -> None:
    """Let a person decide on held batches: give one up, or replay it."""
    for batch in world.batches():
        if batch.state not in HELD_STATES:
            continue
        if world.discards_left:
            world.discards_left -= 1
            world.start_discard(batch)
        else:
            world.start_replay(batch)


def disturb(world: World) -> None:
    """Do to queues, buckets and settings what SQS, S3 and people may do at any moment."""
    world.disturbances_left -= 1
    queue = world.dice.choice(list(QueueName))
    match world.dice.randrange(6):
        case 0 if world.queues.waiting(queue):
            world.queues.duplicate(queue)
        case 1 if world.events:
            world.events.append(world.dice.choice(world.events))
        case 2 if world.events:
            world.events.pop(world.dice.randrange(len(world.events)))
        case 3:
            _send_unasked(world)
        case 4 if world.alterations_left:
            _alter_an_object(world)
        case 5:
            source = world.dice.choice(world.sources)
            world.set_places(source.name, world.dice.randrange(1, 5))


def _send_unasked(world: World) -> None:
    """Send a message that is well formed, and that nobody decided to send."""
    if not (batches := world.batches()):
        return
    batch = world.dice.choice(batches)
    unasked = [
        OutboxMessage(QueueName.CLEAN, clean_message(batch.id), "simulated"),
        *(
            OutboxMessage(name, gate_message(batch.id, area), "simulated")
            for area, name in lifecycle.GATE_QUEUES.items()
        ),
        *(
            OutboxMessage(
                queue,
                task_message(
                    f"esclusa.{queue}", {"batch_id": batch.id}, queue=queue, task_id=f"{batch.id}-{queue}"
                ),
                "simulated",
            )
            for queue in (QueueName.EXTRACT, QueueName.PROCESS, QueueName.PUBLISH)
        ),
    ]
    objects = world.objects()
    if objects:
        unasked.append(
            OutboxMessage(QueueName.CLEAN, set_aside_message(world.dice.choice(objects)), "simulated")
        )
    world.queues.send([world.dice.choice(unasked)])


def _alter_an_object(world: World) -> None:
    """
    Overwrite a file that no gate has checked yet, as a careless hand would.

    A raw file at any moment; one in `final/` only while nobody is at work: between the check of a Parquet file
    and the commit behind it there is no copy that would notice.
    """
    areas = TRANSIENT_AREAS if world.actors else (*TRANSIENT_AREAS, Area.FINAL)
    with world.transaction() as tx:
        unchecked = [
            file for file in tx.files(areas=areas, present_only=True) if file.status is FileStatus.ANNOUNCED
        ]
    if unchecked:
        world.alterations_left -= 1
        alter(world, world.dice.choice(unchecked).location)


def alter(world: World, location: Location) -> None:
    """Overwrite an object, and leave what is written beside it."""
    info = world.plain_store.head(location)
    if info is not None:
        world.plain_store.overwrite(location, b"altered", metadata=info.metadata)


# ---- faults ----------------------------------------------------------------------------------------------------


def at_random(seed: int, *, probability: float, most: int) -> Decide:
    """Return faults at random side effects, but not without end: a fleet that is always hit never rests."""
    dice = random.Random(f"faults {seed}")
    left = most

    def decide() -> Fault:
        nonlocal left
        if left and dice.random() < probability:
            left -= 1
            return dice.choice(FAULTS)
        return Fault.NONE

    return decide


def at_index(index: int, fault: Fault) -> Decide:
    """Return one fault, at the side effect of a number."""
    count = -1

    def decide() -> Fault:
        nonlocal count
        count += 1
        return fault if count == index else Fault.NONE

    return decide
