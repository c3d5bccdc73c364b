"""What a sweep did, or would do, and what it did not get to."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from lambdas.sweeper.actions import Action, ActionKind
from lambdas.sweeper.in_ledger import LONG_WAIT_WAKE_COUNT
from shared.domain.batches import Batch


class SweepPart(StrEnum):
    """The parts of a sweep, and the locks in the ledger under which each is done by one process at a time."""

    #: The ledger, open uploads, `tmp/`, `input/` and `processing/`: every minute.
    EVERYDAY = "sweep"
    #: `final/` and `quarantine/`, which are long: now and then. It may take its time: nothing urgent waits for it.
    DEEP = "sweep-deep"


@dataclass(frozen=True, slots=True)
class NotReached:
    """What a sweep had no time for, or did not look at because its delete limit was reached."""

    #: An area such as `s3://bucket/final/`, the uploads of a bucket, or the kind of an action.
    where: str
    #: The key up to which it came; empty if it did not begin.
    after: str = ""


@dataclass(slots=True)
class SweepReport:
    """What a sweep came to. In a dry run: what it would have come to."""

    is_dry_run: bool = False
    #: In their order; of each kind only as many as the limits let one run do. `counts` has all.
    actions: list[Action] = field(default_factory=list)
    counts: Counter[ActionKind] = field(default_factory=Counter)
    #: Parts that another process was at.
    skipped: list[SweepPart] = field(default_factory=list)
    #: Areas that were searched to their end, such as `s3://bucket/final/`.
    finished: list[str] = field(default_factory=list)
    not_reached: list[NotReached] = field(default_factory=list)
    #: Buckets that did not answer, and what was said instead.
    buckets_not_swept: dict[str, str] = field(default_factory=dict)
    #: Objects whose judgement raised: a key that no ledger holds, say.
    objects_not_judged: list[str] = field(default_factory=list)
    #: More was found to take away than one run may: the rest was left.
    is_delete_limit_reached: bool = False

    @property
    def is_worrying(self) -> bool:
        """Whether a person should look at it."""
        return bool(
            self.is_delete_limit_reached
            or self.counts[ActionKind.LEAVE_UNKNOWN]
            or self.buckets_not_swept
            or self.objects_not_judged
        )

    @property
    def waiting_long(self) -> list[Batch]:
        """Batches that were woken again and again, and did not move."""
        return [
            action.target
            for action in self.actions
            if action.kind is ActionKind.WAKE_BATCH
            and isinstance(action.target, Batch)
            and action.target.wake_count >= LONG_WAIT_WAKE_COUNT
        ]

    def document(self) -> dict[str, object]:
        """Return it as JSON tells it, without the single actions."""
        return {
            "is_dry_run": self.is_dry_run,
            "is_delete_limit_reached": self.is_delete_limit_reached,
            "counts": {str(kind): count for kind, count in self.counts.items() if count},
            "waiting_long": [batch.id for batch in self.waiting_long],
            "skipped": [str(part) for part in self.skipped],
            "not_reached": [{"where": item.where, "after": item.after} for item in self.not_reached],
            "buckets_not_swept": dict(self.buckets_not_swept),
            "objects_not_judged": list(self.objects_not_judged),
        }
