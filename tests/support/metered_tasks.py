"""The task of a worker whose work does what the slot of its batch says."""

import os
import signal
from functools import cache

import structlog
from celery import shared_task

from shared.domain.batches import Stage
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.fleet import Fleet
from shared.lifecycle import StageResult
from shared.messages import EXTRACT_TASK
from shared.settings import FleetSettings
from shared.stage import Assignment
from shared.telemetry.tracing import flush_spans
from shared.work import do_stage

log = structlog.get_logger()


@cache
def wired_fleet() -> Fleet:
    return Fleet.connect(FleetSettings())


def work(assignment: Assignment) -> StageResult:
    log.info("work_went_on")
    match assignment.batch.slot:
        case "refuse":
            raise Refused(Reason.NULL_CURSOR, "a row has none")
        case "raise":
            raise ValueError("alice@example.com is no number")
        case "die":
            flush_spans()  # those of the batches that this process has done
            os.kill(os.getpid(), signal.SIGKILL)
    return StageResult(counts={"rows_read": 3, "rows_written": 2, "rows_outside_window": 1})


@shared_task(name=EXTRACT_TASK)
def run_extract(batch_id: str, traceparent: str | None = None) -> None:
    do_stage(Stage.EXTRACT, batch_id, work, fleet=wired_fleet(), traceparent=traceparent)
