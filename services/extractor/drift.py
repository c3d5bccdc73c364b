"""
Compares the contract of a table with what its source has: pure, and asked at every batch before a row is read.

The rule of `docs/drift.md`: a change is applied by itself only if files, contract and warehouse stay exactly as they are,
and no value changes. Everything else holds the table, by name and with an edit of the source file proposed.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import structlog

from services.extractor.dialects import Carriage, DialectName
from services.extractor.readers import Finding, SourceColumn
from services.extractor.widenings import Widening, widening
from shared.domain.contracts import STRING, Column, ColumnType, MaskKind, TableContract
from shared.domain.drift import Change, ChangeKind, Drift, Edit, EditKind
from shared.errors import Refused

log = structlog.get_logger()

#: So many changes are told in a sentence. All of them are in the findings of the refusal.
MAX_CHANGES_TOLD = 20


class _Fate(Protocol):
    @property
    def type(self) -> ColumnType: ...

    @property
    def carriage(self) -> Carriage: ...


class SourceTypes(Protocol):
    """What has to be known of a product's types. Each `Dialect` knows it."""

    @property
    def name(self) -> DialectName:
        """Which product it is."""
        ...

    def fate_of(self, source_type: str, /) -> _Fate:
        """Return what becomes of a type."""
        ...

    def can_carry(self, source_type: str, declared: ColumnType, /) -> bool:
        """Return whether a contract may declare this type for a column of the source's type."""
        ...


def compare(
    contract: TableContract,
    columns: Sequence[SourceColumn],
    *,
    types: SourceTypes,
    unique_keys: Sequence[Sequence[str]] | None = None,
) -> Drift:
    """
    Return every difference, the contract's columns first, in their order.

    `unique_keys`: what tells rows apart by the source's own guarantee; None if it is not known.
    """
    found = {column.name: column for column in columns}
    at_source = [column for column in contract.columns if not column.made_from]
    added = unclassified(contract, columns)
    changes = [
        change
        for column in at_source
        for change in _changes_of(column, found.get(column.name), contract=contract, added=added, types=types)
    ]
    return Drift(
        (*changes, *_of_key(contract, unique_keys), *(_added(column, types=types) for column in added))
    )


def require_agreement(
    contract: TableContract,
    columns: Sequence[SourceColumn],
    *,
    types: SourceTypes,
    place: str,
    unique_keys: Sequence[Sequence[str]] | None = None,
) -> Drift:
    """
    Return what is applied by itself.

    Raises:
        Refused: if anything is held. Its findings are the whole drift.
    """
    drift = compare(contract, columns, types=types, unique_keys=unique_keys)
    if held := drift.held:
        told = "; ".join(map(str, held[:MAX_CHANGES_TOLD]))
        more = f"; and {len(held) - MAX_CHANGES_TOLD} more" if len(held) > MAX_CHANGES_TOLD else ""
        reasons = [change.reason for change in held if change.reason is not None]
        raise Refused(reasons[0], f"{place}: {told}{more}", findings={"drift": drift.document()})
    return drift


def tell_applied(contract: TableContract, drift: Drift) -> None:
    """Log what a batch goes on with by itself. New columns are logged when it is read."""
    if told := [change for change in drift.applied if change.kind is not ChangeKind.COLUMN_ADDED]:
        log.info(
            "drift_applied",
            source=contract.source,
            table=contract.table,
            changes=[f"{change.kind}: {change.column}" for change in told],
        )


def unclassified(contract: TableContract, columns: Sequence[SourceColumn]) -> list[SourceColumn]:
    """Return the columns that the contract does not know; nothing of them is read."""
    known = {column.name for column in contract.columns if not column.made_from}
    return [column for column in columns if column.name not in known]


def findings_of(contract: TableContract, drift: Drift) -> list[Finding]:
    """Return a drift as `esclusa check` tells it: each change that holds, or what is applied by itself."""
    subject = f"{contract.source}.{contract.table}"
    if drift.held:
        return [Finding(subject, is_ok=False, detail=f"{change.reason}: {change}") for change in drift.held]
    told = "; ".join(map(str, drift.applied[:MAX_CHANGES_TOLD]))
    return [Finding(subject, is_ok=True, detail=told or "readable, and as the contract has it")]


# ---- one column --------------------------------------------------------------------------------------------


def _changes_of(
    column: Column,
    found: SourceColumn | None,
    *,
    contract: TableContract,
    added: Sequence[SourceColumn],
    types: SourceTypes,
) -> list[Change]:
    if not column.leaves:
        return _of_unread(column, found)
    if found is None:
        return [_missing(column, added)]
    of_type = _of_type(column, found, types=types)
    of_null = _of_null(column, found, contract=contract)
    return [change for change in (of_type, of_null) if change is not None]


def _of_unread(column: Column, found: SourceColumn | None) -> list[Change]:
    """A column that does not leave cannot do harm, and its mask goes on holding should it come back."""
    if found is None:
        return [Change(ChangeKind.UNREAD_COLUMN_CHANGED, column.name, column.source_type or "there", "none")]
    if not column.source_type or column.source_type == found.source_type:
        return []
    edit = Edit(EditKind.SET, {"source_type": found.source_type})
    kind = ChangeKind.UNREAD_COLUMN_CHANGED
    return [Change(kind, column.name, column.source_type, found.source_type, edit=edit)]


def _missing(column: Column, added: Sequence[SourceColumn]) -> Change:
    alike = [other.name for other in added if column.source_type and other.source_type == column.source_type]
    remark = f"renamed to {alike[0]!r}, perhaps" if len(alike) == 1 else ""
    return Change(
        ChangeKind.COLUMN_MISSING, column.name, column.source_type, remark=remark, edit=Edit(EditKind.REMOVE)
    )


def _of_type(column: Column, found: SourceColumn, *, types: SourceTypes) -> Change | None:
    before, after = column.source_type, found.source_type
    is_carried = types.can_carry(after, column.output_type)
    if not before or before == after:
        if is_carried:
            return None
        edit = _type_edit(column, after, types=types)
        return Change(ChangeKind.TYPE_NOT_CARRIED, column.name, str(column.type), after, edit=edit)
    kind = _kind_of_change(column, before, after, types=types)
    edit = _type_edit(column, after, types=types)
    return Change(kind, column.name, before, after, _remark(column, after, types=types), edit)


def _remark(column: Column, after: str, *, types: SourceTypes) -> str:
    is_kept = types.can_carry(after, column.output_type)
    if column.output_type == STRING or not is_kept or types.fate_of(after).carriage is Carriage.EXACT:
        return ""
    return f"values that {column.type} cannot hold become rejected rows"


def _kind_of_change(column: Column, before: str, after: str, *, types: SourceTypes) -> ChangeKind:
    kept = widening(types.name, before, after)
    if types.fate_of(after).carriage is Carriage.REFUSED:
        return ChangeKind.TYPE_CHANGED
    if kept is None:
        is_narrower = widening(types.name, after, before) is not None
        return ChangeKind.TYPE_NARROWED if is_narrower else ChangeKind.TYPE_CHANGED
    # A pseudonym is made of the text, too.
    is_text = column.output_type == STRING
    holds_all = is_text or (
        types.can_carry(after, column.type) and types.fate_of(after).carriage is Carriage.EXACT
    )
    if holds_all and (kept is Widening.SAME_TEXT or not is_text):
        return ChangeKind.TYPE_WIDENED
    return ChangeKind.TYPE_OUTGROWN


def _of_null(column: Column, found: SourceColumn, *, contract: TableContract) -> Change | None:
    # Of a key or cursor nothing can be proposed, and of a view no column is known to be never NULL. Rows without a key
    # are rejected and counted, rows without a cursor value hold the batch.
    is_cursor = contract.cursor is not None and contract.cursor.column == column.name
    if column.nullable or not found.is_nullable or column.name in contract.key or is_cursor:
        return None
    return Change(ChangeKind.NULL_ALLOWED, column.name, edit=Edit(EditKind.SET, {"nullable": "true"}))


def _of_key(contract: TableContract, unique_keys: Sequence[Sequence[str]] | None) -> list[Change]:
    """More columns than the source needs still tell rows apart; fewer, or others, do not."""
    if not contract.key_is_unique or unique_keys is None:
        return []
    if any(set(key) <= set(contract.key) for key in unique_keys):
        return []
    found = "; ".join(f"({', '.join(key)})" for key in unique_keys) or "none"
    return [Change(ChangeKind.KEY_CHANGED, ", ".join(contract.key), ", ".join(contract.key), found)]


# ---- what is proposed --------------------------------------------------------------------------------------


def _type_edit(column: Column, source_type: str, *, types: SourceTypes) -> Edit | None:
    fields = {"source_type": source_type}
    fate = types.fate_of(source_type)
    if fate.carriage is Carriage.REFUSED:
        return Edit(EditKind.SET, fields | {"mask": str(MaskKind.WITHHOLD)})
    if not types.can_carry(source_type, column.output_type):
        fields["type"] = str(fate.type)
    return Edit(EditKind.SET, fields)


def _added(column: SourceColumn, *, types: SourceTypes) -> Change:
    return Change(
        ChangeKind.COLUMN_ADDED,
        column.name,
        after=column.source_type,
        edit=Edit(EditKind.ADD, _fields_of(column, types=types)),
    )


def _fields_of(column: SourceColumn, *, types: SourceTypes) -> Mapping[str, str]:
    fields = {"source_type": column.source_type, "type": str(types.fate_of(column.source_type).type)}
    if not column.is_nullable:
        fields["nullable"] = "false"
    return {**fields, "mask": str(MaskKind.WITHHOLD)}
