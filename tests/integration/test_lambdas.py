"""Each Lambda as AWS runs it: under its runtime client, with ledger, S3 and SQS that answer."""

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import boto3
import pytest
from support.journey import Journey, Part
from support.ledgers import copied_database, migrated_template, postgres_ledger
from support.runtime_api import running_lambda

from lambdas.invocation import Received, handle_messages, warm_fleet
from local.postgres import EmbeddedPostgres
from shared.domain.batches import GATE_STATES, BatchState
from shared.domain.files import Area, Location
from shared.domain.progress import Expectation
from shared.domain.reasons import Reason
from shared.errors import Unavailable
from shared.lifecycle import GATE_QUEUES
from shared.messages import clean_message, gate_message
from shared.object_store.s3 import S3ObjectStore, make_s3_client
from shared.ports import QueueName
from shared.queues.sqs import SqsInspector, SqsSender, make_sqs_client

GATED = [Area.TMP, Area.INPUT, Area.PROCESSING, Area.FINAL]


@pytest.fixture(scope="module")
def template(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    with migrated_template(postgres_server) as name:
        yield name


class Fleet(Journey):
    """A batch over PostgreSQL and MiniStack, and the environment in which a Lambda finds both."""

    environment: dict[str, str]
    inspector: SqsInspector

    def put_by_hand(self, key: str) -> Location:
        boto3.client("s3").put_object(Bucket=self.bucket, Key=key, Body=b"mine")
        return Location(self.bucket, key)


@pytest.fixture
def fleet(postgres_server: EmbeddedPostgres, template: str, aws_env: dict[str, str]) -> Iterator[Fleet]:
    prefix = f"lambdas-{secrets.token_hex(4)}"
    region = aws_env["AWS_REGION"]
    s3, sqs = make_s3_client(region), make_sqs_client(region)
    s3.create_bucket(Bucket=f"{prefix}-shop", CreateBucketConfiguration={"LocationConstraint": region})  # type: ignore[typeddict-item]
    urls = {queue: sqs.create_queue(QueueName=f"{prefix}-{queue}")["QueueUrl"] for queue in QueueName}
    with copied_database(postgres_server, template) as dsn, postgres_ledger(dsn) as ledger:
        fleet = Fleet(ledger, S3ObjectStore(s3), SqsSender(sqs, urls), bucket=f"{prefix}-shop")
        fleet.inspector = SqsInspector(sqs, urls)
        fleet.environment = {
            **aws_env,
            "ESCLUSA_DEPLOYMENT": "local",
            "ESCLUSA_REGION": region,
            "ESCLUSA_LEDGER_DSN": "env:LEDGER_DSN",
            "LEDGER_DSN": dsn,
            "ESCLUSA_BUCKET_PREFIX": prefix,
            "ESCLUSA_QUEUE_URLS": json.dumps({str(queue): url for queue, url in urls.items()}),
            "ESCLUSA_SWEEP_WAKE_AFTER_SECONDS": "1",
            "ESCLUSA_SWEEP_FOREIGN_AFTER_SECONDS": "1",
        }
        yield fleet


def sqs_event(*bodies: str) -> dict[str, Any]:
    """Return what Lambda hands to a function whose queue held these messages."""
    return {
        "Records": [
            {
                "messageId": f"message-{number}",
                "receiptHandle": "handle",
                "body": body,
                "attributes": {"ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "awsRegion": "eu-west-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def s3_event(location: Location) -> str:
    """Return what S3 sends to a queue when an object appears."""
    created = {"key": quote_plus(location.key, safe="/"), "size": 4, "sequencer": "00AB"}
    s3 = {"s3SchemaVersion": "1.0", "bucket": {"name": location.bucket}, "object": created}
    return json.dumps({"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}]})


def handler_of(function: str) -> str:
    return f"lambdas.{function.replace('-', '_')}.handler.handle"


@pytest.mark.parametrize("area", GATED)
def test_a_gate_opens_as_a_lambda(fleet: Fleet, area: Area) -> None:
    fleet.go_to(area)

    with running_lambda(handler_of(GATE_QUEUES[area]), fleet.environment) as function:
        answer = function.invoke(sqs_event(gate_message(fleet.batch_id, area)))

    assert answer == {"batchItemFailures": []}
    assert fleet.batch.state is GATE_STATES[area][1]
    with fleet.ledger.transaction() as tx:
        assert tx.pending_message_count() == 0


def test_of_several_messages_only_those_that_failed_come_back(fleet: Fleet) -> None:
    fleet.go_to(Area.TMP)
    poison = [
        "",
        "{}",
        "null",
        '{"version": 1, "kind": "check", "batch_id": "b1", "area": "final"}',
        "\ud800",
    ]
    harmless = [
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": fleet.bucket}),
        s3_event(Location(fleet.bucket, "tmp/gone")),
        gate_message("b" + "0" * 24, Area.TMP),
        gate_message(fleet.batch_id, Area.TMP),
    ]

    with running_lambda(handler_of("gate-tmp"), fleet.environment) as function:
        answer = function.invoke(sqs_event(*poison, *harmless))

    failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    assert failed == [f"message-{number}" for number in range(len(poison))]
    assert fleet.batch.state is BatchState.ADMITTED


def test_a_warm_gate_sees_what_changed_since_its_last_message(fleet: Fleet) -> None:
    fleet.go_to(Area.TMP)
    first, second = fleet.files(Area.TMP)

    with running_lambda(handler_of("gate-tmp"), fleet.environment) as function:
        for file in (first, second):
            assert function.invoke(sqs_event(s3_event(file.location))) == {"batchItemFailures": []}

    assert fleet.batch.state is BatchState.ADMITTED


def test_what_a_stranger_put_there_is_moved_by_gate_and_cleaner(fleet: Fleet) -> None:
    fleet.plan()
    location = fleet.put_by_hand("tmp/übung ñ+%20日本&.csv")

    with running_lambda(handler_of("gate-tmp"), fleet.environment) as function:
        function.invoke(sqs_event(s3_event(location)))
    url = json.loads(fleet.environment["ESCLUSA_QUEUE_URLS"])["clean"]
    (message,) = boto3.client("sqs").receive_message(QueueUrl=url)["Messages"]
    with running_lambda(handler_of("cleaner"), fleet.environment) as function:
        answer = function.invoke(sqs_event(message["Body"]))

    assert answer == {"batchItemFailures": []}
    assert fleet.store.head(location) is None
    with fleet.ledger.transaction() as tx:
        (kept,) = tx.files(areas=[Area.QUARANTINE])
    assert kept.reason is Reason.FOREIGN_OBJECT
    assert fleet.store.read(kept.location) == b"mine"


def test_the_cleaner_deletes_and_sets_aside_as_a_lambda(fleet: Fleet) -> None:
    fleet.plan()
    fleet.extract([Part(header=b""), Part(b"3,c\n", 1)])
    fleet.check(Area.TMP)
    assert fleet.batch.state is BatchState.QUARANTINED

    with running_lambda(handler_of("cleaner"), fleet.environment) as function:
        answer = function.invoke(sqs_event(clean_message(fleet.batch_id)))

    assert answer == {"batchItemFailures": []}
    present = {info.location.key.partition("/")[0] for info in fleet.store.list(fleet.bucket, "")}
    assert present == {"quarantine"}
    assert all(file.deleted_at for file in fleet.files(Area.TMP))


@pytest.mark.parametrize("event", [{}, {"deep": True}])
def test_the_sweeper_heals_as_a_lambda(fleet: Fleet, event: Mapping[str, Any]) -> None:
    fleet.plan()
    fleet.put_by_hand("tmp/notes.csv")
    fleet.put_by_hand("final/notes.csv")
    _wait(fleet, timedelta(seconds=2))

    with running_lambda(handler_of("sweeper"), fleet.environment) as function:
        answer = function.invoke(event)

    done = answer["counts"]
    assert done["wake_batch"] == 1
    assert done["set_aside"] == (2 if event else 1)
    assert done["send_messages"] >= 3
    assert not answer["not_reached"]
    assert fleet.inspector.depth(QueueName.EXTRACT).visible == 2


def test_the_watcher_raises_and_resolves_as_a_lambda(fleet: Fleet) -> None:
    with fleet.ledger.transaction() as tx:
        moment = timedelta(microseconds=1)
        tx.save_expectation(Expectation("shop", "orders", moment, moment, since=tx.now()))
    _wait(fleet, timedelta(seconds=1))

    with running_lambda(handler_of("watcher"), fleet.environment) as function:
        answers = [function.invoke({}), function.invoke({})]
        with fleet.ledger.transaction() as tx:
            tx.delete_expectation("shop", "orders")
        answers.append(function.invoke({}))

    assert [(answer["raised"], answer["resolved"], answer["open"]) for answer in answers] == [
        (1, 0, 1),
        (0, 0, 1),
        (0, 1, 0),
    ]
    assert sum(answer["told"] for answer in answers) == 2


def test_a_lambda_without_its_ledger_gives_every_message_back_and_recovers(fleet: Fleet) -> None:
    fleet.go_to(Area.TMP)
    message = sqs_event(gate_message(fleet.batch_id, Area.TMP))
    away = fleet.environment | {"LEDGER_DSN": "postgresql://nobody@127.0.0.1:1/none"}

    with running_lambda(handler_of("gate-tmp"), away) as function:
        answer = function.invoke(message)

    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-0"}]}
    assert fleet.batch.state is BatchState.EXTRACTED


def test_after_an_outage_the_next_invocation_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgotten:
        count = 0

        def cache_clear(self) -> None:
            self.count += 1

    def fail(message: Received) -> None:
        raise Unavailable(message.body) if message.body == "away" else ValueError(message.body)

    assert hasattr(warm_fleet, "cache_clear")
    forgotten = Forgotten()
    monkeypatch.setattr("lambdas.invocation.warm_fleet", forgotten)

    answer = handle_messages(sqs_event("away", "poison"), fail, function="gate-tmp")

    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [
        "message-0",
        "message-1",
    ]
    assert forgotten.count == 1


def _wait(fleet: Fleet, duration: timedelta) -> None:
    """Wait by the clock that decides: the ledger's."""
    with fleet.ledger.transaction() as tx:
        until = tx.now() + duration
    while True:
        with fleet.ledger.transaction() as tx:
            if tx.now() > until:
                return
        time.sleep(0.2)
