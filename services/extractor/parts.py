"""
Writes the CSV files of one attempt to `tmp/`, in parts of bounded size.

Each part leaves by one put while the next one fills. An object in one piece is hashed once, and S3 knows its SHA-256
from then on: no gate has to read it for that. One that is sent in pieces is hashed twice, and read by each gate.
"""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Self

from services.extractor.readers import Chunk
from shared.csv_dialect import header_line
from shared.domain.batches import Stage
from shared.domain.files import Area, DataFile, FileFormat, Location, key_segment, raw_key
from shared.ports import ObjectStore
from shared.stage import Assignment

DEFAULT_PART_SIZE_IN_BYTES = 16 * 1024 * 1024

#: Parts that are sent at once, beside whoever writes: one connection to S3 is slower than most sources.
PARTS_AT_ONCE = 2


class PartWriter:
    """
    The parts of one attempt. Each begins with the header; without any row there is one part that is only that.

    In memory are never more than the part that fills, with the chunk behind it, and `parts_at_once` under way. What
    goes wrong with one of these is raised by a later `write`, or by `complete`.

    A context manager: at the end of its block nothing is under way, and what was not begun is not sent.
    """

    def __init__(
        self,
        assignment: Assignment,
        *,
        store: ObjectStore,
        part_size_in_bytes: int,
        parts_at_once: int = PARTS_AT_ONCE,
    ) -> None:
        """`parts_at_once`: how many are sent beside whoever writes; with 0 it sends each itself."""
        self._assignment = assignment
        self._store = store
        self._part_size_in_bytes = part_size_in_bytes
        self._header = header_line(column.name for column in assignment.contract.output_columns)
        self._files: list[DataFile] = []
        self._under_way: deque[Future[None]] = deque()
        self._parts_at_once = parts_at_once
        self._threads = ThreadPoolExecutor(max(parts_at_once, 1), thread_name_prefix="upload")
        self._begin()

    def write(self, chunk: Chunk) -> None:
        """Add records; to a new part if they would make this one too large."""
        if self._record_count and self._size_in_bytes + len(chunk.body) > self._part_size_in_bytes:
            self._end()
            self._begin()
        self._add(chunk.body)
        self._record_count += chunk.record_count

    def complete(self) -> list[DataFile]:
        """Send the last part, wait until all are there, and return them."""
        self._put(self._described(), self._pieces)
        while self._under_way:
            self._under_way.popleft().result()
        return self._files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def _begin(self) -> None:
        self._pieces: list[bytes | memoryview] = []
        self._digest = hashlib.sha256()
        self._size_in_bytes = 0
        self._record_count = 0
        self._add(self._header)

    def _add(self, piece: bytes | memoryview) -> None:
        self._pieces.append(piece)
        self._digest.update(piece)
        self._size_in_bytes += len(piece)

    def _end(self) -> None:
        if not self._parts_at_once:
            self._put(self._described(), self._pieces)
            return
        if len(self._under_way) == self._parts_at_once:
            self._under_way.popleft().result()
        # In a copy of our context: what is logged of it names the batch.
        put = partial(copy_context().run, self._put, self._described(), self._pieces)
        self._under_way.append(self._threads.submit(put))

    def _described(self) -> DataFile:
        file = DataFile(
            location=self._location(),
            area=Area.TMP,
            format=FileFormat.CSV,
            batch_id=self._assignment.batch.id,
            attempt=self._assignment.attempt.number,
            part=len(self._files),
            record_count=self._record_count,
            file_size_in_bytes=self._size_in_bytes,
            sha256=self._digest.hexdigest(),
        )
        self._files.append(file)
        return file

    def _put(self, file: DataFile, pieces: list[bytes | memoryview]) -> None:
        body = bytearray().join(pieces)
        pieces.clear()
        self._store.put(file.location, body, sha256=file.sha256, metadata=object_metadata(self._assignment))

    def _location(self) -> Location:
        batch = self._assignment.batch
        key = raw_key(
            Area.TMP,
            table=batch.table,
            batch_id=batch.id,
            attempt=self._assignment.attempt.number,
            part=len(self._files),
        )
        return Location(batch.bucket, key)


def object_metadata(assignment: Assignment) -> dict[str, str]:
    """Return what is written beside each object, for its gate and for people who find it alone."""
    return {
        "esclusa-batch": assignment.batch.id,
        "esclusa-stage": Stage.EXTRACT,
        "esclusa-attempt": str(assignment.attempt.number),
        "esclusa-source": assignment.batch.source,
        "esclusa-table": key_segment(assignment.batch.table),
    }
