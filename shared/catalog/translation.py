"""Forms into the domain: what a sound file says, as contracts, with the defaults of schedule and limits."""

from collections.abc import Mapping
from datetime import timedelta

from shared.catalog.forms import (
    ColumnForm,
    Form,
    LimitsForm,
    MaskForm,
    PostgresSourceForm,
    PostgresTableForm,
    QuarantineForm,
    RestColumnForm,
    RestSourceForm,
    RestTableForm,
    ScheduleForm,
)
from shared.domain.contracts import (
    Column,
    Cursor,
    DeleteMode,
    Deletes,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    QuarantineLimits,
    SourceKind,
    TableContract,
)
from shared.domain.sources import SourceLimits
from shared.domain.windows import Schedule

DEFAULT_SCHEDULE = Schedule(every=timedelta(minutes=15), max_window=timedelta(hours=1), catch_up_limit=24)

#: Two intervals and this, behind the lag: one missed run of cron alone raises no alarm.
_DEFAULT_PATIENCE = timedelta(minutes=30)


def table_contract(
    source: PostgresSourceForm | RestSourceForm,
    name: str,
    table: PostgresTableForm | RestTableForm,
    columns: Mapping[str, ColumnForm],
) -> TableContract:
    """Return the contract of one table."""
    return TableContract(
        origin=_origin(source),
        table=name,
        relation=(table.path,) if isinstance(table, RestTableForm) else table.relation,
        columns=tuple(_column(column_name, column) for column_name, column in columns.items()),
        key=table.key,
        cursor=_cursor(table),
        schedule=_schedule(table.schedule, source.schedule),
        publishing=Publishing(table.publish.mode, table.publish.target, table.publish.allow_empty),
        deletes=Deletes(DeleteMode.SOFT, table.deletes.soft) if table.deletes else Deletes(),
        limits=_limits(table.quarantine, source.quarantine),
        options=_texts(table.options) if isinstance(table, RestTableForm) else {},
    )


def expected_by(table: PostgresTableForm | RestTableForm, source_schedule: ScheduleForm) -> timedelta:
    """Return by how long after the end of a window its rows are expected in the warehouse."""
    every = _schedule(table.schedule, source_schedule).every
    lag = table.cursor.lag if table.cursor else timedelta(0)
    given = table.schedule.expected_by or source_schedule.expected_by
    return given or 2 * every + lag + _DEFAULT_PATIENCE


def source_limits(source: PostgresSourceForm | RestSourceForm) -> SourceLimits:
    """Return what the whole fleet may take of a source."""
    given, default = source.limits, SourceLimits()
    return SourceLimits(
        max_concurrent_extracts=given.max_concurrent_extracts or default.max_concurrent_extracts,
        rows_per_second=given.rows_per_second,
        deadline=given.deadline or default.deadline,
        quiet_hours=given.quiet_hours,
    )


#: How the fleet works is no part of a contract: a change makes no new version, and reaches batches planned before.
_OPERATIONAL_LIMITS = frozenset(LimitsForm.model_fields)


def _origin(source: PostgresSourceForm | RestSourceForm) -> Origin:
    return Origin(
        source=source.name,
        kind=SourceKind(source.kind),
        connection=_texts(source.connection) | _texts(source.limits, without=_OPERATIONAL_LIMITS),
        mask_key=source.mask_key or "",
        mask_key_id=source.mask_key_id or "",
    )


def _texts(form: Form, *, without: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return what a form says, as texts. What it does not say is left to the reader's own defaults."""
    given = form.model_dump(exclude_none=True, exclude=set(without))
    return {name: str(value) for name, value in given.items()}


def _column(name: str, form: ColumnForm) -> Column:
    path = form.path if isinstance(form, RestColumnForm) else None
    return Column(
        name=name,
        type=form.type,
        mask=_mask(form.mask),
        nullable=form.nullable,
        source_type=form.source_type,
        path=path or "",
    )


def _mask(form: MaskForm | None) -> Mask:
    """Return a mask; a column without one is withheld."""
    if form is None:
        return Mask(MaskKind.WITHHOLD)
    if form.hmac:
        return Mask(MaskKind.HMAC, domain=form.hmac.domain, normalization=form.hmac.normalize)
    if form.constant is not None:
        return Mask(MaskKind.CONSTANT, constant=form.constant)
    return Mask(MaskKind(form.word or MaskKind.WITHHOLD))


def _cursor(table: PostgresTableForm | RestTableForm) -> Cursor | None:
    if table.cursor is None:
        return None
    return Cursor(table.cursor.column, lag=table.cursor.lag, overlap=table.cursor.overlap)


def _schedule(own: ScheduleForm, outer: ScheduleForm) -> Schedule:
    return Schedule(
        every=own.every or outer.every or DEFAULT_SCHEDULE.every,
        max_window=own.max_window or outer.max_window or DEFAULT_SCHEDULE.max_window,
        catch_up_limit=own.catch_up_limit or outer.catch_up_limit or DEFAULT_SCHEDULE.catch_up_limit,
    )


def _limits(own: QuarantineForm, outer: QuarantineForm) -> QuarantineLimits:
    given = outer.model_dump(exclude_none=True) | own.model_dump(exclude_none=True)
    return QuarantineLimits(**given)
