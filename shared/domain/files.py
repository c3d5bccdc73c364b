"""Data files: the areas they lie in and the keys they have there."""

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from shared.domain.reasons import Reason


class Area(StrEnum):
    """The parts of a source's bucket. A key begins with its area."""

    #: Raw, as extracted.
    TMP = "tmp"
    #: Consistent files only.
    INPUT = "input"
    #: The copy that is worked on.
    PROCESSING = "processing"
    #: Parquet, partitioned by day of the window.
    FINAL = "final"
    #: What a gate or a processor refused, with its reason in the ledger.
    QUARANTINE = "quarantine"


#: The areas that are empty of a batch once it is at rest.
TRANSIENT_AREAS = (Area.TMP, Area.INPUT, Area.PROCESSING)

#: Where a correct file goes on to.
NEXT_AREA = {Area.TMP: Area.INPUT, Area.INPUT: Area.PROCESSING}


class FileStatus(StrEnum):
    """What the ledger knows of a file."""

    #: Its writer recorded it; no gate has checked it yet.
    ANNOUNCED = "announced"
    #: Its gate found it as recorded.
    CORRECT = "correct"
    #: Its gate refused it, for a reason.
    INCORRECT = "incorrect"


class FileFormat(StrEnum):
    """What a file holds."""

    CSV = "csv"
    PARQUET = "parquet"
    #: Rows that a processor rejected, as CSV of line, column, code and masked value.
    REJECTS = "rejects"
    #: Anything: an object that is not ours.
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Location:
    """Where an object lies."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable object and what is known of it. One row of the ledger per file and area."""

    location: Location
    area: Area
    format: FileFormat
    #: None for an object that no batch wrote.
    batch_id: str | None
    #: The attempt that wrote it or whose file it is a copy of: of extract for CSV, of process for Parquet.
    attempt: int
    part: int
    record_count: int
    file_size_in_bytes: int
    #: Lower-case hexadecimal.
    sha256: str
    status: FileStatus = FileStatus.ANNOUNCED
    reason: Reason | None = None
    detail: str = ""
    recorded_at: datetime | None = None
    checked_at: datetime | None = None
    deleted_at: datetime | None = None
    #: The compaction that wrote it, if one did; then no batch has.
    compaction_id: str | None = None
    #: Of a batch whose rows lie among those of others: where they begin. `record_count` is then that of the batch, and
    #: size and checksum are those of the whole file. The ledger never keeps such a one.
    first_row: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether nobody of ours wrote it."""
        return self.batch_id is None and self.compaction_id is None


# Of the 1024 bytes that S3 allows a key, what the area and the checksum leave.
_MAX_KEY_BYTES_SET_ASIDE = 1024 - len("quarantine/") - len("@") - 16

_SAFE_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def key_segment(name: str) -> str:
    """
    Return a name as one segment of a key: any name, no two alike, no character S3 or Hive reads otherwise.

    No segment is called as an area is: a policy about `*/tmp/*` speaks of folders named so wherever they lie.

    >>> key_segment("order items/2026"), key_segment("tmp")
    ('order.20items.2f2026', '.74mp')
    """
    segment = "".join(chr(byte) if byte in _SAFE_BYTES else f".{byte:02x}" for byte in name.encode())
    return f".{ord(segment[0]):02x}{segment[1:]}" if segment in set(Area) else segment


def raw_key(area: Area, *, table: str, batch_id: str, attempt: int, part: int) -> str:
    """
    Return the key of a CSV file.

    >>> raw_key(Area.TMP, table="orders", batch_id="b1", attempt=2, part=0)
    'tmp/orders/b1/a2/part-00000.csv'
    """
    return f"{area}/{key_segment(table)}/{batch_id}/a{attempt}/part-{part:05d}.csv"


def final_prefix(*, table: str, day: str, batch_id: str, attempt: int) -> str:
    """
    Return the folder of one attempt's Parquet files; it ends with a slash and holds nothing else.

    >>> final_prefix(table="orders", day="2026-11-22", batch_id="b1", attempt=1)
    'final/orders/day=2026-11-22/batch=b1/a1/'
    """
    return f"{Area.FINAL}/{key_segment(table)}/day={day}/batch={batch_id}/a{attempt}/"


def final_key(*, table: str, day: str, batch_id: str, attempt: int, part: int) -> str:
    """Return the key of a Parquet file."""
    return final_prefix(table=table, day=day, batch_id=batch_id, attempt=attempt) + f"part-{part:05d}.parquet"


def rejects_key(*, table: str, batch_id: str, attempt: int) -> str:
    """Return the key of the rows that one process attempt rejected."""
    return f"{Area.QUARANTINE}/{key_segment(table)}/{batch_id}/p{attempt}/rejects-00000.csv"


def copy_key(name: str, *, table: str, batch_id: str, attempt: int) -> str:
    """
    Return the key of what one publish attempt writes for a warehouse to fetch: the list of files, or rows cut out of one.

    No row of the ledger names it: it lies in `tmp/` until the sweeper finds that its batch is at rest, or that a later
    attempt speaks for it. A name may end with the beginning of the SHA-256 of its content.

    >>> copy_key("files-00000-0cc10cc10cc10cc1.manifest", table="orders", batch_id="b1", attempt=2)
    'tmp/orders/b1/m2/files-00000-0cc10cc10cc10cc1.manifest'
    """
    return f"{Area.TMP}/{key_segment(table)}/{batch_id}/m{attempt}/{name}"


def quarantine_key(key: str, *, sha256: str) -> str:
    """
    Return where a refused object is set aside. Its checksum keeps two objects of one key apart.

    A key too long to be prolonged is cut; the whole of it stands in the ledger.

    >>> quarantine_key("tmp/x.csv", sha256="0cc1" * 16)
    'quarantine/tmp/x.csv@0cc10cc10cc10cc1'
    """
    kept = key.encode()[:_MAX_KEY_BYTES_SET_ASIDE].decode(errors="ignore")
    return f"{Area.QUARANTINE}/{kept}@{sha256[:16]}"


def compaction_prefix(*, table: str, day: str, compaction_id: str) -> str:
    """
    Return the folder of a compaction's one file; it ends with a slash.

    >>> compaction_prefix(table="orders", day="2026-11-22", compaction_id="c1")
    'final/orders/day=2026-11-22/compaction=c1/'
    """
    return f"{Area.FINAL}/{key_segment(table)}/day={day}/compaction={compaction_id}/"


def compaction_key(*, table: str, day: str, compaction_id: str) -> str:
    """Return the key of the file that a compaction writes."""
    return compaction_prefix(table=table, day=day, compaction_id=compaction_id) + "part-00000.parquet"


_COMPACTION_KEY = re.compile(
    r"final/[^/]+/day=[0-9-]{10}/compaction=(?P<id>c[0-9a-f]{24})/part-00000\.parquet"
)


def compaction_of_key(key: str) -> str | None:
    """Return the id of the compaction that a key of ours says it is of; None for any other key."""
    match = _COMPACTION_KEY.fullmatch(key)
    return match["id"] if match else None


_BATCH = r"(?P<batch_id>b[0-9a-f]{24})"
_RAW_KEY = re.compile(
    rf"(?P<area>tmp|input|processing)/(?P<table>[^/]+)/{_BATCH}/a(?P<attempt>[0-9]{{1,9}})/part-(?P<part>[0-9]{{5}})\.csv"
)
_FINAL_KEY = re.compile(
    rf"(?P<area>final)/(?P<table>[^/]+)/day=[0-9-]{{10}}/batch={_BATCH}/a(?P<attempt>[0-9]{{1,9}})"
    r"/part-(?P<part>[0-9]{5})\.parquet"
)
_REJECTS_KEY = re.compile(
    rf"(?P<area>quarantine)/(?P<table>[^/]+)/{_BATCH}/p(?P<attempt>[0-9]{{1,9}})/rejects-(?P<part>[0-9]{{5}})\.csv"
)
_COPY_KEY = re.compile(
    rf"(?P<area>tmp)/(?P<table>[^/]+)/{_BATCH}/m(?P<attempt>[0-9]{{1,9}})"
    r"/(?:files-(?P<part>[0-9]{5})(?:-[0-9a-f]{16})?\.manifest|rows-(?P<rows>[0-9]{5})(?:-[0-9a-f]{16})?\.parquet)"
)
_KEY_SET_ASIDE = re.compile(r"quarantine/(?P<key>.+)@(?P<sha256>[0-9a-f]{16})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a key of ours says of its object."""

    area: Area
    batch_id: str
    attempt: int
    part: int
    #: It was written for a warehouse to fetch; then the attempt is one of publish.
    is_for_copy: bool = False

    @classmethod
    def of(cls, key: str) -> Self | None:
        """Read the key of an object; None if no writer of ours makes such a key."""
        if copied := _COPY_KEY.fullmatch(key):
            part = int(copied["part"] or copied["rows"])
            return cls(Area.TMP, copied["batch_id"], int(copied["attempt"]), part, is_for_copy=True)
        match = _RAW_KEY.fullmatch(key) or _FINAL_KEY.fullmatch(key) or _REJECTS_KEY.fullmatch(key)
        if match is None:
            return None
        return cls(Area(match["area"]), match["batch_id"], int(match["attempt"]), int(match["part"]))


def key_before_quarantine(key: str) -> str | None:
    """
    Return the key that an object had before it was set aside, as far as it was kept; None if none was.

    >>> key_before_quarantine("quarantine/tmp/x.csv@0cc10cc10cc10cc1")
    'tmp/x.csv'
    """
    match = _KEY_SET_ASIDE.fullmatch(key)
    return match["key"] if match else None


_DAY = re.compile(r"final/[^/]+/day=(?P<day>[0-9-]{10})/")


def day_of_key(key: str) -> str:
    """
    Return the day under which a file of `final/` lies.

    >>> day_of_key("final/orders/day=2026-11-22/batch=b1/a1/part-00000.parquet")
    '2026-11-22'

    Raises:
        ValueError: if no writer of ours makes such a key.
    """
    match = _DAY.match(key)
    if match is None:
        raise ValueError(f"expected a key final/…/day=YYYY-MM-DD/…, got {key!r}")
    return match["day"]
