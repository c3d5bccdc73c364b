"""What a test needs of the machine. Where it may be missing it is asked for here."""

import os
from typing import NoReturn

import pytest

#: Set by CI, which must have everything.
SKIP_NOTHING = "ESCLUSA_TESTS_SKIP_NOTHING"


def lacking(what: str, *, cure: str) -> NoReturn:
    """Skip a test that needs what this machine lacks; where nothing may be skipped, fail it."""
    told = f"this machine lacks {what}; {cure}"
    if os.environ.get(SKIP_NOTHING):
        pytest.fail(told, pytrace=False)
    pytest.skip(told)


def has_odbc() -> bool:
    """Return whether this machine has what the drivers of Python for ODBC are linked to; pip does not bring it."""
    try:
        import arrow_odbc  # noqa: F401
        import pyodbc  # noqa: F401
    except ImportError:
        return False
    return True


def require_odbc_driver(name: str) -> None:
    """Skip the test if this machine has not the ODBC driver of a name."""
    cure = "apt-get install unixodbc odbc-postgresql odbc-mariadb libsqliteodbc"
    if not has_odbc():
        lacking("unixODBC", cure=cure)
    import pyodbc

    if name not in pyodbc.drivers():
        lacking(f"the ODBC driver {name!r}", cure=cure)
