"""
The command `esclusa`: `main` is what the shell runs.

Commands import what they need when they run, so that `--help` costs neither database drivers nor AWS clients.
"""

import io
import sys
from typing import Annotated

import typer

from cli import (
    alarms,
    backfill,
    compact,
    contract,
    doctor,
    infra,
    local,
    look,
    masks,
    metrics,
    migrate,
    plan,
    prove,
    quarantine,
    queues,
    recount,
    redrive,
    redshift,
    rollback,
    rotation,
    sources,
    sweep,
    widen,
)
from cli.context import JsonOption
from cli.output import ExitCode, errors_told, print_json, visible

EPILOG = """
Settings are environment variables (docs/settings.md). If ESCLUSA_LEDGER_DSN is not set and the embedded stack of
ESCLUSA_HOME was brought up with `esclusa up`, all settings are those of that stack.

Exit codes: 0 everything is as it should be. 1 something about the data or the batches is wrong: a check failed, a
source was not enqueued. 2 the command line, a setting or a source file is wrong. 3 the ledger, a queue, a bucket,
the warehouse or a source does not answer. 4 there is no such batch, file or source. 130 interrupted.
"""


app = typer.Typer(
    name="esclusa",
    help="Moves micro-batches of rows from databases and CRMs, masked and checked, to tables for analysts.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    # Its tracebacks show local variables: rows and secrets.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def configure(
    is_verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Write log records, one JSON line each, to standard error."),
    ] = False,
) -> None:
    """Prepare what every command needs."""
    from shared.telemetry.logs import configure_logging

    # Standard output belongs to the data. What went wrong is told by the command itself.
    configure_logging("cli", level="INFO" if is_verbose else "CRITICAL", stream=sys.stderr)


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    found = version_of("esclusa")
    if as_json:
        print_json({"version": found})
    else:
        typer.echo(f"esclusa {found}")


for command in (
    *(local.up, local.down),
    doctor.doctor,
    migrate.migrate,
    *(sources.discover, sources.check, sources.schema),
    *(plan.enqueue, plan.crontab),
    *(backfill.backfill, backfill.backfills),
    *(look.status, look.files, look.why, look.query),
    *(alarms.alarms, alarms.retire),
    *(prove.prove, recount.recount),
    *(compact.compact, widen.widen, rollback.rollback),
    masks.masks,
    sweep.sweep,
    metrics.metrics,
    *(queues.queues, queues.peek, redrive.redrive, redrive.purge),
    version,
):
    app.command()(errors_told()(command))

app.add_typer(contract.app, name="contract")
app.add_typer(infra.app, name="infra")
app.add_typer(rotation.app, name="mask")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(redshift.app, name="redshift")


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows only ASCII gets everything, written out.
            stream.reconfigure(errors="backslashreplace")
    for argument in sys.argv[1:]:
        if _has_broken_text(argument):
            typer.echo(f"error: expected arguments in UTF-8, found {visible(argument)}", err=True)
            sys.exit(ExitCode.CONFIGURATION)
    app()


def _has_broken_text(argument: str) -> bool:
    # Python reads bytes that are no UTF-8 as lone surrogates, which no database or service takes.
    return any("\ud800" <= character <= "\udfff" for character in argument)


if __name__ == "__main__":
    main()
