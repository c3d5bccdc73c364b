"""
The wiring of a worker whose work is small and whose ledger is real: for tests of what a worker tells of itself.

Run as `python -m support.metered_app`, with QUEUE_URL and the settings of a fleet in the environment.
"""

import os
import sys

from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, run_worker
from shared.telemetry.logs import configure_logging


def main() -> int:
    configure_logging("metered")
    app = make_worker_app(
        "metered",
        queue=WorkerQueue("extract", os.environ["QUEUE_URL"]),
        settings=WorkerSettings(),
        task_modules=["support.metered_tasks"],
    )
    return run_worker(app, max_attempts=1, require_ledger=lambda: None)


if __name__ == "__main__":
    sys.exit(main())
