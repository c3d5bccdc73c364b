import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ConnectionClosedError
from pydantic import ValidationError

from shared.celery_sqs import WorkerQueue, WorkerSettings
from shared.celery_sqs.held_messages import HeldMessages
from shared.celery_sqs.queue import SqsQueue


class RecordingQueue:
    """Notes what it is asked to do."""

    queue = WorkerQueue("extract", "http://127.0.0.1/extract")

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.hidden: list[tuple[str, int]] = []
        self.renewed: list[list[str]] = []
        self.is_away = False

    def delete(self, receipt_handle: str) -> None:
        self._answer()
        self.deleted.append(receipt_handle)

    def hide(self, receipt_handle: str, *, seconds: int) -> None:
        self._answer()
        self.hidden.append((receipt_handle, seconds))

    def renew(self, receipt_handles: Sequence[str]) -> list[str]:
        self._answer()
        self.renewed.append(list(receipt_handles))
        return []

    def _answer(self) -> None:
        if self.is_away:
            raise ConnectionClosedError(endpoint_url="http://127.0.0.1")


def message(receive_count: int = 1) -> Any:
    return SimpleNamespace(delivery_info={"receive_count": receive_count})


def held_messages(queue: RecordingQueue, *, is_stopping: bool = False, **settings: Any) -> HeldMessages:
    return HeldMessages(
        cast("SqsQueue", queue),
        WorkerSettings(**settings),
        is_stopping=lambda: is_stopping,
        prefetch_count=2,
    )


def test_there_is_room_for_as_many_messages_as_celery_asks_for() -> None:
    held = held_messages(RecordingQueue())

    rooms = [held.room()]
    for tag in ("a", "b"):
        held.append(message(), tag)
        rooms.append(held.room())

    assert rooms == [2, 1, 0]
    assert not held.can_consume()


def test_a_message_is_deleted_once_its_task_succeeded() -> None:
    queue = RecordingQueue()
    held = held_messages(queue)
    held.append(message(), "a")

    held.ack("a")

    assert queue.deleted == ["a"]
    assert len(held) == 0


def test_a_delete_that_fails_makes_room_all_the_same() -> None:
    queue = RecordingQueue()
    held = held_messages(queue)
    held.append(message(), "a")
    queue.is_away = True

    held.ack("a")

    assert len(held) == 0


def test_a_failed_message_waits_twice_as_long_after_each_delivery_up_to_a_limit() -> None:
    queue = RecordingQueue()
    held = held_messages(queue, backoff_base_seconds=10, backoff_max_seconds=100)

    for receive_count in (1, 2, 3, 4, 5, 10**9):
        held.append(message(receive_count), "a")
        held.reject("a", requeue=True)

    assert [seconds for _, seconds in queue.hidden] == [10, 20, 40, 80, 100, 100]
    assert queue.deleted == []
    assert len(held) == 0


def test_a_worker_that_stops_gives_messages_back_without_waiting() -> None:
    queue = RecordingQueue()
    held = held_messages(queue, is_stopping=True)
    held.append(message(receive_count=5), "cancelled")
    held.append(message(), "not begun")

    held.reject("cancelled")
    held.restore_unacked_once()
    held.restore_unacked_once()

    assert queue.hidden == [("cancelled", 0), ("not begun", 0)]


def test_a_message_is_settled_once() -> None:
    queue = RecordingQueue()
    held = held_messages(queue)
    held.append(message(), "a")

    held.reject("a")
    held.reject("a")

    assert len(queue.hidden) == 1


def test_what_is_in_hand_is_renewed_and_what_was_settled_is_not() -> None:
    queue = RecordingQueue()
    held = held_messages(queue)
    held.append(message(), "a")
    held.append(message(), "b")
    held.ack("a")

    held.renew_all()

    assert queue.renewed == [["b"]]


def test_a_message_that_celery_lost_track_of_is_given_up_after_the_hold_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = RecordingQueue()
    held = held_messages(queue)
    held.append(message(), "a")
    later = time.monotonic() + WorkerSettings().hold_limit_seconds
    monkeypatch.setattr(time, "monotonic", lambda: later)

    held.renew_all()

    assert queue.renewed == [[]]
    assert held.can_consume()
    assert len(held) == 0


def test_every_contradiction_of_times_is_named_in_one_error() -> None:
    with pytest.raises(ValidationError) as refusal:
        WorkerSettings(
            soft_time_limit_seconds=900,
            hard_time_limit_seconds=900,
            hold_limit_seconds=60,
            wait_time_seconds=20,
            receive_timeout_seconds=20,
            backoff_base_seconds=1000,
        )

    text = str(refusal.value)
    assert "soft_time_limit_seconds (900) has to be below hard_time_limit_seconds (900)" in text
    assert "hard_time_limit_seconds (900) has to be below hold_limit_seconds (60)" in text
    assert "wait_time_seconds (20) has to be below receive_timeout_seconds (20)" in text
    assert "backoff_base_seconds (1000) may not be above backoff_max_seconds (900)" in text


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESCLUSA_CONCURRENCY", "4")

    assert WorkerSettings().concurrency == 4
