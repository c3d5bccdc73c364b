"""
Whether the process of this container still turns: `python -m shared.liveness`, for health checks.

A worker touches the file that ESCLUSA_ALIVE_FILE names each time its loop turns (`shared.celery_sqs.settings`), also
while tasks run and while SQS is away; a command that repeats itself does likewise. Standard library only, and no shell: it runs every few seconds.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

FILE_VARIABLE: Final = "ESCLUSA_ALIVE_FILE"

#: Well above the longest that a loop takes to turn: one receive that is given up (ESCLUSA_RECEIVE_TIMEOUT_SECONDS, 20)
#: and the pause after it (10).
MAX_SILENCE_SECONDS: Final = 60.0


def show_life(environment: Mapping[str, str] = os.environ) -> None:
    """Touch the file, if one is named. A disk that is full is no reason to stop: the check says so if it lasts."""
    if name := environment.get(FILE_VARIABLE):
        with suppress(OSError):
            Path(name).touch()


def main(environment: Mapping[str, str] = os.environ) -> int:
    """Return 0 if the file was touched lately; else say why not, and return 1."""
    name = environment.get(FILE_VARIABLE)
    if not name:
        sys.stderr.write(f"{FILE_VARIABLE}: expected the file that the worker touches, found nothing\n")
        return 1
    try:
        silence_seconds = time.time() - Path(name).stat().st_mtime
    except OSError as error:
        sys.stderr.write(f"{name}: expected a file that the worker touches, found: {error.strerror}\n")
        return 1
    if silence_seconds > MAX_SILENCE_SECONDS:
        sys.stderr.write(
            f"{name}: expected a touch within {MAX_SILENCE_SECONDS:.0f} seconds, the last was "
            f"{silence_seconds:.0f} seconds ago\n"
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
