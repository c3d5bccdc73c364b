"""The contract of a table: its columns, their types and masks, its key, cursor and schedule, frozen by version."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Self

from shared.domain.source_queries import SourceQuery
from shared.domain.windows import Schedule


class ColumnKind(StrEnum):
    """The types a column can have from the contract on. Anything else is rendered as text by the source."""

    STRING = "string"
    BOOLEAN = "boolean"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    #: Exact, with precision and scale; at most 38 digits.
    DECIMAL = "decimal"
    DATE = "date"
    #: Without a zone, in microseconds.
    TIMESTAMP = "timestamp"
    #: A moment, in UTC and microseconds.
    TIMESTAMPTZ = "timestamptz"
    #: JSON as text.
    JSON = "json"
    BINARY = "binary"


MAX_DECIMAL_PRECISION = 38

_DECIMAL = re.compile(r"decimal\((?P<precision>[0-9]{1,2}),\s*(?P<scale>[0-9]{1,2})\)")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A kind, and for decimals their digits."""

    kind: ColumnKind
    precision: int | None = None
    scale: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read a type as it stands in a source file.

        >>> str(ColumnType.parse("decimal(12, 2)"))
        'decimal(12,2)'

        Raises:
            ValueError: if it is none of the kinds, or a decimal without possible digits.
        """
        if match := _DECIMAL.fullmatch(text):
            precision, scale = int(match["precision"]), int(match["scale"])
            if not (1 <= precision <= MAX_DECIMAL_PRECISION and scale <= precision):
                raise ValueError(f"expected decimal(1 to 38 digits, scale up to the digits), found {text!r}")
            return cls(ColumnKind.DECIMAL, precision, scale)
        plain = [kind for kind in ColumnKind if kind is not ColumnKind.DECIMAL]
        if text not in plain:
            raise ValueError(
                f"expected one of {', '.join(plain)} or decimal(precision,scale), found {text!r}"
            )
        return cls(ColumnKind(text))

    def widens(self, other: "ColumnType") -> bool:
        """
        Return whether a column of another type can become one of this type without any value changing.

        Of integers, and of decimals by their digits before and behind the point. It is what tables are widened by,
        native ones in place and external ones by writing their files anew.

        >>> ColumnType.parse("int64").widens(ColumnType.parse("int32"))
        True
        >>> ColumnType.parse("decimal(12,4)").widens(ColumnType.parse("decimal(12,2)"))
        False
        """
        if self.kind in _INTEGERS and other.kind in _INTEGERS:
            return _INTEGERS.index(self.kind) > _INTEGERS.index(other.kind)
        if self.kind is not ColumnKind.DECIMAL or other.kind is not ColumnKind.DECIMAL or self == other:
            return False
        more_scale = (self.scale or 0) - (other.scale or 0)
        return more_scale >= 0 and (self.precision or 0) - (other.precision or 0) >= more_scale

    def __str__(self) -> str:
        if self.kind is ColumnKind.DECIMAL:
            return f"decimal({self.precision},{self.scale})"
        return str(self.kind)


#: From the narrowest to the widest.
_INTEGERS = (ColumnKind.INT16, ColumnKind.INT32, ColumnKind.INT64)

STRING = ColumnType(ColumnKind.STRING)


class MaskKind(StrEnum):
    """What happens to a column before its first durable byte."""

    #: It leaves as it is: somebody decided that it holds nothing personal.
    KEEP = "keep"
    #: It never leaves: somebody decided so.
    DROP = "drop"
    #: It never leaves: nobody has decided yet.
    WITHHOLD = "withhold"
    #: It leaves as a keyed pseudonym, joinable under one key and domain.
    HMAC = "hmac"
    #: Every value leaves as one fixed word; NULL stays NULL.
    REDACT = "redact"
    #: Only the last four characters leave; the others become `*`.
    LAST4 = "last4"
    #: Every value leaves as one given text; NULL stays NULL.
    CONSTANT = "constant"
    #: Of a date or moment only the year, month, day or hour leaves; the type stays.
    TRUNCATE = "truncate"
    #: A number leaves as the next multiple of a step that is not above it; the type stays.
    BUCKET = "bucket"


class Truncation(StrEnum):
    """The smallest part of a date or moment (in UTC) that leaves; what is below becomes its first."""

    YEAR = "year"
    MONTH = "month"
    DAY = "day"
    HOUR = "hour"


class Content(StrEnum):
    """What the values of a column are, as far as it bears on masks."""

    #: One thing each: a name, an address, a number.
    VALUE = "value"
    #: What people wrote: it may name anybody and say anything of them.
    FREE_TEXT = "free_text"


#: What may leave of free text. A pseudonym would stand for a whole letter and join nothing, and who can guess the letter
#: proves it; the last four characters are a piece of it.
MASKS_OF_FREE_TEXT = frozenset({MaskKind.DROP, MaskKind.WITHHOLD, MaskKind.REDACT, MaskKind.CONSTANT})


class Normalization(StrEnum):
    """How values are brought to one form before a pseudonym is made of them."""

    NONE = "none"
    #: Surrounding white space goes, letters become small.
    EMAIL = "email"
    #: Only digits and a leading `+` stay; a leading `00` becomes `+`.
    PHONE = "phone"


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask and its parameters. `domain`: pseudonyms are equal for equal values of one domain only."""

    kind: MaskKind
    domain: str = ""
    normalization: Normalization = Normalization.NONE
    constant: str = ""
    #: The id of the key of a pseudonym.
    key_id: str = ""
    truncation: Truncation | None = None
    #: The step of `bucket`.
    step: Decimal | None = None

    @property
    def leaves(self) -> bool:
        """Whether the column is in the files at all."""
        return self.kind not in {MaskKind.DROP, MaskKind.WITHHOLD}

    @property
    def changes_values(self) -> bool:
        """Whether values leave in another form than the source has them."""
        return self.leaves and self.kind is not MaskKind.KEEP

    @property
    def keeps_type(self) -> bool:
        """Whether what leaves still has the type of the values."""
        return self.kind in {MaskKind.KEEP, MaskKind.TRUNCATE, MaskKind.BUCKET}

    def __str__(self) -> str:
        """
        Tell the mask as people read it; nothing in it is secret.

        >>> str(Mask(MaskKind.HMAC, domain="email", key_id="k2"))
        'hmac of email, key k2'
        """
        match self.kind:
            case MaskKind.HMAC:
                return f"{self.kind} of {self.domain}, key {self.key_id}"
            case MaskKind.TRUNCATE:
                return f"{self.kind} to {self.truncation}"
            case MaskKind.BUCKET:
                return f"{self.kind} of {self.step}"
        return str(self.kind)


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the contract freezes it."""

    name: str
    #: What the values are; under most masks they leave as strings whatever it is.
    type: ColumnType
    mask: Mask
    nullable: bool = True
    #: The source's own word for the type, part of the schema fingerprint.
    source_type: str = ""
    #: For REST sources: where the value stands in a record, such as `properties.email`.
    path: str = ""
    content: Content = Content.VALUE
    #: The column whose values it is made of; empty for one that stands at the source under its own name.
    made_from: str = ""

    @property
    def leaves(self) -> bool:
        """Whether the column is in the files."""
        return self.mask.leaves

    @property
    def output_type(self) -> ColumnType:
        """The type in the files."""
        return self.type if self.mask.keeps_type else STRING


@dataclass(frozen=True, slots=True)
class Cursor:
    """The column that tells when a row last changed."""

    column: str
    #: The newest rows are left alone for so long, for transactions that commit late.
    lag: timedelta
    #: Each window is read from so much before its start; doubles are merged away by key.
    overlap: timedelta
    #: The same for a cursor that counts: by so many numbers.
    overlap_count: int = 0


#: The kinds of numbers that a cursor can count in.
COUNTING_KINDS = frozenset({ColumnKind.INT16, ColumnKind.INT32, ColumnKind.INT64})
#: The kinds of moments.
MOMENT_KINDS = frozenset({ColumnKind.TIMESTAMP, ColumnKind.TIMESTAMPTZ})
#: The kinds of columns that can be a cursor.
CURSOR_KINDS = COUNTING_KINDS | MOMENT_KINDS | {ColumnKind.DATE}


class CursorScale(StrEnum):
    """What the values of a cursor are."""

    #: Moments, with or without a zone.
    MOMENT = "moment"
    #: Days, of which the last one is never over before midnight in UTC.
    DAY = "day"
    #: Numbers that only grow, such as those of a sequence or a row version. They tell the order, and no time.
    COUNT = "count"


class PublishMode(StrEnum):
    """What a batch does to its target table."""

    #: Every row of a batch is added.
    APPEND = "append"
    #: The newest version of each key stays.
    MERGE = "merge"
    #: The batch is the table.
    REPLACE = "replace"


class Target(StrEnum):
    """What analysts get."""

    #: An external table over `final/`.
    EXTERNAL = "external"
    #: A native table in the warehouse.
    NATIVE = "native"
    BOTH = "both"


class DeleteMode(StrEnum):
    """How rows that were deleted at the source are handled."""

    #: Deletes are not looked for. A replaced table loses them by itself.
    NONE = "none"
    #: A column says when the row was deleted; the analysts' view hides such rows.
    SOFT = "soft"
    #: From time to time all keys of the source are read; rows of others are deleted in the warehouse.
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class Deletes:
    """How deletes arrive. `column` is set for `soft` only, the others count for `sweep` only."""

    mode: DeleteMode = DeleteMode.NONE
    column: str = ""
    #: So often the keys are read.
    every: timedelta = timedelta(hours=24)
    #: More deletes at once than both are held until somebody approves them.
    max_rows: int = 1_000
    max_ratio: float = 0.1

    def is_burst(self, *, deleted: int, total: int) -> bool:
        """Return whether so many deletes, of so many rows, are too many to be believed."""
        return deleted > self.max_rows and deleted > self.max_ratio * total


@dataclass(frozen=True, slots=True)
class Publishing:
    """Mode and target."""

    mode: PublishMode
    target: Target = Target.BOTH
    #: Whether a replace by zero rows is believed.
    allow_empty: bool = False
    #: The columns by which a warehouse that has such keys sorts the native table; the cursor if there are none.
    sort_key: tuple[str, ...] = ()
    #: The column by which a warehouse of several nodes spreads the native table; empty if it is to choose itself.
    dist_key: str = ""


@dataclass(frozen=True, slots=True)
class QuarantineLimits:
    """How many rejected rows a batch may have and still be published. Both hold."""

    max_rejected_rows: int = 100
    max_rejected_ratio: float = 0.01

    def allow(self, *, rejected: int, total: int) -> bool:
        """Return whether a batch of so many rows may go on with so many rejected."""
        return rejected <= self.max_rejected_rows and rejected <= self.max_rejected_ratio * total


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """How a table that is read whole is compared with what was read before, range of keys by range of keys."""

    #: About so many rows are compared at once.
    rows_per_range: int = 10_000


class SourceKind(StrEnum):
    """What reads a source."""

    #: PostgreSQL, natively.
    POSTGRES = "postgres"
    #: Any database with an ODBC driver.
    ODBC = "odbc"
    #: Any database with a driver for Python that SQLAlchemy knows.
    SQLALCHEMY = "sqlalchemy"
    #: JSON over HTTP.
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Origin:
    """How a source is reached. Every secret is a reference, such as `secretsmanager:name#field`."""

    source: str
    kind: SourceKind
    #: Settings of the source's kind: `dsn` for PostgreSQL; `connection_string` or `url`, and `dialect`, for other
    #: databases; `base_url`, `token` and limits for REST.
    connection: Mapping[str, str]
    #: The keys of pseudonyms, by id: one, and while keys are rotated the one before too.
    mask_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def connection_references(self) -> tuple[str, ...]:
        """Of the connection, what refers to a secret."""
        names = ("dsn", "connection_string", "url", "base_url", "token")
        return tuple(self.connection[name] for name in names if name in self.connection)


@dataclass(frozen=True, slots=True)
class TableContract:
    """Everything an attempt needs to know of a table."""

    origin: Origin
    #: The name by which the table is known from here on.
    table: str
    #: Schema and name at the source; for REST the path alone; empty if a query is read.
    relation: tuple[str, ...]
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    cursor: Cursor | None
    schedule: Schedule
    publishing: Publishing
    deletes: Deletes = Deletes()
    limits: QuarantineLimits = QuarantineLimits()
    #: Whether the source itself is to guarantee that the key tells rows apart. Nothing is read once it does not.
    key_is_unique: bool = False
    #: For REST: paging, record path, filter parameters.
    options: Mapping[str, str] = field(default_factory=dict)
    #: For databases: what is read in the place of a table.
    query: SourceQuery | None = None
    #: For databases: of a snapshot, and of a key sweep, only the ranges that changed are read.
    key_ranges: KeyRanges | None = None

    @property
    def source(self) -> str:
        """The name of the source."""
        return self.origin.source

    @property
    def origin_name(self) -> str:
        """How its source is told to call it: by schema and table, or the query by the table's own name."""
        return ".".join(self.relation) if self.query is None else f"query of {self.table}"

    @property
    def output_columns(self) -> tuple[Column, ...]:
        """The columns that are in the files, in their order."""
        return tuple(column for column in self.columns if column.leaves)

    @property
    def read_columns(self) -> tuple[Column, ...]:
        """The columns that are read from the source, in their order. The others of the files are made from them."""
        return tuple(column for column in self.output_columns if not column.made_from)

    @property
    def range_column(self) -> str | None:
        """The first column of the key that is a whole number and leaves as it is; None if there is none."""
        for name in self.key:
            column = self.column(name)
            if column.type.kind in COUNTING_KINDS and column.mask.kind is MaskKind.KEEP:
                return name
        return None

    @property
    def is_read_by_ranges(self) -> bool:
        """Whether a batch reads the whole table, and of that the ranges that changed."""
        return self.key_ranges is not None and self.cursor is None and self.range_column is not None

    @property
    def cursor_scale(self) -> CursorScale | None:
        """What the values of the cursor are; None without one."""
        if self.cursor is None:
            return None
        kind = self.column(self.cursor.column).type.kind
        if kind in COUNTING_KINDS:
            return CursorScale.COUNT
        return CursorScale.DAY if kind is ColumnKind.DATE else CursorScale.MOMENT

    def column(self, name: str) -> Column:
        """
        Return a column by name.

        Raises:
            KeyError: if the contract has none of that name.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def in_types_of(self, newer: "TableContract") -> Self:
        """
        Return this contract with the wider types that a newer one has of its columns; all else stays.

        By it a file is written and read that holds rows of this contract in the types of the newer one. A column is the
        same whatever the case of its name, as it is to engines that read Parquet.
        """
        types = {column.name.lower(): column.output_type for column in newer.output_columns}
        columns = tuple(
            replace(column, type=type_)
            if column.leaves
            and (type_ := types.get(column.name.lower()))
            and type_.widens(column.output_type)
            else column
            for column in self.columns
        )
        return replace(self, columns=columns)


def keys_of(contract: TableContract) -> TableContract:
    """
    Return the contract under which a key sweep reads a table: all rows, and of each the key alone.

    The other columns are known and dropped. No row may be rejected: its key would be missing, and the row be taken for
    deleted. Nothing goes to the lake.
    """
    return replace(
        contract,
        columns=tuple(
            column if column.name in contract.key else replace(column, mask=Mask(MaskKind.DROP))
            for column in contract.columns
        ),
        cursor=None,
        publishing=Publishing(PublishMode.MERGE, Target.NATIVE),
        limits=QuarantineLimits(max_rejected_rows=0, max_rejected_ratio=0),
    )


def have_same_keys(one: TableContract, other: TableContract) -> bool:
    """Return whether a row has the same key under both, as it leaves: of the same columns, under the same masks."""
    keys = [{name: contract.column(name).mask for name in contract.key} for contract in (one, other)]
    return keys[0] == keys[1]


@dataclass(frozen=True, slots=True)
class KeySweep:
    """What a key sweep has to know beside the contract of the keys alone."""

    #: The table's: rows may come so long after the end of the windows that it is compared with.
    lag: timedelta
    #: The versions of the contract under which rows have the same keys. Of those of others it says nothing.
    versions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ContractVersion:
    """A contract as the ledger keeps it."""

    version: int
    #: Of the contract's canonical JSON.
    sha256: str
    contract: TableContract


@dataclass(frozen=True, slots=True)
class MaskEvidence:
    """What was done to one column of one attempt: the proof that security asks for."""

    batch_id: str
    attempt: int
    column: str
    mask: MaskKind
    #: Empty for masks without a key.
    key_id: str
    #: Values that left masked; NULLs are not counted. 0 for columns that did not leave.
    masked_value_count: int
