"""The ports of the embedded stack: one block, so that two stacks on one machine differ in one number."""

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import psutil

from shared.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
PORT_BASE_VARIABLE = "ESCLUSA_LOCAL_PORT_BASE"
DEFAULT_PORT_BASE = 45660
LOWEST_PORT_BASE, HIGHEST_PORT_BASE = 1024, 65533


@dataclass(frozen=True, slots=True)
class PortBlock:
    """The consecutive ports of one stack."""

    base: int = DEFAULT_PORT_BASE

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> "PortBlock":
        """
        Return the block that `ESCLUSA_LOCAL_PORT_BASE` names, else the default one.

        Raises:
            ConfigurationError: if the variable is no number, or no port an ordinary user may open.
        """
        text = environment.get(PORT_BASE_VARIABLE) or str(DEFAULT_PORT_BASE)
        if not text.isascii() or not text.isdigit() or not LOWEST_PORT_BASE <= int(text) <= HIGHEST_PORT_BASE:
            raise ConfigurationError(
                f"{PORT_BASE_VARIABLE}: expected a number from {LOWEST_PORT_BASE} to {HIGHEST_PORT_BASE}, "
                f"found {text!r}"
            )
        return cls(int(text))

    @property
    def aws(self) -> int:
        return self.base

    @property
    def postgres(self) -> int:
        return self.base + 1

    @property
    def crm(self) -> int:
        return self.base + 2


def require_free_port(port: int, *, purpose: str) -> None:
    """
    Check that a server can listen on a port.

    Raises:
        ConfigurationError: if another process holds it. The message names the process, if that can be seen.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a connection that ended a moment ago does not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise
            raise ConfigurationError(
                f"port {port} on {LOOPBACK}, wanted for {purpose}, is taken by {describe_holder(port)}; "
                f"stop that process, or choose another block of ports with {PORT_BASE_VARIABLE} "
                f"(the default is {DEFAULT_PORT_BASE})"
            ) from error


def describe_holder(port: int) -> str:
    """Return which process listens on a port, as far as this user may see."""
    with suppress(psutil.AccessDenied):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                with suppress(psutil.Error):
                    return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "a process that this user may not see"


def find_free_port() -> int:
    """Return a port that is free at this instant. For tests: somebody else may take it before you do."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    """Return whether something listens on a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
