"""What the commands are connected to, and by which settings: the environment, or the embedded stack's."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from services.publisher.catalog import LakeCatalog
    from services.publisher.warehouse import Warehouse
    from shared.fleet import Fleet
    from shared.ports import QueueInspector, SecretStore
    from shared.settings import FleetSettings

LEDGER_VARIABLE = "ESCLUSA_LEDGER_DSN"
ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"

SourcesOption = Annotated[
    Path,
    typer.Option("--sources", metavar="DIR", envvar="ESCLUSA_SOURCES", help="Where the source files are."),
]
SourceFilter = Annotated[
    str | None, typer.Option("--source", metavar="NAME", help="Only what belongs to this source.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else on standard output.")]

DEFAULT_SOURCES = Path("sources")


def connect_fleet() -> "Fleet":
    """
    Connect to ledger, buckets, queues and secrets. Each is spoken to at first use.

    Raises:
        ConfigurationError: if a setting is missing or wrong; the message names each.
        SecretNotFound: if the reference to the ledger's DSN leads nowhere.
    """
    from botocore.exceptions import BotoCoreError

    from shared.fleet import Fleet

    settings = read_settings()
    try:
        return Fleet.connect(settings)
    except BotoCoreError as error:
        raise ConfigurationError(f"the settings of the AWS client (AWS_*): {error}") from error


def open_secrets() -> "SecretStore":
    """
    Return where references lead, for commands that need no fleet.

    Raises:
        ConfigurationError: if what is said to be certificates of authorities is none.
        SecretNotFound: if the reference to them leads nowhere.
        Unavailable: if the store behind it does not answer.
    """
    from shared.certificates import trust_authorities
    from shared.secrets.resolver import SecretResolver
    from shared.settings import FleetSettings

    use_local_stack()
    default = FleetSettings.model_fields["region"].default
    secrets = SecretResolver(region=os.environ.get("ESCLUSA_REGION") or default)
    trust_authorities(secrets, os.environ.get("ESCLUSA_CA_CERTIFICATES", ""))
    return secrets


def inspect_queues(fleet: "Fleet") -> "QueueInspector":
    """Look into the fleet's queues."""
    from shared.queues.sqs import SqsInspector, make_metrics_client, make_sqs_client

    region = fleet.settings.region
    return SqsInspector(
        make_sqs_client(region), fleet.settings.queue_urls, metrics=make_metrics_client(region)
    )


def open_warehouse(fleet: "Fleet") -> "Warehouse":
    """
    Return the warehouse.

    Raises:
        ConfigurationError: if its setting is missing.
        SecretNotFound: if the reference to its DSN leads nowhere.
    """
    from services.publisher.app import connect_warehouse

    with settings_named():
        return connect_warehouse(fleet)


def open_catalog(fleet: "Fleet") -> "LakeCatalog":
    """Return the catalog of the lake."""
    from services.publisher.app import connect_catalog

    return connect_catalog(fleet)


@dataclass(frozen=True, slots=True)
class Connections:
    """How commands reach what they work on. Tests hand others in, as the object of the context."""

    fleet: Callable[[], "Fleet"] = connect_fleet
    secrets: Callable[[], "SecretStore"] = open_secrets
    queues: Callable[["Fleet"], "QueueInspector"] = inspect_queues
    warehouse: Callable[["Fleet"], "Warehouse"] = open_warehouse
    catalog: Callable[["Fleet"], "LakeCatalog"] = open_catalog


def connections_of(context: typer.Context) -> Connections:
    """Return the connections of a command."""
    return context.find_object(Connections) or Connections()


def read_settings() -> "FleetSettings":
    """
    Read the settings of the fleet from the environment, or from the embedded stack's if that is all there is.

    Raises:
        ConfigurationError: if one is missing or wrong; the message names each.
    """
    from shared.settings import FleetSettings

    use_local_stack()
    endpoint = os.environ.get(ENDPOINT_VARIABLE, "")
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"{ENDPOINT_VARIABLE}: expected a URL that begins with http:// or https://, found {endpoint!r}"
        )
    with settings_named():
        return FleetSettings()


def use_local_stack() -> None:
    """Take the settings of the embedded stack, if no ledger is named and the stack was ever up."""
    if os.environ.get(LEDGER_VARIABLE):
        return
    environment = _environment_of_local_stack()
    if environment:
        # No profile or endpoint of the person at the keyboard may lead to a real account.
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(environment)


def _environment_of_local_stack() -> dict[str, str]:
    try:
        from local.fleet import ENVIRONMENT_FILE, read_environment
        from local.processes import Home
    except ModuleNotFoundError:
        # Installed without the extra `local`: there is no embedded stack here.
        return {}
    home = Home.find()
    try:
        return read_environment(home)
    except ValueError as error:
        raise ConfigurationError(
            f"{home.path / ENVIRONMENT_FILE}: expected JSON, found something else; `esclusa up` writes it anew"
        ) from error


@contextmanager
def settings_named(prefix: str = "ESCLUSA_") -> Iterator[None]:
    """
    Tell what is wrong with settings by the names under which people set them.

    Raises:
        ConfigurationError: in place of Pydantic's errors. Values are not shown: one might be a secret.
    """
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    try:
        yield
    except ValidationError as error:
        problems = [
            _sentence(problem["loc"], problem["type"], problem["msg"], prefix=prefix)
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise ConfigurationError("\n".join(problems)) from None
    except SettingsError as error:
        # It names the field in quotation marks: `error parsing value for field "queue_urls" from …`.
        field = str(error).split('"')[1] if '"' in str(error) else "a setting"
        raise ConfigurationError(f"{_variable(field, prefix)}: expected JSON, found another text") from None


def _sentence(path: tuple[int | str, ...], kind: str, message: str, *, prefix: str) -> str:
    if not path:
        return message.removeprefix("Value error, ")
    name = _variable(str(path[0]), prefix) + "".join(f".{step}" for step in path[1:] if step != "[key]")
    if kind != "missing":
        return f"{name}: {message[0].lower()}{message[1:]}, found another value"
    advice = "set it in the environment, or start the embedded stack with `esclusa up`"
    return f"{name}: expected a value, found nothing; {advice}"


def _variable(field: str, prefix: str) -> str:
    return field if field.isupper() else f"{prefix}{field.upper()}"
