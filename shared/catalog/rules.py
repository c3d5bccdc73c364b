"""What the values of a source file must be to each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from shared.catalog.document import Document
from shared.catalog.forms import (
    ColumnForm,
    MaskForm,
    MaskWord,
    Paging,
    PostgresSourceForm,
    PostgresTableForm,
    RestOptionsForm,
    RestSourceForm,
    RestTableForm,
    ScheduleForm,
)
from shared.catalog.problems import FieldPath, shown, suggestion
from shared.catalog.translation import DEFAULT_SCHEDULE, expected_by
from shared.domain.contracts import ColumnKind, Normalization, PublishMode
from shared.domain.quiet_hours import leaves_time


@dataclass(frozen=True, slots=True)
class TableDraft:
    """A table as far as it could be read. `wrong`: the fields that say nothing, since they are mistaken."""

    name: str
    form: PostgresTableForm | RestTableForm
    wrong: frozenset[str]
    #: Every column of the file; None for those that are mistaken in themselves.
    columns: Mapping[str, ColumnForm | None]

    @property
    def path(self) -> FieldPath:
        """Where the table stands in its file."""
        return ("tables", self.name)

    def sound(self, *fields: str) -> bool:
        """Whether all these fields can be relied on."""
        return not self.wrong.intersection(fields)


def leaves(mask: MaskForm | None) -> bool:
    """Whether a column with this mask is in the files."""
    return mask is not None and mask.word not in {MaskWord.DROP, MaskWord.WITHHOLD}


def check_source(
    source: PostgresSourceForm | RestSourceForm,
    wrong: frozenset[str],
    tables: Iterable[TableDraft],
    *,
    document: Document,
) -> None:
    """Report whatever of a source does not fit together."""
    drafts = list(tables)
    _check_mask_key(source, wrong, drafts, document)
    _check_collisions([draft.name for draft in drafts], ("tables",), "table names", document)
    _check_schedule(source.schedule, ScheduleForm(), ("schedule",), document)
    _check_quiet_hours(source, wrong, document)
    for draft in drafts:
        check_table(draft, source.schedule, document=document)


def check_table(draft: TableDraft, source_schedule: ScheduleForm, *, document: Document) -> None:
    """Report whatever of a table does not fit together."""
    _check_masks(draft, document)
    if draft.columns and draft.sound("key"):
        _check_key(draft, document)
    if draft.columns and draft.sound("cursor"):
        _check_cursor(draft, document)
    if draft.sound("publish", "cursor", "key"):
        _check_publish(draft, document)
    if draft.columns and draft.sound("deletes"):
        _check_deletes(draft, document)
    if draft.sound("schedule"):
        _check_schedule(draft.form.schedule, source_schedule, (*draft.path, "schedule"), document)
    if draft.sound("schedule", "cursor"):
        _check_expectation(draft, source_schedule, document)
    if isinstance(draft.form, RestTableForm) and draft.sound("options", "cursor"):
        _check_paging(draft.form.options, draft, document)


def _check_quiet_hours(
    source: PostgresSourceForm | RestSourceForm, wrong: frozenset[str], document: Document
) -> None:
    if "limits" not in wrong and not leaves_time(source.limits.quiet_hours):
        document.report(
            ("limits", "quiet_hours"),
            expected="hours that leave some of each day: in all of them together no batch could ever begin",
            found="the whole day",
        )


# ---- masks -------------------------------------------------------------------------------------------------


def _check_mask_key(
    source: PostgresSourceForm | RestSourceForm,
    wrong: frozenset[str],
    drafts: list[TableDraft],
    document: Document,
) -> None:
    if {"mask_key", "mask_key_id"} & wrong:
        return
    if source.mask_key and not source.mask_key_id:
        document.report(("mask_key_id",), expected="the id under which mask_key is recorded", found="nothing")
    elif source.mask_key_id and not source.mask_key:
        document.report(("mask_key",), expected="the reference to the key of that id", found="nothing")
    elif not source.mask_key:
        for draft in drafts:
            for name, column in draft.columns.items():
                if column and column.mask and column.mask.hmac:
                    document.report(
                        (*draft.path, "columns", name, "mask"),
                        expected="mask_key and mask_key_id in the source, since the mask is hmac",
                        found="neither",
                    )
                    return


def _check_masks(draft: TableDraft, document: Document) -> None:
    for name, column in draft.columns.items():
        if column and column.mask is None:
            document.warn(
                (*draft.path, "columns", name),
                expected="a mask (keep, drop, hmac, redact, last4, constant)",
                found="none: the column is withheld until somebody decides",
            )
    leaving = [name for name, column in draft.columns.items() if column and leaves(column.mask)]
    if draft.columns and not leaving and all(draft.columns.values()):
        document.report(
            (*draft.path, "columns"),
            expected="at least one column that leaves",
            found="only withheld and dropped ones",
        )
    _check_collisions(leaving, (*draft.path, "columns"), "names of columns that leave", document)


def _check_collisions(names: Iterable[str], at: FieldPath, what: str, document: Document) -> None:
    """Warehouses fold the case of names: `Id` and `id` would be one column."""
    first_of: dict[str, str] = {}
    for name in names:
        first = first_of.setdefault(name.casefold(), name)
        if first != name:
            document.report(
                (*at, name),
                expected=f"{what} that differ by more than upper and lower case",
                found=f"{shown(name)} beside {shown(first)}",
            )


# ---- key, cursor, publishing, deletes ----------------------------------------------------------------------


def _find_column(draft: TableDraft, name: str, at: FieldPath, document: Document) -> ColumnForm | None:
    """Return a column that another field names; report it if the table has none such."""
    if name not in draft.columns:
        document.report(
            at,
            expected=f"a column of the table{suggestion(name, draft.columns)}",
            found=f"{shown(name)}, which is not under columns",
        )
    return draft.columns.get(name)


def _check_key(draft: TableDraft, document: Document) -> None:
    for position, name in enumerate(draft.form.key):
        at: FieldPath = (*draft.path, "key", position)
        if name in draft.form.key[:position]:
            document.report(at, expected="each column once", found=f"{shown(name)} again")
            continue
        column = _find_column(draft, name, at, document)
        if column is None:
            continue
        if not (column.mask and (column.mask.hmac or column.mask.word is MaskWord.KEEP)):
            document.report(
                at,
                expected="a column with mask keep or hmac: others lose what tells rows apart",
                found=f"{shown(name)} with mask {_mask_text(column.mask)}",
            )
        if column.mask and column.mask.hmac and column.mask.hmac.normalize is not Normalization.NONE:
            document.report(
                at,
                expected="a key without normalize: two rows whose keys are written differently would become one",
                found=f"{shown(name)} with normalize: {column.mask.hmac.normalize}",
            )
        if column.nullable:
            document.report(
                at,
                expected="a column with nullable: false, since rows without a key cannot be told apart",
                found=f"{shown(name)}, which is nullable",
            )


def _check_cursor(draft: TableDraft, document: Document) -> None:
    cursor = draft.form.cursor
    if cursor is None:
        return
    at: FieldPath = (*draft.path, "cursor", "column")
    column = _find_column(draft, cursor.column, at, document)
    if column is None:
        return
    if not (column.mask and column.mask.word is MaskWord.KEEP):
        document.report(at, expected="a column with mask keep", found=f"mask {_mask_text(column.mask)}")
    if column.type.kind not in {ColumnKind.TIMESTAMP, ColumnKind.TIMESTAMPTZ}:
        document.report(
            at,
            expected="a column of type timestamptz, or timestamp with timezone: UTC",
            found=f"{shown(cursor.column)} of type {column.type}",
        )
    elif column.type.kind is ColumnKind.TIMESTAMP and cursor.timezone is None:
        document.report(
            at,
            expected="timezone: UTC beside a cursor of type timestamp (other zones: let a view convert them)",
            found="no timezone",
        )


def _check_publish(draft: TableDraft, document: Document) -> None:
    publish, cursor = draft.form.publish, draft.form.cursor
    mode_at: FieldPath = (*draft.path, "publish", "mode")
    if publish.mode is PublishMode.REPLACE and cursor:
        document.report(
            mode_at,
            expected="merge or append where there is a cursor: a window is not the whole table",
            found="replace",
        )
    if publish.mode is not PublishMode.REPLACE and cursor is None:
        document.report(
            mode_at,
            expected="replace where there is no cursor: each batch is a snapshot of the whole table",
            found=publish.mode,
        )
    if publish.mode is PublishMode.MERGE and not draft.form.key:
        document.report((*draft.path, "key"), expected="a key, since publish.mode is merge", found="none")
    if publish.mode is PublishMode.APPEND and cursor and cursor.overlap:
        document.report(
            (*draft.path, "cursor", "overlap"),
            expected="0s, since publish.mode is append: rows that are read twice would stand there twice",
            found=f"{cursor.overlap.total_seconds():.0f}s",
        )
    if publish.allow_empty and publish.mode is not PublishMode.REPLACE:
        document.report(
            (*draft.path, "publish", "allow_empty"),
            expected="it with publish.mode replace only",
            found=f"true with {publish.mode}",
        )


def _check_deletes(draft: TableDraft, document: Document) -> None:
    if draft.form.deletes is None:
        return
    at: FieldPath = (*draft.path, "deletes", "soft")
    if draft.sound("publish") and draft.form.publish.mode is PublishMode.APPEND:
        document.report(at, expected="merge or replace for a table with soft deletes", found="append")
    column = _find_column(draft, draft.form.deletes.soft, at, document)
    if column is None:
        return
    if not (column.mask and column.mask.word is MaskWord.KEEP):
        document.report(at, expected="a column with mask keep", found=f"mask {_mask_text(column.mask)}")
    if column.type.kind not in {ColumnKind.TIMESTAMP, ColumnKind.TIMESTAMPTZ, ColumnKind.DATE}:
        document.report(
            at,
            expected="a column that says when: timestamptz, timestamp or date, NULL while the row lives",
            found=f"type {column.type}",
        )


def _check_schedule(own: ScheduleForm, outer: ScheduleForm, at: FieldPath, document: Document) -> None:
    if not (own.every or own.max_window):
        return
    every = own.every or outer.every or DEFAULT_SCHEDULE.every
    max_window = own.max_window or outer.max_window or DEFAULT_SCHEDULE.max_window
    if every > max_window:
        document.report(
            (*at, "every" if own.every else "max_window"),
            expected="every no longer than max_window",
            found=f"{every.total_seconds():.0f}s and {max_window.total_seconds():.0f}s",
        )


def _check_expectation(draft: TableDraft, source_schedule: ScheduleForm, document: Document) -> None:
    lag = draft.form.cursor.lag if draft.form.cursor else timedelta(0)
    given = expected_by(draft.form, source_schedule)
    if given <= lag:
        own = (*draft.path, "schedule", "expected_by")
        document.report(
            own if draft.form.schedule.expected_by else ("schedule", "expected_by"),
            expected=f"longer than the lag of table {shown(draft.name)}, {lag.total_seconds():.0f}s: no window is "
            "planned before",
            found=f"{given.total_seconds():.0f}s",
        )


# ---- REST --------------------------------------------------------------------------------------------------

_PAGING_NEEDS = {
    Paging.NONE: (),
    Paging.PAGE: ("page_parameter",),
    Paging.OFFSET: ("offset_parameter", "size_parameter", "page_size"),
    Paging.CURSOR: ("cursor_parameter", "cursor_path"),
    Paging.NEXT_LINK: ("next_link",),
}


def _check_paging(options: RestOptionsForm, draft: TableDraft, document: Document) -> None:
    at: FieldPath = (*draft.path, "options")
    needed = dict.fromkeys(_PAGING_NEEDS[options.paging], f"a value for paging {options.paging}")
    for name, other in (("size_parameter", "page_size"), ("order_parameter", "order_value")):
        if getattr(options, name) is not None:
            needed.setdefault(other, f"a value beside {name}")
        if getattr(options, other) is not None:
            needed.setdefault(name, f"a value beside {other}")
    if draft.form.cursor:
        for name in ("after_parameter", "before_parameter"):
            needed[name] = "a value, since the table has a cursor: windows are asked for by these parameters"
    for name, expected in needed.items():
        if getattr(options, name) is None:
            document.report((*at, name), expected=expected, found="nothing")


def _mask_text(mask: MaskForm | None) -> str:
    if mask is None:
        return "none"
    return mask.word.value if mask.word else ("hmac" if mask.hmac else "constant")
