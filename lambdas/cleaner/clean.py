"""
The cleaner: the only part that deletes.

Everything it does can be done again: a copy into quarantine is written once, a delete of what is gone is no
error, and only then does the ledger say that the object is gone.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

import structlog

from lambdas.subject import about
from shared import lifecycle
from shared.domain.batches import HELD_STATES, Batch, Stage
from shared.domain.files import (
    TRANSIENT_AREAS,
    Area,
    DataFile,
    FileStatus,
    Location,
    quarantine_key,
)
from shared.domain.traces import TraceParent
from shared.messages import CleanBatch, CleanMessage
from shared.ports import Ledger, ObjectStore
from shared.telemetry.metric_list import OBJECTS_DELETED
from shared.telemetry.metrics import record

log = structlog.get_logger()

#: An object is read once to know its bytes, and copied in one request. A Lambda of 512 MB reads about 50 MB a
#: second, and ours has a minute; one copy carries 5 GiB. No writer of ours makes an object as large as this.
MAX_SIZE_SET_ASIDE_IN_BYTES: Final = 1024**3

_DELETES_PER_RECORD: Final = 100


def clean(
    message: CleanMessage, *, ledger: Ledger, store: ObjectStore, trace: TraceParent | None = None
) -> int:
    """
    Do what one message asks and return how many objects were deleted.

    Raises:
        Unavailable: if ledger or store do not answer; the message must come back.
    """
    if isinstance(message, CleanBatch):
        deleted = clean_batch(message.batch_id, ledger=ledger, store=store, trace=trace)
    else:
        deleted = set_foreign_aside(message.location, ledger=ledger, store=store)
    if deleted:
        record(OBJECTS_DELETED, deleted)
    return deleted


def clean_batch(
    batch_id: str, *, ledger: Ledger, store: ObjectStore, trace: TraceParent | None = None
) -> int:
    """
    Delete what a batch no longer needs.

    Of a held batch, what somebody may want to look into is set aside first; what is too large for that stays. What
    goes without a trace goes before it: a cleaner that takes up the work of a dead one finds the same to keep.
    """
    with ledger.transaction() as tx:
        batch = tx.batch(batch_id)
        files = lifecycle.leftovers(tx, batch) if batch else []
    if batch is None or not files:
        return 0
    with about(batch, stage="clean", attempt=batch.latest_attempt_number, hint=trace):
        worth_keeping = _worth_keeping(batch, files) if batch.state in HELD_STATES else []
        kept = {file.location for file in worth_keeping}
        deleted = _delete([file for file in files if file.location not in kept], ledger=ledger, store=store)
        for file in worth_keeping:
            if _set_aside(file, ledger=ledger, store=store):
                deleted += _delete([file], ledger=ledger, store=store)
        log.info("batch_cleaned", object_count=deleted)
    return deleted


def _delete(files: Sequence[DataFile], *, ledger: Ledger, store: ObjectStore) -> int:
    """Delete files and record it every so often: of thousands a Lambda manages some, and the next one the rest."""
    rest = iter(files)
    while some := list(islice(rest, _DELETES_PER_RECORD)):
        for file in some:
            store.delete(file.location)
        with ledger.transaction() as tx:
            for file in some:
                lifecycle.record_deleted(tx, file.location)
    return len(files)


def set_foreign_aside(location: Location, *, ledger: Ledger, store: ObjectStore) -> int:
    """Move an object into quarantine, if the ledger knows it as one that no attempt wrote."""
    with ledger.transaction() as tx:
        file = tx.file(location)
    if file is None or not file.is_foreign or file.deleted_at or file.area is Area.QUARANTINE:
        return 0
    if not _set_aside(file, ledger=ledger, store=store):
        return 0
    return _delete([file], ledger=ledger, store=store)


def _worth_keeping(batch: Batch, files: Sequence[DataFile]) -> list[DataFile]:
    """Return what a gate refused, and of each other part of the refused attempt the copy that went furthest."""
    refused = [file for file in files if file.status is FileStatus.INCORRECT]
    return refused + [file for file in _furthest_copies(batch, files) if file not in refused]


def _furthest_copies(batch: Batch, files: Sequence[DataFile]) -> list[DataFile]:
    """Return, for each part of the latest extract attempt, the copy that went furthest."""
    furthest: dict[int, DataFile] = {}
    order = {area: index for index, area in enumerate(TRANSIENT_AREAS)}
    for file in files:
        if file.area not in order or file.attempt != batch.attempt_number(Stage.EXTRACT):
            continue
        known = furthest.get(file.part)
        if known is None or order[file.area] > order[known.area]:
            furthest[file.part] = file
    return list(furthest.values())


def _set_aside(file: DataFile, *, ledger: Ledger, store: ObjectStore) -> bool:
    """Copy an object into quarantine; False if it is too large for that and has to stay where it is."""
    info = store.head(file.location)
    if info is None:
        return True  # done before, or taken away by somebody
    if info.file_size_in_bytes > MAX_SIZE_SET_ASIDE_IN_BYTES:
        log.error(
            "object_too_large_to_set_aside",
            location=str(file.location),
            file_size_in_bytes=info.file_size_in_bytes,
            limit_in_bytes=MAX_SIZE_SET_ASIDE_IN_BYTES,
        )
        return False
    # What lies there may not be what the ledger lists: that may be why it was refused.
    sha256 = store.sha256(file.location)
    target = Location(file.location.bucket, quarantine_key(file.location.key, sha256=sha256))
    store.copy(file.location, target, sha256=sha256)
    with ledger.transaction() as tx:
        size = info.file_size_in_bytes
        lifecycle.record_set_aside(tx, replace(file, location=target, file_size_in_bytes=size, sha256=sha256))
    return True
