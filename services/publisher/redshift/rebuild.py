"""
A table of Redshift made anew of some of its batches.

One transaction of the Data API has room for one batch, so the state is put together beside the table, batch by batch, by
the same statements that load; then one transaction puts it in the table's place, with its markers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import structlog

from services.publisher.redshift import definitions, statements
from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.files import Fetch, prepare_fetch
from services.publisher.redshift.load import Access, carried_columns, manifest_of, refuse_namesakes
from services.publisher.redshift.loading import Plan, in_turn, load_statements, prune_statements
from services.publisher.redshift.names import quote_found, short_digest
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.state import TableState, find_columns, read_state
from services.publisher.redshift.tables import ensure_house, has_keys, masked_columns, prepare_base
from services.publisher.redshift.target import SCRATCH_PREFIX, Target, target_of_load
from services.publisher.warehouse import NativeLoad, Rebuild, RebuildResult, refuse_clear_values
from shared.domain.windows import is_key_sweep
from shared.errors import EsclusaError

log = structlog.get_logger()

#: So many ids stand in one statement: about 30 KB of the 100 that are taken.
IDS_PER_STATEMENT = 1_000


def rebuild_once(access: Access, rebuild: Rebuild, target: Target) -> RebuildResult:
    """
    Make a table anew.

    Raises:
        StatementFailed: if the warehouse refuses a statement, or a guard found that somebody else was at the table.
    """
    ensure_house(access.api, target, analysts_role=access.analysts_role)
    scratch = _scratch_of(target, rebuild)
    if (row_count := _find_rebuild(access.api, rebuild, target)) is not None:
        _leave_no_scratch(access.api, scratch)
        return RebuildResult(row_count, was_done_before=True)
    state = read_state(access.api, target, rebuild.newest)
    refuse_namesakes(target, state)
    fetches = [prepare_fetch(load, store=access.store) for load in rebuild.loads]
    _prepare(access.api, rebuild, fetches, state)
    for statement in definitions.create_scratch(target, scratch):
        access.api.run(statement)
    for turn, (load, fetch) in enumerate(zip(rebuild.loads, fetches, strict=True)):
        plan = _plan(access, load, fetch, scratch, turn)
        access.api.transact(_statements(access.api, plan))
    columns = [quote_found(name) for name in find_columns(access.api, target.base_names)]
    swap = list(_swap(target, scratch, rebuild, turn=state.turn, columns=columns))
    access.api.transact(in_turn(target, state.turn, swap))
    return RebuildResult(_find_rebuild(access.api, rebuild, target) or 0)


def _leave_no_scratch(api: DataApi, scratch: Target) -> None:
    """Drop what one put together who was overtaken. The table is as it should be, whatever becomes of it."""
    for statement in definitions.drop_scratch(scratch):
        try:
            api.run(statement)
        except EsclusaError as error:
            log.warning("scratch_remains", table=scratch.base, error=str(error))


def _find_rebuild(api: DataApi, rebuild: Rebuild, target: Target) -> int | None:
    rows = api.rows(definitions.find_rebuild(target, rebuild.id))
    return int(rows[0][0]) if rows else None


def _prepare(api: DataApi, rebuild: Rebuild, fetches: Sequence[Fetch], state: TableState) -> None:
    """Bring the table to all of its contracts, older ones first, and refuse what a newer one masks."""
    both = sorted(zip(rebuild.loads, fetches, strict=True), key=lambda pair: pair[0].contract_version)
    for load, fetch in both:
        if is_key_sweep(load.slot):
            continue
        target = target_of_load(load, fetch.measures)
        found = prepare_base(api, load, target, state)
        refuse_clear_values(load, masked=masked_columns(load, found))


def _scratch_of(target: Target, rebuild: Rebuild) -> Target:
    """Return the tables in which a state is put together, beside those of the table itself."""
    prefix = f"{SCRATCH_PREFIX}{short_digest(target.name + rebuild.id)}"
    name = f'"{prefix}"'
    return replace(
        target,
        base=f"{target.base_schema}.{name}",
        base_alias=name,
        turn=f'{target.base_schema}."{prefix}_turn"',
        loads=f'{target.base_schema}."{prefix}_loads"',
    )


def _plan(access: Access, load: NativeLoad, fetch: Fetch, scratch: Target, turn: int) -> Plan:
    own = target_of_load(load, fetch.measures)
    target = replace(
        own, base=scratch.base, base_alias=scratch.base_alias, turn=scratch.turn, loads=scratch.loads
    )
    found = find_columns(access.api, own.base_names)
    # What the limits hold back was approved before.
    return Plan(
        load=replace(load, is_approved=True),
        target=target,
        measures=fetch.measures,
        turn=turn,
        manifest=manifest_of(access, load, fetch),
        role_arn=access.role_arn,
        carried=carried_columns(target, found),
    )


def _statements(api: DataApi, plan: Plan) -> list[Statement]:
    if not is_key_sweep(plan.load.slot):
        return load_statements(plan)
    found = find_columns(api, plan.target.base_names)
    return prune_statements(plan, has_keys=bool(plan.load.same_key_versions) and has_keys(found, plan.target))


def _swap(
    target: Target, scratch: Target, rebuild: Rebuild, *, turn: int, columns: Sequence[str]
) -> Iterator[Statement]:
    """Put the state that was put together in the place of the table's, with its markers."""
    # Somebody else at the same may have begun anew meanwhile: then some batches are not in it.
    yield statements.guard_turn(scratch, len(rebuild.loads))
    yield statements.delete_all(target)
    yield definitions.insert_scratch(target, scratch, columns)
    ids = [*rebuild.withdrawn_batch_ids, *(load.batch_id for load in rebuild.loads)]
    for start in range(0, len(ids), IDS_PER_STATEMENT):
        yield definitions.delete_markers(target, ids[start : start + IDS_PER_STATEMENT])
    yield definitions.insert_scratch_markers(target, scratch)
    yield definitions.save_rebuild(target, rebuild, turn=turn)
    yield from definitions.drop_scratch(scratch)
