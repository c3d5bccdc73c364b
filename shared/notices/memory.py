"""A notifier in memory, for tests: it keeps what it was given, or is away."""

from dataclasses import dataclass, field

from shared.errors import EsclusaError
from shared.ports import Notice


@dataclass(slots=True)
class MemoryNotifier:
    """`Notifier` that remembers."""

    notices: list[Notice] = field(default_factory=list)
    #: Raised in place of taking a notice.
    error: EsclusaError | None = None

    def notify(self, notice: Notice) -> None:
        """Keep a notice; see `Notifier`."""
        if self.error is not None:
            raise self.error
        self.notices.append(notice)
