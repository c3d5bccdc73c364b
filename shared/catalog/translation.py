"""Forms into the domain: what a sound file says, as contracts, with the defaults of schedule and limits."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta

from shared.catalog.forms import (
    AnySourceForm,
    ColumnForm,
    DatabaseTableForm,
    DeletesForm,
    Form,
    LimitsForm,
    MaskForm,
    OdbcSourceForm,
    Product,
    PublishForm,
    QuarantineForm,
    RestColumnForm,
    RestTableForm,
    ScheduleForm,
    SqlalchemySourceForm,
)
from shared.catalog.queries import parse_query
from shared.domain.contracts import (
    Column,
    Cursor,
    DeleteMode,
    Deletes,
    KeyRanges,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    QuarantineLimits,
    SourceKind,
    TableContract,
)
from shared.domain.source_queries import SourceQuery
from shared.domain.sources import SourceLimits
from shared.domain.windows import Schedule

DEFAULT_SCHEDULE = Schedule(every=timedelta(minutes=15), max_window=timedelta(hours=1), catch_up_limit=24)

#: Two intervals and this, behind the lag: one missed run of cron alone raises no alarm.
_DEFAULT_PATIENCE = timedelta(minutes=30)


def table_contract(
    source: AnySourceForm,
    name: str,
    table: DatabaseTableForm | RestTableForm,
    columns: Mapping[str, ColumnForm],
) -> TableContract:
    """Return the contract of one table."""
    return TableContract(
        origin=_origin(source),
        table=name,
        relation=(table.path,) if isinstance(table, RestTableForm) else table.relation or (),
        columns=_columns(source, columns),
        key=table.key,
        cursor=_cursor(table),
        schedule=_schedule(table.schedule, source.schedule),
        publishing=_publishing(table.publish),
        deletes=_deletes(table.deletes),
        limits=_limits(table.quarantine, source.quarantine),
        key_is_unique=not isinstance(table, RestTableForm) and table.key_is_unique,
        options=_texts(table.options) if isinstance(table, RestTableForm) else {},
        query=source_query(source, table, columns) if isinstance(table, DatabaseTableForm) else None,
        key_ranges=_key_ranges(table) if isinstance(table, DatabaseTableForm) else None,
    )


def _key_ranges(table: DatabaseTableForm) -> KeyRanges | None:
    return KeyRanges(table.key_ranges.rows_per_range) if table.key_ranges else None


def source_query(
    source: AnySourceForm, table: DatabaseTableForm, columns: Mapping[str, ColumnForm | None]
) -> SourceQuery | None:
    """
    Return the query of a table that has one.

    Raises:
        ValueError: with what was expected and what was found, if it is none that can be read.
    """
    if table.query is None:
        return None
    cursor = columns.get(table.cursor.column) if table.cursor else None
    return parse_query(
        table.query, product=product_of(source), bound_type=cursor.source_type if cursor else ""
    )


def product_of(source: AnySourceForm) -> str:
    """Return whose SQL a database speaks."""
    if isinstance(source, OdbcSourceForm | SqlalchemySourceForm):
        return str(source.dialect)
    return str(Product.POSTGRESQL)


def expected_by(table: DatabaseTableForm | RestTableForm, source_schedule: ScheduleForm) -> timedelta:
    """Return by how long after the end of a window its rows are expected in the warehouse."""
    every = _schedule(table.schedule, source_schedule).every
    lag = table.cursor.lag if table.cursor else timedelta(0)
    given = table.schedule.expected_by or source_schedule.expected_by
    return given or 2 * every + lag + _DEFAULT_PATIENCE


def source_limits(source: AnySourceForm) -> SourceLimits:
    """Return what the whole fleet may take of a source."""
    given, default = source.limits, SourceLimits()
    return SourceLimits(
        max_concurrent_extracts=given.max_concurrent_extracts or default.max_concurrent_extracts,
        rows_per_second=given.rows_per_second,
        deadline=given.deadline or default.deadline,
        quiet_hours=given.quiet_hours,
        max_connections=given.max_connections,
    )


#: How the fleet works is no part of a contract: a change makes no new version, and reaches batches planned before.
_OPERATIONAL_LIMITS = frozenset(LimitsForm.model_fields)


def _origin(source: AnySourceForm) -> Origin:
    return Origin(
        source=source.name,
        kind=SourceKind(source.kind),
        connection=_texts(source.connection)
        | _dialect(source)
        | _texts(source.limits, without=_OPERATIONAL_LIMITS),
        mask_keys=_mask_keys(source),
    )


def _dialect(source: AnySourceForm) -> dict[str, str]:
    if isinstance(source, OdbcSourceForm | SqlalchemySourceForm):
        return {"dialect": str(source.dialect)}
    return {}


def _mask_keys(source: AnySourceForm) -> dict[str, str]:
    given = {
        source.mask_key_id: source.mask_key,
        source.previous_mask_key_id: source.previous_mask_key,
    }
    return {key_id: reference for key_id, reference in given.items() if key_id and reference}


def _texts(form: Form, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return what a form says, as texts. What it does not say is left to the reader's own defaults."""
    given = form.model_dump(exclude_none=True, exclude=set(without))
    return {name: str(value) for name, value in given.items()}


def _columns(source: AnySourceForm, forms: Mapping[str, ColumnForm]) -> tuple[Column, ...]:
    """Return the columns; while keys are rotated, behind them those of the pseudonyms under the key before."""
    columns = [_column(name, form, key_id=source.mask_key_id or "") for name, form in forms.items()]
    if source.previous_mask_key_id:
        columns += [
            _previous_pseudonym(column, forms[column.name], key_id=source.previous_mask_key_id)
            for column in columns
            if has_previous_pseudonym(forms[column.name])
        ]
    return tuple(columns)


def has_previous_pseudonym(form: ColumnForm) -> bool:
    """Whether a column has pseudonyms under both keys while keys are rotated: it names none itself."""
    return form.mask is not None and form.mask.hmac is not None and form.mask.hmac.key_id is None


def name_of_previous_pseudonym(column: str, key_id: str) -> str:
    """
    Return the name of the column that has the pseudonyms under the key before.

    >>> name_of_previous_pseudonym("email", "k1")
    'email__k1'
    """
    return f"{column}__{key_id}"


def _previous_pseudonym(column: Column, form: ColumnForm, *, key_id: str) -> Column:
    return replace(
        column,
        name=name_of_previous_pseudonym(column.name, key_id),
        mask=_mask(form.mask, key_id=key_id),
        made_from=column.name,
    )


def _column(name: str, form: ColumnForm, *, key_id: str) -> Column:
    path = form.path if isinstance(form, RestColumnForm) else None
    return Column(
        name=name,
        type=form.type,
        mask=_mask(form.mask, key_id=key_id),
        nullable=form.nullable,
        source_type=form.source_type,
        path=path or "",
        content=form.content,
    )


def _mask(form: MaskForm | None, *, key_id: str) -> Mask:
    """Return a mask; a column without one is withheld."""
    if form is None:
        return Mask(MaskKind.WITHHOLD)
    if form.hmac:
        return Mask(
            MaskKind.HMAC,
            domain=form.hmac.domain,
            normalization=form.hmac.normalize,
            key_id=form.hmac.key_id or key_id,
        )
    return Mask(form.kind, constant=form.constant or "", truncation=form.truncate, step=form.bucket)


def _cursor(table: DatabaseTableForm | RestTableForm) -> Cursor | None:
    if table.cursor is None:
        return None
    column, lag, overlap = table.cursor.column, table.cursor.lag, table.cursor.overlap
    if isinstance(overlap, int):
        return Cursor(column, lag=lag, overlap=timedelta(0), overlap_count=overlap)
    return Cursor(column, lag=lag, overlap=overlap)


def _publishing(form: PublishForm) -> Publishing:
    return Publishing(
        form.mode, form.target, form.allow_empty, sort_key=form.sort_key, dist_key=form.dist_key or ""
    )


def _deletes(form: DeletesForm | None) -> Deletes:
    if form is None:
        return Deletes()
    if form.sweep:
        sweep = form.sweep
        return Deletes(
            DeleteMode.SWEEP, every=sweep.every, max_rows=sweep.max_rows, max_ratio=sweep.max_ratio
        )
    return Deletes(DeleteMode.SOFT, form.soft or "")


def _schedule(own: ScheduleForm, outer: ScheduleForm) -> Schedule:
    return Schedule(
        every=own.every or outer.every or DEFAULT_SCHEDULE.every,
        max_window=own.max_window or outer.max_window or DEFAULT_SCHEDULE.max_window,
        catch_up_limit=own.catch_up_limit or outer.catch_up_limit or DEFAULT_SCHEDULE.catch_up_limit,
        rows_per_part=own.rows_per_part or outer.rows_per_part or DEFAULT_SCHEDULE.rows_per_part,
    )


def _limits(own: QuarantineForm, outer: QuarantineForm) -> QuarantineLimits:
    given = outer.model_dump(exclude_none=True) | own.model_dump(exclude_none=True)
    return QuarantineLimits(**given)
