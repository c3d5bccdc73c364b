"""The messages that this worker has in hand: received, and neither deleted nor given back."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from shared.celery_sqs.queue import AWS_ERRORS, SqsQueue
from shared.celery_sqs.settings import WorkerSettings
from shared.telemetry.metric_list import MESSAGES_IN_HAND, VISIBILITY_RENEWALS
from shared.telemetry.metrics import record

if TYPE_CHECKING:
    from kombu.transport.virtual import Message

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Held:
    message: "Message"
    #: Of `time.monotonic`.
    give_up_at: float


class HeldMessages:
    """
    Bounds, renews and settles the messages in hand.

    Stands where kombu expects a channel's `QoS`, and has the methods of one that kombu calls. The main
    thread appends, the result thread of Celery's pool acknowledges and rejects, the heartbeat renews.
    """

    def __init__(
        self,
        queue: SqsQueue,
        settings: WorkerSettings,
        *,
        is_stopping: Callable[[], bool],
        prefetch_count: int = 0,
    ) -> None:
        #: Celery sets it to the number of its processes.
        self.prefetch_count = prefetch_count
        self._queue = queue
        self._settings = settings
        self._is_stopping = is_stopping
        self._held: dict[str, _Held] = {}
        # Re-entrant, both: SIGTERM may interrupt the main thread while it holds one, and stopping takes them.
        self._lock = threading.RLock()
        # While one thread changes what SQS hides, no other does: else a renewal that is under way could undo
        # a message's backoff, or hide again what was just given back.
        self._visibility_lock = threading.RLock()
        self._closed = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._held)

    # ---- what kombu calls ------------------------------------------------------------------------------------

    def can_consume(self) -> bool:
        """Say whether there is room for another message."""
        return self.room() > 0

    def append(self, message: "Message", delivery_tag: str) -> None:
        """Take a message in hand."""
        give_up_at = time.monotonic() + self._settings.hold_limit_seconds
        with self._lock:
            self._held[delivery_tag] = _Held(message, give_up_at)
        self._count()

    def get(self, delivery_tag: str) -> "Message":
        """Return a message in hand. Raises `KeyError` if it is not."""
        with self._lock:
            return self._held[delivery_tag].message

    def ack(self, delivery_tag: str) -> None:
        """Delete a message: its task succeeded."""
        try:
            self._queue.delete(delivery_tag)
        except AWS_ERRORS as error:
            # It is delivered again, and its task finds that its work is done.
            log.warning("message_not_deleted", queue=self._queue.queue.name, error=str(error))
        finally:
            self._let_go(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: ARG002
        """
        Leave a message to SQS: it comes back after a while, or goes to the dead letters.

        `requeue` makes no difference. Celery sets it by what went wrong; here any failure waits its backoff.
        """
        held = self._let_go(delivery_tag)
        if held is None:
            return
        receive_count = held.message.delivery_info["receive_count"]
        self.hide(delivery_tag, seconds=0 if self._is_stopping() else self.backoff_seconds(receive_count))

    def restore_unacked_once(self, stderr: Any = None) -> None:  # noqa: ARG002
        """Give everything in hand back at once. Harmless if repeated."""
        self._closed.set()
        with self._lock:
            tags = list(self._held)
        for tag in tags:
            if self._let_go(tag) is not None:
                self.hide(tag, seconds=0)

    # ---- what the channel calls ------------------------------------------------------------------------------

    def room(self) -> int:
        """Return how many more messages may be taken in hand."""
        return max(self.prefetch_count - len(self._held), 0)

    def forget(self, delivery_tag: str) -> None:
        """Let go of a message and leave its visibility to the caller."""
        self._let_go(delivery_tag)

    def backoff_seconds(self, receive_count: int) -> int:
        """Return how long a message stays hidden after its delivery number `receive_count` failed."""
        # Bounded before shifting: receive counts come from outside.
        doublings = min(max(receive_count - 1, 0), 32)
        return min(self._settings.backoff_base_seconds << doublings, self._settings.backoff_max_seconds)

    def hide(self, delivery_tag: str, *, seconds: int) -> None:
        """Keep a message hidden for so long. If SQS refuses, it comes back with its visibility timeout."""
        try:
            with self._visibility_lock:
                self._queue.hide(delivery_tag, seconds=seconds)
        except AWS_ERRORS as error:
            log.warning("visibility_not_changed", queue=self._queue.queue.name, error=str(error))

    # ---- heartbeat -------------------------------------------------------------------------------------------

    def start_heartbeat(self) -> None:
        """
        Renew everything in hand from now on, until `restore_unacked_once`.

        A thread of the main process: it runs while the main thread waits for SQS or for tasks to end, covers
        messages that no task has begun, and dies with the process, so that what it held comes back by itself.
        """
        if self._heartbeat is None:
            self._heartbeat = threading.Thread(target=self._beat, name="sqs-visibility", daemon=True)
            self._heartbeat.start()

    def _beat(self) -> None:
        while not self._closed.wait(self._settings.heartbeat_interval_seconds):
            try:
                self.renew_all()
            except Exception:
                # Whatever it is, the next beat may succeed; a dead heartbeat would double every long task.
                log.exception("heartbeat_failed", queue=self._queue.queue.name)
                record(VISIBILITY_RENEWALS, queue=self._queue.queue.name, outcome="failed")

    def renew_all(self) -> None:
        """Renew everything in hand once, and give up what has been held for longer than any task may run."""
        now = time.monotonic()
        with self._visibility_lock:
            with self._lock:
                held = dict(self._held)
            overdue = [tag for tag, entry in held.items() if entry.give_up_at <= now]
            for tag in overdue:
                # Celery lost track of it: its task ended or was killed long ago. Its place is needed.
                log.error("message_given_up", queue=self._queue.queue.name)
                self._let_go(tag)
            refused = self._queue.renew([tag for tag in held if tag not in overdue])
        # A message that was settled meanwhile has no visibility to renew.
        still_held = [tag for tag in refused if tag in self._held]
        for outcome, count in (
            ("renewed", len(held) - len(overdue) - len(refused)),
            ("refused", len(still_held)),
        ):
            record(VISIBILITY_RENEWALS, count, queue=self._queue.queue.name, outcome=outcome)
        if still_held:
            log.warning("visibility_not_renewed", queue=self._queue.queue.name, message_count=len(still_held))

    def _let_go(self, delivery_tag: str) -> _Held | None:
        with self._lock:
            held = self._held.pop(delivery_tag, None)
        self._count()
        return held

    def _count(self) -> None:
        record(MESSAGES_IN_HAND, len(self._held), queue=self._queue.queue.name)
