"""
Redshift by its Data API: statements are sent, waited for and read without a connection.

A reply may be lost, so a statement is sent again under the same token, and everything that changes rows has its marker in
the warehouse as well: tokens are forgotten after eight hours.
Source: Amazon Redshift Management Guide, "Using the Amazon Redshift Data API".
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from services.publisher.redshift.errors import StatementFailed
from services.publisher.redshift.place import Place
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.rules import refuse_broken_rules
from shared.errors import ConfigurationError, Unavailable

if TYPE_CHECKING:
    from mypy_boto3_redshift_data import RedshiftDataAPIServiceClient
    from mypy_boto3_redshift_data.type_defs import DescribeStatementResponseTypeDef, FieldTypeDef

log = structlog.get_logger()

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
PAUSE_GROWTH = 1.5

#: What is over by itself.
_PASSING = frozenset(
    {
        "ActiveStatementsExceededException",
        "ActiveSessionsExceededException",
        "ActiveWaitingRequestsExceededException",
        "BatchExecuteStatementException",
        "DatabaseConnectionException",
        "ExecuteStatementException",
        "InternalServerException",
        "InternalFailure",
        "ServiceUnavailable",
        "ThrottlingException",
        "TooManyRequestsException",
        "RequestTimeout",
    }
)

#: The cells of one row: text, number, truth value or None.
Cells = tuple[Any, ...]


def make_data_client(region: str) -> "RedshiftDataAPIServiceClient":
    """Return a client that gives up after a bounded time. The endpoint comes from the environment."""
    config = Config(
        region_name=region,
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 4},
    )
    return boto3.client("redshift-data", config=config)


@dataclass(frozen=True, slots=True)
class Clock:
    """What passes time; tests give another one."""

    monotonic_seconds: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Answer:
    """Where an answer waits to be read."""

    statement_id: str
    columns: tuple[str, ...] = ()


class DataApi:
    """One database, spoken to statement by statement. `timeout_seconds` holds for each."""

    def __init__(
        self,
        client: "RedshiftDataAPIServiceClient",
        place: Place,
        *,
        timeout_seconds: float,
        clock: Clock = Clock(),
    ) -> None:
        self._client = client
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._clock = clock

    def rows(self, statement: Statement, *, timeout_seconds: float | None = None) -> list[Cells]:
        """Return all rows of a short answer; see `pages`."""
        return [row for page in self.pages(statement, timeout_seconds=timeout_seconds)[1] for row in page]

    def pages(
        self, statement: Statement, *, timeout_seconds: float | None = None
    ) -> tuple[tuple[str, ...], Iterator[list[Cells]]]:
        """
        Ask, and return the names of the columns and the rows of the answer, a page at a time.

        Raises:
            StatementFailed: if the warehouse refuses it.
            Unavailable: if it does not answer in time.
        """
        described = self._run([statement], timeout_seconds=timeout_seconds)
        if not described.get("HasResultSet"):
            return (), iter(())
        pages = self._result(described["Id"])
        first = next(pages)
        names = tuple(column.get("name", "") for column in first["ColumnMetadata"])

        def cells() -> Iterator[list[Cells]]:
            yield _cells(first)
            for page in pages:
                yield _cells(page)

        return names, cells()

    def run(self, statement: Statement) -> None:
        """
        Run a statement in a transaction of its own.

        Raises:
            StatementFailed: if the warehouse refuses it.
            Unavailable: if it does not answer in time. It may or may not be done.
        """
        self._run([statement])

    def transact(self, statements: Sequence[Statement]) -> None:
        """
        Run statements in one transaction.

        Raises:
            StatementFailed: if the warehouse refuses one of them; nothing was changed.
            Unavailable: if it does not answer in time. It may or may not be done.
        """
        self._run(statements, is_batch=True)

    # ---- one call, step by step --------------------------------------------------------------------------------

    def _run(
        self, statements: Sequence[Statement], *, is_batch: bool = False, timeout_seconds: float | None = None
    ) -> "DescribeStatementResponseTypeDef":
        refuse_broken_rules(statements)
        deadline = self._clock.monotonic_seconds() + (timeout_seconds or self._timeout_seconds)
        statement_id = self._submit(statements, is_batch=is_batch, deadline=deadline)
        return self._wait(statement_id, statements, deadline=deadline)

    def _submit(self, statements: Sequence[Statement], *, is_batch: bool, deadline: float) -> str:
        """Send statements under a token of their own: sent again because a reply was lost, they are done once."""
        first = statements[0]
        arguments: dict[str, Any] = {
            **self._place.arguments,
            "StatementName": f"esclusa: {first.name}",
            "ClientToken": uuid.uuid4().hex,
        }
        if is_batch:
            arguments["Sqls"] = [statement.sql for statement in statements]
            answer = self._asked_until(
                deadline, lambda: self._client.batch_execute_statement(**arguments), statement=first
            )
        else:
            arguments |= {"Sql": first.sql, **_parameters(first.parameters)}
            answer = self._asked_until(
                deadline, lambda: self._client.execute_statement(**arguments), statement=first
            )
        return str(answer["Id"])

    def _wait(
        self, statement_id: str, statements: Sequence[Statement], *, deadline: float
    ) -> "DescribeStatementResponseTypeDef":
        pause = FIRST_PAUSE_SECONDS
        while True:
            described: DescribeStatementResponseTypeDef = self._asked_until(
                deadline, lambda: self._client.describe_statement(Id=statement_id), statement=statements[0]
            )
            status = described["Status"]
            if status == "FINISHED":
                return described
            if status in {"FAILED", "ABORTED"}:
                raise _failure(described, statements)
            if self._clock.monotonic_seconds() + pause > deadline:
                self._cancel(statement_id)
                raise Unavailable(
                    f"{self._place}, {statements[0].name!r}: not finished in time, statement {statement_id}; it was told "
                    "to end, and may have been done all the same"
                )
            self._clock.sleep(pause)
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)

    def _result(self, statement_id: str) -> Iterator[Any]:
        token = ""
        while True:
            arguments = {"Id": statement_id, **({"NextToken": token} if token else {})}
            page = self._asked_until(
                self._clock.monotonic_seconds() + self._timeout_seconds,
                lambda arguments=arguments: self._client.get_statement_result(**arguments),  # type: ignore[misc]
                statement=None,
            )
            yield page
            token = page.get("NextToken", "")
            if not token:
                return

    def _cancel(self, statement_id: str) -> None:
        try:
            self._client.cancel_statement(Id=statement_id)
        except (ClientError, BotoCoreError) as error:
            # It may have ended meanwhile. Whatever it did, the marker tells the next attempt.
            log.warning("statement_not_cancelled", statement_id=statement_id, error=type(error).__name__)

    def _asked_until(self, deadline: float, call: Callable[[], Any], *, statement: Statement | None) -> Any:
        """Ask again until a deadline, as long as what fails is passing: the token makes sending twice harmless."""
        pause = FIRST_PAUSE_SECONDS
        about = f"{self._place}, {statement.name!r}" if statement else str(self._place)
        while True:
            try:
                return call()
            except ParamValidationError:
                raise  # A defect of ours, not of the service.
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code not in _PASSING:
                    raise ConfigurationError(f"{about}: {_said(error)}") from None
                failure: str = _said(error)
            except BotoCoreError as error:
                failure = f"{type(error).__name__}: {error}"
            if self._clock.monotonic_seconds() + pause > deadline:
                raise Unavailable(f"{about}: {failure}")
            self._clock.sleep(pause)
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)


def _said(error: ClientError) -> str:
    detail = error.response.get("Error", {})
    return f"{detail.get('Code', 'error')}: {detail.get('Message', '')}"


def _parameters(values: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    if not values:
        return {}
    return {"Parameters": [{"name": name, "value": value} for name, value in values.items()]}


def _failure(
    described: "DescribeStatementResponseTypeDef", statements: Sequence[Statement]
) -> StatementFailed:
    """Tell which statement failed: of a batch, the first that the service says so of; it may say so of none."""
    text, failed = described.get("Error", ""), statements[0]
    if len(statements) > 1:
        # Its text may be of any of them, so rows may be quoted in it.
        failed = Statement(f"a transaction of {len(statements)} statements", "")
    for part, statement in zip(described.get("SubStatements", []), statements, strict=False):
        if part.get("Status") == "FAILED" or part.get("Error"):
            text, failed = part.get("Error") or text, statement
            break
    query = described.get("RedshiftQueryId") or 0
    return StatementFailed(failed, text, query_id=str(query) if query > 0 else described["Id"])


def _cells(page: Any) -> list[Cells]:
    return [tuple(_cell(field) for field in record) for record in page["Records"]]


def _cell(field: "FieldTypeDef") -> Any:
    if field.get("isNull"):
        return None
    for name in ("stringValue", "longValue", "doubleValue", "booleanValue", "blobValue"):
        if name in field:
            return field[name]
    raise Unavailable(f"the Data API answered a cell of a form that is not known: {', '.join(field)}")
