"""The CSV files of an attempt: sent beside the reading, few at once, and none of them behind anybody's back."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from support.extraction import column, make_assignment, make_contract

from services.extractor.parts import PARTS_AT_ONCE, PartWriter
from services.extractor.readers import Chunk
from shared.domain.files import Location
from shared.errors import Unavailable
from shared.object_store.memory import MemoryObjectStore

ASSIGNMENT = make_assignment(make_contract([column("id")]))
CHUNK = Chunk.of([b"12345678\n"])


@dataclass
class SlowStore(MemoryObjectStore):
    """Waits before it takes an object until as many are under way as may be, and counts them."""

    expected_at_once: int = 1
    most_at_once: int = 0
    _at_once: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        super().__init__()

    def put(
        self, location: Location, body: bytes | bytearray, *, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        with self._changed:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.most_at_once >= self.expected_at_once, timeout=20)
        time.sleep(0.01)
        super().put(location, body, sha256=sha256, metadata=metadata)
        with self._changed:
            self._at_once -= 1


class AwayStore(MemoryObjectStore):
    """Takes the first object and no other."""

    def put(
        self, location: Location, body: bytes | bytearray, *, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        if not location.key.endswith("part-00000.csv"):
            raise Unavailable(f"{location}: away")
        super().put(location, body, sha256=sha256, metadata=metadata)


def test_parts_are_sent_while_the_next_fills_and_never_too_many_at_once() -> None:
    store = SlowStore(expected_at_once=PARTS_AT_ONCE)

    with PartWriter(ASSIGNMENT, store=store, part_size_in_bytes=15) as parts:
        for _ in range(9):
            parts.write(CHUNK)
        files = parts.complete()

    # The last one is sent by whoever writes.
    assert store.most_at_once in {PARTS_AT_ONCE, PARTS_AT_ONCE + 1}
    assert [file.part for file in files] == list(range(9))
    for file in files:
        assert store.read(file.location) == b'"id"\n12345678\n'
        assert store.sha256(file.location) == file.sha256
        assert file.file_size_in_bytes == 14


def test_a_part_ends_before_the_chunk_that_would_make_it_too_large() -> None:
    store = MemoryObjectStore()

    with PartWriter(ASSIGNMENT, store=store, part_size_in_bytes=5 + 3 * 9) as parts:
        for _ in range(7):
            parts.write(CHUNK)
        files = parts.complete()

    assert [file.record_count for file in files] == [3, 3, 1]


def test_a_chunk_above_the_size_is_a_part_of_its_own() -> None:
    store = MemoryObjectStore()

    with PartWriter(ASSIGNMENT, store=store, part_size_in_bytes=10) as parts:
        parts.write(Chunk.of([b"1\n"] * 100))
        parts.write(CHUNK)
        files = parts.complete()

    assert [file.record_count for file in files] == [100, 1]


def test_without_rows_there_is_one_part_that_is_only_the_header() -> None:
    store = MemoryObjectStore()

    with PartWriter(ASSIGNMENT, store=store, part_size_in_bytes=10) as parts:
        (file,) = parts.complete()

    assert (file.record_count, store.read(file.location)) == (0, b'"id"\n')


@pytest.mark.parametrize("parts_at_once", [0, PARTS_AT_ONCE])
@pytest.mark.parametrize("chunk_count", [2, 3, 20], ids=["the last part", "one behind", "one of many"])
def test_a_part_that_cannot_be_sent_ends_the_attempt(chunk_count: int, parts_at_once: int) -> None:
    def write_all(parts: PartWriter) -> None:
        for _ in range(chunk_count):
            parts.write(CHUNK)
        parts.complete()

    writer = PartWriter(ASSIGNMENT, store=AwayStore(), part_size_in_bytes=15, parts_at_once=parts_at_once)

    with pytest.raises(Unavailable, match=r"part-0000[1-9]"), writer as parts:
        write_all(parts)

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


def test_keys_of_parts_follow_one_another() -> None:
    with PartWriter(ASSIGNMENT, store=MemoryObjectStore(), part_size_in_bytes=15) as parts:
        for _ in range(3):
            parts.write(CHUNK)
        files = parts.complete()

    assert all(first.location.key < second.location.key for first, second in pairwise(files))
