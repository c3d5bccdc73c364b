"""What `esclusa discover` asks of which kind of source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.extractor.dialects import DialectName
from shared.domain.contracts import SourceKind
from shared.errors import ConfigurationError

if TYPE_CHECKING:
    from shared.ports import SecretStore


@dataclass(frozen=True, slots=True)
class Address:
    """A source as the command line names it."""

    source: str
    kind: SourceKind
    #: Of the DSN, connection string, URL or base URL.
    reference: str
    dialect: DialectName | None = None
    schemas: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    #: A reference too.
    token: str | None = None
    #: `key=value`.
    options: tuple[str, ...] = ()


#: What the file calls the reference to the address of a source.
_CONNECTION_KEYS = {SourceKind.ODBC: "connection_string", SourceKind.SQLALCHEMY: "url"}


def discovered_text(address: Address, *, secrets: "SecretStore") -> str:
    """
    Return the source file of a live source.

    Raises:
        ConfigurationError: if an option is missing, or is none of the kind's; or what it names is wrong.
        Unavailable: if the source does not answer.
    """
    _require_options_of_kind(address)
    match address.kind:
        case SourceKind.POSTGRES:
            from services.extractor.discovery.postgres import discover_postgres

            return discover_postgres(
                secrets.resolve(address.reference),
                source=address.source,
                reference=address.reference,
                schemas=address.schemas or None,
            )
        case SourceKind.REST:
            return _discovered_rest(address, secrets=secrets)
        case _:
            return _discovered_sql(address, secrets=secrets)


def _require_options_of_kind(address: Address) -> None:
    is_sql, is_rest = address.kind in _CONNECTION_KEYS, address.kind is SourceKind.REST
    # Whether it was given, is allowed, is needed.
    told = {
        "--dialect": (address.dialect is not None, is_sql, False),
        "--schema": (bool(address.schemas), not is_rest, False),
        "--path": (bool(address.paths), is_rest, is_rest),
        "--token": (address.token is not None, is_rest, False),
        "--option": (bool(address.options), is_rest, False),
    }
    for name, (is_given, is_allowed, is_needed) in told.items():
        if is_given and not is_allowed:
            raise ConfigurationError(f"{name}: expected none for a source of kind {address.kind}, found one")
        if is_needed and not is_given:
            raise ConfigurationError(
                f"{name}: a source of kind {address.kind} needs it; see `esclusa discover --help`"
            )


def _discovered_sql(address: Address, *, secrets: "SecretStore") -> str:
    from services.extractor.dialects.registry import dialect_of
    from services.extractor.discovery.proposals import CONNECT_TIMEOUT_SECONDS
    from services.extractor.discovery.sql import discover_sql
    from services.extractor.readers.sql import driver_of

    connection = {_CONNECTION_KEYS[address.kind]: address.reference}
    if address.dialect is None:
        raise ConfigurationError(f"--dialect: a source of kind {address.kind} needs it")
    dialect = dialect_of(address.dialect)
    driver = driver_of(
        address.kind,
        connection,
        dialect=dialect.name,
        secrets=secrets,
        connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
        place=f"source {address.source!r}",
    )
    return discover_sql(
        driver,
        dialect,
        source=address.source,
        kind=address.kind,
        connection=connection,
        schemas=address.schemas or None,
    )


def _discovered_rest(address: Address, *, secrets: "SecretStore") -> str:
    from services.extractor.discovery.rest import discover_rest, fetch_samples

    samples = fetch_samples(
        address.paths,
        source=address.source,
        base_url=secrets.resolve(address.reference),
        token=None if address.token is None else secrets.resolve(address.token),
        options=_options(address),
    )
    return discover_rest(
        samples, source=address.source, base_url=address.reference, token=address.token or ""
    )


def _options(address: Address) -> dict[str, str]:
    from pydantic import ValidationError

    from shared.catalog.forms import RestOptionsForm

    options: dict[str, str] = {}
    for text in address.options:
        key, separator, value = text.partition("=")
        if not separator:
            raise ConfigurationError(f"--option: expected key=value, found {text!r}")
        options[key] = value
    try:
        RestOptionsForm.model_validate(options, strict=False)
    except ValidationError as error:
        found = error.errors()[0]
        key = ".".join(map(str, found["loc"]))
        raise ConfigurationError(f"--option {key}: {found['msg']}; see docs/sources.md") from None
    return options
