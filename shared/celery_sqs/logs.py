"""The logs of a worker: one form for the main process, its children, Celery and the tasks."""

import logging
from typing import Any

from billiard.util import get_logger
from celery.app.log import Logging

from shared.telemetry.logs import configure_logging


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
