"""What a source has otherwise than the contract of its table: what is applied by itself, and what is held."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from shared.domain.reasons import Reason


class ChangeKind(StrEnum):
    """One way in which a column differs. `docs/drift.md` says what becomes of each everywhere."""

    # Applied by itself: the batch goes on, and it is told.
    #: The source has a column that the contract does not know. It is withheld.
    COLUMN_ADDED = "column_added"
    #: A column that does not leave is gone, or its type is another.
    UNREAD_COLUMN_CHANGED = "unread_column_changed"
    #: The type holds more than before, and the declared type still holds each of its values unchanged.
    TYPE_WIDENED = "type_widened"
    #: The source allows NULL where the contract does not. Rows that have one are rejected and counted.
    NULL_ALLOWED = "null_allowed"
    #: No record of a REST source names the field: such sources may leave out what is null.
    FIELD_ABSENT = "field_absent"

    # Held: nothing is read until a person has decided.
    #: A column that leaves is gone: dropped, or renamed.
    COLUMN_MISSING = "column_missing"
    #: The type holds more than before, and more than the declared type or the mask can take unchanged.
    TYPE_OUTGROWN = "type_outgrown"
    #: The type holds less than before: values may have been cut, or rows moved elsewhere.
    TYPE_NARROWED = "type_narrowed"
    #: The type is another one.
    TYPE_CHANGED = "type_changed"
    #: The type is what the contract says, and the declared type cannot hold its values.
    TYPE_NOT_CARRIED = "type_not_carried"
    #: The source no longer guarantees that the contract's key tells rows apart. The column is the key.
    KEY_CHANGED = "key_changed"


#: What holds a batch, and for which reason.
HOLDING: Mapping[ChangeKind, Reason] = {
    ChangeKind.COLUMN_MISSING: Reason.COLUMN_MISSING,
    ChangeKind.TYPE_OUTGROWN: Reason.TYPE_CHANGED,
    ChangeKind.TYPE_NARROWED: Reason.TYPE_CHANGED,
    ChangeKind.TYPE_CHANGED: Reason.TYPE_CHANGED,
    ChangeKind.TYPE_NOT_CARRIED: Reason.TYPE_CHANGED,
    ChangeKind.KEY_CHANGED: Reason.KEY_CHANGED,
}


class EditKind(StrEnum):
    """What a proposed edit does to a column of the source file."""

    #: The column is added, with these fields.
    ADD = "add"
    #: These fields are set; the others stay.
    SET = "set"
    #: The column is taken out.
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Edit:
    """What would bring the source file to the source, as far as a program can propose it."""

    kind: EditKind
    #: Of the column, as they stand in a source file.
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """One difference of one column."""

    kind: ChangeKind
    column: str
    #: The contract's word for the type, and the source's; empty where there is none.
    before: str = ""
    after: str = ""
    #: What else a person should know, such as a new column of the same type.
    remark: str = ""
    #: None if only a person knows what to do.
    edit: Edit | None = None

    @property
    def reason(self) -> Reason | None:
        """Why it holds a batch; None if it does not."""
        return HOLDING.get(self.kind)

    @property
    def is_held(self) -> bool:
        """Whether nothing is read until a person has decided."""
        return self.kind in HOLDING

    def __str__(self) -> str:
        """
        Say it in one sentence.

        >>> str(Change(ChangeKind.TYPE_NARROWED, "amount", "bigint", "integer"))
        "column 'amount' should be bigint, found integer"
        """
        subject = f"key ({self.column})" if self.kind is ChangeKind.KEY_CHANGED else f"column {self.column!r}"
        told = f"{subject} {_SAYINGS[self.kind].format(before=self.before, after=self.after)}"
        return f"{told} ({self.remark})" if self.remark else told


_SAYINGS: Mapping[ChangeKind, str] = {
    ChangeKind.COLUMN_ADDED: "is new at the source and withheld until somebody classifies it",
    ChangeKind.UNREAD_COLUMN_CHANGED: "does not leave; it was {before}, found {after}",
    ChangeKind.TYPE_WIDENED: "was {before} and is {after}, which its declared type holds",
    ChangeKind.NULL_ALLOWED: "may be NULL at the source; rows that have it so are rejected",
    ChangeKind.FIELD_ABSENT: "is named by no record",
    ChangeKind.COLUMN_MISSING: "is not in the source",
    ChangeKind.TYPE_OUTGROWN: "should be {before}, found {after}",
    ChangeKind.TYPE_NARROWED: "should be {before}, found {after}",
    ChangeKind.TYPE_CHANGED: "should be {before}, found {after}",
    ChangeKind.TYPE_NOT_CARRIED: "is {after}, whose values {before} cannot hold",
    ChangeKind.KEY_CHANGED: "should tell rows apart at the source, found the unique keys {after}",
}


@dataclass(frozen=True, slots=True)
class Drift:
    """Every difference between the contract of a table and its source, in the order of their columns."""

    changes: tuple[Change, ...] = ()

    @property
    def held(self) -> tuple[Change, ...]:
        """What holds every batch of the table."""
        return tuple(change for change in self.changes if change.is_held)

    @property
    def applied(self) -> tuple[Change, ...]:
        """What is applied by itself."""
        return tuple(change for change in self.changes if not change.is_held)

    def of_kind(self, kind: ChangeKind) -> tuple[Change, ...]:
        """Return the changes of one kind."""
        return tuple(change for change in self.changes if change.kind is kind)

    def document(self) -> list[dict[str, object]]:
        """Return it as JSON values, for manifests and for programs."""
        return [
            {
                "kind": str(change.kind),
                "column": change.column,
                "before": change.before,
                "after": change.after,
                "remark": change.remark,
                "is_held": change.is_held,
                "edit": change.edit and {"kind": str(change.edit.kind), "fields": dict(change.edit.fields)},
            }
            for change in self.changes
        ]

    @classmethod
    def of_document(cls, document: object) -> Self:
        """
        Read what `document` wrote.

        Raises:
            ValueError: if it is something else.
        """
        match document:
            case [*changes]:
                return cls(tuple(map(_read_change, changes)))
        raise ValueError("expected a list of changes, found something else")


def _read_change(item: object) -> Change:
    try:
        match item:
            case {
                "kind": str(kind),
                "column": str(column),
                "before": str(before),
                "after": str(after),
                **rest,
            }:
                remark, edit = rest.get("remark"), rest.get("edit")
                return Change(ChangeKind(kind), column, before, after, str(remark or ""), _read_edit(edit))
    except (KeyError, TypeError) as error:
        raise ValueError(f"expected a change of a column, found something else: {error!r}") from error
    raise ValueError("expected a change of a column, found something else")


def _read_edit(item: object) -> Edit | None:
    match item:
        case None:
            return None
        case {"kind": str(kind), "fields": dict(fields)}:
            return Edit(EditKind(kind), {str(name): str(value) for name, value in fields.items()})
    raise ValueError("expected an edit of a column, found something else")
