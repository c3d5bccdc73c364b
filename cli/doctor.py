"""The command that looks whether a process in one role can do its work here."""

from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from cli.checks import Verdict
from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption, connections_of
from cli.output import ExitCode, print_json, text_of

DEFAULT_PATIENCE_SECONDS = 15


class Role(StrEnum):
    """Who is looked at."""

    OPERATOR = "operator"
    EXTRACTOR = "extractor"
    PROCESSOR = "processor"
    PUBLISHER = "publisher"
    PLANNER = "planner"
    AUDITOR = "auditor"
    EXPORTER = "exporter"
    UPKEEP = "upkeep"


def doctor(
    context: typer.Context,
    role: Annotated[
        Role, typer.Option("--role", help="Whose work is to be done here; operator: a person's.")
    ] = Role.OPERATOR,
    patience: Annotated[
        int,
        typer.Option("--timeout", metavar="SECONDS", min=1, max=300, help="The most that one look takes."),
    ] = DEFAULT_PATIENCE_SECONDS,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Look whether a process in this role could do its work on this machine, with these settings and this identity.

    Settings that contradict each other, versions, disk, drivers, clocks, ledger, secrets, buckets, queues, sources,
    warehouse, catalog: what the role needs of them, tried as the role may, without leaving anything behind. No secret is
    shown. `esclusa check` looks at the source files. Exit code 1 if something failed.
    """
    from cli.diagnosis import diagnose
    from cli.findings import Patient
    from shared.catalog import read_sources

    connections = connections_of(context)
    patient = Patient(
        role=role,
        fleet=connections.fleet(),
        connections=connections,
        catalog=read_sources(sources),
        patience=timedelta(seconds=patience),
    )
    found = []
    for finding in diagnose(patient):
        found.append(finding)
        if not as_json:
            typer.echo(f"{finding.verdict:<7} {text_of(finding.name)}: {text_of(finding.found)}")
            if finding.advice and finding.verdict is not Verdict.OK:
                typer.echo(f"        {text_of(finding.advice)}")
    has_failed = any(finding.verdict is Verdict.FAILED for finding in found)
    if as_json:
        print_json({"is_ok": not has_failed, "role": role, "checks": [asdict(finding) for finding in found]})
    if has_failed:
        raise typer.Exit(ExitCode.PROBLEM)
