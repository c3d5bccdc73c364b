"""An object store in memory: S3 as `shared.object_store.s3` shows it, at the speed of a dictionary."""

import hashlib
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.domain.files import Location
from shared.errors import ObjectConflict, ObjectNotFound, Unavailable
from shared.object_store.metadata import checked_metadata
from shared.ports import ByteReader, ObjectInfo, OpenUpload


@dataclass(frozen=True, slots=True)
class _StoredObject:
    body: bytes
    sha256: str
    metadata: Mapping[str, str]
    last_modified: datetime

    def info(self, location: Location, *, metadata: Mapping[str, str]) -> ObjectInfo:
        return ObjectInfo(
            location=location,
            file_size_in_bytes=len(self.body),
            entity_tag=f'"{self.sha256[:32]}"',
            last_modified=self.last_modified,
            metadata=metadata,
        )


class MemoryObjectStore:
    """Objects in a dictionary. Every bucket exists."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._objects: dict[Location, _StoredObject] = {}
        self._open_uploads: dict[str, OpenUpload] = {}
        self._upload_numbers = itertools.count(1)

    def put(
        self, location: Location, body: bytes | bytearray, *, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        """Write an object once; see `ObjectStore`."""
        fresh = self._stored(bytes(body), checked_metadata(metadata, location))
        if fresh.sha256 != sha256:
            raise Unavailable(f"{location}: should have SHA-256 {sha256}, found {fresh.sha256}; not stored")
        self._store_once(location, fresh)

    def overwrite(
        self, location: Location, body: bytes, *, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Put an object there as a stranger to Esclusa would, over whatever is there. No port offers this."""
        self._objects[location] = self._stored(body, metadata or {})

    def open_upload(self, location: Location, *, metadata: Mapping[str, str]) -> "MemoryUpload":
        """Begin an object of unknown size; see `ObjectStore`."""
        upload = OpenUpload(location, f"upload-{next(self._upload_numbers)}", self._clock())
        self._open_uploads[upload.upload_id] = upload
        return MemoryUpload(self, upload, metadata=checked_metadata(metadata, location))

    def head(self, location: Location) -> ObjectInfo | None:
        """Return what is known of an object; see `ObjectStore`."""
        stored = self._objects.get(location)
        return None if stored is None else stored.info(location, metadata=stored.metadata)

    def sha256(self, location: Location) -> str:
        """Return the SHA-256 of an object; see `ObjectStore`."""
        return self._existing(location).sha256

    def read(self, location: Location, *, start: int | None = None, length: int | None = None) -> bytes:
        """Return an object's bytes; see `ObjectStore`."""
        body = self._existing(location).body[start:]
        return body if length is None else body[:length]

    def open(self, location: Location) -> AbstractContextManager[ByteReader]:
        """Read an object as a stream; see `ObjectStore`."""
        return closing(io.BytesIO(self._existing(location).body))

    def copy(self, source: Location, target: Location, *, sha256: str) -> None:
        """Copy an object with its metadata, once; see `ObjectStore`."""
        present = self._objects.get(target)
        original = present or self._existing(source)
        if original.sha256 != sha256:
            where = target if present else source
            raise ObjectConflict(f"{where}: should have SHA-256 {sha256}, found {original.sha256}")
        if present is None:
            self._store_once(target, self._stored(original.body, original.metadata))

    def delete(self, location: Location) -> None:
        """Delete an object by exact key; see `ObjectStore`."""
        self._objects.pop(location, None)

    def list(self, bucket: str, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Return objects by key, without their metadata; see `ObjectStore`."""
        found = [at for at in self._objects if at.bucket == bucket and at.key.startswith(prefix)]
        for location in sorted(found, key=lambda at: at.key.encode()):
            stored = self._objects.get(location)
            if stored is not None and location.key.encode() > after.encode():
                yield stored.info(location, metadata={})

    def open_uploads(self, bucket: str) -> Iterator[OpenUpload]:
        """Return uploads that were left open; see `ObjectStore`."""
        yield from [upload for upload in self._open_uploads.values() if upload.location.bucket == bucket]

    def abort_upload(self, upload: OpenUpload) -> None:
        """Abort an upload that was left open; see `ObjectStore`."""
        self._open_uploads.pop(upload.upload_id, None)

    def complete_upload(self, upload: OpenUpload, body: bytes, *, metadata: Mapping[str, str]) -> None:
        """Make the object of an upload appear; `MemoryUpload` calls it."""
        if self._open_uploads.pop(upload.upload_id, None) is None:
            raise Unavailable(f"{upload.location}: the upload was aborted before it was complete")
        self._store_once(upload.location, self._stored(body, metadata))

    def _stored(self, body: bytes, metadata: Mapping[str, str]) -> _StoredObject:
        body = bytes(body)
        return _StoredObject(body, hashlib.sha256(body).hexdigest(), dict(metadata), self._clock())

    def _store_once(self, location: Location, fresh: _StoredObject) -> None:
        # One step, so that of two threads one writes and the other compares.
        present = self._objects.setdefault(location, fresh)
        if present.sha256 != fresh.sha256:
            raise ObjectConflict(
                f"{location}: should be given SHA-256 {fresh.sha256}, holds {present.sha256}; keys are written once"
            )

    def _existing(self, location: Location) -> _StoredObject:
        stored = self._objects.get(location)
        if stored is None:
            raise ObjectNotFound(f"{location}: the bucket does not hold it")
        return stored


class MemoryUpload:
    """An object being written; see `Upload`."""

    def __init__(self, store: MemoryObjectStore, upload: OpenUpload, *, metadata: Mapping[str, str]) -> None:
        self._store = store
        self._upload = upload
        self._metadata = metadata
        self._body = bytearray()
        self._is_open = True

    @property
    def file_size_in_bytes(self) -> int:
        """Bytes written."""
        return len(self._body)

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal, of everything written so far."""
        return hashlib.sha256(self._body).hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        if not self._is_open:
            raise ValueError(f"{self._upload.location}: the upload is over; nothing can be added")
        self._body += data

    def complete(self) -> None:
        """Make the object appear, whole; see `Upload`."""
        if not self._is_open:
            raise ValueError(f"{self._upload.location}: the upload is over; it cannot be completed")
        self._is_open = False
        self._store.complete_upload(self._upload, bytes(self._body), metadata=self._metadata)

    def abort(self) -> None:
        """Give up; nothing stays."""
        self._is_open = False
        self._store.abort_upload(self._upload)
