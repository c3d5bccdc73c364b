"""What can be set of a worker, all in one model: the times depend on each other."""

from itertools import pairwise
from pathlib import Path
from typing import Self

import structlog
from pydantic import Field, PositiveInt, model_validator

from shared.errors import ConfigurationError
from shared.settings import MAX_VISIBILITY_SECONDS, BackoffSettings, FleetSettings
from shared.telemetry.settings import MetricsSettings

log = structlog.get_logger()


class WorkerSettings(BackoffSettings, MetricsSettings):
    """
    The settings of one worker process, from the environment: `ESCLUSA_CONCURRENCY` and so on.

    Two chains of times, each of which has to rise strictly: a task is asked to stop, is killed, and only then
    is its message given up; a receive waits for messages, is given up, and only then is a message that got
    lost on its way here visible again. The claim of a batch is renewed in the ledger while the task runs, and has
    to fit in between: see `beside`.
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

    @classmethod
    def beside(cls, fleet: FleetSettings) -> Self:
        """
        Return the settings of a worker of a fleet, whose region they share.

        A claim and a message in hand are renewed each third of their times while a task runs. Only these renewals may
        outlast the task's limit: were the times themselves as long, then whatever hangs would be over before
        anybody else might take its batch, and a dead worker's batches would wait as long as the longest task.

        Raises:
            ConfigurationError: if the lease of a claim or the visibility of a message is not below the hard limit.
        """
        settings = cls(region=fleet.region)
        times = {
            "ESCLUSA_CLAIM_LEASE_SECONDS": fleet.claim_lease_seconds,
            "ESCLUSA_VISIBILITY_TIMEOUT_SECONDS": settings.visibility_timeout_seconds,
        }
        mistakes = [
            f"{name} ({seconds}) has to be below ESCLUSA_HARD_TIME_LIMIT_SECONDS ({settings.hard_time_limit_seconds})"
            for name, seconds in times.items()
            if seconds >= settings.hard_time_limit_seconds
        ]
        if mistakes:
            raise ConfigurationError("times that contradict each other: " + "; ".join(mistakes))
        return settings

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
