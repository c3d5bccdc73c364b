"""Base tables and views in Redshift, brought to a contract: outside of the load's transaction, and harmless to repeat."""

from collections.abc import Collection, Mapping

import structlog

from services.publisher.catalog import says_masked
from services.publisher.redshift import definitions
from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.loading import in_turn
from services.publisher.redshift.names import folded
from services.publisher.redshift.state import (
    FoundColumn,
    TableState,
    find_columns,
    find_grants,
    find_relation,
)
from services.publisher.redshift.target import HIDDEN, Target
from services.publisher.redshift.types import can_be_widened, holds
from services.publisher.warehouse import NativeLoad, refuse_clear_values
from shared.domain.reasons import Reason
from shared.errors import Refused

log = structlog.get_logger()


def ensure_house(api: DataApi, target: Target, *, analysts_role: str) -> None:
    if len(api.rows(definitions.find_house(target))) < definitions.HOUSE_SIZE:
        for statement in definitions.create_house(target, analysts_role=analysts_role):
            api.run(statement)


def prepare_base(
    api: DataApi, load: NativeLoad, target: Target, state: TableState
) -> Mapping[str, FoundColumn]:
    """Create the base table, or bring it to the contract: outside of the load's transaction, and harmless to repeat."""
    found = find_columns(api, target.base_names)
    if not found:
        api.run(definitions.create_base(target))
        found = find_columns(api, target.base_names)
    if not state.is_newest_contract(load):
        refuse_clear_values(load, masked=masked_columns(load, found))
    outgrown = [
        column
        for column in target.table_columns
        if (there := found.get(folded(column.name))) and can_be_widened(there.type, column.type)
    ]
    _refuse_unfit(found, target, but={column.name for column in outgrown})
    for column in target.table_columns:
        if folded(column.name) not in found:
            api.run(definitions.add_column(target, column))
    for column in outgrown:
        api.run(definitions.widen_column(target, column))
    if outgrown:
        log.info("native_columns_widened", table=target.name, columns=[column.name for column in outgrown])
    if state.is_newest_contract(load):
        _comment(api, target, found)
    return found


def _comment(api: DataApi, target: Target, found: Mapping[str, FoundColumn]) -> None:
    """Say of columns what they are, and once if older rows hold in clear what is masked from now on."""
    told = {name: column.comment for name, column in found.items()}
    changed = [
        (column, comment)
        for column, comment in zip(target.columns, target.comments, strict=True)
        if told.get(folded(column.name), "") != comment
    ]
    newly_masked = [
        column.name
        for column, comment in changed
        if says_masked(comment) and not says_masked(told.get(folded(column.name), "masked: "))
    ]
    relation = find_relation(api, target.base_names)
    had_rows_before = relation is not None and bool(relation[1])
    if newly_masked and had_rows_before:
        log.warning("clear_values_remain", table=target.name, columns=newly_masked)
    for column, comment in changed:
        api.run(definitions.comment_column(target, column.quoted, comment))
    if relation is None or relation[1] != target.base_comment:
        api.run(definitions.comment_table(target))


def refuse_other_view(api: DataApi, target: Target) -> None:
    found = find_relation(api, target.view_names)
    if found is not None and found[0] != "v":
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target.name}: expected to make the view {target.view}, but another relation has its name; rename it, "
            "then replay the batch",
        )


def show_view(api: DataApi, load: NativeLoad, target: Target, state: TableState) -> None:
    """Bring the analysts' view to the contract, if it is not there yet. What was granted on it stays."""
    if not state.is_newest_contract(load):
        return
    found = find_relation(api, target.view_names)
    if found is not None and found[1] == target.comment:
        return
    grants = find_grants(api, target.view_names) if found else []
    statements = in_turn(target, state.turn, definitions.show_view(target, grants), takes_it=False)
    api.transact(statements)


def masked_columns(load: NativeLoad, found: Mapping[str, FoundColumn]) -> set[str]:
    """Return the columns of a contract that a newer one masks, by what the base table says of them."""
    return {
        column.name
        for column in load.contract.output_columns
        if (there := found.get(folded(column.name))) and says_masked(there.comment)
    }


def _refuse_unfit(found: Mapping[str, FoundColumn], target: Target, *, but: Collection[str]) -> None:
    wanted = {column.name: column.type for column in target.table_columns if column.name not in but}
    hidden = {column.name: column.type for column in HIDDEN}
    types = {name: column.type for name, column in found.items()}
    unfit = [
        f"column {name!r} should be {type_}, found {types.get(folded(name), 'none')}"
        for name, type_ in (wanted | hidden).items()
        if (folded(name) in types or name in hidden) and not holds(types.get(folded(name), ""), type_)
    ]
    if unfit:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target.name}: its base table {target.base} does not fit the contract: {'; '.join(unfit)}; Redshift widens "
            "VARCHAR alone, so make the column anew (docs/redshift.md) or give it another name, then replay the batch",
        )


def has_keys(found: Mapping[str, FoundColumn], target: Target) -> bool:
    """
    Return whether a table has the columns of the key. One without, or that is not there yet, has no row of it.

    Raises:
        Refused: TARGET_INCOMPATIBLE if they are of types that cannot be compared with the key's.
    """
    if any(folded(column.name) not in found for column in target.columns):
        return False
    comparable = {
        column.table.name
        for column in target.columns
        if holds(column.table.type, found[folded(column.name)].type)
    }
    _refuse_unfit(found, target, but=comparable)
    return True
