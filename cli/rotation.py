"""The command that gives a source another mask key: begin, see what is left, finish."""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption, connections_of
from cli.contract_edits import EditedFile, require_sound
from cli.output import (
    ExitCode,
    NotDone,
    errors_told,
    heading,
    number,
    print_json,
    print_table,
    remark,
    text_of,
    visible,
    whole,
)
from cli.rotation_progress import TableProgress, look_at_rotation
from shared.domain.contracts import MaskKind, PublishMode, TableContract
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.catalog import Catalog, Source
    from shared.ports import SecretStore

app = typer.Typer(
    help="The key under which pseudonyms are made.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")


def rotate(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The source whose key is replaced.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="REFERENCE",
            help="Where the new key is kept: secretsmanager:NAME#FIELD, env:NAME, …",
        ),
    ] = None,
    key_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The id of the new key: k2. Not secret.")
    ] = None,
    is_finish: Annotated[
        bool, typer.Option("--finish", help="Write no pseudonyms under the key before any more.")
    ] = False,
    keeps_old_rows: Annotated[
        bool,
        typer.Option(
            "--keep-old-rows",
            help="With --finish: rows that were not read again stay under the key before for good.",
        ),
    ] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; show what would be written, or what is left.")
    ] = False,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Replace the key of a source's pseudonyms, and tell step by step what to do.

    It edits the source file. From the next `esclusa enqueue` on, each column leaves under the new key, and beside it
    under the old one (`email`, `email__k1`), until --finish. Batches that are planned keep their key. --finish edits
    nothing as long as the ledger knows rows or batches under the old key; the exit code is 1 then.
    """
    if is_finish == (to is not None or key_id is not None) or (to is None) != (key_id is None):
        raise typer.BadParameter("expected --to with --id to begin, or --finish", param_hint="--to")
    if keeps_old_rows and not is_finish:
        raise typer.BadParameter("expected it with --finish", param_hint="--keep-old-rows")
    from shared.catalog import read_sources

    catalog = read_sources(sources)
    chosen = _sound_source(catalog, source)
    if to is not None and key_id is not None:
        _begin(
            chosen,
            catalog,
            to=to,
            key_id=key_id,
            secrets=connections_of(context).secrets(),
            is_dry_run=is_dry_run,
            as_json=as_json,
        )
        return
    progress = look_at_rotation(chosen.tables, ledger=connections_of(context).fleet().ledger)
    _finish(chosen, progress, keeps_old_rows=keeps_old_rows, is_dry_run=is_dry_run, as_json=as_json)


def _sound_source(catalog: "Catalog", name: str) -> "Source":
    mistaken = [str(problem) for problem in catalog.problems if Path(problem.file).stem == name]
    if mistaken:
        raise ConfigurationError("\n".join(mistaken))
    return catalog.source(name)


# ---- begin ---------------------------------------------------------------------------------------------------


def _begin(
    source: "Source",
    catalog: "Catalog",
    *,
    to: str,
    key_id: str,
    secrets: "SecretStore",
    is_dry_run: bool,
    as_json: bool,
) -> None:
    if not _KEY_ID.fullmatch(key_id):
        raise typer.BadParameter(
            f"expected up to 32 letters, digits, _ and -, found {key_id!r}", param_hint="--id"
        )
    keys = _keys_of(source)
    if len(keys) > 1:
        raise NotDone(
            f"{source.file}: expected one key, found {' and '.join(keys)}: a rotation is under way; end it with --finish"
        )
    (old_id,) = keys
    if key_id == old_id:
        raise NotDone(f"{source.file}: expected another id than that of the present key, found {key_id!r}")
    _require_new_key(secrets, old=keys[old_id], new=to)
    edited = _begun(source, to=to, key_id=key_id, old_id=old_id, old_reference=keys[old_id])
    if not is_dry_run:
        _write(edited)
    steps = list(_steps(source, catalog, old_id=old_id, old_reference=keys[old_id]))
    if as_json:
        print_json(_edit_document(source, edited, is_dry_run=is_dry_run) | {"steps": steps})
        return
    _print_diff(edited, is_dry_run=is_dry_run)
    for position, step in enumerate(steps, 1):
        remark(f"{position}. {step}")


def _keys_of(source: "Source") -> dict[str, str]:
    """Return the references of the keys by id, the present one first."""
    keys = dict(source.tables[0].origin.mask_keys)
    if not keys:
        raise NotDone(
            f"{source.file}: expected mask_key and mask_key_id, found neither: there is no key to replace"
        )
    return keys


def _require_new_key(secrets: "SecretStore", *, old: str, new: str) -> None:
    """Make sure that the new key is there, long enough, and another one."""
    from services.extractor.masking import MIN_KEY_BYTES

    key = secrets.resolve(new)
    if len(key.encode()) < MIN_KEY_BYTES:
        raise NotDone(f"{new}: expected a key of at least {MIN_KEY_BYTES} bytes, found a shorter one")
    if key == secrets.resolve(old):
        raise NotDone(f"{new}: expected another key than that of {old}, found the same")


def _begun(source: "Source", *, to: str, key_id: str, old_id: str, old_reference: str) -> EditedFile:
    from shared.catalog.document import read_text
    from shared.catalog.editing import scalar, set_value

    before = text = read_text(source.file)
    text = set_value(text, ("mask_key",), scalar(to))
    text = set_value(text, ("mask_key_id",), scalar(key_id))
    text = set_value(text, ("previous_mask_key",), scalar(old_reference), after="mask_key_id")
    text = set_value(text, ("previous_mask_key_id",), scalar(old_id), after="previous_mask_key")
    for table, column in _masked_merge_keys(source):
        path = ("tables", table, "columns", column, "mask", "hmac", "key_id")
        text = set_value(text, path, scalar(old_id))
    require_sound(source.file, text)
    return EditedFile(source.file, before, text, (), ())


def _masked_merge_keys(source: "Source") -> list[tuple[str, str]]:
    """Return the pseudonyms by which merges find rows: under another key no row would find its older version."""
    return [
        (contract.table, name)
        for contract in source.tables
        if contract.publishing.mode is PublishMode.MERGE
        for name in contract.key
        if contract.column(name).mask.kind is MaskKind.HMAC
    ]


def _steps(source: "Source", catalog: "Catalog", *, old_id: str, old_reference: str) -> Iterator[str]:
    sharing = [
        other.name
        for other in catalog.sources
        if other.name != source.name and old_reference in other.tables[0].origin.mask_keys.values()
    ]
    if sharing:
        yield (
            f"the key is that of {', '.join(sharing)} too: rotate them as well before any of them is finished, or joins "
            "between them end"
        )
    yield "let the extractors read the new key: templates and policies are made from the source files"
    yield f"esclusa check --source {source.name}"
    yield f"esclusa enqueue --source {source.name}: from then on pseudonyms are written under both keys"
    yield (
        f"tell the analysts: coalesce(COLUMN__{old_id}, COLUMN) is every row's pseudonym under {old_id}, until --finish"
    )
    for contract in source.tables:
        if _has_previous_pseudonyms(contract, old_id=old_id):
            yield f"{contract.table}: {_HOW_READ_AGAIN[contract.publishing.mode].format(name=_called(contract))}"
    yield f"esclusa mask rotate {source.name} --finish --dry-run tells what is left; --finish ends it"
    for table, column in _masked_merge_keys(source):
        yield (
            f"{table}.{column} is part of a merge's key and stays under {old_id}: declare the table once more under "
            "another name with the new key_id, let it be read from the beginning, then take the old one out"
        )


#: How rows that were published under the old key come under the new one.
_HOW_READ_AGAIN = {
    PublishMode.MERGE: "esclusa backfill {name} reads what was published again, under the new key",
    PublishMode.REPLACE: "its next snapshot is under the new key, and replaces all of it",
    PublishMode.APPEND: "what was published stays under the old key, since added rows are never replaced; finish with "
    "--keep-old-rows",
}


def _called(contract: TableContract) -> str:
    return shlex.quote(f"{contract.source}.{contract.table}")


def _has_previous_pseudonyms(contract: TableContract, *, old_id: str) -> bool:
    fixed = contract.key if contract.publishing.mode is PublishMode.MERGE else ()
    return any(column.mask.key_id == old_id and column.name not in fixed for column in contract.columns)


# ---- finish --------------------------------------------------------------------------------------------------


def _finish(
    source: "Source",
    progress: Sequence[TableProgress],
    *,
    keeps_old_rows: bool,
    is_dry_run: bool,
    as_json: bool,
) -> None:
    keys = _keys_of(source)
    if len(keys) == 1:
        raise NotDone(
            f"{source.file}: expected two keys, found {next(iter(keys))} alone: no rotation is under way"
        )
    current_id, old_id = keys
    pinned = _pinned(source, old_id)
    waiting = [
        table for table in progress if table.under_way or table.held or (table.unread and not keeps_old_rows)
    ]
    is_ready = not pinned and not waiting
    edited = _finished(source) if is_ready else None
    if edited is not None and not is_dry_run:
        _write(edited)
    if as_json:
        document = _edit_document(source, edited, is_dry_run=is_dry_run)
        print_json(
            document
            | {
                "key_id": current_id,
                "previous_key_id": old_id,
                "is_ready": is_ready,
                "stays_under_previous_key": pinned,
                "tables": [_progress_document(table) for table in progress],
            }
        )
    else:
        _print_progress(progress, old_id=old_id)
        for name in pinned:
            remark(f"{name} names key_id {old_id} in its mask: it needs that key")
        if edited is not None:
            _print_diff(edited, is_dry_run=is_dry_run)
            remark(
                f"then: esclusa enqueue --source {source.name}; delete the key {old_id} when no backup and no archive needs it"
            )
    if not is_ready:
        raise typer.Exit(ExitCode.PROBLEM)


def _pinned(source: "Source", old_id: str) -> list[str]:
    return [
        f"{contract.table}.{column.name}"
        for contract in source.tables
        for column in contract.columns
        if column.mask.key_id == old_id and not column.made_from
    ]


def _finished(source: "Source") -> EditedFile:
    from shared.catalog.document import read_text
    from shared.catalog.editing import remove_value

    before = read_text(source.file)
    text = remove_value(before, ("previous_mask_key",))
    text = remove_value(text, ("previous_mask_key_id",))
    require_sound(source.file, text)
    return EditedFile(source.file, before, text, (), ())


def _print_progress(progress: Sequence[TableProgress], *, old_id: str) -> None:
    print_table(
        [
            *(whole("table"), heading("columns"), number("on their way"), number("held")),
            *(number("not read again"), whole("from"), whole("to")),
        ],
        [
            (
                *(f"{table.source}.{text_of(table.table)}", ", ".join(table.columns)),
                *(len(table.under_way), len(table.held), len(table.unread)),
                *_span_text(table),
            )
            for table in progress
        ],
        none="no table has pseudonyms under two keys",
    )
    for table in progress:
        name = f"{table.source}.{text_of(table.table)}"
        if table.under_way:
            remark(f"{name}: {len(table.under_way)} batches are on their way under {old_id}; wait for them")
        if table.held:
            remark(
                f"{name}: {len(table.held)} batches are held; a replay takes the new key: esclusa quarantine replay "
                f"--source {table.source} --table {shlex.quote(table.table)}"
            )
        if table.unread:
            remark(
                f"{name}: {len(table.unread)} published batches have rows under {old_id} alone; have them read again "
                f"(esclusa backfill {shlex.quote(f'{table.source}.{table.table}')}), or leave them so: --keep-old-rows"
            )


def _span_text(table: TableProgress) -> tuple[object, object]:
    if not table.unread:
        return "", ""
    start = table.unread[0].window.start
    return "the beginning" if start is None else start, table.unread[-1].window.end


def _progress_document(table: TableProgress) -> dict[str, object]:
    return {
        "source": table.source,
        "table": table.table,
        "columns": list(table.columns),
        "is_done": table.is_done,
        "under_way_batch_ids": [batch.id for batch in table.under_way],
        "held_batch_ids": [batch.id for batch in table.held],
        "unread": [
            {"batch_id": batch.id, "start": batch.window.start, "end": batch.window.end}
            for batch in table.unread
        ],
    }


# ---- both ----------------------------------------------------------------------------------------------------


def _write(edited: EditedFile) -> None:
    from shared.catalog.editing import write_in_place

    write_in_place(edited.file, edited.after, instead_of=edited.before)


def _print_diff(edited: EditedFile, *, is_dry_run: bool) -> None:
    for line in edited.diff.splitlines():
        typer.echo(visible(line))
    remark(f"{edited.file} {'would be' if is_dry_run else 'was'} edited")


def _edit_document(source: "Source", edited: EditedFile | None, *, is_dry_run: bool) -> dict[str, object]:
    return {
        "source": source.name,
        "file": str(source.file),
        "is_dry_run": is_dry_run,
        "diff": edited.diff if edited else None,
    }


app.command("rotate")(errors_told()(rotate))
