"""
What a worker measures and traces: the main process shows what all its processes count, the children trace.

At import, like `shared.celery_sqs.interruption`: a child that is spawned imports this package to read its settings.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from billiard.process import current_process
from celery import current_app
from celery.signals import worker_process_init, worker_process_shutdown

from shared.celery_sqs.settings import WorkerSettings
from shared.telemetry.metric_list import TASKS_LOST
from shared.telemetry.metrics import record
from shared.telemetry.prometheus import DIRECTORY_VARIABLE, record_in_files, serve_processes
from shared.telemetry.tracing import configure_tracing, flush_spans

log = structlog.get_logger()


@contextmanager
def metrics_served(settings: WorkerSettings, *, queue: str) -> Iterator[None]:
    """Show the metrics of this process and those it spawns during the block, if the settings ask for it."""
    # Not of whoever started this process: its children would count where nobody looks.
    os.environ.pop(DIRECTORY_VARIABLE, None)
    if settings.metrics_port == 0:
        yield
        return
    server = serve_processes(
        settings.metrics_address, settings.metrics_port, directory=settings.metrics_directory
    )
    # From nothing on: of a counter that begins with its first event Prometheus sees no increase.
    record(TASKS_LOST, 0, queue=queue)
    try:
        yield
    finally:
        if server is not None:
            server.close()
            shutil.rmtree(Path(os.environ[DIRECTORY_VARIABLE]), ignore_errors=True)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def _begin(**_: object) -> None:
    configure_tracing(current_app.main)
    if DIRECTORY_VARIABLE not in os.environ:
        return
    try:
        record_in_files(f"child-{current_process().index}")
    except OSError as error:
        # What it does counts, also where nobody counts it.
        log.warning("metrics_not_kept", error=f"{type(error).__name__}: {error}")


@worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def _end(**_: object) -> None:
    flush_spans()
