"""The processor, wired: `python -m services.processor.app` starts a worker."""

import sys
from dataclasses import dataclass
from functools import cache, partial

from services.processor.process import process
from services.processor.settings import ProcessorSettings
from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, run_worker
from shared.fleet import Fleet, require_ledger
from shared.lifecycle import StageResult
from shared.ports import QueueName
from shared.settings import FleetSettings
from shared.stage import Assignment
from shared.telemetry.logs import configure_logging


@dataclass(frozen=True, slots=True)
class Processor:
    """What one process transforms with."""

    fleet: Fleet
    settings: ProcessorSettings

    def process(self, assignment: Assignment) -> StageResult:
        """Turn the raw files of a batch into Parquet."""
        return process(
            assignment,
            store=self.fleet.store,
            target_file_size_in_bytes=self.settings.target_file_size_in_bytes,
        )


@cache
def wired_processor() -> Processor:
    """Return the processor of this process, put together at its first task."""
    return Processor(Fleet.connect(FleetSettings()), ProcessorSettings())


def main() -> int:
    """Serve the process queue until SIGTERM."""
    configure_logging("processor")
    fleet = FleetSettings()
    app = make_worker_app(
        "processor",
        queue=WorkerQueue(QueueName.PROCESS, fleet.queue_url(QueueName.PROCESS)),
        settings=WorkerSettings.beside(fleet),
        task_modules=["services.processor.tasks"],
    )
    return run_worker(app, max_attempts=fleet.max_attempts, require_ledger=partial(require_ledger, fleet))


if __name__ == "__main__":
    sys.exit(main())
