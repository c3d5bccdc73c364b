"""
Rollback: a table as it was after an earlier batch, made anew from the committed files; and forward again.

The ledger keeps the intention first, then the warehouse changes in one transaction, then the lake shows no more than
that. A run that dies in between is repeated under the same name, and each part is done once.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from services.publisher.catalog import MAX_PARTITIONS_PER_REQUEST, LakeCatalog
from services.publisher.partitions import partitions_of, shown_table
from services.publisher.warehouse import NativeLoad, Rebuild, RebuildResult, Warehouse
from shared import lifecycle
from shared.compactions import CommittedRows, lock_batches
from shared.domain.batches import HELD_STATES, Batch, BatchState, Stage
from shared.domain.contracts import PublishMode, TableContract, Target
from shared.domain.reasons import Reason
from shared.domain.rollbacks import Rollback
from shared.domain.windows import is_key_sweep
from shared.errors import Refused, Unavailable
from shared.ports import Ledger, LedgerTransaction, ObjectStore
from shared.visible import published_batches

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Tools:
    """What a rollback works with."""

    ledger: Ledger
    store: ObjectStore
    warehouse: Warehouse
    catalog: LakeCatalog


@dataclass(frozen=True, slots=True)
class Plan:
    """What a table is to be made of."""

    source: str
    table: str
    #: The newest contract under which anything was published.
    contract: TableContract
    contract_version: int
    bucket: str
    #: In the order of their publishing.
    kept: tuple[Batch, ...]
    withdrawn: tuple[Batch, ...]
    #: What the native table is made of anew.
    loads: tuple[NativeLoad, ...]
    is_forward: bool

    @property
    def last(self) -> Batch:
        """The last batch that stays."""
        return self.kept[-1]

    @property
    def record_count(self) -> int:
        """Rows that are read again."""
        return sum(load.record_count for load in self.loads)


# ---- what there is to do -----------------------------------------------------------------------------------


def plan_rollback(source: str, table: str, *, to: str | datetime, tools: Tools) -> Plan:
    """
    Return what leads a table back to its state after a batch, or at a moment, by when batches were published.

    Raises:
        KeyError: if no such batch of the table was published.
        Refused: if nothing was published by then, the table is in that state, or rows are no longer where they were.
    """
    with tools.ledger.transaction() as tx:
        published = published_batches(tx, source, table, with_withdrawn=True)
        if isinstance(to, str):
            last = next((batch for batch in published if batch.id == to), None)
            if last is None:
                raise KeyError(f"{source}.{table}: no batch {to!r} of it was published")
            kept = published[: published.index(last) + 1]
        else:
            kept = [batch for batch in published if batch.changed_at <= to]
        if not any(not is_key_sweep(batch.slot) for batch in kept):
            first = min((batch.changed_at for batch in published), default=None)
            told = f"; the first batch was published at {first:%Y-%m-%dT%H:%M:%SZ}" if first else ""
            raise _refused(f"{source}.{table}: nothing was published by then{told}")
        there = {batch.id for batch in published_batches(tx, source, table)}
        if there == {batch.id for batch in kept}:
            raise _refused(f"{source}.{table}: it is in that state already, nothing was published since")
        plan = _plan(tx, published, kept, is_forward=False)
    _require_files(plan, tools)
    return plan


def plan_forward(source: str, table: str, *, tools: Tools) -> Plan:
    """
    Return what leads a table to its present state again: every batch that was published.

    Raises:
        Refused: if nothing was published, or rows are no longer where they were.
    """
    with tools.ledger.transaction() as tx:
        published = published_batches(tx, source, table, with_withdrawn=True)
        if not any(not is_key_sweep(batch.slot) for batch in published):
            raise _refused(f"{source}.{table}: nothing was published")
        plan = _plan(tx, published, published, is_forward=True)
    _require_files(plan, tools)
    return plan


def _plan(
    tx: LedgerTransaction, published: Sequence[Batch], kept: Sequence[Batch], *, is_forward: bool
) -> Plan:
    withdrawn = published[len(kept) :]
    newest = _of_newest_contract(published)
    contract = tx.contract(newest.source, newest.table, newest.contract_version).contract
    rows = CommittedRows.of(tx, newest.source, newest.table)
    _require_whole_compactions(rows, kept, withdrawn)
    needed = list(kept)
    # As it was published then: a table that is replaced by now may have been merged.
    then = tx.contract(newest.source, newest.table, _of_newest_contract(kept).contract_version).contract
    is_replaced = then.publishing.mode is PublishMode.REPLACE
    if contract.publishing.target is not Target.NATIVE and is_replaced is not (
        contract.publishing.mode is PublishMode.REPLACE
    ):
        raise _refused(
            f"{newest.source}.{newest.table}: it was published by {then.publishing.mode} then, and is by "
            f"{contract.publishing.mode} now; its external table cannot show both; go back no further than to a "
            f"batch of contract {newest.contract_version}"
        )
    if is_replaced:
        snapshots = [batch for batch in kept if not is_key_sweep(batch.slot)]
        needed = [max(snapshots, key=lambda batch: (batch.as_of, batch.changed_at))]
    return Plan(
        source=newest.source,
        table=newest.table,
        contract=contract,
        contract_version=newest.contract_version,
        bucket=newest.bucket,
        kept=tuple(kept),
        withdrawn=tuple(withdrawn),
        loads=tuple(_load_of(tx, batch, rows) for batch in needed),
        is_forward=is_forward,
    )


def _of_newest_contract(batches: Sequence[Batch]) -> Batch:
    return max(batches, key=lambda batch: (batch.contract_version, batch.changed_at))


def _load_of(tx: LedgerTransaction, batch: Batch, rows: CommittedRows) -> NativeLoad:
    sweep = lifecycle.key_sweep_of(tx, batch)
    return NativeLoad(
        batch_id=batch.id,
        slot=batch.slot,
        window=batch.window,
        as_of=batch.as_of,
        contract=lifecycle.contract_of(tx, batch),
        contract_version=batch.contract_version,
        attempt=batch.attempt_number(Stage.PUBLISH),
        files=tuple(rows.files_of(tx, batch)),
        is_approved=True,
        same_key_versions=sweep.versions if sweep else (),
    )


def _require_whole_compactions(
    rows: CommittedRows, kept: Sequence[Batch], withdrawn: Sequence[Batch]
) -> None:
    """A partition shows the whole file of a compaction: it cannot show some of its batches."""
    of_kept = {found.id: batch for batch in kept if (found := rows.compaction_of(batch.id))}
    for batch in withdrawn:
        compaction = rows.compaction_of(batch.id)
        if compaction is not None and compaction.id in of_kept:
            name = f"{batch.source}.{batch.table}"
            undo = f"`esclusa compact {name} --undo {compaction.id}` first, or "
            raise _refused(
                f"{name}: the rows of batch {batch.id}, which would go, and of {of_kept[compaction.id].id}, which would "
                f"stay, lie in the one file of compaction {compaction.id}; {'' if compaction.types_version else undo}go "
                "back to a batch that was published before or after all of them"
            )


def _require_files(plan: Plan, tools: Tools) -> None:
    """
    Make sure that every file that is read again is there.

    Raises:
        Refused: OBJECT_MISSING; it says which are not, and of which batches.
    """
    if plan.contract.publishing.target is Target.EXTERNAL:
        return
    gone = [
        (load.batch_id, file)
        for load in plan.loads
        for file in load.files
        if file.deleted_at is not None or tools.store.head(file.location) is None
    ]
    if gone:
        batch_id, file = gone[0]
        deleted = f", deleted at {file.deleted_at:%Y-%m-%dT%H:%M:%SZ}" if file.deleted_at else ""
        raise Refused(
            Reason.OBJECT_MISSING,
            f"{plan.source}.{plan.table}: {len(gone)} files that this state is made of are gone, the first: "
            f"{file.location} of batch {batch_id}{deleted}; the state cannot be made again from the lake. `esclusa "
            "backfill` reads windows again from the source, as it is now",
        )


# ---- doing it ----------------------------------------------------------------------------------------------


def carry_out(plan: Plan, *, tools: Tools, actor: str, detail: str) -> tuple[Rollback, RebuildResult | None]:
    """
    Lead a table where a plan says, in the warehouse and in the lake; return what was done.

    From then on batches of the table are held (`rolled_back`) until it goes forward again. Going forward, those that
    were held for it are replayed.

    Raises:
        Refused: if the rows do not arrive, or a batch has in clear what is masked now. Nothing was changed.
        Unavailable: if ledger, store, warehouse or catalog did not answer. The same again goes on.
    """
    rollback = _begin(plan, tools=tools, actor=actor, detail=detail)
    log.info("rollback_begun", rollback=rollback.id, is_forward=plan.is_forward)
    rebuilt = None
    if plan.contract.publishing.target is not Target.EXTERNAL:
        gone = (*rollback.withdrawn_batch_ids, *_not_published(plan, tools))
        rebuilt = tools.warehouse.rebuild(
            Rebuild(_rebuild_id(rollback, plan), plan.loads, gone, is_held=not plan.is_forward)
        )
    _require_nothing_new(plan, tools)
    if plan.contract.publishing.target is not Target.NATIVE:
        _show(plan, rollback, tools=tools)
    with tools.ledger.transaction() as tx:
        done = replace(rollback, done_at=tx.now())
        tx.save_rollback(done)
        replayed = _replay_held(tx, plan) if plan.is_forward else []
    log.info("rollback_done", rollback=done.id, replayed_count=len(replayed))
    return done, rebuilt


def _begin(plan: Plan, *, tools: Tools, actor: str, detail: str) -> Rollback:
    """Keep what is intended, or go on with the same that a run before this one did not finish."""
    last = None if plan.is_forward else plan.last.id
    withdrawn = tuple(batch.id for batch in plan.withdrawn)
    with tools.ledger.transaction() as tx:
        # Once the intention is there, no compaction is committed. One that is committed at this moment has, or waits
        # for, the lock of a batch that goes, unless all of its batches stay.
        lock_batches(tx, withdrawn)
        rows = CommittedRows.of(tx, plan.source, plan.table)
        _require_whole_compactions(rows, plan.kept, plan.withdrawn)
        known = tx.rollbacks(plan.source, plan.table)
        if known and known[-1].done_at is None:
            unfinished = known[-1]
            if (unfinished.last_batch_id, unfinished.withdrawn_batch_ids) == (last, withdrawn):
                return unfinished
        rollback = Rollback(
            id=f"r{secrets.token_hex(12)}",
            source=plan.source,
            table=plan.table,
            last_batch_id=last,
            withdrawn_batch_ids=withdrawn,
            begun_at=tx.now(),
            actor=actor,
            detail=detail,
        )
        tx.insert_rollback(rollback)
    return rollback


def _rebuild_id(rollback: Rollback, plan: Plan) -> str:
    """Return what the warehouse knows it by: repeated with the same batches it is the same, with others another."""
    listed = "\n".join(batch.id for batch in plan.kept)
    return f"{rollback.id}.{hashlib.sha256(listed.encode()).hexdigest()[:8]}"


def _not_published(plan: Plan, tools: Tools) -> list[str]:
    """
    Return the batches that a publisher may have loaded before it died, or was refused by the lake.

    Their rows go with all others. A marker that stayed would tell the next attempt that they are there. Also those that
    no publisher has claimed yet: one may load them before the rebuild has the table to itself.
    """
    with tools.ledger.transaction() as tx:
        batches = tx.batches(source=plan.source, table=plan.table)
    return [batch.id for batch in batches if batch.state is not BatchState.PUBLISHED]


def _require_nothing_new(plan: Plan, tools: Tools) -> None:
    """
    Make sure that no batch was published between the plan and the warehouse's transaction: its rows would be gone.

    Nor is about to be: its publisher may have loaded it before that transaction, and not said so yet.

    Raises:
        Unavailable: if one was, or may have been. The same again takes it in.
    """
    with tools.ledger.transaction() as tx:
        published = {
            batch.id for batch in published_batches(tx, plan.source, plan.table, with_withdrawn=True)
        }
        at_work = tx.batches(source=plan.source, table=plan.table, states=[BatchState.PUBLISHING])
    if new := published - {batch.id for batch in [*plan.kept, *plan.withdrawn]}:
        raise Unavailable(
            f"{plan.source}.{plan.table}: batch {min(new)} was published meanwhile, and is in no part of the plan; run the "
            "same again"
        )
    if at_work:
        raise Unavailable(
            f"{plan.source}.{plan.table}: batch {at_work[0].id} is being published, and its rows may have gone with the "
            f"others; run the same again once it is through (`esclusa why {at_work[0].id}`)"
        )


def _show(plan: Plan, rollback: Rollback, *, tools: Tools) -> None:
    with tools.ledger.transaction() as tx:
        table = shown_table(tx, plan.contract, contract_version=plan.contract_version, bucket=plan.bucket)
    batches = [batch for batch in [*plan.kept, *plan.withdrawn] if not is_key_sweep(batch.slot)]
    if plan.contract.publishing.mode is PublishMode.REPLACE:
        batches = [batch for batch in batches if batch.id == plan.loads[0].batch_id]
        with tools.ledger.transaction() as tx:
            (snapshot,) = partitions_of(tx, table, batches, rollback=rollback)
        tools.catalog.put_snapshot(table, snapshot, goes_back=True)
        return
    with tools.ledger.transaction() as tx:
        # All others were never led elsewhere.
        moved = {id_ for known in tx.rollbacks(plan.source, plan.table) for id_ in known.withdrawn_batch_ids}
        batches = [batch for batch in batches if batch.id in moved]
        switched = list(partitions_of(tx, table, batches, rollback=rollback))
    for start in range(0, len(switched), MAX_PARTITIONS_PER_REQUEST):
        tools.catalog.switch_partitions(table, switched[start : start + MAX_PARTITIONS_PER_REQUEST])


def _replay_held(tx: LedgerTransaction, plan: Plan) -> list[Batch]:
    """Send the batches that were held because the table was rolled back on their way again."""
    held = [
        batch
        for batch in tx.batches(source=plan.source, table=plan.table, states=HELD_STATES)
        if batch.reason is Reason.ROLLED_BACK
    ]
    replayed = [
        lifecycle.replay(
            tx,
            batch.id,
            contract=tx.contract(batch.source, batch.table, batch.contract_version),
            detail="the table is forward again",
        )
        for batch in held
    ]
    return [batch for batch in replayed if batch is not None]


def _refused(detail: str) -> Refused:
    return Refused(Reason.TARGET_INCOMPATIBLE, detail)
