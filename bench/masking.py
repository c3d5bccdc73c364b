"""
The mask step alone: how fast each mask is beside Python's own hmac, and how much memory it takes.

    python -m bench.masking hmac 500000
"""

import hashlib
import hmac
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from support.extraction import HMAC, HMAC_EMAIL, HMAC_PHONE, LAST4, MASK_KEY, REDACT, column

from bench.measuring import Comparison, Target, Try, in_a_process, measured
from services.extractor.masking import Masking
from services.extractor.readers import Chunk
from shared.csv_dialect import record_line
from shared.domain.contracts import Mask, MaskKind, Truncation

#: As the readers cut them, and some, so that memory is seen to stay.
RECORDS_PER_CHUNK = 50_000

OTHER_KEY = "another key of more than sixteen bytes"


@dataclass(frozen=True, slots=True)
class Way:
    """A mask and the values it is tried on."""

    mask: Mask
    type_text: str
    value: Callable[[int], str]
    #: While keys are rotated, each value is masked twice.
    has_two_keys: bool = False


def email(number: int) -> str:
    """Return an e-mail address."""
    return f"Customer.{number}@Example.com"


def phone(number: int) -> str:
    """Return a phone number."""
    return f"+34 600 {number % 1000:03d} {number // 1000:04d}"


def day(number: int) -> str:
    """Return a date."""
    return (date(1930, 1, 1) + timedelta(days=number % 30_000)).isoformat()


def moment(number: int) -> str:
    """Return a moment as PostgreSQL writes it."""
    return f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number, microseconds=1)}"[:26] + "+00"


def integer(number: int) -> str:
    """Return an integer."""
    return str(number * 7919 - 1_000_000)


def amount(number: int) -> str:
    """Return a decimal."""
    return f"{number * 7919 - 1_000_000}.{number % 100:02d}"


TRUNCATE_MONTH = Mask(MaskKind.TRUNCATE, truncation=Truncation.MONTH)
BUCKET = Mask(MaskKind.BUCKET, step=Decimal(1000))

WAYS: Mapping[str, Way] = {
    "hmac": Way(HMAC, "string", email),
    "hmac, e-mail": Way(HMAC_EMAIL, "string", email),
    "hmac, phone": Way(HMAC_PHONE, "string", phone),
    "hmac, two keys": Way(replace(HMAC, key_id="k2"), "string", email, has_two_keys=True),
    "redact": Way(REDACT, "string", email),
    "last4": Way(LAST4, "string", email),
    "truncate date": Way(TRUNCATE_MONTH, "date", day),
    "truncate timestamptz": Way(TRUNCATE_MONTH, "timestamptz", moment),
    "bucket int64": Way(BUCKET, "int64", integer),
    "bucket decimal(38,2)": Way(BUCKET, "decimal(38,2)", amount),
}
PYTHON = "hmac of Python"


def chunks(value: Callable[[int], str], *, row_count: int) -> Iterator[Chunk]:
    """Return records of a number and a value."""
    for first in range(0, row_count, RECORDS_PER_CHUNK):
        numbers = range(first, min(first + RECORDS_PER_CHUNK, row_count))
        yield Chunk.of(record_line([str(n), value(n)]) for n in numbers)


def try_one(name: str, row_count: int) -> None:
    """Mask so many values, and print what it took. The values are made before, and are part of the memory."""
    way = WAYS.get(name, WAYS["hmac"])
    made = list(chunks(way.value, row_count=row_count))
    mask_all = _python if name == PYTHON else _esclusa(way)
    with measured() as count:
        count(mask_all(made))


def _esclusa(way: Way) -> Callable[[list[Chunk]], int]:
    columns = [column("id"), column("value", way.type_text, way.mask)]
    if way.has_two_keys:
        columns.append(column("value__k1", way.type_text, HMAC, made_from="value"))
    masking = Masking(columns, keys={"k1": MASK_KEY, "k2": OTHER_KEY})
    return lambda made: sum(masking.mask(chunk).chunk.record_count for chunk in made)


def _python(made: list[Chunk]) -> int:
    """Mask in the plainest way: without parsing, since the values hold nothing to parse."""
    key, record_count = MASK_KEY.encode(), 0
    for chunk in made:
        lines = []
        for line in chunk.body.splitlines():
            number, _, value = line.partition(b",")
            digest = hmac.new(key, b"customer\0" + value, hashlib.sha256).hexdigest()
            lines.append(number + b"," + digest.encode())
        record_count += len(b"\n".join(lines).splitlines())
    return record_count


def compare(*, row_count: int, rounds: int) -> Comparison:
    """Try every mask in turns."""
    comparison = Comparison(
        f"masks, {row_count} values", targets=[Target(way, PYTHON, 1.0) for way in WAYS], most_mib=400
    )
    comparison.run({name: _try(name, row_count) for name in (*WAYS, PYTHON)}, rounds=rounds)
    return comparison


def _try(name: str, row_count: int) -> Try:
    return lambda: in_a_process("bench.masking", name, str(row_count))


if __name__ == "__main__":
    try_one(sys.argv[1], int(sys.argv[2]))
