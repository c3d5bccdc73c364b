"""Commands for work in bulk: read a span of a table again, and see how far first loads and backfills are."""

import re
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourceFilter, SourcesOption, connections_of
from cli.moments import read_moment
from cli.output import (
    ExitCode,
    NotFound,
    number,
    print_json,
    print_table,
    remark,
    text_of,
    whole,
)
from shared.errors import ConfigurationError
from shared.ports import Ledger
from shared.visits import visiting

if TYPE_CHECKING:
    from services.extractor.backfill import BackfillPart
    from shared.bulk import BulkRun
    from shared.catalog import Catalog
    from shared.domain.contracts import TableContract
    from shared.domain.progress import CursorCount

_CHUNK = re.compile(r"(?P<number>[0-9]{1,5})(?P<unit>[smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

#: So many published batches tell how many bytes a row has.
_SAMPLED_BATCHES = 20
_PAUSE_SECONDS = 2.0


def backfill(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table to read: NAME or SOURCE.NAME.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MOMENT",
            help="Rows of this moment and later: ISO 8601, or an age such as 30d; of a cursor that counts, a number. "
            "Absent: from the beginning.",
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="MOMENT",
            help="Rows before this moment, or below this number. Absent: up to where the live windows go on.",
        ),
    ] = None,
    chunk: Annotated[
        str | None,
        typer.Option(
            "--chunk",
            metavar="SIZE",
            help="What one batch reads: a time such as 6h or 1d, or about so many rows, such as 500000. "
            "By default the table's rows_per_part.",
        ),
    ] = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    source: SourceFilter = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be read, and plan nothing.")
    ] = False,
    is_awaited: Annotated[
        bool, typer.Option("--wait", help="Show the progress until it is at rest.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Read a span of a table again, in parts that wait behind the live windows.

    Each part is a batch of its own: it is retried alone, and any number of workers share them. What the source has
    now takes the place of what stands in the table; rows that are gone at the source stay. The live cursor does not
    move. Rows and bytes are estimates.
    """
    from services.extractor.backfill import backfill_parts
    from services.extractor.readers import open_reader
    from services.extractor.scouting import LIMITS
    from shared.bulk import plan_backfill
    from shared.catalog import load_sources

    contract = choose_contract(load_sources(sources), table=table, source=source)
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        now, watermark = tx.now(), tx.watermark(contract.source, contract.table)
        known = tx.cursor_count(contract.source, contract.table)
    if watermark is None:
        raise ConfigurationError(
            f"table {contract.source}.{contract.table}: nothing of it is planned yet; the first `esclusa enqueue` "
            "reads all of it"
        )
    planned_end = planned_end_of(contract, known, watermark=watermark)
    with (
        visiting(contract.source, who="backfill", ledger=fleet.ledger),
        open_reader(contract, secrets=fleet.secrets, limits=LIMITS) as reader,
    ):
        parts = backfill_parts(
            contract,
            reader,
            start=None if start is None else read_bound(start, contract, now=now),
            end=planned_end if end is None else read_bound(end, contract, now=now),
            chunk=None if chunk is None else read_chunk(chunk),
            watermark=watermark,
        )
    bytes_per_row = _bytes_per_row(fleet.ledger, contract)
    if is_dry_run:
        _tell_parts(contract, parts, bytes_per_row=bytes_per_row, as_json=as_json)
        return
    run = plan_backfill(
        contract,
        [part.planned for part in parts],
        ledger=fleet.ledger,
        bucket=fleet.settings.bucket(contract.source),
    )
    from shared.outbox import send_pending

    send_pending(fleet.ledger, fleet.sender)
    if is_awaited:
        run = _wait(run, ledger=fleet.ledger)
    if as_json:
        print_json(_run_document(run, now=now))
    else:
        _print_runs([run], now=now)
    if run.held:
        raise typer.Exit(ExitCode.PROBLEM)


def backfills(
    context: typer.Context,
    table: Annotated[
        str | None, typer.Argument(metavar="TABLE", help="Only this table: NAME or SOURCE.NAME.")
    ] = None,
    source: SourceFilter = None,
    as_json: JsonOption = False,
) -> None:
    """
    Tell how far first loads in parts and backfills are, and about how long they still take.

    The exit code is 1 if parts of one are held: `esclusa quarantine list` tells why.
    """
    from shared.bulk import bulk_runs

    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        now = tx.now()
        runs = [
            run
            for run in bulk_runs(tx, source=source)
            if table in {None, run.table, f"{run.source}.{run.table}"}
        ]
    if as_json:
        print_json({"at": now, "runs": [_run_document(run, now=now) for run in runs]})
    else:
        _print_runs(runs, now=now)
    if any(run.held for run in runs):
        raise typer.Exit(ExitCode.PROBLEM)


# ---- what is asked for -------------------------------------------------------------------------------------


def choose_contract(catalog: "Catalog", *, table: str, source: str | None) -> "TableContract":
    """
    Return the contract of a table by its source file.

    Raises:
        NotFound: if no source file has such a table.
        ConfigurationError: if tables of several sources have the name.
    """
    found = [
        contract
        for item in catalog.sources
        if source in {None, item.name}
        for contract in item.contracts()
        if table in {contract.table, f"{contract.source}.{contract.table}"}
    ]
    if not found:
        raise NotFound(f"table {table!r}: no source file has one of that name")
    if len(found) > 1:
        names = ", ".join(f"{contract.source}.{contract.table}" for contract in found)
        raise ConfigurationError(
            f"table {table!r}: expected one table, found {names}; say which with --source"
        )
    return found[0]


def read_bound(text: str, contract: "TableContract", *, now: datetime) -> datetime | int:
    """
    Read a bound of a span: a number if the cursor counts, else a moment or an age.

    Raises:
        BadParameter: if it is none.
    """
    from shared.domain.contracts import CursorScale

    if contract.cursor_scale is CursorScale.COUNT:
        try:
            return int(text)
        except ValueError:
            raise typer.BadParameter(
                f"expected a number, since the cursor of {contract.source}.{contract.table} counts, found {text!r}"
            ) from None
    return read_moment(text).seen_from(now)


def planned_end_of(
    contract: "TableContract", known: "CursorCount | None", *, watermark: datetime
) -> datetime | int:
    """
    Return where the live windows of a table go on: a number if its cursor counts.

    Raises:
        ConfigurationError: if no number of it is planned yet.
    """
    from shared.domain.contracts import CursorScale

    if contract.cursor is None or contract.cursor_scale is not CursorScale.COUNT:
        return watermark
    if known is None or known.column != contract.cursor.column or known.planned_below is None:
        raise ConfigurationError(
            f"table {contract.source}.{contract.table}: no number of its cursor {contract.cursor.column!r} is planned yet; "
            "`esclusa enqueue` reads what there is"
        )
    return known.planned_below


def read_chunk(text: str) -> timedelta | int:
    """
    Read a length of time or a number of rows.

    >>> read_chunk("6h"), read_chunk("500000")
    (datetime.timedelta(seconds=21600), 500000)

    Raises:
        BadParameter: if it is neither, or nothing.
    """
    match = _CHUNK.fullmatch(text)
    size: timedelta | int | None = None
    if match:
        size = timedelta(**{_UNITS[match["unit"]]: int(match["number"])})
    elif text.isascii() and text.isdigit() and len(text) <= 12:
        size = int(text)
    if not size:
        raise typer.BadParameter(f"expected a time such as 6h or 1d, or a number of rows, found {text!r}")
    return size


def _bytes_per_row(ledger: Ledger, contract: "TableContract") -> float | None:
    """Return how many bytes of CSV a row of the newest batches has; None if none was read yet."""
    from shared.domain.batches import BatchState
    from shared.domain.files import Area

    with ledger.transaction() as tx:
        batches = tx.batches(
            source=contract.source,
            table=contract.table,
            states=[BatchState.PUBLISHED],
            limit=_SAMPLED_BATCHES,
            newest_first=True,
        )
        files = [file for batch in batches for file in tx.files(batch_id=batch.id, areas=[Area.TMP])]
    rows = sum(file.record_count for file in files)
    return sum(file.file_size_in_bytes for file in files) / rows if rows else None


# ---- telling -----------------------------------------------------------------------------------------------


def _wait(run: "BulkRun", *, ledger: Ledger) -> "BulkRun":
    """Look again until the fleet has nothing more to do for a run."""
    from shared.bulk import bulk_runs

    told = -1
    while True:
        with ledger.transaction() as tx:
            (run,) = [
                found for found in bulk_runs(tx, source=run.source, table=run.table) if found.name == run.name
            ]
            left = run.time_left(tx.now())
        if len(run.done) != told:
            told = len(run.done)
            about = f", about {_length_of(left)} left" if left else ""
            remark(f"{told} of {len(run.batches)} parts, {run.row_count} rows{about}")
        if run.is_at_rest:
            return run
        time.sleep(_PAUSE_SECONDS)


def _tell_parts(
    contract: "TableContract", parts: Sequence["BackfillPart"], *, bytes_per_row: float | None, as_json: bool
) -> None:
    counts = [part.row_count for part in parts]
    rows = None if None in counts else sum(count or 0 for count in counts)
    size = None if rows is None or bytes_per_row is None else round(rows * bytes_per_row)
    if as_json:
        print_json(
            {
                "source": contract.source,
                "table": contract.table,
                "row_count": rows,
                "size_in_bytes": size,
                "parts": [
                    {
                        "start": part.planned.window.start,
                        "end": part.planned.window.end,
                        "extent": part.planned.extent
                        and {"low": part.planned.extent.low, "high": part.planned.extent.high},
                        "row_count": part.row_count,
                        "size_in_bytes": None
                        if part.row_count is None or bytes_per_row is None
                        else round(part.row_count * bytes_per_row),
                    }
                    for part in parts
                ],
            }
        )
        return
    print_table(
        [whole("from"), whole("to"), number("rows"), number("bytes")],
        [
            (
                *_span_of(part),
                part.row_count,
                None
                if part.row_count is None or bytes_per_row is None
                else round(part.row_count * bytes_per_row),
            )
            for part in parts
        ],
        none="nothing would be read",
    )
    remark(
        f"{len(parts)} parts, {'unknown' if rows is None else rows} rows, "
        f"about {'unknown' if size is None else size} bytes of CSV. Nothing was planned"
    )


def _span_of(part: "BackfillPart") -> tuple[str, str]:
    extent = part.planned.extent
    if extent is not None:
        return extent.low or "the beginning", extent.high or "the end"
    return text_of(part.planned.window.start) or "the beginning", text_of(part.planned.window.end)


def _print_runs(runs: Sequence["BulkRun"], *, now: datetime) -> None:
    print_table(
        [
            whole("table"),
            whole("run"),
            number("parts"),
            number("done"),
            number("held"),
            number("rows"),
            whole("time left"),
        ],
        [
            (
                f"{run.source}.{run.table}",
                run.name,
                len(run.batches),
                len(run.done),
                len(run.held),
                run.row_count,
                "" if run.is_at_rest else _length_of(run.time_left(now)),
            )
            for run in runs
        ],
        none="no first load in parts, and no backfill",
    )


def _length_of(length: timedelta | None) -> str:
    return "unknown" if length is None else f"{length.total_seconds():.0f}s"


def _run_document(run: "BulkRun", *, now: datetime) -> dict[str, object]:
    left = run.time_left(now)
    return {
        "source": run.source,
        "table": run.table,
        "run": run.name,
        "planned_at": run.planned_at,
        "part_count": len(run.batches),
        "done_count": len(run.done),
        "held_count": len(run.held),
        "row_count": run.row_count,
        "seconds_left": None if left is None else round(left.total_seconds()),
        "batches": [
            {
                "batch_id": batch.id,
                "start": batch.window.start,
                "end": batch.window.end,
                "state": batch.state,
                "reason": batch.reason,
            }
            for batch in run.batches
        ],
    }
