"""Notices by a topic of SNS, against servers that answer as SNS does."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from support.ledger_rows import NOON

from shared.domain.alarms import Alarm, AlarmKind
from shared.errors import Unavailable
from shared.notices.document import notice_document
from shared.notices.sns import SnsTopic, make_sns_client
from shared.ports import Notice

NOTICE = Notice(
    "0123", "esclusa", NOON, (Alarm(AlarmKind.TABLE_LATE, "shop.größe", NOON, "nothing planned"),)
)


@pytest.fixture(params=["ministack", "moto_server"])
def endpoint(request: pytest.FixtureRequest, aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    url: str = request.getfixturevalue(request.param)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return url


@pytest.fixture
def subscribed(endpoint: str) -> Iterator[tuple[str, Any]]:
    """A topic, and a function that gives the next message that its subscriber got."""
    name = f"on-call-{secrets.token_hex(4)}"
    sns, sqs = boto3.client("sns"), boto3.client("sqs")
    topic = sns.create_topic(Name=name)["TopicArn"]
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)

    def received() -> dict[str, Any]:
        (message,) = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10)["Messages"]
        document: dict[str, Any] = json.loads(message["Body"])
        return document

    yield topic, received
    sns.delete_topic(TopicArn=topic)
    sqs.delete_queue(QueueUrl=queue)


def test_a_notice_reaches_the_subscribers_of_its_topic(subscribed: tuple[str, Any]) -> None:
    topic, received = subscribed

    SnsTopic(make_sns_client(topic), topic).notify(NOTICE)

    message = received()
    assert message["Message"] == notice_document(NOTICE)
    assert message["Subject"] == "esclusa: 1 alarm raised"


def test_a_topic_that_is_gone_is_told_by_name(endpoint: str) -> None:
    gone = "arn:aws:sns:eu-west-1:000000000000:nobody"

    with pytest.raises(Unavailable, match=gone):
        SnsTopic(make_sns_client(gone), gone).notify(NOTICE)


def test_a_service_that_is_away_is_told_in_bounded_time(
    aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    topic = "arn:aws:sns:eu-west-1:000000000000:on-call"

    with pytest.raises(Unavailable, match="on-call"):
        SnsTopic(make_sns_client(topic), topic).notify(NOTICE)
