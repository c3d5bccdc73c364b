"""Ranges of a key: what is equal is not read, what differs is, however a table grows."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.key_ranges import (
    EVERYTHING,
    LARGEST_KEY,
    MAX_CELLS,
    MAX_INTERVALS,
    CellSums,
    Interval,
    KeySpan,
    RangeReading,
    bits_for,
    changed_intervals,
    digests_of,
    folded,
    is_in_any,
    row_count_of,
)

KEY = b"a key of more than sixteen bytes"
keys = st.integers(-(2**63), LARGEST_KEY)
tables = st.dictionaries(keys | st.integers(-50, 50), st.integers(0, 2**32 - 1), max_size=40)


def cells_of(rows: Mapping[int, int], bits: int) -> dict[int, CellSums]:
    """What a server would sum: here a row's hash is its value."""
    cells: dict[int, CellSums] = {}
    for key, value in rows.items():
        row = CellSums(1, (value, value ^ 1, key & 0xFFFFFFFF, 0))
        cells[key >> bits] = cells[key >> bits] + row if key >> bits in cells else row
    return cells


def digests(rows: Mapping[int, int], bits: int) -> dict[int, str]:
    return digests_of(cells_of(rows, bits), column="id", bits=bits, key=KEY)


@given(tables, st.integers(0, 62), st.integers(0, 62))
def test_a_coarser_grid_is_the_sum_of_a_finer_one(rows: dict[int, int], one: int, other: int) -> None:
    fine, coarse = sorted((one, other))

    assert folded(cells_of(rows, fine), by=coarse - fine) == cells_of(rows, coarse)
    assert row_count_of(cells_of(rows, fine).values()) == len(rows)


@given(tables, tables, st.integers(0, 62))
def test_every_row_that_differs_lies_in_a_range_that_is_read(
    before: dict[int, int], after: dict[int, int], bits: int
) -> None:
    intervals = changed_intervals(digests(before, bits), digests(after, bits), bits=bits)

    for key in before.keys() | after.keys():
        if before.get(key) != after.get(key):
            assert is_in_any(intervals, key)
    # What was before outside of the ranges, and what is now inside: together the table as it is.
    kept = {key: value for key, value in before.items() if not is_in_any(intervals, key)}
    read = {key: value for key, value in after.items() if is_in_any(intervals, key)}
    assert kept | read == after


def test_what_did_not_change_is_not_read() -> None:
    before = dict.fromkeys(range(0, 100_000, 7), 1)
    after = {**before, 700: 2}
    del after[90_006]

    assert changed_intervals(digests(before, 10), digests(before, 10), bits=10) == ()
    assert changed_intervals(digests(before, 10), digests(after, 10), bits=10) == (
        Interval(0, 1024),
        Interval(89_088, 90_112),
    )


def test_no_batch_reads_more_ranges_than_it_may_and_the_nearest_are_joined() -> None:
    drawn = random.Random(7)
    changed = {drawn.randrange(10**6) for _ in range(5_000)} | {5 * 10**6}

    intervals = changed_intervals({}, dict.fromkeys(changed, "x"), bits=0)

    assert len(intervals) <= MAX_INTERVALS
    assert all(is_in_any(intervals, number) for number in changed)
    assert intervals[-1] == Interval(5 * 10**6, 5 * 10**6 + 1)


@given(st.integers(1, 10**9), keys, keys, st.integers(1, 10**6))
def test_a_grid_has_no_more_cells_than_there_may_be(count: int, one: int, other: int, rows: int) -> None:
    low, high = sorted((one, other))

    bits = bits_for(KeySpan(count, low, high), rows_per_range=rows)

    assert (high >> bits) - (low >> bits) <= MAX_CELLS


@pytest.mark.parametrize(
    ("span", "bits"), [(KeySpan(1, 5, 5), 0), (KeySpan(100, 1, 100), 7), (KeySpan(10**6, 1, 10**6), 14)]
)
def test_about_so_many_rows_lie_in_a_range(span: KeySpan, bits: int) -> None:
    assert bits_for(span, rows_per_range=10_000) == bits


def test_the_last_range_of_all_numbers_has_no_end() -> None:
    assert changed_intervals({}, {(2**63 - 1) >> 4: "x"}, bits=4) == (Interval(2**63 - 16, None),)


def test_a_digest_says_nothing_without_the_key_and_differs_with_every_part() -> None:
    sums = CellSums(1, (1, 2, 3, 4))

    def digest(**other: object) -> str:
        (found,) = digests_of(
            {0: other.get("sums", sums)},  # type: ignore[dict-item]
            **{"column": "id", "bits": 1, "key": KEY, **{k: v for k, v in other.items() if k != "sums"}},  # type: ignore[arg-type]
        ).values()
        return found

    others = [
        digest(key=b"another"),
        digest(bits=2),
        digest(column="no"),
        digest(sums=CellSums(2, (1, 2, 3, 4))),
        digest(sums=CellSums(1, (12, 3, 4, 0))),
    ]
    assert len({digest(), *others}) == 6


def test_what_was_read_comes_back_from_a_manifest() -> None:
    reading = RangeReading("id", 3, {-1: "aa", 2: "bb"}, 7, "b1", (Interval(None, 5), Interval(8, 16)))

    assert RangeReading.from_entry(reading.entry()) == reading
    assert RangeReading.from_entry(None) is None
    whole = RangeReading("id", 0, {}, 0, None, EVERYTHING)
    assert RangeReading.from_entry(whole.entry()) == whole
