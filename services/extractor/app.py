"""The extractor, wired: `python -m services.extractor.app` starts a worker."""

import sys
from dataclasses import dataclass
from functools import cache, partial

from services.extractor.allocation import prepare_children
from services.extractor.extract import extract
from services.extractor.pace import read_limits_of
from services.extractor.readers import open_reader
from services.extractor.settings import ExtractorSettings
from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, run_worker
from shared.fleet import Fleet, require_ledger
from shared.lifecycle import StageResult
from shared.settings import FleetSettings
from shared.stage import Assignment
from shared.telemetry.logs import configure_logging


@dataclass(frozen=True, slots=True)
class Extractor:
    """What one process extracts with."""

    fleet: Fleet
    settings: ExtractorSettings

    def extract(self, assignment: Assignment) -> StageResult:
        """Read the window of a batch and write it, masked, to `tmp/`."""
        with open_reader(
            assignment.contract, secrets=self.fleet.secrets, limits=read_limits_of(assignment.source_limits)
        ) as reader:
            return extract(
                assignment,
                reader=reader,
                store=self.fleet.store,
                secrets=self.fleet.secrets,
                part_size_in_bytes=self.settings.part_size_in_bytes,
            )


@cache
def wired_extractor() -> Extractor:
    """Return the extractor of this process, put together at its first task."""
    return Extractor(Fleet.connect(FleetSettings()), ExtractorSettings())


def main() -> int:
    """Serve one of the queues of extracts until SIGTERM."""
    configure_logging("extractor")
    prepare_children()
    fleet, queue = FleetSettings(), ExtractorSettings().extract_queue
    app = make_worker_app(
        "extractor",
        queue=WorkerQueue(queue, fleet.queue_url(queue)),
        settings=WorkerSettings.beside(fleet),
        task_modules=["services.extractor.tasks"],
    )
    return run_worker(app, max_attempts=fleet.max_attempts, require_ledger=partial(require_ledger, fleet))


if __name__ == "__main__":
    sys.exit(main())
