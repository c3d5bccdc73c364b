"""Real servers for the tests, all on loopback and on free ports; one of each to a test process."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql
from support.mariadb import MariaDbServer
from support.needs import SKIP_NOTHING, has_odbc
from xdist.scheduler import LoadScopeScheduling

from local import aws
from local.ports import find_free_port
from local.postgres import EmbeddedPostgres
from local.processes import Home, supervise
from shared.telemetry.logs import let_go_of_ids

#: What is about the drivers of ODBC themselves cannot even be imported without them.
ABOUT_ODBC = ["unit/test_sql_drivers.py", "integration/test_extract_mariadb.py"]
collect_ignore = [] if has_odbc() or os.environ.get(SKIP_NOTHING) else ABOUT_ODBC


def pytest_report_header() -> list[str]:
    """Say what is left out."""
    return [f"this machine lacks unixODBC: left out {', '.join(collect_ignore)}"] if collect_ignore else []


#: They run whole fleets: ten processes each, and more than one fleet at a time is too much for a small machine.
WITH_A_FLEET = ("tests/e2e/", "tests/chaos/")
#: Thereafter come those that wait for servers, and last the many quick ones, which leave no process idle at the end.
ORDER = (*WITH_A_FLEET, "tests/integration/", "tests/contract/", "tests/unit/", "tests/house/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes long."""
    items.sort(
        key=lambda item: next(
            (n for n, start in enumerate(ORDER) if item.nodeid.startswith(start)), len(ORDER)
        )
    )


class FleetApart(LoadScopeScheduling):  # type: ignore[misc]
    """Shares tests among processes: all with a fleet to one of them, of the others a file at a time."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(WITH_A_FLEET):
            return "fleet"
        # Simulations take long and have nothing in common.
        return nodeid if "/test_simulation" in nodeid else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FleetApart:
    """Tell xdist how tests are shared."""
    return FleetApart(config, log)


@pytest.fixture(autouse=True)
def _logs_as_they_come() -> Iterator[None]:
    """Whatever a test, or a program run in it, configured of the logs ends with it."""
    structlog.reset_defaults()
    let_go_of_ids()
    yield
    structlog.reset_defaults()
    let_go_of_ids()


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A directory that every user may pass through: PostgreSQL runs as another one if the tests run as root."""
    directory = Path(tempfile.mkdtemp(prefix="esclusa-tests-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server without durability, for the whole session."""
    with EmbeddedPostgres(server_directory / "postgres", find_free_port(), durable=False) as server:
        yield server


@pytest.fixture
def fresh_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a new, empty database; the role owns everything. It is dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield postgres_server.dsn(name)
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def redshift_database(postgres_server: EmbeddedPostgres) -> str:
    """The DSN of a database that stands in for Redshift; each test cleans it."""
    with psycopg.connect(postgres_server.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE redshift_stand_in")
    return postgres_server.dsn("redshift_stand_in")


@pytest.fixture(scope="session")
def mariadb_server(server_directory: Path) -> Iterator[MariaDbServer]:
    """A MariaDB server without durability, for the whole session."""
    with MariaDbServer(server_directory / "mariadb", find_free_port()) as server:
        yield server


@pytest.fixture
def fresh_mariadb_database(mariadb_server: MariaDbServer) -> Iterator[str]:
    """The name of a new, empty database of `mariadb_server`. It is dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    mariadb_server.run(f"CREATE DATABASE {name}")
    yield name
    mariadb_server.run(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def ministack(server_directory: Path) -> Iterator[str]:
    """The base URL of a local AWS server with nothing in it, for the whole session."""
    home, port = Home(server_directory / "aws"), find_free_port()
    with supervise(home, purpose="tests") as supervisor:
        aws.start(supervisor, port)
        yield aws.endpoint_url(port)
        supervisor.stop_all()


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """The base URL of moto, the second opinion on AWS in the contract tests, for the whole session."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws_env(ministack: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment with which boto3 reaches the local AWS server, set for this test and returned."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    environment = aws.client_environment(int(ministack.rpartition(":")[2]))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment
