"""What can be set of a worker, all in one model: the times depend on each other."""

from itertools import pairwise
from pathlib import Path
from typing import Self

import structlog
from pydantic import Field, PositiveInt, model_validator

from shared.settings import MAX_VISIBILITY_SECONDS, BackoffSettings
from shared.telemetry.settings import MetricsSettings

log = structlog.get_logger()


class WorkerSettings(BackoffSettings, MetricsSettings):
    """
    The settings of one worker process, from the environment: `ESCLUSA_CONCURRENCY` and so on.

    Two chains of times, each of which has to rise strictly: a task is asked to stop, is killed, and only then
    is its message given up; a receive waits for messages, is given up, and only then is a message that got
    lost on its way here visible again. The claim of a batch is another matter: it is renewed in the ledger
    while the task runs (`FleetSettings.claim_lease_seconds`).
    """

    concurrency: PositiveInt = Field(1, description="Tasks at the same time, each in a process of its own.")
    region: str | None = Field(
        None, description="AWS region of the queue; if absent, what AWS_REGION and the AWS profile say."
    )

    soft_time_limit_seconds: PositiveInt = Field(840, description="A task is asked to stop.")
    hard_time_limit_seconds: PositiveInt = Field(900, description="A task is killed.")
    hold_limit_seconds: PositiveInt = Field(
        960,
        le=MAX_VISIBILITY_SECONDS,
        description="The message of a task that no process speaks of any more is held no longer than this.",
    )

    wait_time_seconds: PositiveInt = Field(
        10, le=20, description="A receive waits so long for messages. An idle worker takes as long to stop."
    )
    receive_timeout_seconds: PositiveInt = Field(
        20, description="A receive that brought no answer by then is given up and made anew."
    )
    visibility_timeout_seconds: PositiveInt = Field(
        120,
        le=MAX_VISIBILITY_SECONDS,
        description="A message in hand is hidden from other workers for so long, renewed each third of it "
        "however long its task takes. After the death of a worker its messages are back by then.",
    )

    soft_shutdown_seconds: PositiveInt = Field(
        60,
        description="On SIGTERM running tasks may take so long to end; then they are interrupted, let go of their "
        "batches, and their messages are given back. The grace period of the container has to be longer by "
        "wait_time_seconds and ten seconds.",
    )
    alive_file: Path | None = Field(
        None, description="File touched each time the receive loop turns, for a liveness probe."
    )

    @property
    def heartbeat_interval_seconds(self) -> float:
        """Visibility is renewed this often: two renewals may fail before a message is delivered again."""
        return self.visibility_timeout_seconds / 3

    def touch_alive_file(self) -> None:
        """Show the liveness probe that this process turns."""
        if self.alive_file is None:
            return
        try:
            self.alive_file.touch()
        except OSError as error:  # a full disk is no reason to stop; the probe will say so if it lasts
            log.warning("alive_file_not_touched", path=str(self.alive_file), error=str(error))

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        chains = (
            ("soft_time_limit_seconds", "hard_time_limit_seconds", "hold_limit_seconds"),
            ("wait_time_seconds", "receive_timeout_seconds", "visibility_timeout_seconds"),
        )
        mistakes = [
            f"{lower} ({getattr(self, lower)}) has to be below {upper} ({getattr(self, upper)})"
            for chain in chains
            for lower, upper in pairwise(chain)
            if getattr(self, lower) >= getattr(self, upper)
        ]
        if self.backoff_base_seconds > self.backoff_max_seconds:
            mistakes.append(
                f"backoff_base_seconds ({self.backoff_base_seconds}) may not be above "
                f"backoff_max_seconds ({self.backoff_max_seconds})"
            )
        if mistakes:
            raise ValueError("times that contradict each other: " + "; ".join(mistakes))
        return self
