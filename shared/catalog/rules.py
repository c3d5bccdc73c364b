"""What the values of a source file must be to each other."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

from shared.catalog.document import Document
from shared.catalog.forms import (
    MAX_NAME_SIZE_IN_BYTES,
    AnySourceForm,
    ColumnForm,
    DatabaseTableForm,
    MaskForm,
    MaskWord,
    Paging,
    Product,
    RestOptionsForm,
    RestTableForm,
    ScheduleForm,
)
from shared.catalog.problems import FieldPath, shown, suggestion
from shared.catalog.translation import (
    DEFAULT_SCHEDULE,
    expected_by,
    has_previous_pseudonym,
    name_of_previous_pseudonym,
    product_of,
    source_limits,
    source_query,
)
from shared.domain.contracts import (
    COUNTING_KINDS,
    CURSOR_KINDS,
    MASKS_OF_FREE_TEXT,
    MOMENT_KINDS,
    ColumnKind,
    ColumnType,
    Content,
    Normalization,
    PublishMode,
    Target,
    Truncation,
)
from shared.domain.quiet_hours import leaves_time


@dataclass(frozen=True, slots=True)
class TableDraft:
    """A table as far as it could be read. `wrong`: the fields that say nothing, since they are mistaken."""

    name: str
    form: DatabaseTableForm | RestTableForm
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
    source: AnySourceForm,
    wrong: frozenset[str],
    tables: Iterable[TableDraft],
    *,
    document: Document,
) -> None:
    """Report whatever of a source does not fit together."""
    drafts = list(tables)
    _check_mask_keys(source, wrong, drafts, document)
    _check_collisions([draft.name for draft in drafts], ("tables",), "table names", document)
    _check_schedule(source.schedule, ScheduleForm(), ("schedule",), document)
    _check_quiet_hours(source, wrong, document)
    _check_deadline(source, wrong, document)
    for draft in drafts:
        check_table(draft, source.schedule, document=document)
        if isinstance(draft.form, DatabaseTableForm) and draft.sound("relation", "query"):
            _check_origin(draft, draft.form, source, document)
        if isinstance(draft.form, DatabaseTableForm) and draft.sound(
            "key_ranges", "key", "cursor", "deletes"
        ):
            _check_key_ranges(draft, draft.form, source, wrong, document)
        if not {"limits", "schedule"} & wrong and draft.sound("schedule", "cursor"):
            _check_pace(draft, source, document)


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


def _check_quiet_hours(source: AnySourceForm, wrong: frozenset[str], document: Document) -> None:
    if "limits" not in wrong and not leaves_time(source.limits.quiet_hours):
        document.report(
            ("limits", "quiet_hours"),
            expected="hours that leave some of each day: in all of them together no batch could ever begin",
            found="the whole day",
        )


def _check_deadline(source: AnySourceForm, wrong: frozenset[str], document: Document) -> None:
    """A statement or request that may outlast the whole reading is bounded by neither."""
    timeout_seconds = source.limits.timeout_seconds
    deadline = source_limits(source).deadline
    if "limits" not in wrong and timeout_seconds and timeout_seconds > deadline.total_seconds():
        document.report(
            ("limits", "timeout_seconds"),
            expected=f"at most limits.deadline, {deadline.total_seconds():.0f} s",
            found=shown(timeout_seconds),
        )


def _check_pace(draft: TableDraft, source: AnySourceForm, document: Document) -> None:
    """Warn of a first load that could never be done. What snapshots come to only the source itself can tell."""
    most = source_limits(source).max_rows_of_a_batch
    rows_per_part = (
        draft.form.schedule.rows_per_part or source.schedule.rows_per_part or DEFAULT_SCHEDULE.rows_per_part
    )
    if draft.form.cursor and most is not None and rows_per_part > most:
        document.warn(
            (*draft.path, "schedule", "rows_per_part"),
            expected=f"at most {most}, all that limits.rows_per_second lets a batch read by limits.deadline: larger parts "
            "of a first load are refused",
            found=shown(rows_per_part),
        )


# ---- masks -------------------------------------------------------------------------------------------------


_MASK_KEY_FIELDS = frozenset({"mask_key", "mask_key_id", "previous_mask_key", "previous_mask_key_id"})


def _check_mask_keys(
    source: AnySourceForm,
    wrong: frozenset[str],
    drafts: list[TableDraft],
    document: Document,
) -> None:
    if _MASK_KEY_FIELDS & wrong:
        return
    for name in ("mask_key", "previous_mask_key"):
        reference, key_id = getattr(source, name), getattr(source, f"{name}_id")
        if reference and not key_id:
            document.report(
                (f"{name}_id",), expected=f"the id under which {name} is recorded", found="nothing"
            )
        elif key_id and not reference:
            document.report((name,), expected="the reference to the key of that id", found="nothing")
    if source.previous_mask_key_id and not source.mask_key_id:
        document.report(
            ("mask_key",), expected="the key after previous_mask_key, and its mask_key_id", found="nothing"
        )
    elif source.mask_key_id and source.mask_key_id == source.previous_mask_key_id:
        document.report(
            ("previous_mask_key_id",), expected="another id than mask_key_id", found=shown(source.mask_key_id)
        )
    pseudonyms = [
        (draft, name)
        for draft in drafts
        for name, column in draft.columns.items()
        if column and column.mask and column.mask.hmac
    ]
    if not (source.mask_key or source.mask_key_id):
        for draft, name in pseudonyms[:1]:
            document.report(
                (*draft.path, "columns", name, "mask"),
                expected="mask_key and mask_key_id in the source, since the mask is hmac",
                found="neither",
            )
        return
    for draft, name in pseudonyms:
        _check_key_of_column(source, draft, name, document)
    if source.previous_mask_key_id:
        for draft in drafts:
            _check_previous_pseudonyms(draft, source.previous_mask_key_id, document)


def _check_previous_pseudonyms(draft: TableDraft, key_id: str, document: Document) -> None:
    """Report columns whose pseudonyms under the key before would need a name that cannot be had."""
    taken = {name.casefold(): name for name in draft.columns}
    for name, column in draft.columns.items():
        if column is None or not has_previous_pseudonym(column):
            continue
        at: FieldPath = (*draft.path, "columns", name)
        called = name_of_previous_pseudonym(name, key_id)
        if called.casefold() in taken:
            document.report(
                at,
                expected=f"no column {shown(called)}: that is where pseudonyms under the key before are written",
                found=shown(taken[called.casefold()]),
            )
        if len(called.encode()) > MAX_NAME_SIZE_IN_BYTES:
            document.report(
                at,
                expected=f"a name of which {shown(called)} has at most {MAX_NAME_SIZE_IN_BYTES} bytes, or key_id in its mask",
                found="a longer one",
            )


def _check_key_of_column(source: AnySourceForm, draft: TableDraft, name: str, document: Document) -> None:
    """Report a pseudonym under a key that is none of the source's, or that would part the rows of its table."""
    at: FieldPath = (*draft.path, "columns", name, "mask")
    column = draft.columns[name]
    key_id = column.mask.hmac.key_id if column and column.mask and column.mask.hmac else None
    known = [known for known in (source.mask_key_id, source.previous_mask_key_id) if known]
    if key_id is not None and key_id not in known:
        document.report(
            (*at, "hmac", "key_id"),
            expected=f"the id of a key of the source, {' or '.join(known)}{suggestion(key_id, known)}",
            found=shown(key_id),
        )
    elif source.previous_mask_key_id and key_id is None and name in merge_key(draft):
        document.report(
            at,
            expected=f"key_id: {source.previous_mask_key_id} in the mask of a key column, since publish.mode is merge: "
            "under a new key no row would find its older version",
            found="no key_id while keys are rotated",
        )


def merge_key(draft: TableDraft) -> tuple[str, ...]:
    """Return the columns by which a merge finds the older version of a row; none for other modes."""
    is_merge = draft.sound("publish", "key") and draft.form.publish.mode is PublishMode.MERGE
    return draft.form.key if is_merge else ()


def _check_masks(draft: TableDraft, document: Document) -> None:
    for name, column in draft.columns.items():
        if column and column.mask is None:
            document.warn(
                (*draft.path, "columns", name),
                expected="a mask (keep, drop, hmac, redact, last4, constant, truncate, bucket)",
                found="none: the column is withheld until somebody decides",
            )
        elif column and column.mask:
            _check_fit(column, column.mask, (*draft.path, "columns", name, "mask"), document)
    leaving = [name for name, column in draft.columns.items() if column and leaves(column.mask)]
    if draft.columns and not leaving and all(draft.columns.values()):
        document.report(
            (*draft.path, "columns"),
            expected="at least one column that leaves",
            found="only withheld and dropped ones",
        )
    _check_collisions(leaving, (*draft.path, "columns"), "names of columns that leave", document)


_UNITS_OF = {
    ColumnKind.DATE: (Truncation.YEAR, Truncation.MONTH),
    ColumnKind.TIMESTAMP: tuple(Truncation),
    ColumnKind.TIMESTAMPTZ: tuple(Truncation),
}
_DIGITS_OF = {ColumnKind.INT16: 5, ColumnKind.INT32: 10, ColumnKind.INT64: 19}


def _check_fit(column: ColumnForm, mask: MaskForm, at: FieldPath, document: Document) -> None:
    """Report a mask that does not fit what the values are."""
    if column.content is Content.FREE_TEXT and mask.kind not in MASKS_OF_FREE_TEXT:
        document.report(
            at,
            expected="drop, withhold, redact or constant for free text: it may name anybody, a pseudonym of a whole text "
            "joins nothing, and a piece of it is still clear",
            found=str(mask.kind),
        )
    if mask.truncate:
        units = _UNITS_OF.get(column.type.kind)
        if units is None:
            document.report(
                at, expected="a column of type date, timestamp or timestamptz", found=f"type {column.type}"
            )
        elif mask.truncate not in units:
            document.report(
                at, expected=f"{' or '.join(units)} for a {column.type}", found=str(mask.truncate)
            )
    if mask.bucket:
        _check_step(column.type, mask.bucket, at, document)


def _check_step(type_: ColumnType, step: Decimal, at: FieldPath, document: Document) -> None:
    digits, scale = type_.precision or _DIGITS_OF.get(type_.kind, 0), type_.scale or 0
    units = Fraction(step) * 10**scale
    if not digits:
        document.report(
            at, expected="a column of type int16, int32, int64 or decimal(p,s)", found=f"type {type_}"
        )
    # A tenth of what the type holds, so that the lowest bucket of a number can be counted in 128 bits.
    elif units.denominator != 1 or units > 10 ** (digits - 1):
        document.report(
            at,
            expected=f"a step of at most a tenth of what {type_} holds, with no more than {scale} digits behind the point",
            found=f"{step:f}",
        )


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


# ---- what is read ------------------------------------------------------------------------------------------


def _check_origin(
    draft: TableDraft, form: DatabaseTableForm, source: AnySourceForm, document: Document
) -> None:
    """Report a table that is read from nothing or from two things, and a query that cannot be read."""
    if (form.relation is None) == (form.query is None):
        document.report(
            draft.path if form.relation is None else (*draft.path, "query"),
            expected="relation: schema.table, or query: a SELECT",
            found="neither" if form.relation is None else "both",
        )
        return
    if form.query is None:
        return
    at: FieldPath = (*draft.path, "query")
    if product_of(source) == Product.ORACLE:
        document.report(
            at,
            expected="relation, and a view at the source: Oracle does not tell the columns of a query",
            found="a query",
        )
        return
    if form.key_is_unique:
        document.report(
            (*draft.path, "key_is_unique"),
            expected="it with relation only: no source guarantees that a key tells the rows of a query apart",
            found="it beside query",
        )
    if draft.sound("cursor"):
        _check_query(draft, form, source, document)


def _check_query(
    draft: TableDraft, form: DatabaseTableForm, source: AnySourceForm, document: Document
) -> None:
    at: FieldPath = (*draft.path, "query")
    try:
        query = source_query(source, form, draft.columns)
    except ValueError as error:
        expected, _, found = str(error).removeprefix("expected ").partition(", found ")
        document.report(at, expected=expected, found=found)
        return
    if query is None or not query.placeholders:
        return
    if form.cursor is None:
        document.report(
            at,
            expected="no placeholders without a cursor, whose values they are",
            found=f":{query.placeholders[0]}",
        )
    elif not query.bound_type and draft.columns.get(form.cursor.column):
        document.report(
            (*draft.path, "columns", form.cursor.column, "source_type"),
            expected=f"the source's word for its type: as such :{query.placeholders[0]} of the query is bound",
            found="nothing",
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
    if isinstance(draft.form, DatabaseTableForm) and draft.form.key_is_unique and not draft.form.key:
        document.report((*draft.path, "key_is_unique"), expected="it beside a key", found="no key")
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
    if column.type.kind not in CURSOR_KINDS:
        document.report(
            at,
            expected="a column of type timestamptz, timestamp with timezone: UTC, date, int16, int32 or int64",
            found=f"{shown(cursor.column)} of type {column.type}",
        )
    elif (column.type.kind in COUNTING_KINDS) != isinstance(cursor.overlap, int):
        counts = column.type.kind in COUNTING_KINDS
        document.report(
            (*draft.path, "cursor", "overlap"),
            expected="a number, such as 0 or 100, for a cursor that counts"
            if counts
            else "a duration, such as 5m",
            found=f"{_overlap_text(cursor.overlap)}, and {shown(cursor.column)} is of type {column.type}",
        )
    elif isinstance(draft.form, RestTableForm) and column.type.kind not in MOMENT_KINDS:
        document.report(
            at,
            expected="a moment, since records are asked for by after_parameter and before_parameter",
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
            expected="none, since publish.mode is append: rows that are read twice would stand there twice",
            found=_overlap_text(cursor.overlap),
        )
    if publish.allow_empty and publish.mode is not PublishMode.REPLACE:
        document.report(
            (*draft.path, "publish", "allow_empty"),
            expected="it with publish.mode replace only",
            found=f"true with {publish.mode}",
        )
    _check_warehouse_keys(draft, document)


def _check_warehouse_keys(draft: TableDraft, document: Document) -> None:
    publish = draft.form.publish
    named = [("sort_key", name) for name in publish.sort_key]
    named += [("dist_key", publish.dist_key)] if publish.dist_key else []
    for field, name in named:
        at: FieldPath = (*draft.path, "publish", field)
        column = _find_column(draft, name, at, document)
        if column is None:
            continue
        if column.mask and column.mask.word in {MaskWord.DROP, MaskWord.WITHHOLD}:
            document.report(
                at, expected="a column that leaves", found=f"{name}, which has the mask {column.mask.word}"
            )
        elif column.type.kind in {ColumnKind.JSON, ColumnKind.BINARY}:
            document.report(
                at, expected="a column that can be compared", found=f"{name} of type {column.type}"
            )


def _check_deletes(draft: TableDraft, document: Document) -> None:
    if draft.form.deletes is None:
        return
    if draft.form.deletes.sweep:
        _check_key_sweep(draft, document)
        return
    at: FieldPath = (*draft.path, "deletes", "soft")
    if draft.sound("publish") and draft.form.publish.mode is PublishMode.APPEND:
        document.report(at, expected="merge or replace for a table with soft deletes", found="append")
    column = _find_column(draft, draft.form.deletes.soft or "", at, document)
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


def _check_key_sweep(draft: TableDraft, document: Document) -> None:
    at: FieldPath = (*draft.path, "deletes", "sweep")
    if isinstance(draft.form, RestTableForm):
        document.report(
            at, expected="a database: a server of records is not asked for all keys", found="rest"
        )
    if not draft.sound("publish"):
        return
    if draft.form.publish.mode is not PublishMode.MERGE:
        document.report(
            at, expected="it with publish.mode merge only", found=f"publish.mode {draft.form.publish.mode}"
        )
    if draft.form.publish.target is Target.EXTERNAL:
        document.report(
            at,
            expected="a native table to delete rows in: publish.target native or both",
            found="publish.target external",
        )


def _check_key_ranges(
    draft: TableDraft,
    form: DatabaseTableForm,
    source: AnySourceForm,
    wrong: frozenset[str],
    document: Document,
) -> None:
    if form.key_ranges is None:
        return
    at: FieldPath = (*draft.path, "key_ranges")
    is_swept = form.deletes is not None and form.deletes.sweep is not None
    if form.cursor is not None and not is_swept:
        document.report(
            at,
            expected="it without a cursor, or with deletes: {sweep: …}: a window is read whole",
            found="a cursor and no sweep",
        )
    columns = [draft.columns.get(name) for name in form.key]
    if all(columns) and not any(
        column and column.type.kind in COUNTING_KINDS and column.mask and column.mask.word is MaskWord.KEEP
        for column in columns
    ):
        document.report(
            at,
            expected="a key with a column of type int16, int32 or int64 and mask keep, by which it is cut into ranges",
            found=f"the key {', '.join(map(shown, form.key))}" if form.key else "no key",
        )
    is_masked = any(
        column and column.mask and leaves(column.mask) and column.mask.word is not MaskWord.KEEP
        for column in draft.columns.values()
    )
    if is_masked and not _MASK_KEY_FIELDS & wrong and not source.mask_key:
        document.report(
            at,
            expected="mask_key and mask_key_id in the source, since columns are masked: what their rows add up to is kept "
            "under that key, or anybody could try values on it",
            found="neither",
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


def _overlap_text(overlap: timedelta | int) -> str:
    return f"{overlap.total_seconds():.0f}s" if isinstance(overlap, timedelta) else str(overlap)


def _mask_text(mask: MaskForm | None) -> str:
    return "none" if mask is None else str(mask.kind)
