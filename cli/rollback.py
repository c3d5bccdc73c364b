"""The command that leads a table back to an earlier state, and forward again."""

import getpass
import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import JsonOption, SourceFilter, connections_of
from cli.moments import read_moment
from cli.output import NotFound, heading, print_json, print_table, remark, require_typed, whole
from cli.tables import choose_tables
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.domain.batches import Batch
    from shared.domain.rollbacks import Rollback
    from upkeep.rollback import Plan, Tools

_BATCH_ID = re.compile(r"b[0-9a-f]{24}")


def rollback(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table: NAME or SOURCE.NAME.")],
    source: SourceFilter = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="BATCH|MOMENT",
            help="The last batch that stays, or the moment up to which what was published stays.",
        ),
    ] = None,
    is_forward: Annotated[
        bool,
        typer.Option(
            "--forward", help="Load everything that was published, and replay the batches held meanwhile."
        ),
    ] = False,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; the ledger keeps it beside your name.")
    ] = "",
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; list what would stay and what would go.")
    ] = False,
    is_agreed: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Lead a table back to an earlier state, from its committed files: readers see before or after, nothing between.

    What was published later leaves the table, in the warehouse and in the lake, and what comes is held, until
    --forward loads everything again. No file and no row of the ledger is deleted.
    """
    if is_forward == (to is not None):
        raise ConfigurationError(
            "expected --to BATCH or MOMENT, or --forward, found " + ("both" if is_forward else "neither")
        )
    connections = connections_of(context)
    fleet = connections.fleet()
    ((source_name, table_name),) = choose_tables(fleet.ledger, table=table, source=source)
    from upkeep.rollback import Tools, carry_out

    tools = Tools(fleet.ledger, fleet.store, connections.warehouse(fleet), connections.catalog(fleet))
    plan = _plan(source_name, table_name, to, tools=tools)
    if is_dry_run:
        _tell_plan(plan, as_json=as_json)
        return
    if not is_agreed:
        if not as_json:
            _tell_plan(plan, as_json=False)
        require_typed(table_name, called=f"the table's name, {table_name}")
    done, rebuilt = carry_out(plan, tools=tools, actor=_who(), detail=reason)
    from shared.outbox import send_pending

    send_pending(fleet.ledger, fleet.sender)
    if as_json:
        print_json({**_document(done), "row_count": rebuilt.row_count if rebuilt else None})
        return
    _tell_done(plan, done, row_count=rebuilt.row_count if rebuilt else None)


def _plan(source: str, table: str, to: str | None, *, tools: "Tools") -> "Plan":
    from upkeep.rollback import plan_forward, plan_rollback

    if to is None:
        return plan_forward(source, table, tools=tools)
    target: str | datetime = to
    if not _BATCH_ID.fullmatch(to):
        with tools.ledger.transaction() as tx:
            target = read_moment(to).seen_from(tx.now())
    try:
        return plan_rollback(source, table, to=target, tools=tools)
    except KeyError as error:
        raise NotFound(f"{error.args[0]}; `esclusa status` and `esclusa why` tell of batches") from error


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


# ---- what is told ------------------------------------------------------------------------------------------


def _tell_plan(plan: "Plan", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "source": plan.source,
                "table": plan.table,
                "is_forward": plan.is_forward,
                "last_batch_id": plan.last.id,
                "kept_count": len(plan.kept),
                "withdrawn_batch_ids": [batch.id for batch in plan.withdrawn],
                "rows_read_again": plan.record_count,
            }
        )
        return
    print_table(
        [heading(""), whole("batch"), heading("window ends"), heading("published")],
        [
            *(("goes", *_told(batch)) for batch in reversed(plan.withdrawn)),
            ("stays, the last", *_told(plan.last)),
        ],
        none="",
    )
    remark(
        f"{len(plan.kept)} batches stay, {len(plan.withdrawn)} go; {plan.record_count} rows are read again from the lake"
    )


def _told(batch: "Batch") -> tuple[str, datetime, datetime]:
    return batch.id, batch.as_of, batch.changed_at


def _tell_done(plan: "Plan", done: "Rollback", *, row_count: int | None) -> None:
    name = f"{plan.source}.{plan.table}"
    rows = "" if row_count is None else f" and has {row_count} rows"
    if plan.is_forward:
        typer.echo(f"{name} shows everything that was published{rows} ({done.id})")
        return
    typer.echo(f"{name} is as it was after batch {plan.last.id}{rows} ({done.id})")
    remark(f"its batches are held from now on, until `esclusa rollback {name} --forward`")


def _document(done: "Rollback") -> dict[str, object]:
    return {
        "id": done.id,
        "source": done.source,
        "table": done.table,
        "is_forward": done.is_forward,
        "last_batch_id": done.last_batch_id,
        "withdrawn_batch_ids": list(done.withdrawn_batch_ids),
        "begun_at": done.begun_at,
        "done_at": done.done_at,
        "actor": done.actor,
        "detail": done.detail,
    }
