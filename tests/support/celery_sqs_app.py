"""
The wiring of a small service, as `services/extractor/app.py` holds one.

Run as `python -m support.celery_sqs_app`, with QUEUE_URL, JOURNAL and MAX_ATTEMPTS in the environment.
"""

import os
import sys

from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, run_worker
from shared.telemetry.logs import configure_logging


def main() -> int:
    configure_logging("test-extractor")
    app = make_worker_app(
        "test-extractor",
        queue=WorkerQueue("extract", os.environ["QUEUE_URL"]),
        settings=WorkerSettings(),
        task_modules=["support.celery_sqs_tasks"],
    )
    return run_worker(app, max_attempts=int(os.environ["MAX_ATTEMPTS"]), require_ledger=lambda: None)


if __name__ == "__main__":
    sys.exit(main())
