"""Doing the same again and again, as cron would, until SIGTERM."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta

from cli.output import remark, tell_error
from shared.errors import EsclusaError
from shared.liveness import show_life


def repeat(work: Callable[[], object], *, every: timedelta, stopped: threading.Event | None = None) -> None:
    """
    Do something at once and then in a rhythm, until SIGTERM, or until somebody else sets `stopped`.

    What fails is told, and done again when its time comes: whoever is away now may be back then. What takes longer
    than the rhythm is followed at once by the next, never by two.
    """
    stopped = stopped or threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    while not stopped.is_set():
        due_at = time.monotonic() + every.total_seconds()
        try:
            work()
        except EsclusaError as error:
            tell_error(error)
        while True:
            show_life()
            if stopped.wait(min(1.0, max(0.0, due_at - time.monotonic()))) or time.monotonic() >= due_at:
                break
    remark("stopped")
