"""Commands that look and change nothing: status, files, why, query."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.alarms import alarm_limits, watcher_text
from cli.context import JsonOption, SourceFilter, connections_of
from cli.explain import CURES, cure, next_step
from cli.output import (
    NotFound,
    heading,
    number,
    print_facts,
    print_json,
    print_section,
    print_table,
    remark,
    text_of,
    whole,
)
from shared.alarms import WATCHER, judge, open_alarms_of
from shared.alarms import look as look_at_alarms
from shared.domain.alarms import AlarmKind
from shared.domain.batches import (
    HELD_STATES,
    STATES_AT_REST,
    Attempt,
    Batch,
    BatchEvent,
    BatchState,
)
from shared.domain.contracts import MaskEvidence
from shared.domain.files import Area, DataFile, FileStatus, Location, ParsedKey, quarantine_key
from shared.domain.quiet_hours import quiet_until
from shared.domain.sources import SourceGuard
from shared.errors import ConfigurationError
from shared.ports import BatchTally, Ledger, LedgerTransaction

if TYPE_CHECKING:
    from shared.fleet import Fleet

#: What a person may ask for at once: it is held in memory.
MAX_LIMIT = 1_000_000

# ---- status ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class TableStatus:
    """Where a table stands."""

    source: str
    table: str
    contract_version: int | None = None
    planned_until: datetime | None = None
    batches: dict[BatchState, int] = field(default_factory=dict)
    last_published_at: datetime | None = None
    #: When the batch that waits longest in its state entered it.
    waiting_since: datetime | None = None
    #: Windows whose last comparison found a difference.
    differing_window_count: int = 0
    #: Rows are expected in the warehouse by now that are not there.
    is_late: bool = False

    def count(self, tally: BatchTally) -> None:
        """Take in the batches of one state."""
        self.batches[tally.state] = tally.count
        if tally.state is BatchState.PUBLISHED:
            self.last_published_at = tally.latest_since
        elif tally.state not in STATES_AT_REST:
            self.waiting_since = min(self.waiting_since or tally.longest_since, tally.longest_since)


def _unknown_source(source: str) -> str:
    return f"source {source!r}: the ledger knows no table of it; `esclusa enqueue` plans the first"


def status(context: typer.Context, source: SourceFilter = None, as_json: JsonOption = False) -> None:
    """
    Show per table how many batches stand in each state, up to where it is planned, and when it was last published.

    Times are in UTC.
    """
    fleet = connections_of(context).fleet()
    tables = [table for table in _table_statuses(fleet.ledger) if source in {None, table.source}]
    if source is not None and not tables:
        raise NotFound(_unknown_source(source))
    with fleet.ledger.transaction() as tx:
        pending, now = tx.pending_message_count(), tx.now()
        watcher_ran_at = tx.last_run(WATCHER)
        guards = [guard for guard in tx.source_guards() if source in {None, guard.source}]
    resting = [rest for guard in guards if (rest := _rest_of(guard, now=now))]
    open_alarms = _mark_late_tables(fleet.ledger, tables)
    if as_json:
        print_json(
            {
                "at": now,
                "outbox_message_count": pending,
                "open_alarm_count": open_alarms,
                "watcher_last_ran_at": watcher_ran_at,
                "resting_sources": [asdict(rest) for rest in resting],
                "tables": [asdict(table) for table in tables],
            }
        )
        return
    headings = [whole("table"), number("contract"), heading("batches"), whole("planned until")]
    print_table(
        [*headings, whole("last published"), whole("longest wait since")],
        [
            (
                f"{table.source}.{table.table}",
                table.contract_version,
                _counts_text(table.batches),
                _seconds(table.planned_until),
                _seconds(table.last_published_at),
                _seconds(table.waiting_since),
            )
            for table in tables
        ],
        none="no tables yet: `esclusa enqueue` plans the first batches",
    )
    typer.echo(f"outbox: {pending} messages to send")
    for rest in resting:
        why = "has quiet hours" if rest.is_quiet else "failed time and again and is left alone"
        typer.echo(f"resting: {rest.source} {why} until {text_of(_seconds(rest.until))}")
    if held := sum(table.batches.get(state, 0) for table in tables for state in HELD_STATES):
        typer.echo(f"held: {held} batches need a person; `esclusa why BATCH` tells what cures one:")
        for batch in _held_batches(fleet.ledger, source=source):
            typer.echo(
                f"  {batch.id}  {batch.source}.{text_of(batch.table)}  {batch.state}  {batch.reason or ''}"
            )
    for table in tables:
        if table.differing_window_count:
            name = f"{table.source}.{text_of(table.table)}"
            typer.echo(
                f"different: {name}, windows: {table.differing_window_count}; `esclusa prove {name}` tells more"
            )

    if late := [f"{table.source}.{text_of(table.table)}" for table in tables if table.is_late]:
        typer.echo(f"late: {', '.join(late)}")
    if open_alarms:
        typer.echo(f"alarms: {open_alarms} of the whole fleet are open; `esclusa alarms` lists them")
    remark(watcher_text(watcher_ran_at, now=now))


@dataclass(frozen=True, slots=True)
class Rest:
    """A source of which nothing is begun now."""

    source: str
    until: datetime
    #: By its own file; if not, because its last attempts failed.
    is_quiet: bool


def _rest_of(guard: SourceGuard, *, now: datetime) -> Rest | None:
    until = guard.closed_until(now)
    if until is None:
        return None
    return Rest(guard.source, until, is_quiet=quiet_until(guard.limits.quiet_hours, now) is not None)


MAX_HELD_SHOWN = 10


def _table_statuses(ledger: Ledger) -> list[TableStatus]:
    found: dict[tuple[str, str], TableStatus] = {}
    with ledger.transaction() as tx:
        for version in tx.latest_contracts():
            name = version.contract.source, version.contract.table
            found[name] = TableStatus(*name, contract_version=version.version)
        for tally in tx.batch_tallies():
            name = tally.source, tally.table
            found.setdefault(name, TableStatus(*name)).count(tally)
        for proof in tx.latest_proofs(differing_only=True):
            name = proof.source, proof.table
            found.setdefault(name, TableStatus(*name)).differing_window_count += 1
        for expectation in tx.expectations():
            # One whose source never answered has neither contract nor batches.
            name = expectation.source, expectation.table
            found.setdefault(name, TableStatus(*name))
    for table in found.values():
        # One transaction each: reading a watermark keeps the table's planner waiting until it ends.
        with ledger.transaction() as tx:
            table.planned_until = tx.watermark(table.source, table.table)
    return [found[name] for name in sorted(found)]


def _mark_late_tables(ledger: Ledger, tables: Sequence[TableStatus]) -> int:
    """Say of each table whether it is late, and return how many alarms are open. Queues are not asked."""
    limits = alarm_limits()
    facts = look_at_alarms(ledger, None, limits=limits)
    with ledger.transaction() as tx:
        recorded = tx.alarms(unsettled_only=True)
    found = open_alarms_of(judge(facts, limits=limits), recorded, now=facts.now)
    late = {alarm.subject for alarm in found if alarm.kind is AlarmKind.TABLE_LATE}
    for table in tables:
        table.is_late = f"{table.source}.{table.table}" in late
    return len(found)


def _held_batches(ledger: Ledger, *, source: str | None) -> list[Batch]:
    with ledger.transaction() as tx:
        return tx.batches(source=source, states=HELD_STATES, limit=MAX_HELD_SHOWN, newest_first=True)


def _counts_text(batches: Mapping[BatchState, int]) -> str:
    return ", ".join(f"{batches[state]} {state}" for state in BatchState if state in batches)


def _seconds(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(microsecond=0)


# ---- files -------------------------------------------------------------------------------------------------


def files(
    context: typer.Context,
    source: SourceFilter = None,
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME", help="Only files of this table.")
    ] = None,
    area: Annotated[
        list[Area] | None, typer.Option("--area", help="Only files in this area. Repeatable.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="ID", help="Only files of this batch.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="At most so many files.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """
    List files with what the ledger knows of them, the last recorded first.

    Deleted ones too, for rows of the ledger stay. Objects that no batch wrote are listed unless --table or
    --batch is given.
    """
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        if batch is not None and tx.batch(batch) is None:
            raise NotFound(f"batch {batch!r}: the ledger holds none of that id")
        is_known = source is None or source in {name for name, _ in tx.known_tables()}
        found = tx.files(
            batch_id=batch,
            areas=area or None,
            bucket=None if source is None else fleet.settings.bucket(source),
            table=table,
            newest_first=True,
            limit=limit + 1,
        )
    if not found and not is_known:
        raise NotFound(_unknown_source(str(source)))
    is_cut, found = len(found) > limit, found[:limit]
    if as_json:
        print_json({"is_cut": is_cut, "files": [file_document(file) for file in found]})
        return
    _print_files(found)
    if is_cut:
        remark(f"there are more than {limit}: narrow the search, or raise --limit")


def _print_files(found: Sequence[DataFile]) -> None:
    print_table(
        [
            *(whole("recorded"), heading("area"), heading("status"), heading("reason"), number("records")),
            *(number("bytes"), whole("object"), whole("batch"), whole("deleted"), heading("detail")),
        ],
        [
            (
                _seconds(file.recorded_at),
                file.area,
                file.status,
                file.reason,
                file.record_count,
                file.file_size_in_bytes,
                file.location,
                file.batch_id,
                _seconds(file.deleted_at),
                file.detail,
            )
            for file in found
        ],
        none="no files",
    )


def file_document(file: DataFile) -> dict[str, object]:
    """Return a file as `--json` prints it."""
    document = asdict(file)
    location = document.pop("location")
    return {"bucket": location["bucket"], "key": location["key"], **document}


# ---- why ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the ledger knows of a batch."""

    batch: Batch
    history: Sequence[BatchEvent]
    attempts: Sequence[Attempt]
    files: Sequence[DataFile]
    masks: Sequence[MaskEvidence]
    next: str
    cure: str | None


def why(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(metavar="BATCH|FILE", help="A batch's id, s3://bucket/key, or a key alone.")
    ],
    as_json: JsonOption = False,
) -> None:
    """
    Tell everything about a batch, or about a file and its batch: history, attempts, files, masks.

    And what happens next, and what cures it if it is held.
    """
    fleet = connections_of(context).fleet()
    with fleet.ledger.transaction() as tx:
        file = None
        batch = tx.batch(target)
        if batch is None:
            file = _find_file(tx, target, fleet=fleet)
            batch = tx.batch(file.batch_id) if file.batch_id else None
        story = _tell(tx, batch) if batch else None
    if as_json:
        print_json({**_story_document(story), "file": file_document(file) if file else None})
        return
    if file is not None:
        _print_file(file)
    if story is not None:
        _print_story(story)


def _find_file(tx: LedgerTransaction, target: str, *, fleet: "Fleet") -> DataFile:
    for location in _places(tx, target, fleet=fleet):
        if (file := tx.file(location)) is not None:
            return file
    raise NotFound(
        f"{target!r}: expected the id of a batch (b and 24 hexadecimal digits) or a file of the ledger "
        "(s3://bucket/key or a key), found neither; `esclusa files` lists files"
    )


def _places(tx: LedgerTransaction, target: str, *, fleet: "Fleet") -> list[Location]:
    if target.startswith("s3://"):
        bucket, _, key = target.removeprefix("s3://").partition("/")
        return [Location(bucket, key)]
    parsed = ParsedKey.of(target)
    batch = tx.batch(parsed.batch_id) if parsed else None
    if batch is not None:
        return [Location(batch.bucket, target)]
    sources = dict.fromkeys(source for source, _ in tx.known_tables())
    return [Location(fleet.settings.bucket(source), target) for source in sources]


def _tell(tx: LedgerTransaction, batch: Batch) -> Story:
    attempts = tx.attempts(batch.id)
    return Story(
        batch=batch,
        history=tx.events(batch.id),
        attempts=attempts,
        files=tx.files(batch_id=batch.id),
        masks=tx.mask_evidence(batch.id),
        next=next_step(batch, attempts, now=tx.now(), guard=_guard_of(tx, batch.source)),
        cure=cure(batch),
    )


def _guard_of(tx: LedgerTransaction, source: str) -> SourceGuard | None:
    """Return the guard of a source without locking it."""
    return next((guard for guard in tx.source_guards() if guard.source == source), None)


def _story_document(story: Story | None) -> dict[str, object]:
    if story is None:
        return {
            "batch": None,
            "history": [],
            "attempts": [],
            "files": [],
            "masks": [],
            "next": None,
            "cure": None,
        }
    return {**asdict(story), "files": [file_document(file) for file in story.files]}


def _print_file(file: DataFile) -> None:
    print_section(f"file {text_of(file.location)}")
    facts: dict[str, object] = {
        "area": file.area,
        "status": file.status,
        "reason": file.reason,
        "detail": file.detail,
        "records": file.record_count,
        "bytes": file.file_size_in_bytes,
        "sha256": file.sha256,
        "recorded": file.recorded_at,
        "checked": file.checked_at,
        "deleted": file.deleted_at,
    }
    if file.compaction_id is not None:
        facts["written by"] = f"compaction {file.compaction_id}"
    elif file.is_foreign:
        aside = Location(file.location.bucket, quarantine_key(file.location.key, sha256=file.sha256))
        facts["written by"] = "no attempt that the ledger knows"
        facts["set aside as"] = aside if file.deleted_at else f"{aside}, as soon as the cleaner comes by"
    if file.status is FileStatus.INCORRECT and file.reason is not None:
        facts["cure"] = CURES[file.reason]
    print_facts(facts)


def _print_story(story: Story) -> None:
    batch = story.batch
    print_section(f"batch {batch.id}")
    facts: dict[str, object] = {
        "table": f"{batch.source}.{batch.table}",
        "window": f"{text_of(batch.window.start) or 'the beginning'} to {text_of(batch.window.end)}",
        "contract": f"version {batch.contract_version}",
        "bucket": batch.bucket,
        "state": f"{batch.state} since {text_of(batch.changed_at)}",
        "reason": batch.reason,
        "detail": batch.detail,
        "trace": batch.trace_id,
        "counts": ", ".join(f"{name} {count}" for name, count in batch.counts.items()),
        "next": story.next,
        "cure": story.cure,
    }
    print_facts(facts)
    print_section("history")
    print_table(
        [whole("at"), heading("from"), heading("to"), heading("by"), heading("reason"), heading("detail")],
        [(e.at, e.from_state, e.to_state, e.actor, e.reason, e.detail) for e in story.history],
        none="none",
    )
    print_section("attempts")
    print_table(
        [
            *(heading("stage"), number("number"), heading("state"), whole("claimed"), whole("lease until")),
            *(whole("ended"), heading("worker"), heading("reason"), heading("detail")),
        ],
        [
            (
                a.stage,
                a.number,
                a.state,
                a.claimed_at,
                a.lease_until,
                a.ended_at,
                a.worker,
                a.reason,
                a.detail,
            )
            for a in story.attempts
        ],
        none="none yet",
    )
    print_section("files")
    _print_files(story.files)
    print_section("masks")
    print_table(
        [number("attempt"), heading("column"), heading("mask"), heading("key"), number("values masked")],
        [(m.attempt, m.column, m.mask, m.key_id, m.masked_value_count) for m in story.masks],
        none="no evidence: no attempt of extract succeeded yet, or every column is kept",
    )


# ---- query -------------------------------------------------------------------------------------------------


def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One statement that reads.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="At most so many rows.")] = 100,
    timeout_seconds: Annotated[
        int,
        typer.Option(
            "--timeout", min=1, max=3600, metavar="SECONDS", help="No answer takes longer than this."
        ),
    ] = 60,
    is_lake: Annotated[
        bool,
        typer.Option("--lake", help="Ask the committed files in the buckets, by DuckDB on this machine."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Ask the warehouse, as an analyst would, or the lake. The statement can change nothing.

    Tables are named SOURCE.TABLE. In the table NULL looks like the text NULL; --json tells them apart.
    """
    connections = connections_of(context)
    fleet = connections.fleet()
    from services.publisher.warehouse import QueryFailed

    try:
        if is_lake:
            from upkeep.lake_query import query_lake

            answer = query_lake(
                sql, ledger=fleet.ledger, store=fleet.store, row_limit=limit, timeout_seconds=timeout_seconds
            )
        else:
            warehouse = connections.warehouse(fleet)
            answer = warehouse.query(sql, row_limit=limit, timeout_seconds=timeout_seconds)
    except QueryFailed as error:
        place = "lake" if is_lake else "warehouse"
        raise ConfigurationError(f"the {place} refused the statement: {error}") from error
    if as_json:
        print_json({"columns": answer.columns, "rows": answer.rows, "is_cut": answer.is_cut})
        return
    print_table(
        [whole(text_of(column)) for column in answer.columns],
        [["NULL" if value is None else value for value in row] for row in answer.rows],
        none=f"no rows ({', '.join(text_of(column) for column in answer.columns)})",
    )
    if answer.is_cut:
        remark(f"there are more than {limit} rows: raise --limit")
