"""Start a worker, and stop it so that no message waits for a dead one."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import billiard
import structlog
from celery import Celery
from celery.apps.worker import Worker, install_worker_term_handler
from celery.signals import worker_shutting_down

from shared.celery_sqs.interruption import INTERRUPTION_SECONDS, interrupt
from shared.celery_sqs.pool import ProcessPool
from shared.celery_sqs.queue import SqsQueue
from shared.celery_sqs.settings import WorkerSettings
from shared.celery_sqs.telemetry import metrics_served
from shared.errors import Unavailable

log = structlog.get_logger()

_START_RETRY_SECONDS = 5.0

_Answer = TypeVar("_Answer")


def run_worker(app: Celery, *, max_attempts: int, require_ledger: Callable[[], None]) -> int:
    """
    Serve the app's queue until SIGTERM; return the exit code of the process.

    `max_attempts`: how often the ledger lets a batch be tried. A queue that gives up sooner is warned of.
    `require_ledger`: raises if the ledger's tables do not fit this version. Asked before the first message is received.

    On SIGTERM nothing more is received, running tasks get `soft_shutdown_seconds` to end, the rest is interrupted
    and, if it does not hear, killed, and every message still in hand is given back at once.

    Raises:
        ConfigurationError: if the queue has no dead letters, does not exist, or may not be read, or the ledger does
            not fit.
    """
    options = app.conf.broker_transport_options
    with metrics_served(options["settings"], queue=options["queue"].name):
        return _serve(app, max_attempts=max_attempts, require_ledger=require_ledger)


def _serve(app: Celery, *, max_attempts: int, require_ledger: Callable[[], None]) -> int:
    options = app.conf.broker_transport_options
    settings: WorkerSettings = options["settings"]
    _once_available(require_ledger, settings=settings, event="ledger_unavailable")
    queue = SqsQueue(options["queue"], settings)
    max_receive_count = _once_available(queue.max_receive_count, settings=settings, event="queue_unavailable")
    log.info("worker_starting", worker=app.main, queue=queue.queue.name, max_receive_count=max_receive_count)
    if max_receive_count <= max_attempts:
        # Nothing is lost: the sweeper sends batches whose message died a new one. But people are called to dead
        # letters of batches that are well, and attempts wait for the sweeper. One more than the attempts, for a
        # delivery that was given back by a worker that stopped.
        log.warning(
            "max_receive_count_too_low",
            queue=queue.queue.name,
            max_receive_count=max_receive_count,
            expected=f"more than {max_attempts} (ESCLUSA_MAX_ATTEMPTS)",
        )
    stop = _SoftStop(soft_shutdown_seconds=settings.soft_shutdown_seconds)
    worker_shutting_down.connect(stop.begin)
    worker = _QuietWorker(
        app=app,
        hostname=f"{app.main}@{socket.gethostname()}",
        queues=[queue.queue.name],
        pool=ProcessPool,
        loglevel=logging.INFO,
        quiet=True,  # no banner
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    log.info("worker_stopped", worker=app.main, queue=queue.queue.name)
    return worker.exitcode or 0


def _once_available(ask: Callable[[], _Answer], *, settings: WorkerSettings, event: str) -> _Answer:
    # What it asks may be away when a worker starts, as it may be later.
    while True:
        settings.touch_alive_file()
        try:
            return ask()
        except Unavailable as error:
            log.warning(event, error=str(error), pause_seconds=_START_RETRY_SECONDS)
            time.sleep(_START_RETRY_SECONDS)


class _QuietWorker(Worker):  # type: ignore[misc]  # Celery has no types
    def install_platform_tweaks(self, worker: Worker) -> None:
        super().install_platform_tweaks(worker)
        # Anew, without the line that it prints past all logs on SIGTERM.
        install_worker_term_handler(worker, verbose=False)


class _SoftStop:
    """
    Bounds Celery's warm shutdown, which waits for running tasks for ever.

    Celery's own soft shutdown does not fit: it wants REMAP_SIGTERM in the environment before the first import,
    always waits its full time, and asks children to end by SIGTERM, which a long call into C does not hear.
    """

    def __init__(self, *, soft_shutdown_seconds: float) -> None:
        self._soft_shutdown_seconds = soft_shutdown_seconds
        self._begun = threading.Event()
        # Started now, not in the signal handler: starting a thread takes locks that the interrupted code may
        # hold. A daemon: a worker whose tasks end in time exits without waiting for it.
        threading.Thread(target=self._end_late_children, name="soft-stop", daemon=True).start()

    def begin(self, **_: Any) -> None:
        """Start the clock. Called in the signal handler, once for each signal."""
        self._begun.set()

    def _end_late_children(self) -> None:
        self._begun.wait()
        time.sleep(self._soft_shutdown_seconds)
        for child in billiard.active_children():
            log.warning("task_interrupted", pid=child.pid)
            interrupt(child.pid)
        time.sleep(INTERRUPTION_SECONDS)
        for child in billiard.active_children():
            log.warning("task_process_killed", pid=child.pid)
            os.kill(child.pid, signal.SIGKILL)
