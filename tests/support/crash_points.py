"""
Hit every side effect of a batch's way in every mode, one at a time, and tell in docs/delivery.md who heals it.

    PYTHONPATH=.:tests python -m support.crash_points           try all, and print the table
    PYTHONPATH=.:tests python -m support.crash_points --write   and write it into docs/delivery.md
"""

import argparse
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from pathlib import Path

from support.simulation.effects import EFFECTS, FAULTS, Fault
from support.simulation.journeys import JOURNEYS, Journey
from support.simulation.promises import assert_promises
from support.simulation.schedules import at_index
from support.simulation.world import World, simulation

from lambdas.sweeper.actions import ActionKind
from shared.domain.reasons import Reason

PAGE = Path(__file__).parents[2] / "docs" / "delivery.md"
BEGIN, END = "<!-- crash points: begin -->", "<!-- crash points: end -->"


class Healer(StrEnum):
    """What was needed, beyond what the journey takes without a fault."""

    #: A message came back, by its visibility timeout or its backoff.
    MESSAGE = "m"
    #: Another attempt of a stage was made.
    ATTEMPT = "a"
    #: The sweeper freed a lease, woke a batch, gave a place away, or called the cleaner.
    SWEEPER = "s"
    #: The sweeper removed an object or upload that no reader ever saw.
    REMOVED = "r"
    #: A person replayed a batch.
    PERSON = "p"


#: Nothing of this: who was hit, or who came next, went on.
GOES_ON = "·"

_SWEEPER_ACTS = (
    ActionKind.EXPIRE_LEASE,
    ActionKind.WAKE_BATCH,
    ActionKind.START_DEFERRED,
    ActionKind.CLEAN_BATCH,
    ActionKind.SET_ASIDE,
    ActionKind.ADOPT,
)
_REMOVALS = (ActionKind.DELETE_STRAY, ActionKind.ABORT_UPLOAD)


@dataclass(frozen=True, slots=True)
class Course:
    """What a journey took."""

    redelivered_count: int
    attempt_count: int
    most_attempts: int
    healed_count: int
    removed_count: int
    replayed_count: int

    @classmethod
    def of(cls, world: World) -> "Course":
        batches = world.batches()
        numbers = [number for batch in batches for number in batch.attempts.values()]
        with world.transaction() as tx:
            events = list(chain.from_iterable(tx.events(batch.id) for batch in batches))
        return cls(
            redelivered_count=world.redelivered_count,
            attempt_count=sum(numbers),
            most_attempts=max(numbers),
            healed_count=sum(world.swept[kind] for kind in _SWEEPER_ACTS),
            removed_count=sum(world.swept[kind] for kind in _REMOVALS),
            replayed_count=sum(event.reason is Reason.REPLAYED for event in events),
        )

    def healers(self, *, without_fault: "Course") -> frozenset[Healer]:
        """Return who was needed more than without the fault."""
        needed = {
            Healer.MESSAGE: self.redelivered_count > without_fault.redelivered_count,
            Healer.ATTEMPT: self.attempt_count > without_fault.attempt_count,
            Healer.SWEEPER: self.healed_count > without_fault.healed_count,
            Healer.REMOVED: self.removed_count > without_fault.removed_count,
            Healer.PERSON: self.replayed_count > without_fault.replayed_count,
        }
        return frozenset(healer for healer, is_needed in needed.items() if is_needed)


@dataclass(frozen=True, slots=True)
class Trial:
    """One side effect, hit in one mode, and how the world came to rest. The promises held."""

    journey: int
    effect: str
    fault: Fault
    healers: frozenset[Healer]
    most_attempts: int


def count_effects(journey: Journey) -> int:
    """Return how many side effects a journey has without a fault."""
    return len(journey(None).effects)


def try_all(
    journey: Journey, *, faults: Sequence[Fault] = FAULTS, start: int = 0, step: int = 1
) -> Iterator[Trial]:
    """
    Hit each side effect of a journey, or every so manieth, in each mode.

    Raises:
        AssertionError: if a promise does not hold; a note names journey, effect and mode.
    """
    unhurt = journey(None)
    without_fault, effect_count = Course.of(unhurt), len(unhurt.effects)
    number = JOURNEYS.index(journey)
    for fault in faults:
        for index in range(start, effect_count, step):
            try:
                world = journey(at_index(index, fault))
                assert_promises(world, discarded_count=unhurt_discards(journey))
                assert world.effects[index].fault is fault
            except BaseException as error:
                error.add_note(
                    f"journey {journey.__name__}, side effect {index} of {effect_count} "
                    f"({unhurt.effects[index].name}), {fault}"
                )
                raise
            course = Course.of(world)
            # By the name it has without the fault: who stood still may find that another one did it.
            yield Trial(
                number,
                unhurt.effects[index].name,
                fault,
                course.healers(without_fault=without_fault),
                course.most_attempts,
            )


def unhurt_discards(journey: Journey) -> int:
    """Return how many batches a person may give up on a journey."""
    return 1 if journey.__name__ == "failing_source" else 0


# ---- the table -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    trial_count: int = 0
    #: By mode, from the first journey that has the effect: on the others much else goes on.
    healers: dict[Fault, set[Healer]] = field(default_factory=lambda: defaultdict(set))
    goes_on: set[Fault] = field(default_factory=set)
    most_attempts: int = 0


def tabulate(trials: Iterable[Trial]) -> str:
    """Return the table of effect, mode and outcome in Markdown."""
    found = list(trials)
    first_journey: dict[str, int] = {}
    for trial in found:
        first_journey[trial.effect] = min(trial.journey, first_journey.get(trial.effect, trial.journey))
    rows: dict[str, _Row] = {name: _Row() for name in EFFECTS}
    for trial in found:
        row = rows[trial.effect]
        row.trial_count += 1
        if trial.journey == first_journey[trial.effect]:
            row.healers[trial.fault] |= trial.healers
            row.most_attempts = max(row.most_attempts, trial.most_attempts)
            if not trial.healers:
                row.goes_on.add(trial.fault)
    lines = [
        f"| side effect | what it does | trials | {' | '.join(FAULTS)} | attempts |",
        f"|---|---|--:|{'---|' * len(FAULTS)}--:|",
    ]
    for name, row in rows.items():
        cells = " | ".join(_cell(row, fault) for fault in FAULTS)
        lines.append(f"| `{name}` | {EFFECTS[name]} | {row.trial_count} | {cells} | {row.most_attempts} |")
    return "\n".join(lines)


def _cell(row: _Row, fault: Fault) -> str:
    goes_on = [GOES_ON] if fault in row.goes_on else []
    return " ".join([*goes_on, *(healer for healer in Healer if healer in row.healers[fault])])


def write_into(page: Path, text: str) -> None:
    """Put a text between the markers of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


# ---- the command -----------------------------------------------------------------------------------------------


#: Into so many pieces the side effects of a journey are cut: what fails in one does not end the others.
_PIECES = 25


def _try_piece(task: tuple[int, Fault, int]) -> tuple[list[Trial], str]:
    """Return the trials of a piece, and how the one failed that ended it."""
    number, fault, start = task
    trials: list[Trial] = []
    try:
        with simulation():
            trials.extend(try_all(JOURNEYS[number], faults=[fault], start=start, step=_PIECES))
    except AssertionError as error:
        return trials, f"{error}; {'; '.join(error.__notes__)}"
    return trials, ""


def main() -> None:
    """Try all, print a line of numbers and the table, and write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/delivery.md")
    arguments = parser.parse_args()
    began = time.monotonic()
    tasks = [
        (number, fault, start)
        for number in range(len(JOURNEYS))
        for fault in FAULTS
        for start in range(_PIECES)
    ]
    with multiprocessing.get_context("spawn").Pool(2) as processes:
        pieces = list(processes.imap_unordered(_try_piece, tasks))
    trials = list(chain.from_iterable(done for done, _ in pieces))
    if failures := [failure for _, failure in pieces if failure]:
        raise SystemExit("\n".join(failures))
    by_journey = Counter(JOURNEYS[trial.journey].__name__ for trial in trials)
    told = ", ".join(f"{count:,} on `{name}`" for name, count in sorted(by_journey.items()))
    text = (
        f"{len(trials):,} trials ({told}), every one of which kept all promises; "
        f"{time.monotonic() - began:.0f} seconds on two cores.\n\n{tabulate(trials)}"
    )
    print(text)
    if arguments.write:
        write_into(PAGE, text)


if __name__ == "__main__":
    main()
