"""What reconciliation found: whether source, CSV, Parquet and warehouse hold the same rows of a window."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from shared.domain.windows import Extent, Window


@dataclass(frozen=True, slots=True)
class Proof:
    """One comparison of one window of one table."""

    source: str
    table: str
    window: Window
    proved_at: datetime
    is_equal: bool
    #: The first difference, in a sentence without values; empty if there is none.
    detail: str = ""
    #: What each side showed: counts and checksums, JSON values only.
    sides: Mapping[str, object] = field(default_factory=dict)
    #: Which part of the window it is of; None: all of it.
    extent: Extent | None = None
