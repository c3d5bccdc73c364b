"""What drivers are told, and what of their errors is told on."""

import threading
import time
from collections.abc import Generator

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.dialects import DialectName, Statement
from services.extractor.readers.sql.alchemy import in_paramstyle
from services.extractor.readers.sql.driver import ResultSize, Row, WatchedConnection, error_of
from services.extractor.readers.sql.odbc import secrets_in, traits_of, with_keywords
from shared.catalog.forms import Product
from shared.domain.reasons import Reason
from shared.errors import Refused, SourceConflict, SourceUnavailable

PLACE = "source 'erp', table 'erp.orders'"


# ---- connection strings ------------------------------------------------------------------------------------


def test_what_a_connection_string_says_itself_stays() -> None:
    told = with_keywords("Driver={X};fetch = 7;PWD={a;Fetch=9;b}", {"Fetch": "200", "UseDeclareFetch": "1"})

    assert told == "Driver={X};fetch = 7;PWD={a;Fetch=9;b};UseDeclareFetch=1"


@given(st.text(alphabet="ab;{}=' ", min_size=1))
def test_a_password_is_found_whatever_is_in_it(password: str) -> None:
    escaped = "{" + password.replace("}", "}}") + "}"

    assert password in secrets_in(f"Driver={{X}};UID=reader;Pwd={escaped};Port=3306")


@pytest.mark.parametrize("library", ["psqlodbcw.so", "PSQLODBC35W.DLL", "libmaodbc.so", "libsqlite3odbc.so"])
def test_known_drivers_are_told_to_stream_and_to_speak_utf8(library: str) -> None:
    traits = traits_of(library)

    assert traits.keywords
    assert traits.is_utf8 or traits.is_utf8_by_rows


def test_an_unknown_driver_is_told_nothing() -> None:
    assert dict(traits_of("libsomething.so").keywords) == {}


def test_the_catalogue_knows_every_product_that_has_a_dialect() -> None:
    assert {str(product) for product in Product} == {str(name) for name in DialectName}


# ---- placeholders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paramstyle", "sql"),
    [
        ("qmark", "SELECT `what?%` FROM t WHERE a < ? AND b = '?' AND c >= ?"),
        ("format", "SELECT `what?%%` FROM t WHERE a < %s AND b = '?' AND c >= %s"),
        ("pyformat", "SELECT `what?%%` FROM t WHERE a < %s AND b = '?' AND c >= %s"),
        ("numeric", "SELECT `what?%` FROM t WHERE a < :1 AND b = '?' AND c >= :2"),
        ("numeric_dollar", "SELECT `what?%` FROM t WHERE a < $1 AND b = '?' AND c >= $2"),
        ("named", "SELECT `what?%` FROM t WHERE a < :p1 AND b = '?' AND c >= :p2"),
    ],
)
def test_placeholders_are_written_as_the_driver_has_them_and_names_stay(paramstyle: str, sql: str) -> None:
    statement = Statement("SELECT `what?%` FROM t WHERE a < ? AND b = '?' AND c >= ?", ("1", "2"))

    written, parameters = in_paramstyle(statement, paramstyle)

    assert written == sql
    assert parameters == ({"p1": "1", "p2": "2"} if paramstyle == "named" else ("1", "2"))


# ---- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "state", "code", "reason"),
    [
        (DialectName.MYSQL, "42S02", 1146, Reason.TABLE_MISSING),
        (DialectName.MYSQL, "", 1142, Reason.TABLE_MISSING),
        (DialectName.POSTGRESQL, "42501", 1, Reason.TABLE_MISSING),
        (DialectName.ORACLE, "HY000", 942, Reason.TABLE_MISSING),
        (DialectName.POSTGRESQL, "22P02", 1, Reason.VALUE_NOT_REPRESENTABLE),
    ],
)
def test_what_repeating_cannot_cure_is_refused(
    dialect: DialectName, state: str, code: int, reason: Reason
) -> None:
    error = error_of(PLACE, dialect=dialect, state=state, code=code, message="x")

    assert isinstance(error, Refused)
    assert error.reason is reason


@pytest.mark.parametrize(
    ("dialect", "state", "code"),
    [
        (DialectName.MYSQL, "40001", 1213),
        (DialectName.MYSQL, "HY000", 1412),
        (DialectName.POSTGRESQL, "55P03", 1),
    ],
)
def test_a_source_that_puts_others_first_is_not_blamed(dialect: DialectName, state: str, code: int) -> None:
    assert isinstance(error_of(PLACE, dialect=dialect, state=state, code=code, message="x"), SourceConflict)


def test_words_that_may_hold_values_are_left_out() -> None:
    error = error_of(PLACE, dialect=DialectName.MYSQL, state="45000", code=1644, message="found clear-name")

    assert isinstance(error, SourceUnavailable)
    assert "clear-name" not in str(error)
    assert "1644" in str(error)


def test_words_that_hold_a_secret_are_left_out() -> None:
    error = error_of(
        PLACE,
        dialect=DialectName.MYSQL,
        state="28000",
        code=1045,
        message="not let in: hunter2",
        secrets=("hunter2",),
    )

    assert "hunter2" not in str(error)


# ---- time --------------------------------------------------------------------------------------------------


class Hanging:
    """A connection whose server hangs at the second batch."""

    holds_results = False

    def __init__(self) -> None:
        self.freed = threading.Event()
        self.is_closed = False

    def execute(self, sql: str) -> None:
        pass

    def query(self, statement: Statement) -> list[Row]:
        return []

    def stream(self, statement: Statement, size: ResultSize) -> Generator[pa.RecordBatch, None, None]:
        yield pa.record_batch([pa.array(["1"])], names=["c0"])
        self.freed.wait(30)

    def close(self) -> None:
        self.is_closed = True


def test_a_server_that_hangs_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.extractor.readers.sql.driver.ANSWER_MARGIN_SECONDS", 0)
    hanging = Hanging()
    connection = WatchedConnection(lambda: hanging, seconds=0.2, place=PLACE)
    began_at = time.monotonic()

    batches = connection.stream(Statement("SELECT 1"), ResultSize(1, 1, 1))
    first = next(batches)
    with pytest.raises(SourceUnavailable, match="given up"):
        next(batches)
    connection.close()

    assert first.num_rows == 1
    assert time.monotonic() - began_at < 20
    # Nobody knows its state: not even to leave is it touched again.
    assert not hanging.is_closed
    hanging.freed.set()
