"""The health check of a container of a worker."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.celery_sqs.settings import WorkerSettings
from shared.liveness import FILE_VARIABLE, MAX_SILENCE_SECONDS, main


def test_a_file_that_was_just_touched_is_life(tmp_path: Path) -> None:
    settings = WorkerSettings(alive_file=tmp_path / "alive")
    settings.touch_alive_file()

    assert main({FILE_VARIABLE: str(settings.alive_file)}) == 0


def test_a_file_that_was_not_touched_for_long_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "alive"
    file.touch()
    long_ago = time.time() - MAX_SILENCE_SECONDS - 5
    os.utime(file, (long_ago, long_ago))

    assert main({FILE_VARIABLE: str(file)}) == 1
    assert "expected a touch within 60 seconds" in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{}, {FILE_VARIABLE: ""}, {FILE_VARIABLE: "/nowhere/alive"}])
def test_what_is_not_there_is_told(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(environment) == 1
    assert "expected" in capsys.readouterr().err


def test_a_loop_always_turns_before_the_silence_is_too_long() -> None:
    settings = WorkerSettings()
    longest_pause_seconds = 10

    assert settings.receive_timeout_seconds + longest_pause_seconds < MAX_SILENCE_SECONDS


def test_it_imports_no_more_than_it_needs() -> None:
    # It runs every few seconds in every container.
    program = "import shared.liveness, sys; sys.exit(any(name in sys.modules for name in ('celery', 'boto3', 'pydantic')))"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
