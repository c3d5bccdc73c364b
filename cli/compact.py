"""The command that writes many small committed files anew as few."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import JsonOption, SourceFilter, connections_of
from cli.moments import read_day
from cli.output import (
    NotFound,
    exit_code_of,
    heading,
    number,
    print_json,
    print_table,
    remark,
    tell_error,
    whole,
)
from cli.sizes import read_size, size_text
from cli.tables import FromOption, ToOption, choose_tables, span_of
from shared.errors import ConfigurationError, EsclusaError, LostLease, Refused

if TYPE_CHECKING:
    from reconciliation.history import Span
    from shared.domain.compactions import Compaction
    from upkeep.compact import Group, Tools

SMALLEST_TARGET, LARGEST_TARGET = 128 * 1024**2, 256 * 1024**2


def compact(
    context: typer.Context,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="The table to compact: NAME or SOURCE.NAME.")
    ] = None,
    source: SourceFilter = None,
    day: Annotated[
        str | None,
        typer.Option("--day", metavar="DAY", help="Only batches whose windows lie in this day (UTC)."),
    ] = None,
    start: FromOption = None,
    end: ToOption = None,
    is_all: Annotated[
        bool, typer.Option("--all", help="Compact every table. This is what cron runs.")
    ] = False,
    target_size: Annotated[
        str,
        typer.Option("--target-size", metavar="SIZE", help="No file becomes larger: 128MB to 256MB."),
    ] = "192MB",
    retention_days: Annotated[
        int,
        typer.Option(
            "--keep-days",
            min=1,
            max=365,
            metavar="DAYS",
            help="Replaced files stay for so long; until then it can be undone.",
        ),
    ] = 7,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; list what would be written.")
    ] = False,
    undo: Annotated[
        str | None,
        typer.Option("--undo", metavar="ID", help="Have the files that a compaction replaced read again."),
    ] = None,
    show_list: Annotated[
        bool, typer.Option("--list", help="List the compactions of the table, and do nothing else.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Write many small committed files of a table's days as few large ones. Readers notice nothing.

    Without --day, --from or --to: the days that are over. Each new file is proven before it is read, and the files
    it replaces stay for a week. What a run that died has left is finished first.
    """
    if is_all == (table is not None):
        raise ConfigurationError("expected a table or --all, found " + ("both" if is_all else "neither"))
    if (undo is not None or show_list) and table is None:
        raise ConfigurationError("--undo and --list: expected a table, found --all")
    target_size_in_bytes = read_size(target_size)
    if not SMALLEST_TARGET <= target_size_in_bytes <= LARGEST_TARGET:
        raise ConfigurationError(f"--target-size: expected 128MB to 256MB, found {target_size}")
    if day is not None and (start or end):
        raise ConfigurationError("expected --day, or --from and --to, found both")
    connections = connections_of(context)
    fleet = connections.fleet()
    chosen = choose_tables(fleet.ledger, table=table, source=source)
    from upkeep.compact import Tools

    tools = Tools(
        fleet.ledger, fleet.store, connections.catalog(fleet), retention=timedelta(days=retention_days)
    )
    if show_list:
        _list(*chosen[0], tools=tools, as_json=as_json)
        return
    if undo is not None:
        _undo(*chosen[0], undo, tools=tools, as_json=as_json)
        return
    with fleet.ledger.transaction() as tx:
        now = tx.now()
    span = _span(read_day(day) if day else None, span_of(start, end, now=now), now=now)
    if is_dry_run:
        _tell_groups(_groups(chosen, span, target_size_in_bytes, tools), as_json=as_json)
        return
    done, errors = _compact(chosen, span, target_size_in_bytes, tools)
    if as_json:
        print_json(
            {"compactions": [compaction_document(one) for one in done], "errors": [str(e) for e in errors]}
        )
    else:
        print_compactions(done, none="nothing to compact")
    for error in errors:
        tell_error(error)
    if errors:
        raise typer.Exit(max(exit_code_of(error) for error in errors))


def _span(day: datetime | None, asked: "Span", *, now: datetime) -> "Span":
    from reconciliation.history import EVERYTHING, Span

    if day is not None:
        return Span(day, day + timedelta(days=1))
    if asked != EVERYTHING:
        return asked
    # More comes to a day that is not over: what is left of it would have to be compacted again, and is not.
    return Span(None, now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0))


def _groups(
    names: Sequence[tuple[str, str]], span: "Span", target_size: int, tools: "Tools"
) -> list["Group"]:
    from upkeep.compact import find_groups

    return [
        group
        for name in names
        for group in find_groups(
            *name,
            ledger=tools.ledger,
            covers=lambda window: _lies_in(span, window.end),
            target_size_in_bytes=target_size,
        )
    ]


def _lies_in(span: "Span", window_end: datetime) -> bool:
    return (span.start is None or span.start < window_end) and (span.end is None or window_end <= span.end)


def _compact(
    names: Sequence[tuple[str, str]], span: "Span", target_size: int, tools: "Tools"
) -> tuple[list["Compaction"], list[EsclusaError]]:
    """Compact tables one after the other. One that cannot be holds up no other, nor do batches that cannot be."""
    from rich.console import Console
    from rich.progress import Progress

    from upkeep.compact import compact_group, finish

    done: list[Compaction] = []
    errors: list[EsclusaError] = []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for name in names:
            try:
                done += finish(*name, tools=tools)
                groups = _groups([name], span, target_size, tools)
                task = bar.add_task(".".join(name), total=sum(group.size_in_bytes for group in groups))
                for group in groups:
                    try:
                        done.append(compact_group(group, tools=tools, detail="esclusa compact"))
                    except (
                        Refused,
                        LostLease,
                    ) as error:  # of these batches; a part that is away ends the table's
                        errors.append(error)
                    bar.advance(task, group.size_in_bytes)
            except EsclusaError as error:
                errors.append(error)
    return done, errors


def _undo(source: str, table: str, compaction_id: str, *, tools: "Tools", as_json: bool) -> None:
    from upkeep.compact import undo

    with tools.ledger.transaction() as tx:
        found = tx.compaction(compaction_id)
    if found is None or (found.source, found.table) != (source, table):
        raise NotFound(
            f"compaction {compaction_id!r}: {source}.{table} has none such; `esclusa compact {source}.{table} --list`"
        )
    undone = undo(compaction_id, tools=tools, detail="esclusa compact --undo")
    if as_json:
        print_json({"compactions": [compaction_document(undone)], "errors": []})
    else:
        print_compactions([undone], none="")


def _list(source: str, table: str, *, tools: "Tools", as_json: bool) -> None:
    with tools.ledger.transaction() as tx:
        found = tx.compactions(source, table)
    if as_json:
        print_json({"compactions": [compaction_document(one) for one in found], "errors": []})
    else:
        print_compactions(found, none=f"{source}.{table} was never compacted")


# ---- what is told ------------------------------------------------------------------------------------------


def _tell_groups(groups: Sequence["Group"], *, as_json: bool) -> None:
    if as_json:
        print_json({"groups": [group_document(group) for group in groups]})
        return
    print_groups(groups, none="nothing to compact")
    if groups:
        remark(
            f"a run would write {len(groups)} files in place of {sum(len(group.files) for group in groups)}"
        )


def group_document(group: "Group") -> dict[str, Any]:
    """Return a file that is to be written as JSON."""
    return {
        "source": group.contract.source,
        "table": group.contract.table,
        "day": group.day,
        "batch_count": len(group.members),
        "file_count": len(group.files),
        "record_count": group.record_count,
        "size_in_bytes": group.size_in_bytes,
    }


def print_groups(groups: Sequence["Group"], *, none: str) -> None:
    """Print a line for each file that is to be written."""
    print_table(
        [
            heading("table"),
            heading("day"),
            number("batches"),
            number("files"),
            number("rows"),
            number("size"),
        ],
        [
            (
                f"{group.contract.source}.{group.contract.table}",
                group.day,
                len(group.members),
                len(group.files),
                group.record_count,
                size_text(group.size_in_bytes),
            )
            for group in groups
        ],
        none=none,
    )


def compaction_document(compaction: "Compaction") -> dict[str, Any]:
    """Return a compaction as JSON."""
    return {
        "id": compaction.id,
        "source": compaction.source,
        "table": compaction.table,
        "day": compaction.day,
        "state": compaction.state,
        "types_version": compaction.types_version,
        "batch_ids": [part.batch_id for part in compaction.batches],
        "record_count": compaction.row_count,
        "decided_at": compaction.decided_at,
        "shown_at": compaction.shown_at,
        "delete_after": compaction.delete_after,
        "cleaned_at": compaction.cleaned_at,
        "detail": compaction.detail,
    }


def print_compactions(found: Sequence["Compaction"], *, none: str) -> None:
    """Print a line for each compaction."""
    from shared.domain.compactions import CompactionState

    # Of the others no catalog ever hears.
    states = {CompactionState.COMMITTED, CompactionState.UNDONE, CompactionState.REPLACED}
    unshown = [one for one in found if one.shown_at is None and one.state in states]
    print_table(
        [
            whole("compaction"),
            heading("table"),
            heading("day"),
            heading("state"),
            number("batches"),
            number("rows"),
            heading("replaced files go"),
        ],
        [
            (
                one.id,
                f"{one.source}.{one.table}",
                one.day,
                f"{one.state}, not shown yet" if one in unshown else one.state,
                len(one.batches),
                one.row_count,
                "gone" if one.cleaned_at else one.delete_after or "",
            )
            for one in found
        ],
        none=none,
    )
    if unshown:
        remark("some are not shown by the catalog yet: run it again")
