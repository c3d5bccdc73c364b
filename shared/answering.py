"""
Connections to PostgreSQL that are given up when nobody answers.

`statement_timeout` is kept by the server, and a server that hangs keeps nothing. Keepalives are answered by the kernel
of its host, or of a proxy before it, which may be well while the server is not. So the last word is ours: without a
limit on this side a call waits until its whole process is killed.
"""

from typing import Any, Final

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import _WaitTimeout

from shared.certificates import root_certificate

#: What a server gets beyond its own `statement_timeout` to say that the time is up.
ANSWER_MARGIN_SECONDS: Final = 5.0

#: A peer that vanished without a word is noticed within some 25 seconds, also while we wait for an answer.
KEEPALIVES: Final = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}


class AnsweringConnection(psycopg.Connection[Any]):
    """A connection on which each wait for the server ends. It is closed then: nobody knows its state."""

    #: The longest wait for one answer.
    answer_within_seconds: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """
        Do one thing on the connection.

        Raises:
            psycopg.OperationalError: if no answer came in time; without an SQLSTATE, as when a connection breaks.
        """
        limit = self.answer_within_seconds if timeout is None else timeout
        try:
            return super().wait(gen, interval, limit)
        except _WaitTimeout as error:
            self.close()
            raise psycopg.OperationalError(
                f"no answer within {limit:g} seconds; connection given up"
            ) from error


def connect(
    conninfo: str = "", *, statement_timeout_seconds: float, **parameters: Any
) -> AnsweringConnection:
    """
    Connect to a server that is asked to answer each statement within `statement_timeout_seconds`.

    To set that timeout is left to the caller. `parameters` are those of libpq and of `psycopg.connect`; what
    `conninfo` and they say of keepalives and certificates goes before ours.
    """
    given = conninfo_to_dict(conninfo) | parameters
    ours = {**KEEPALIVES, **root_certificate(given)}
    missing = {name: value for name, value in ours.items() if name not in given}
    connection = AnsweringConnection.connect(conninfo, **missing, **parameters)
    connection.answer_within_seconds = statement_timeout_seconds + ANSWER_MARGIN_SECONDS
    return connection
