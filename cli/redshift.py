"""The commands about Redshift: what only a real workgroup can tell, and the schemas over the lake."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.context import (
    DEFAULT_SOURCES,
    JsonOption,
    SourceFilter,
    SourcesOption,
    connections_of,
    settings_named,
)
from cli.output import ExitCode, NotDone, errors_told, heading, print_json, print_table, remark, text_of

if TYPE_CHECKING:
    from services.publisher.redshift.data_api import DataApi
    from services.publisher.redshift.doctor import Finding
    from services.publisher.redshift.plan import Statement
    from services.publisher.redshift.verify import Scene
    from shared.catalog import Catalog
    from shared.settings import FleetSettings

app = typer.Typer(
    help="What only a real Redshift can tell, and its schemas over the lake.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

#: A verification is not in a hurry, but nobody waits for a statement for ever.
STATEMENT_TIMEOUT_SECONDS = 300


@app.command()
@errors_told()
def verify(
    bucket: Annotated[
        str, typer.Option("--bucket", help="Where small files are written, and deleted. No source's bucket.")
    ],
    role_arn: Annotated[
        str,
        typer.Option(
            "--role-arn", help="The role, attached to the workgroup or cluster, that COPY reads with."
        ),
    ],
    workgroup: Annotated[str, typer.Option("--workgroup", help="Redshift Serverless: the workgroup.")] = "",
    cluster: Annotated[str, typer.Option("--cluster", help="Or the identifier of a cluster.")] = "",
    database: Annotated[
        str, typer.Option("--database", help="The database in which schemas are made.")
    ] = "dev",
    secret_arn: Annotated[
        str, typer.Option("--secret-arn", help="The secret of the user; else the identity of this command.")
    ] = "",
    db_user: Annotated[
        str, typer.Option("--db-user", help="Of a cluster without a secret: the database user.")
    ] = "",
    region: Annotated[str, typer.Option("--region", help="Of the database.")] = "eu-west-1",
    as_json: JsonOption = False,
) -> None:
    """
    Ask a real workgroup or cluster everything that could not be known without one, in one go.

    Tables are made in two schemas of their own and small files are written under `tmp/` of the bucket; both are taken
    away again. It takes some minutes, and a little of the workgroup's time. What is asked stands in docs/redshift.md. Exit code 1 if
    something is not as the publisher needs it.
    """
    from services.publisher.redshift.data_api import DataApi, make_data_client
    from services.publisher.redshift.doctor import look_at_bucket
    from services.publisher.redshift.place import Place
    from services.publisher.redshift.verify import Scene
    from shared.object_store.s3 import S3ObjectStore, make_s3_client

    place = Place(database, workgroup=workgroup, cluster=cluster, secret_arn=secret_arn, db_user=db_user)
    api = DataApi(make_data_client(region), place, timeout_seconds=STATEMENT_TIMEOUT_SECONDS)
    client = make_s3_client(region)
    scene = Scene(api, S3ObjectStore(client), look_at_bucket(client, bucket, region=region), role_arn)
    report(scene, as_json=as_json)


def report(scene: "Scene", *, as_json: bool) -> None:
    """Ask everything and print what was found, as it comes; the exit code is 1 if something is broken."""
    from services.publisher.redshift.doctor import Verdict
    from services.publisher.redshift.verify import verify as ask

    findings = []
    for finding in ask(scene):
        findings.append(finding)
        remark(f"{finding.verdict:<8} {finding.what}")
    broken = [finding for finding in findings if finding.verdict is Verdict.BROKEN]
    if as_json:
        print_json({"is_ok": not broken, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        remark(f"{len(findings)} questions, {len(broken)} not as expected")
    if broken:
        raise typer.Exit(ExitCode.PROBLEM)


def _print(findings: "Iterable[Finding]") -> None:
    print_table(
        [heading("verdict"), heading("row"), heading("question"), heading("found")],
        [(finding.verdict, finding.rule, finding.what, text_of(finding.detail)) for finding in findings],
        none="nothing was asked",
    )


@app.command()
@errors_told()
def lake(
    context: typer.Context,
    source: SourceFilter = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    role_arn: Annotated[
        str,
        typer.Option(
            "--role-arn", help="The role that Spectrum reads catalog and buckets with; else that of COPY."
        ),
    ] = "",
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the statements, and run none.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Create a schema over the lake of each source in Redshift: `<source>__lake`, on the source's Glue database.

    Harmless to repeat. Who reads external tables needs USAGE on the schema and TEMP on the database; of single
    tables nothing can be granted. Needs the settings of a publisher with ESCLUSA_WAREHOUSE=redshift.
    """
    from services.publisher.redshift.definitions import LAKE_SUFFIX
    from services.publisher.redshift.doctor import Verdict, examine_lake
    from services.publisher.redshift.errors import StatementFailed, translated
    from services.publisher.redshift.names import folded
    from shared.catalog import read_sources

    fleet = connections_of(context).fleet().settings
    api, copy_role = _publishers_redshift(fleet)
    statements = _lake_statements(read_sources(sources), fleet, source=source, role_arn=role_arn or copy_role)
    if not is_dry_run:
        for name, statement in statements:
            try:
                api.run(statement)
            except StatementFailed as error:
                raise translated(error, where=name) from None
            usage = examine_lake(api, folded(name + LAKE_SUFFIX))
            if usage.verdict is not Verdict.HELD:
                remark(f"{usage.what}: {usage.detail}")
    if as_json:
        listed = [{"source": name, "sql": statement.sql} for name, statement in statements]
        print_json({"is_done": not is_dry_run, "statements": listed})
        return
    for _, statement in statements:
        typer.echo(
            statement.sql + ";"
            if is_dry_run
            else f"made, or there already: {text_of(statement.sql.split()[6])}"
        )


def _publishers_redshift(fleet: "FleetSettings") -> "tuple[DataApi, str]":
    from services.publisher.redshift.data_api import DataApi, make_data_client
    from services.publisher.settings import PublisherSettings, WarehouseKind

    with settings_named():
        settings = PublisherSettings()
    if settings.warehouse is not WarehouseKind.REDSHIFT:
        raise NotDone(
            "ESCLUSA_WAREHOUSE: expected redshift, found another: external tables of it are not looked up there"
        )
    place = settings.redshift_place
    client = make_data_client(fleet.region)
    api = DataApi(client, place, timeout_seconds=settings.redshift_timeout_seconds)
    return api, settings.redshift_copy_role_arn


def _lake_statements(
    catalog: "Catalog", fleet: "FleetSettings", *, source: str | None, role_arn: str
) -> "list[tuple[str, Statement]]":
    from services.publisher.catalog import database_name
    from services.publisher.redshift.definitions import create_lake_schema

    chosen = [catalog.source(source)] if source else catalog.sources
    return [
        (
            one.name,
            create_lake_schema(
                one.name,
                database=database_name(one.name, prefix=fleet.bucket_prefix),
                role_arn=role_arn,
                region=fleet.region,
            ),
        )
        for one in chosen
    ]
