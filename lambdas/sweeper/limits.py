"""How patient a sweep is, and how much it does at once."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class SweepLimits:
    """
    The grace of each thing that a sweep may find, and the most that it does.

    The ledger's clock decides: a moment that the store gives (when an object was written, an upload begun) is
    compared with the ledger's now. A skew between the two makes a grace longer or shorter by as much, and no more:
    a grace only keeps work from being done too early. What belongs to an attempt that may still record it is
    told by the ledger alone, however old it looks.
    """

    #: A batch that nobody moved for so long is woken; the second time after twice that, and so on.
    wake_after: timedelta = timedelta(seconds=60)
    #: A batch whose copies may go since so long is sent to the cleaner again.
    clean_after: timedelta = timedelta(seconds=60)
    #: Objects that an attempt left which ended are deleted after so long.
    stray_after: timedelta = timedelta(hours=2)
    #: Uploads that nobody will complete are aborted after so long.
    upload_after: timedelta = timedelta(hours=2)
    #: Objects that nobody of ours wrote are set aside after so long. After as long again, one that was to be set
    #: aside and still lies there is told anew.
    foreign_after: timedelta = timedelta(hours=2)
    #: The rule of the buckets deletes what lies in `quarantine/` after so long.
    quarantine_kept: timedelta = timedelta(days=90)
    #: The most batches, leases or files that one step takes from the ledger.
    step_limit: int = 1_000
    #: The most objects and uploads that one run takes away. More at once is the sign of a wrong ledger, not of work.
    delete_limit: int = 1_000
