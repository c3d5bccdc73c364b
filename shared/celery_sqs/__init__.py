"""
Celery workers on SQS that lose no message: nothing but a task's success deletes one.

A service builds its app and runs it, here `services/extractor/app.py`:

    def main() -> int:
        settings = WorkerSettings()
        app = make_worker_app(
            "extractor",
            queue=WorkerQueue("extract", url),
            settings=settings,
            task_modules=["services.extractor.tasks"],
        )
        return run_worker(
            app, max_attempts=fleet.max_attempts, require_ledger=partial(require_ledger, fleet)
        )

    if __name__ == "__main__":
        sys.exit(main())

and declares its task in `services/extractor/tasks.py`, without importing the app:

    @shared_task(name=EXTRACT_TASK)
    def extract(batch_id: str) -> None: ...

`python -m services.extractor.app` then starts one main process, which alone talks to SQS, and `concurrency`
child processes, which run the tasks. Children are spawned, not forked (Polars deadlocks after a fork): each is
a new interpreter that gets the app pickled (its name and configuration, nothing else) and imports
`task_modules` by name. It imports the module that was started, too, as `__mp_main__`: hence the guard at its
end. What a task needs (ledger, store) is made in the child, on first use; logs are set up in both.

A task gets `batch_id` and nothing else. It says "again, later" by raising: the message comes back after
`backoff_base_seconds`, twice that, and so on, and goes to the dead letters once the queue's maxReceiveCount is
used up. `retry`, `countdown`, `eta`, `expires` and sending through Celery do not exist here; messages are
written by `shared.messages` and sent from the outbox.

To read it: `app` (configuration), `worker` (start and stop), `pool` (its processes), `transport` (what Celery
calls), `held_messages` (what this worker has in hand), `queue` (the calls to SQS), `settings`.
"""

from shared.celery_sqs.app import make_worker_app
from shared.celery_sqs.queue import WorkerQueue
from shared.celery_sqs.settings import WorkerSettings
from shared.celery_sqs.worker import run_worker

__all__ = ["WorkerQueue", "WorkerSettings", "make_worker_app", "run_worker"]
