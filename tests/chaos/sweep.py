"""
The whole sweep: every side effect that a batch was seen to have, times everything that can happen to it.

    python -m chaos.sweep

`CHAOS_SAMPLE=20` does so many trials by chance, `CHAOS_SEED` says which; `CHAOS_TRIAL="…"` does one, by the name that a
report gives it, or several with ` | ` between. `CHAOS_MINUTES` begins no trial later, `CHAOS_GO_ON=1`
does only what the report of a run before does not tell to be well, `CHAOS_EACH_OCCURRENCE=1` hits also the second time
that a batch has an effect, and so on. `CHAOS_SLOTS` is how many trials run side by side, `CHAOS_OUT` where the report is.
"""

import logging
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
from chaos.controller import Effect, Mode
from chaos.fleet import chaos_fleet
from chaos.report import read_report, write_report
from chaos.trials import (
    ALL_PROFILES,
    SMOOTH,
    Laboratory,
    Outcome,
    Profile,
    Running,
    Trial,
    is_read,
    modes_of,
)

#: What was swept is clean within so long after a batch came to rest.
SWEPT_WITHIN_SECONDS = 180.0
#: An effect that a trial waited for may not come: another process sent the message, say. Then it is tried again.
TRIES = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An effect that was seen, on which way of a batch, and how often at most."""

    profile: Profile
    effect: Effect
    count: int
    is_of_anybody: bool = False


# ---- what there is to hit ----------------------------------------------------------------------------------------


def record(laboratory: Laboratory, profiles: Sequence[Profile]) -> list[Recorded]:
    """Let a batch of each profile go its way with nothing wrong but the profile's own troubles, and note its effects."""
    sources = laboratory.fleet.sources
    with ThreadPoolExecutor(len(sources)) as threads:
        runs = list(
            threads.map(
                lambda numbered: _record_one(laboratory, numbered[1], sources[numbered[0] % len(sources)]),
                enumerate(profiles),
            )
        )
    found: dict[Effect, Recorded] = {}
    for profile, counts in zip(profiles, runs, strict=True):
        for effect, count in counts.items():
            known = found.get(effect)
            # On the first way that has it: the smoothest; a second way adds nothing but more of the same.
            if known is None:
                found[effect] = Recorded(profile, effect, count)
    for effect, count in laboratory.controller.seen_without_batch().items():
        # The planner is told by its tag; the watcher looks on, and has no part in the way of a batch.
        if effect not in found and effect.role not in {"planner", "watcher"}:
            found[effect] = Recorded(SMOOTH[0], effect, count, is_of_anybody=True)
    return sorted(found.values(), key=lambda each: each.effect)


def _record_one(laboratory: Laboratory, profile: Profile, source: str) -> dict[Effect, int]:
    running = laboratory.run(None, profile=profile, source=source)
    complaints = _wait_until_clean(running)
    if complaints:
        raise AssertionError(f"with no fault, profile {profile.name}, table {running.table}: {complaints}")
    counts: dict[Effect, int] = {}
    for batch in running.batches():
        for seen in laboratory.controller.seen(batch.id):
            counts[seen.effect] = max(counts.get(seen.effect, 0), seen.occurrence)
    if profile.is_planned_by_command:
        counts |= laboratory.controller.seen_by(running.table)
    return counts


def _wait_until_clean(running: Running) -> list[str]:
    deadline = time.monotonic() + SWEPT_WITHIN_SECONDS
    while True:
        complaints = running.complaints() if running.is_over() else ["the fault is not over"]
        if not complaints or time.monotonic() > deadline:
            return complaints
        time.sleep(4)


def all_trials(recorded: Iterable[Recorded], *, each_occurrence: bool) -> list[Trial]:
    """Return a trial for every effect and everything that can happen to it."""
    trials = []
    for each in recorded:
        is_counted = each_occurrence and not each.is_of_anybody
        for occurrence in range(1, (each.count if is_counted else 1) + 1):
            trials += [
                Trial(each.profile, each.effect, mode, occurrence, each.is_of_anybody)
                for mode in modes_of(each.effect)
            ]
    return trials


# ---- trials side by side -----------------------------------------------------------------------------------------


class Sweep:
    """Does many trials, as many at a time as there are sources, and looks at each until it is clean."""

    def __init__(self, laboratory: Laboratory, say: Say) -> None:
        self.laboratory = laboratory
        self._say = say
        self._lock = threading.Lock()
        self.outcomes: list[Outcome] = []
        self._total = 0
        self._began_at = time.monotonic()
        self._ends_at = float("inf")

    def run(self, trials: Sequence[Trial], *, within_seconds: float = float("inf")) -> list[Outcome]:
        """Do trials, none of which begins after a time."""
        self._total += len(trials)
        self._ends_at = time.monotonic() + within_seconds
        # Only looking on: they wait for what is swept, and hold up no trial.
        with ThreadPoolExecutor(16, thread_name_prefix="cooling") as cooling:
            self._run_beside(trials, cooling)
        return self.outcomes

    def _run_beside(self, trials: Sequence[Trial], cooling: ThreadPoolExecutor) -> None:
        waiting: queue.SimpleQueue[tuple[Trial, int]] = queue.SimpleQueue()
        for trial in trials:
            waiting.put((trial, 1))

        def work(source: str) -> None:
            while time.monotonic() < self._ends_at:
                try:
                    trial, number = waiting.get_nowait()
                except queue.Empty:
                    return
                self._do(
                    trial,
                    source,
                    cooling,
                    again=(lambda n=number, t=trial: waiting.put((t, n + 1))) if number < TRIES else None,
                )

        threads = [
            threading.Thread(target=work, args=[source], daemon=True)
            for source in self.laboratory.fleet.sources
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            # What is under way ends while the fleet is still there.
            self._ends_at = 0.0
            for thread in threads:
                thread.join()
            raise

    def _do(
        self, trial: Trial, source: str, cooling: ThreadPoolExecutor, *, again: Callable[[], None] | None
    ) -> None:
        try:
            running = self.laboratory.run(trial, profile=trial.profile, source=source)
        except Exception as error:  # noqa: BLE001  of one trial: the others go on
            self._note(Outcome(trial, "", [f"{type(error).__name__}: {error}"], was_hit=True))
            if not isinstance(error, TimeoutError):
                traceback.print_exc()
            return
        was_hit = running.fault is not None and running.fault.hit_at is not None
        if not was_hit and again is not None:
            again()
            return
        cooling.submit(self._look, running)

    def _look(self, running: Running) -> None:
        try:
            self._note(running.outcome(_wait_until_clean(running)))
        except Exception as error:  # noqa: BLE001
            assert running.trial is not None
            self._note(Outcome(running.trial, "", [f"{type(error).__name__}: {error}"], was_hit=True))

    def _note(self, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes.append(outcome)
            done = len(self.outcomes)
            passed_seconds = time.monotonic() - self._began_at
            left_minutes = passed_seconds / done * (self._total - done) / 60
            word = "ok" if outcome.is_good else "FAILED" if outcome.complaints else "not reached"
            self._say(
                f"[{done}/{self._total}, {left_minutes:.0f} min left] {word} {outcome.trial.name} · "
                f"{outcome.rest_seconds:.0f} s · {outcome.healed_by} · {outcome.batch_id}"
            )
            for complaint in outcome.complaints:
                self._say(f"    {complaint}")


def reproduction(trial: Trial) -> str:
    """Return the command that does one trial again."""
    return f"make chaos CHAOS_TRIAL='{trial.name}'"


def sample(trials: Sequence[Trial], *, seed: int, count: int) -> list[Trial]:
    """Return so many trials by chance, or all if there are fewer."""
    return random.Random(seed).sample(trials, min(count, len(trials)))


def in_order(trials: Sequence[Trial], *, seed: int) -> list[Trial]:
    """Return all trials, changes before reads, and else by chance."""
    dice = random.Random(seed)
    return sorted(trials, key=lambda trial: (_rank(trial), dice.random()))


def _rank(trial: Trial) -> int:
    """Say what comes first, should time run out: what is changed before what is read."""
    if not is_read(trial.effect):
        return 0
    return 2 if trial.mode in {Mode.LOSE_REPLY, Mode.DUPLICATE} else 1


def main() -> int:
    """Do the sweep that the environment asks for; 0 if all is well."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    seed = int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))
    out = Path(os.environ.get("CHAOS_OUT") or "dist/chaos")
    before = [each for each in read_report(out) if each.is_good] if os.environ.get("CHAOS_GO_ON") else []
    say = partial(print, flush=True)
    say(f"seed {seed}")
    with chaos_fleet(source_count=int(os.environ.get("CHAOS_SLOTS") or 6)) as fleet:
        sweep = Sweep(Laboratory(fleet), say)
        trials = _trials_wanted(sweep.laboratory, say, seed=seed, done={each.trial.name for each in before})
        say(f"{len(trials)} trials")
        minutes = float(os.environ.get("CHAOS_MINUTES") or "inf")
        with suppress(KeyboardInterrupt):  # what was done till then is worth a report
            sweep.run(trials, within_seconds=minutes * 60)
        polls = fleet.reader.poll_count
    outcomes = [*before, *sweep.outcomes]
    write_report(out, outcomes, seed=seed, poll_count=polls)
    failed = [each for each in outcomes if each.complaints]
    for each in failed:
        say(f"FAILED: {reproduction(each.trial)}\n    {each.complaints}")
    not_reached = sum(not each.was_hit for each in outcomes)
    say(f"{len(outcomes)} trials, {len(failed)} failed, {not_reached} not reached; report in {out}/")
    return 1 if failed else 0


def _trials_wanted(laboratory: Laboratory, say: Say, *, seed: int, done: Collection[str]) -> list[Trial]:
    if names := os.environ.get("CHAOS_TRIAL"):
        return [Trial.parse(name) for name in names.split(" | ")]
    recorded = record(laboratory, ALL_PROFILES)
    for each in recorded:
        star = "*" if each.is_of_anybody else ""
        say(f"  {each.effect.role}: {each.effect.name} ×{each.count} ({each.profile.name}{star})")
    possible = all_trials(recorded, each_occurrence=os.environ.get("CHAOS_EACH_OCCURRENCE") == "1")
    if count := int(os.environ.get("CHAOS_SAMPLE") or 0):
        return sample(possible, seed=seed, count=count)
    return [trial for trial in in_order(possible, seed=seed) if trial.name not in done]


if __name__ == "__main__":
    sys.exit(main())
