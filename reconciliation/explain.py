"""What differs between two sides of a window, told by keys and names of columns. Values are never told."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import polars as pl

from reconciliation.compare import Compared
from reconciliation.findings import Difference, DifferingRow, Measure
from reconciliation.shape import Shape
from reconciliation.sides import Side
from services.processor.checksum import Checksum, fingerprint
from services.processor.decode import position_name

#: So many keys of a difference are shown.
MAX_KEYS_SHOWN = 5
#: So many names of columns stand in a sentence.
_MAX_COLUMNS_TOLD = 10


def row_differences(
    window: int,
    *,
    sides: Sequence[Side],
    tallies: Mapping[Side, Checksum],
    differing: pl.DataFrame,
    rows: Compared | None,
    shape: Shape,
    is_cut: bool,
) -> Iterator[Difference]:
    """
    Return how sides that follow on each other differ in a window, in the order in which rows travel.

    `differing` are the rows of all windows that differ (`compare.TALLIED`), `rows` those of their keys on each side.
    """
    mine = differing.filter(pl.col("window") == window)
    for one, other in pairwise(sides):
        here = mine.filter(pl.col(one) != pl.col(other))
        expected, found = tallies.get(one, Checksum()), tallies.get(other, Checksum())
        if here.is_empty() and expected == found:
            continue
        keys = here.group_by("key").agg(pl.col(one, other).sum()).sort("key")
        shown = [
            _differing_row(key, {one: count, other: other_count}, window=window, rows=rows, shape=shape)
            for key, count, other_count in keys.head(MAX_KEYS_SHOWN).iter_rows()
            if rows is not None
        ]
        yield Difference(
            sides=(one, other),
            measure=Measure.COUNT if expected.row_count != found.row_count else Measure.CHECKSUM,
            detail="; ".join(
                [_totals(one, expected, other, found), *_kinds(keys, shown, one, other, is_cut=is_cut)]
            ),
            differing_key_count=keys.height,
            is_cut=is_cut,
            rows=tuple(shown),
        )


def _totals(one: Side, expected: Checksum, other: Side, found: Checksum) -> str:
    if expected.row_count != found.row_count:
        return f"{one} has {expected.row_count} rows, {other} {found.row_count}"
    return (
        f"{one} and {other} have {found.row_count} rows each, with checksums {expected.text} and {found.text}"
    )


def _kinds(
    keys: pl.DataFrame, shown: Sequence[DifferingRow], one: Side, other: Side, *, is_cut: bool
) -> Iterator[str]:
    more = "at least " if is_cut else ""
    only_one = keys.filter(pl.col(other) == 0).height
    only_other = keys.filter(pl.col(one) == 0).height
    both = keys.height - only_one - only_other
    if only_one:
        yield f"{more}{only_one} only in {one}"
    if only_other:
        yield f"{more}{only_other} only in {other}"
    if both:
        yield f"{more}{both} that are not the same in both"
    columns = list(dict.fromkeys(name for row in shown for name in row.columns))
    if columns:
        told = ", ".join(map(repr, columns[:_MAX_COLUMNS_TOLD]))
        yield f"differing columns: {told}" + (" and others" if len(columns) > _MAX_COLUMNS_TOLD else "")


def _differing_row(
    key: int, counts: Mapping[Side, int], *, window: int, rows: Compared, shape: Shape
) -> DifferingRow:
    of_key = {side: _of_key(rows.rows_of(side), key) for side in counts}
    in_window = {side: found.filter(pl.col("window") == window) for side, found in of_key.items()}
    # A row whose cursor differs lies in another window, and is the same row all the same.
    compared = [in_window[side] if in_window[side].height else of_key[side] for side in counts]
    has_one_each = shape.contract.key and all(found.height == 1 for found in compared)
    columns = _differing_columns(*compared, shape=shape) if has_one_each else ()
    known = next(found for found in compared if found.height) if any(f.height for f in compared) else None
    return DifferingRow(
        key={} if known is None else _key_text(known, shape),
        counts=dict(counts),
        columns=columns,
    )


def _of_key(rows: pl.DataFrame | None, key: int) -> pl.DataFrame:
    if rows is None:
        raise ValueError("a side that was not read has no rows")
    return rows.filter(pl.col("key") == key)


def _differing_columns(one: pl.DataFrame, other: pl.DataFrame, *, shape: Shape) -> tuple[str, ...]:
    cells = [
        fingerprint([(pl.col(position_name(position)), column.output_type)]).alias(position_name(position))
        for position, column in enumerate(shape.columns)
    ]
    pairs = zip(one.select(cells).row(0), other.select(cells).row(0), strict=True)
    return tuple(name for name, (mine, theirs) in zip(shape.names, pairs, strict=True) if mine != theirs)


def _key_text(rows: pl.DataFrame, shape: Shape) -> dict[str, str]:
    texts = {}
    for name in shape.contract.key:
        value = rows[position_name(shape.names.index(name))][0]
        texts[name] = value.hex() if isinstance(value, bytes) else str(value)
    return texts
