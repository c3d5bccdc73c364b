"""The commands for what changed at a source: contract diff, contract accept."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption, connections_of
from cli.contract_differences import Difference, differences
from cli.contract_edits import EditedFile, edited_file
from cli.held import Selection, held_batches
from cli.output import (
    ExitCode,
    NotFound,
    errors_told,
    exit_code_of,
    heading,
    print_json,
    print_section,
    print_table,
    remark,
    tell_error,
    visible,
)
from shared.domain.contracts import TableContract
from shared.domain.drift import HOLDING, Change, Drift, Edit, EditKind
from shared.errors import ConfigurationError, EsclusaError
from shared.visits import visiting

if TYPE_CHECKING:
    from shared.catalog import Catalog
    from shared.ports import Ledger, SecretStore

app = typer.Typer(
    help="What changed at a source: see it, and take it into the source file.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

#: The reasons that an accepted change may cure.
DRIFT_REASONS = frozenset(HOLDING.values())


# ---- diff --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Compared:
    """A table, three times: at its source, in its file, in the ledger."""

    contract: TableContract
    #: None if the source could not be asked.
    drift: Drift | None
    #: Why it could not.
    error: EsclusaError | None
    #: The newest version in the ledger; None before the first `esclusa enqueue`.
    ledger_version: int | None
    from_ledger: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether all three say the same."""
        is_known = self.ledger_version is not None and not self.from_ledger
        return is_known and self.drift is not None and not self.drift.changes


def diff(
    context: typer.Context,
    subject: Annotated[
        str, typer.Argument(metavar="TABLE", help="SOURCE for all its tables, SOURCE.TABLE, or TABLE.")
    ],
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Compare the live source with its file, and the file with the newest contract in the ledger.

    No row is read and nothing is changed. The exit code is 1 if anything differs.
    """
    from shared.catalog import read_sources

    connections = connections_of(context)
    chosen = _chosen(read_sources(sources), subject)
    fleet = connections.fleet()
    found = [_compare(contract, secrets=fleet.secrets, ledger=fleet.ledger) for _, contract in chosen]
    if as_json:
        print_json(
            {
                "is_equal": all(item.is_equal for item in found),
                "tables": [_document(item, file) for item, (file, _) in zip(found, chosen, strict=True)],
            }
        )
    else:
        for item, (file, _) in zip(found, chosen, strict=True):
            _print_compared(item, file)
    errors = [item.error for item in found if item.error is not None]
    for error in errors:
        tell_error(error)
    if any(not item.is_equal for item in found):
        raise typer.Exit(max([ExitCode.PROBLEM, *map(exit_code_of, errors)]))


def _chosen(catalog: "Catalog", subject: str) -> list[tuple[Path, TableContract]]:
    """
    Return the contracts that a person means, with the files they stand in.

    Raises:
        ConfigurationError: if the file of the source has mistakes.
        NotFound: if no sound file has such a source or table.
    """
    mistaken = [
        problem
        for problem in catalog.problems
        if (stem := Path(problem.file).stem) == subject or subject.startswith(f"{stem}.")
    ]
    if mistaken:
        raise ConfigurationError("\n".join(map(str, mistaken)))
    found = [
        (source.file, contract)
        for source in catalog.sources
        for contract in source.tables
        if subject in {source.name, contract.table, f"{source.name}.{contract.table}"}
    ]
    if not found:
        raise NotFound(f"{catalog.directory}: expected a source or table named {subject!r}, found none")
    return found


def _compare(contract: TableContract, *, secrets: "SecretStore", ledger: "Ledger") -> Compared:
    with ledger.transaction() as tx:
        latest = tx.latest_contract(contract.source, contract.table)
    from_ledger = differences(ledger=latest.contract, file=contract) if latest else []
    drift, error = None, None
    try:
        with visiting(contract.source, who="contract", ledger=ledger, connection_count=2):
            drift = _drift_of(contract, secrets)
    except EsclusaError as found:
        error = found
    return Compared(contract, drift, error, latest.version if latest else None, tuple(from_ledger))


def _drift_of(contract: TableContract, secrets: "SecretStore") -> Drift:
    from services.extractor.readers import open_reader

    with open_reader(contract, secrets=secrets) as reader:
        return reader.drift()


def _print_compared(item: Compared, file: Path) -> None:
    print_section(f"{item.contract.source}.{item.contract.table} ({file})")
    if item.drift is not None:
        print_drift(item.drift, none="source and file agree")
    if item.ledger_version is None:
        typer.echo("the ledger has no contract of it yet: esclusa enqueue registers it")
        return
    print_table(
        [
            heading("field"),
            heading(f"in the ledger (version {item.ledger_version})"),
            heading("in the file (from the next enqueue on)"),
        ],
        [(one.field, one.ledger, one.file) for one in item.from_ledger],
        none=f"file and ledger agree (version {item.ledger_version})",
    )


def print_drift(drift: Drift, *, none: str) -> None:
    """Write what differs, what becomes of it, and what would bring the file to the source."""
    print_table(
        [
            *(heading("column"), heading("change"), heading("in the contract"), heading("at the source")),
            *(heading("which"), heading("proposed edit"), heading("remark")),
        ],
        [
            (
                change.column,
                change.kind.replace("_", " "),
                change.before,
                change.after,
                "is held" if change.is_held else "is applied",
                edit_text(change.edit),
                change.remark,
            )
            for change in drift.changes
        ],
        none=none,
    )


def accept_command(source: str, table: str) -> str:
    """Return the command that takes what a table has otherwise into its file."""
    return f"esclusa contract accept {shlex.quote(f'{source}.{table}')}"


def edit_text(edit: Edit | None) -> str:
    """Return an edit in a few words."""
    if edit is None:
        return ""
    if edit.kind is EditKind.REMOVE:
        return "take it out"
    fields = ", ".join(f"{name}: {value}" for name, value in edit.fields.items())
    return f"{edit.kind} {fields}"


def _document(item: Compared, file: Path) -> dict[str, object]:
    return {
        "source": item.contract.source,
        "table": item.contract.table,
        "file": str(file),
        "is_equal": item.is_equal,
        "changes": None if item.drift is None else item.drift.document(),
        "error": None if item.error is None else str(item.error),
        "ledger_version": item.ledger_version,
        "from_ledger": [asdict(one) for one in item.from_ledger],
    }


# ---- accept ------------------------------------------------------------------------------------------------


def accept(
    context: typer.Context,
    table: Annotated[str, typer.Argument(metavar="TABLE", help="SOURCE.TABLE, or TABLE.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", metavar="NAME", help="Only the changes of this column. Repeatable."),
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="MASK",
            help="The mask of these columns, as it stands in a file: keep, drop, '{hmac: {domain: email}}'. "
            "A new column is withheld without it.",
        ),
    ] = None,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would be written.")
    ] = False,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Take what a source has otherwise into its source file, and tell how to replay what is held.

    The file is edited in place, comments and order stay. A file that would have mistakes is not written.
    """
    from shared.catalog import read_sources
    from shared.catalog.editing import write_in_place

    if mask is not None and not column:
        raise typer.BadParameter(
            "expected it with --column: a mask is decided for each column", param_hint="--mask"
        )
    connections = connections_of(context)
    file, contract = _one_table(read_sources(sources), table)
    fleet = connections.fleet()
    edited = edited_file(file, contract, _drift_of(contract, fleet.secrets), columns=column or (), mask=mask)
    if edited.is_changed and not is_dry_run:
        write_in_place(file, edited.after, instead_of=edited.before)
    held_ids = _held_by_drift(contract, fleet.ledger)
    if as_json:
        print_json(_accepted_document(edited, contract, held_ids, is_dry_run=is_dry_run))
        return
    _print_accepted(edited, contract, held_ids, is_dry_run=is_dry_run)


def _one_table(catalog: "Catalog", name: str) -> tuple[Path, TableContract]:
    found = _chosen(catalog, name)
    if len(found) > 1:
        names = ", ".join(f"{contract.source}.{contract.table}" for _, contract in found)
        raise NotFound(f"{catalog.directory}: expected one table, found {names}; name one of them")
    return found[0]


def _held_by_drift(contract: TableContract, ledger: "Ledger") -> list[str]:
    selection = Selection(source=contract.source, table=contract.table, reasons=DRIFT_REASONS)
    with ledger.transaction() as tx:
        return [batch.id for batch in held_batches(tx, selection)][::-1]


def _print_accepted(
    edited: EditedFile, contract: TableContract, held_ids: Sequence[str], *, is_dry_run: bool
) -> None:
    if not edited.is_changed:
        typer.echo("nothing to accept: the file has what the source has")
    else:
        for line in edited.diff.splitlines():
            typer.echo(visible(line))
        remark(f"{edited.file} {'would be' if is_dry_run else 'was'} edited")
    for change in edited.unproposed:
        remark(f"left as it is: {change}")
    for line in what_follows(edited.accepted, contract):
        remark(line)
    for line in _next_steps(edited, contract, held_ids):
        remark(line)


def what_follows(accepted: Sequence[Change], contract: TableContract) -> Iterator[str]:
    """Tell what an accepted change does to files and tables that are there already. `docs/drift.md` says more."""
    for change in accepted:
        fields = change.edit.fields if change.edit else {}
        if change.edit and change.edit.kind is EditKind.REMOVE:
            yield (
                f"column {change.column!r}: its values stay in files, partitions and the base table; the analysts' view "
                "does not show it any more"
            )
        elif "type" in fields and change.edit and change.edit.kind is EditKind.SET:
            before = contract.column(change.column).output_type
            yield (
                f"column {change.column!r}: new files have {fields['type']}, old ones keep {before}; the native table is "
                "widened if it can be, else its batches are held; see docs/drift.md for external tables"
            )


def _next_steps(edited: EditedFile, contract: TableContract, held_ids: Sequence[str]) -> Iterator[str]:
    if edited.is_changed:
        yield f"then: esclusa check --source {contract.source}"
    if held_ids:
        reasons = " ".join(f"--reason {reason}" for reason in sorted(DRIFT_REASONS))
        count = "1 batch is" if len(held_ids) == 1 else f"{len(held_ids)} batches are"
        yield (
            f"{count} held for it; replay: esclusa quarantine replay --source {contract.source} "
            f"--table {shlex.quote(contract.table)} {reasons}"
        )


def _accepted_document(
    edited: EditedFile, contract: TableContract, held_ids: Sequence[str], *, is_dry_run: bool
) -> dict[str, object]:
    return {
        "is_dry_run": is_dry_run,
        "source": contract.source,
        "table": contract.table,
        "file": str(edited.file),
        "is_changed": edited.is_changed,
        "accepted": Drift(edited.accepted).document(),
        "unproposed": Drift(edited.unproposed).document(),
        "diff": edited.diff,
        "held_batch_ids": list(held_ids),
    }


for command, name in ((diff, "diff"), (accept, "accept")):
    app.command(name)(errors_told()(command))
