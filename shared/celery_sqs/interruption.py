"""
How a running task is told that its worker has to go, so that it can let go of its batch.

A task that is simply killed leaves its claim behind, and nobody may take the batch before the lease runs out.
"""

import os
import signal
from types import FrameType

from celery import current_task
from celery.signals import task_prerun

from shared.errors import Interrupted

#: SIGUSR1 is taken: billiard tells children of their soft time limit by it.
_SIGNAL = signal.SIGUSR2

#: To record that the batch is free takes one transaction. What does not hear (a long call into C) is killed then.
INTERRUPTION_SECONDS = 5.0


def interrupt(pid: int) -> None:
    """Raise `Interrupted` in the task that a child process runs, if it runs one."""
    os.kill(pid, _SIGNAL)


# At import: a child that is spawned imports this package to read the app's settings. Anew for each task, because
# billiard sets all signals again when a child is ready. billiard 4.3, `billiard.pool.Worker.after_fork`.
@task_prerun.connect  # type: ignore[untyped-decorator]
def _listen(**_: object) -> None:
    signal.signal(_SIGNAL, _raise_interrupted)


def _raise_interrupted(_number: int, _frame: FrameType | None) -> None:
    if current_task:
        raise Interrupted("the worker was told to stop")
