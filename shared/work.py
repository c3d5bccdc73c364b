"""How a worker does one stage of one batch with the connections of its process."""

import os
import socket
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import structlog

from shared import stage
from shared.domain.batches import Stage
from shared.fleet import Fleet
from shared.heartbeat import renewing
from shared.lifecycle import StageResult
from shared.stage import Assignment, Outcome, StageLimits

log = structlog.get_logger()


def do_stage(
    name: Stage,
    batch_id: str,
    work: Callable[[Assignment], StageResult],
    *,
    fleet: Fleet,
    traceparent: str | None = None,
) -> Outcome:
    """
    Do a stage of a batch, with its ids on every log line.

    Raises:
        Exception: what `shared.stage.run` raises: the message must then come back.
    """
    limits = StageLimits(
        lease=timedelta(seconds=fleet.settings.claim_lease_seconds), retry=fleet.settings.retry_policy
    )
    outcome = stage.run(
        name,
        batch_id,
        work,
        ledger=fleet.ledger,
        sender=fleet.sender,
        worker=f"{socket.gethostname()}:{os.getpid()}",
        limits=limits,
        keep_alive=partial(renewing, ledger=fleet.ledger, lease=limits.lease),
        traceparent=traceparent,
    )
    log.info("message_done", outcome=outcome)
    return outcome
