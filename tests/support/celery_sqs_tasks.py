"""The task of a small service, as `services/extractor/tasks.py` holds one: it does what the batch id says."""

import os
import signal
import sys
import time
from pathlib import Path

import structlog
from celery import shared_task
from celery.exceptions import Ignore

from shared.messages import EXTRACT_TASK

log = structlog.get_logger()


@shared_task(name=EXTRACT_TASK)
def extract(batch_id: str) -> None:
    write_journal(f"start {batch_id} {os.getpid()}")
    behaviour, _, _ = batch_id.partition("-")
    match behaviour.split("_"):
        case ["ok"]:
            log.info("task_spoke", about="two\nlines")
        case ["raise"]:
            raise RuntimeError("the source said no")
        case ["exit"]:
            sys.exit(3)
        case ["memory"]:
            raise MemoryError("too much")
        case ["interrupt"]:
            raise KeyboardInterrupt
        case ["killed"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["retry"]:
            extract.retry(countdown=1)
        case ["ignore"]:
            raise Ignore
        case ["sleep", seconds]:
            time.sleep(int(seconds))
        case ["stubborn", seconds]:
            # As deep in C code as to hear neither a soft limit nor SIGTERM.
            for number in (signal.SIGTERM, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(int(seconds))
    write_journal(f"end {batch_id} {os.getpid()}")


def write_journal(line: str) -> None:
    # One write of less than a page to a file opened for appending: lines of several processes stay whole.
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(line + "\n")
