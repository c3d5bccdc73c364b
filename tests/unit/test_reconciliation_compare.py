"""Which rows count, and which of them differ: by publish mode, over reduced rows made by hand."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import polars as pl
import pytest
from support.extraction import column, make_contract, updated_at
from support.ledger_rows import NOON

from reconciliation import sides
from reconciliation.compare import Compared, compared_rows
from reconciliation.positions import Bounds
from reconciliation.settled import ELSEWHERE, OPEN, Timeline
from reconciliation.shape import REDUCED, Shape
from reconciliation.sides import Side, SourceRows
from services.extractor.readers import Chunk
from shared.domain.contracts import PublishMode
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import Refused, Unavailable
from shared.secrets.memory import MemorySecrets

#: key, row, window, version, order, is_deleted
Reduced = tuple[int, int, int, int, int, bool]


def row(
    key: int, text: int, *, window: int = 0, version: int = 1, order: int = 0, is_deleted: bool = False
) -> Reduced:
    return key, text, window, version, order, is_deleted


def frame(*rows: Reduced) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=REDUCED, orient="row")


def compared(
    source: list[Reduced],
    lake: list[Reduced],
    warehouse: list[Reduced],
    *,
    mode: PublishMode = PublishMode.MERGE,
    has_key: bool = True,
) -> Compared:
    return compared_rows(frame(*source), frame(*lake), frame(*warehouse), mode=mode, has_key=has_key)


def differing(found: Compared) -> list[tuple[int, ...]]:
    """Window, key and row, and how often source, lake and warehouse have it."""
    return found.differences().rows()


ONE = row(1, 10)


@pytest.mark.parametrize("mode", list(PublishMode))
def test_equal_rows_do_not_differ_in_any_mode(mode):
    found = compared([ONE], [ONE], [ONE], mode=mode)

    assert differing(found) == []
    assert len(set(found.tallies()[0].values())) == 1


@pytest.mark.parametrize("mode", list(PublishMode))
@pytest.mark.parametrize(("missing", "counts"), [(0, (0, 1, 1)), (1, (1, 0, 1)), (2, (1, 1, 0))])
def test_a_row_that_a_side_lacks_differs_there(mode, missing, counts):
    rows = [[ONE], [ONE], [ONE]]
    rows[missing] = []

    found = compared(*rows, mode=mode)

    assert differing(found) == [(0, 1, 10, *counts)]


def test_of_a_merged_table_the_newest_version_counts_wherever_it_lies():
    older, newer = row(1, 10, version=1), row(1, 11, window=1, version=2)

    found = compared([newer], [newer, older], [newer])

    assert differing(found) == []
    assert found.tallies().keys() == {1}


def test_of_equal_cursors_the_later_batch_has_the_newest_version():
    earlier, later = row(1, 10, order=1), row(1, 11, order=2)

    assert differing(compared([later], [later, earlier], [later])) == []


def test_a_newer_version_in_a_window_that_is_not_compared_takes_the_row_out():
    older, newer = row(1, 10), row(1, 11, window=ELSEWHERE, version=2)

    found = compared([newer], [older, newer], [newer])

    assert found.tallies() == {}


def test_the_warehouse_has_to_have_taken_the_newer_version_too():
    older, newer = row(1, 10), row(1, 11, window=1, version=2)

    found = compared([newer], [older, newer], [older])

    assert differing(found) == [(0, 1, 10, 0, 0, 1), (1, 1, 11, 1, 1, 0)]


def test_an_open_key_is_left_out_on_every_side():
    older, newer = row(1, 10), row(1, 11, window=OPEN, version=2)

    assert compared([newer], [older], [older]).tallies() == {}
    # Read twice, since it changed between two readings of the source.
    assert compared([older, newer], [older], []).tallies() == {}


def test_a_softly_deleted_version_hides_the_one_before():
    older, deleted = row(1, 10), row(1, 11, version=2, is_deleted=True)

    assert compared([deleted], [older, deleted], []).tallies() == {}


def test_every_row_of_an_appended_table_counts_as_often_as_it_is_there():
    found = compared([ONE, ONE], [ONE, ONE], [ONE], mode=PublishMode.APPEND, has_key=False)

    assert differing(found) == [(0, 1, 10, 2, 2, 1)]


@pytest.mark.parametrize(
    "newer",
    [
        row(1, 11, window=1, version=2),
        row(1, 11, window=OPEN, version=2),
        # Rejected, with a cursor that is no moment.
        row(1, 11, window=OPEN, version=0),
    ],
    ids=["published", "on its way", "rejected"],
)
def test_an_older_version_in_an_appended_table_is_not_asked_of_the_source(newer):
    in_lake = [ONE, newer] if newer[2] >= 0 else [ONE]

    found = compared([newer], in_lake, in_lake, mode=PublishMode.APPEND)

    assert differing(found) == []


def test_an_older_version_in_an_appended_table_is_asked_of_the_warehouse():
    newer = row(1, 11, window=1, version=2)

    found = compared([newer], [ONE, newer], [newer], mode=PublishMode.APPEND)

    assert differing(found) == [(0, 1, 10, 1, 1, 0)]


def test_without_a_key_a_row_that_left_an_appended_table_differs():
    found = compared([], [ONE], [ONE], mode=PublishMode.APPEND, has_key=False)

    assert differing(found) == [(0, 1, 10, 0, 1, 1)]


def test_of_a_snapshot_in_which_a_key_is_twice_the_last_counts():
    found = compared([row(1, 9, order=0), row(1, 10, order=1)], [ONE], [ONE], mode=PublishMode.REPLACE)

    assert differing(found) == []


def test_a_table_without_a_native_target_is_not_asked_of_the_warehouse():
    found = compared_rows(frame(ONE), frame(ONE), None, mode=PublishMode.MERGE, has_key=True)

    assert differing(found) == []
    assert set(found.tallies()[0]) == {Side.SOURCE, Side.LAKE}


# ---- a source that is written to while it is read ----------------------------------------------------------

CONTRACT = make_contract([column("id", "int64"), column("updated_at", "timestamptz")], cursor=updated_at())
BOUNDS = Bounds(window=Window(None, NOON))


class RestlessReader:
    """A source whose newest rows do not add up for some readings."""

    def __init__(self, failures: int, reason: Reason = Reason.SOURCE_ANSWER_INVALID) -> None:
        self.failures, self.reason = failures, reason
        self.windows: list[Window] = []
        self.chunk = Chunk.of([b"1,2026-11-22 11:00:00+00\n"])

    def clock(self):
        return NOON + timedelta(minutes=1)

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None) -> Iterator["RestlessReader"]:
        assert extent is None
        self.windows.append(window)
        yield self

    def read(self) -> Iterator[Chunk]:
        yield self.chunk
        if self.windows[-1].start == NOON and self.failures:
            self.failures -= 1
            raise Refused(self.reason, "3000 announced, 3001 found")


def rows_from(reader: RestlessReader, monkeypatch: pytest.MonkeyPatch) -> int:
    @contextmanager
    def open_reader(*_: object, **__: object) -> Iterator[RestlessReader]:
        yield reader

    monkeypatch.setattr(sides, "open_reader", open_reader)
    source = SourceRows(CONTRACT, Shape(CONTRACT), MemorySecrets({}), BOUNDS)
    return sum(rows.height for rows in source.read(Timeline([], compared=[])))


def test_the_newest_rows_are_read_again_until_they_add_up(monkeypatch):
    reader = RestlessReader(failures=2)

    assert rows_from(reader, monkeypatch) == 4
    assert [window.start for window in reader.windows] == [None, NOON, NOON, NOON]


@pytest.mark.parametrize("reason", [Reason.SOURCE_ANSWER_INVALID, Reason.SOURCE_LIMIT_EXCEEDED])
def test_a_source_that_never_gives_a_whole_answer_did_not_answer(monkeypatch, reason):
    with pytest.raises(Unavailable, match="--from"):
        rows_from(RestlessReader(failures=99, reason=reason), monkeypatch)


def test_a_table_that_is_not_as_the_contract_has_it_is_refused(monkeypatch):
    with pytest.raises(Refused, match="type_changed"):
        rows_from(RestlessReader(failures=1, reason=Reason.TYPE_CHANGED), monkeypatch)
