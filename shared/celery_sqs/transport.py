"""
What Celery takes for its broker: a kombu transport for one SQS queue, built on kombu's own base for such.

kombu's SQS transport is not used: see docs/adr/0005. A message reaches Celery's code only after
`shared.messages` has read it, and as an envelope made anew from the three facts in it: whatever else a sender
may write (time limits, callbacks, compression, other serializers) has no way in.
"""

import json
import time
from functools import cached_property
from queue import Empty
from typing import Any

import structlog
from celery.worker import state
from kombu.connection import Connection
from kombu.transport import virtual

from shared.celery_sqs.held_messages import HeldMessages
from shared.celery_sqs.queue import AWS_ERRORS, ReceivedMessage, SqsQueue, WorkerQueue
from shared.celery_sqs.settings import WorkerSettings
from shared.domain.traces import TraceParent
from shared.errors import MalformedMessage
from shared.messages import TaskMessage, parse_task_message
from shared.telemetry.metric_list import MESSAGES_REFUSED, RECEIVE_FAILURES, WORKER_TURNED_TIMESTAMP_SECONDS
from shared.telemetry.metrics import record

log = structlog.get_logger()

_MAX_RECEIVE_PAUSE_SECONDS = 10.0
_ALIVE_INTERVAL_SECONDS = 1.0


def is_stopping() -> bool:
    """Say whether this process was told to stop. Celery's flags hold an exit code, and 0 is one."""
    flags = (state.should_stop, state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)


class SqsChannel(virtual.Channel):
    """Receives messages of one queue, hands the good ones to Celery and leaves the others to SQS."""

    def __init__(self, connection: "SqsTransport", **options: Any) -> None:
        super().__init__(connection, **options)  # type: ignore[no-untyped-call]
        self._settings = connection.settings
        self._queue = connection.queue
        self._held = HeldMessages(self._queue, self._settings, is_stopping=is_stopping)
        self._failed_receives = 0
        self._touched_at = float("-inf")

    @property
    def qos(self) -> HeldMessages:
        """The messages in hand; kombu and Celery look for them under this name."""
        return self._held

    # ---- receive ---------------------------------------------------------------------------------------------

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **options: Any) -> None:
        """Begin to receive."""
        super().basic_consume(queue, no_ack, *args, **options)  # type: ignore[no-untyped-call]
        self._held.start_heartbeat()

    def drain_events(self, timeout: float | None = None, callback: Any = None) -> None:  # noqa: ARG002
        """
        Receive once, if there is room, and hand on what came.

        Raises:
            Empty: if nothing came. kombu calls again until `timeout`.
            TimeoutError: if the process is stopping. Celery's loop then looks at its flags at once.
        """
        self._touch_alive_file()
        if is_stopping():
            raise TimeoutError
        if not self._consumers or not self._held.can_consume():
            raise Empty
        messages = self._receive()
        if not messages:
            raise Empty
        for message in messages:
            self._hand_on(message)

    def _receive(self) -> list[ReceivedMessage]:
        try:
            messages = self._queue.receive(max_messages=self._held.room())
        except AWS_ERRORS as error:
            self._failed_receives += 1
            pause_seconds = min(0.25 * 2 ** min(self._failed_receives, 10), _MAX_RECEIVE_PAUSE_SECONDS)
            log.warning(
                "receive_failed",
                queue=self._queue.queue.name,
                error=str(error),
                failures_in_a_row=self._failed_receives,
                pause_seconds=pause_seconds,
            )
            record(RECEIVE_FAILURES, queue=self._queue.queue.name)
            time.sleep(pause_seconds)
            return []
        self._failed_receives = 0
        return messages

    def _hand_on(self, message: ReceivedMessage) -> None:
        if is_stopping():  # told so while the receive was waiting
            self._held.hide(message.receipt_handle, seconds=0)
            return
        try:
            task = parse_task_message(message.body)
            self.connection._deliver(self._envelope(task, message), self._queue.queue.name)  # noqa: SLF001
        except MalformedMessage as error:
            # No backoff: what cannot be read today cannot be read in an hour. It is sooner among the dead
            # letters this way, where people look.
            record(MESSAGES_REFUSED, queue=self._queue.queue.name)
            self._leave(message, event="message_refused", error=error, receive_count=1)
        except Exception as error:  # noqa: BLE001  # one message must not stop the others
            self._held.forget(message.receipt_handle)
            self._leave(
                message, event="message_not_accepted", error=error, receive_count=message.receive_count
            )

    def _leave(self, message: ReceivedMessage, *, event: str, error: Exception, receive_count: int) -> None:
        log.error(
            event,
            queue=self._queue.queue.name,
            message_id=message.message_id,
            receive_count=message.receive_count,
            error=f"{type(error).__name__}: {error}",
        )
        self._held.hide(message.receipt_handle, seconds=self._held.backoff_seconds(receive_count))

    def _envelope(self, task: TaskMessage, message: ReceivedMessage) -> dict[str, Any]:
        trace = TraceParent.parse(message.traceparent)
        arguments = {"batch_id": task.batch_id} | ({"traceparent": str(trace)} if trace else {})
        return {
            "headers": {"task": task.task, "id": task.task_id},
            "properties": {
                "correlation_id": task.task_id,
                "delivery_tag": message.receipt_handle,
                "delivery_info": {
                    "exchange": "",
                    "routing_key": self._queue.queue.name,
                    "message_id": message.message_id,
                    "receive_count": message.receive_count,
                },
            },
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "body": json.dumps([[], arguments, {}]),
        }

    def _touch_alive_file(self) -> None:
        if time.monotonic() - self._touched_at > _ALIVE_INTERVAL_SECONDS:
            self._touched_at = time.monotonic()
            self._settings.touch_alive_file()
            record(WORKER_TURNED_TIMESTAMP_SECONDS, time.time(), queue=self._queue.queue.name)

    # ---- what does not exist here ----------------------------------------------------------------------------

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        raise NotImplementedError(
            f"a worker of queue {self._queue.queue.name!r} sends nothing through Celery: no retry, no countdown, "
            "no chain. Raise to have the task repeated; post to the outbox to have another one run."
        )

    def _new_queue(self, queue: str, **options: Any) -> None:
        """Do nothing: queues are made by the templates in `infra/`, never by a worker."""

    def _size(self, queue: str) -> int:  # noqa: ARG002
        return 0  # asked for when a queue is declared; nobody reads the answer


class SqsTransport(virtual.Transport):
    """Connects Celery with the queue in its transport options."""

    Channel = SqsChannel
    driver_type = "sqs"
    driver_name = "boto3"
    #: Seconds between looks whether there is room, while there is none.
    polling_interval = 0.1

    def __init__(self, client: Connection, **options: Any) -> None:
        super().__init__(client, **options)  # type: ignore[no-untyped-call]
        configured: Any = client.transport_options
        self.settings: WorkerSettings = configured["settings"]
        self._worker_queue: WorkerQueue = configured["queue"]

    @cached_property
    def queue(self) -> SqsQueue:
        """The worker's queue. Made on first use: Celery makes transports that it never connects."""
        return SqsQueue(self._worker_queue, self.settings)
