"""Whatever a source, a key or a reason holds: a terminal shows it and acts on none of it."""

import io
import json
import math
import re
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from cli import output
from cli.output import (
    ExitCode,
    NotDone,
    NotFound,
    errors_told,
    heading,
    number,
    print_json,
    print_table,
    require_typed,
    text_of,
    visible,
    whole,
)
from shared.domain.batches import BatchState
from shared.errors import ConfigurationError, EsclusaError, SecretNotFound, Unavailable

STYLE = re.compile("\x1b\\[[0-9;]*m")
ATTACK = "\x1b]0;owned\x07\x1b[2J [bold red]x[/] \u202egnp.exe \x9b31m \r\n"


class Terminal(io.StringIO):
    """Standard output as a terminal of 40 columns."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal()


@given(st.text())
def test_no_control_character_is_left_of_any_text(text: str) -> None:
    shown = visible(text)

    shown.encode()  # raises for a lone surrogate
    assert not any(output._is_acted_on(character) for character in shown)


def test_printable_text_stays_as_it_is() -> None:
    assert visible("Größe 北京 👩‍👩‍👧 [bold]") == "Größe 北京 👩‍👩‍👧 [bold]"


def test_a_table_shows_neither_escape_sequences_nor_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([heading("value")], [[ATTACK]], none="")

    written = capsys.readouterr().out
    assert "\x1b" not in written
    assert "\x9b" not in written
    assert "\u202e" not in written
    assert r"\x1b]0;owned\x07\x1b[2J [bold red]x[/] \u202egnp.exe \x9b31m \r\n" in written


def test_a_terminal_gets_no_escape_sequence_from_a_cell(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        print_table([whole("value")], [[ATTACK]], none="")

    written = terminal.getvalue()
    assert "\x1b]0;" not in written
    assert "\x1b[2J" not in written
    assert "[bold red]x[/]" in written


def test_a_narrow_terminal_cuts_no_id(terminal: Terminal) -> None:
    ids = ["b" + "0123456789abcdef01234567", "s3://esclusa-shop/" + "final/orders/" * 9]

    with redirect_stdout(terminal):
        print_table([whole("batch"), whole("object"), heading("detail")], [[*ids, "word " * 30]], none="")

    for text in (*ids, "word word word word"):
        assert text in terminal.getvalue()
    assert "…" not in terminal.getvalue()


def test_elsewhere_a_row_is_one_line_however_long(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([heading("detail"), number("n")], [["word " * 300, 7], ["", 12]], none="")

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith("word word")
    assert lines[1].endswith(" 7")


def test_a_table_without_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([heading("x")], [], none="no files")

    assert capsys.readouterr().out == "no files\n"


def test_json_is_exact_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "whole": 2**63,
            "decimal": Decimal("0.10"),
            "float": 0.5,
            "not a number": math.nan,
            "moment": datetime(2026, 11, 22, 13, tzinfo=timezone(timedelta(hours=1))),
            "naive": datetime(2026, 11, 22, 13),  # noqa: DTZ001 - as a warehouse gives it
            "day": date(2026, 11, 22),
            "duration": timedelta(minutes=1),
            "bytes": b"\x00\xff",
            "state": BatchState.PLANNED,
            BatchState.FAILED: (1, None, True),
            "odd": ATTACK,
        }
    )

    written = capsys.readouterr().out
    assert written.isascii()
    assert "\x1b" not in written
    assert json.loads(written) == {
        "whole": 2**63,
        "decimal": "0.10",
        "float": 0.5,
        "not a number": "nan",
        "moment": "2026-11-22T12:00:00Z",
        "naive": "2026-11-22T13:00:00",
        "day": "2026-11-22",
        "duration": "60s",
        "bytes": "00ff",
        "state": "planned",
        "failed": [1, None, True],
        "odd": ATTACK,
    }


def test_moments_are_shown_in_utc() -> None:
    assert text_of(datetime(2026, 11, 22, 12, 0, 0, 5, tzinfo=UTC)) == "2026-11-22T12:00:00.000005Z"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EsclusaError("x"), ExitCode.PROBLEM),
        (ConfigurationError("x"), ExitCode.CONFIGURATION),
        (SecretNotFound("x"), ExitCode.CONFIGURATION),
        (Unavailable("x"), ExitCode.UNAVAILABLE),
        (NotFound("x"), ExitCode.NOT_FOUND),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.name,
)
def test_the_kind_of_an_error_is_the_exit_code(error: BaseException, code: ExitCode) -> None:
    with pytest.raises(typer.Exit) as ended, errors_told():
        raise error

    assert ended.value.exit_code == code


def test_an_error_keeps_its_lines_and_loses_its_escape_sequences(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), errors_told():
        raise ConfigurationError("2 mistakes:\n  a.yaml:1: \x1b[31m")

    assert capsys.readouterr().err == "error: 2 mistakes:\n  a.yaml:1: \\x1b[31m\n"


@pytest.mark.parametrize(("deployment", "is_told"), [("local", True), ("aws", False)])
def test_what_does_not_answer_on_one_machine_may_only_be_down(
    deployment: str, is_told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESCLUSA_DEPLOYMENT", deployment)

    with pytest.raises(typer.Exit), errors_told():
        raise Unavailable("the ledger is away")

    assert ("`esclusa up`" in capsys.readouterr().err) is is_told


def test_where_nobody_types_nothing_is_done_and_the_error_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))

    with pytest.raises(NotDone, match="nothing was changed"):
        require_typed("extract", called="the name of the queue")

    assert capsys.readouterr().err == "Type the name of the queue to go on: \n"


def test_what_nobody_foresaw_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError), errors_told():
        raise ZeroDivisionError


def test_the_console_of_tables_is_as_wide_as_the_terminal(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        print_table([heading("detail")], [["word " * 20]], none="")

    lines = STYLE.sub("", terminal.getvalue()).splitlines()
    assert max(len(line) for line in lines) <= 40
