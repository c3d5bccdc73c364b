"""What lies in the buckets and the ledger does not name. Each judgement reads, locks nothing, and changes nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, auto

from lambdas.gate import foreign_file
from lambdas.sweeper.actions import Action, ActionKind, told
from lambdas.sweeper.limits import SweepLimits
from shared import lifecycle
from shared.compactions import file_of
from shared.domain.batches import STATES_AT_REST
from shared.domain.compactions import CompactionState
from shared.domain.files import (
    Area,
    DataFile,
    Location,
    ParsedKey,
    compaction_of_key,
    key_before_quarantine,
)
from shared.ports import Ledger, LedgerTransaction, ObjectInfo, OpenUpload


@dataclass(frozen=True, slots=True)
class Graces:
    """From when on nothing is judged yet: objects and uploads younger than this are left alone."""

    strays: datetime
    uploads: datetime
    foreign: datetime

    @classmethod
    def now(cls, ledger: Ledger, limits: SweepLimits) -> "Graces":
        """Return them by the ledger's clock."""
        with ledger.transaction() as tx:
            now = tx.now()
        return cls(now - limits.stray_after, now - limits.upload_after, now - limits.foreign_after)

    @property
    def latest(self) -> datetime:
        """The moment after which no object is looked at."""
        return max(self.strays, self.foreign)


def judge_upload(upload: OpenUpload, *, graces: Graces, ledger: Ledger) -> Action | None:
    """Say what is to be done about an upload that is open."""
    if upload.initiated_at >= graces.uploads:
        return None
    with ledger.transaction() as tx:
        origin, writer = _origin_of(tx, upload.location)
    if origin is _Origin.LIVE_ATTEMPT:
        return None
    kind = ActionKind.LEAVE_UNKNOWN if origin is _Origin.UNKNOWN_ATTEMPT else ActionKind.ABORT_UPLOAD
    return Action(kind, upload, f"begun {told(upload.initiated_at)} {writer}")


def without_settled(
    bucket: str, page: Sequence[ObjectInfo], *, graces: Graces, ledger: Ledger
) -> list[ObjectInfo]:
    """
    Leave out the objects that the ledger knows and asks nothing about: nearly all.

    Asked for one by one, those of a `final/` of some ten thousand files would outlast the Lambda, and what lies
    behind them would never be reached.
    """
    old = [info for info in page if info.last_modified < graces.latest]
    # No text of PostgreSQL holds a NUL.
    keys = [info.location.key for info in old if "\0" not in info.location.key]
    if not old:
        return []
    with ledger.transaction() as tx:
        settled = {file.location for file in tx.files_at(bucket, keys) if _is_settled(file, graces=graces)}
    return [info for info in old if info.location not in settled]


def _is_settled(file: DataFile, *, graces: Graces) -> bool:
    """Whether a file is where the ledger says, and nobody need be told of it."""
    if file.deleted_at is not None:
        return False
    if not file.is_foreign or file.area is Area.QUARANTINE:
        return True
    return file.checked_at is not None and file.checked_at >= graces.foreign


def judge_object(info: ObjectInfo, area: Area, *, graces: Graces, ledger: Ledger) -> Action | None:
    """Say what is to be done about an object that is not settled."""
    with ledger.transaction() as tx:
        file = tx.file(info.location)
        if file is not None and file.deleted_at is None:
            if _is_settled(file, graces=graces):
                return None  # recorded since
            return Action(ActionKind.SET_ASIDE, file, "to be set aside, and it still lies there")
        origin, writer = _origin_of(tx, info.location)
        written = f"written {told(info.last_modified)} {writer}"
        match origin:
            case _Origin.DEAD_ATTEMPT if info.last_modified < graces.strays:
                return Action(ActionKind.DELETE_STRAY, info.location, written)
            case _Origin.UNKNOWN_ATTEMPT if info.last_modified < graces.strays:
                return Action(ActionKind.LEAVE_UNKNOWN, info.location, written)
            case _Origin.FOREIGN if info.last_modified < graces.foreign:
                if area is Area.QUARANTINE:
                    return Action(ActionKind.ADOPT, _set_aside_file(tx, info), f"{written}, not recorded")
                return Action(ActionKind.SET_ASIDE, foreign_file(info, area=area), written)
            case _:
                return None


def _set_aside_file(tx: LedgerTransaction, info: ObjectInfo) -> DataFile:
    """Return what the ledger should know of an object that a cleaner set aside, and died before it said so."""
    unknown = foreign_file(info, area=Area.QUARANTINE)
    key = key_before_quarantine(info.location.key)
    original = tx.file(Location(info.location.bucket, key)) if key else None
    if original is None:
        return unknown
    # Its bytes need not be those of the original: that may be why it was refused.
    return replace(
        original,
        location=info.location,
        file_size_in_bytes=info.file_size_in_bytes,
        sha256=original.sha256 if info.location.key.endswith("@" + original.sha256[:16]) else "",
    )


class _Origin(Enum):
    #: An attempt that still speaks for its batch, or a gate at work: it will be recorded, or die.
    LIVE_ATTEMPT = auto()
    #: An attempt that ended, or a copy that was deleted and came back.
    DEAD_ATTEMPT = auto()
    #: Somebody who makes keys as we do, for an attempt that this ledger never began. The ledger was restored from an
    #: old backup, or is another fleet's: it knows too little to have anything taken away.
    UNKNOWN_ATTEMPT = auto()
    #: Nobody of ours.
    FOREIGN = auto()


def _origin_of(tx: LedgerTransaction, location: Location) -> tuple[_Origin, str]:
    """Say who wrote, or writes, an object that the ledger does not name, also in words."""
    if (compaction_id := compaction_of_key(location.key)) is not None:
        return _origin_by_compaction(tx, compaction_id, location)
    parsed = ParsedKey.of(location.key)
    if parsed is None or parsed.attempt < 1:
        return _Origin.FOREIGN, "by nobody of ours"
    batch = tx.batch(parsed.batch_id)
    if batch is None:
        return _Origin.UNKNOWN_ATTEMPT, f"for batch {parsed.batch_id}, which the ledger does not know"
    if batch.bucket != location.bucket:
        return _Origin.FOREIGN, f"by nobody of ours: batch {batch.id} is at home in {batch.bucket}"
    stage = lifecycle.writer_of_key(parsed)
    latest = batch.attempt_number(stage)
    writer = f"by {stage} attempt {parsed.attempt} of batch {batch.id}"
    if parsed.attempt > latest:
        return _Origin.UNKNOWN_ATTEMPT, f"{writer}, of which the ledger knows {latest}"
    if parsed.attempt < latest:
        return _Origin.DEAD_ATTEMPT, f"{writer}; attempt {latest} came after it"
    if batch.state in STATES_AT_REST:
        return _Origin.DEAD_ATTEMPT, f"{writer}, which is {batch.state}"
    return _Origin.LIVE_ATTEMPT, writer


def _origin_by_compaction(
    tx: LedgerTransaction, compaction_id: str, location: Location
) -> tuple[_Origin, str]:
    compaction = tx.compaction(compaction_id)
    if compaction is None:
        return _Origin.UNKNOWN_ATTEMPT, f"for compaction {compaction_id}, which the ledger does not know"
    if location != file_of(compaction):
        return _Origin.FOREIGN, f"by nobody of ours: compaction {compaction.id} writes {file_of(compaction)}"
    writer = f"by compaction {compaction.id} of {compaction.source}.{compaction.table}"
    if compaction.state is CompactionState.WRITING and tx.now() < compaction.lease_until:
        return _Origin.LIVE_ATTEMPT, writer
    return _Origin.DEAD_ATTEMPT, f"{writer}, which is {compaction.state}"
