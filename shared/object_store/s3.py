"""
The object store on S3.

Write once: every write says `If-None-Match: *`. When S3 answers that the key exists, or when no answer comes,
the object is looked at: the same bytes mean that the write (this one, or an earlier try of it) succeeded.

Bytes are compared by SHA-256, never by what somebody wrote beside an object. S3 keeps the SHA-256 of an object
that came in one piece; of one that came in parts it keeps a checksum of checksums, so such an object is read.

The role needs `s3:ListBucket`: without it S3 answers 403, not 404, for a key that is not there.
"""

import hashlib
import time
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from urllib3.exceptions import HTTPError

from shared.domain.files import Location
from shared.errors import ObjectConflict, ObjectNotFound, Unavailable
from shared.object_store.metadata import checked_metadata
from shared.ports import ByteReader, ObjectInfo, OpenUpload

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, HeadObjectOutputTypeDef

log = structlog.get_logger()

#: Source: Amazon S3 User Guide, "Amazon S3 multipart upload limits" and "Copying objects".
MIN_PART_SIZE_IN_BYTES: Final = 5 * 1024**2
MAX_PART_COUNT: Final = 10_000
MAX_COPY_SIZE_IN_BYTES: Final = 5 * 1024**3

DEFAULT_PART_SIZE_IN_BYTES: Final = 8 * 1024**2
READ_SIZE_IN_BYTES: Final = 1024**2

#: Parts of one upload that are sent at once, beside whoever writes: one connection to S3 is slower than most sources.
PARTS_AT_ONCE: Final = 2

#: Tries of a write that meets another write of the same key under way (409).
CONFLICT_TRIES: Final = 4
CONFLICT_PAUSE_SECONDS: Final = 0.2

_MISSING_OBJECT_CODES = {"404", "NoSuchKey"}


def make_s3_client(region: str) -> "S3Client":
    """
    Return a client whose calls end in bounded time. The endpoint is `AWS_ENDPOINT_URL`, or that of AWS.

    A call is tried four times, about 6 seconds apart at most, each with 5 s to connect and 60 s between
    two bytes. A copy of 5 GiB may take longer, but S3 keeps sending bytes meanwhile.
    """
    return boto3.session.Session().client(
        "s3",
        region_name=region,
        config=Config(
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 4},
            tcp_keepalive=True,
            # Our writes carry SHA-256; a CRC-32 beside it would cost time and prove nothing more.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_supported",
            # That SHA-256 is a header, and headers are signed: signing the body would compute the same once more.
            s3={"payload_signing_enabled": False},
        ),
    )


class S3ObjectStore:
    """`ObjectStore` on S3. Threads may share it."""

    def __init__(self, client: "S3Client", *, part_size_in_bytes: int = DEFAULT_PART_SIZE_IN_BYTES) -> None:
        if part_size_in_bytes < MIN_PART_SIZE_IN_BYTES:
            raise ValueError(
                f"part_size_in_bytes should be at least {MIN_PART_SIZE_IN_BYTES}, found {part_size_in_bytes}"
            )
        self._client = client
        self._part_size_in_bytes = part_size_in_bytes

    # ---- writing -------------------------------------------------------------------------------------------

    def put(
        self, location: Location, body: bytes | bytearray, *, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        """Write an object once; see `ObjectStore`. S3 itself checks the bytes that arrive."""
        metadata = checked_metadata(metadata, location)
        for tries_left in reversed(range(CONFLICT_TRIES)):
            try:
                with self._written_once(location, sha256=sha256):
                    self._client.put_object(
                        Bucket=location.bucket,
                        Key=location.key,
                        # Of bytes botocore makes one more copy, behind the headers; a bytearray it sends as it is.
                        Body=cast("bytes", body),
                        ChecksumSHA256=_base64_of(sha256),
                        Metadata=metadata,
                        IfNoneMatch="*",
                    )
                return
            except _ConflictingWrite:
                if not tries_left:
                    raise
                time.sleep(CONFLICT_PAUSE_SECONDS)

    def open_upload(self, location: Location, *, metadata: Mapping[str, str]) -> "S3Upload":
        """Begin an object of unknown size; see `ObjectStore`."""
        return S3Upload(
            self,
            self._client,
            location,
            metadata=checked_metadata(metadata, location),
            part_size_in_bytes=self._part_size_in_bytes,
        )

    def complete_upload(
        self, upload: OpenUpload, parts: "Sequence[CompletedPartTypeDef]", *, sha256: str
    ) -> None:
        """Make the object of a multipart upload appear, once; `S3Upload` calls it."""
        with self._written_once(upload.location, sha256=sha256):
            self._client.complete_multipart_upload(
                Bucket=upload.location.bucket,
                Key=upload.location.key,
                UploadId=upload.upload_id,
                MultipartUpload={"Parts": parts},
                IfNoneMatch="*",
            )

    def copy(self, source: Location, target: Location, *, sha256: str) -> None:
        """
        Copy an object with its metadata, once; see `ObjectStore`.

        The target is looked at first: not every service that speaks S3 honours a condition on a copy.
        """
        if self._holds(target, sha256=sha256):
            return
        original = self._head(source)
        if original is None:
            raise ObjectNotFound(f"{source}: the bucket does not hold it, so it cannot be copied to {target}")
        _refuse_copy_of(original, source, sha256=sha256)
        with self._written_once(target, sha256=sha256):
            self._client.copy_object(
                Bucket=target.bucket,
                Key=target.key,
                CopySource={"Bucket": source.bucket, "Key": source.key},
                CopySourceIfMatch=original["ETag"],
                # S3 makes one SHA-256 of the whole target, also when the source came in parts.
                ChecksumAlgorithm="SHA256",
                # Copying the tags that a stranger or a scanner gave an object would take rights of its own.
                TaggingDirective="REPLACE",
                IfNoneMatch="*",
            )

    def delete(self, location: Location) -> None:
        """Delete an object by exact key; see `ObjectStore`."""
        with _translated(location):
            self._client.delete_object(Bucket=location.bucket, Key=location.key)

    def abort_upload(self, upload: OpenUpload) -> None:
        """Abort an upload that was left open; see `ObjectStore`."""
        try:
            with _translated(upload.location):
                self._client.abort_multipart_upload(
                    Bucket=upload.location.bucket, Key=upload.location.key, UploadId=upload.upload_id
                )
        except Unavailable as error:
            if _code(error.__cause__) != "NoSuchUpload":
                raise

    @contextmanager
    def _written_once(self, location: Location, *, sha256: str) -> Generator[None]:
        """
        Tell what became of a write that was refused, or whose answer did not come.

        Raises:
            ObjectConflict: if the key holds other bytes.
            Unavailable: if nothing was written, or the object cannot be looked at.
        """
        try:
            yield
        except ParamValidationError:
            raise
        except (ClientError, BotoCoreError) as error:
            if not _is_in_doubt(error):
                raise _unavailable(error, location) from error
            log.warning("write_in_doubt", location=str(location), error=_code(error) or type(error).__name__)
            if self._holds(location, sha256=sha256):
                return
            if _code(error) == "ConditionalRequestConflict":
                raise _ConflictingWrite(f"{location}: another write of this key is under way") from error
            raise _unavailable(error, location) from error

    def _holds(self, location: Location, *, sha256: str) -> bool:
        """Return whether an object is there, with these bytes. Raises `ObjectConflict` for others."""
        try:
            found = self.sha256(location)
        except ObjectNotFound:
            return False
        if found != sha256:
            raise ObjectConflict(
                f"{location}: should be given SHA-256 {sha256}, holds {found}; keys are written once"
            )
        return True

    # ---- reading -------------------------------------------------------------------------------------------

    def head(self, location: Location) -> ObjectInfo | None:
        """Return what is known of an object; see `ObjectStore`."""
        answer = self._head(location)
        if answer is None:
            return None
        return ObjectInfo(
            location=location,
            file_size_in_bytes=answer["ContentLength"],
            entity_tag=answer["ETag"],
            last_modified=answer["LastModified"],
            metadata={key.lower(): value for key, value in answer["Metadata"].items()},
        )

    def sha256(self, location: Location) -> str:
        """Return the SHA-256 of an object; see `ObjectStore`."""
        answer = self._head(location)
        if answer is None:
            raise ObjectNotFound(f"{location}: the bucket does not hold it")
        return _whole_sha256(answer) or self._computed_sha256(location)

    def read(self, location: Location, *, start: int | None = None, length: int | None = None) -> bytes:
        """Return an object's bytes; see `ObjectStore`."""
        try:
            with _translated(location):
                if start is None and length is None:
                    # Without a range, the bytes are checked against the store's checksum as they come.
                    answer = self._client.get_object(Bucket=location.bucket, Key=location.key)
                else:
                    answer = self._client.get_object(
                        Bucket=location.bucket, Key=location.key, Range=_byte_range(start or 0, length)
                    )
                body = answer["Body"].read()
        except Unavailable as error:
            if _code(error.__cause__) == "InvalidRange":
                return b""  # As a slice that begins behind the end.
            raise
        return body if length is None else body[:length]

    @contextmanager
    def open(self, location: Location) -> Generator[ByteReader]:
        """Read an object as a stream; see `ObjectStore`."""
        with _translated(location):
            answer = self._client.get_object(Bucket=location.bucket, Key=location.key)
        reader = _BodyReader(answer["Body"], location)
        try:
            yield reader
        finally:
            reader.close()

    def list(self, bucket: str, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """Return objects by key, without their metadata; see `ObjectStore`."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, StartAfter=after
        )
        with _translated(Location(bucket, prefix)):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield ObjectInfo(
                        location=Location(bucket, item["Key"]),
                        file_size_in_bytes=item["Size"],
                        entity_tag=item["ETag"],
                        last_modified=item["LastModified"],
                        metadata={},
                    )

    def open_uploads(self, bucket: str) -> Iterator[OpenUpload]:
        """Return multipart uploads that were left open; see `ObjectStore`."""
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket)
        with _translated(Location(bucket, "")):
            for page in pages:
                for item in page.get("Uploads", ()):
                    yield OpenUpload(Location(bucket, item["Key"]), item["UploadId"], item["Initiated"])

    def _head(self, location: Location) -> "HeadObjectOutputTypeDef | None":
        try:
            with _translated(location):
                return self._client.head_object(
                    Bucket=location.bucket, Key=location.key, ChecksumMode="ENABLED"
                )
        except ObjectNotFound:
            return None

    def _computed_sha256(self, location: Location) -> str:
        digest = hashlib.sha256()
        with self.open(location) as body:
            while piece := body.read(READ_SIZE_IN_BYTES):
                digest.update(piece)
        return digest.hexdigest()


class S3Upload:
    """
    An object being written to S3; see `Upload`.

    A small one leaves whole by one put, a large one in parts, which are sent while more is written. A part is what was
    written since the last one, once that is large enough. Never more than `PARTS_AT_ONCE` of them, the one that fills
    and the piece being written are in memory. What goes wrong with a part is raised by a later `write`, or by
    `complete`.
    """

    def __init__(
        self,
        store: S3ObjectStore,
        client: "S3Client",
        location: Location,
        *,
        metadata: Mapping[str, str],
        part_size_in_bytes: int,
    ) -> None:
        self._store = store
        self._client = client
        self._location = location
        self._metadata = metadata
        self._part_size_in_bytes = part_size_in_bytes
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._file_size_in_bytes = 0
        self._multipart: OpenUpload | None = None
        self._parts: list[CompletedPartTypeDef] = []
        self._under_way: deque[Future[CompletedPartTypeDef]] = deque()
        self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload")
        self._is_open = True

    @property
    def file_size_in_bytes(self) -> int:
        """Bytes written."""
        return self._file_size_in_bytes

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal, of everything written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """
        Add bytes.

        Raises:
            ValueError: if the object grows above what one copy can carry: it could pass no gate.
        """
        if not self._is_open:
            raise ValueError(f"{self._location}: the upload is over; nothing can be added")
        size_in_bytes = self._file_size_in_bytes + len(data)
        largest = min(MAX_COPY_SIZE_IN_BYTES, MAX_PART_COUNT * self._part_size_in_bytes)
        if size_in_bytes > largest:
            raise ValueError(f"{self._location}: should have at most {largest} bytes; write several objects")
        self._file_size_in_bytes = size_in_bytes
        self._digest.update(data)
        self._buffer += data
        if len(self._buffer) >= self._part_size_in_bytes:
            self._send_part(self._taken_buffer())

    def complete(self) -> None:
        """Make the object appear, whole; see `Upload`."""
        if not self._is_open:
            raise ValueError(f"{self._location}: the upload is over; it cannot be completed")
        try:
            if self._multipart is None:
                self._store.put(self._location, self._buffer, sha256=self.sha256, metadata=self._metadata)
            else:
                self._complete_multipart(self._multipart)
        finally:
            # Also after success: an object found to be there already leaves its upload open.
            self.abort()

    def abort(self) -> None:
        """Give up; nothing stays. See `Upload`."""
        self._is_open = False
        self._buffer.clear()
        # S3 may keep a part that arrives while its upload is aborted.
        # Source: Amazon S3 API Reference, "AbortMultipartUpload".
        self._threads.shutdown(cancel_futures=True)
        if self._multipart is None:
            return
        try:
            self._store.abort_upload(self._multipart)
            self._multipart = None
        except Unavailable as error:
            log.warning("upload_left_open", location=str(self._location), error=str(error))

    def _complete_multipart(self, multipart: OpenUpload) -> None:
        if self._buffer:
            self._send_part(self._taken_buffer())
        while self._under_way:
            self._parts.append(self._under_way.popleft().result())
        self._store.complete_upload(multipart, self._parts, sha256=self.sha256)

    def _taken_buffer(self) -> bytearray:
        taken, self._buffer = self._buffer, bytearray()
        return taken

    def _send_part(self, data: bytearray) -> None:
        """Have a part sent, once there are fewer than `PARTS_AT_ONCE` under way."""
        if self._multipart is None:
            self._multipart = self._begin_multipart()
        if len(self._under_way) == PARTS_AT_ONCE:
            self._parts.append(self._under_way.popleft().result())
        number = len(self._parts) + len(self._under_way) + 1
        self._under_way.append(
            self._threads.submit(copy_context().run, self._put_part, self._multipart.upload_id, number, data)
        )

    def _put_part(self, upload_id: str, number: int, data: bytearray) -> "CompletedPartTypeDef":
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        with _translated(self._location):
            answer = self._client.upload_part(
                Bucket=self._location.bucket,
                Key=self._location.key,
                UploadId=upload_id,
                PartNumber=number,
                Body=cast("bytes", data),
                ChecksumSHA256=checksum,
            )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def _begin_multipart(self) -> OpenUpload:
        with _translated(self._location):
            answer = self._client.create_multipart_upload(
                Bucket=self._location.bucket,
                Key=self._location.key,
                Metadata=self._metadata,
                ChecksumAlgorithm="SHA256",
            )
        return OpenUpload(self._location, answer["UploadId"], datetime.now(UTC))


class _ConflictingWrite(Unavailable):
    """Another write of the same key was under way; it may have been our own, whose answer was lost."""


class _BodyReader:
    """A body whose broken connections are told in our words."""

    def __init__(self, body: "StreamingBody", location: Location) -> None:
        self._body = body
        self._location = location

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; empty at the end."""
        with _translated(self._location):
            return self._body.read(None if size < 0 else size)

    def close(self) -> None:
        """Let go of the connection."""
        self._body.close()


@contextmanager
def _translated(location: Location) -> Generator[None]:
    """Tell a failed call in our words, with the place. The cause stays."""
    try:
        yield
    except ParamValidationError:
        raise  # A defect of ours, not of the store.
    except ClientError as error:
        if _code(error) in _MISSING_OBJECT_CODES:
            raise ObjectNotFound(f"{location}: the bucket does not hold it") from error
        raise _unavailable(error, location) from error
    except (BotoCoreError, HTTPError) as error:
        raise _unavailable(error, location) from error


def _unavailable(error: Exception, location: Location) -> Unavailable:
    return Unavailable(f"{location}: {error}")


def _code(error: BaseException | None) -> str:
    return error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""


def _is_in_doubt(error: ClientError | BotoCoreError) -> bool:
    """Return whether the object may be there after a write that failed like this."""
    if not isinstance(error, ClientError):
        return True  # Sent perhaps, but not answered.
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    if not 400 <= status < 500:
        return True  # Some calls fail behind a status 200.
    # 409 and 412: there is, or was, another write. The upload is gone: an earlier try may have completed it.
    return status in {409, 412} or _code(error) == "NoSuchUpload"


def _refuse_copy_of(original: "HeadObjectOutputTypeDef", source: Location, *, sha256: str) -> None:
    if original["ContentLength"] > MAX_COPY_SIZE_IN_BYTES:
        raise ValueError(
            f"{source}: should have at most {MAX_COPY_SIZE_IN_BYTES} bytes to be copied,"
            f" found {original['ContentLength']}; no writer of ours makes such an object, move it by hand"
        )
    found = _whole_sha256(original)
    if found is not None and found != sha256:
        raise ObjectConflict(f"{source}: should have SHA-256 {sha256}, found {found}; not copied")


def _whole_sha256(answer: "HeadObjectOutputTypeDef") -> str | None:
    """
    Return the store's own SHA-256 of the whole object, in hexadecimal, if it has one.

    A checksum of checksums ends in `-` and the number of parts. Some services call it `FULL_OBJECT` all the
    same once the object was copied. Source: Amazon S3 User Guide, "Checking object integrity".
    """
    checksum = answer.get("ChecksumSHA256")
    if checksum is None or answer.get("ChecksumType") != "FULL_OBJECT":
        return None
    try:
        return b64decode(checksum, validate=True).hex()
    except NotBase64:
        return None


def _base64_of(sha256: str) -> str:
    return b64encode(bytes.fromhex(sha256)).decode()


def _byte_range(start: int, length: int | None) -> str:
    """
    Return the header of a range. A suffix cannot be cut short by a header: the caller cuts it.

    >>> _byte_range(-8, None), _byte_range(4, None), _byte_range(4, 2)
    ('bytes=-8', 'bytes=4-', 'bytes=4-5')
    """
    if start < 0:
        return f"bytes={start}"
    return f"bytes={start}-" if length is None else f"bytes={start}-{start + max(length, 1) - 1}"
