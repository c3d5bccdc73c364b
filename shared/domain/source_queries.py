"""A SELECT that stands in a source file in the place of a table, and the values that are bound in it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Placeholder(StrEnum):
    """What a query may name after a colon. Each is a value of the cursor's own type."""

    #: No row of the batch lies before it; the first of all values if the batch reads from the beginning.
    WINDOW_START = "window_start"
    #: Every row of the batch lies before it; the last of all values if the whole table is read.
    WINDOW_END = "window_end"


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """
    One SELECT, cut where its placeholders stand: a value is bound there and never becomes part of a text.

    What it gives is read like a table: the window's own conditions stand around it, whether or not it names them.
    """

    #: One more than there are placeholders.
    pieces: tuple[str, ...]
    placeholders: tuple[Placeholder, ...] = ()
    #: The source's own word for the type of the cursor's column; empty without placeholders.
    bound_type: str = ""

    @property
    def text(self) -> str:
        """The query as it stands in the source file."""
        return self.written(lambda placeholder: f":{placeholder}")

    def written(self, written: Callable[[Placeholder], str]) -> str:
        """
        Return the query with something in the place of each placeholder.

        >>> SourceQuery(("SELECT 1 WHERE 2 < ", ""), (Placeholder.WINDOW_END,)).written(lambda _: "?")
        'SELECT 1 WHERE 2 < ?'
        """
        first, *others = self.pieces
        return first + "".join(
            written(placeholder) + piece for placeholder, piece in zip(self.placeholders, others, strict=True)
        )
