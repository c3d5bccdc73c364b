"""What every object store promises: in memory, on MiniStack, and on moto as a second opinion."""

import hashlib
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.aws_endpoint import use_aws_endpoint

from shared.domain.files import Location
from shared.errors import ObjectConflict, ObjectNotFound, Unavailable
from shared.object_store.memory import MemoryObjectStore
from shared.object_store.s3 import MIN_PART_SIZE_IN_BYTES, S3ObjectStore, make_s3_client
from shared.ports import ObjectStore

METADATA = {"batch_id": "b1", "attempt": "1"}
LARGE = b"0123456789abcdef" * (MIN_PART_SIZE_IN_BYTES // 8)  # Two parts and nothing over.


def sha256_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@dataclass
class Bench:
    """A store, a bucket of its own, and a way to write past every rule."""

    store: ObjectStore
    bucket: str
    overwrite: Callable[[Location, bytes], object]
    #: Whether the server compares what arrives with its checksum, and tells that checksum. moto 5.2.5 does not.

    def at(self, key: str) -> Location:
        return Location(self.bucket, key)

    def put(self, key: str, body: bytes) -> Location:
        self.store.put(self.at(key), body, sha256=sha256_of(body), metadata=METADATA)
        return self.at(key)

    def upload(self, key: str, *pieces: bytes) -> Location:
        upload = self.store.open_upload(self.at(key), metadata=METADATA)
        for piece in pieces:
            upload.write(piece)
        upload.complete()
        return self.at(key)


MINDS_CHECKSUMS = ["memory", "ministack"]


@pytest.fixture(params=[*MINDS_CHECKSUMS, "moto_server"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bucket = f"contract-{secrets.token_hex(6)}"
    if request.param == "memory":
        memory = MemoryObjectStore()
        return Bench(memory, bucket, memory.overwrite)

    region = use_aws_endpoint(request.getfixturevalue(request.param), monkeypatch)
    client = make_s3_client(region)
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": region})
    return Bench(
        S3ObjectStore(client, part_size_in_bytes=MIN_PART_SIZE_IN_BYTES),
        bucket,
        lambda at, body: client.put_object(Bucket=at.bucket, Key=at.key, Body=body),
    )


def test_what_is_put_can_be_read_and_described(bench):
    location = bench.put("tmp/orders/part-00000.csv", b"id,name\n1,x\n")

    info = bench.store.head(location)

    assert bench.store.read(location) == b"id,name\n1,x\n"
    assert info.location == location
    assert info.file_size_in_bytes == 12
    assert info.metadata == METADATA
    assert info.entity_tag
    assert info.last_modified.utcoffset() is not None
    assert bench.store.sha256(location) == sha256_of(b"id,name\n1,x\n")


def test_an_empty_object_is_an_object(bench):
    location = bench.put("tmp/empty.csv", b"")

    assert bench.store.head(location).file_size_in_bytes == 0
    assert bench.store.read(location) == b""
    assert bench.store.read(location, start=-8) == b""
    assert bench.store.sha256(location) == sha256_of(b"")


def test_putting_the_same_bytes_again_is_no_error_and_writes_nothing(bench):
    location = bench.put("tmp/x.csv", b"same")
    before = bench.store.head(location)

    bench.store.put(location, b"same", sha256=sha256_of(b"same"), metadata={"attempt": "2"})

    assert bench.store.head(location) == before


def test_a_key_is_never_given_other_bytes(bench):
    location = bench.put("tmp/x.csv", b"first")

    with pytest.raises(ObjectConflict, match=re.escape(str(location))):
        bench.put("tmp/x.csv", b"other")

    assert bench.store.read(location) == b"first"


def test_of_many_threads_that_write_one_key_differently_one_wins(bench):
    outcomes: list[str] = []

    def put(body: bytes) -> None:
        try:
            bench.put("tmp/raced.csv", body)
            outcomes.append(body.decode())
        except ObjectConflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=put, args=(f"body {n}".encode(),)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    winner = bench.store.read(bench.at("tmp/raced.csv")).decode()
    assert sorted(outcomes) == sorted([winner, *["conflict"] * 5])


# moto accepts any checksum.
@pytest.mark.parametrize("bench", MINDS_CHECKSUMS, indirect=True)
def test_bytes_that_arrive_damaged_are_not_stored(bench):
    location = bench.at("tmp/damaged.csv")

    with pytest.raises(Unavailable, match=r"tmp/damaged\.csv"):
        bench.store.put(location, b"damaged", sha256=sha256_of(b"sound"), metadata=METADATA)

    assert bench.store.head(location) is None


@pytest.mark.parametrize("metadata", [{"table": "Übung"}, {"Table": "x"}, {"table": " x"}, {"a": "x" * 3000}])
def test_metadata_that_no_header_carries_exactly_is_refused(bench, metadata):
    with pytest.raises(ValueError, match=r"tmp/x\.csv: metadata"):
        bench.store.put(bench.at("tmp/x.csv"), b"1", sha256=sha256_of(b"1"), metadata=metadata)
    with pytest.raises(ValueError, match=r"tmp/x\.csv: metadata"):
        bench.store.open_upload(bench.at("tmp/x.csv"), metadata=metadata)


def test_what_is_not_there_is_absent_to_head_and_an_error_to_readers(bench):
    nowhere = bench.at("tmp/nowhere.csv")

    assert bench.store.head(nowhere) is None
    with pytest.raises(ObjectNotFound, match=re.escape(str(nowhere))):
        bench.store.read(nowhere)
    with pytest.raises(ObjectNotFound, match="nowhere"):
        bench.store.sha256(nowhere)
    with pytest.raises(ObjectNotFound, match="nowhere"), bench.store.open(nowhere):
        pass


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (None, 4),
        (0, 4),
        (3, None),
        (3, 4),
        (8, 10),
        (9, 1),
        (10, None),
        (50, 5),
        (-4, None),
        (-4, 2),
        (-50, None),
    ],
)
def test_a_range_reads_as_a_slice(bench, start, length):
    body = b"0123456789"
    location = bench.put("tmp/range", body)

    found = bench.store.read(location, start=start, length=length)

    assert found == body[start:][:length]


def test_an_object_is_read_as_a_stream_in_bounded_pieces(bench):
    location = bench.put("tmp/stream", b"0123456789")

    with bench.store.open(location) as body:
        pieces = [body.read(4), body.read(4), body.read(4), body.read(4)]
    with bench.store.open(location) as body:
        whole = body.read()

    assert pieces == [b"0123", b"4567", b"89", b""]
    assert whole == b"0123456789"


@pytest.mark.parametrize("pieces", [(), (b"",), (b"one ", b"two ", b"three"), (LARGE, b"tail"), (LARGE,)])
def test_an_upload_appears_whole_whatever_its_size(bench, pieces):
    whole = b"".join(pieces)
    upload = bench.store.open_upload(bench.at("tmp/uploaded"), metadata=METADATA)

    for piece in pieces:
        upload.write(piece)
    seen_before = bench.store.head(bench.at("tmp/uploaded"))
    upload.complete()

    assert seen_before is None
    assert bench.store.read(bench.at("tmp/uploaded")) == whole
    assert bench.store.head(bench.at("tmp/uploaded")).metadata == METADATA
    assert (upload.file_size_in_bytes, upload.sha256) == (len(whole), sha256_of(whole))
    assert bench.store.sha256(bench.at("tmp/uploaded")) == sha256_of(whole)
    assert list(bench.store.open_uploads(bench.bucket)) == []


@pytest.mark.parametrize("body", [b"small", LARGE + b"tail"])
def test_an_upload_of_the_same_bytes_again_is_no_error_and_leaves_nothing_open(bench, body):
    location = bench.upload("tmp/again", body)
    before = bench.store.head(location)

    bench.upload("tmp/again", body)

    assert bench.store.head(location) == before
    assert list(bench.store.open_uploads(bench.bucket)) == []


@pytest.mark.parametrize("body", [b"small", LARGE + b"tail"])
def test_an_upload_gives_no_key_other_bytes_and_leaves_nothing_open(bench, body):
    location = bench.put("tmp/taken", b"first")

    with pytest.raises(ObjectConflict, match="tmp/taken"):
        bench.upload("tmp/taken", body)

    assert bench.store.read(location) == b"first"
    assert list(bench.store.open_uploads(bench.bucket)) == []


def test_an_aborted_upload_leaves_nothing_and_takes_nothing_more(bench):
    upload = bench.store.open_upload(bench.at("tmp/aborted"), metadata=METADATA)
    upload.write(LARGE)

    upload.abort()
    upload.abort()

    assert bench.store.head(bench.at("tmp/aborted")) is None
    assert list(bench.store.open_uploads(bench.bucket)) == []
    with pytest.raises(ValueError, match="the upload is over"):
        upload.write(b"more")
    with pytest.raises(ValueError, match="the upload is over"):
        upload.complete()


def test_aborting_after_completion_harms_nothing(bench):
    upload = bench.store.open_upload(bench.at("tmp/done"), metadata=METADATA)
    upload.write(LARGE + b"tail")
    upload.complete()

    upload.abort()

    assert bench.store.head(bench.at("tmp/done")).file_size_in_bytes == len(LARGE) + 4


def test_an_upload_left_open_is_found_and_aborted_by_its_bucket(bench):
    bench.store.open_upload(bench.at("tmp/left"), metadata=METADATA).write(LARGE)

    [left] = bench.store.open_uploads(bench.bucket)
    bench.store.abort_upload(left)
    bench.store.abort_upload(left)

    assert left.location == bench.at("tmp/left")
    assert left.initiated_at.utcoffset() is not None
    assert list(bench.store.open_uploads(bench.bucket)) == []


def test_an_upload_that_the_sweeper_aborted_does_not_appear(bench):
    upload = bench.store.open_upload(bench.at("tmp/swept"), metadata=METADATA)
    upload.write(LARGE)
    for left in list(bench.store.open_uploads(bench.bucket)):
        bench.store.abort_upload(left)

    with pytest.raises(Unavailable, match="tmp/swept"):
        upload.complete()

    assert bench.store.head(bench.at("tmp/swept")) is None


@pytest.mark.parametrize("body", [b"small", LARGE + b"tail"])
def test_a_copy_has_the_bytes_and_the_metadata(bench, body):
    source, target = bench.upload("tmp/x.csv", body), bench.at("input/x.csv")

    bench.store.copy(source, target, sha256=sha256_of(body))

    assert bench.store.read(target) == body
    assert bench.store.head(target).metadata == METADATA
    assert bench.store.sha256(target) == sha256_of(body)
    assert bench.store.head(source) is not None


@pytest.mark.parametrize("key", ["tmp/ä b+c%41/=&?#.csv", "tmp/日本/☃.csv", "tmp/a:b@c/'\"<>.csv"])
def test_any_key_is_carried(bench, key):
    source, target = bench.put(key, b"1"), bench.at(f"quarantine/{key}")

    bench.store.copy(source, target, sha256=sha256_of(b"1"))

    assert bench.store.read(target) == b"1"
    assert [info.location.key for info in bench.store.list(bench.bucket, "tmp/")] == [key]


def test_copying_again_is_no_error_even_when_the_source_is_gone(bench):
    source, target = bench.put("tmp/x.csv", b"1"), bench.at("input/x.csv")
    bench.store.copy(source, target, sha256=sha256_of(b"1"))
    before = bench.store.head(target)
    bench.store.delete(source)

    bench.store.copy(source, target, sha256=sha256_of(b"1"))

    assert bench.store.head(target) == before


def test_a_copy_gives_no_key_other_bytes(bench):
    source, target = bench.put("tmp/x.csv", b"1"), bench.put("input/x.csv", b"first")

    with pytest.raises(ObjectConflict, match=r"input/x\.csv"):
        bench.store.copy(source, target, sha256=sha256_of(b"1"))

    assert bench.store.read(target) == b"first"


# moto does not say what its checksum is of; the gate behind the copy reads it.
@pytest.mark.parametrize("bench", MINDS_CHECKSUMS, indirect=True)
def test_a_source_with_other_bytes_than_the_ledger_says_is_not_copied(bench):
    source, target = bench.put("tmp/x.csv", b"changed"), bench.at("input/x.csv")

    with pytest.raises(ObjectConflict, match=r"tmp/x\.csv"):
        bench.store.copy(source, target, sha256=sha256_of(b"recorded"))

    assert bench.store.head(target) is None


def test_copying_what_is_not_there_is_an_error(bench):
    with pytest.raises(ObjectNotFound, match=r"tmp/x\.csv"):
        bench.store.copy(bench.at("tmp/x.csv"), bench.at("input/x.csv"), sha256=sha256_of(b"1"))


def test_deleting_is_by_exact_key_and_may_be_repeated(bench):
    location, neighbour = bench.put("tmp/x", b"1"), bench.put("tmp/x.csv", b"2")

    bench.store.delete(location)
    bench.store.delete(location)

    assert bench.store.head(location) is None
    assert bench.store.head(neighbour) is not None


def test_listing_gives_all_objects_under_a_prefix_by_key(bench):
    for key in ("tmp/b", "tmp/a", "tmp/a/1", "input/a", "tmp-not/a"):
        bench.put(key, key.encode())

    found = list(bench.store.list(bench.bucket, "tmp/"))

    assert [info.location.key for info in found] == ["tmp/a", "tmp/a/1", "tmp/b"]
    assert [info.file_size_in_bytes for info in found] == [5, 7, 5]
    assert found[0].metadata == {}
    assert found[0].entity_tag == bench.store.head(bench.at("tmp/a")).entity_tag


def test_listing_goes_on_after_a_key_whether_it_is_there_or_not(bench):
    for key in ("tmp/a", "tmp/b", "tmp/ü", "tmp/c d&e+f", "input/z"):
        bench.put(key, key.encode())

    after = {
        key: [info.location.key for info in bench.store.list(bench.bucket, "tmp/", after=key)]
        for key in ("", "tmp/a", "tmp/aa", "tmp/c d&e+f", "tmp/ü")
    }

    assert after == {
        "": ["tmp/a", "tmp/b", "tmp/c d&e+f", "tmp/ü"],
        "tmp/a": ["tmp/b", "tmp/c d&e+f", "tmp/ü"],
        "tmp/aa": ["tmp/b", "tmp/c d&e+f", "tmp/ü"],
        "tmp/c d&e+f": ["tmp/ü"],
        "tmp/ü": [],
    }


def test_listing_goes_beyond_one_page(bench):
    for number in range(1_005):
        bench.overwrite(bench.at(f"tmp/{number:05d}"), b"")

    assert sum(1 for _ in bench.store.list(bench.bucket, "tmp/")) == 1_005


def test_what_a_stranger_overwrote_is_told_by_its_bytes(bench):
    location = bench.put("tmp/x.csv", b"ours")

    bench.overwrite(location, b"theirs")

    assert bench.store.sha256(location) == sha256_of(b"theirs")
    with pytest.raises(ObjectConflict):
        bench.put("tmp/x.csv", b"ours")
