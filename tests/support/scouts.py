"""A scout that says what it was told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from shared.domain.contracts import TableContract
from shared.domain.windows import Window
from shared.planning import Counted


@dataclass(slots=True)
class ToldScout:
    """`shared.planning.Scout` of sources of which a test knows all."""

    clock: Callable[[], datetime]
    #: Since when a transaction that has written is open.
    open_since: Callable[[], datetime | None] = lambda: None
    #: The numbers that the counting cursor has now, smallest and largest.
    numbers: tuple[int, int] | None = None
    #: Where a first load is cut.
    cuts: Sequence[datetime] = field(default_factory=tuple)

    def counted(self, contract: TableContract) -> Counted:
        if self.numbers is None:
            return Counted(None, None, self.clock())
        return Counted(self.numbers[0], self.numbers[1] + 1, self.clock())

    def first_parts(self, contract: TableContract, whole: Window) -> Sequence[Window]:
        starts, stops = [whole.start, *self.cuts], [*self.cuts, whole.end]
        return [Window(start, stop) for start, stop in zip(starts, stops, strict=True)]
