"""Messages that nobody of ours wrote, in every queue: they end among the dead letters, and good ones go on."""

import base64
import json
import pickle
from collections.abc import Iterator
from itertools import chain

import pytest
from support.fleet import SmallFleet, until

from infra.plan import WORKER_QUEUES
from local.fleet import WORKERS
from shared.domain.files import Area
from shared.messages import EXTRACT_TASK, clean_message, gate_message, task_message
from shared.ports import QueueName

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: The queues of the workers.
WORKED = frozenset(chain.from_iterable(WORKER_QUEUES.values()))

HOSTILE = {
    "no JSON": "hello",
    "blank": " ",
    "null": "null",
    "a number": "1e999",
    "a list": "[1, 2, 3]",
    "cut off": '{"version": 1, "kind": "che',
    "deep": "[" * 20_000 + "]" * 20_000,
    "long": json.dumps({"version": 1, "kind": "x" * 200_000}),
    "another version": json.dumps({"version": 2, "kind": "check", "batch_id": "b1", "area": "tmp"}),
    "another kind": json.dumps({"version": 1, "kind": "delete-everything", "batch_id": "b1"}),
    "no id": json.dumps({"version": 1, "kind": "clean", "batch_id": "'; DROP TABLE batch; --"}),
    "a pickle": json.dumps(
        {
            "body": base64.b64encode(pickle.dumps(["x"])).decode(),
            "content-type": "application/x-python-serialize",
            "content-encoding": "binary",
            "headers": {"task": EXTRACT_TASK, "id": "1"},
            "properties": {"body_encoding": "base64"},
        }
    ),
    "a callback": json.dumps(
        {
            "headers": {"task": EXTRACT_TASK, "id": "1", "eta": "2030-01-01T00:00:00Z"},
            "properties": {"correlation_id": "1"},
            "content-type": "application/x-plain-json",
            "content-encoding": "binary",
            "body": [[], {"batch_id": "b1"}, {"callbacks": [{"task": "os.system"}]}],
        }
    ),
    "an event of nowhere": json.dumps(
        {"Records": [{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}]}
    ),
    "escapes": json.dumps({"version": 1, "kind": "clean", "batch_id": "\u0000\ud800"}),
}

RECEIVES = 2


@pytest.fixture
def impatient_queues(fleet: SmallFleet) -> Iterator[None]:
    """Queues that give a message up after its second receive, and wait but a moment for it."""
    sqs = fleet.client("sqs")
    names = ["VisibilityTimeout", "RedrivePolicy"]
    before = {
        queue: sqs.get_queue_attributes(QueueUrl=fleet.queue_url(queue), AttributeNames=names)["Attributes"]
        for queue in QueueName
    }
    for queue in QueueName:
        redrive = json.loads(before[queue]["RedrivePolicy"]) | {"maxReceiveCount": RECEIVES}
        # The worker sets its own.
        timeout = before[queue]["VisibilityTimeout"] if queue in WORKED else "3"
        sqs.set_queue_attributes(
            QueueUrl=fleet.queue_url(queue),
            Attributes={"VisibilityTimeout": timeout, "RedrivePolicy": json.dumps(redrive)},
        )
    yield
    for queue in QueueName:
        sqs.set_queue_attributes(QueueUrl=fleet.queue_url(queue), Attributes=before[queue])


@pytest.mark.usefixtures("impatient_queues")
def test_poison_of_every_shape_ends_among_the_dead_letters_of_every_queue(fleet: SmallFleet) -> None:
    sqs = fleet.client("sqs")
    poison = {queue: set(HOSTILE.values()) | {meant_for_another(queue)} for queue in QueueName}

    for queue, bodies in poison.items():
        for body in bodies:
            sqs.send_message(QueueUrl=fleet.queue_url(queue), MessageBody=body)
    fleet.shop("UPDATE orders SET updated_at = now(), item_count = 9 WHERE order_id <= 20")
    fleet.move_everything("shop")

    fleet.assert_all_equal()
    for queue, bodies in poison.items():
        missing = set(bodies)

        def all_there(queue: QueueName = queue, missing: set[str] = missing) -> bool:
            missing -= dead_letters(fleet, queue)
            return not missing

        until(all_there, what=f"the poison in {queue} to be given up")
    for worker in WORKERS:
        lines = fleet.home.log_file(worker).read_text()
        assert "message_refused" in lines
        assert "Traceback" not in lines


def meant_for_another(queue: QueueName) -> str:
    """Return a message of ours that has no business in a queue."""
    if queue in WORKED:
        return gate_message("b1", Area.TMP)
    if queue is QueueName.CLEAN:
        return task_message(EXTRACT_TASK, {"batch_id": "b1"}, queue="extract", task_id="b1")
    return clean_message("b1")


def dead_letters(fleet: SmallFleet, queue: QueueName) -> set[str]:
    """Take what lies among the dead letters of a queue."""
    sqs, url = fleet.client("sqs"), fleet.queue_url(queue, dead_letters=True)
    found = set()
    while messages := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            found.add(message["Body"])
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found
