"""What a source has otherwise, written into its source file: chosen changes as edits of the text, and what would come of it."""

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.output import NotDone, NotFound
from shared.domain.drift import Change, Drift, EditKind

if TYPE_CHECKING:
    from shared.catalog.problems import FieldPath
    from shared.domain.contracts import TableContract


@dataclass(frozen=True, slots=True)
class EditedFile:
    """A source file as it would be."""

    file: Path
    before: str
    after: str
    #: What is written into it.
    accepted: tuple[Change, ...]
    #: What only a person can decide.
    unproposed: tuple[Change, ...]

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The lines that change, as `diff -u` shows them."""
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), str(self.file), str(self.file), lineterm=""
        )
        return "\n".join(lines)


def edited_file(
    file: Path, contract: "TableContract", drift: Drift, *, columns: Collection[str], mask: str | None
) -> EditedFile:
    """
    Return the file with the changes of these columns accepted, of all columns if none is named.

    `mask` is YAML, as it would stand in the file; it is given to each of the named columns.

    Raises:
        NotFound: if a named column is neither in the file nor at the source.
        NotDone: if the file would have mistakes.
        NotEdited: if the file is written in a way that no edit keeps whole.
    """
    from shared.catalog.document import read_text

    _require_known(columns, contract, drift)
    chosen = [change for change in drift.changes if not columns or change.column in columns]
    accepted = [change for change in chosen if change.edit is not None]
    before = text = read_text(file)
    text = _applied(text, contract, accepted)
    if mask is not None:
        text = _masked(text, contract, columns, mask=mask)
    require_sound(file, text)
    return EditedFile(
        file, before, text, tuple(accepted), tuple(change for change in chosen if change.edit is None)
    )


def _require_known(columns: Collection[str], contract: "TableContract", drift: Drift) -> None:
    known = {column.name for column in contract.columns} | {change.column for change in drift.changes}
    if unknown := [name for name in columns if name not in known]:
        raise NotFound(
            f"{contract.source}.{contract.table}: expected columns of the file or of the source, "
            f"found {', '.join(map(repr, unknown))}"
        )


def _applied(text: str, contract: "TableContract", accepted: Iterable[Change]) -> str:
    from shared.catalog.editing import flow_mapping, remove_value, scalar, set_values

    values: dict[FieldPath, str] = {}
    removed: list[FieldPath] = []
    for change in accepted:
        path: FieldPath = ("tables", contract.table, "columns", change.column)
        edit = change.edit
        if edit is None:
            continue
        if edit.kind is EditKind.ADD:
            values[path] = flow_mapping(edit.fields)
        elif edit.kind is EditKind.SET:
            values |= {(*path, name): scalar(value) for name, value in edit.fields.items()}
        else:
            removed.append(path)
    text = set_values(text, values)
    for path in removed:
        text = remove_value(text, path)
    return text


def _masked(text: str, contract: "TableContract", columns: Collection[str], *, mask: str) -> str:
    from shared.catalog.editing import set_values

    at = ("tables", contract.table, "columns")
    return set_values(text, {(*at, name, "mask"): mask for name in columns})


def require_sound(file: Path, text: str) -> None:
    """
    Make sure that a text may stand in a source file.

    Raises:
        NotDone: if it has mistakes; all of them are told.
    """
    from shared.catalog import read_edited

    if problems := read_edited(file, text).problems:
        told = "\n".join(f"  {problem}" for problem in problems)
        raise NotDone(f"{file} was not edited, since it would have mistakes; edit it by hand:\n{told}")
