"""What the object store on S3 does when answers are lost, cut short, refused or late."""

import hashlib
import secrets
import socket
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from botocore.exceptions import ConnectionClosedError
from botocore.httpsession import URLLib3Session
from support.aws_endpoint import use_aws_endpoint

from shared.domain.files import Location
from shared.errors import ObjectConflict, Unavailable
from shared.object_store import s3
from shared.object_store.s3 import MIN_PART_SIZE_IN_BYTES, PARTS_AT_ONCE, S3ObjectStore, make_s3_client
from shared.ports import Upload

SMALL = b"1,x\n"
LARGE = SMALL * (MIN_PART_SIZE_IN_BYTES // 2)


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture(autouse=True)
def no_pauses_between_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def client(ministack: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    return make_s3_client(use_aws_endpoint(ministack, monkeypatch))


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"faults-{secrets.token_hex(6)}"
    client.create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": client.meta.region_name}
    )
    return name


@pytest.fixture
def store(client: Any) -> S3ObjectStore:
    return S3ObjectStore(client, part_size_in_bytes=MIN_PART_SIZE_IN_BYTES)


def put(store: S3ObjectStore, location: Location, body: bytes) -> None:
    store.put(location, body, sha256=sha256_of(body), metadata={})


def upload(store: S3ObjectStore, location: Location, body: bytes) -> None:
    writing = store.open_upload(location, metadata={})
    writing.write(body)
    writing.complete()


def write_all(writing: Upload, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        writing.write(piece)


@contextmanager
def every_answer_lost(client: Any, operation: str) -> Iterator[None]:
    """Let the calls of an operation reach the server, and lose each answer on its way back."""
    session = URLLib3Session()

    def send_and_lose(request: Any, **_: Any) -> None:
        session.send(request)
        raise ConnectionClosedError(endpoint_url=request.url)

    with _before_send(client, operation, send_and_lose):
        yield


@contextmanager
def every_request_lost(client: Any, operation: str) -> Iterator[None]:
    """Let no call of an operation reach the server."""

    def lose(request: Any, **_: Any) -> None:
        raise ConnectionClosedError(endpoint_url=request.url)

    with _before_send(client, operation, lose):
        yield


@contextmanager
def _before_send(client: Any, operation: str, handler: Callable[..., None]) -> Iterator[None]:
    event = f"before-send.s3.{operation}"
    client.meta.events.register(event, handler)
    try:
        yield
    finally:
        client.meta.events.unregister(event, handler)


def test_a_put_whose_answers_are_all_lost_succeeded(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")

    with every_answer_lost(client, "PutObject"):
        put(store, location, SMALL)

    assert store.read(location) == SMALL


def test_a_put_that_never_arrived_is_unavailable(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")

    with every_request_lost(client, "PutObject"), pytest.raises(Unavailable, match=r"tmp/x\.csv"):
        put(store, location, SMALL)

    assert store.head(location) is None


def test_a_put_whose_answers_are_lost_does_not_take_other_bytes_for_its_own(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")
    put(store, location, b"other")

    with every_answer_lost(client, "PutObject"), pytest.raises(ObjectConflict, match=r"tmp/x\.csv"):
        put(store, location, SMALL)

    assert store.read(location) == b"other"


def test_an_upload_whose_completion_is_not_answered_succeeded(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")

    with every_answer_lost(client, "CompleteMultipartUpload"):
        upload(store, location, LARGE)

    assert store.sha256(location) == sha256_of(LARGE)
    assert list(store.open_uploads(bucket)) == []


def test_an_upload_whose_completion_never_arrived_leaves_nothing(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")

    with every_request_lost(client, "CompleteMultipartUpload"), pytest.raises(Unavailable):
        upload(store, location, LARGE)

    assert store.head(location) is None
    assert list(store.open_uploads(bucket)) == []


def test_an_upload_whose_last_part_is_lost_leaves_nothing(store, client, bucket):
    writing = store.open_upload(Location(bucket, "tmp/x.csv"), metadata={})
    writing.write(LARGE)
    writing.write(SMALL)

    with every_request_lost(client, "UploadPart"), pytest.raises(Unavailable):
        writing.complete()

    assert list(store.open_uploads(bucket)) == []


def test_an_upload_whose_first_part_is_lost_takes_no_more_and_leaves_nothing(store, client, bucket):
    writing = store.open_upload(Location(bucket, "tmp/x.csv"), metadata={})

    with every_request_lost(client, "UploadPart"), pytest.raises(Unavailable):
        write_all(writing, [LARGE] * (PARTS_AT_ONCE + 1))
    writing.abort()

    assert list(store.open_uploads(bucket)) == []


def test_parts_are_sent_while_more_is_written_in_any_order_and_never_too_many_at_once(store, client, bucket):
    location = Location(bucket, "tmp/x.csv")
    gate, lock, at_once = threading.Barrier(PARTS_AT_ONCE, timeout=20), threading.Lock(), [0, 0]

    def wait_for_the_other(**_: Any) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        gate.wait()

    def done(**_: Any) -> None:
        with lock:
            at_once[0] -= 1

    client.meta.events.register("before-send.s3.UploadPart", wait_for_the_other)
    client.meta.events.register("after-call.s3.UploadPart", done)
    body = b"".join(b"%07d\n" % number for number in range(MIN_PART_SIZE_IN_BYTES // 2))  # four parts
    writing = store.open_upload(location, metadata={})
    for begin in range(0, len(body), 1_000_000):
        writing.write(body[begin : begin + 1_000_000])
    writing.complete()

    assert at_once[1] == PARTS_AT_ONCE
    assert store.sha256(location) == sha256_of(body)


@pytest.mark.parametrize("body", [SMALL, LARGE])
def test_bytes_are_bound_to_a_signature_by_their_checksum_and_hashed_no_second_time(
    store, client, bucket, body
):
    sent: list[Any] = []
    for operation in ("PutObject", "UploadPart"):
        client.meta.events.register(f"before-send.s3.{operation}", lambda request, **_: sent.append(request))

    upload(store, Location(bucket, "tmp/x.csv"), body)

    (request,) = sent
    assert request.headers["X-Amz-Content-SHA256"] == b"UNSIGNED-PAYLOAD"
    assert request.headers["x-amz-checksum-sha256"] == b64encode(hashlib.sha256(body).digest())
    assert b"x-amz-checksum-sha256" in request.headers["Authorization"]


def test_an_upload_that_cannot_be_aborted_raises_nothing_and_is_found_later(store, client, bucket):
    writing = store.open_upload(Location(bucket, "tmp/x.csv"), metadata={})
    writing.write(LARGE)

    with every_request_lost(client, "AbortMultipartUpload"):
        writing.abort()

    assert [left.location.key for left in store.open_uploads(bucket)] == ["tmp/x.csv"]


def test_a_copy_whose_answers_are_all_lost_succeeded(store, client, bucket):
    source, target = Location(bucket, "tmp/x.csv"), Location(bucket, "input/x.csv")
    put(store, source, SMALL)

    with every_answer_lost(client, "CopyObject"):
        store.copy(source, target, sha256=sha256_of(SMALL))

    assert store.read(target) == SMALL


def test_a_source_that_changes_while_it_is_copied_is_not_copied(store, client, bucket):
    source, target = Location(bucket, "tmp/x.csv"), Location(bucket, "input/x.csv")
    put(store, source, SMALL)

    def change_source(**_: Any) -> None:
        client.put_object(Bucket=bucket, Key=source.key, Body=b"changed")

    with _before_send(client, "CopyObject", change_source), pytest.raises(Unavailable, match=r"input/x\.csv"):
        store.copy(source, target, sha256=sha256_of(SMALL))

    assert store.head(target) is None


@pytest.fixture
def lying_server() -> Iterator[Callable[[bytes], str]]:
    """Make servers that give one raw answer to every call, and then close the connection."""
    listeners = []

    def serve(answer: bytes) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=loop, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_write_that_meets_another_of_the_same_key_is_tried_again(lying_server, monkeypatch):
    monkeypatch.setattr(s3, "CONFLICT_PAUSE_SECONDS", 0.01)
    url = lying_server(
        b"HTTP/1.1 409 Conflict\r\nContent-Type: application/xml\r\nConnection: close\r\n\r\n"
        b"<Error><Code>ConditionalRequestConflict</Code><Message>conflict</Message></Error>"
    )
    client = make_s3_client(use_aws_endpoint(url, monkeypatch))
    calls = []
    client.meta.events.register("before-send.s3.PutObject", lambda **_: calls.append("put"))
    client.meta.events.register("before-call.s3.HeadObject", lambda **_: _answered(404, "404"))

    with pytest.raises(Unavailable, match="another write of this key is under way"):
        put(S3ObjectStore(client), Location("some-bucket", "tmp/x"), SMALL)

    assert len(calls) == s3.CONFLICT_TRIES


def _answered(status: int, code: str) -> tuple[Any, dict[str, Any]]:
    return SimpleNamespace(status_code=status), {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }


@pytest.mark.parametrize("operation", ["read", "sha256 by reading", "stream"])
def test_a_body_that_is_cut_short_is_unavailable_never_short_data(lying_server, monkeypatch, operation):
    url = lying_server(
        b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\n'
        b"Last-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nConnection: close\r\n\r\nonly this"
    )
    store = S3ObjectStore(make_s3_client(use_aws_endpoint(url, monkeypatch)))
    location = Location("some-bucket", "tmp/x")

    def stream() -> None:
        with store.open(location) as body:
            while body.read(100):
                pass

    calls = {
        "read": lambda: store.read(location),
        "sha256 by reading": lambda: store.sha256(location),
        "stream": stream,
    }
    with pytest.raises(Unavailable, match="s3://some-bucket/tmp/x"):
        calls[operation]()


@pytest.mark.parametrize("status", [b"403 Forbidden", b"503 Slow Down"])
def test_what_the_store_refuses_is_unavailable_never_absent(lying_server, monkeypatch, status):
    url = lying_server(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    store = S3ObjectStore(make_s3_client(use_aws_endpoint(url, monkeypatch)))
    location = Location("some-bucket", "tmp/x")

    with pytest.raises(Unavailable, match="s3://some-bucket/tmp/x"):
        store.head(location)
    with pytest.raises(Unavailable, match="s3://some-bucket/tmp/x"):
        store.read(location)


def test_an_object_above_what_one_copy_carries_is_refused_before_it_is_sent(store, bucket, monkeypatch):
    monkeypatch.setattr(s3, "MAX_COPY_SIZE_IN_BYTES", 10)
    source = Location(bucket, "tmp/x")
    put(store, source, b"12345678901")
    writing = store.open_upload(Location(bucket, "tmp/y"), metadata={})

    with pytest.raises(ValueError, match="tmp/x: should have at most 10 bytes to be copied, found 11"):
        store.copy(source, Location(bucket, "input/x"), sha256=sha256_of(b"12345678901"))
    with pytest.raises(ValueError, match="tmp/y: should have at most 10 bytes"):
        writing.write(b"12345678901")


def test_parts_smaller_than_s3_takes_are_refused(client):
    with pytest.raises(ValueError, match="part_size_in_bytes should be at least 5242880, found 1000"):
        S3ObjectStore(client, part_size_in_bytes=1000)
