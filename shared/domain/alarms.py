"""What people are told of without asking: a closed list of alarms, raised once and resolved by themselves."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class AlarmKind(StrEnum):
    """A slug that stands in the ledger, in log events, in metrics and in notices."""

    #: The rows of a table are not published by the time they are expected, or nothing of it was ever planned.
    TABLE_LATE = "table_late"
    #: A batch is quarantined or failed, and waits for a person.
    BATCH_HELD = "batch_held"
    #: A queue has dead letters.
    DEAD_LETTERS = "dead_letters"
    #: The breaker of a source is open: its last attempts all failed.
    SOURCE_FAILING = "source_failing"
    #: Messages of the outbox do not leave.
    OUTBOX_STUCK = "outbox_stuck"
    #: Source and warehouse, or what lies between, do not hold the same rows.
    PROOF_DIFFERS = "proof_differs"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One condition that somebody has to look at. The condition has one open alarm at most."""

    kind: AlarmKind
    #: What it is about: `shop.orders`, a batch's id, a queue, a source.
    subject: str
    raised_at: datetime
    #: What was found and what to do, in a sentence.
    detail: str
    #: When the condition was found to be gone; None while it lasts.
    resolved_at: datetime | None = None
    #: When somebody was told that it was raised, and that it was resolved; None until a notice left.
    raise_told_at: datetime | None = None
    resolve_told_at: datetime | None = None
