"""The extractor's story, with a source that does as it is told."""

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from support.extraction import HMAC, MASK_KEY, REDACT, WINDOW, column, make_assignment, make_contract

from services.extractor.extract import CHUNKS_AHEAD, extract, mask_ahead
from services.extractor.masking import Masking
from services.extractor.readers import Chunk, CursorBounds, Finding, SourceColumn
from shared.domain.batches import Stage
from shared.domain.contracts import KeySweep
from shared.domain.counts import broken_sum
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import Refused, Unavailable
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets

SECRETS = MemorySecrets({"env:MASK_KEY": MASK_KEY})


@dataclass
class ToldSource:
    """A reader and its only snapshot."""

    chunks: Sequence[Chunk | Exception]
    rows_read_count: int = 0
    rows_outside_window_count: int = 0
    taken_at: datetime = datetime(2026, 6, 1, tzinfo=UTC)
    open_since: datetime | None = None
    fingerprint: str = "before"
    fingerprint_after: str = "before"
    new_columns: list[SourceColumn] = field(default_factory=list)
    was_read: bool = False

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None = None) -> Iterator["ToldSource"]:
        assert window == WINDOW
        yield self

    def read(self) -> Generator[Chunk, None, None]:
        self.was_read = True
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        return self.new_columns

    def current_fingerprint(self) -> str:
        return self.fingerprint_after

    def clock(self) -> datetime:
        return self.taken_at

    def check(self) -> list[Finding]:
        return []

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:
        return self.rows_read_count

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:
        return None

    def close(self) -> None:
        """Nothing to leave."""


CONTRACT = make_contract([column("id"), column("name", mask=REDACT)])


def test_a_row_that_got_lost_on_the_way_breaks_the_sum() -> None:
    source = ToldSource([Chunk.of([b"1,a\n"])], rows_read_count=2)

    result = extract(make_assignment(CONTRACT), reader=source, store=MemoryObjectStore(), secrets=SECRETS)

    assert broken_sum(Stage.EXTRACT, result.counts) is not None


def test_files_lie_under_the_number_of_their_attempt() -> None:
    store = MemoryObjectStore()
    source = ToldSource([Chunk.of([b"1,a\n"])], rows_read_count=1)

    result = extract(make_assignment(CONTRACT, attempt=7), reader=source, store=store, secrets=SECRETS)

    (file,) = result.files
    assert (file.area, file.attempt) == (Area.TMP, 7)
    assert file.location.key == f"tmp/customers/{file.batch_id}/a7/part-00000.csv"
    assert store.head(file.location).metadata == {  # type: ignore[union-attr]
        "esclusa-batch": file.batch_id,
        "esclusa-stage": "extract",
        "esclusa-attempt": "7",
        "esclusa-source": "shop",
        "esclusa-table": "customers",
    }


def test_the_manifest_says_all_that_a_stranger_needs_to_read_the_files() -> None:
    source = ToldSource([Chunk.of([b"1,a\n"])], rows_read_count=1, new_columns=[SourceColumn("new")])

    result = extract(make_assignment(CONTRACT), reader=source, store=MemoryObjectStore(), secrets=SECRETS)

    manifest = result.manifest
    assert manifest["header"] == ["id", "name"]
    assert manifest["schema_fingerprint"] == "before"
    assert manifest["snapshot_at"] == "2026-06-01T00:00:00.000000Z"
    assert manifest["dialect"]["null"] == ""  # type: ignore[index]
    assert [c["type"] for c in manifest["columns"]] == ["string", "string"]  # type: ignore[attr-defined]
    assert manifest["withheld"] == [{"name": "new", "mask": "withhold", "is_new": True}]
    assert manifest["parts"] == [
        {
            "key": file.location.key,
            "record_count": file.record_count,
            "file_size_in_bytes": file.file_size_in_bytes,
            "sha256": file.sha256,
        }
        for file in result.files
    ]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (ToldSource([Chunk.of([b"1,a\n"])] * 9 + [Unavailable("broke off")]), Unavailable),
        (ToldSource([Chunk.of([b"1,a\n"])] * 9 + [Chunk.of([b"1,a,b\n"])]), Refused),
        (ToldSource([Chunk.of([b"1,a\n"])], fingerprint_after="after"), Refused),
    ],
    ids=["breaks off", "is malformed", "changes its schema"],
)
def test_an_attempt_that_fails_sends_no_part_that_was_not_full(
    source: ToldSource, error: type[Exception]
) -> None:
    store = MemoryObjectStore()

    with pytest.raises(error):
        extract(make_assignment(CONTRACT), reader=source, store=store, secrets=SECRETS)

    assert list(store.list("esclusa-shop", "")) == []


def test_without_its_mask_key_a_source_is_not_even_asked() -> None:
    contract = make_contract([column("id"), column("name", mask=REDACT)], mask_key="")
    source = ToldSource([Chunk.of([b"1,a\n"])], rows_read_count=1)
    hmac_contract = make_contract([column("id"), column("name", mask=HMAC)], mask_key="env:ABSENT")

    with pytest.raises(Refused) as refused:
        extract(make_assignment(hmac_contract), reader=source, store=MemoryObjectStore(), secrets=SECRETS)
    asked = source.was_read
    extract(make_assignment(contract), reader=source, store=MemoryObjectStore(), secrets=SECRETS)

    assert refused.value.reason is Reason.MASK_KEY_MISSING
    assert not asked


def test_masking_keeps_the_order_and_stays_a_few_chunks_behind() -> None:
    taken = 0

    def chunks() -> Iterator[Chunk]:
        nonlocal taken
        for number in range(50):
            taken += 1
            yield Chunk.of([b"%d,a\n" % number])

    seen, furthest_ahead = [], 0
    for masked in mask_ahead(chunks(), Masking([column("id"), column("name", mask=REDACT)], keys={})):
        furthest_ahead = max(furthest_ahead, taken - len(seen))
        seen.append(masked.chunk.body)

    assert seen == [b"%d,[redacted]\n" % number for number in range(50)]
    assert furthest_ahead <= CHUNKS_AHEAD + 1


def test_masking_leaves_no_thread_behind() -> None:
    masked = mask_ahead(
        iter([Chunk.of([b"1,a\n"])] * 9), Masking([column("id"), column("n", mask=REDACT)], keys={})
    )
    next(masked)

    masked.close()

    deadline = time.monotonic() + 10
    while any(thread.name.startswith("masking") for thread in threading.enumerate()):
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("sweep", "behind"),
    [(KeySweep(timedelta(0), (1,)), 1), (KeySweep(timedelta(minutes=5), (1,)), -299), (None, 1)],
    ids=["sweep", "sweep of a table with a lag", "snapshot"],
)
def test_a_source_that_fell_behind_says_nothing_of_what_is_gone(sweep: KeySweep | None, behind: int) -> None:
    taken_at = WINDOW.end - timedelta(seconds=behind)
    source = ToldSource([Chunk.of([b"1,a\n"])], rows_read_count=1, taken_at=taken_at)
    assignment = replace(make_assignment(CONTRACT), sweep=sweep)

    with pytest.raises(Unavailable, match="expected its clock") if sweep else nullcontext():
        extract(assignment, reader=source, store=MemoryObjectStore(), secrets=SECRETS)

    # A snapshot replaces the table by what there is, and says so.
    assert source.was_read is (sweep is None)
