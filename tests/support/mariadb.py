"""MariaDB for the tests: the server of the distribution, run as a child process of ours on loopback."""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymysql
from support.needs import lacking

from local.ports import LOOPBACK

INSTALL_SECONDS = 120
START_SECONDS = 60
STOP_SECONDS = 20
#: Debian puts it where only root looks.
SERVER_DIRECTORIES = os.pathsep.join(
    [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/usr/libexec"]
)

OWNER = "owner"


class MariaDbServer:
    """
    One server with its data below a directory. A context manager.

    Durability and the binary log are off: its data is thrown away.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self.port = port
        self.password = secrets.token_hex(12)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._install()
        log = (self._directory / "server.log").open("wb")
        with log:
            self._process = subprocess.Popen(
                [_binary("mariadbd"), *self._options(), f"--init-file={self._first_statements()}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def run(self, *statements: str, database: str | None = None) -> None:
        """Run statements as the owner of everything."""
        with closing(self.connect(database=database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def rows(self, query: str, *, database: str | None = None) -> Sequence[tuple[Any, ...]]:
        """Return the rows of a query, as the owner of everything."""
        with closing(self.connect(database=database)) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall()

    def connect(self, *, database: str | None = None, **options: Any) -> "pymysql.Connection[Any]":
        """Return a session of the owner of everything, in UTF-8 and committing each statement."""
        return pymysql.connect(
            host=LOOPBACK,
            port=self.port,
            user=OWNER,
            password=self.password,
            database=database,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=5,
            **options,
        )

    def _install(self) -> None:
        command = [_binary("mariadb-install-db"), *self._options(), "--skip-test-db"]
        command.append("--auth-root-authentication-method=normal")
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=INSTALL_SECONDS)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"

    def _options(self) -> list[str]:
        return [
            "--no-defaults",
            f"--datadir={self._directory / 'data'}",
            *(["--user=root"] if os.geteuid() == 0 else []),
            f"--socket={self._directory / 'socket'}",
            f"--pid-file={self._directory / 'pid'}",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port}",
            "--skip-log-bin",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--character-set-server=utf8mb4",
        ]

    def _first_statements(self) -> Path:
        file = self._directory / "init.sql"
        file.write_text(
            f"CREATE USER '{OWNER}'@'%' IDENTIFIED BY '{self.password}';\n"
            f"GRANT ALL ON *.* TO '{OWNER}'@'%' WITH GRANT OPTION;\nDROP USER 'root'@'localhost';\n"
        )
        return file

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.connect().close()
            except pymysql.OperationalError:
                has_ended = self._process is None or self._process.poll() is not None
                if has_ended or time.monotonic() > deadline:
                    raise AssertionError((self._directory / "server.log").read_text()[-4000:]) from None
                time.sleep(0.1)
            else:
                return

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _binary(name: str) -> str:
    found = shutil.which(name, path=SERVER_DIRECTORIES)
    if found is None:
        lacking(f"the MariaDB server ({name})", cure="apt-get install mariadb-server")
    return found
