"""Which statements bring a batch into its table, in their order: one transaction for each mode, and one for key sweeps."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.publisher.redshift import statements
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.target import Target, moment
from services.publisher.warehouse import LoadResult, NativeLoad
from shared.domain.contracts import PublishMode
from shared.measures import ColumnMeasure


@dataclass(frozen=True, slots=True)
class Plan:
    """What a transaction has to know: it is void once the table's turn is another."""

    load: NativeLoad
    target: Target
    measures: Sequence[ColumnMeasure]
    turn: int
    #: Where the list of files lies; empty if there are no rows to fetch.
    manifest: str
    role_arn: str
    #: Quoted columns of the table that the contract does not have.
    carried: Sequence[str] = ()
    #: An earlier load of the batch brought other files.
    is_replay: bool = False


def load_statements(plan: Plan) -> list[Statement]:
    """Return the transaction that brings a batch into its table."""
    return in_turn(plan.target, plan.turn, _MODES[plan.load.contract.publishing.mode](plan))


def prune_statements(plan: Plan, *, has_keys: bool) -> list[Statement]:
    """Return the transaction that deletes what a key sweep does not have."""
    target, load = plan.target, plan.load
    marker = statements.save_prune_marker(target, load, has_keys=has_keys)
    if not has_keys:
        return in_turn(plan.target, plan.turn, [marker])
    return in_turn(
        target,
        plan.turn,
        [
            *_staged(plan),
            statements.create_gone(target, load),
            *([] if load.is_approved else [statements.guard_burst(target, load)]),
            statements.delete_gone(target),
            marker,
        ],
    )


def in_turn(
    target: Target, turn: int, work: Sequence[Statement], *, takes_it: bool = True
) -> list[Statement]:
    """Return a transaction that comes to nothing if the table changed since its turn was looked at."""
    return [
        statements.lock_turn(target),
        statements.guard_turn(target, turn),
        *work,
        *([statements.take_turn(target, turn)] if takes_it else []),
    ]


def _staged(plan: Plan) -> list[Statement]:
    """Stage the rows and prove them. Of a batch without rows there is nothing to fetch, and the stage stays empty."""
    create = statements.create_stage(plan.target)
    if not plan.manifest:
        return [create]
    return [
        create,
        statements.copy_into_stage(plan.target, manifest=plan.manifest, role_arn=plan.role_arn),
        *statements.proofs(plan.target, plan.measures, record_count=plan.load.record_count),
    ]


def _append(plan: Plan) -> list[Statement]:
    count = plan.load.record_count
    marker = statements.save_marker(
        plan.target, plan.load, LoadResult(rows_staged=count, rows_inserted=count)
    )
    # Without a marker no row of the batch is there, and looking for some reads the whole table.
    before = [statements.delete_batch(plan.target, plan.load)] if plan.is_replay else []
    return [*_staged(plan), *before, statements.insert_staged(plan.target, plan.load), marker]


def _merge(plan: Plan) -> list[Statement]:
    target, load = plan.target, plan.load
    return [
        *_staged(plan),
        statements.create_fresh_merge(target, as_of=moment(load.as_of), carried=plan.carried),
        statements.guard_doubles(target),
        statements.delete_fresh_keys(target),
        statements.insert_fresh(target, load, carried=plan.carried),
        statements.guard_missing(target),
        statements.save_merge_marker(target, load),
    ]


def _replace(plan: Plan) -> list[Statement]:
    target, load = plan.target, plan.load
    return [
        *_staged(plan),
        statements.create_fresh_snapshot(target),
        statements.delete_all(target),
        statements.insert_fresh(target, load),
        statements.guard_snapshot(target),
        statements.save_snapshot_marker(target, load),
    ]


_MODES = {PublishMode.APPEND: _append, PublishMode.MERGE: _merge, PublishMode.REPLACE: _replace}
