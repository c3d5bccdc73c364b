"""How many rows the source had of what a batch has read, counted again after it was published."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Recount:
    """The last count of what one batch reads."""

    batch_id: str
    counted_at: datetime
    #: Of the window as it was read, from its start less the overlap.
    row_count: int
