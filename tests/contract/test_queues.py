"""What every queue promises: in memory, on MiniStack, and on moto as a second opinion."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from support.aws_endpoint import use_aws_endpoint

from shared.errors import ConfigurationError, Unavailable
from shared.messages import MAX_SQS_MESSAGE_BYTES
from shared.ports import OutboxMessage, QueueDepth, QueueInspector, QueueName, QueueSender
from shared.queues.memory import MemoryQueues
from shared.queues.sqs import SqsInspector, SqsSender, make_sqs_client

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


def test_a_purge_loses_every_memory_message():
    queues = MemoryQueues(max_receive_count=1)
    queues.send([message("waits"), message("is held"), message("dies")])
    queues.release(queues.receive(QueueName.EXTRACT, 2))
    queues.receive(QueueName.EXTRACT, 1)

    queues.purge()

    assert queues.depth(QueueName.EXTRACT) == QueueDepth(visible=0, in_flight=0, delayed=0)
    assert queues.dead_letters(QueueName.EXTRACT) == ()
