"""One try of a load or a key sweep: read how far the table is, prepare it, and send one transaction."""

from collections.abc import Iterable
from dataclasses import dataclass

from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.files import Fetch, prepare_fetch, put_manifest
from services.publisher.redshift.loading import Plan, load_statements, prune_statements
from services.publisher.redshift.names import folded, quote_found
from services.publisher.redshift.state import TableState, find_columns, read_state
from services.publisher.redshift.tables import (
    ensure_house,
    has_keys,
    prepare_base,
    refuse_other_view,
    show_view,
)
from services.publisher.redshift.target import HIDDEN, Target, target_of_load
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    refuse_empty_replace,
    refuse_while_rolled_back,
)
from shared.domain.contracts import PublishMode
from shared.domain.reasons import Reason
from shared.errors import Refused, Unavailable
from shared.ports import ObjectStore


@dataclass(frozen=True, slots=True)
class Access:
    """What a load is given: the database, the buckets, and the names of two roles in the database's own account."""

    api: DataApi
    store: ObjectStore
    #: The role that COPY reads the buckets with.
    role_arn: str
    #: The role of the warehouse that may read every source's tables; empty grants nothing.
    analysts_role: str = ""


def load_once(access: Access, load: NativeLoad, target: Target) -> LoadResult:
    """
    Bring a batch into its table.

    Raises:
        StatementFailed: if the warehouse refuses a statement, or a guard found that somebody else was at the table.
    """
    ensure_house(access.api, target, analysts_role=access.analysts_role)
    state = read_state(access.api, target, load)
    refuse_namesakes(target, state)
    if (before := state.loaded_before(load)) is not None:
        show_view(access.api, load, target, state)
        return before
    refuse_while_rolled_back(load, state.held_by)
    if load.contract.publishing.mode is PublishMode.REPLACE:
        if state.newest_window_end is not None and load.as_of < state.newest_window_end:
            return LoadResult(is_superseded=True)
        refuse_empty_replace(load)
    refuse_other_view(access.api, target)
    fetch = prepare_fetch(load, store=access.store)
    target = target_of_load(load, fetch.measures)
    found = prepare_base(access.api, load, target, state)
    plan = Plan(
        load=load,
        target=target,
        measures=fetch.measures,
        turn=state.turn,
        manifest=manifest_of(access, load, fetch),
        role_arn=access.role_arn,
        carried=carried_columns(target, found),
        is_replay=state.marker is not None,
    )
    access.api.transact(load_statements(plan))
    return _finish(access, load, target)


def _finish(access: Access, load: NativeLoad, target: Target) -> LoadResult:
    """Tell what was loaded as the marker tells it, and show it."""
    state = read_state(access.api, target, load)
    done = state.loaded_before(load)
    if done is None:
        raise Unavailable(f"warehouse, {target.name}: the load was answered, and its marker is not there")
    show_view(access.api, load, target, state)
    return LoadResult(done.rows_staged, done.rows_inserted, done.rows_updated, done.rows_unchanged)


def prune_once(access: Access, load: NativeLoad, target: Target) -> PruneResult:
    """Delete what a key sweep does not have; see `load_once`."""
    ensure_house(access.api, target, analysts_role=access.analysts_role)
    state = read_state(access.api, target, load)
    refuse_namesakes(target, state)
    if (before := state.pruned_before(load)) is not None:
        return before
    refuse_while_rolled_back(load, state.held_by)
    fetch = prepare_fetch(load, store=access.store)
    target = target_of_load(load, fetch.measures)
    found = find_columns(access.api, target.base_names)
    is_swept = bool(load.same_key_versions) and has_keys(found, target)
    manifest = manifest_of(access, load, fetch) if is_swept else ""
    plan = Plan(load, target, fetch.measures, state.turn, manifest, access.role_arn)
    access.api.transact(prune_statements(plan, has_keys=is_swept))
    done = read_state(access.api, target, load).pruned_before(load)
    if done is None:
        raise Unavailable(f"warehouse, {target.name}: the sweep was answered, and its marker is not there")
    return PruneResult(done.keys_staged, done.rows_deleted)


def carried_columns(target: Target, found: Iterable[str]) -> list[str]:
    """Return the columns of a base table that a contract does not have, quoted."""
    ours = {folded(column.name) for column in (*target.table_columns, *HIDDEN)}
    return [quote_found(name) for name in found if name not in ours]


def manifest_of(access: Access, load: NativeLoad, fetch: Fetch) -> str:
    """Return where the list of files lies; nothing if there are no rows to fetch."""
    return str(put_manifest(load, fetch, store=access.store)) if load.record_count else ""


def refuse_namesakes(target: Target, state: TableState) -> None:
    """
    Refuse a table whose name is that of another one but for case.

    Raises:
        Refused: TARGET_INCOMPATIBLE.
    """
    if state.namesake_count:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target.name}: another table of {target.source} has this name but for capital letters, which Redshift folds; "
            "give one of them another name in the source's file",
        )
