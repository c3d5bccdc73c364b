"""What must hold: at every instant for readers, and at rest for target, ledger and bucket together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from support.history import faults_of
from support.simulation.rows import Row, SimulatedSource

from services.publisher.catalog import ExternalBatch
from shared.domain.batches import Batch, BatchState
from shared.domain.files import Area, DataFile, FileStatus
from shared.domain.windows import rejects_slot_number
from shared.ports import LedgerTransaction

if TYPE_CHECKING:
    from support.simulation.world import World


# ---- at every instant --------------------------------------------------------------------------------------------


def assert_readers_see_whole_batches(world: World) -> None:
    """
    Check what an analyst would find if he asked now, in the warehouse and in the lake.

    Rows come to the warehouse by one step, with their marker. A batch in the lake is a folder: it has to hold all
    files of one attempt that a gate found correct, as they were recorded, and nothing else. It may be the attempt
    before the committed one, while a replay is on its way.
    """
    with world.transaction() as tx:
        for batch in tx.batches():
            if batch.committed_attempt is not None:
                committed = tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
                _assert_whole(world, committed, what=f"{batch.id} as committed")
        for shown in (*world.catalog.partitions.values(), *world.catalog.snapshots.values()):
            _assert_folder_is_whole(world, tx, shown)
        for batch_id, load in world.warehouse.markers.items():
            files = tx.files(batch_id=batch_id, areas=[Area.FINAL], attempt=load.files[0].attempt)
            assert {file.location for file in load.files} == {file.location for file in files}


def is_telling(effect_name: str) -> bool:
    """Whether what readers see may be another thing after a side effect."""
    return effect_name.startswith(("catalog.", "warehouse.")) or effect_name in {
        "store.delete",
        "ledger.open_gate",
    }


def _assert_folder_is_whole(world: World, tx: LedgerTransaction, shown: ExternalBatch) -> None:
    in_final = tx.files(batch_id=shown.batch_id, areas=[Area.FINAL])
    files = [file for file in in_final if file.location.key.startswith(shown.folder.key)]
    _assert_whole(world, files, what=shown.folder.key)
    assert shown.record_count == sum(file.record_count for file in files)
    lies_there = {info.location for info in world.plain_store.list(shown.folder.bucket, shown.folder.key)}
    assert lies_there == {file.location for file in files}, f"{shown.folder}: more than its batch"


def _assert_whole(world: World, files: Sequence[DataFile], *, what: str) -> None:
    assert files, f"{what}: no files"
    for file in files:
        assert file.status is FileStatus.CORRECT, f"{what}: {file.location} is {file.status}"
        info = world.plain_store.head(file.location)
        assert info is not None, f"{what}: {file.location} is gone"
        assert world.plain_store.sha256(file.location) == file.sha256, f"{what}: {file.location} was altered"


# ---- at rest -----------------------------------------------------------------------------------------------------


def assert_promises(world: World, *, discarded_count: int = 0) -> None:
    """Check source, target, lake, ledger and bucket against each other. The fleet is at rest."""
    batches = world.batches()
    states = [batch.state for batch in batches]
    assert set(states) <= {BatchState.PUBLISHED, BatchState.SUPERSEDED, BatchState.DISCARDED}
    assert states.count(BatchState.DISCARDED) <= discarded_count
    assert len(set(world.warehouse.applied)) == len(world.warehouse.applied), "loaded twice"
    for source in world.sources:
        _assert_the_target_equals_the_source(world, source, batches)
    with world.transaction() as tx:
        for batch in batches:
            assert faults_of(tx, batch) == []
            if batch.state is BatchState.PUBLISHED:
                _assert_shown_as_committed(world, tx, batch)
        _assert_the_ledger_lists_what_lies_in_the_buckets(world, tx, batches)
        for guard in tx.source_guards():
            assert tx.running_extract_count(guard.source) == 0
            assert not tx.deferred_batches(guard.source, limit=1), "a batch waits for a place"
    for source in world.sources:
        assert not list(world.plain_store.open_uploads(source.bucket)), "an upload was left open"


def _assert_the_target_equals_the_source(world: World, source: SimulatedSource, batches: list[Batch]) -> None:
    own = [batch for batch in batches if batch.source == source.name and batch.table == "rows"]
    assert len([batch for batch in own if not rejects_slot_number(batch.slot)]) == source.window_count
    due: dict[int, Row] = {}
    for batch in own:
        # One that was given up after a publisher had loaded it is in the table, whole.
        was_loaded = batch.state is BatchState.DISCARDED and batch.id in world.warehouse.markers
        if batch.state is BatchState.PUBLISHED or was_loaded:
            for row in source.rows_in(batch.window, table="rows"):
                if row.key not in due or due[row.key].changed_at <= row.changed_at:
                    due[row.key] = row
    assert world.warehouse.tables.get((source.name, "rows"), {}) == due
    shown = world.warehouse.tables.get((source.name, "snapshot"), {})
    assert not source.has_snapshot or sorted(shown.values(), key=_by_value) == source.rows


def _by_value(row: Row) -> int:
    return row.value


def _assert_shown_as_committed(world: World, tx: LedgerTransaction, batch: Batch) -> None:
    final = tx.files(batch_id=batch.id, areas=[Area.FINAL], attempt=batch.committed_attempt)
    committed = {file.location for file in final}
    assert {file.location for file in world.warehouse.markers[batch.id].files} == committed
    if batch.table == "rows":
        shown = world.catalog.partitions[batch.source, batch.table, batch.id]
        assert all(location.key.startswith(shown.folder.key) for location in committed)


def _assert_the_ledger_lists_what_lies_in_the_buckets(
    world: World, tx: LedgerTransaction, batches: list[Batch]
) -> None:
    recorded = {file.location: file for file in tx.files(present_only=True)}
    assert set(world.objects()) == set(recorded)
    assert {file.area for file in recorded.values()} <= {Area.FINAL, Area.QUARANTINE}
    committed = {batch.id: batch.committed_attempt for batch in batches}
    for file in recorded.values():
        if file.area is Area.FINAL:
            assert file.batch_id is not None
            assert committed[file.batch_id] == file.attempt
            assert world.plain_store.sha256(file.location) == file.sha256
    assert not tx.pending_message_count()
