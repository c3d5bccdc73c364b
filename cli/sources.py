"""Commands about source files: discover, check, schema."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import DEFAULT_SOURCES, Connections, JsonOption, SourceFilter, SourcesOption, connections_of
from cli.output import ExitCode, print_json, remark, text_of
from services.extractor.dialects import DialectName
from shared.domain.contracts import SourceKind
from shared.errors import ConfigurationError, EsclusaError
from shared.visits import visiting

if TYPE_CHECKING:
    from shared.ports import Ledger


def discover(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The name that the source shall have.")],
    dsn: Annotated[
        str,
        typer.Option(
            "--dsn",
            metavar="REFERENCE",
            help="Where the DSN, connection string, URL or base URL is found: env:NAME, file:PATH, "
            "secretsmanager:NAME#FIELD, ssm:NAME.",
        ),
    ],
    kind: Annotated[SourceKind, typer.Option("--kind", help="What reads it.")] = SourceKind.POSTGRES,
    dialect: Annotated[
        DialectName | None, typer.Option("--dialect", help="Whose SQL it speaks; for odbc and sqlalchemy.")
    ] = None,
    schema: Annotated[
        list[str] | None,
        typer.Option("--schema", metavar="NAME", help="Only tables of this schema. Repeatable."),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            "--path", metavar="PATH", help="For rest: an endpoint, such as /v1/contacts. Repeatable."
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="REFERENCE", help="For rest: where the token is found.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="KEY=VALUE", help="For rest: an option of its tables. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A new file; else standard output.")
    ] = None,
) -> None:
    """
    Write the source file of a live source: every table and column, with its type and fate.

    Columns that look personal, or that nobody can vouch for, are preset to be withheld. Read it, edit the masks,
    put it into the directory of sources, run `esclusa check`.
    """
    from cli.discovery import Address, discovered_text

    if out is not None and out.exists():
        raise ConfigurationError(f"{out}: expected a file that is not there yet, found one; name another one")
    address = Address(
        source,
        kind,
        dsn,
        dialect=dialect,
        schemas=tuple(schema or ()),
        paths=tuple(path or ()),
        token=token,
        options=tuple(option or ()),
    )
    connections = connections_of(context)
    with ExitStack() as visit:
        # A source that the fleet knows already has its connections counted; any other is nobody's.
        if (ledger := _ledger_of(connections)) is not None:
            visit.enter_context(visiting(source, who="discover", ledger=ledger, may_go_uncounted=True))
        text = discovered_text(address, secrets=connections.secrets())
    if out is None:
        typer.echo(text, nl=False)
        return
    _write_new(out, text)
    remark(f"{out} was written; edit its masks, then: esclusa check --source {source}")


def _write_new(file: Path, text: str) -> None:
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error.strerror}") from error


def _ledger_of(connections: Connections) -> "Ledger | None":
    """Return the ledger, if this machine knows one: a source can be looked at without a fleet."""
    try:
        return connections.fleet().ledger
    except EsclusaError:
        return None


def check(
    context: typer.Context,
    source: SourceFilter = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Look at everything that has to be right: files, secrets, sources, ledger, buckets, queues, warehouse.

    Every mistake of the source files is told with file and line. No row is read and nothing is changed. One line
    each; what fails keeps nothing else from being looked at, and the exit code is 1.
    """
    from cli.checks import Check, Verdict, run_checks

    done: list[Check] = []
    for found in run_checks(sources, only=source, connections=connections_of(context)):
        done.append(found)
        if not as_json:
            detail = f": {text_of(found.detail)}" if found.detail else ""
            typer.echo(f"{found.verdict:<7} {found.kind:<9} {text_of(found.subject)}{detail}")
    failed = sum(found.verdict is Verdict.FAILED for found in done)
    if as_json:
        print_json({"is_ok": not failed, "checks": [asdict(found) for found in done]})
    else:
        typer.echo(_summary(found.verdict for found in done))
    if failed:
        raise typer.Exit(ExitCode.PROBLEM)


def _summary(verdicts: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for verdict in verdicts:
        counts[verdict] = counts.get(verdict, 0) + 1
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def schema(sources: SourcesOption = DEFAULT_SOURCES) -> None:
    """Write the JSON Schema of source files beside them, for editors."""
    from shared.catalog import SCHEMA_FILE_NAME, write_json_schema

    file = sources / SCHEMA_FILE_NAME
    try:
        write_json_schema(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error.strerror}") from error
    remark(f"{file} was written")
