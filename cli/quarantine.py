"""The commands for what waits for a person: quarantine list, show, replay, discard."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourceFilter, SourcesOption, connections_of
from cli.contract import accept_command, print_drift
from cli.explain import cure
from cli.held import RejectedRows, Selection, batches_with_rejects, held_batches, rejected_rows
from cli.look import MAX_LIMIT, file_document
from cli.moments import Moment, read_moment
from cli.output import (
    NotDone,
    NotFound,
    duration_text,
    errors_told,
    exit_code_of,
    heading,
    number,
    print_facts,
    print_json,
    print_section,
    print_table,
    remark,
    require_typed,
    tell_error,
    text_of,
    whole,
)
from cli.replays import Loss, Replayed, Replays, discard_rejects, loss_of, loss_of_rejects
from cli.replays import discard as discard_batch
from cli.set_aside import Header, RejectedCell, columns_of, compare_header, rejected_cells
from shared.domain.batches import Attempt, Batch, BatchEvent, BatchState, Stage
from shared.domain.drift import HOLDING, Drift
from shared.domain.files import Area, DataFile, FileFormat
from shared.domain.reasons import Reason
from shared.errors import EsclusaError, Unavailable
from shared.ports import LedgerTransaction

if TYPE_CHECKING:
    from shared.fleet import Fleet

#: How much of a batch's history `show` tells; `esclusa why` tells all of it.
MAX_EVENTS_SHOWN = 10
#: Of so many CSV files `show` compares the header: each is a request.
MAX_HEADERS_COMPARED = 100
#: Before it asks, `discard` tells what is lost with each of so many batches.
MAX_LOSSES_TOLD = 20
#: So many batches are replayed before their messages are sent.
BATCHES_PER_SEND = 200


class HeldState(StrEnum):
    """The states that only a person ends."""

    QUARANTINED = BatchState.QUARANTINED.value
    FAILED = BatchState.FAILED.value


BatchArguments = Annotated[
    list[str] | None, typer.Argument(metavar="BATCH", help="Ids of batches; else options choose them.")
]
TableFilter = Annotated[
    str | None, typer.Option("--table", metavar="NAME", help="Only batches of this table.")
]
ReasonFilter = Annotated[
    list[Reason] | None,
    typer.Option("--reason", metavar="REASON", help="Only batches held for this reason. Repeatable."),
]
StateFilter = Annotated[HeldState | None, typer.Option("--state", help="Only batches in this state.")]
SinceFilter = Annotated[
    Moment | None,
    typer.Option(
        "--since",
        parser=read_moment,
        metavar="MOMENT",
        help="Only what is held (or published, with --rejects) since this moment, such as 2026-11-22T14:30Z or 36h.",
    ),
]
UntilFilter = Annotated[
    Moment | None,
    typer.Option(
        "--until", parser=read_moment, metavar="MOMENT", help="Only what is so since before this moment."
    ),
]
RejectsOption = Annotated[
    bool, typer.Option("--rejects", help="Rejected rows of published batches instead of held batches.")
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, max=MAX_LIMIT, help="At most so many, the first held first.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]

app = typer.Typer(
    help="What waits for a person: batches that are held, and rows that were rejected.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


# ---- list --------------------------------------------------------------------------------------------------


def list_(
    context: typer.Context,
    source: SourceFilter = None,
    table: TableFilter = None,
    reason: ReasonFilter = None,
    state: StateFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    rejects: RejectsOption = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="At most so many batches.")
    ] = 100,
    as_json: JsonOption = False,
) -> None:
    """
    List the batches that are held, the last held first; with --rejects, published batches that lack rows.

    A batch with rejected rows leaves the list once its window was read again and published, its rejects were
    discarded, or the list of them expired.
    """
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        selection = _selection(tx, source, table, reason, state, since, until, rejects=rejects)
        if rejects:
            found = batches_with_rejects(tx, selection, bucket=_bucket(fleet, source))
            _print_rejects(found[:limit], total_count=len(found), now=tx.now(), as_json=as_json)
            total_count = len(found)
        else:
            held = held_batches(tx, selection)
            counts = [_count_set_aside(tx, batch) for batch in held[:limit]]
            _print_held(held[:limit], counts, total_count=len(held), now=tx.now(), as_json=as_json)
            total_count = len(held)
    if total_count > limit and not as_json:
        remark(f"these are {limit} of {total_count}: narrow the search, or raise --limit")


def _bucket(fleet: "Fleet", source: str | None) -> str | None:
    return None if source is None else fleet.settings.bucket(source)


def _count_set_aside(tx: LedgerTransaction, batch: Batch) -> int:
    return len(tx.files(batch_id=batch.id, areas=[Area.QUARANTINE], present_only=True))


def _print_held(
    held: Sequence[Batch], counts: Sequence[int], *, total_count: int, now: datetime, as_json: bool
) -> None:
    if as_json:
        print_json(
            {
                "total_count": total_count,
                "is_cut": total_count > len(held),
                "batches": [
                    {**_batch_document(batch, now=now), "objects_set_aside_count": count}
                    for batch, count in zip(held, counts, strict=True)
                ],
            }
        )
        return
    print_table(
        [
            *(whole("held since"), number("age"), whole("batch"), whole("table"), heading("state")),
            *(heading("reason"), whole("window"), number("objects"), heading("detail")),
        ],
        [
            (
                batch.changed_at.replace(microsecond=0),
                _age_text(batch, now=now),
                batch.id,
                f"{batch.source}.{batch.table}",
                batch.state,
                batch.reason,
                _window_text(batch),
                count,
                batch.detail,
            )
            for batch, count in zip(held, counts, strict=True)
        ],
        none="nothing is held",
    )


def _print_rejects(found: Sequence[RejectedRows], *, total_count: int, now: datetime, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "total_count": total_count,
                "is_cut": total_count > len(found),
                "batches": [
                    {
                        **_batch_document(item.batch, now=now),
                        "rows_rejected": item.batch.counts.get("rows_rejected", 0),
                        "files": [file_document(file) for file in item.files],
                        "readings": [_reading_document(reading) for reading in item.readings],
                    }
                    for item in found
                ],
            }
        )
        return
    print_table(
        [
            *(whole("published"), number("age"), whole("batch"), whole("table"), whole("window")),
            *(number("rows rejected"), number("cells"), whole("read again by"), heading("which is")),
        ],
        [
            (
                item.batch.changed_at.replace(microsecond=0),
                _age_text(item.batch, now=now),
                item.batch.id,
                f"{item.batch.source}.{item.batch.table}",
                _window_text(item.batch),
                item.batch.counts.get("rows_rejected", 0),
                sum(file.record_count for file in item.files),
                item.readings[-1].id if item.readings else None,
                item.readings[-1].state if item.readings else None,
            )
            for item in found
        ],
        none="no published batch lacks rows",
    )


# ---- show --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a batch that waits for a person."""

    batch: Batch
    attempts: Sequence[Attempt]
    history: Sequence[BatchEvent]
    #: The header that its CSV files should have.
    header: Sequence[str]
    #: What lies in quarantine, and how the first line of each CSV file compares with the header.
    objects: Sequence[tuple[DataFile, Header | None]]
    readings: Sequence[Batch]
    cells: Sequence[RejectedCell] | None
    #: What the source had otherwise than the contract; None if that is not why it is held.
    drift: Drift | None


def show(
    context: typer.Context,
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="The id of a batch.")],
    rejects: Annotated[
        bool, typer.Option("--rejects", help="Line, column and reason of each rejected cell, too.")
    ] = False,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="At most so many rejected cells.")
    ] = 100,
    as_json: JsonOption = False,
) -> None:
    """
    Tell why a batch waits for a person: reason, cure, attempts, history, and the objects that were set aside.

    No value of a row is shown, masked or not: of CSV files how their header compares with the contract, of rejected
    rows their place and reason.
    """
    evidence = _gather(connections_of(context).fleet(), batch, cell_limit=limit if rejects else None)
    is_cut = evidence.cells is not None and len(evidence.cells) > limit
    if as_json:
        print_json(_evidence_document(evidence, cell_limit=limit))
        return
    _print_evidence(evidence, cell_limit=limit)
    if is_cut:
        remark(f"there are more than {limit} cells: raise --limit")


def _gather(fleet: "Fleet", batch_id: str, *, cell_limit: int | None) -> Evidence:
    with fleet.ledger.transaction() as tx:
        batch = tx.batch(batch_id)
        if batch is None:
            raise NotFound(f"batch {batch_id!r}: the ledger holds none of that id; `esclusa quarantine list`")
        contract = tx.contract(batch.source, batch.table, batch.contract_version).contract
        attempts, history = tx.attempts(batch.id), tx.events(batch.id)
        files = tx.files(batch_id=batch.id, areas=[Area.QUARANTINE], present_only=True)
        readings = rejected_rows(tx, batch).readings
        drift = _drift_of(tx, batch)
    headers = {
        file.location: compare_header(file, contract, store=fleet.store)
        for file in [file for file in files if file.format is FileFormat.CSV][:MAX_HEADERS_COMPARED]
    }
    cells: list[RejectedCell] | None = None
    if cell_limit is not None:
        cells = []
        for file in [file for file in files if file.format is FileFormat.REJECTS]:
            # One more than is shown tells that there are more.
            wanted = cell_limit + 1 - len(cells)
            cells += rejected_cells(file, contract, store=fleet.store, limit=wanted) if wanted > 0 else []
    return Evidence(
        batch,
        attempts,
        history,
        columns_of(contract),
        [(file, headers.get(file.location)) for file in files],
        readings,
        cells,
        drift,
    )


def _drift_of(tx: LedgerTransaction, batch: Batch) -> Drift | None:
    """Return what the last attempt of a held batch found at its source otherwise, if that is why it is held."""
    if batch.reason not in HOLDING.values():
        return None
    findings = tx.manifest(batch.id, Stage.EXTRACT, batch.attempt_number(Stage.EXTRACT)) or {}
    return Drift.of_document(findings["drift"]) if "drift" in findings else None


def _print_evidence(evidence: Evidence, *, cell_limit: int) -> None:
    batch = evidence.batch
    print_section(f"batch {batch.id}")
    facts: dict[str, object] = {
        "table": f"{batch.source}.{batch.table}",
        "window": _window_text(batch),
        "contract": f"version {batch.contract_version}",
        "state": f"{batch.state} since {text_of(batch.changed_at)}",
        "reason": batch.reason,
        "detail": batch.detail,
        "counts": ", ".join(f"{name} {count}" for name, count in batch.counts.items()),
        "cure": cure(batch),
        "header": ", ".join(evidence.header),
    }
    print_facts(facts)
    if evidence.drift is not None:
        print_section("what the source has otherwise")
        print_drift(evidence.drift, none="nothing")
        typer.echo(f"take it into the file: {accept_command(batch.source, batch.table)} --dry-run")
    print_section("attempts")
    print_table(
        [
            heading("stage"),
            number("number"),
            heading("state"),
            whole("ended"),
            heading("reason"),
            heading("detail"),
        ],
        [(a.stage, a.number, a.state, a.ended_at, a.reason, a.detail) for a in evidence.attempts],
        none="none yet",
    )
    print_section(
        f"the last {min(MAX_EVENTS_SHOWN, len(evidence.history))} of {len(evidence.history)} events"
    )
    print_table(
        [whole("at"), heading("from"), heading("to"), heading("by"), heading("reason"), heading("detail")],
        [
            (e.at, e.from_state, e.to_state, e.actor, e.reason, e.detail)
            for e in evidence.history[-MAX_EVENTS_SHOWN:]
        ],
        none="none",
    )
    print_section("objects in quarantine")
    print_table(
        [
            *(whole("object"), heading("status"), heading("reason"), number("records"), number("bytes")),
            *(whole("sha256"), heading("header")),
        ],
        [
            (
                file.location,
                file.status,
                file.reason,
                file.record_count,
                file.file_size_in_bytes,
                file.sha256,
                header,
            )
            for file, header in evidence.objects
        ],
        none="none",
    )
    if evidence.readings:
        print_section("read again for its rejected rows by")
        print_table(
            [whole("batch"), heading("state"), whole("since")],
            [(reading.id, reading.state, reading.changed_at) for reading in evidence.readings],
            none="none",
        )
    if evidence.cells is not None:
        print_section("rejected cells")
        print_table(
            [number("part"), number("line"), heading("column"), heading("code")],
            [(cell.part, cell.line, cell.column, cell.code) for cell in evidence.cells[:cell_limit]],
            none="none",
        )


def _evidence_document(evidence: Evidence, *, cell_limit: int) -> dict[str, object]:
    cells = evidence.cells
    return {
        "batch": asdict(evidence.batch),
        "cure": cure(evidence.batch),
        "drift": None if evidence.drift is None else evidence.drift.document(),
        "attempts": [asdict(attempt) for attempt in evidence.attempts],
        "history": [asdict(event) for event in evidence.history[-MAX_EVENTS_SHOWN:]],
        "header": evidence.header,
        "objects": [
            {**file_document(file), "header": asdict(header) if header else None}
            for file, header in evidence.objects
        ],
        "readings": [_reading_document(reading) for reading in evidence.readings],
        "rejected_cells": None if cells is None else [asdict(cell) for cell in cells[:cell_limit]],
        "is_cut": cells is not None and len(cells) > cell_limit,
    }


# ---- replay ------------------------------------------------------------------------------------------------


def replay(
    context: typer.Context,
    batches: BatchArguments = None,
    source: SourceFilter = None,
    table: TableFilter = None,
    reason: ReasonFilter = None,
    state: StateFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    rejects: RejectsOption = False,
    limit: LimitOption = None,
    note: Annotated[str, typer.Option("--note", help="Why; kept in the batch's history.")] = "",
    is_approved: Annotated[
        bool,
        typer.Option(
            "--approve", help="Do what the table's limits hold back: delete that many rows at once."
        ),
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")
    ] = False,
    is_confirmed: YesOption = False,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Send held batches on their way again, once the cause is cured.

    They take the newest contract of their table: that of the source file if there is one, else the newest in the
    ledger. A batch that was refused by the publisher, under the same contract, goes on from final/; any other is
    extracted again. Of more than one, the number has to be typed.

    With --rejects another batch reads the window of a published one again. That is for tables that merge by key.

    A key sweep that was held as delete_burst reads the keys again unless --approve says that the rows are rightly gone.
    """
    from shared.catalog import read_sources
    from shared.outbox import send_pending

    fleet = connections_of(context).fleet()
    catalog = read_sources(sources) if sources.is_dir() else None
    with fleet.ledger.transaction() as tx:
        selection = _selection(tx, source, table, reason, state, since, until, rejects=rejects)
        chosen = _choose(tx, batches, selection, limit, rejects=rejects, bucket=_bucket(fleet, source))
    if len(chosen) > 1 and not is_dry_run and not is_confirmed:
        remark(f"{len(chosen)} batches will be replayed; --dry-run tells how")
        require_typed(str(len(chosen)), called="their number")
    replays = Replays(fleet.ledger, catalog, note, is_trial=is_dry_run, is_approved=is_approved)
    run = replays.replay_rejects if rejects else replays.replay
    outcomes: list[Replayed] = []
    try:
        with _progress(chosen, label="replaying") as remaining:
            for index, batch_id in enumerate(remaining, 1):
                outcomes.append(_tried(run, batch_id))
                if isinstance(outcomes[-1].error, Unavailable):
                    break
                if index % BATCHES_PER_SEND == 0:
                    send_pending(fleet.ledger, fleet.sender)
    finally:
        if not is_dry_run:
            send_pending(fleet.ledger, fleet.sender)
    if as_json:
        print_json(
            {
                "is_dry_run": is_dry_run,
                "batches": [_replayed_document(item) for item in outcomes],
            }
        )
    else:
        _print_replayed(outcomes, is_dry_run=is_dry_run)
    _end([item.error for item in outcomes], untried_count=len(chosen) - len(outcomes))


def _tried(run: Callable[[str], Replayed], batch_id: str) -> Replayed:
    try:
        return run(batch_id)
    except EsclusaError as error:
        return Replayed(batch_id, error=error)


def _print_replayed(outcomes: Sequence[Replayed], *, is_dry_run: bool) -> None:
    print_table(
        [
            *(
                whole("batch"),
                whole("table"),
                whole("window"),
                heading("would be" if is_dry_run else "state"),
            ),
            *(heading("goes on from"), number("contract"), number("contract before")),
            *(whole("read again by"), heading("remark")),
        ],
        [
            (
                item.batch_id,
                f"{item.before.source}.{item.before.table}",
                _window_text(item.before),
                item.state,
                item.goes_on_from and item.goes_on_from.replace("_", " "),
                item.contract_version,
                item.before.contract_version,
                item.planned_batch_id,
                item.remark,
            )
            for item in outcomes
            if item.before is not None
        ],
        none="nothing would be replayed" if is_dry_run else "nothing was replayed",
    )


def _replayed_document(item: Replayed) -> dict[str, object]:
    before = item.before
    return {
        "batch_id": item.batch_id,
        "source": before and before.source,
        "table": before and before.table,
        "start": before and before.window.start,
        "end": before and before.window.end,
        "state": item.state,
        "goes_on_from": item.goes_on_from,
        "contract_version": item.contract_version,
        "previous_contract_version": before and before.contract_version,
        "planned_batch_id": item.planned_batch_id,
        "remark": item.remark,
        "error": _error_text(item.error),
    }


# ---- discard -----------------------------------------------------------------------------------------------


def discard(
    context: typer.Context,
    because: Annotated[str, typer.Option("--because", metavar="TEXT", help="Why; kept in the history.")],
    batches: BatchArguments = None,
    source: SourceFilter = None,
    table: TableFilter = None,
    reason: ReasonFilter = None,
    state: StateFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    rejects: RejectsOption = False,
    limit: LimitOption = None,
    is_confirmed: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """
    Give held batches up for good: their rows will not come, and what was set aside of them is deleted.

    Asks first: the id of the batch has to be typed, or the number of several. With --rejects the list of rejected
    rows of a published batch is deleted, and the batch stays.
    """
    if not because.strip():
        raise typer.BadParameter("expected a reason, found none", param_hint="--because")
    fleet = connections_of(context).fleet()
    look = loss_of_rejects if rejects else loss_of
    losses: list[Loss] = []
    errors: list[tuple[str, EsclusaError]] = []
    with fleet.ledger.transaction() as tx:
        selection = _selection(tx, source, table, reason, state, since, until, rejects=rejects)
        chosen = _choose(tx, batches, selection, limit, rejects=rejects, bucket=_bucket(fleet, source))
        for batch_id in chosen:
            try:
                losses.append(look(tx, batch_id))
            except (NotFound, NotDone) as error:
                errors.append((batch_id, error))
    if losses and not is_confirmed:
        _ask_about(losses)
    discarded = _discard(fleet, losses, errors, because=because, rejects=rejects)
    if as_json:
        _print_discarded_json(discarded, errors, rejects=rejects)
    else:
        _print_losses(discarded)
        if any(loss.files for loss in discarded):
            remark("the cleaner deletes the objects; `esclusa files --batch` tells when they are gone")
    untried_count = len(chosen) - len(discarded) - len(errors)
    _end([error for _, error in errors], untried_count=untried_count)


def _ask_about(losses: Sequence[Loss]) -> None:
    for loss in losses[:MAX_LOSSES_TOLD]:
        batch = loss.batch
        remark(
            f"{batch.id} {batch.source}.{batch.table} {_window_text(batch)}: {_lost_text(loss)}; "
            f"{len(loss.files)} objects ({loss.size_in_bytes} bytes) will be deleted"
        )
    if len(losses) == 1:
        require_typed(losses[0].batch.id, called="the id of the batch")
        return
    if len(losses) > MAX_LOSSES_TOLD:
        remark(f"and {len(losses) - MAX_LOSSES_TOLD} more; `esclusa quarantine list` names them")
    size_in_bytes = sum(loss.size_in_bytes for loss in losses)
    count = sum(len(loss.files) for loss in losses)
    remark(f"{len(losses)} batches; {count} objects ({size_in_bytes} bytes) will be deleted")
    require_typed(str(len(losses)), called="the number of batches")


def _discard(
    fleet: "Fleet",
    losses: Sequence[Loss],
    errors: list[tuple[str, EsclusaError]],
    *,
    because: str,
    rejects: bool,
) -> list[Loss]:
    """Give up what can be given up; add what cannot to the errors."""
    from shared.outbox import send_pending

    give_up = discard_rejects if rejects else discard_batch
    discarded: list[Loss] = []
    try:
        for loss in losses:
            try:
                give_up(fleet.ledger, loss.batch.id, because=because)
                discarded.append(loss)
            except EsclusaError as error:
                errors.append((loss.batch.id, error))
                if isinstance(error, Unavailable):
                    break
    finally:
        send_pending(fleet.ledger, fleet.sender)
    return discarded


def _print_losses(discarded: Sequence[Loss]) -> None:
    print_table(
        [
            whole("batch"),
            whole("table"),
            whole("window"),
            heading("lost"),
            number("objects"),
            number("bytes"),
        ],
        [
            (
                loss.batch.id,
                f"{loss.batch.source}.{loss.batch.table}",
                _window_text(loss.batch),
                _lost_text(loss),
                len(loss.files),
                loss.size_in_bytes,
            )
            for loss in discarded
        ],
        none="nothing was discarded",
    )


def _print_discarded_json(
    discarded: Sequence[Loss], errors: Sequence[tuple[str, EsclusaError]], *, rejects: bool
) -> None:
    done = [
        {
            "batch_id": loss.batch.id,
            "source": loss.batch.source,
            "table": loss.batch.table,
            "start": loss.batch.window.start,
            "end": loss.batch.window.end,
            "state": loss.batch.state if rejects else BatchState.DISCARDED,
            "row_count": loss.row_count,
            "is_made_up_for": loss.is_made_up_for,
            "object_count": len(loss.files),
            "size_in_bytes": loss.size_in_bytes,
            "error": None,
        }
        for loss in discarded
    ]
    failed = [{"batch_id": batch_id, "error": _error_text(error)} for batch_id, error in errors]
    print_json({"batches": [*done, *failed]})


def _lost_text(loss: Loss) -> str:
    if loss.is_made_up_for:
        return "nothing: the next snapshot holds all rows"
    return "rows nobody counted" if loss.row_count is None else f"{loss.row_count} rows"


# ---- the parts ---------------------------------------------------------------------------------------------


def _selection(
    tx: LedgerTransaction,
    source: str | None,
    table: str | None,
    reasons: Sequence[Reason] | None,
    state: HeldState | None,
    since: Moment | None,
    until: Moment | None,
    *,
    rejects: bool,
) -> Selection:
    if rejects and (reasons or state):
        raise typer.BadParameter(
            "batches with rejected rows are published: they have no reason and one state"
        )
    now = tx.now()
    return Selection(
        source=source,
        table=table,
        reasons=frozenset(reasons or ()),
        states=frozenset({BatchState(state)} if state else ()),
        since=since.seen_from(now) if since else None,
        until=until.seen_from(now) if until else None,
    )


def _choose(
    tx: LedgerTransaction,
    batches: Sequence[str] | None,
    selection: Selection,
    limit: int | None,
    *,
    rejects: bool,
    bucket: str | None,
) -> list[str]:
    """Return the ids of the batches that a person means, those that were named or the first held first."""
    if bool(batches) is not selection.is_everything:
        found = "both" if batches else "neither"
        raise typer.BadParameter(
            f"expected either ids of batches or an option that chooses some (--source, --table, --reason, --state, "
            f"--since, --until), found {found}; `esclusa quarantine list` lists them"
        )
    if batches:
        return list(dict.fromkeys(batches))[:limit]
    if rejects:
        found_rejects = batches_with_rejects(tx, selection, bucket=bucket)
        # What is read again already is no matter of another reading.
        ids = [item.batch.id for item in found_rejects if not _is_under_way(item)]
    else:
        ids = [batch.id for batch in held_batches(tx, selection)]
    return ids[::-1][:limit]


def _is_under_way(item: RejectedRows) -> bool:
    return bool(item.readings) and item.readings[-1].state is not BatchState.DISCARDED


@contextmanager
def _progress(chosen: Sequence[str], *, label: str) -> Iterator[Sequence[str]]:
    if len(chosen) < 2 or not sys.stderr.isatty():
        yield chosen
        return
    with typer.progressbar(chosen, label=label, file=sys.stderr) as bar:
        yield bar  # type: ignore[misc]  # it is iterated over, and nothing else


def _end(errors: Sequence[EsclusaError | None], *, untried_count: int) -> None:
    """Tell the errors, and end with the highest of their codes."""
    told = [error for error in errors if error is not None]
    for error in told:
        tell_error(error)
    if untried_count:
        remark(f"not tried: {untried_count} more")
    if told:
        raise typer.Exit(max(map(exit_code_of, told)))


def _batch_document(batch: Batch, *, now: datetime) -> dict[str, object]:
    return {
        "batch_id": batch.id,
        "source": batch.source,
        "table": batch.table,
        "slot": batch.slot,
        "start": batch.window.start,
        "end": batch.window.end,
        "contract_version": batch.contract_version,
        "state": batch.state,
        "since": batch.changed_at,
        "age_seconds": _age_in_seconds(batch, now=now),
        "reason": batch.reason,
        "detail": batch.detail,
    }


def _reading_document(reading: Batch) -> dict[str, object]:
    return {"batch_id": reading.id, "state": reading.state, "since": reading.changed_at}


def _window_text(batch: Batch) -> str:
    return f"{text_of(batch.window.start) or 'the beginning'} to {text_of(batch.window.end)}"


def _age_in_seconds(batch: Batch, *, now: datetime) -> int:
    return max(0, int((now - batch.changed_at).total_seconds()))


def _age_text(batch: Batch, *, now: datetime) -> str:
    return duration_text(_age_in_seconds(batch, now=now))


def _error_text(error: EsclusaError | None) -> str | None:
    return None if error is None else str(error)


for command, name in ((list_, "list"), (show, "show"), (replay, "replay"), (discard, "discard")):
    app.command(name)(errors_told()(command))
