"""
The format of a source file: one Pydantic form per part. The JSON Schema for editors is made from these.

Values reach the forms as text (see `document`). Forms check one value at a time; what values must be to
each other is in `rules`.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function

from shared.domain.contracts import (
    STRING,
    ColumnType,
    Content,
    MaskKind,
    Normalization,
    PublishMode,
    Target,
    Truncation,
)
from shared.domain.quiet_hours import QuietHours
from shared.secrets.reference import parse_reference

ONE_HOUR = timedelta(hours=1)
LONGEST_OVERLAP = timedelta(hours=24)
MAX_NAME_SIZE_IN_BYTES = 127


class Form(BaseModel):
    """A part of a source file."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    #: Fill required fields that are missing or wrong, so that the rest can be checked.
    stand_ins: ClassVar[Mapping[str, Any]] = {}
    #: Keys beside the fields, whose parts have forms of their own.
    named_parts: ClassVar[tuple[str, ...]] = ()


def _mistake(expected: str, *, found: str = "") -> PydanticCustomError:
    """An error whose `expected` is told as it is; without `found` the value itself is told."""
    return PydanticCustomError("mistake", "{expected}", {"expected": expected, "found": found})


# ---- single values -----------------------------------------------------------------------------------------

_DURATION = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>[smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def _duration(*, least: timedelta, most: timedelta, said: str) -> BeforeValidator:
    def parse(value: object) -> timedelta:
        match = _DURATION.fullmatch(value) if isinstance(value, str) else None
        duration = timedelta(seconds=int(match["number"]) * _SECONDS[match["unit"]]) if match else None
        if duration is None or not least <= duration <= most:
            raise _mistake(f"a duration such as 90s, 15m or 1h, {said}")
        return duration

    return BeforeValidator(parse)


_DURATION_SCHEMA = WithJsonSchema(
    {"type": "string", "pattern": "^[0-9]{1,6}[smh]$", "examples": ["90s", "15m", "1h"]}
)

Interval = Annotated[
    timedelta, _duration(least=timedelta(seconds=1), most=ONE_HOUR, said="from 1s to 1h"), _DURATION_SCHEMA
]
Patience = Annotated[
    timedelta,
    _duration(least=timedelta(seconds=1), most=timedelta(hours=168), said="from 1s to 168h"),
    _DURATION_SCHEMA,
]
Delay = Annotated[
    timedelta,
    _duration(least=timedelta(0), most=timedelta(hours=24), said="from 0s to 24h"),
    _DURATION_SCHEMA,
]


def _parse_quiet_hours(value: object) -> QuietHours:
    try:
        return QuietHours.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        raise _mistake(str(error).removeprefix("expected ")) from error


QuietHoursText = Annotated[
    QuietHours,
    BeforeValidator(_parse_quiet_hours),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": "^[0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9] \\S+$",
            "examples": ["22:00-06:00 Europe/Rome"],
        }
    ),
]


def _parse_overlap(value: object) -> timedelta | int:
    match = _OVERLAP.fullmatch(value) if isinstance(value, str) else None
    if match is not None:
        number, unit = int(match["number"]), match["unit"]
        if not unit:
            return number
        if (overlap := timedelta(seconds=number * _SECONDS[unit])) <= LONGEST_OVERLAP:
            return overlap
    raise _mistake(
        "a duration such as 90s, 15m or 1h, from 0s to 24h; or of a cursor that counts, a number such as 100"
    )


_OVERLAP = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>[smh]?)")

#: A duration, or of a cursor that counts a number.
Overlap = Annotated[
    timedelta | int,
    BeforeValidator(_parse_overlap),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]{1,6}[smh]$", "examples": ["0s", "5m"]},
                {"type": "integer", "minimum": 0, "maximum": 999_999_999},
            ]
        }
    ),
]


def _check_reference(text: str) -> str:
    """Accept only where a secret lies. The value is never told: it may be the secret itself."""
    try:
        parse_reference(text)
    except ValueError as error:
        expected = re.split(r"[,;] found ", str(error).removeprefix("expected "))[0]
        raise _mistake(
            expected, found="another text (not shown: a secret must not stand in this file)"
        ) from error
    return text


Reference = Annotated[
    str,
    AfterValidator(_check_reference),
    WithJsonSchema({"type": "string", "pattern": "^(env|file|secretsmanager|ssm):.+$"}),
]


def check_name(text: str) -> str:
    """Accept every name that PostgreSQL, a CRM and a warehouse can all have."""
    if not text.strip():
        raise _mistake("a name that is not empty")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise _mistake("a name without line breaks and control characters", found="one with them")
    if len(text.encode("utf-8", "surrogatepass")) > MAX_NAME_SIZE_IN_BYTES:
        raise _mistake(f"a name of at most {MAX_NAME_SIZE_IN_BYTES} bytes", found="a longer one")
    return text


#: Of a table or column. The longest name Redshift can have is 127 bytes.
#: Source: Amazon Redshift Database Developer Guide, "Names and identifiers".
Name = Annotated[str, AfterValidator(check_name)]


def _parse_type(value: object) -> ColumnType:
    try:
        return ColumnType.parse(value if isinstance(value, str) else "")
    except ValueError as error:
        expected = str(error).removeprefix("expected ").partition(", found")[0]
        if isinstance(value, str) and value.startswith("decimal(") and ")" not in value:
            expected += ' (between braces a comma needs quotes: "decimal(12,2)")'
        raise _mistake(expected) from error


ColumnTypeText = Annotated[
    ColumnType,
    BeforeValidator(_parse_type),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["string", "boolean", "int16", "int32", "int64", "float32", "float64", "date",
                          "timestamp", "timestamptz", "json", "binary"]},
                {"type": "string", "pattern": "^decimal\\([0-9]{1,2}, *[0-9]{1,2}\\)$"},
            ]
        }
    ),
]  # fmt: skip


def _split_relation(value: object) -> tuple[str, ...]:
    parts = value.split(".") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or len(parts) != 2 or not all(isinstance(p, str) for p in parts):
        raise _mistake(
            'schema and table, as public.orders; or as a list if a name has a dot: [public, "a.b"]'
        )
    for part in parts:
        check_name(part)
    return tuple(parts)


Relation = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_relation),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[^.]+\\.[^.]+$"},
                {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]

_URL_PATH = re.compile(r"/(?!/)[A-Za-z0-9._~!$&'()*+,;=:@%/-]*")


def _check_url_path(text: str) -> str:
    # Joined to the base URL: nothing in it may lead to another host.
    if not _URL_PATH.fullmatch(text) or ".." in text.split("/"):
        raise _mistake("a path below the base URL that begins with one slash, such as /v1/contacts")
    return text


UrlPath = Annotated[str, AfterValidator(_check_url_path)]

DottedPath = Annotated[str, Field(pattern=r"^[^\s.]+(\.[^\s.]+)*$", max_length=500)]
ParameterName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.$\[\]-]{1,100}$")]


class _OrNone:
    """Lets the word `none` say that there is none, in files and in the JSON Schema."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(
            lambda value: None if value == "none" else value, handler(source)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"anyOf": [{"const": "none"}, *handler(schema)["anyOf"]]}


# ---- a column ----------------------------------------------------------------------------------------------


KeyId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]


class HmacForm(Form):
    """A keyed pseudonym."""

    domain: str = Field(
        pattern=r"^[a-z][a-z0-9_.-]{0,62}$",
        description="Equal values of one domain get equal pseudonyms, across tables and sources of one key.",
    )
    normalize: Normalization = Field(
        Normalization.NONE, description="Brings e-mail addresses or phone numbers to one form first."
    )
    key_id: KeyId | None = Field(
        None, description="Under this key only, also while keys are rotated. By default under mask_key."
    )


_STEP = re.compile(r"(?=.*[1-9])(?:0|[1-9][0-9]{0,37})(?:\.[0-9]{1,38})?")


def _parse_step(value: object) -> Decimal:
    if not isinstance(value, str) or not _STEP.fullmatch(value):
        raise _mistake("a number above 0, such as 10 or 0.5")
    return Decimal(value)


Step = Annotated[
    Decimal, BeforeValidator(_parse_step), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
]


class MaskWord(StrEnum):
    """The masks that need no parameters."""

    KEEP = MaskKind.KEEP.value
    DROP = MaskKind.DROP.value
    WITHHOLD = MaskKind.WITHHOLD.value
    REDACT = MaskKind.REDACT.value
    LAST4 = MaskKind.LAST4.value


_MASKS_WITH_PARAMETERS = ("hmac", "constant", "truncate", "bucket")
_EXPECTED_MASK = (
    f"{', '.join(MaskWord)}, or {{hmac: {{domain: …}}}}, {{constant: …}}, {{truncate: …}}, {{bucket: …}}"
)


class MaskForm(Form):
    """What happens to a column: one word, or `{hmac: …}`, `{constant: …}`, `{truncate: …}`, `{bucket: …}`."""

    word: MaskWord | None = None
    hmac: HmacForm | None = None
    constant: Annotated[str, Field(max_length=1000)] | None = None
    truncate: Truncation | None = Field(
        None, description="Of a date or moment only this much leaves; the type stays."
    )
    bucket: Step | None = Field(
        None, description="A number leaves as the next multiple of this that is not above it; the type stays."
    )

    @model_validator(mode="before")
    @classmethod
    def _take_short_form(cls, value: object) -> object:
        if isinstance(value, str) and value in set(MaskWord):
            return {"word": value}
        if isinstance(value, dict) and len(value) == 1 and (value.keys() <= set(_MASKS_WITH_PARAMETERS)):
            (parameters,) = value.values()
            if parameters is not None:
                return value
        raise _mistake(_EXPECTED_MASK)

    @property
    def kind(self) -> MaskKind:
        """Which mask it is."""
        if self.word:
            return MaskKind(self.word)
        return next(MaskKind(name) for name in _MASKS_WITH_PARAMETERS if getattr(self, name) is not None)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        form = handler.resolve_ref_schema(handler(schema))
        objects = [
            {
                "type": "object",
                "properties": {name: _without_null(form["properties"][name])},
                "required": [name],
                "additionalProperties": False,
            }
            for name in _MASKS_WITH_PARAMETERS
        ]
        form.clear()
        return {"anyOf": [{"enum": list(MaskWord)}, *objects], "description": cls.__doc__}


def _without_null(schema: JsonSchemaValue) -> JsonSchemaValue:
    (given,) = (option for option in schema["anyOf"] if option.get("type") != "null")
    return {**given, **{name: schema[name] for name in ("description",) if name in schema}}


class ColumnForm(Form):
    """A column of a PostgreSQL table."""

    type: ColumnTypeText = Field(
        default_factory=lambda: STRING,
        description="The type of the values. Masked columns leave as strings, but for truncate and bucket.",
    )
    source_type: str = Field("", max_length=500, description="The source's own word for the type.")
    nullable: bool = Field(True, description="Whether the source may have NULL here.")
    content: Content = Field(
        Content.VALUE,
        description="free_text: what people wrote. It is dropped, withheld, redacted or constant.",
    )
    mask: MaskForm | None = Field(
        None, description="What happens to its values. Without one the column is withheld."
    )


class RestColumnForm(ColumnForm):
    """A column of a REST table."""

    path: DottedPath | None = Field(
        None, description="Where the value stands in a record: properties.email. Else the column's name."
    )


# ---- a table -----------------------------------------------------------------------------------------------


class CursorForm(Form):
    """The column that tells when a row last changed."""

    column: Name
    lag: Delay = Field(description="The newest rows are left alone for so long: transactions commit late.")
    overlap: Overlap = Field(
        description="Each window is read from so much before its start; of a column that counts, from so many numbers."
    )
    timezone: Literal["UTC"] | None = Field(
        None, description="Of a cursor without a zone. Only UTC: let a view convert others."
    )


class KeySweepForm(Form):
    """From time to time all keys are read; rows of others are deleted in the warehouse."""

    every: Annotated[
        timedelta,
        _duration(least=timedelta(seconds=1), most=timedelta(hours=720), said="from 1s to 720h"),
        _DURATION_SCHEMA,
    ] = Field(timedelta(hours=24), description="So often; 24h by default.")
    max_rows: Annotated[int, Field(ge=0, le=1_000_000_000_000)] = Field(
        1_000, description="More deletes than this and than max_ratio of the table are held for approval."
    )
    max_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.1, description="Of all rows: 0.1 is one in ten, and the default."
    )


class DeletesForm(Form):
    """How rows that are deleted at the source are told: by a column that is set then, or by reading all keys."""

    soft: Name | None = Field(None, description="The column that is set when its row is deleted.")
    sweep: KeySweepForm | None = None

    @model_validator(mode="after")
    def _take_one(self) -> Self:
        if (self.soft is None) == (self.sweep is None):
            raise _mistake(
                "{soft: column}, or {sweep: {every: 24h}}", found="both" if self.soft else "neither"
            )
        return self


class KeyRangesForm(Form):
    """Snapshots and key sweeps read the ranges of the key that changed, and take the rest over."""

    rows_per_range: Annotated[int, Field(ge=1, le=100_000_000)] = Field(
        10_000, description="About so many rows are compared at once; there are 4096 ranges at most."
    )


class PublishForm(Form):
    """What a batch does to the table that analysts see."""

    mode: PublishMode = Field(
        description="append adds rows, merge keeps the newest of each key, replace takes the batch as table."
    )
    target: Target = Field(Target.BOTH, description="An external table over S3, a native table, or both.")
    allow_empty: bool = Field(False, description="Whether a replace by zero rows is believed.")
    sort_key: tuple[Name, ...] = Field(
        (),
        description="Redshift: the columns that sort the native table; by default its cursor. Set once, at its making.",
    )
    dist_key: Name | None = Field(
        None,
        description="Redshift: the column that spreads the native table over the nodes; by default it chooses.",
    )


class QuarantineForm(Form):
    """How many rejected rows a batch may have and still be published. Both limits hold."""

    max_rejected_rows: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = Field(
        None, description="100 if neither the table nor the source says."
    )
    max_rejected_ratio: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Of all rows: 0.01 is one in a hundred, and the default."
    )


class ScheduleForm(Form):
    """How often a table is due."""

    every: Interval | None = Field(None, description="1h at most; 15m if neither table nor source says.")
    max_window: Interval | None = Field(
        None, description="A table that is behind is read in windows no longer than this. 1h by default."
    )
    catch_up_limit: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None, description="At most so many windows of a table are planned at once. 24 by default."
    )
    rows_per_part: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = Field(
        None, description="A first load is split into parts of about so many rows. 2000000 by default."
    )
    expected_by: Patience | None = Field(
        None,
        description="The rows of a window are expected in the warehouse by so long after its end; else an alarm is "
        "raised. By default twice `every`, plus the cursor's lag, plus 30m.",
    )


class TableForm(Form):
    """What tables of all kinds have."""

    stand_ins: ClassVar[Mapping[str, Any]] = {"publish": {"mode": "append"}}
    named_parts: ClassVar[tuple[str, ...]] = ("columns",)

    key: tuple[Name, ...] = Field((), description="The columns that tell one row from another.")
    cursor: Annotated[CursorForm | None, _OrNone()] = Field(
        None, description="Or none: then each batch is a snapshot of the whole table."
    )
    deletes: Annotated[DeletesForm | None, _OrNone()] = Field(
        None, description="Or none: deletes are not looked for. A replaced table loses them by itself."
    )
    publish: PublishForm
    schedule: ScheduleForm = Field(ScheduleForm(), description="Overrides the source's.")
    quarantine: QuarantineForm = Field(QuarantineForm(), description="Overrides the source's.")


class DatabaseTableForm(TableForm):
    """A table or view, or what a query gives."""

    relation: Relation | None = Field(None, description="Schema and name at the source.")
    query: str | None = Field(
        None,
        description="Instead of relation: one SELECT. :window_start and :window_end in it are bound as values of the "
        "cursor's type.",
    )
    key_ranges: KeyRangesForm | None = Field(
        None,
        description="Of a snapshot, and of a key sweep, only the ranges of the key are read that changed since the one "
        "before, by count and checksum.",
    )
    key_is_unique: bool = Field(
        False,
        description="Whether the source guarantees the key by a primary key or unique index. Batches are held once it no "
        "longer does: rows would be taken for one.",
    )


class Paging(StrEnum):
    """How a REST source gives its pages."""

    NONE = "none"
    #: By number: page=1, page=2, …
    PAGE = "page"
    #: By how many records to skip.
    OFFSET = "offset"
    #: By a word that the page before gave.
    CURSOR = "cursor"
    #: By the address that the page before gave.
    NEXT_LINK = "next_link"


class RestOptionsForm(Form):
    """How records are asked for and where they stand in the answer."""

    records_path: DottedPath | None = Field(
        None, description="Where the list of records stands. data by default."
    )
    total_path: DottedPath | None = Field(
        None, description="Where the answer says how many records there are in all; compared with those read."
    )
    paging: Paging = Paging.NONE
    page_parameter: ParameterName | None = Field(None, description="For paging: page.")
    first_page: Annotated[int, Field(ge=0, le=1)] | None = Field(None, description="0 or 1, the default.")
    offset_parameter: ParameterName | None = Field(None, description="For paging: offset.")
    cursor_parameter: ParameterName | None = Field(None, description="For paging: cursor.")
    cursor_path: DottedPath | None = Field(
        None, description="For paging: cursor. Where the next one stands in an answer."
    )
    next_link: DottedPath | None = Field(
        None, description="For paging: next_link. Where it stands in an answer, or `header` for Link."
    )
    size_parameter: ParameterName | None = Field(None, description="Asks for pages of page_size records.")
    page_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    after_parameter: ParameterName | None = Field(
        None, description="Records changed at or after this moment."
    )
    before_parameter: ParameterName | None = Field(None, description="Records changed before this moment.")
    order_parameter: ParameterName | None = None
    order_value: Annotated[str, Field(max_length=200)] | None = None


class RestTableForm(TableForm):
    """An endpoint that lists records."""

    stand_ins: ClassVar[Mapping[str, Any]] = {**TableForm.stand_ins, "path": "/"}

    path: UrlPath = Field(description="Below the base URL: /v1/contacts.")
    options: RestOptionsForm = RestOptionsForm()


# ---- a source ----------------------------------------------------------------------------------------------


class PostgresConnection(Form):
    """Where the connection string is kept."""

    dsn: Reference


class LimitsForm(Form):
    """What may be asked of a source of any kind."""

    max_concurrent_extracts: Annotated[int, Field(ge=1, le=1_000)] | None = Field(
        None, description="So many batches may be read from it at once, in the whole fleet. 4 by default."
    )
    max_connections: Annotated[int, Field(ge=4, le=10_000)] | None = Field(
        None,
        description="So many connections may be open to it at once, in the whole fleet and whoever opens them. Nobody counts "
        "them by default.",
    )
    rows_per_second: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        None,
        description="So many rows may be read from it, in the whole fleet. Each batch has an equal share, whether or "
        "not the other places are taken. No limit by default.",
    )
    deadline: Interval | None = Field(
        None, description="The reading of one batch is given up after so long. 10m by default."
    )
    quiet_hours: tuple[QuietHoursText, ...] = Field(
        (), description="No batch begins in these: 22:00-06:00 Europe/Rome."
    )


class DatabaseLimits(LimitsForm):
    """What the fleet, and one batch, may take of the source."""

    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        None, description="A statement that takes longer is cancelled."
    )


class Product(StrEnum):
    """Whose SQL a database speaks."""

    POSTGRESQL = "postgresql"
    #: MySQL and MariaDB.
    MYSQL = "mysql"
    SQLSERVER = "sqlserver"
    ORACLE = "oracle"
    SQLITE = "sqlite"


class Fetch(StrEnum):
    """How an ODBC driver is asked for rows."""

    #: Many at a time.
    BULK = "bulk"
    #: One by one, for drivers that cannot do otherwise.
    ROWS = "rows"


class OdbcConnection(Form):
    """Where the connection string is kept."""

    connection_string: Reference = Field(description="Of a DSN or of a driver: DSN=shop;UID=reader;PWD=…")
    fetch: Fetch | None = Field(
        None, description="rows, if the driver cannot give many at a time. bulk by default."
    )


class SqlalchemyConnection(Form):
    """Where the URL is kept."""

    url: Reference = Field(description="Such as mysql+pymysql://reader:…@host:3306/shop.")


class RestConnection(Form):
    """Where the address and the token are kept."""

    base_url: Reference = Field(description="All requests go to its scheme, host and port, and nowhere else.")
    token: Reference | None = Field(None, description="Sent as a bearer token.")


class RestLimits(LimitsForm):
    """What the fleet, and one batch, may take of the source."""

    requests_per_second: Annotated[float, Field(gt=0, le=10_000, allow_inf_nan=False)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] | None = Field(
        None, description="Of one request."
    )
    max_pages: Annotated[int, Field(ge=1)] | None = None
    max_rows: Annotated[int, Field(ge=1)] | None = None
    max_bytes: Annotated[int, Field(ge=1)] | None = None


class SourceForm(Form):
    """What sources of all kinds have."""

    stand_ins: ClassVar[Mapping[str, Any]] = {"name": "x", "kind": "postgres", "connection": {"dsn": "env:X"}}
    named_parts: ClassVar[tuple[str, ...]] = ("tables",)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,30}$", description="Equal to the file's name.")
    mask_key: Reference | None = Field(None, description="Where the key of the pseudonyms is kept.")
    mask_key_id: KeyId | None = Field(
        None, description="Recorded beside each pseudonymised column, never secret."
    )
    previous_mask_key: Reference | None = Field(
        None,
        description="The key before, while keys are rotated: pseudonyms under it are written beside the new ones.",
    )
    previous_mask_key_id: KeyId | None = Field(
        None, description="Its id; columns under it are called by their name, two underscores and this."
    )
    schedule: ScheduleForm = ScheduleForm()
    quarantine: QuarantineForm = QuarantineForm()


class PostgresSourceForm(SourceForm):
    """A PostgreSQL database."""

    kind: Literal["postgres"]
    connection: PostgresConnection
    limits: DatabaseLimits = DatabaseLimits()


class OdbcSourceForm(SourceForm):
    """Any database with an ODBC driver."""

    stand_ins: ClassVar[Mapping[str, Any]] = {
        **SourceForm.stand_ins,
        "kind": "odbc",
        "connection": {"connection_string": "env:X"},
        "dialect": "postgresql",
    }

    kind: Literal["odbc"]
    connection: OdbcConnection
    dialect: Product = Field(description="Whose SQL it speaks. mysql is MariaDB's too.")
    limits: DatabaseLimits = DatabaseLimits()


class SqlalchemySourceForm(SourceForm):
    """Any database with a driver for Python that SQLAlchemy knows."""

    stand_ins: ClassVar[Mapping[str, Any]] = {
        **SourceForm.stand_ins,
        "kind": "sqlalchemy",
        "connection": {"url": "env:X"},
        "dialect": "postgresql",
    }

    kind: Literal["sqlalchemy"]
    connection: SqlalchemyConnection
    dialect: Product = Field(description="Whose SQL it speaks. mysql is MariaDB's too.")
    limits: DatabaseLimits = DatabaseLimits()


class RestSourceForm(SourceForm):
    """A CRM or anything else that answers JSON over HTTP."""

    stand_ins: ClassVar[Mapping[str, Any]] = {
        **SourceForm.stand_ins,
        "kind": "rest",
        "connection": {"base_url": "env:X"},
    }

    kind: Literal["rest"]
    connection: RestConnection
    limits: RestLimits = RestLimits()


AnySourceForm = PostgresSourceForm | OdbcSourceForm | SqlalchemySourceForm | RestSourceForm


# ---- whole files, for the JSON Schema ----------------------------------------------------------------------


class WholeDatabaseTable(DatabaseTableForm):
    """A table or view, or what a query gives."""

    columns: dict[str, ColumnForm | None] = Field(min_length=1)


class WholePostgresSource(PostgresSourceForm):
    """A PostgreSQL database."""

    tables: dict[str, WholeDatabaseTable] = Field(min_length=1)


class WholeOdbcSource(OdbcSourceForm):
    """Any database with an ODBC driver."""

    tables: dict[str, WholeDatabaseTable] = Field(min_length=1)


class WholeSqlalchemySource(SqlalchemySourceForm):
    """Any database with a driver for Python that SQLAlchemy knows."""

    tables: dict[str, WholeDatabaseTable] = Field(min_length=1)


class WholeRestTable(RestTableForm):
    """An endpoint that lists records."""

    columns: dict[str, RestColumnForm | None] = Field(min_length=1)


class WholeRestSource(RestSourceForm):
    """A CRM or anything else that answers JSON over HTTP."""

    tables: dict[str, WholeRestTable] = Field(min_length=1)
