"""Commands that plan work: enqueue, crontab."""

import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption, connections_of
from cli.moments import read_pause
from cli.output import (
    ExitCode,
    number,
    print_json,
    print_table,
    remark,
    tell_error,
    text_of,
    whole,
)
from cli.repetition import repeat
from shared.domain.batches import batch_id
from shared.errors import EsclusaError

if TYPE_CHECKING:
    from services.extractor.enqueue import EnqueuedSource
    from shared.catalog import Catalog, Source
    from shared.domain.contracts import TableContract
    from shared.fleet import Fleet

SourceNames = Annotated[
    list[str] | None, typer.Option("--source", metavar="NAME", help="Only this source. Repeatable.")
]

# ---- enqueue -----------------------------------------------------------------------------------------------


def enqueue(
    context: typer.Context,
    source: SourceNames = None,
    every: Annotated[
        str | None,
        typer.Option(
            "--every",
            metavar="PAUSE",
            help="Do it again and again, such as each 30s or 5m, until told to stop: for where there is no cron.",
        ),
    ] = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Plan every window that is due and send its batches on their way. This is what cron runs.

    A source that does not answer, or whose file has mistakes, holds up none of the others; the exit code is 1
    then. Two at once are safe: each batch is planned once.
    """
    # Once for all repetitions, and not before the source files were read.
    fleet = cache(connections_of(context).fleet)
    if every is not None:
        repeat(
            lambda: _enqueue_once(fleet, source, sources=sources, as_json=as_json), every=read_pause(every)
        )
    elif not _enqueue_once(fleet, source, sources=sources, as_json=as_json):
        raise typer.Exit(ExitCode.PROBLEM)


def _enqueue_once(
    connect: Callable[[], "Fleet"], names: Sequence[str] | None, *, sources: Path, as_json: bool
) -> bool:
    """Read the source files, plan and send; return whether all of it could be done."""
    from services.extractor.enqueue import enqueue as enqueue_sources
    from shared.catalog import read_sources

    chosen, broken = _choose(read_sources(sources), names)
    fleet = connect()
    outcomes = enqueue_sources(chosen, fleet=fleet)
    failed = broken + [(outcome.source, outcome.error) for outcome in outcomes if outcome.error]
    with fleet.ledger.transaction() as tx:
        pending = tx.pending_message_count()
    if as_json:
        print_json(_enqueued_document(outcomes, failed, pending=pending))
    else:
        _print_enqueued(outcomes)
    for name, error in failed:
        tell_error(error, about=f"source {name} was not enqueued, or not all of it")
    if pending:
        remark(f"{pending} messages wait in the outbox; the next `enqueue` or the sweeper sends them")
    return not failed


def _choose(
    catalog: "Catalog", names: Sequence[str] | None
) -> tuple[list["Source"], list[tuple[str, EsclusaError]]]:
    """
    Return the sources to plan, and those whose files have mistakes.

    Raises:
        SourceNotFound: if a name is none of the catalog's.
        ConfigurationError: if there is no sound source file at all.
    """
    from shared.catalog import Problem, SourceFilesInvalid

    if not catalog.sources:
        raise SourceFilesInvalid(catalog.problems)
    problems: dict[str, list[Problem]] = {}
    for problem in catalog.problems:
        problems.setdefault(Path(problem.file).stem, []).append(problem)
    broken = {name: SourceFilesInvalid(found) for name, found in problems.items()}
    if not names:
        return list(catalog.sources), list(broken.items())
    sound = {source.name for source in catalog.sources}
    asked = dict.fromkeys(names)
    return (
        [catalog.source(name) for name in asked if name in sound or name not in broken],
        [(name, broken[name]) for name in asked if name in broken and name not in sound],
    )


def _enqueued_document(
    outcomes: Sequence["EnqueuedSource"], failed: Sequence[tuple[str, EsclusaError]], *, pending: int
) -> dict[str, object]:
    errors = {name: str(error) for name, error in failed}
    tables = {outcome.source: outcome.tables for outcome in outcomes}
    return {
        "planned_count": sum(outcome.planned_count for outcome in outcomes),
        "outbox_message_count": pending,
        "sources": [
            {
                "source": name,
                "error": errors.get(name),
                "tables": [
                    {
                        "table": table.table,
                        "contract_version": table.contract_version,
                        "planned": [
                            {
                                "batch_id": batch_id(name, table.table, planned.slot),
                                "slot": planned.slot,
                                "start": planned.window.start,
                                "end": planned.window.end,
                            }
                            for planned in table.planned
                        ],
                    }
                    for table in tables.get(name, ())
                ],
            }
            for name in dict.fromkeys([*tables, *errors])
        ],
    }


def _print_enqueued(outcomes: Sequence["EnqueuedSource"]) -> None:
    print_table(
        [whole("table"), number("contract"), number("planned"), whole("from"), whole("to")],
        [
            (
                f"{outcome.source}.{table.table}",
                table.contract_version,
                len(table.planned),
                (table.planned[0].window.start or "the beginning") if table.planned else None,
                table.planned[-1].window.end if table.planned else None,
            )
            for outcome in outcomes
            for table in outcome.tables
        ],
        none="nothing was planned",
    )


# ---- crontab -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CronLine:
    """One line of a crontab."""

    source: str
    schedule: str
    command: str
    #: The shortest interval of the source's tables.
    every: timedelta
    remark: str = ""


def crontab(
    source: SourceNames = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    program: Annotated[
        str | None,
        typer.Option("--program", metavar="FILE", help="What the lines call; else this very program."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """
    Print the lines of a crontab that enqueue each source as often as its most frequent table is due.

    They run some minutes behind the full interval: as long as the tables' lag, so that a window is planned as
    soon as it is closed. Further lines count and compare what was published: of the last two days each night, all
    of it once a week; and each night one compacts the days that are over.
    """
    from shared.catalog import SourceFilesInvalid, read_sources

    catalog = read_sources(sources)
    if catalog.problems:
        raise SourceFilesInvalid(catalog.problems)
    called = program or _this_program()
    lines = [cron_line(item, directory=sources, program=called) for item in _choose(catalog, source)[0]]
    names = [line.source for line in lines] if source else [None]
    recounts, proofs, compactions = (
        nightly_lines(command, spans, names, program=called)
        for command, spans in (("recount", _RECOUNTS), ("prove", _PROOFS), ("compact", _COMPACTIONS))
    )
    if as_json:
        print_json(
            {
                "lines": [
                    {
                        "source": line.source,
                        "every_seconds": int(line.every.total_seconds()),
                        "schedule": line.schedule,
                        "command": line.command,
                        "remark": line.remark or None,
                    }
                    for line in lines
                ],
                "recounts": [{"schedule": schedule, "command": command} for schedule, command in recounts],
                "proofs": [{"schedule": schedule, "command": command} for schedule, command in proofs],
                "compactions": [
                    {"schedule": schedule, "command": command} for schedule, command in compactions
                ],
            }
        )
        return
    typer.echo(
        "# cron hands over none of your shell's settings: set ESCLUSA_* here, or in the user's environment."
    )
    for line in lines:
        if line.remark:
            typer.echo(f"# {line.source}: {line.remark}")
        typer.echo(f"{line.schedule} {line.command}")
    for schedule, command in [*recounts, *proofs, *compactions]:
        typer.echo(f"{schedule} {command}")


def cron_line(source: "Source", *, directory: Path, program: str) -> CronLine:
    """Return the line that enqueues a source."""
    contracts = source.contracts()
    every = min(contract.schedule.every for contract in contracts)
    minutes = max(1, int(every.total_seconds() // 60))
    remark = ""
    if every < timedelta(minutes=1):
        remark = f"due every {text_of(every)}, but cron runs at most once a minute; run it in a loop for more"
    words = [program, "enqueue", "--source", source.name, "--sources", str(directory.absolute())]
    return CronLine(
        source=source.name,
        schedule=_schedule(minutes, behind=_minutes_behind(contracts, every=every) % minutes),
        # cron reads % as the end of the line.
        command=shlex.join(words).replace("%", r"\%"),
        every=every,
        remark=remark,
    )


#: At night, on Sundays all that was ever published.
NightlySpans = Sequence[tuple[str, list[str]]]

#: When published windows are counted again: so long before they are compared that what is missing has come by then.
_RECOUNTS: NightlySpans = (("17 2 * * 1-6", ["--last", "2d"]), ("17 2 * * 0", []))
#: When published rows are compared.
_PROOFS: NightlySpans = (("17 3 * * 1-6", ["--from", "2d"]), ("17 3 * * 0", []))
#: Once the day before was compared.
_COMPACTIONS: NightlySpans = (("17 5 * * *", []),)


def nightly_lines(
    command: str, spans: NightlySpans, sources: Sequence[str | None], *, program: str
) -> list[tuple[str, str]]:
    """Return the schedules and commands that look at what was published, of these sources; None: of all."""
    return [
        (
            schedule,
            shlex.join([program, command, "--all", *(["--source", name] if name else []), *span]),
        )
        for name in sources
        for schedule, span in spans
    ]


def _this_program() -> str:
    # cron's PATH knows no virtual environment: the line names the very program that wrote it.
    running = Path(sys.argv[0])
    if running.name == "esclusa" and running.is_file():
        return str(running.absolute())
    return shutil.which("esclusa") or "esclusa"


def _minutes_behind(contracts: Sequence["TableContract"], *, every: timedelta) -> int:
    lags = [item.cursor.lag for item in contracts if item.cursor and item.schedule.every == every]
    return -(-max(lags, default=timedelta(0)) // timedelta(minutes=1))


def _schedule(minutes: int, *, behind: int) -> str:
    """
    Return the five fields of cron for every so many minutes; the pause across the full hour may be shorter.

    >>> _schedule(15, behind=2), _schedule(60, behind=1), _schedule(25, behind=1)
    ('2-59/15 * * * *', '1 * * * *', '*/25 * * * *')
    """
    if minutes == 1:
        return "* * * * *"
    if minutes >= 60:
        return f"{behind} * * * *"
    # The windows of an interval that does not divide the hour end at other minutes each hour.
    return f"{behind}-59/{minutes} * * * *" if behind and 60 % minutes == 0 else f"*/{minutes} * * * *"
