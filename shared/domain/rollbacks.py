"""A table that was led back to an earlier state, and forward again."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Rollback:
    """One step of a table, back or forward. Rows of the ledger are added; only the moments of the end are set later."""

    #: `r` and 24 hexadecimal digits.
    id: str
    source: str
    table: str
    #: The last batch, by its publishing, that the table has; None: all of them, which is the way forward.
    last_batch_id: str | None
    #: The batches that are not in the table.
    withdrawn_batch_ids: tuple[str, ...]
    begun_at: datetime
    #: Who asked for it, and why.
    actor: str
    detail: str = ""
    #: When warehouse and catalog were brought there; None as long as they are not.
    done_at: datetime | None = None

    @property
    def is_forward(self) -> bool:
        """Whether it ends an earlier one."""
        return self.last_batch_id is None
