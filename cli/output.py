"""
What the commands print: tables for people, JSON for programs, errors for both; and what their exit codes mean.

Reasons, keys and names may come from anywhere: nothing of them reaches a terminal as a control sequence, and
nothing is read as markup.
"""

import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum, IntEnum

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from shared.errors import (
    ConfigurationError,
    EsclusaError,
    ObjectNotFound,
    SecretNotFound,
    SourceNotFound,
    Unavailable,
)


class ExitCode(IntEnum):
    """How a command ended. `docs/commands.md` tells them."""

    #: Everything was done and found as it should be.
    OK = 0
    #: It ran, and something about the data or the batches is wrong.
    PROBLEM = 1
    #: The command line, a setting or a source file is wrong.
    CONFIGURATION = 2
    #: The ledger, a queue, a bucket, the warehouse or a source does not answer; later it may.
    UNAVAILABLE = 3
    #: There is no such batch, file or source.
    NOT_FOUND = 4
    #: Ctrl-C.
    INTERRUPTED = 130


class NotFound(EsclusaError):
    """What was asked for is not there."""


class NotDone(EsclusaError):
    """What was asked for cannot be done as things stand."""


#: The first that fits.
_EXIT_CODES = (
    (NotFound, ExitCode.NOT_FOUND),
    (ObjectNotFound, ExitCode.NOT_FOUND),
    (SourceNotFound, ExitCode.NOT_FOUND),
    (ConfigurationError, ExitCode.CONFIGURATION),
    (SecretNotFound, ExitCode.CONFIGURATION),
    (Unavailable, ExitCode.UNAVAILABLE),
)

_ADVICE = "Nothing is lost; the same again later may succeed. `esclusa check` tells what does not answer."
_ADVICE_ON_ONE_MACHINE = "If the fleet of this machine is down, `esclusa up` starts it again."


def exit_code_of(error: EsclusaError) -> ExitCode:
    """Return the exit code of an error."""
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), ExitCode.PROBLEM)


@contextmanager
def errors_told() -> Iterator[None]:
    """End the command with a message and an exit code for every error that could be foreseen."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except EsclusaError as error:
        tell_error(error)
        raise typer.Exit(exit_code_of(error)) from None


def tell_error(error: EsclusaError, *, about: str = "") -> None:
    """Write an error to standard error."""
    code = exit_code_of(error)
    where = f"{about}: " if about else ""
    text = visible(f"{where}{error}", keep_line_breaks=True)
    typer.secho(f"error: {text}", err=True, fg="red" if sys.stderr.isatty() else None)
    if code is ExitCode.UNAVAILABLE:
        typer.echo(_ADVICE, err=True)
        if os.environ.get("ESCLUSA_DEPLOYMENT") == "local":
            typer.echo(_ADVICE_ON_ONE_MACHINE, err=True)


def remark(text: str) -> None:
    """Write a remark to standard error."""
    typer.echo(visible(text), err=True)


def require_typed(expected: str, *, called: str) -> None:
    """
    Go on only if somebody types what they are asked to.

    Raises:
        NotDone: if something else is typed, or nobody is there to type.
    """
    # Not typer.prompt: it writes to standard output, which belongs to the data.
    typer.echo(f"Type {called} to go on: ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line.endswith("\n"):  # nobody typed: what follows begins a line of its own all the same
        typer.echo(err=True)
    typed = line.strip()
    if typed != expected:
        raise NotDone(f"expected {expected!r}, found {typed!r}: nothing was changed")


# ---- JSON ----------------------------------------------------------------------------------------------------


def print_json(document: object) -> None:
    """
    Write a document to standard output.

    ASCII only, so that no terminal acts on it. Whole numbers are exact; decimals, moments and durations are text.
    """
    typer.echo(json.dumps(_json_value(document), indent=2, ensure_ascii=True, allow_nan=False))


def _json_value(value: object) -> object:
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case Mapping():
            return {str(_json_value(name)): _json_value(item) for name, item in value.items()}
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case list() | tuple():
            return [_json_value(item) for item in value]
        case _:
            return text_of(value)


# ---- tables --------------------------------------------------------------------------------------------------


#: Wider than any row. Rich wants to know where a line ends.
MAX_WIDTH = 1_000_000
#: What a column of words keeps on a narrow terminal.
MIN_FOLDED_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Heading:
    """A column of a table. `is_whole`: broken over lines nowhere, because people copy it."""

    title: str
    is_number: bool = False
    is_whole: bool = False


def heading(title: str) -> Heading:
    """Return a heading of words."""
    return Heading(title)


def number(title: str) -> Heading:
    """Return a heading of numbers."""
    return Heading(title, is_number=True)


def whole(title: str) -> Heading:
    """Return a heading of ids, names and moments that stay in one piece."""
    return Heading(title, is_whole=True)


def print_table(headings: Sequence[Heading], rows: Iterable[Sequence[object]], *, none: str) -> None:
    """
    Write a table to standard output, or what `none` says if there are no rows.

    On a terminal with lines and colours, and as wide as its ids need. Elsewhere one line per row.
    """
    cells = [[text_of(value) for value in row] for row in rows]
    if not cells:
        typer.echo(none)
    elif sys.stdout.isatty():
        _print_drawn(headings, cells)
    else:
        _print_plain(headings, cells)


def _print_drawn(headings: Sequence[Heading], cells: Sequence[Sequence[str]]) -> None:
    table = _table(headings, cells)
    console = Console(highlight=False)
    # Rich would cut what does not fit; a terminal breaks the line and loses nothing.
    needed = Measurement.get(console, console.options.update(max_width=MAX_WIDTH), table).minimum
    console.width = max(console.width, needed)
    console.print(table, crop=False)


def _print_plain(headings: Sequence[Heading], cells: Sequence[Sequence[str]]) -> None:
    table = _table([Heading(item.title, item.is_number, is_whole=True) for item in headings], cells)
    table.box, table.pad_edge, table.padding = None, False, (0, 2, 0, 0)
    buffer = io.StringIO()
    console = Console(file=buffer, highlight=False, color_system=None, width=MAX_WIDTH)
    console.print(table, crop=False)
    for line in buffer.getvalue().splitlines():
        typer.echo(line.rstrip())


def _table(headings: Sequence[Heading], cells: Sequence[Sequence[str]]) -> Table:
    table = Table()
    for index, item in enumerate(headings):
        is_whole = item.is_whole or item.is_number
        widest = max(cell_len(text) for text in (item.title, *(row[index] for row in cells)))
        table.add_column(
            Text(item.title),
            justify="right" if item.is_number else "left",
            no_wrap=is_whole,
            overflow="fold",
            # Without it Rich lets a column shrink to nothing.
            min_width=widest if is_whole else min(widest, MIN_FOLDED_WIDTH),
        )
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_facts(facts: Mapping[str, object]) -> None:
    """Write facts to standard output, one line each, without those that are absent."""
    for name, value in facts.items():
        if value not in {None, ""}:
            typer.echo(f"{name + ':':<14} {text_of(value)}")


def print_section(title: str) -> None:
    """Write the title of what follows."""
    typer.echo()
    typer.secho(title, bold=sys.stdout.isatty())


def text_of(value: object) -> str:
    """Return a value as one line for people: moments in UTC, absent ones as nothing."""
    match value:
        case None:
            return ""
        case datetime():
            return _moment(value)
        case date() | time():
            return value.isoformat()
        case timedelta():
            return f"{value.total_seconds():g}s"
        case bytes() | bytearray() | memoryview():
            return bytes(value).hex()
        case _:
            return visible(str(value))


def duration_text(seconds: int) -> str:
    """
    Return a duration in its two largest units.

    >>> duration_text(59), duration_text(3_725), duration_text(200_000)
    ('59s', '1h02m', '2d07h')
    """
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def _moment(moment: datetime) -> str:
    if moment.tzinfo is None:
        return moment.isoformat()
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def visible(text: str, *, keep_line_breaks: bool = False) -> str:
    """
    Return a text with everything that a terminal would act on written out.

    >>> visible("red: \\x1b[31m")
    'red: \\\\x1b[31m'
    """
    return "".join(
        character
        if not _is_acted_on(character) or (keep_line_breaks and character == "\n")
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_acted_on(character: str) -> bool:
    # Controls; formats such as those that turn the direction of text; lone surrogates; separators of lines.
    # The joiner holds emoji together and does nothing else.
    return unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character != "\u200d"
