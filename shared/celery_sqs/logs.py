"""The logs of a worker: one form for the main process, its children, Celery and the tasks."""

import logging
from collections.abc import Mapping
from typing import Any

from billiard.util import get_logger
from celery.app.log import Logging
from celery.signals import task_postrun, task_prerun

from shared.domain.traces import TraceParent
from shared.telemetry.logs import Ids, bind, configure_logging, let_go_of_ids


class ServiceLogging(Logging):  # type: ignore[misc]  # Celery has no types
    """Sets up our logs where Celery would set up its own: in the main process and in each spawned child."""

    def setup(self, *_: Any, **__: Any) -> bool:
        """Set up logging for this process, under the name of the app."""
        configure_logging(self.app.main)
        # billiard, which runs the children, cuts its logger off from all others.
        pool_logger = get_logger()
        pool_logger.propagate = True
        pool_logger.setLevel(logging.WARNING)
        return True


# From before a task's own code until after what Celery says of its end. `shared.stage` adds what the ledger knows.
@task_prerun.connect  # type: ignore[untyped-decorator]
def _begin(task: Any, kwargs: dict[str, str], **_: object) -> None:
    let_go_of_ids()
    bind(**message_ids(task.name, kwargs))


@task_postrun.connect  # type: ignore[untyped-decorator]
def _end(**_: object) -> None:
    let_go_of_ids()


def message_ids(task: str, kwargs: Mapping[str, str]) -> Ids:
    """Return what a message itself says of what it is about."""
    trace = TraceParent.parse(kwargs.get("traceparent"))
    return {
        "batch_id": kwargs.get("batch_id"),
        "stage": task.rpartition(".")[2],
        "trace_id": trace.trace_id if trace else None,
    }
