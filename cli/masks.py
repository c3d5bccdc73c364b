"""The command that shows what masks a table has, and what was really masked by the evidence in the ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from cli.context import JsonOption, connections_of
from cli.output import (
    ExitCode,
    heading,
    number,
    print_json,
    print_section,
    print_table,
    text_of,
    whole,
)
from cli.tables import choose_tables
from shared.domain.contracts import Column, Content, ContractVersion, MaskKind
from shared.ports import Ledger, MaskTally


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """The policy of a table, and what its batches have to show for it."""

    #: The newest contract: what is done from now on.
    policy: ContractVersion
    tallies: Sequence[MaskTally]
    #: Where evidence and the contract under which a batch was read are not the same.
    disagreements: Sequence[str]

    @property
    def left_in_clear(self) -> list[str]:
        """The columns that left in clear in any batch, those that are masked by now included."""
        return sorted({tally.column for tally in self.tallies if tally.mask is MaskKind.KEEP})

    @property
    def withheld(self) -> list[str]:
        """The columns that leave in no form, and those nobody has decided on that batches met at the source."""
        met = {tally.column for tally in self.tallies if tally.mask is MaskKind.WITHHOLD}
        decided = {column.name for column in self.policy.contract.columns if column.leaves}
        unread = {column.name for column in self.policy.contract.columns if not column.leaves}
        return sorted((met - decided) | unread)


def masks(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="NAME or SOURCE.NAME.")],
    as_json: JsonOption = False,
) -> None:
    """
    Show the mask of each column of a table, and what was really masked, by the evidence of its batches.

    Counts, key ids, the first and the last batch; which columns left in clear, and which were withheld. No value is
    shown. The exit code is 1 if the evidence of a batch is not what its contract says.
    """
    ledger = connections_of(context).fleet().ledger
    (name,) = choose_tables(ledger, table=table, source=None)
    record = _read_record(ledger, *name)
    if as_json:
        print_json(_document(record))
    else:
        _print(record)
    if record.disagreements:
        raise typer.Exit(ExitCode.PROBLEM)


def _read_record(ledger: Ledger, source: str, table: str) -> MaskRecord:
    with ledger.transaction() as tx:
        (policy,) = (
            version
            for version in tx.latest_contracts()
            if (version.contract.source, version.contract.table) == (source, table)
        )
        tallies, batch_counts = tx.mask_tallies(source, table), tx.read_batch_counts(source, table)
        contracts = {version: tx.contract(source, table, version) for version in batch_counts}
    disagreements = [
        told
        for version, batch_count in batch_counts.items()
        for told in disagreements_of(
            contracts[version],
            [tally for tally in tallies if tally.contract_version == version],
            batch_count=batch_count,
        )
    ]
    return MaskRecord(policy, tallies, disagreements)


def disagreements_of(
    version: ContractVersion, tallies: Sequence[MaskTally], *, batch_count: int
) -> Iterator[str]:
    """Tell where the evidence of the batches read under a contract is not what the contract says."""
    under = f"contract {version.version}"
    columns = {column.name: column for column in version.contract.columns}
    proven = dict.fromkeys(columns, 0)
    for tally in tallies:
        column = columns.get(tally.column)
        batches = (
            f"{tally.batch_count} of {batch_count} batches ({tally.first_batch_id} to {tally.last_batch_id})"
        )
        if column is None and tally.mask is not MaskKind.WITHHOLD:
            yield (
                f"{under}, column {tally.column!r}: expected to be withheld, since the contract does not know it, "
                f"found {_told(tally)} in {batches}"
            )
        elif column is not None and (tally.mask, tally.key_id) != (column.mask.kind, column.mask.key_id):
            yield f"{under}, column {tally.column!r}: expected {column.mask}, found {_told(tally)} in {batches}"
        if column is not None:
            proven[tally.column] += tally.batch_count
    for name, count in proven.items():
        if count != batch_count:
            yield (
                f"{under}, column {name!r}: expected evidence in each of {batch_count} batches, found it in {count}"
            )


def _told(tally: MaskTally) -> str:
    return f"{tally.mask}, key {tally.key_id}" if tally.key_id else str(tally.mask)


# ---- printing ------------------------------------------------------------------------------------------------


def _print(record: MaskRecord) -> None:
    contract = record.policy.contract
    print_section(f"{contract.source}.{text_of(contract.table)}, contract {record.policy.version}")
    print_table(
        [whole("column"), heading("content"), heading("mask"), heading("leaves as")],
        [
            (column.name, _content_text(column), column.mask, column.output_type if column.leaves else "")
            for column in contract.columns
        ],
        none="no columns",
    )
    print_section("what was masked")
    print_table(
        [
            *(number("contract"), whole("column"), heading("mask"), heading("key"), number("batches")),
            *(number("values masked"), whole("windows end from"), whole("to")),
            *(whole("first batch"), whole("last batch")),
        ],
        [
            (
                *(tally.contract_version, tally.column, tally.mask, tally.key_id, tally.batch_count),
                *(tally.masked_value_count, tally.first_window_end, tally.last_window_end),
                *(tally.first_batch_id, tally.last_batch_id),
            )
            for tally in record.tallies
        ],
        none="no batch was read yet",
    )
    typer.echo()
    typer.echo(f"left in clear: {_names(record.left_in_clear)}")
    typer.echo(f"never left: {_names(record.withheld)}")
    for told in record.disagreements:
        typer.echo(f"disagrees: {text_of(told)}")


def _content_text(column: Column) -> str:
    return "free text" if column.content is Content.FREE_TEXT else ""


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(text_of, names)) or "none"


def _document(record: MaskRecord) -> dict[str, object]:
    contract = record.policy.contract
    return {
        "source": contract.source,
        "table": contract.table,
        "contract_version": record.policy.version,
        "columns": [
            {
                "name": column.name,
                "content": column.content,
                "mask": column.mask.kind,
                "key_id": column.mask.key_id,
                "is_told_as": str(column.mask),
                "made_from": column.made_from or None,
                "leaves_as": str(column.output_type) if column.leaves else None,
            }
            for column in contract.columns
        ],
        "masked": [asdict(tally) for tally in record.tallies],
        "left_in_clear": record.left_in_clear,
        "never_left": record.withheld,
        "disagreements": list(record.disagreements),
    }
