"""
The pool of processes that run tasks, with locks that die with who holds them.

All processes of billiard's pool read tasks from one pipe and write results to another, each under a lock that is a
semaphore. An idle process waits for a task with the lock in its hand. Killed then, as the kernel does when memory runs
out, it takes the lock with it: no other process ever reads a task again, while the worker lives, receives, and keeps
what it received from all others. billiard 4.3.2, `billiard.queues.SimpleQueue`.
"""

import fcntl
import os
import tempfile
import weakref
from pathlib import Path
from types import TracebackType
from typing import Any

from billiard.pool import Pool
from celery.concurrency.prefork import TaskPool


class MortalLock:
    """
    A lock between processes that the kernel takes back from one that dies.

    It lies on a file, which every process opens for itself: what `flock` locks is held by the one opening, and gone
    with it. One thread of a process may use it. Looks like a lock of billiard as far as its pool looks.
    """

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="esclusa-pool-")
        os.close(descriptor)
        self._path = Path(name)
        self._descriptor: int | None = None
        # In the process that made it only: those that get it pickled are not its owners.
        weakref.finalize(self, self._path.unlink, missing_ok=True)

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:  # noqa: ARG002
        """Take the lock, or wait for it; `timeout` is not used by the pool."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX if block else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # What cleans /tmp deletes files that nobody touched for days; the next process would not find its lock.
        os.utime(self._descriptor)
        return True

    def release(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __getstate__(self) -> dict[str, Any]:
        # A child opens the file anew; an opening that was handed on would be one and the same lock.
        return {"_path": self._path, "_descriptor": None}


class _PoolOfMortals(Pool):  # type: ignore[misc]  # billiard has no types
    def _setup_queues(self) -> None:
        super()._setup_queues()
        self._inqueue._rlock = MortalLock()  # noqa: SLF001  it has no other door
        self._outqueue._wlock = MortalLock()  # noqa: SLF001


class ProcessPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's pool of processes, in which no process that dies stops the others."""

    BlockingPool = _PoolOfMortals
