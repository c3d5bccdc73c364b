"""Processes as threads of which only one runs at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

from shared.domain.batches import Attempt


class Actor:
    """One process at work on one thing. `step` lets it run up to the next point where it hands control back."""

    def __init__(self, name: str, work: Callable[[], object], *, on_end: Callable[[Actor], None]) -> None:
        self.name = name
        self.failure: BaseException | None = None
        self.is_done = False
        #: Killed: whatever its handlers still try does not happen.
        self.is_dead = False
        self.wake_at: datetime | None = None
        #: What its heartbeat renews.
        self.attempt: Attempt | None = None
        self._work = work
        self._on_end = on_end
        self._thread: _Thread | None = None

    def step(self) -> None:
        """Run the actor; called by the world."""
        if self._thread is None:
            self._thread = _Thread.free.pop() if _Thread.free else _Thread()
            self._thread.actor = self
        thread = self._thread
        thread.go.release()
        thread.paused.acquire()
        if self.is_done:
            self._thread = None
            _Thread.free.append(thread)
            self._on_end(self)

    def pause(self) -> None:
        """Hand control back; called by the actor itself."""
        thread = self._thread
        assert thread is not None
        thread.paused.release()
        thread.go.acquire()

    def run(self) -> None:
        """Do the whole work; called by its thread."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001  whatever ends an actor is looked at by the schedule
            self.failure = error
        self.is_done = True


class _Thread:
    """A thread that runs one actor after the other: to begin a thread costs more than a whole small work."""

    free: list[_Thread] = []  # noqa: RUF012  one pool for all worlds of a process

    def __init__(self) -> None:
        self.actor: Actor | None = None
        # Locks that the one side takes and the other releases: half the time of semaphores, which is most of all.
        self.go: Any = threading.Lock()
        self.paused: Any = threading.Lock()
        self.go.acquire()
        self.paused.acquire()
        threading.Thread(target=self._run, name="actor", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.go.acquire()
            assert self.actor is not None
            self.actor.run()
            self.paused.release()
