"""
What a sweep can find to do: the closed list. Each action says what it is done to, and why.

Finding changes nothing; who carries an action out looks into the ledger again.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from shared.domain.batches import Attempt, Batch
from shared.domain.compactions import Compaction
from shared.domain.files import DataFile, Location
from shared.ports import OpenUpload


class ActionKind(StrEnum):
    """A slug that stands in reports, log events and JSON."""

    #: Free a batch whose attempt outlived its lease.
    EXPIRE_LEASE = "expire_lease"
    #: Send the messages of the state a batch waits in once more.
    WAKE_BATCH = "wake_batch"
    #: Give free places at a source to batches that wait for one.
    START_DEFERRED = "start_deferred"
    #: Have the cleaner look at a batch whose copies may go.
    CLEAN_BATCH = "clean_batch"
    #: Send what the outbox holds.
    SEND_MESSAGES = "send_messages"
    #: Record that an object is gone: the rule of its bucket deleted it from `quarantine/`, or a cleaner that died
    #: before it said so had set it aside.
    RECORD_EXPIRED = "record_expired"
    #: Abort an upload that nobody will complete.
    ABORT_UPLOAD = "abort_upload"
    #: Delete an object that an attempt left which ended.
    DELETE_STRAY = "delete_stray"
    #: Delete the files that nobody reads any more because of a compaction.
    DELETE_REPLACED = "delete_replaced"
    #: Have an object set aside that nobody of ours wrote.
    SET_ASIDE = "set_aside"
    #: Record an object of `quarantine/` that the ledger does not know.
    ADOPT = "adopt"
    #: Nothing but tell of it: a writer of ours made the object, for an attempt that this ledger never began.
    LEAVE_UNKNOWN = "leave_unknown"


#: What makes an object or upload go from where it lies. `SweepLimits.delete_limit` bounds it.
TAKES_AWAY = frozenset(
    {ActionKind.ABORT_UPLOAD, ActionKind.DELETE_STRAY, ActionKind.DELETE_REPLACED, ActionKind.SET_ASIDE}
)


Target: TypeAlias = Attempt | Batch | Compaction | DataFile | OpenUpload | Location | str


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do, to one thing, for one reason."""

    kind: ActionKind
    #: A text names a source, or the outbox.
    target: Target
    because: str

    @property
    def subject(self) -> str:
        """What people know the target by: a batch's id, where an object lies, a source."""
        match self.target:
            case Attempt(batch_id=subject) | Batch(id=subject) | Compaction(id=subject):
                return subject
            case DataFile(location=location) | OpenUpload(location=location):
                return str(location)
            case target:
                return str(target)


def told(moment: datetime) -> str:
    """Return a moment in UTC as reasons tell it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
