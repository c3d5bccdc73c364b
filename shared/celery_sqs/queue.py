"""The calls to SQS that a worker makes, with time limits on each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.celery_sqs.settings import WorkerSettings
from shared.errors import ConfigurationError, Unavailable
from shared.messages import TRACE_ATTRIBUTE

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

#: Everything that a call may raise: refusals and outages of SQS, and a connection that breaks below botocore.
AWS_ERRORS = (ClientError, BotoCoreError, OSError)

#: Source: Amazon SQS API Reference, ReceiveMessage and ChangeMessageVisibilityBatch.
MAX_MESSAGES_PER_CALL = 10

_CONNECT_TIMEOUT_SECONDS = 5
_SETTLE_TIMEOUT_SECONDS = 10
_SETTLE_ATTEMPTS = 4


@dataclass(frozen=True, slots=True)
class WorkerQueue:
    """The one queue that a worker serves."""

    #: As in the messages: `extract`, `process`, `publish`.
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """One delivery of a message."""

    message_id: str
    #: Names this delivery when it is deleted, hidden or shown.
    receipt_handle: str
    body: str
    #: 1 for the first delivery.
    receive_count: int
    #: Of the trace of its batch, as whoever sent it wrote it; None if it says nothing.
    traceparent: str | None = None


class SqsQueue:
    """
    One SQS queue. Safe for use by several threads.

    Endpoint and credentials come from boto3's own chain: the environment locally, the role in AWS.
    """

    def __init__(self, queue: WorkerQueue, settings: WorkerSettings) -> None:
        self.queue = queue
        self._visibility_timeout_seconds = settings.visibility_timeout_seconds
        self._wait_time_seconds = settings.wait_time_seconds
        # One attempt: the receive loop is the retry, and it shows the liveness probe that it turns.
        self._receiver = _client(settings, timeout_seconds=settings.receive_timeout_seconds, attempts=1)
        self._settler = _client(settings, timeout_seconds=_SETTLE_TIMEOUT_SECONDS, attempts=_SETTLE_ATTEMPTS)

    def receive(self, *, max_messages: int) -> list[ReceivedMessage]:
        """Wait for messages. The visibility asked for here overrides what is set on the queue."""
        response = self._receiver.receive_message(
            QueueUrl=self.queue.url,
            MaxNumberOfMessages=min(max_messages, MAX_MESSAGES_PER_CALL),
            WaitTimeSeconds=self._wait_time_seconds,
            VisibilityTimeout=self._visibility_timeout_seconds,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
            MessageAttributeNames=[TRACE_ATTRIBUTE],
        )
        return [
            ReceivedMessage(
                message_id=message["MessageId"],
                receipt_handle=message["ReceiptHandle"],
                body=message["Body"],
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
                traceparent=_traceparent(message),
            )
            for message in response.get("Messages", [])
        ]

    def delete(self, receipt_handle: str) -> None:
        """Delete a message for good."""
        self._settler.delete_message(QueueUrl=self.queue.url, ReceiptHandle=receipt_handle)

    def hide(self, receipt_handle: str, *, seconds: int) -> None:
        """Keep a message from all workers for so long, counted from now; 0 shows it at once."""
        self._settler.change_message_visibility(
            QueueUrl=self.queue.url, ReceiptHandle=receipt_handle, VisibilityTimeout=seconds
        )

    def renew(self, receipt_handles: Sequence[str]) -> list[str]:
        """Hide messages for another visibility timeout; return the handles for which SQS refused it."""
        refused = []
        for start in range(0, len(receipt_handles), MAX_MESSAGES_PER_CALL):
            handles = receipt_handles[start : start + MAX_MESSAGES_PER_CALL]
            response = self._settler.change_message_visibility_batch(
                QueueUrl=self.queue.url,
                Entries=[
                    {
                        "Id": str(index),
                        "ReceiptHandle": handle,
                        "VisibilityTimeout": self._visibility_timeout_seconds,
                    }
                    for index, handle in enumerate(handles)
                ],
            )
            refused += [handles[int(failure["Id"])] for failure in response.get("Failed", [])]
        return refused

    def max_receive_count(self) -> int:
        """
        Return after how many deliveries a message goes to the dead letters.

        Raises:
            ConfigurationError: if the queue has no dead letters, does not exist, or may not be read.
            Unavailable: if SQS does not answer.
        """
        where = f"queue {self.queue.name!r} ({self.queue.url})"
        try:
            response = self._settler.get_queue_attributes(
                QueueUrl=self.queue.url, AttributeNames=["RedrivePolicy"]
            )
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                raise Unavailable(f"{where}: SQS did not answer: {error}") from error
            raise ConfigurationError(
                f"{where}: its attributes should be readable for the worker, found: {error}. "
                "Give the URL of an existing queue, and the role sqs:GetQueueAttributes on it."
            ) from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable(f"{where}: SQS did not answer: {error}") from error
        policy = response.get("Attributes", {}).get("RedrivePolicy")
        if policy is None:
            raise ConfigurationError(
                f"{where} should have a RedrivePolicy, found none: a message that cannot be run would come "
                "back for ever. Give the queue a dead-letter queue and a maxReceiveCount of 8."
            )
        return int(json.loads(policy)["maxReceiveCount"])


def _client(settings: WorkerSettings, *, timeout_seconds: int, attempts: int) -> "SQSClient":
    # A session of its own: boto3's default session is not safe to share between threads.
    return boto3.session.Session(region_name=settings.region).client(
        "sqs",
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            read_timeout=timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": attempts},
        ),
    )


def _traceparent(message: "MessageTypeDef") -> str | None:
    attribute = message.get("MessageAttributes", {}).get(TRACE_ATTRIBUTE)
    return attribute.get("StringValue") if attribute else None
