"""Chunks of a COPY: cut where its messages end, and nowhere else."""

from collections.abc import Generator, Iterable
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import pq
from psycopg.waiting import Ready

from services.extractor.readers import Chunk, postgres


class Copying:
    """A connection in the middle of a COPY: its records, and 0 wherever it has to be waited for."""

    def __init__(self, messages: Iterable[bytes | int]) -> None:
        self._messages = iter(messages)
        self.consumed_count = 0

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        message = next(self._messages, -1)
        return (message, memoryview(b"")) if isinstance(message, int) else (len(message), memoryview(message))

    def consume_input(self) -> None:
        self.consumed_count += 1


def ended(status: pq.ExecStatus) -> Any:
    def fetch_many(_: Any) -> Generator[None, None, list[Any]]:
        return [SimpleNamespace(status=status)]
        yield

    return fetch_many


def gathered(copying: Any, *, size_in_bytes: int) -> tuple[Chunk, Any]:
    waiting = postgres._gather_chunk(copying, size_in_bytes=size_in_bytes)
    try:
        next(waiting)
        while True:
            waiting.send(Ready.R)
    except StopIteration as stop:
        return stop.value


def test_a_chunk_ends_with_the_record_that_reaches_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "fetch_many", ended(pq.ExecStatus.COMMAND_OK))
    copying = Copying([b"1,a\n", 0, b'2,"b\n', 0, 0, b"3,ccccccc\n", b"4,d\n"])

    first, none_yet = gathered(copying, size_in_bytes=9)
    second, result = gathered(copying, size_in_bytes=100)

    assert first == Chunk.of([b"1,a\n", b'2,"b\n'])
    assert none_yet is None
    assert second == Chunk.of([b"3,ccccccc\n", b"4,d\n"])
    assert result.status is pq.ExecStatus.COMMAND_OK
    assert copying.consumed_count == 3


def test_a_copy_without_rows_is_an_empty_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "fetch_many", ended(pq.ExecStatus.COMMAND_OK))

    chunk, result = gathered(Copying([]), size_in_bytes=9)

    assert chunk == Chunk.of([])
    assert chunk.record_count == 0
    assert result is not None


def test_a_copy_that_breaks_off_gives_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "fetch_many", ended(pq.ExecStatus.FATAL_ERROR))
    monkeypatch.setattr(postgres.errors, "error_from_result", lambda _: psycopg.OperationalError("broke off"))

    with pytest.raises(psycopg.OperationalError):
        gathered(Copying([b"1,a\n"]), size_in_bytes=9)
