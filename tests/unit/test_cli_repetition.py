"""A command that does the same again and again, where there is no cron."""

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import typer
from support.commands import Shell

from cli.moments import read_pause
from cli.output import ExitCode
from cli.repetition import repeat
from shared.errors import Unavailable
from shared.liveness import FILE_VARIABLE

SECOND = timedelta(seconds=1)


def test_what_fails_is_told_and_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = threading.Event()
    times = []

    def work() -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            raise Unavailable("the ledger does not answer")
        stopped.set()

    repeat(work, every=SECOND, stopped=stopped)

    assert len(times) == 2
    assert times[1] - times[0] >= 0.9
    assert "the ledger does not answer" in capsys.readouterr().err


def test_sigterm_ends_it_between_two_times() -> None:
    count = []

    def work() -> None:
        count.append(1)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        repeat(work, every=timedelta(hours=1))
    finally:
        signal.signal(signal.SIGTERM, before)

    assert len(count) == 1


def test_it_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "alive"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    stopped = threading.Event()

    repeat(stopped.set, every=SECOND, stopped=stopped)

    assert file.exists()


@pytest.mark.parametrize("text", ["", "0s", "10", "-5s", "1.5m", "soon"])
def test_a_pause_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a span of a second or more"):
        read_pause(text)


def test_enqueue_refuses_a_pause_that_is_none() -> None:
    ended = Shell().run("enqueue", "--every", "soon")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "30s or 5m" in ended.errors
