"""The Data API, spoken to as botocore's service model has it: waiting, pages, lost replies, errors without values."""

from datetime import UTC, datetime
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError
from botocore.stub import ANY, Stubber
from support.redshift_server import FastClock

from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.errors import StatementFailed, translated
from services.publisher.redshift.place import Place
from services.publisher.redshift.plan import Guard, Statement, Wrong, guard_sql
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, Refused, Unavailable

ID = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SELECT = Statement("count the rows", 'SELECT COUNT(*) FROM "t"')
LOCK = Statement("lock", 'LOCK TABLE "t"', touches_rows=False)
INSERT = Statement("insert the rows", 'INSERT INTO "t" ("id") SELECT 1')
BATCH = [LOCK, INSERT]


class Stubbed:
    """A Data API whose answers are given beforehand, and checked against the service model as its requests are."""

    def __init__(self, place: Place | None = None) -> None:
        self.client = boto3.client(
            "redshift-data",
            region_name="eu-west-1",
            aws_access_key_id="x",
            aws_secret_access_key="x",
            config=Config(retries={"total_max_attempts": 1}),
        )
        self.stubber = Stubber(self.client)
        self.clock = FastClock()
        self.place = place or Place("dev", workgroup="analytics")
        self.api = DataApi(self.client, self.place, timeout_seconds=60, clock=self.clock.as_clock())

    def submitted(self, call: str = "execute_statement", **more: Any) -> None:
        wanted = {**self.place.arguments, "StatementName": ANY, "ClientToken": ANY, **more}
        self.stubber.add_response(call, {"Id": ID, "CreatedAt": datetime.now(UTC)}, wanted)

    def described(self, status: str, **more: Any) -> None:
        self.stubber.add_response("describe_statement", {"Id": ID, "Status": status, **more}, {"Id": ID})

    def page(self, rows: list[list[dict[str, Any]]], next_token: str = "", asked_with: str = "") -> None:
        wanted = {"Id": ID} | ({"NextToken": asked_with} if asked_with else {})
        answer: dict[str, Any] = {"Records": rows, "ColumnMetadata": [{"name": "a"}, {"name": "b"}]}
        self.stubber.add_response(
            "get_statement_result", answer | ({"NextToken": next_token} if next_token else {}), wanted
        )

    def failed(self, call: str, code: str, message: str = "") -> None:
        self.stubber.add_client_error(call, code, message)

    def __enter__(self) -> "Stubbed":
        self.stubber.activate()
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is None:
            self.stubber.assert_no_pending_responses()


def test_an_answer_is_waited_for_with_growing_pauses_and_read_page_by_page():
    stubbed = Stubbed()
    stubbed.submitted(Sql=SELECT.sql)
    for status in ("SUBMITTED", "PICKED", "STARTED", "STARTED"):
        stubbed.described(status)
    stubbed.described("FINISHED", HasResultSet=True)
    stubbed.page(
        [[{"longValue": 1}, {"isNull": True}], [{"stringValue": ""}, {"booleanValue": False}]], "more"
    )
    stubbed.page([[{"doubleValue": 0.5}, {"stringValue": "NULL"}]], asked_with="more")

    with stubbed:
        columns, pages = stubbed.api.pages(SELECT)
        rows = list(pages)

    assert columns == ("a", "b")
    assert rows == [[(1, None), ("", False)], [(0.5, "NULL")]]
    assert stubbed.clock.slept == sorted(stubbed.clock.slept)
    assert len(set(stubbed.clock.slept)) == 4


def test_parameters_are_sent_as_values():
    stubbed = Stubbed()
    asked = Statement("ask", "SELECT :a", parameters={"a": "it's"})
    stubbed.submitted(Sql="SELECT :a", Parameters=[{"name": "a", "value": "it's"}])
    stubbed.described("FINISHED", HasResultSet=False)

    with stubbed:
        assert stubbed.api.rows(asked) == []


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place("dev", workgroup="wg1"), {"WorkgroupName": "wg1", "Database": "dev"}),
        (
            Place("dev", workgroup="wg1", secret_arn="arn:s"),
            {"WorkgroupName": "wg1", "Database": "dev", "SecretArn": "arn:s"},
        ),
        (
            Place("dev", cluster="c1", db_user="esclusa"),
            {"ClusterIdentifier": "c1", "Database": "dev", "DbUser": "esclusa"},
        ),
    ],
    ids=["role of a workgroup", "secret", "user of a cluster"],
)
def test_a_transaction_is_one_batch_at_its_place_under_a_token(place, expected):
    stubbed = Stubbed(place)
    stubbed.submitted("batch_execute_statement", Sqls=[LOCK.sql, INSERT.sql])
    stubbed.described("FINISHED")

    with stubbed:
        stubbed.api.transact(BATCH)

    assert place.arguments == expected


@pytest.mark.parametrize(
    "place",
    [
        {"workgroup": "a", "cluster": "b"},
        {},
        {"workgroup": "a", "db_user": "u"},
        {"cluster": "a", "secret_arn": "s", "db_user": "u"},
    ],
)
def test_a_place_that_contradicts_itself_is_none(place):
    with pytest.raises(ConfigurationError):
        Place("dev", **place)


def test_a_lost_reply_is_asked_for_again_under_the_same_token():
    tokens = []

    class Lossy:
        def batch_execute_statement(self, **arguments: Any) -> dict[str, Any]:
            tokens.append(arguments["ClientToken"])
            if len(tokens) < 3:
                raise EndpointConnectionError(endpoint_url="https://x")
            return {"Id": ID}

        def describe_statement(self, **_: Any) -> dict[str, Any]:
            return {"Id": ID, "Status": "FINISHED"}

    clock = FastClock()
    api = DataApi(Lossy(), Place("dev", workgroup="wg1"), timeout_seconds=60, clock=clock.as_clock())  # type: ignore[arg-type]

    api.transact(BATCH)
    api.transact(BATCH)

    assert len(set(tokens[:3])) == 1
    assert tokens[3] != tokens[0], "what is done again on purpose is done"
    assert len(tokens[0]) <= 64


@pytest.mark.parametrize(
    "code",
    [
        "ActiveStatementsExceededException",
        "ThrottlingException",
        "InternalServerException",
        "ExecuteStatementException",
    ],
)
def test_what_passes_by_itself_is_waited_for(code):
    stubbed = Stubbed()
    stubbed.failed("execute_statement", code)
    stubbed.submitted(Sql=SELECT.sql)
    stubbed.failed("describe_statement", code)
    stubbed.described("FINISHED", HasResultSet=False)

    with stubbed:
        assert stubbed.api.rows(SELECT) == []


@pytest.mark.parametrize(
    "code", ["ValidationException", "ResourceNotFoundException", "AccessDeniedException"]
)
def test_what_a_person_has_to_mend_is_told_at_once_with_place_and_statement(code):
    stubbed = Stubbed()
    stubbed.failed("execute_statement", code, "no such workgroup")

    with stubbed, pytest.raises(ConfigurationError) as error:
        stubbed.api.rows(SELECT)

    assert "Redshift analytics/dev" in str(error.value)
    assert "count the rows" in str(error.value)
    assert "no such workgroup" in str(error.value)
    assert stubbed.clock.slept == []


def test_a_service_that_stays_away_is_unavailable_at_the_deadline():
    stubbed = Stubbed()
    for _ in range(40):
        stubbed.failed("execute_statement", "InternalServerException")

    stubbed.stubber.activate()
    with pytest.raises(Unavailable):
        stubbed.api.rows(SELECT)

    assert 50 < stubbed.clock.now <= 60


def test_what_takes_too_long_is_told_to_end_and_may_be_done_all_the_same():
    stubbed = Stubbed()
    stubbed.submitted("batch_execute_statement", Sqls=ANY)
    for _ in range(40):
        stubbed.described("STARTED")
    waits = stubbed.stubber
    waits.activate()
    cancelled = []
    stubbed.client.cancel_statement = lambda **arguments: cancelled.append(arguments)  # type: ignore[method-assign]

    with pytest.raises(Unavailable, match="may have been done"):
        stubbed.api.transact(BATCH)

    assert cancelled == [{"Id": ID}]
    assert 50 < stubbed.clock.now <= 60


def failure_of(text: str, *, failed: int = 1, top: str = "") -> StatementFailed:
    stubbed = Stubbed()
    stubbed.submitted("batch_execute_statement", Sqls=ANY)
    parts = [
        {
            "Id": f"{ID}:{n + 1}",
            "Status": "FINISHED" if n < failed else "FAILED",
            **({"Error": text} if n == failed else {}),
        }
        for n in range(2)
    ]
    stubbed.described("FAILED", Error=top or text, SubStatements=parts, RedshiftQueryId=4711)
    with stubbed, pytest.raises(StatementFailed) as error:
        stubbed.api.transact(BATCH)
    return error.value


def test_of_a_batch_the_statement_that_failed_is_told_with_its_query():
    error = failure_of('ERROR: relation "t" does not exist', failed=0)

    assert error.statement is LOCK
    assert str(error) == "'lock': ERROR: relation \"t\" does not exist, query 4711"


SECRET = "anna@example.org"


@pytest.mark.parametrize(
    ("text", "told", "kind"),
    [
        (f"ERROR: value {SECRET} is broken", "text may quote rows", Unavailable),
        (f"ERROR: Value too long for character type ({SECRET})", "too long for its column", Refused),
        (f"ERROR: Numeric data overflow ({SECRET})", "too large", Refused),
        (
            f"Spectrum Scan Error: incompatible Parquet schema for column {SECRET}",
            "is not the staged one",
            Refused,
        ),
        (
            f"ERROR: S3ServiceException: Access Denied,Status 403 {SECRET}",
            "access denied",
            ConfigurationError,
        ),
        (f"S3 Query Exception (Fetch). Status 416 InvalidRange {SECRET}", "not as long", Unavailable),
        (f"ERROR: 1023 DETAIL: Serializable isolation violation {SECRET}", "1023", Unavailable),
    ],
)
def test_an_error_about_rows_is_told_without_any_value(text, told, kind):
    error = failure_of(text)

    translation = translated(error, where="shop.orders")

    assert isinstance(translation, kind)
    for message in (str(error), str(translation)):
        assert told in message
        assert SECRET not in message
        assert "insert the rows" in message
    if isinstance(translation, Refused):
        assert translation.reason is Reason.TARGET_INCOMPATIBLE


def test_of_a_batch_of_which_no_statement_is_told_to_have_failed_no_value_is_told_either():
    stubbed = Stubbed()
    stubbed.submitted("batch_execute_statement", Sqls=[statement.sql for statement in BATCH])
    stubbed.described("FAILED", Error="ERROR: value Anna is broken", RedshiftQueryId=4711)

    with stubbed, pytest.raises(StatementFailed) as error:
        stubbed.api.transact(BATCH)

    assert "Anna" not in str(error.value)
    assert "4711" in str(error.value)


def test_a_guard_tells_what_it_found_if_the_warehouse_lets_it():
    guard = Statement(
        "prove", guard_sql({"rows": Wrong("COUNT(*) <> 3", ("COUNT(*)",))}, "t"), guard=Guard.PROOF
    )

    told = StatementFailed(
        guard, "Invalid digit, Value 'e', Pos 0, Type: Integer context: esclusa rows 2", query_id="1"
    )
    silent = StatementFailed(guard, "Invalid digit, Value 'e', Pos 0, Type: Integer", query_id="1")

    assert told.found is not None
    assert (told.found.what, told.found.numbers) == ("rows", (2,))
    assert silent.found is None
