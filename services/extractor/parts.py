"""Writes the CSV files of one attempt to `tmp/`, in parts of bounded size."""

from types import TracebackType
from typing import Self

from services.extractor.readers import Chunk
from shared.csv_dialect import header_line
from shared.domain.batches import Stage
from shared.domain.files import Area, DataFile, FileFormat, Location, key_segment, raw_key
from shared.ports import ObjectStore, Upload
from shared.stage import Assignment


class PartWriter:
    """
    The parts of one attempt. Each begins with the header; without any row there is one part that is only that.

    A context manager: what is left open when its block ends is aborted.
    """

    def __init__(self, assignment: Assignment, *, store: ObjectStore, part_size_in_bytes: int) -> None:
        self._assignment = assignment
        self._store = store
        self._part_size_in_bytes = part_size_in_bytes
        self._header = header_line(column.name for column in assignment.contract.output_columns)
        self._files: list[DataFile] = []
        self._upload: Upload | None = None
        self._record_count = 0

    def write(self, chunk: Chunk) -> None:
        """Add records; to a new part if they would make this one too large."""
        upload = self._upload or self._begin()
        if self._record_count and upload.file_size_in_bytes + len(chunk.body) > self._part_size_in_bytes:
            self._end(upload)
            upload = self._begin()
        upload.write(chunk.body)
        self._record_count += chunk.record_count

    def complete(self) -> list[DataFile]:
        """Make the last part appear, and return all."""
        self._end(self._upload or self._begin())
        return self._files

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._upload is not None:
            self._upload.abort()

    def _begin(self) -> Upload:
        self._upload = self._store.open_upload(self._location(), metadata=object_metadata(self._assignment))
        self._upload.write(self._header)
        self._record_count = 0
        return self._upload

    def _end(self, upload: Upload) -> None:
        file = DataFile(
            location=self._location(),
            area=Area.TMP,
            format=FileFormat.CSV,
            batch_id=self._assignment.batch.id,
            attempt=self._assignment.attempt.number,
            part=len(self._files),
            record_count=self._record_count,
            file_size_in_bytes=upload.file_size_in_bytes,
            sha256=upload.sha256,
        )
        upload.complete()
        self._upload = None
        self._files.append(file)

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
