"""The command that writes the files of an external table anew in the wider types of its newest contract."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.compact import compaction_document, group_document, print_compactions, print_groups
from cli.context import JsonOption, SourceFilter, connections_of
from cli.output import print_json, remark
from cli.tables import choose_tables

if TYPE_CHECKING:
    from shared.domain.batches import Batch
    from shared.domain.compactions import Compaction
    from upkeep.compact import Tools
    from upkeep.widen import Widening


def widen(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table: NAME or SOURCE.NAME.")],
    source: SourceFilter = None,
    retention_days: Annotated[
        int,
        typer.Option("--keep-days", min=1, max=365, metavar="DAYS", help="Replaced files stay for so long."),
    ] = 7,
    replays: Annotated[
        bool,
        typer.Option(
            "--replay", help="Then send the batches on their way that were held for `target_incompatible`."
        ),
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; list what would be written.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Write the files of an external table anew in the wider types of its newest contract, and lead the catalog there.

    Integers and decimals that became wider are carried; any other change is refused by its columns. While the catalog
    is led there, queries of engines may fail; until then they notice nothing. A run that died is repeated by the same
    command. There is no way back.
    """
    connections = connections_of(context)
    fleet = connections.fleet()
    ((source_name, table_name),) = choose_tables(fleet.ledger, table=table, source=source)
    from upkeep.compact import Tools
    from upkeep.widen import find_widening, held_batches, plan_widening, replay_held

    tools = Tools(
        fleet.ledger, fleet.store, connections.catalog(fleet), retention=timedelta(days=retention_days)
    )
    if is_dry_run:
        _tell_plan(find_widening(source_name, table_name, ledger=fleet.ledger), as_json=as_json)
        return
    widening = plan_widening(source_name, table_name, ledger=fleet.ledger)
    done = _widen(widening, tools=tools)
    replayed = replay_held(source_name, table_name, ledger=fleet.ledger) if replays else []
    if replayed:
        from shared.outbox import send_pending

        send_pending(fleet.ledger, fleet.sender)
    held = held_batches(source_name, table_name, ledger=fleet.ledger)
    if as_json:
        print_json(
            {
                **_document(widening),
                "compactions": [compaction_document(one) for one in done],
                "replayed_batch_ids": [batch.id for batch in replayed],
                "held_batch_ids": [batch.id for batch in held],
            }
        )
        return
    _tell_done(widening, done, replayed=replayed, held=held)


def _widen(widening: "Widening", *, tools: "Tools") -> "list[Compaction]":
    from rich.console import Console
    from rich.progress import Progress

    from upkeep.widen import widen as widen_table

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        total = sum(group.size_in_bytes for group in widening.groups)
        task = bar.add_task(f"{widening.source}.{widening.table}", total=total)
        return widen_table(
            widening.source,
            widening.table,
            tools=tools,
            detail="esclusa widen",
            on_group=lambda group: bar.advance(task, group.size_in_bytes),
        )


# ---- what is told ------------------------------------------------------------------------------------------


def _document(widening: "Widening") -> dict[str, Any]:
    return {
        "source": widening.source,
        "table": widening.table,
        "contract_version": widening.contract_version,
        "columns": [
            {"name": name, "type_before": before, "type": after} for name, before, after in widening.columns
        ],
    }


def _tell_plan(widening: "Widening", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                **_document(widening),
                "groups": [group_document(group) for group in widening.groups],
                "prepared_count": len(widening.prepared),
                "partition_count": widening.batch_count,
            }
        )
        return
    print_groups(widening.groups, none=_nothing(widening))
    if not widening.why_nothing:
        written = sum(len(group.files) for group in widening.groups)
        waiting = f", {len(widening.prepared)} are written already" if widening.prepared else ""
        remark(
            f"{_columns(widening)}: a run would write {len(widening.groups)} files in place of {written}{waiting}, and then "
            f"lead {widening.batch_count} partitions there"
        )


def _tell_done(
    widening: "Widening", done: "list[Compaction]", *, replayed: "list[Batch]", held: "list[Batch]"
) -> None:
    name = f"{widening.source}.{widening.table}"
    print_compactions(done, none=_nothing(widening))
    if replayed:
        remark(f"{len(replayed)} batches that were held are on their way again")
    if held:
        told = ", ".join(batch.id for batch in held[:10]) + (" and others" if len(held) > 10 else "")
        remark(
            f"{name}: {len(held)} batches are held for target_incompatible ({told}); `esclusa quarantine replay --source "
            f"{widening.source} --table {widening.table} --reason target_incompatible` sends them on their way"
        )


def _nothing(widening: "Widening") -> str:
    why = widening.why_nothing or "another run did it meanwhile"
    return f"nothing to widen in {widening.source}.{widening.table}: {why}"


def _columns(widening: "Widening") -> str:
    return ", ".join(f"{name} from {before} to {after}" for name, before, after in widening.columns)
