"""Records cut at their masked columns: against a reader of one record at a time that knows no library."""

import hashlib
import hmac
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extraction import HMAC, KEEP, LAST4, MASK_KEY, REDACT, column

from services.extractor import cut
from services.extractor.csv_fields import chunk_of, field_of, value_of
from services.extractor.masking import Masking
from services.extractor.readers import Chunk
from shared.csv_dialect import record_line
from shared.domain.contracts import Column, Mask, MaskKind, Truncation
from shared.domain.reasons import Reason
from shared.errors import Refused

Value = str | None

OTHER_KEY = "another key of sixteen bytes"
KEYS = {"k1": MASK_KEY, "k2": OTHER_KEY}
HMAC_OF_BEFORE = Mask(MaskKind.HMAC, domain="customer", key_id="k2")
CONSTANT = Mask(MaskKind.CONSTANT, constant='a "quoted",\nconstant')

TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(',,""\n\n\r\t \\\0\ufeffé🙂'))
)
VALUES = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "NULL", '"', '""', ",", "\n", "\r\n", "a,b", "-7", "12", "2024-02-29", "2023-02-29"]
    ),
    TEXTS,
)


def pseudonym(text: str, *, key: str) -> str:
    return hmac.new(key.encode(), b"customer\0" + text.encode(), hashlib.sha256).hexdigest()


BUCKET = Mask(MaskKind.BUCKET, step=Decimal(10))
YEAR = Mask(MaskKind.TRUNCATE, truncation=Truncation.YEAR)
TYPES = {BUCKET: "int64", YEAR: "date"}


def multiple_of_ten(text: str) -> str:
    return str(int(text) // 10 * 10) if re.fullmatch("-?(0|[1-9][0-9]{0,37})", text) else "[redacted]"


def first_of_year(text: str) -> str:
    if not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
        return "[redacted]"
    try:
        return date.fromisoformat(text).replace(month=1, day=1).isoformat()
    except ValueError:
        return "[redacted]"


LEAVING: dict[Mask, Callable[[str], str]] = {
    KEEP: lambda text: text,
    REDACT: lambda _: "[redacted]",
    CONSTANT: lambda _: CONSTANT.constant,
    BUCKET: multiple_of_ten,
    YEAR: first_of_year,
    LAST4: lambda text: "*" * (len(text) - 4) + text[-4:] if len(text) > 4 else "*" * len(text),
    HMAC: lambda text: text and pseudonym(text, key=MASK_KEY),
    HMAC_OF_BEFORE: lambda text: text and pseudonym(text, key=OTHER_KEY),
}


@dataclass(frozen=True)
class Layout:
    """Columns of a table, some of them made from others."""

    columns: Sequence[Column]

    @property
    def read_names(self) -> list[str]:
        return [column.name for column in self.columns if not column.made_from]

    def leaving(self, row: Sequence[Value]) -> list[Value]:
        values = dict(zip(self.read_names, row, strict=True))
        found = [(values[column.made_from or column.name], column.mask) for column in self.columns]
        return [None if value is None else LEAVING[mask](value) for value, mask in found]


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Masks at any place, and columns under the key before at any place, in front of what they are made from too."""
    masks = draw(
        st.lists(
            st.sampled_from([KEEP, KEEP, KEEP, REDACT, CONSTANT, LAST4, BUCKET, YEAR, HMAC, HMAC]),
            min_size=1,
            max_size=7,
        )
    )
    columns = [column(f"c{number}", TYPES.get(mask, "string"), mask) for number, mask in enumerate(masks)]
    for source in [found for found in columns if found.mask is HMAC and draw(st.booleans())]:
        made = column(f"{source.name}__k2", mask=HMAC_OF_BEFORE, made_from=source.name)
        columns.insert(draw(st.integers(0, len(columns))), made)
    return Layout(columns)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Layout, list[list[Value]]]:
    layout = draw(layouts())
    width = len(layout.read_names)
    return layout, draw(st.lists(st.lists(VALUES, min_size=width, max_size=width), max_size=8))


# Wide tables are read another way than others, and many masks in several steps; here narrow ones too.
WAYS = [(256, 16), (0, 16), (256, 2), (0, 1)]


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    split_columns, pieces_at_once = request.param
    monkeypatch.setattr(cut, "_MAX_SPLIT_COLUMNS", split_columns)
    monkeypatch.setattr(cut, "_PIECES_AT_ONCE", pieces_at_once)


# ---- what was sent -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("way")
@given(tables())
@settings(max_examples=300, deadline=None)
def test_records_of_any_columns_leave_as_if_each_value_was_written_alone(
    table: tuple[Layout, list[list[Value]]],
) -> None:
    layout, rows = table
    masking = Masking(layout.columns, keys=KEYS)

    result = masking.mask(Chunk.of(map(record_line, rows)))

    assert result.chunk == Chunk.of(record_line(layout.leaving(row)) for row in rows)
    for name, count in result.masked_value_counts.items():
        source = next(column.made_from or column.name for column in layout.columns if column.name == name)
        assert count == sum(row[layout.read_names.index(source)] is not None for row in rows)


@given(tables())
@settings(max_examples=200, deadline=None)
def test_records_that_were_masked_elsewhere_in_memory_leave_the_same(
    table: tuple[Layout, list[list[Value]]],
) -> None:
    layout, rows = table
    masking = Masking(layout.columns, keys=KEYS)
    sent = pl.Series([record_line(row).decode() for row in rows], dtype=pl.String)

    result = masking.mask(chunk_of(sent))

    assert result.chunk == Chunk.of(record_line(layout.leaving(row)) for row in rows)


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("source", range(3))
def test_a_column_under_the_key_before_may_stand_anywhere(place: int, source: int) -> None:
    columns = [column(f"c{number}", mask=HMAC if number == source else KEEP) for number in range(3)]
    columns.insert(place, column("before", mask=HMAC_OF_BEFORE, made_from=f"c{source}"))
    layout = Layout(columns)
    rows: list[list[Value]] = [["a", "b", "c"], ['"', ",", "\n"], ["", "", ""], [None, None, None]]

    result = Masking(columns, keys=KEYS).mask(Chunk.of(map(record_line, rows)))

    assert result.chunk == Chunk.of(record_line(layout.leaving(row)) for row in rows)


@pytest.mark.parametrize("value", [None, "", "a", '"', ",", "\n", "\r", "\ufeff", "\0", '""', "é,é"])
def test_a_table_of_one_column_is_masked(value: Value) -> None:
    layout = Layout([column("a", mask=REDACT)])

    result = Masking(layout.columns, keys={}).mask(Chunk.of([record_line([value])] * 3))

    assert result.chunk == Chunk.of([record_line(layout.leaving([value]))] * 3)


@pytest.mark.parametrize("quoted", [set(), {0}, {799}, {1599}, set(range(1600))])
@pytest.mark.parametrize("masked", [{0}, {1599}, {0, 1599}, {700, 701}])
def test_the_widest_table_of_postgresql_is_masked(quoted: set[int], masked: set[int]) -> None:
    layout = Layout([column(f"c{n}", mask=REDACT if n in masked else KEEP) for n in range(1600)])
    row: list[Value] = ["a,\n" if n in quoted else "a" for n in range(1600)]

    result = Masking(layout.columns, keys={}).mask(Chunk.of([record_line(row)] * 2))

    assert result.chunk == Chunk.of([record_line(layout.leaving(row))] * 2)


@pytest.mark.parametrize("width", [15, 16, 17, 33, 63, 64, 65, 300])
def test_any_number_of_columns_is_masked_at_once(width: int) -> None:
    masks = [REDACT if number % 3 else HMAC for number in range(width)]
    layout = Layout([column(f"c{number}", mask=mask) for number, mask in enumerate(masks)])
    rows: list[list[Value]] = [
        [f"v{number}" for number in range(width)],
        [('"', ",", "\n", "", None)[number % 5] for number in range(width)],
        [None] * width,
    ]

    result = Masking(layout.columns, keys=KEYS).mask(Chunk.of(map(record_line, rows)))

    assert result.chunk == Chunk.of(record_line(layout.leaving(row)) for row in rows)


def test_a_value_of_many_megabytes_is_masked_and_kept() -> None:
    layout = Layout([column("a"), column("b", mask=LAST4), column("c")])
    large = 'é",\n' * 2_000_000
    rows: list[list[Value]] = [[large, "b", "c"], ["a", large, "c"], ["a", "b", large]]

    result = Masking(layout.columns, keys={}).mask(Chunk.of(map(record_line, rows)))

    assert result.chunk == Chunk.of(record_line(layout.leaving(row)) for row in rows)


# ---- what was not sent ---------------------------------------------------------------------------------------


def fields_in_front(text: str, count: int) -> list[str] | None:
    """The first fields of a record as they are written, one character after the other; None if it has not so many."""
    fields, at = [], 0
    while len(fields) < count:
        begin = at
        if text[at : at + 1] == '"':
            at += 1
            while at < len(text) and (text[at] != '"' or text[at : at + 2] == '""'):
                at += 2 if text[at] == '"' else 1
            if at >= len(text):
                return None
            at += 1
        else:
            while at < len(text) and text[at] not in ',"\n':
                at += 1
        fields.append(text[begin:at])
        if text[at : at + 1] == "\n" and at + 1 == len(text) and len(fields) == count:
            return fields
        if text[at : at + 1] != ",":
            return None
        at += 1
    return fields


def hides_another(record: str) -> bool:
    """Whether a record ends before its last character."""
    quotes_in_front = [
        record[:at].count('"') for at, character in enumerate(record[:-1]) if character == "\n"
    ]
    is_open = record.count('"') % 2 == 1
    return any(is_open or count % 2 == 0 for count in quotes_in_front)


@pytest.mark.usefixtures("way")
@given(
    st.lists(st.sampled_from([KEEP, REDACT]), min_size=1, max_size=4).filter(lambda masks: REDACT in masks),
    st.lists(
        st.text(st.sampled_from('aé,,""\n\r'), max_size=14).flatmap(
            lambda text: st.sampled_from([text, text + "\n"])
        ),
        min_size=1,
        max_size=4,
    ),
)
@settings(max_examples=500, deadline=None)
def test_a_record_is_cut_at_its_fields_or_refused(masks: list[Mask], records: list[str]) -> None:
    columns = [column(f"c{number}", mask=mask) for number, mask in enumerate(masks)]
    masking = Masking(columns, keys={})
    head = max(number for number, mask in enumerate(masks) if mask is REDACT) + 1
    expected = []
    for record in records:
        fields = fields_in_front(record, head)
        ends = record.endswith("\n")
        is_whole = fields is not None and (
            len(",".join(fields)) + 1 == len(record)
            if head == len(masks)
            else record[len(",".join(fields))] == ","
        )
        expected.append(fields if ends and is_whole and not hides_another(record) else None)

    chunk = Chunk.of(record.encode() for record in records)

    if None in expected:
        with pytest.raises(Refused):
            masking.mask(chunk)
        return

    bodies = []
    for record, fields in zip(records, expected, strict=True):
        assert fields is not None
        rest = record[len(",".join(fields)) :]
        left = [
            field if mask is KEEP or field == "" else "[redacted]"
            for field, mask in zip(fields, masks[:head], strict=True)
        ]
        bodies.append((",".join(left) + rest).encode())
    assert masking.mask(chunk).chunk == Chunk.of(bodies)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "a,b,c",
        "a\n",
        "a,b\n",
        '"a,b,c\n',
        'a,"b,c\n',
        'a"x",b,c\n',
        '"a"x,b,c\n',
        'a,b"x",c\n',
        'a,"b"x,c\n',
        "a\nx,b,c\n",
        "a,b\nx,c\n",
        "a,b,c\nx,secret,z\n",
        'a,b,"c"\nx,secret,z\n',
        'a,b,"c\nx"\nx,secret,z\n',
        "a,b,c\n\n",
    ],
)
@pytest.mark.parametrize("width", [3, 600])
def test_a_record_of_the_wrong_shape_does_not_leave_and_is_not_told(record: str, width: int) -> None:
    front = [column(f"f{n}") for n in range(width - 3)]
    columns = [*front, column("a"), column("b", mask=REDACT), column("c")]
    begin = "f," * len(front)
    masking = Masking(columns, keys={})

    with pytest.raises(Refused) as refused:
        masking.mask(Chunk.of([f"{begin}1,2,3\n".encode(), (begin + record).encode()]))

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("record", ["a\n", "a,b\n", '"a",b\n', "a,b,c,d\n", '"a","b","c","d"\n'])
def test_a_record_of_the_wrong_width_does_not_leave_where_the_last_column_is_made_from_another(
    record: str,
) -> None:
    columns = [
        column("a", mask=HMAC),
        column("b"),
        column("c"),
        column("before", mask=HMAC_OF_BEFORE, made_from="a"),
    ]

    with pytest.raises(Refused):
        Masking(columns, keys=KEYS).mask(Chunk.of([b"1,2,3\n", record.encode()]))


@pytest.mark.parametrize(
    "record", [b"\xff,b,c\n", b"a,\xff,c\n", b"a,b,\xff\n", b'a,b,"\xc3"\n', b"a,b,\xed\xa0\x80\n"]
)
def test_what_is_no_utf8_does_not_leave_wherever_it_stands(record: bytes) -> None:
    masking = Masking([column("a"), column("b", mask=REDACT), column("c")], keys={})

    with pytest.raises(Refused):
        masking.mask(Chunk.of([b"1,2,3\n", record]))


def test_a_pseudonym_is_never_made_under_a_key_that_was_not_given() -> None:
    with pytest.raises(KeyError):
        Masking([column("a", mask=HMAC)], keys={})


MEMORY = """
import resource
import sys

sys.path.insert(0, "tests")
from support.extraction import REDACT, column

from services.extractor.masking import Masking
from services.extractor.readers import Chunk

masking = Masking([column(f"c{number}", mask=REDACT) for number in range(800)], keys={})
masking.mask(Chunk.of([b"a," * 799 + b"a\\n"] * 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
masking.mask(Chunk.of([b'"a,",' + b"a," * 798 + b"a\\n"] * 20))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_quotes_in_hundreds_of_masked_columns_cost_no_hundreds_of_megabytes() -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)

    assert int(done.stdout) < 150


# ---- fields --------------------------------------------------------------------------------------------------


@given(st.lists(VALUES, max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_value_is_written_as_one_record_would_have_it_and_read_back(values: list[Value]) -> None:
    frame = pl.DataFrame({"value": values}, schema={"value": pl.String})

    fields = frame.select(field_of(pl.col("value")).alias("value"))
    read = fields.select(value_of(pl.col("value")))

    assert fields.to_series().to_list() == [record_line([value]).decode()[:-1] for value in values]
    assert read.to_series().to_list() == values


def test_a_chunk_keeps_no_more_in_memory_than_its_records() -> None:
    records = pl.Series([f"{number},{'x' * 90}\n" for number in range(50_000)])

    chunk = chunk_of(pl.concat([records.filter(records.str.starts_with("7")), records.slice(10, 10)]))

    assert isinstance(chunk.body, memoryview)
    held = chunk.body.obj
    assert memoryview(held).nbytes < 1.1 * len(chunk.body) + 1024
    assert bytes(chunk.body[: chunk.offsets[1]]) == f"7,{'x' * 90}\n".encode()


def test_no_records_are_a_chunk_too() -> None:
    masking = Masking([column("a", mask=REDACT), column("b")], keys={})

    for chunk in (Chunk.of([]), chunk_of(pl.Series([], dtype=pl.String))):
        assert masking.mask(chunk).chunk == Chunk.of([])
