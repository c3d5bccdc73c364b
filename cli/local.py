"""Commands of the embedded stack: up, down."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, SourcesOption
from cli.output import remark, text_of
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from local.processes import Home


def up(sources: SourcesOption = DEFAULT_SOURCES) -> None:
    """
    Start the whole fleet on this machine: AWS, PostgreSQL, sample sources, workers. Again, it repairs what died.

    State, data and logs are in ESCLUSA_HOME, else in .esclusa; everything listens on loopback only.
    """
    from rich.console import Console
    from rich.text import Text

    from local import fleet
    from local.processes import Home

    home = Home.find()
    console = Console(stderr=True)
    with _usable(home):
        if sys.stderr.isatty():
            with console.status("starting") as shown:
                running = fleet.up(home, sources, on_step=lambda step: shown.update(Text(text_of(step))))
        else:
            running = fleet.up(home, sources, on_step=remark)
    typer.echo(f"started: {', '.join(running.started) or 'nothing, everything ran already'}")
    typer.echo(f"state, data and logs: {text_of(home.path)}")


def down(
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="Delete databases, objects, queues, logs and passwords too.")
    ] = False,
) -> None:
    """Stop everything that `up` started. Data stays, and the next `up` goes on with it."""
    from local import fleet
    from local.processes import Home

    home = Home.find()
    if not home.path.exists():
        typer.echo(f"nothing to stop: {text_of(home.path)} is not there")
        return
    with _usable(home):
        stopped = fleet.down(home)
    typer.echo(f"stopped: {', '.join(stopped) or 'nothing, nothing ran'}")
    if delete_data:
        kept = delete_stack_data(home)
        typer.echo(f"deleted: what the stack kept in {text_of(home.path)}")
        if kept:
            remark(f"kept, because the stack did not make it: {', '.join(kept)}")


@contextmanager
def _usable(home: "Home") -> Iterator[None]:
    """
    Tell of a home that cannot be written to.

    Raises:
        ConfigurationError: in place of the system's error.
    """
    try:
        yield
    except OSError as error:
        if not str(error.filename or "").startswith(str(home.path)):
            raise
        raise ConfigurationError(
            f"{error.filename}: expected a directory that can be written to, found: {error.strerror}; "
            "choose another one with ESCLUSA_HOME"
        ) from error


#: Everything that a stack makes in its home. A home may be any directory: nothing else in it is touched.
STACK_FILES = ("state.json", "environment.json", "secrets.json", "crm.jsonl")
STACK_DIRECTORIES = ("aws", "logs")


def delete_stack_data(home: "Home") -> list[str]:
    """
    Delete what a stopped stack kept, and return the names of what else is in its home.

    Raises:
        ConfigurationError: if something runs there again.
    """
    from local.ports import PortBlock
    from local.postgres import EmbeddedPostgres
    from local.processes import living_processes, supervise

    with supervise(home, purpose="down --delete-data"):
        if living := living_processes(home):
            raise ConfigurationError(f"{home.path}: {', '.join(living)} was started again; stop it first")
        EmbeddedPostgres(home.path, PortBlock.find().postgres).delete()
        for name in STACK_DIRECTORIES:
            shutil.rmtree(home.path / name, ignore_errors=True)
        for name in STACK_FILES:
            _delete(home.path / name)
    _delete(home.lock_file)
    with suppress(OSError):  # It holds more than the stack made.
        home.path.rmdir()
    return sorted(path.name for path in home.path.iterdir()) if home.path.exists() else []


def _delete(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.with_name(file.name + ".new").unlink(missing_ok=True)
