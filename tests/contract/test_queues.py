"""What every queue promises: in memory, on MiniStack, and on moto as a second opinion."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from support.aws_endpoint import use_aws_endpoint

from shared.errors import ConfigurationError, Unavailable
from shared.messages import MAX_SQS_MESSAGE_BYTES
from shared.ports import OutboxMessage, QueueDepth, QueueInspector, QueueName, QueueSender, SeenMessage
from shared.queues.memory import MemoryQueues
from shared.queues.sqs import SqsInspector, SqsSender, make_metrics_client, make_sqs_client

USED = (QueueName.EXTRACT, QueueName.PROCESS)
MAX_RECEIVE_COUNT = 2


@dataclass
class Bench:
    """Queues to send to and to look into, and the receiving side."""

    sender: QueueSender
    inspector: QueueInspector
    #: Receives every message of a queue and deletes it.
    drain: Callable[[QueueName], list[str]]
    #: Receives one message of a queue and lets it fail, so often that it is dead.
    let_one_die: Callable[[QueueName], None]


def message(body: str, *, queue: QueueName = QueueName.EXTRACT, group: str = "shop") -> OutboxMessage:
    return OutboxMessage(queue, body, group)


def create_queues(client: Any) -> dict[QueueName, str]:
    """Create the used queues under names of their own, each with dead letters; return their URLs."""
    prefix = f"contract-{secrets.token_hex(6)}"
    urls = {}
    for queue in USED:
        dead_url = client.create_queue(QueueName=f"{prefix}-{queue}-dead")["QueueUrl"]
        arn = client.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
        urls[queue] = client.create_queue(
            QueueName=f"{prefix}-{queue}", Attributes={"RedrivePolicy": redrive}
        )["QueueUrl"]
    return urls


@pytest.fixture(params=["memory", "ministack", "moto_server"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if request.param == "memory":
        return memory_bench()
    client = make_sqs_client(use_aws_endpoint(request.getfixturevalue(request.param), monkeypatch))
    return sqs_bench(client, create_queues(client))


def memory_bench() -> Bench:
    queues = MemoryQueues(max_receive_count=MAX_RECEIVE_COUNT)

    def drain(queue: QueueName) -> list[str]:
        bodies = []
        while taken := queues.receive(queue):
            bodies.append(taken.message.body)
            queues.acknowledge(taken)
        return bodies

    def let_one_die(queue: QueueName) -> None:
        for _ in range(MAX_RECEIVE_COUNT):
            queues.release(queues.receive(queue))

    return Bench(queues, queues, drain, let_one_die)


def sqs_bench(client: Any, urls: dict[QueueName, str]) -> Bench:
    def receive(queue: QueueName, **options: Any) -> Sequence[dict[str, Any]]:
        return client.receive_message(QueueUrl=urls[queue], **options).get("Messages", [])

    def drain(queue: QueueName) -> list[str]:
        bodies = []
        while received := receive(queue, MaxNumberOfMessages=10):
            for each in received:
                bodies.append(each["Body"])
                client.delete_message(QueueUrl=urls[queue], ReceiptHandle=each["ReceiptHandle"])
        return bodies

    def let_one_die(queue: QueueName) -> None:
        # SQS moves it at the receive after the last one allowed.
        for _ in range(MAX_RECEIVE_COUNT + 1):
            receive(queue, VisibilityTimeout=0)

    return Bench(SqsSender(client, urls), SqsInspector(client, urls), drain, let_one_die)


def test_messages_arrive_as_they_are_each_in_its_queue(bench):
    sent = bench.sender.send(
        [message("first"), message("for another", queue=QueueName.PROCESS), message('{"ü": "\\n"}')]
    )

    assert sent == [0, 1, 2]
    assert sorted(bench.drain(QueueName.EXTRACT)) == sorted(["first", '{"ü": "\\n"}'])
    assert bench.drain(QueueName.PROCESS) == ["for another"]


def test_sending_nothing_is_no_error(bench):
    assert bench.sender.send([]) == []


def test_more_messages_than_one_call_takes_all_leave(bench):
    bodies = [f"message {number}" for number in range(25)]

    sent = bench.sender.send([message(body) for body in bodies])

    assert sent == list(range(25))
    assert sorted(bench.drain(QueueName.EXTRACT)) == sorted(bodies)


def test_messages_that_together_weigh_more_than_one_call_takes_all_leave(bench):
    bodies = [letter * (MAX_SQS_MESSAGE_BYTES // 2) for letter in "abc"]

    sent = bench.sender.send([message(body) for body in bodies])

    assert sent == [0, 1, 2]
    assert sorted(bench.drain(QueueName.EXTRACT)) == bodies


def test_the_depth_tells_what_waits(bench):
    bench.sender.send([message("1"), message("2")])

    assert bench.inspector.depth(QueueName.EXTRACT) == QueueDepth(visible=2, in_flight=0, delayed=0)
    assert bench.inspector.depth(QueueName.PROCESS) == QueueDepth(visible=0, in_flight=0, delayed=0)


def test_what_is_received_too_often_is_found_in_the_dead_letters(bench):
    bench.sender.send([message("poison")])

    bench.let_one_die(QueueName.EXTRACT)

    assert bench.inspector.depth(QueueName.EXTRACT).visible == 0
    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True).visible == 1
    assert bench.inspector.depth(QueueName.PROCESS, dead_letters=True).visible == 0


# ---- looking and settling ------------------------------------------------------------------------------------


def let_die(bench: Bench, *bodies: str, group: str = "shop") -> None:
    """Bring messages of the extract queue to its dead letters."""
    for body in bodies:
        bench.sender.send([message(body, group=group)])
        bench.let_one_die(QueueName.EXTRACT)


def look(bench: Bench, *, dead_letters: bool = True, max_messages: int = 10) -> list[SeenMessage]:
    return bench.inspector.look(
        QueueName.EXTRACT, dead_letters=dead_letters, max_messages=max_messages, hidden_seconds=60
    )


def test_a_dead_letter_is_seen_with_everything_that_is_known_of_it(bench):
    began = datetime.now(UTC) - timedelta(seconds=1)
    let_die(bench, '{"ü": "\\n"}', group="crm")

    (seen,) = look(bench)

    assert (seen.queue, seen.is_dead) == (QueueName.EXTRACT, True)
    assert (seen.body, seen.group) == ('{"ü": "\\n"}', "crm")
    assert seen.receive_count >= MAX_RECEIVE_COUNT
    assert began < seen.sent_at < datetime.now(UTC) + timedelta(seconds=1)


def test_who_looks_has_a_message_alone_until_it_is_given_back(bench):
    let_die(bench, "1", "2")

    held = look(bench)
    seen_meanwhile = look(bench)
    bench.inspector.give_back(held)

    assert {each.body for each in held} == {"1", "2"}
    assert seen_meanwhile == []
    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True) == QueueDepth(2, 0, 0)
    assert {each.body for each in look(bench)} == {"1", "2"}


def test_a_dead_letter_may_be_looked_at_more_often_than_a_live_message(bench):
    let_die(bench, "poison")

    for _ in range(MAX_RECEIVE_COUNT + 3):
        (seen,) = look(bench)
        bench.inspector.give_back([seen])

    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True).visible == 1


def test_each_look_at_a_live_message_costs_one_of_its_deliveries(bench):
    bench.sender.send([message("1")])

    for _ in range(MAX_RECEIVE_COUNT):
        (seen,) = look(bench, dead_letters=False)
        bench.inspector.give_back([seen])
    bench.drain(QueueName.EXTRACT)

    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True).visible == 1


def test_a_look_brings_no_more_than_asked_for(bench):
    let_die(bench, "1", "2", "3")

    assert len(look(bench, max_messages=2)) == 2


def test_what_is_not_there_brings_nothing(bench):
    assert look(bench) == []
    assert look(bench, dead_letters=False) == []


def test_giving_back_what_is_gone_or_was_given_back_is_no_error(bench):
    let_die(bench, "1", "2")
    first, second = look(bench)
    bench.inspector.delete(first)

    for _ in range(2):
        bench.inspector.give_back([first, second])

    assert [each.body for each in look(bench)] == [second.body]


def test_a_dead_letter_is_sent_again_as_it_was_and_lives_on_until_it_is_deleted(bench):
    let_die(bench, "again", group="crm")
    (seen,) = look(bench)

    bench.inspector.resend(seen)
    (sent,) = look(bench, dead_letters=False)
    bench.inspector.give_back([seen])

    assert (sent.body, sent.group, sent.receive_count) == ("again", "crm", 1)
    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True).visible == 1


def test_a_deleted_dead_letter_is_gone_and_no_other(bench):
    let_die(bench, "1", "2")
    first, second = look(bench)

    bench.inspector.delete(first)
    bench.inspector.give_back([second])

    assert [each.body for each in look(bench)] == [second.body]


def test_emptying_takes_what_waits_and_what_is_in_flight_and_leaves_the_other_queues(bench):
    let_die(bench, "dead")
    bench.sender.send([message("in flight"), message("waits"), message("other", queue=QueueName.PROCESS)])
    look(bench, dead_letters=False, max_messages=1)

    bench.inspector.empty(QueueName.EXTRACT, dead_letters=False)

    assert bench.inspector.depth(QueueName.EXTRACT) == QueueDepth(0, 0, 0)
    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True).visible == 1
    assert bench.inspector.depth(QueueName.PROCESS).visible == 1


def test_emptying_the_dead_letters_leaves_the_live_queue(bench):
    let_die(bench, "dead", "dead too")
    bench.sender.send([message("alive")])

    bench.inspector.empty(QueueName.EXTRACT, dead_letters=True)

    assert bench.inspector.depth(QueueName.EXTRACT, dead_letters=True) == QueueDepth(0, 0, 0)
    assert bench.drain(QueueName.EXTRACT) == ["alive"]


# ---- SQS alone -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["ministack", "moto_server"])
def sqs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return make_sqs_client(use_aws_endpoint(request.getfixturevalue(request.param), monkeypatch))


def test_a_message_carries_its_source_as_group_so_that_the_queue_is_fair(sqs):
    urls = create_queues(sqs)

    SqsSender(sqs, urls).send([message("1", group="shop")])

    [received] = sqs.receive_message(
        QueueUrl=urls[QueueName.EXTRACT], MessageSystemAttributeNames=["MessageGroupId"]
    )["Messages"]
    assert received["Attributes"]["MessageGroupId"] == "shop"


def test_a_message_that_sqs_refuses_holds_up_no_other(sqs):
    too_large = "x" * (MAX_SQS_MESSAGE_BYTES + 1)
    sender = SqsSender(sqs, create_queues(sqs))

    sent = sender.send([message("before"), message(too_large), message("after")])

    assert sent == [0, 2]


def test_a_queue_without_a_url_holds_up_no_other(sqs):
    sender = SqsSender(sqs, create_queues(sqs))

    sent = sender.send([message("1", queue=QueueName.PUBLISH), message("2")])

    assert sent == [1]
    assert sender.send([message("1", queue=QueueName.PUBLISH)]) == []


def test_a_queue_that_is_not_there_holds_up_no_other(sqs):
    urls = create_queues(sqs)
    sqs.delete_queue(QueueUrl=urls[QueueName.EXTRACT])

    sent = SqsSender(sqs, urls).send([message("1"), message("2", queue=QueueName.PROCESS)])

    assert sent == [1]
    with pytest.raises(Unavailable, match="queue extract"):
        SqsInspector(sqs, urls).depth(QueueName.EXTRACT)


def test_a_queue_without_dead_letters_or_url_is_told_as_misconfigured(sqs):
    url = sqs.create_queue(QueueName=f"contract-{secrets.token_hex(6)}")["QueueUrl"]
    inspector = SqsInspector(sqs, {QueueName.EXTRACT: url})

    with pytest.raises(ConfigurationError, match="queue extract: should have a RedrivePolicy"):
        inspector.depth(QueueName.EXTRACT, dead_letters=True)
    with pytest.raises(ConfigurationError, match="no URL is configured for the queue process"):
        inspector.depth(QueueName.PROCESS)


def test_dead_letters_with_a_redrive_policy_of_their_own_are_not_looked_at(sqs):
    urls = create_queues(sqs)
    dead_url = dead_letters_url(sqs, urls[QueueName.EXTRACT])
    arn = sqs.get_queue_attributes(QueueUrl=urls[QueueName.PROCESS], AttributeNames=["QueueArn"])
    redrive = json.dumps({"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": 1})
    sqs.set_queue_attributes(QueueUrl=dead_url, Attributes={"RedrivePolicy": redrive})

    with pytest.raises(ConfigurationError, match="should have no RedrivePolicy of its own"):
        SqsInspector(sqs, urls).look(QueueName.EXTRACT, dead_letters=True, max_messages=1, hidden_seconds=1)


def dead_letters_url(sqs: Any, url: str) -> str:
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    arn = json.loads(found["RedrivePolicy"])["deadLetterTargetArn"]
    return sqs.get_queue_url(QueueName=arn.rpartition(":")[2])["QueueUrl"]


def test_an_event_of_s3_that_died_is_sent_again_without_a_group(sqs):
    urls = create_queues(sqs)
    dead_url = dead_letters_url(sqs, urls[QueueName.EXTRACT])
    sqs.send_message(QueueUrl=dead_url, MessageBody="an event")
    inspector = SqsInspector(sqs, urls)
    (seen,) = inspector.look(QueueName.EXTRACT, dead_letters=True, max_messages=1, hidden_seconds=60)

    inspector.resend(seen)

    (sent,) = inspector.look(QueueName.EXTRACT, dead_letters=False, max_messages=1, hidden_seconds=60)
    assert (seen.group, sent.group, sent.body) == (None, None, "an event")


def test_ages_are_those_that_cloudwatch_measured_and_no_others(sqs):
    urls = create_queues(sqs)
    region = sqs.meta.region_name
    inspector = SqsInspector(sqs, urls, metrics=make_metrics_client(region))
    before = inspector.oldest_ages(), inspector.oldest_ages(dead_letters=True)

    measure_age(urls[QueueName.EXTRACT], seconds=77, region=region)
    measure_age(dead_letters_url(sqs, urls[QueueName.PROCESS]), seconds=3600, region=region)

    assert before == ({}, {})
    assert inspector.oldest_ages() == {QueueName.EXTRACT: timedelta(seconds=77)}
    assert inspector.oldest_ages(dead_letters=True) == {QueueName.PROCESS: timedelta(hours=1)}


def measure_age(url: str, *, seconds: int, region: str) -> None:
    """Tell CloudWatch what SQS tells it in AWS."""
    boto3.client("cloudwatch", region_name=region).put_metric_data(
        Namespace="AWS/SQS",
        MetricData=[
            {
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": url.rpartition("/")[2]}],
                "Timestamp": datetime.now(UTC) - timedelta(minutes=2),
                "Value": seconds,
                "Unit": "Seconds",
            }
        ],
    )


def test_ages_are_unknown_when_cloudwatch_is_away(sqs, monkeypatch):
    urls = create_queues(sqs)
    region = use_aws_endpoint("http://127.0.0.1:9", monkeypatch)

    assert SqsInspector(sqs, urls, metrics=make_metrics_client(region)).oldest_ages() == {}
    assert SqsInspector(sqs, urls).oldest_ages() == {}


def test_a_queue_that_was_emptied_a_moment_ago_is_not_emptied_again(moto_server, monkeypatch):
    # MiniStack does it as often as it is asked.
    client = make_sqs_client(use_aws_endpoint(moto_server, monkeypatch))
    inspector = SqsInspector(client, create_queues(client))
    inspector.empty(QueueName.EXTRACT, dead_letters=False)

    with pytest.raises(Unavailable, match="at most once in 60 seconds"):
        inspector.empty(QueueName.EXTRACT, dead_letters=False)


@pytest.mark.parametrize(
    "act",
    [
        lambda inspector, _: inspector.look(
            QueueName.EXTRACT, dead_letters=False, max_messages=1, hidden_seconds=1
        ),
        lambda inspector, seen: inspector.give_back([seen]),
        lambda inspector, seen: inspector.resend(seen),
        lambda inspector, seen: inspector.delete(seen),
        lambda inspector, _: inspector.empty(QueueName.EXTRACT, dead_letters=False),
    ],
    ids=["look", "give back", "resend", "delete", "empty"],
)
def test_when_sqs_is_away_everything_says_so(act, monkeypatch):
    client = make_sqs_client(use_aws_endpoint("http://127.0.0.1:9", monkeypatch))
    inspector = SqsInspector(client, dict.fromkeys(USED, "http://127.0.0.1:9/000000000000/q"))
    seen = SeenMessage(QueueName.EXTRACT, False, "1", "body", "shop", datetime.now(UTC), 1, "receipt")

    with pytest.raises(Unavailable, match="queue extract"):
        act(inspector, seen)


def test_when_sqs_is_away_nothing_left_and_the_first_failure_ends_the_trying(monkeypatch):
    client = make_sqs_client(use_aws_endpoint("http://127.0.0.1:9", monkeypatch))
    calls = []
    client.meta.events.register("before-call.sqs.SendMessageBatch", lambda **_: calls.append("call"))
    sender = SqsSender(client, dict.fromkeys(USED, "http://127.0.0.1:9/000000000000/q"))

    with pytest.raises(Unavailable, match="none of 25 messages could be sent"):
        sender.send([message(str(number)) for number in range(25)])

    assert calls == ["call"]


def test_a_memory_queue_gives_what_the_caller_chooses_and_repeats_what_it_is_told():
    queues = MemoryQueues()
    queues.send([message("first"), message("second")])
    queues.duplicate(QueueName.EXTRACT, 0)

    taken = [queues.receive(QueueName.EXTRACT, index) for index in (1, 1, 0)]

    assert [each.message.body for each in taken] == ["second", "first", "first"]
    assert len({each.id for each in taken}) == 3
    assert queues.receive(QueueName.EXTRACT) is None
    assert queues.depth(QueueName.EXTRACT).in_flight == 3


def test_a_released_memory_message_comes_again_and_a_late_acknowledgement_changes_nothing():
    queues = MemoryQueues()
    queues.send([message("once")])
    taken = queues.receive(QueueName.EXTRACT)
    queues.release(taken)

    queues.acknowledge(taken)
    again = queues.receive(QueueName.EXTRACT)

    assert again.message.body == "once"
    assert again.receive_count == 2


def test_the_age_of_the_oldest_memory_message_counts_those_in_flight_too():
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    queues = MemoryQueues(clock=lambda: now)
    queues.send([message("old")])
    now += timedelta(minutes=5)
    queues.send([message("young")])
    queues.receive(QueueName.EXTRACT)

    assert queues.oldest_ages() == {QueueName.EXTRACT: timedelta(minutes=5)}
    assert queues.oldest_ages(dead_letters=True) == {}


def test_a_purge_loses_every_memory_message():
    queues = MemoryQueues(max_receive_count=1)
    queues.send([message("waits"), message("is held"), message("dies")])
    queues.release(queues.receive(QueueName.EXTRACT, 2))
    queues.receive(QueueName.EXTRACT, 1)

    queues.purge()

    assert queues.depth(QueueName.EXTRACT) == QueueDepth(visible=0, in_flight=0, delayed=0)
    assert queues.dead_letters(QueueName.EXTRACT) == ()
