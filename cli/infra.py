"""Commands about what is deployed: its templates, how they differ from what is there, and bringing it to them."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.context import DEFAULT_SOURCES, JsonOption, SourcesOption
from cli.output import (
    ExitCode,
    errors_told,
    number,
    print_json,
    print_table,
    remark,
    require_typed,
    whole,
)
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from cli.infra_plan import Blueprint, Stack
    from infra.deploy import Change, ChangeSet, StackEvent, Upload

app = typer.Typer(
    name="infra",
    help="The infrastructure: CloudFormation generated from the source files, one stack for all and one for each.",
    no_args_is_help=True,
)

StackFilter = Annotated[
    list[str] | None, typer.Option("--stack", metavar="NAME", help="Only this stack. Repeatable.")
]


@dataclass(frozen=True, slots=True)
class Difference:
    """How a stack differs from its template."""

    stack: str
    is_new: bool
    changes: "tuple[Change, ...]"

    @property
    def as_document(self) -> dict[str, object]:
        """As JSON."""
        return {
            "stack": self.stack,
            "is_new": self.is_new,
            "changes": [
                {
                    "action": change.action,
                    "resource": change.logical_id,
                    "type": change.resource_type,
                    "replacement": change.replacement or None,
                }
                for change in self.changes
            ],
        }


# ---- render --------------------------------------------------------------------------------------------------


@app.command()
@errors_told()
def render(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The directory to write to.")] = Path(
        "dist/infra"
    ),
    is_yaml: Annotated[bool, typer.Option("--yaml", help="Write YAML in place of JSON.")] = False,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Write the templates of all stacks to a directory, one file each. Asks nobody.

    Equal settings and source files give equal bytes. Templates of sources that are gone stay where they are, and are
    named.
    """
    from infra.deploy import MAX_BODY_BYTES, body_of, require_within_limits

    _, stacks = _planned(sources)
    suffix = "yaml" if is_yaml else "json"
    rows = []
    for stack in stacks:
        require_within_limits(stack.name, stack.template)
        file = out / f"{stack.name}.{suffix}"
        _write(file, _yaml(stack.template) if is_yaml else json.dumps(stack.template, indent=2) + "\n")
        size = len(body_of(stack.template).encode())
        rows.append((stack.name, file, size, len(stack.template["Resources"]), size > MAX_BODY_BYTES))
    stale = sorted(set(out.glob(f"*.{suffix}")) - {row[1] for row in rows})
    if stale:
        remark(f"not of this fleet, or of sources that are gone: {', '.join(map(str, stale))}")
    titles = ("stack", "file", "size_in_bytes", "resource_count", "needs_bucket")
    if as_json:
        print_json({"templates": [dict(zip(titles, row, strict=True)) for row in rows]})
        return
    headings = [whole("stack"), whole("file"), number("bytes"), number("resources"), whole("sent")]
    print_table(
        headings,
        [(*row[:4], "through a bucket" if row[4] else "as it is") for row in rows],
        none="no stacks",
    )


def _yaml(template: dict[str, Any]) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        """No anchors: CloudFormation takes none."""

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002
            return True

    return str(yaml.dump(template, Dumper=Plain, sort_keys=False, width=120))


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error.strerror}") from error


# ---- diff ----------------------------------------------------------------------------------------------------


@app.command()
@errors_told()
def diff(
    stack: StackFilter = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Compare the templates with what is deployed; exit code 0 if all is the same, 2 if not.

    For stacks that differ a change set is made and withdrawn again, because it tells what would be replaced. Where
    that is not allowed, or not known, the templates alone are compared. Nothing is changed.
    """
    blueprint, stacks = _planned(sources, only=stack)
    client, upload = _client("cloudformation", blueprint), _upload(blueprint)
    found = [_difference(client, item, upload=upload) for item in stacks]
    differing = [item for item in found if item.is_new or item.changes]
    if as_json:
        print_json({"is_same": not differing, "stacks": [item.as_document for item in found]})
    else:
        _print_differences(differing, count=len(found))
    if differing:
        raise typer.Exit(ExitCode.CONFIGURATION)


def _difference(client: Any, stack: "Stack", *, upload: "Upload") -> Difference:
    from infra.deploy import deployed_template, propose, resource_differences, withdraw
    from shared.errors import EsclusaError

    deployed = deployed_template(client, stack.name)
    changes = tuple(resource_differences(deployed or {}, stack.template))
    if deployed is None or not changes:
        return Difference(stack.name, deployed is None, changes)
    try:
        change_set = propose(client, stack.name, stack.template, upload=upload)
    except EsclusaError as error:
        remark(f"{stack.name}: no change set, so nothing is known of replacements: {error}")
        return Difference(stack.name, is_new=False, changes=changes)
    if change_set is None:
        return Difference(stack.name, is_new=False, changes=())
    withdraw(client, change_set)
    return Difference(stack.name, is_new=False, changes=_with_replacements(changes, change_set))


def _with_replacements(changes: "Sequence[Change]", change_set: "ChangeSet") -> "tuple[Change, ...]":
    """
    Return what differs, and what would be replaced because of it.

    A change set names whatever refers to what changes, too, though nothing may become of it.
    """
    replaced = {change.logical_id: change.replacement for change in change_set.changes}
    own = {change.logical_id for change in changes}
    others = [
        change
        for change in change_set.changes
        if change.logical_id not in own and change.replacement == "True"
    ]
    return (
        *(replace(change, replacement=replaced.get(change.logical_id, "")) for change in changes),
        *others,
    )


def _print_differences(found: Sequence[Difference], *, count: int) -> None:
    print_table(
        [whole("stack"), whole("action"), whole("resource"), whole("type"), whole("replaced")],
        [
            (item.stack, change.action, change.logical_id, change.resource_type, change.replacement)
            for item in found
            for change in item.changes
        ],
        none=f"{count} stacks are as their templates say",
    )


# ---- deploy --------------------------------------------------------------------------------------------------


@app.command()
@errors_told()
def deploy(
    stack: StackFilter = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    is_sure: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before something is changed.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """
    Bring the stacks to their templates, the shared one first.

    The code of the Lambdas is uploaded if it is not there, then each stack gets a change set, which is shown, asked for
    and carried out; its events are told on standard error. A bucket that outlived its stack is taken in. What fails is
    rolled back by CloudFormation, and told with the reason of the resource that failed. Running it again goes on.
    """
    blueprint, stacks = _planned(sources, only=stack)
    if not is_dry_run:
        _upload_code(blueprint)
    client, upload = _client("cloudformation", blueprint), _upload(blueprint)
    done: list[dict[str, object]] = []
    for item in stacks:
        if is_dry_run:
            difference = _difference(client, item, upload=upload)
        else:
            difference = _deploy(client, item, blueprint=blueprint, upload=upload, is_sure=is_sure or as_json)
        if not as_json:
            _print_differences([difference], count=1)
        done.append(difference.as_document)
    if as_json:
        print_json({"is_dry_run": is_dry_run, "stacks": done})


def _deploy(
    client: Any, stack: "Stack", *, blueprint: "Blueprint", upload: "Upload", is_sure: bool
) -> Difference:
    from infra.deploy import carry_out, propose, take_in_bucket, withdraw
    from infra.templates import bucket_template

    bucket = stack.bucket
    if bucket is not None:
        take_in_bucket(
            client,
            stack.name,
            bucket_template(bucket=bucket),
            bucket=bucket,
            bucket_exists=lambda: _bucket_exists(_client("s3", blueprint), bucket),
        )
    change_set = propose(client, stack.name, stack.template, upload=upload)
    if change_set is None:
        return Difference(stack.name, is_new=False, changes=())
    try:
        if not is_sure:
            _ask(change_set)
    except BaseException:
        withdraw(client, change_set)
        raise
    carry_out(client, change_set, on_event=_tell)
    return Difference(stack.name, change_set.is_new, change_set.changes)


def _ask(change_set: "ChangeSet") -> None:
    _print_differences([Difference(change_set.stack, change_set.is_new, change_set.changes)], count=1)
    sys.stdout.flush()
    require_typed(change_set.stack, called="the name of the stack")


def _tell(event: "StackEvent") -> None:
    reason = f": {event.reason}" if event.reason else ""
    remark(f"{event.stack}  {event.status:<28} {event.logical_id} ({event.resource_type}){reason}")


def _bucket_exists(client: Any, bucket: str) -> bool:
    from botocore.exceptions import ClientError

    try:
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise ConfigurationError(
            f"bucket {bucket}: expected one of this account, or none, found one that you may not look at: {error}"
        ) from error
    return True


# ---- where services run --------------------------------------------------------------------------------------


@app.command()
@errors_told()
def environment(sources: SourcesOption = DEFAULT_SOURCES, as_json: JsonOption = False) -> None:
    """
    Print the settings of the deployed fleet for its services: a line for each variable, as docker and systemd read them.

    The URLs of the queues are those of the shared stack; all else is what is set here. No secret is among them.
    """
    blueprint, _ = _planned(sources)
    variables = _environment(blueprint, _outputs(blueprint))
    if as_json:
        print_json(variables)
        return
    for name, value in variables.items():
        typer.echo(f"{name}={value}")


@app.command()
@errors_told()
def host(
    registry: Annotated[
        str,
        typer.Option(
            "--registry",
            metavar="HOST",
            help="Where images are pulled from: 111122223333.dkr.ecr.eu-west-1.amazonaws.com.",
        ),
    ],
    tag: Annotated[str, typer.Option("--tag", metavar="TAG", help="Which images.")],
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run", metavar="SERVICE=COUNT", help="How many of a service; one of each if absent. Repeatable."
        ),
    ] = None,
    sources: SourcesOption = DEFAULT_SOURCES,
    as_json: JsonOption = False,
) -> None:
    """
    Print the user data of an EC2 instance that runs the services and cron: a cloud-config for Amazon Linux 2023.

    It pulls the images, fetches the source files from `sources/` in the bucket of the code, starts a unit of systemd for
    each service, in the role of that service, and has cron enqueue, count, compare and compact.
    """
    from infra.host import Host, user_data

    blueprint, _ = _planned(sources)
    outputs = _outputs(blueprint)
    text = user_data(
        Host(
            region=blueprint.region,
            registry=registry,
            tag=tag,
            source_bucket=blueprint.bucket,
            role_arns=_role_arns(outputs),
            environment=_environment(blueprint, outputs),
            counts=_counts(run or []),
        )
    )
    if as_json:
        print_json({"user_data": text})
    else:
        typer.echo(text, nl=False)


def _counts(words: Sequence[str]) -> dict[str, int]:
    from infra.host import SERVICES

    counts = {} if words else dict.fromkeys(SERVICES, 1)
    for word in words:
        service, _, count = word.partition("=")
        if service not in SERVICES or not count.isascii() or not count.isdigit():
            raise ConfigurationError(
                f"--run: expected one of {', '.join(SERVICES)}, an equals sign and a number, found {word!r}"
            )
        counts[service] = int(count)
    return counts


def _role_arns(outputs: Mapping[str, str]) -> dict[str, str]:
    from infra.names import logical_id
    from infra.plan import SERVICE_ROLES

    return {role: outputs[logical_id(role, "role", "arn")] for role in SERVICE_ROLES}


def _environment(blueprint: "Blueprint", outputs: Mapping[str, str]) -> dict[str, str]:
    """
    Return what is set here, with the URLs of the queues. What is about a person's place, or the deployment, is not.

    Only settings: any other variable may be what a reference `env:ESCLUSA_…` names, a secret.
    """
    from cli.settings_page import variables
    from infra.names import logical_id
    from shared.ports import QueueName

    urls = {str(queue): outputs[logical_id(queue, "queue", "url")] for queue in QueueName}
    own = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("ESCLUSA_") and name in variables() - {"ESCLUSA_QUEUE_URLS", "ESCLUSA_ALIVE_FILE"}
    }
    return {
        **own,
        "ESCLUSA_REGION": blueprint.region,
        "ESCLUSA_BUCKET_PREFIX": blueprint.plan.prefix,
        "ESCLUSA_QUEUE_URLS": json.dumps(urls, separators=(",", ":")),
    }


def _outputs(blueprint: "Blueprint") -> dict[str, str]:
    from infra.deploy import outputs_of
    from infra.names import stack_name

    return outputs_of(_client("cloudformation", blueprint), stack_name(blueprint.plan.prefix))


# ---- what is deployed, and clients -----------------------------------------------------------------------------


def _planned(directory: Path, *, only: Sequence[str] | None = None) -> "tuple[Blueprint, list[Stack]]":
    from cli.infra_plan import read_all_sources, read_blueprint, stacks_of

    blueprint = read_blueprint()
    stacks = stacks_of(blueprint.plan, read_all_sources(directory))
    names = [stack.name for stack in stacks]
    for name in only or ():
        if name not in names:
            raise ConfigurationError(f"--stack: expected one of {', '.join(names)}, found {name!r}")
    return blueprint, [stack for stack in stacks if not only or stack.name in only]


def _client(service: str, blueprint: "Blueprint") -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 5})
    try:
        return boto3.session.Session().client(service, region_name=blueprint.region, config=config)  # type: ignore[call-overload]
    except BotoCoreError as error:
        raise ConfigurationError(f"the settings of the AWS client (AWS_*): {error}") from error


def _upload(blueprint: "Blueprint") -> "Upload":
    from infra.uploads import uploading_to

    return uploading_to(_client("s3", blueprint), blueprint.bucket)


def _upload_code(blueprint: "Blueprint") -> None:
    from infra.plan import PackagedCode
    from infra.uploads import upload_code

    code, file = blueprint.plan.code, blueprint.code_file
    if not isinstance(code, PackagedCode) or file is None:
        return
    if upload_code(_client("s3", blueprint), code.bucket, code.key, file):
        remark(f"uploaded {file} as s3://{code.bucket}/{code.key}")
