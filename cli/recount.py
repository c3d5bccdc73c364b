"""The command that counts published windows again, and has those read again that gained rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, SourceFilter, connections_of
from cli.moments import Moment, read_moment
from cli.output import (
    ExitCode,
    exit_code_of,
    heading,
    number,
    print_json,
    print_section,
    print_table,
    remark,
    tell_error,
    text_of,
    whole,
)
from cli.tables import FromOption, ToOption, choose_tables, span_of
from shared.errors import ConfigurationError, EsclusaError

if TYPE_CHECKING:
    from reconciliation.history import Span
    from reconciliation.recount import TableRecount, WindowCount
    from shared.fleet import Fleet

#: The name under which the ledger keeps when all tables were last counted.
SCHEDULED_PART = "recount"


@dataclass(frozen=True, slots=True)
class Recounted:
    """What counting a table came to: a finding, an error, or both if the source stopped to answer."""

    source: str
    table: str
    finding: "TableRecount | None" = None
    error: EsclusaError | None = None


def recount(
    context: typer.Context,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="The table to count: NAME or SOURCE.NAME.")
    ] = None,
    source: SourceFilter = None,
    last: Annotated[
        Moment | None,
        typer.Option(
            "--last",
            parser=read_moment,
            metavar="AGE",
            help="Only windows that end later: an age such as 24h.",
        ),
    ] = None,
    start: FromOption = None,
    end: ToOption = None,
    is_all: Annotated[
        bool, typer.Option("--all", help="Count every table that is still expected. This is what cron runs.")
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell which windows gained rows, and plan and note nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Count the published windows of a table again at its source, and read those again that gained rows.

    So rows arrive that committed later than lag and overlap allow, or were dated back. What is read again is a
    backfill: it waits behind the live windows. The exit code is 1 if rows were found that nothing brings: of an
    appended table, behind a backfill that is held, or in a dry run.
    """
    if is_all == (table is not None):
        raise ConfigurationError("expected a table or --all, found " + ("both" if is_all else "neither"))
    if last and start:
        raise ConfigurationError("expected --last or --from, found both")
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        now = tx.now()
    span = span_of(last or start, end, now=now)
    chosen = choose_tables(fleet.ledger, table=table, source=source, only_expected=True)
    outcomes = [_recount_one(*name, fleet=fleet, span=span, is_dry_run=is_dry_run) for name in chosen]
    if is_all and not is_dry_run:
        with fleet.ledger.transaction() as tx:
            tx.record_run(SCHEDULED_PART)
    if as_json:
        print_json(
            {"at": now, "is_dry_run": is_dry_run, "tables": [_table_document(item) for item in outcomes]}
        )
    else:
        _print_outcomes(outcomes)
    for outcome in outcomes:
        if outcome.error:
            tell_error(outcome.error, about=f"{outcome.source}.{outcome.table} was not counted to the end")
    if code := _exit_code(outcomes):
        raise typer.Exit(code)


def _recount_one(source: str, table: str, *, fleet: "Fleet", span: "Span", is_dry_run: bool) -> Recounted:
    from reconciliation.recount import recount_table
    from shared.outbox import send_pending

    try:
        with _progress(f"{source}.{table}") as on_window:
            finding = recount_table(
                source,
                table,
                ledger=fleet.ledger,
                secrets=fleet.secrets,
                bucket=fleet.settings.bucket(source),
                span=span,
                is_dry_run=is_dry_run,
                on_window=on_window,
            )
    except EsclusaError as error:
        return Recounted(source, table, error=error)
    if finding.run is not None:
        send_pending(fleet.ledger, fleet.sender)
    return Recounted(source, table, finding, finding.error)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[], None]]:
    """Show on a terminal how many windows were counted."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} windows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(text_of(label)), total=None)
        yield lambda: bar.advance(task)


def _exit_code(outcomes: Sequence[Recounted]) -> ExitCode:
    """Return the exit code: of what failed the highest, else whether rows are missing that nothing brings."""
    codes = [exit_code_of(outcome.error) for outcome in outcomes if outcome.error]
    if any(outcome.finding and not outcome.finding.is_cared_for for outcome in outcomes):
        codes.append(ExitCode.PROBLEM)
    return max(codes, default=ExitCode.OK)


# ---- what is told ------------------------------------------------------------------------------------------


def _print_outcomes(outcomes: Sequence[Recounted]) -> None:
    findings = [outcome.finding for outcome in outcomes if outcome.finding]
    print_table(
        [
            *(whole("table"), number("windows"), number("as known"), number("fewer"), number("more")),
            whole("backfill"),
        ],
        [
            (
                f"{finding.source}.{finding.table}",
                len(finding.windows),
                sum(count.found_row_count == count.known_row_count for count in finding.windows),
                sum(count.is_fewer for count in finding.windows),
                len(finding.more),
                finding.run.name if finding.run else None,
            )
            for finding in findings
        ],
        none="no table is expected: `esclusa enqueue` plans the first batches",
    )
    for finding in findings:
        _print_more(finding)
        for text in finding.remarks:
            remark(f"{finding.source}.{finding.table}: {text}")


def _print_more(finding: "TableRecount") -> None:
    if not finding.more:
        return
    print_section(f"{finding.source}.{finding.table}: windows that gained rows")
    print_table(
        [
            *(whole("from"), whole("to"), number("rows known"), number("rows found")),
            *(heading("what is done"), whole("batch")),
        ],
        [
            (
                *_bounds_of(count),
                count.known_row_count,
                count.found_row_count,
                _sentence(count),
                count.window.batch.id,
            )
            for count in finding.more
        ],
        none="",
    )


def _bounds_of(count: "WindowCount") -> tuple[object, object]:
    batch = count.window.batch
    if batch.extent is not None:
        return batch.extent.low or "the beginning", batch.extent.high
    return batch.window.start or "the beginning", batch.window.end


def _sentence(count: "WindowCount") -> str:
    from reconciliation.recount import Answer

    return {
        None: "",
        Answer.PLANNED: "is read again",
        Answer.UNDER_WAY: "a backfill of it is on its way: count again afterwards",
        Answer.HELD: "a backfill of it is held: see `esclusa quarantine list`",
        Answer.IMPOSSIBLE: "nothing: rows that are read again would stand there twice",
        Answer.DRY_RUN: "would be read again",
    }[count.answer]


def _table_document(outcome: Recounted) -> dict[str, object]:
    finding = outcome.finding
    known = {
        "source": outcome.source,
        "table": outcome.table,
        "error": None if outcome.error is None else str(outcome.error),
    }
    if finding is None:
        return {**known, "window_count": 0, "run": None, "more": [], "remarks": []}
    return {
        **known,
        "window_count": len(finding.windows),
        "fewer_count": sum(count.is_fewer for count in finding.windows),
        "more_count": len(finding.more),
        "run": finding.run.name if finding.run else None,
        "part_count": len(finding.run.batches) if finding.run else 0,
        "more": [_window_document(count) for count in finding.more],
        "remarks": finding.remarks,
    }


def _window_document(count: "WindowCount") -> dict[str, object]:
    batch = count.window.batch
    return {
        "batch_id": batch.id,
        "start": batch.window.start,
        "end": batch.window.end,
        "extent": batch.extent and {"low": batch.extent.low, "high": batch.extent.high},
        "known_row_count": count.known_row_count,
        "found_row_count": count.found_row_count,
        "answer": count.answer,
    }
