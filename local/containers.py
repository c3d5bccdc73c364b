"""
The embedded stack in containers: what `docker-compose.yml` runs of the image `esclusa-local`. Not for production.

    python -m local.containers secrets      make the passwords of this deployment, each in a file, unless they are there
    python -m local.containers aws          serve AWS
    python -m local.containers provision    bring secrets, queues, Lambdas and buckets to what the sources need
    python -m local.containers scheduler    call the sweeper every few seconds
    python -m local.containers shop         fill the sample shop
    python -m local.containers writer       change the sample shop for a time, as an application would
    python -m local.containers crm          serve the sample CRM
    python -m local.containers compare      compare sources and warehouse row by row

The parts are those of `local.stack`; here each is in a container of its own, and reached by its name. Passwords are
in files below /run/secrets, one volume for each part that needs some, and never in an environment.
"""

import argparse
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

import psycopg

from local import aws, crm, scheduler, shop
from local.passwords import PASSWORD_BYTES
from local.postgres import (
    CONTROL_DATABASE,
    SHOP_DATABASE,
    SHOP_READER,
    WAREHOUSE_DATABASE,
    DatabaseSpec,
    create_reader,
)
from local.proof import compare
from local.provision import fleet_environment, provision, queue_urls_of
from local.shop import ShopSize, fill_shop
from local.stack import MASK_KEY_IDS, Addresses
from shared.catalog import load_sources
from shared.errors import ConfigurationError, EsclusaError, Unavailable
from shared.fleet import Fleet
from shared.settings import FleetSettings
from shared.telemetry.logs import configure_logging

SECRETS: Final = Path("/run/secrets")
DATA: Final = Path("/var/lib/esclusa")
#: What signs the certificate of the sample CRM, behind the authorities that everybody knows.
AUTHORITIES: Final = Path("/etc/esclusa/certificates/authorities.pem")
KNOWN_AUTHORITIES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
CRM_CERTIFICATE: Final = "crm/key-and-certificate.pem"
#: Every interface, of a container: which of its ports are published, and to whom, docker-compose.yml says.
EVERY_INTERFACE: Final = "0.0.0.0"  # noqa: S104

# The services of docker-compose.yml.
AWS_HOST, AWS_PORT = "aws", 4566
CRM_HOST, CRM_PORT = "crm", 8443
CONTROL_HOST, WAREHOUSE_HOST, SHOP_HOST = "control-db", "warehouse-db", "shop-db"

#: Lambdas, too, start beside a dozen containers that start, on whatever machine it is.
FUNCTION_TIMEOUT_SECONDS: Final = 60

#: Each secret is a file, in the directory of the part that it opens.
SECRET_FILES: Final = (
    "control/password",
    "warehouse/password",
    "shop/owner-password",
    "shop/reader-password",
    "crm/token",
    *(f"mask/{name}" for name in MASK_KEY_IDS),
)


def environment_of_fleet() -> dict[str, str]:
    """Return the settings of all processes of the fleet in containers. docker-compose.yml has the same."""
    urls = queue_urls_of(aws.endpoint_url(AWS_PORT, host=AWS_HOST))
    return fleet_environment(aws.client_environment(AWS_PORT, host=AWS_HOST), urls)


def addresses(directory: Path = SECRETS) -> Addresses:
    """
    Return where the parts are reached from a container that all secrets are mounted in.

    Raises:
        ConfigurationError: if one is missing.
    """

    def dsn(host: str, database: DatabaseSpec, role: str, file: str) -> str:
        return f"postgresql://{role}:{_secret(directory, file)}@{host}:5432/{database.name}"

    return Addresses(
        crm_url=f"https://{CRM_HOST}:{CRM_PORT}",
        aws_environment=aws.client_environment(AWS_PORT, host=AWS_HOST),
        control_dsn=dsn(CONTROL_HOST, CONTROL_DATABASE, CONTROL_DATABASE.owner, "control/password"),
        warehouse_dsn=dsn(WAREHOUSE_HOST, WAREHOUSE_DATABASE, WAREHOUSE_DATABASE.owner, "warehouse/password"),
        shop_owner_dsn=dsn(SHOP_HOST, SHOP_DATABASE, SHOP_DATABASE.owner, "shop/owner-password"),
        shop_reader_dsn=dsn(SHOP_HOST, SHOP_DATABASE, SHOP_READER.role, "shop/reader-password"),
        crm_token=_secret(directory, "crm/token"),
        mask_keys={name: _secret(directory, f"mask/{name}") for name in MASK_KEY_IDS},
    )


def _secret(directory: Path, name: str) -> str:
    try:
        return (directory / name).read_text()
    except OSError as error:
        raise ConfigurationError(
            f"{directory / name}: expected a secret, found: {error.strerror}; the service `secrets` makes it, and its "
            "volume has to be mounted"
        ) from error


# ---- what runs once ------------------------------------------------------------------------------------------


def make_secrets(directory: Path = SECRETS, *, authorities: Path = AUTHORITIES) -> int:
    """Make what is missing. What is there stays: the data of the databases is opened with it."""
    for name in SECRET_FILES:
        if not (directory / name).exists():
            # Hexadecimal: it needs no quoting in a DSN, a shell or SQL.
            _write_once(directory / name, secrets.token_hex(PASSWORD_BYTES).encode())
    if not (directory / CRM_CERTIFICATE).exists() or not authorities.exists():
        _make_certificate(directory / CRM_CERTIFICATE, authorities)
    return 0


def _make_certificate(file: Path, authorities: Path) -> None:
    """Make a certificate for the sample CRM: a token is never sent to another machine in clear."""
    import trustme

    authority = trustme.CA()
    known = KNOWN_AUTHORITIES.read_bytes() if KNOWN_AUTHORITIES.exists() else b""
    _write_once(authorities, known + authority.cert_pem.bytes())
    _write_once(file, authority.issue_cert(CRM_HOST).private_key_and_cert_chain_pem.bytes())


def _write_once(file: Path, content: bytes) -> None:
    """Write a file whole or not at all. Whoever mounts its volume may read it; who that is, docker-compose.yml says."""
    draft = file.with_name(f"{file.name}.new")
    draft.write_bytes(content)
    draft.chmod(0o444)
    draft.rename(file)
    sys.stdout.write(f"made {file}\n")


def provision_fleet(sources: Path) -> int:
    """
    Bring secrets and stacks to what the source files need, and make sure that the fleet's settings are those.

    Raises:
        ConfigurationError: if a setting of the fleet is another one than what was provisioned.
    """
    provisioned = provision(
        addresses(),
        load_sources(sources).sources,
        function_timeout=timedelta(seconds=FUNCTION_TIMEOUT_SECONDS),
    )
    for name, value in provisioned.environment.items():
        if os.environ.get(name) != value:
            raise ConfigurationError(
                f"docker-compose.yml, {name}: expected {value!r}, found {os.environ.get(name)!r}"
            )
    sys.stdout.write(f"provisioned, {'with' if provisioned.has_changed else 'without'} changes\n")
    return 0


def fill_sample_shop(size: ShopSize) -> int:
    """Fill the shop unless it is filled, and let the reader in."""
    places = addresses()
    is_new = fill_shop(places.shop_owner_dsn, size=size)
    create_reader(places.shop_owner_dsn, SHOP_READER, password=_secret(SECRETS, "shop/reader-password"))
    sys.stdout.write(f"the sample shop {'was filled' if is_new else 'was filled before'}\n")
    return 0


def write_to_shop(seconds: float) -> int:
    """Change the shop for a time, and print what was committed."""
    os.environ[shop.DSN_VARIABLE] = addresses().shop_owner_dsn
    return shop.main(["writer", "--seconds", str(seconds)])


def compare_rows(sources: Path) -> int:
    """Print how each table of the samples compares, a line of JSON each, and return 1 if one differs."""
    fleet, places = Fleet.connect(FleetSettings()), addresses()
    is_equal = True
    for source in load_sources(sources).sources:
        for contract in source.contracts():
            with fleet.ledger.transaction() as tx:
                planned_until = tx.watermark(contract.source, contract.table)
            if planned_until is None:
                raise Unavailable(f"{contract.source}.{contract.table} was never planned; enqueue it first")
            name = f"{contract.source}.{contract.table}"
            try:
                found = compare(contract, stack=places, planned_until=planned_until)
            except psycopg.errors.UndefinedTable as error:
                raise Unavailable(
                    f"{name} is not in the warehouse yet: nothing of it was published"
                ) from error
            is_equal = is_equal and found.is_equal
            sys.stdout.write(json.dumps({"table": name, "is_equal": found.is_equal, **asdict(found)}) + "\n")
    return 0 if is_equal else 1


# ---- what runs on --------------------------------------------------------------------------------------------


def serve_aws() -> NoReturn:
    """Become the local AWS server."""
    directory = DATA / "aws"
    aws.prepare_directory(directory)
    environment = aws.server_environment(directory, AWS_PORT, host=AWS_HOST, bind_host=EVERY_INTERFACE)
    os.execve(aws.COMMAND[0], list(aws.COMMAND), {**os.environ, **environment})  # noqa: S606  no shell


def serve_crm(changes_per_second: float) -> int:
    """Serve the sample CRM until SIGTERM."""
    os.environ[crm.TOKEN_VARIABLE] = _secret(SECRETS, "crm/token")
    return crm.main(
        [
            *("--port", str(CRM_PORT), "--host", CRM_HOST, "--bind-host", EVERY_INTERFACE),
            *("--certificate", str(SECRETS / CRM_CERTIFICATE)),
            *("--journal", str(DATA / "crm.jsonl"), "--changes-per-second", str(changes_per_second)),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of these things. 0 if all is well, 1 if rows differ, 2 if a setting is wrong, 3 if a part is away."""
    parser = argparse.ArgumentParser(
        prog="python -m local.containers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, work: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        return command

    add("secrets", lambda _: make_secrets())
    add("aws", lambda _: serve_aws())
    add("provision", lambda chosen: provision_fleet(chosen.sources))
    add("scheduler", lambda _: scheduler.main())
    filling = add(
        "shop", lambda chosen: fill_sample_shop(ShopSize(chosen.customers, chosen.products, chosen.orders))
    )
    for field, default in asdict(ShopSize()).items():
        filling.add_argument(f"--{field}", type=int, default=default)
    add("writer", lambda chosen: write_to_shop(chosen.seconds)).add_argument(
        "--seconds", type=float, default=30.0
    )
    add("crm", lambda chosen: serve_crm(chosen.changes_per_second)).add_argument(
        "--changes-per-second", type=float, default=0.5
    )
    add("compare", lambda chosen: compare_rows(chosen.sources))
    for name in ("provision", "compare"):
        commands.choices[name].add_argument(
            "--sources", type=Path, default=Path(os.environ.get("ESCLUSA_SOURCES", "sources"))
        )
    chosen = parser.parse_args(arguments)
    configure_logging("local")
    try:
        done: int = chosen.work(chosen)
    except Unavailable as error:
        sys.stderr.write(f"unavailable: {error}\n")
        return 3
    except EsclusaError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return done


if __name__ == "__main__":
    sys.exit(main())
