"""
Sending to SQS, and looking into it. Receiving in order to work is the business of Celery and of Lambda.

A message carries its source as message group: on a standard queue that makes a fair queue, where a source
with thousands of messages does not keep the others waiting.
Source: Amazon SQS Developer Guide, "Amazon SQS fair queues".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from shared.errors import ConfigurationError, EsclusaError, Unavailable
from shared.messages import MAX_SQS_MESSAGE_BYTES, TRACE_ATTRIBUTE
from shared.ports import OutboxMessage, QueueDepth, QueueName, SeenMessage

if TYPE_CHECKING:
    from mypy_boto3_sqs.client import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

log = structlog.get_logger()

#: Source: Amazon SQS Developer Guide, "Amazon SQS message quotas". A batch may weigh what one message may.
MAX_BATCH_ENTRIES: Final = 10
MAX_BATCH_BYTES: Final = MAX_SQS_MESSAGE_BYTES

#: SQS tells CloudWatch once a minute, and CloudWatch shows it some minutes later.
_METRIC_LOOKBACK: Final = timedelta(minutes=15)


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


def make_metrics_client(region: str) -> Any:
    """Return a CloudWatch client that gives up soon: what it tells is worth little waiting."""
    return boto3.session.Session().client(
        "cloudwatch",
        region_name=region,
        config=Config(
            connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 2}
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
    """
    `QueueInspector` on SQS, with CloudWatch for the ages that SQS has no attribute for.

    A role that only asks for depths needs `sqs:GetQueueAttributes` and `sqs:GetQueueUrl`; docs/operations.md lists
    what the rest needs.
    """

    def __init__(self, client: "SQSClient", urls: Mapping[QueueName, str], *, metrics: Any = None) -> None:
        """Take the URLs of the queues, and a CloudWatch client if ages are asked for."""
        self._client = client
        self._urls = dict(urls)
        self._metrics = metrics
        self._dead_urls: dict[QueueName, str] = {}

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        """
        Return how full a queue is; see `QueueInspector`.

        Raises:
            ConfigurationError: if the queue has no URL here, or no dead-letter queue in SQS.
            Unavailable: if SQS does not answer.
        """
        with _errors_translated(queue):
            found = self._client.get_queue_attributes(
                QueueUrl=self._url(queue, dead_letters=dead_letters),
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

    def oldest_ages(self, *, dead_letters: bool = False) -> dict[QueueName, timedelta]:
        """
        Return the newest `ApproximateAgeOfOldestMessage` of each queue; see `QueueInspector`.

        A few minutes old, and of a dead letter since it died. Source: Amazon SQS Developer Guide, "Available
        CloudWatch metrics for Amazon SQS".
        """
        if self._metrics is None:
            return {}
        now = datetime.now(UTC)
        try:
            names = {
                queue: self._url(queue, dead_letters=dead_letters).rpartition("/")[2] for queue in self._urls
            }
            answer = self._metrics.get_metric_data(
                StartTime=now - _METRIC_LOOKBACK,
                EndTime=now,
                ScanBy="TimestampDescending",
                MetricDataQueries=[_age_query(index, name) for index, name in enumerate(names.values())],
            )
        except (EsclusaError, ClientError, BotoCoreError) as error:
            log.warning("queue_ages_not_measured", detail=str(error))
            return {}
        queues = list(names)
        return {
            queues[int(result["Id"][1:])]: timedelta(seconds=result["Values"][0])
            for result in answer["MetricDataResults"]
            if result["Values"]
        }

    def look(
        self, queue: QueueName, *, dead_letters: bool, max_messages: int, hidden_seconds: int
    ) -> list[SeenMessage]:
        """Receive up to ten messages and hide them for so long; see `QueueInspector`."""
        with _errors_translated(queue):
            url = self._url(queue, dead_letters=dead_letters)
            if dead_letters and self._redrive_policy(url):
                raise ConfigurationError(
                    f"queue {queue}: its dead-letter queue should have no RedrivePolicy of its own, found one: "
                    "looking at a dead letter would bring it nearer to the queue behind"
                )
            received = self._client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(max_messages, MAX_BATCH_ENTRIES),
                VisibilityTimeout=hidden_seconds,
                # Without a wait SQS asks some of its servers only, and may say that nothing is there.
                WaitTimeSeconds=1,
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            ).get("Messages", [])
        return [_seen(queue, message, is_dead=dead_letters) for message in received]

    def give_back(self, messages: Sequence[SeenMessage]) -> None:
        """Let everybody see messages again; see `QueueInspector`. What SQS refuses comes back by itself."""
        for (queue, is_dead), group in _by_queue(messages).items():
            for start in range(0, len(group), MAX_BATCH_ENTRIES):
                entries = group[start : start + MAX_BATCH_ENTRIES]
                with _errors_translated(queue):
                    self._client.change_message_visibility_batch(
                        QueueUrl=self._url(queue, dead_letters=is_dead),
                        Entries=[
                            {"Id": str(index), "ReceiptHandle": each.receipt, "VisibilityTimeout": 0}
                            for index, each in enumerate(entries)
                        ],
                    )

    def resend(self, message: SeenMessage) -> None:
        """Send the same body, with the same group, to the live queue; see `QueueInspector`."""
        with _errors_translated(message.queue):
            url = self._url(message.queue, dead_letters=False)
            if message.group is None:
                self._client.send_message(QueueUrl=url, MessageBody=message.body)
            else:
                self._client.send_message(
                    QueueUrl=url, MessageBody=message.body, MessageGroupId=message.group
                )

    def delete(self, message: SeenMessage) -> None:
        """Delete a message that is being looked at; see `QueueInspector`."""
        with _errors_translated(message.queue):
            self._client.delete_message(
                QueueUrl=self._url(message.queue, dead_letters=message.is_dead), ReceiptHandle=message.receipt
            )

    def empty(self, queue: QueueName, *, dead_letters: bool) -> None:
        """Delete every message of a queue or of its dead letters; see `QueueInspector`."""
        with _errors_translated(queue):
            try:
                self._client.purge_queue(QueueUrl=self._url(queue, dead_letters=dead_letters))
            except self._client.exceptions.PurgeQueueInProgress as error:
                raise Unavailable(
                    f"queue {queue}: SQS empties a queue at most once in 60 seconds; it was not emptied again"
                ) from error

    def _url(self, queue: QueueName, *, dead_letters: bool) -> str:
        if queue not in self._urls:
            raise ConfigurationError(f"queues: no URL is configured for the queue {queue}")
        if not dead_letters:
            return self._urls[queue]
        if queue not in self._dead_urls:
            self._dead_urls[queue] = self._find_dead_letters(queue)
        return self._dead_urls[queue]

    def _find_dead_letters(self, queue: QueueName) -> str:
        """Return where the queue's own redrive policy sends what is received too often."""
        policy = self._redrive_policy(self._urls[queue])
        if not policy:
            raise ConfigurationError(
                f"queue {queue}: should have a RedrivePolicy that names its dead-letter queue, found none"
            )
        account, name = json.loads(policy)["deadLetterTargetArn"].split(":")[4:6]
        return self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]

    def _redrive_policy(self, url: str) -> str:
        found = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])
        return found.get("Attributes", {}).get("RedrivePolicy", "")


@contextmanager
def _errors_translated(queue: QueueName) -> Iterator[None]:
    try:
        yield
    except ParamValidationError:
        raise  # A defect of ours, not of the service.
    except (ClientError, BotoCoreError) as error:
        raise Unavailable(f"queue {queue}: {error}") from error


def _by_queue(messages: Sequence[SeenMessage]) -> dict[tuple[QueueName, bool], list[SeenMessage]]:
    groups: dict[tuple[QueueName, bool], list[SeenMessage]] = {}
    for message in messages:
        groups.setdefault((message.queue, message.is_dead), []).append(message)
    return groups


def _seen(queue: QueueName, message: "MessageTypeDef", *, is_dead: bool) -> SeenMessage:
    attributes = message.get("Attributes", {})
    return SeenMessage(
        queue=queue,
        is_dead=is_dead,
        id=message["MessageId"],
        body=message["Body"],
        group=attributes.get("MessageGroupId"),
        sent_at=datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1000, UTC),
        receive_count=int(attributes["ApproximateReceiveCount"]),
        receipt=message["ReceiptHandle"],
    )


def _age_query(index: int, queue_name: str) -> dict[str, Any]:
    return {
        "Id": f"q{index}",
        "MetricStat": {
            "Metric": {
                "Namespace": "AWS/SQS",
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Dimensions": [{"Name": "QueueName", "Value": queue_name}],
            },
            "Period": 60,
            "Stat": "Maximum",
        },
    }


def _batches(messages: Sequence[OutboxMessage]) -> Iterator[tuple[QueueName, dict[int, OutboxMessage]]]:
    """Return the messages by queue, in order, in batches that SQS takes; each message under its index."""
    open_batches: dict[QueueName, dict[int, OutboxMessage]] = {}
    sizes_in_bytes: dict[QueueName, int] = {}
    for index, message in enumerate(messages):
        queue, size_in_bytes = message.queue, len(message.body.encode()) + _attribute_bytes(message)
        batch = open_batches.setdefault(queue, {})
        is_full = len(batch) == MAX_BATCH_ENTRIES
        if batch and (is_full or sizes_in_bytes[queue] + size_in_bytes > MAX_BATCH_BYTES):
            yield queue, batch
            batch = open_batches[queue] = {}
        batch[index] = message
        sizes_in_bytes[queue] = size_in_bytes + (sizes_in_bytes[queue] if len(batch) > 1 else 0)
    yield from open_batches.items()


def _entry(index: int, message: OutboxMessage) -> "SendMessageBatchRequestEntryTypeDef":
    entry: SendMessageBatchRequestEntryTypeDef = {
        "Id": str(index),
        "MessageBody": message.body,
        "MessageGroupId": message.group,
    }
    if message.traceparent is not None:
        entry["MessageAttributes"] = {
            TRACE_ATTRIBUTE: {"DataType": "String", "StringValue": message.traceparent}
        }
    return entry


def _attribute_bytes(message: OutboxMessage) -> int:
    """Attributes weigh what their names, types and values do."""
    if message.traceparent is None:
        return 0
    return len(TRACE_ATTRIBUTE) + len("String") + len(message.traceparent)


def _is_outage(error: ClientError | BotoCoreError) -> bool:
    """Whether any other queue would fail the same way."""
    return not isinstance(error, ClientError) or error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500


def _note(failures: list[str], queue: QueueName, detail: str) -> None:
    log.warning("messages_not_sent", queue=queue, detail=detail)
    failures.append(detail)
