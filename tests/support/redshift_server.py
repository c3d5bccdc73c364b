"""
A Data API for tests, at the border of the client: PostgreSQL executes what the publisher sends to Redshift.

What changes rows, and the guards, is executed as it is written, in one transaction that takes its snapshot after the
lock, as Redshift's does. What PostgreSQL has not is done in its place: COPY of a manifest, the types and layouts of
tables, late binding, SUPER. So this tells whether the publisher does the right thing in the right order, and nothing of
what Redshift makes of the words: of that the parsers, our own rules and `esclusa redshift verify` tell.

Requests are held to botocore's service model, statuses and answers have its form.
"""

import itertools
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

import botocore.session
import psycopg
import pyarrow.parquet as pq
from botocore.exceptions import EndpointConnectionError
from botocore.model import ServiceModel
from botocore.validate import ParamValidator
from psycopg import sql as psycopg_sql
from psycopg.types.string import TextLoader

from services.publisher.redshift.data_api import Clock, DataApi
from services.publisher.redshift.load import Access
from services.publisher.redshift.place import Place
from services.publisher.redshift.warehouse import RedshiftWarehouse
from shared.domain.files import Location
from shared.object_store.memory import MemoryObjectStore

ROLE = "arn:aws:iam::123456789012:role/copy"

# `super` is what FORMAT_TYPE calls such a column in Redshift.
_SETUP = """
CREATE DOMAIN super AS json;
CREATE FUNCTION json_parse(text) RETURNS super LANGUAGE sql IMMUTABLE STRICT AS 'SELECT $1::json::super';
CREATE FUNCTION from_varbyte(bytea, text) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS 'SELECT encode($1, $2)';
CREATE VIEW stv_db_isolation_level AS SELECT current_database() AS db_name, 'Snapshot Isolation'::text AS isolation_level;
CREATE VIEW svv_relation_privileges AS
SELECT n.nspname AS namespace_name, c.relname AS relation_name, acl.privilege_type,
    coalesce(r.rolname, '') AS identity_name,
    CASE WHEN r.rolname IS NULL THEN 'public' ELSE 'user' END AS identity_type, acl.is_grantable AS admin_option
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS acl
LEFT JOIN pg_roles r ON r.oid = acl.grantee WHERE acl.grantee <> c.relowner
"""


@cache
def service_model() -> ServiceModel:
    """The model of the service as botocore ships it."""
    return ServiceModel(botocore.session.get_session().get_service_data("redshift-data"), "redshift-data")


@dataclass
class _Done:
    """A statement or batch that was executed."""

    sqls: Sequence[str]
    status: str = "FINISHED"
    error: str = ""
    failed: int = -1
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    has_result: bool = False


@dataclass
class FakeDataClient:
    """What botocore's client of `redshift-data` is to the publisher."""

    dsn: str
    store: MemoryObjectStore
    #: Everything that was sent, in its order.
    sent: list[str] = field(default_factory=list)
    #: So many replies to batches are lost after they were done.
    lost_replies: int = 0
    #: So many statuses are answered as unfinished, however it is.
    slow_answers: int = 0
    #: Said in place of doing it, for the first statement that matches.
    failures: list[tuple[str, str]] = field(default_factory=list)
    #: Called before each batch.
    before_batch: Callable[[], None] = lambda: None
    page_size: int = 1000
    cancelled: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._done: dict[str, _Done] = {}
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        self._idle: list[psycopg.Connection[Any]] = []

    def close(self) -> None:
        """Let go of the database."""
        for connection in self._idle:
            connection.close()

    # ---- the five calls ----------------------------------------------------------------------------------------

    def execute_statement(self, **arguments: Any) -> dict[str, Any]:
        self._hold_to_model("ExecuteStatement", arguments)
        values = {entry["name"]: entry["value"] for entry in arguments.get("Parameters", [])}
        return {"Id": self._execute([arguments["Sql"]], values, in_transaction=False)}

    def batch_execute_statement(self, **arguments: Any) -> dict[str, Any]:
        self._hold_to_model("BatchExecuteStatement", arguments)
        token = arguments.get("ClientToken", "")
        with self._lock:
            known = self._tokens.get(token)
        if known is None:
            self.before_batch()
            known = self._execute(arguments["Sqls"], {}, in_transaction=True)
            self._tokens[token] = known
        if self.lost_replies:
            self.lost_replies -= 1
            raise EndpointConnectionError(endpoint_url="https://redshift-data")
        return {"Id": known}

    def describe_statement(self, **arguments: Any) -> dict[str, Any]:
        self._hold_to_model("DescribeStatement", arguments)
        done = self._done[arguments["Id"]]
        if self.slow_answers:
            self.slow_answers -= 1
            return {"Id": arguments["Id"], "Status": "STARTED"}
        parts = [
            {"Id": f"{arguments['Id']}:{number}", "Status": _status_of_part(done, number - 1)}
            | ({"Error": done.error} if done.failed == number - 1 else {})
            for number in range(1, len(done.sqls) + 1)
        ]
        return {
            "Id": arguments["Id"],
            "Status": done.status,
            "Error": done.error,
            "HasResultSet": done.has_result,
            "RedshiftQueryId": 4711 if done.status == "FAILED" else -1,
            **({"SubStatements": parts} if len(parts) > 1 else {}),
        }

    def get_statement_result(self, **arguments: Any) -> dict[str, Any]:
        self._hold_to_model("GetStatementResult", arguments)
        done = self._done[arguments["Id"]]
        start = int(arguments.get("NextToken", "0"))
        page = done.rows[start : start + self.page_size]
        end = start + len(page)
        return {
            "Records": [[_field(value) for value in row] for row in page],
            "ColumnMetadata": [{"name": name} for name in done.columns],
            "TotalNumRows": len(done.rows),
            **({"NextToken": str(end)} if end < len(done.rows) else {}),
        }

    def cancel_statement(self, **arguments: Any) -> dict[str, Any]:
        self._hold_to_model("CancelStatement", arguments)
        self.cancelled.append(arguments["Id"])
        return {"Status": True}

    # ---- how it is done ----------------------------------------------------------------------------------------

    def _hold_to_model(self, operation: str, arguments: dict[str, Any]) -> None:
        shape = service_model().operation_model(operation).input_shape
        report = ParamValidator().validate(arguments, shape)
        assert not report.has_errors(), report.generate_report()
        if "Parameters" in arguments:
            assert all(entry["value"] for entry in arguments["Parameters"])
        for text in [arguments.get("Sql", ""), *arguments.get("Sqls", [])]:
            assert len(text.encode()) <= 100_000

    def _execute(self, sqls: Sequence[str], values: dict[str, str], *, in_transaction: bool) -> str:
        done = _Done(sqls)
        id_ = str(uuid.uuid4())
        number = 0
        try:
            with self._session(in_transaction=in_transaction) as cursor:
                for number, text in enumerate(sqls):  # noqa: B007 - told when it fails
                    self.sent.append(text)
                    self._fail_if_told(text)
                    self._run(cursor, text, values, done)
        except psycopg.Error as error:
            done.status, done.failed = "FAILED", number
            done.error = f"ERROR: {error.diag.message_primary or error}"
        except _CopyError as error:
            done.status, done.failed, done.error = "FAILED", number, f"ERROR: {error}"
        with self._lock:
            self._done[id_] = done
        return id_

    def _fail_if_told(self, text: str) -> None:
        for failure in self.failures:
            if failure[0] in text:
                self.failures.remove(failure)
                raise _CopyError(failure[1])

    @contextmanager
    def _session(self, *, in_transaction: bool) -> Iterator[psycopg.Cursor[Any]]:
        connection = self._connection()
        try:
            with connection.cursor() as cursor:
                if not in_transaction:
                    yield cursor
                    return
                # The snapshot is taken by the first statement that reads or writes, and LOCK is none.
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                try:
                    yield cursor
                except BaseException:
                    cursor.execute("ROLLBACK")
                    raise
                cursor.execute("COMMIT")
        finally:
            # A session of the Data API ends with its statement.
            connection.execute("DISCARD TEMP")
            self._idle.append(connection)

    def _connection(self) -> psycopg.Connection[Any]:
        try:
            return self._idle.pop()
        except IndexError:
            connection = psycopg.connect(self.dsn, autocommit=True, options="-c timezone=UTC")
            for name in ("json", "date", "timestamp"):
                connection.adapters.register_loader(name, TextLoader)
            return connection

    def _run(self, cursor: psycopg.Cursor[Any], text: str, values: dict[str, str], done: _Done) -> None:
        if text.startswith("COPY "):
            self._copy(cursor, text)
            return
        if match := _WIDENED.match(text):
            if cursor.connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
                raise _CopyError("ALTER TABLE ALTER COLUMN cannot run inside a transaction block")
            _widen(cursor, text, match)
            return
        if values:
            bound = _PARAMETER.sub(r"%(\1)s", text.replace("%", "%%"))
            cursor.execute(bound.encode(), values)
        else:
            cursor.execute(_in_postgres_words(text).encode())
        if cursor.description is not None:
            done.has_result = True
            done.columns = [column.name for column in cursor.description]
            done.rows = [tuple(map(_as_redshift_says, row)) for row in cursor.fetchall()]

    def _copy(self, cursor: psycopg.Cursor[Any], text: str) -> None:
        match = _COPY.fullmatch(text)
        assert match is not None, text
        for body in self._files_of(match["manifest"]):
            table = pq.read_table(body)
            columns = match["columns"]
            with cursor.copy(f"COPY {match['stage']} ({columns}) FROM STDIN".encode()) as copy:
                for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
                    copy.write_row(row)

    def _files_of(self, manifest: str) -> Iterator[Any]:
        import io

        entries = json.loads(self.store.read(_location(manifest)))["entries"]
        for entry in entries:
            assert entry["mandatory"] is True
            info = self.store.head(_location(entry["url"]))
            if info is None:
                raise _CopyError(f"The specified file {entry['url']} does not exist in S3, 404")
            if info.file_size_in_bytes != entry["meta"]["content_length"]:
                raise _CopyError("S3 Query Exception (Fetch), InvalidRange, 416")
            yield io.BytesIO(self.store.read(_location(entry["url"])))


class _CopyError(Exception):
    """What Redshift says of a statement that it does itself."""


_COPY = re.compile(
    r"""COPY (?P<stage>\S+) \((?P<columns>.+)\) FROM '(?P<manifest>s3://[^']+)' IAM_ROLE '[^']+' """
    r"""FORMAT AS PARQUET MANIFEST""",
    re.DOTALL,
)
_PARAMETER = re.compile(r"(?<!:):([a-z]+)")
_WIDENED = re.compile(r"ALTER TABLE (?P<table>.+) ALTER COLUMN .+ TYPE ", re.DOTALL)

#: What is outside of quotes, and what PostgreSQL says in its place.
_WORDS = [
    (r" ENCODE [A-Z0-9]+", ""),
    (r" DISTSTYLE (?:AUTO|ALL|EVEN|KEY DISTKEY \([^)]*\))", ""),
    (r" COMPOUND SORTKEY \(.*\)$", ""),
    (r" WITH NO SCHEMA BINDING$", ""),
    (r"\bVARBYTE(?:\(\d+\))?", "bytea"),
    (r"\bSYSDATE\b", "(clock_timestamp() AT TIME ZONE 'UTC')"),
    (r"\bTO (?:ROLE|GROUP) ", "TO "),
]
_QUOTED = re.compile(r'("(?:[^"]|"")*"|\'(?:[^\']|\'\')*\')', re.DOTALL)


def _in_postgres_words(text: str) -> str:
    if not text.startswith(
        ("CREATE TABLE", "CREATE TEMPORARY TABLE", "ALTER", "CREATE VIEW", "CREATE OR", "GRANT")
    ):
        return text
    # Whatever stands in quotes is put aside meanwhile.
    quoted = _QUOTED.findall(text)
    plain = _QUOTED.sub("\x01", text)
    for pattern, word in _WORDS:
        plain = re.sub(pattern, word, plain)
    kept = plain.count("\x01")
    rest = iter(quoted)
    assert kept <= len(quoted)
    return re.sub("\x01", lambda _: next(rest), plain)


def _widen(cursor: psycopg.Cursor[Any], text: str, match: re.Match[str]) -> None:
    """PostgreSQL binds a view to its table, Redshift does not: the view is taken away and put back."""
    views = cursor.execute(
        "SELECT DISTINCT v.oid::regclass::text, pg_get_viewdef(v.oid), coalesce(obj_description(v.oid, 'pg_class'), '') "
        "FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class "
        "WHERE d.refobjid = %s::regclass AND v.relkind = 'v'",
        [match["table"]],
    ).fetchall()
    for name, _, _ in views:
        cursor.execute(f"DROP VIEW {name}".encode())
    cursor.execute(text.encode())
    for name, definition, comment in views:
        cursor.execute(f"CREATE VIEW {name} AS {definition}".encode())
        literal = psycopg_sql.Literal(comment).as_string()
        cursor.execute(f"COMMENT ON VIEW {name} IS {literal}".encode())


def _as_redshift_says(value: Any) -> Any:
    return "binary varying(64000)" if value == "bytea" else value


def _status_of_part(done: _Done, number: int) -> str:
    if done.failed < 0 or number < done.failed:
        return "FINISHED"
    return "FAILED" if number == done.failed else "ABORTED"


def _field(value: Any) -> dict[str, Any]:
    if value is None:
        return {"isNull": True}
    if isinstance(value, bool):
        return {"booleanValue": value}
    if isinstance(value, int):
        return {"longValue": value}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, datetime):
        return {"stringValue": value.strftime("%Y-%m-%d %H:%M:%S.%f").zfill(26) + "+00"}
    assert isinstance(value, str | Decimal), type(value)
    return {"stringValue": str(value)}


def _location(url: str) -> Location:
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return Location(bucket, key)


@contextmanager
def redshift_stand_in(dsn: str, store: MemoryObjectStore) -> Iterator[FakeDataClient]:
    """Give a Data API over a database, and leave nothing in it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_SETUP)
    client = FakeDataClient(dsn, store)
    try:
        yield client
    finally:
        client.close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            found = connection.execute(
                "SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'"
            ).fetchall()
            for (name,) in found:
                connection.execute(
                    psycopg_sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg_sql.Identifier(name))
                )
            connection.execute("CREATE SCHEMA public")


class FastClock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def as_clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep)


def redshift_warehouse(client: FakeDataClient, store: MemoryObjectStore, **more: Any) -> RedshiftWarehouse:
    """Return the warehouse over such a Data API."""
    clock = FastClock()
    api = DataApi(
        client,  # type: ignore[arg-type]
        Place("dev", workgroup="analytics"),
        timeout_seconds=60,
        clock=clock.as_clock(),
    )
    return RedshiftWarehouse(
        Access(api, store, ROLE, **more), pause=clock.sleep, chance=itertools.cycle([0.5]).__next__
    )
