"""What came of a sweep, as JSON for machines and as a table for people."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from chaos.controller import Effect, Mode
from chaos.trials import Outcome, Trial, modes_of

_SIGNS = {
    "in place": "=",
    "redelivery": "R",
    "takeover": "T",
    "sweeper": "S",
    "sweeper woke it": "W",
    "sweeper sent it": "O",
    "next enqueue": "E",
}

LEGEND = (
    "`=` the caller went on or tried again in place; `R2` the message came back, attempt 2 did it; `T2` the lease ran "
    "out, and a message that came back took over as attempt 2; `S2` the sweeper freed the lease, attempt 2; `W` the "
    "sweeper woke the batch; `O` the sweeper sent the outbox; `E` the next `esclusa enqueue`. The number is seconds "
    "from the plan to the batch at rest. `·` cannot happen to it, `?` was not reached, **✗** failed."
)


def write_report(directory: Path, outcomes: Sequence[Outcome], *, seed: int, poll_count: int) -> None:
    """Write `chaos.json` and `chaos.md`."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "trial": each.trial.name,
            "batch_id": each.batch_id,
            "was_hit": each.was_hit,
            "complaints": each.complaints,
            "attempts": each.attempts,
            "healed_by": each.healed_by,
            "rest_seconds": each.rest_seconds,
        }
        for each in outcomes
    ]
    document = {"seed": seed, "reader_poll_count": poll_count, "trials": rows}
    (directory / "chaos.json").write_text(json.dumps(document, indent=1) + "\n")
    (directory / "chaos.md").write_text(table(outcomes) + "\n\n" + LEGEND + "\n")


def read_report(directory: Path) -> list[Outcome]:
    """Return what an earlier report tells; nothing if there is none."""
    file = directory / "chaos.json"
    rows = json.loads(file.read_text())["trials"] if file.exists() else []
    return [
        Outcome(
            trial=Trial.parse(row["trial"]),
            batch_id=row["batch_id"],
            complaints=row["complaints"],
            was_hit=row["was_hit"],
            attempts=row["attempts"],
            healed_by=row["healed_by"],
            rest_seconds=row["rest_seconds"],
        )
        for row in rows
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """Return one line per effect, with a column per mode: the worst of its occurrences."""
    cells: defaultdict[tuple[Effect, Mode], list[Outcome]] = defaultdict(list)
    for each in outcomes:
        cells[each.trial.effect, each.trial.mode].append(each)
    effects = sorted({effect for effect, _ in cells}, key=_order)
    lines = [
        "| who | does what | " + " | ".join(Mode) + " |",
        "|---|---|" + "---|" * len(Mode),
    ]
    for effect in effects:
        signs = [_sign(cells[effect, mode]) if mode in modes_of(effect) else "·" for mode in Mode]
        lines.append(f"| {effect.role} | {effect.name.replace('|', '/')} | " + " | ".join(signs) + " |")
    return "\n".join(lines)


_ROLES = (
    *(
        "planner",
        "extractor (main)",
        "extractor",
        "gate-tmp",
        "gate-input",
        "gate-processing",
        "processor (main)",
    ),
    *("processor", "gate-final", "cleaner", "publisher (main)", "publisher", "sweeper"),
)


def _order(effect: Effect) -> tuple[int, str]:
    return _ROLES.index(effect.role) if effect.role in _ROLES else len(_ROLES), effect.name


def _sign(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return ""
    if any(each.complaints for each in outcomes):
        return "**✗**"
    hit = [each for each in outcomes if each.was_hit]
    if not hit:
        return "?"
    slowest = max(hit, key=lambda each: each.rest_seconds)
    who, _, attempt = slowest.healed_by.partition(", attempt ")
    return f"{_SIGNS[who]}{attempt} {slowest.rest_seconds:.0f}"
