"""
Sending to SQS, and looking into it. Receiving is the business of Celery and of Lambda.

A message carries its source as message group: on a standard queue that makes a fair queue, where a source
with thousands of messages does not keep the others waiting.
Source: Amazon SQS Developer Guide, "Amazon SQS fair queues".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from shared.errors import ConfigurationError, Unavailable
from shared.messages import MAX_SQS_MESSAGE_BYTES
from shared.ports import OutboxMessage, QueueDepth, QueueName

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

log = structlog.get_logger()

#: Source: Amazon SQS Developer Guide, "Amazon SQS message quotas". A batch may weigh what one message may.
MAX_BATCH_ENTRIES: Final = 10
MAX_BATCH_BYTES: Final = MAX_SQS_MESSAGE_BYTES


def make_sqs_client(region: str) -> "SQSClient":
    """Return a client whose calls end in bounded time. The endpoint is `AWS_ENDPOINT_URL`, or that of AWS."""
    return boto3.session.Session().client(
        "sqs",
        region_name=region,
        config=Config(
            connect_timeout=3,
            read_timeout=10,
            retries={"mode": "standard", "total_max_attempts": 3},
            tcp_keepalive=True,
        ),
    )


class SqsSender:
    """`QueueSender` on SQS. `urls` may lack queues that other processes send to."""

    def __init__(self, client: "SQSClient", urls: Mapping[QueueName, str]) -> None:
        self._client = client
        self._urls = dict(urls)

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """
        Send messages and return the indexes of those that left; see `QueueSender`.

        What SQS refuses, and what is for a queue without a URL, is logged and does not leave; it holds up
        nothing else. When SQS does not answer, nothing more is tried: each try costs its timeouts.
        """
        sent: list[int] = []
        failures: list[str] = []
        is_away = False
        for queue, batch in _batches(messages):
            try:
                sent += self._send_batch(queue, batch, failures)
            except ParamValidationError:
                raise  # A defect of ours, not of the service.
            except (ClientError, BotoCoreError) as error:
                _note(failures, queue, str(error))
                if is_away := _is_outage(error):
                    break
        if is_away and not sent:
            raise Unavailable(f"queues: none of {len(messages)} messages could be sent: {failures[-1]}")
        return sorted(sent)

    def _send_batch(
        self, queue: QueueName, batch: Mapping[int, OutboxMessage], failures: list[str]
    ) -> list[int]:
        url = self._urls.get(queue)
        if url is None:
            _note(failures, queue, f"no URL is configured for the queue {queue}")
            return []
        answer = self._client.send_message_batch(
            QueueUrl=url, Entries=[_entry(index, message) for index, message in batch.items()]
        )
        for failed in answer.get("Failed", ()):
            _note(failures, queue, f"{failed['Code']}: {failed.get('Message', '')}")
        return [int(entry["Id"]) for entry in answer.get("Successful", ())]


class SqsInspector:
    """`QueueInspector` on SQS. The role needs `sqs:GetQueueAttributes` and `sqs:GetQueueUrl`."""

    def __init__(self, client: "SQSClient", urls: Mapping[QueueName, str]) -> None:
        self._client = client
        self._urls = dict(urls)

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        """
        Return how full a queue is; see `QueueInspector`.

        Raises:
            ConfigurationError: if the queue has no URL here, or no dead-letter queue in SQS.
            Unavailable: if SQS does not answer.
        """
        if queue not in self._urls:
            raise ConfigurationError(f"queues: no URL is configured for the queue {queue}")
        try:
            url = self._dead_letters_url(queue) if dead_letters else self._urls[queue]
            return self._depth_of(url)
        except (ClientError, BotoCoreError) as error:
            raise Unavailable(f"queue {queue}: {error}") from error

    def _depth_of(self, url: str) -> QueueDepth:
        found = self._client.get_queue_attributes(
            QueueUrl=url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )["Attributes"]
        return QueueDepth(
            visible=int(found["ApproximateNumberOfMessages"]),
            in_flight=int(found["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(found["ApproximateNumberOfMessagesDelayed"]),
        )

    def _dead_letters_url(self, queue: QueueName) -> str:
        """Return where the queue's own redrive policy sends what is received too often."""
        found = self._client.get_queue_attributes(
            QueueUrl=self._urls[queue], AttributeNames=["RedrivePolicy"]
        ).get("Attributes", {})
        if "RedrivePolicy" not in found:
            raise ConfigurationError(
                f"queue {queue}: should have a RedrivePolicy that names its dead-letter queue, found none"
            )
        arn = json.loads(found["RedrivePolicy"])["deadLetterTargetArn"]
        account, name = arn.split(":")[4:6]
        return self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]


def _batches(messages: Sequence[OutboxMessage]) -> Iterator[tuple[QueueName, dict[int, OutboxMessage]]]:
    """Return the messages by queue, in order, in batches that SQS takes; each message under its index."""
    open_batches: dict[QueueName, dict[int, OutboxMessage]] = {}
    sizes_in_bytes: dict[QueueName, int] = {}
    for index, message in enumerate(messages):
        queue, size_in_bytes = message.queue, len(message.body.encode())
        batch = open_batches.setdefault(queue, {})
        is_full = len(batch) == MAX_BATCH_ENTRIES
        if batch and (is_full or sizes_in_bytes[queue] + size_in_bytes > MAX_BATCH_BYTES):
            yield queue, batch
            batch = open_batches[queue] = {}
        batch[index] = message
        sizes_in_bytes[queue] = size_in_bytes + (sizes_in_bytes[queue] if len(batch) > 1 else 0)
    yield from open_batches.items()


def _entry(index: int, message: OutboxMessage) -> "SendMessageBatchRequestEntryTypeDef":
    return {"Id": str(index), "MessageBody": message.body, "MessageGroupId": message.group}


def _is_outage(error: ClientError | BotoCoreError) -> bool:
    """Whether any other queue would fail the same way."""
    return not isinstance(error, ClientError) or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500


def _note(failures: list[str], queue: QueueName, detail: str) -> None:
    log.warning("messages_not_sent", queue=queue, detail=detail)
    failures.append(detail)
