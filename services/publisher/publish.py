"""The publisher's story: the committed files of a batch become rows that analysts see."""

import re
from dataclasses import replace

import structlog

from services.publisher.catalog import ExternalBatch, ExternalTable, LakeCatalog, external_table
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    Warehouse,
    refuse_empty_replace,
    refuse_while_rolled_back,
    target_of,
)
from shared.domain.contracts import PublishMode, Target
from shared.domain.files import Location
from shared.domain.windows import is_key_sweep
from shared.lifecycle import StageResult
from shared.stage import Assignment

log = structlog.get_logger()

_FINAL_FOLDER = re.compile(r"(?P<folder>final/[^/]+/day=(?P<day>[0-9-]{10})/batch=[^/]+/a[0-9]+/)[^/]+")


def publish(assignment: Assignment, *, warehouse: Warehouse, catalog: LakeCatalog) -> StageResult:
    """
    Make a batch visible: as rows of a native table, as a part of an external table, or both.

    Native first, because it proves the rows and may refuse them; what it refuses is not shown in the lake either.
    Each part repeats without harm, so an attempt that died between the two is made good by the next.

    Raises:
        Refused: if the rows do not arrive as counted, a replace would empty a table, or a name or type is not carried.
        LostLease: if a later attempt has published the batch.
        Unavailable: if warehouse, catalog or store did not answer.
    """
    load = native_load(assignment)
    # The warehouse asks too, where there is one, under its lock.
    refuse_while_rolled_back(load, assignment.rollback_id or None)
    if is_key_sweep(load.slot):
        pruned = warehouse.prune(load)
        return StageResult(counts=pruned.counts, manifest=_manifest(load, pruned))
    target = load.contract.publishing.target
    table = None if target is Target.NATIVE else external_table_of(assignment)
    loaded = None if target is Target.EXTERNAL else warehouse.load(load)
    is_superseded = loaded is not None and loaded.is_superseded
    if table is not None and not is_superseded:
        is_shown = show_files(load, table=table, catalog=catalog)
        is_superseded = target is Target.EXTERNAL and not is_shown
    return StageResult(
        counts=loaded.counts if loaded is not None and not is_superseded else {},
        manifest=_manifest(load, loaded),
        is_superseded=is_superseded,
    )


def native_load(assignment: Assignment) -> NativeLoad:
    """Return what the warehouse has to know of an assignment."""
    batch = assignment.batch
    return NativeLoad(
        batch_id=batch.id,
        slot=batch.slot,
        window=batch.window,
        as_of=batch.as_of,
        contract=assignment.contract,
        contract_version=batch.contract_version,
        attempt=assignment.attempt.number,
        files=assignment.files,
        is_approved=batch.is_approved,
        same_key_versions=assignment.sweep.versions if assignment.sweep else (),
    )


def show_files(load: NativeLoad, *, table: ExternalTable, catalog: LakeCatalog) -> bool:
    """
    Let readers of the lake see the committed files of a batch; False if they see a newer snapshot.

    Repeating it is harmless: so a catalog that lost its memory is filled again from the ledger.
    """
    if load.contract.publishing.mode is PublishMode.REPLACE:
        refuse_empty_replace(load)
        is_shown = catalog.put_snapshot(table, external_batch(load))
    else:
        catalog.put_partition(table, external_batch(load))
        is_shown = True
    log.info("external_table_updated", table=target_of(load), is_shown=is_shown)
    return is_shown


def external_batch(load: NativeLoad) -> ExternalBatch:
    """
    Return a batch as the lake shows it: the one folder of its committed files.

    Raises:
        ValueError: if its files do not lie in one folder of ours.
    """
    folder, day = _folder_of(load)
    return ExternalBatch(
        batch_id=load.batch_id,
        day=day,
        window_end=load.as_of,
        folder=folder,
        record_count=load.record_count,
        attempt=load.attempt,
    )


def external_table_of(assignment: Assignment) -> ExternalTable:
    """Return the external table of an assignment's contract."""
    table = external_table(
        assignment.contract,
        contract_version=assignment.batch.contract_version,
        bucket=assignment.batch.bucket,
    )
    own = sum(file.record_count for file in assignment.files)
    return replace(table, record_count=assignment.published_row_count + own)


def _folder_of(load: NativeLoad) -> tuple[Location, str]:
    folders = set()
    for file in load.files:
        match = _FINAL_FOLDER.fullmatch(file.location.key)
        if match is None:
            raise ValueError(f"{file.location}: expected a key final/<table>/day=…/batch=…/a…/<file>")
        folders.add((Location(file.location.bucket, match["folder"]), match["day"]))
    if len(folders) != 1:
        raise ValueError(f"batch {load.batch_id}: expected files in one folder, found {len(folders)} folders")
    return folders.pop()


def _manifest(load: NativeLoad, loaded: LoadResult | PruneResult | None) -> dict[str, object]:
    """Return what was published, for the ledger."""
    return {
        "manifest_sha256": load.manifest_sha256,
        "record_count": load.record_count,
        "files": [
            {
                "location": str(file.location),
                "record_count": file.record_count,
                "file_size_in_bytes": file.file_size_in_bytes,
                "sha256": file.sha256,
            }
            for file in load.files
        ],
        "target": str(load.contract.publishing.target),
        "mode": str(load.contract.publishing.mode),
        "was_loaded_before": loaded is not None and loaded.was_loaded_before,
    }
