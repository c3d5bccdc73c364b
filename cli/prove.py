"""The command that compares the rows of a table on their whole way: source, CSV, Parquet, warehouse."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, SourceFilter, connections_of
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
    from reconciliation.findings import Difference, TableFinding, WindowFinding
    from reconciliation.history import Span
    from reconciliation.reading import Places

#: The name under which the ledger keeps when all tables were last compared.
SCHEDULED_PART = "prove"


@dataclass(frozen=True, slots=True)
class Proved:
    """What comparing a table came to: a finding or an error."""

    source: str
    table: str
    finding: "TableFinding | None" = None
    error: EsclusaError | None = None


def prove(
    context: typer.Context,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="The table to compare: NAME or SOURCE.NAME.")
    ] = None,
    source: SourceFilter = None,
    start: FromOption = None,
    end: ToOption = None,
    is_all: Annotated[
        bool,
        typer.Option("--all", help="Compare every table that is still expected. This is what cron runs."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Compare the published rows of a table at its source, in its CSV, its Parquet and the warehouse.

    Window by window, by count and by a checksum that does not depend on the order of rows. The first difference is
    named: the window, the two sides, the first keys and the columns that differ; values are never told. What was
    found is kept in the ledger. The exit code is 1 if something differs.
    """
    if is_all == (table is not None):
        raise ConfigurationError("expected a table or --all, found " + ("both" if is_all else "neither"))
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        now = tx.now()
    chosen = choose_tables(fleet.ledger, table=table, source=source, only_expected=True)
    from reconciliation.reading import Places

    span = span_of(start, end, now=now)
    places = Places(fleet.ledger, fleet.store, fleet.secrets, connections_of(context).warehouse(fleet))
    outcomes = [_prove_one(*name, places=places, span=span) for name in chosen]
    if is_all:
        with fleet.ledger.transaction() as tx:
            tx.record_run(SCHEDULED_PART)
    if as_json:
        print_json({"at": now, "tables": [_table_document(outcome) for outcome in outcomes]})
    else:
        _print_outcomes(outcomes)
    for outcome in outcomes:
        if outcome.error:
            tell_error(outcome.error, about=f"{outcome.source}.{outcome.table} was not compared")
    if code := _exit_code(outcomes):
        raise typer.Exit(code)


# ---- what is asked for -------------------------------------------------------------------------------------


def _prove_one(source: str, table: str, *, places: "Places", span: "Span") -> Proved:
    from reconciliation.prove import prove_table
    from reconciliation.record import record

    try:
        with _progress(f"{source}.{table}") as on_rows:
            finding = prove_table(source, table, places=places, span=span, on_rows=on_rows)
        record(finding, ledger=places.ledger)
    except EsclusaError as error:
        return Proved(source, table, error=error)
    return Proved(source, table, finding)


@contextmanager
def _progress(label: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how many rows were read. How many there are at the source, nobody knows before."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} rows"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(text_of(label)), total=None)
        yield lambda row_count: bar.advance(task, row_count)


def _exit_code(outcomes: Sequence[Proved]) -> ExitCode:
    """Return the exit code: of what failed the highest, else whether something differs."""
    codes = [exit_code_of(outcome.error) for outcome in outcomes if outcome.error]
    if any(outcome.finding and not outcome.finding.is_equal for outcome in outcomes):
        codes.append(ExitCode.PROBLEM)
    return max(codes, default=ExitCode.OK)


# ---- what is told ------------------------------------------------------------------------------------------


def _print_outcomes(outcomes: Sequence[Proved]) -> None:
    from reconciliation.sides import Side
    from shared.domain.counts import Count

    findings = [outcome.finding for outcome in outcomes if outcome.finding]
    print_table(
        [
            *(whole("table"), heading("verdict"), number("windows"), number("source"), number("csv")),
            *(number("rejected"), number("lake"), number("warehouse"), number("not settled")),
        ],
        [
            (
                f"{finding.source}.{finding.table}",
                _verdict(finding),
                len(finding.windows),
                finding.total(Side.SOURCE).row_count,
                sum(window.batch.counts.get(Count.ROWS_WRITTEN, 0) for window in finding.windows),
                sum(window.rejected_row_count for window in finding.windows),
                finding.total(Side.LAKE).row_count,
                finding.total(Side.WAREHOUSE).row_count if _has_warehouse(finding) else None,
                finding.unsettled_count + finding.unpublished_count,
            )
            for finding in findings
        ],
        none="no table is expected: `esclusa enqueue` plans the first batches",
    )
    for finding in findings:
        _print_first_difference(finding)
        for text in [*finding.remarks, *(text for window in finding.windows for text in window.remarks)]:
            remark(f"{finding.source}.{finding.table}: {text}")
        if finding.moved_row_count:
            remark(
                f"{finding.source}.{finding.table}: {finding.moved_row_count} rows moved meanwhile and were left out"
            )


def _verdict(finding: "TableFinding") -> str:
    if not finding.is_equal:
        differing = sum(not window.is_equal for window in finding.windows)
        return f"{differing} windows differ" if differing > 1 else "1 window differs"
    return "equal" if finding.windows else "nothing to compare"


def _has_warehouse(finding: "TableFinding") -> bool:
    from reconciliation.sides import Side

    return any(Side.WAREHOUSE in window.sides for window in finding.windows)


def _print_first_difference(finding: "TableFinding") -> None:
    found = finding.first_difference
    if found is None or found.difference is None:
        return
    window, extent = found.batch.window, found.batch.extent
    print_section(f"{finding.source}.{finding.table}: the first difference")
    part = f", {extent.low or 'from the beginning'} to {extent.high}" if extent else ""
    typer.echo(
        f"window {text_of(window.start) or 'from the beginning'} to {text_of(window.end)}{part}, "
        f"batch {found.batch.id}"
    )
    typer.echo(text_of(found.difference.sentence))
    one, other = found.difference.sides
    if found.difference.rows:
        print_table(
            [
                whole("key"),
                number(f"rows in {one}"),
                number(f"rows in {other}"),
                heading("differing columns"),
            ],
            [
                (
                    ", ".join(f"{name}={value}" for name, value in row.key.items()) or "(no key)",
                    row.counts.get(one, 0),
                    row.counts.get(other, 0),
                    ", ".join(row.columns),
                )
                for row in found.difference.rows
            ],
            none="",
        )


def _table_document(outcome: Proved) -> dict[str, object]:
    finding = outcome.finding
    known = {
        "source": outcome.source,
        "table": outcome.table,
        "error": None if outcome.error is None else str(outcome.error),
    }
    if finding is None:
        return {**known, "is_equal": None, "windows": []}
    first = finding.first_difference
    return {
        **known,
        "is_equal": finding.is_equal,
        "first_difference": None if first is None else _window_document(first),
        "unsettled_count": finding.unsettled_count,
        "unpublished_count": finding.unpublished_count,
        "moved_row_count": finding.moved_row_count,
        "remarks": finding.remarks,
        "windows": [_window_document(window) for window in finding.windows],
    }


def _window_document(found: "WindowFinding") -> dict[str, object]:
    from reconciliation.record import sides_document

    return {
        "batch_id": found.batch.id,
        "start": found.batch.window.start,
        "end": found.batch.window.end,
        "extent": found.batch.extent and {"low": found.batch.extent.low, "high": found.batch.extent.high},
        "compared_until": found.until,
        "is_equal": found.is_equal,
        "sides": sides_document(found),
        "difference": None if found.difference is None else _difference_document(found.difference),
        "remarks": found.remarks,
    }


def _difference_document(difference: "Difference") -> dict[str, object]:
    return {
        "sides": difference.sides,
        "measure": difference.measure,
        "detail": difference.detail,
        "differing_key_count": difference.differing_key_count,
        "is_cut": difference.is_cut,
        "rows": [{"key": row.key, "counts": row.counts, "columns": row.columns} for row in difference.rows],
    }
