"""
The page about drift, written from the code: `python -m services.extractor.drift_page > docs/drift.md`.

Which change of type is what is asked of the comparison itself. A test in `tests/house/` compares the page with the code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType

from services.extractor.dialects import DialectName
from services.extractor.dialects.registry import dialect_of
from services.extractor.drift import compare
from services.extractor.readers import SourceColumn
from shared.domain.contracts import (
    Column,
    ColumnType,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
)
from shared.domain.drift import HOLDING, Change, ChangeKind, EditKind
from shared.domain.windows import Schedule


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a change."""

    #: What changed, in people's words.
    what: str
    #: Of the batch, and of the rows it reads.
    batch: str
    #: Of files, partitions and tables that are there already, once it is accepted.
    after: str
    #: What `contract accept` writes.
    edit: str


_NOTHING = "nothing"
_TYPE_IN_PLACE = (
    "New files have the new type, old ones keep theirs. Native: the column is widened in place by the first batch of the "
    "new contract; anything else than a wider integer or decimal is held, `target_incompatible`. External, with a cursor: "
    "held, `target_incompatible`, since engines refuse partitions of two types, until `esclusa widen` has carried a wider "
    "integer or decimal to the older files; without a cursor: the next snapshot brings it"
)

FATES: Mapping[ChangeKind, Fate] = MappingProxyType(
    {
        ChangeKind.COLUMN_ADDED: Fate(
            "a new column",
            "goes on without it; logged, counted in `columns_withheld`, in the manifest and the evidence",
            "Once it has a mask that leaves: old rows have NULL in it until they change at the source",
            "the column with its type and `mask: withhold`, or the `--mask` given",
        ),
        ChangeKind.UNREAD_COLUMN_CHANGED: Fate(
            "a column that does not leave (`drop`, `withhold`) is gone or has another type",
            "goes on; such a column is not read",
            _NOTHING,
            "`source_type`; nothing if the column is gone, since its mask should hold if it comes back",
        ),
        ChangeKind.TYPE_WIDENED: Fate(
            "a type holds more, and the declared `type` holds all of it",
            "goes on; the same values as before have the same text, or the same value in a number or moment",
            "nothing: files and tables have the declared type",
            "`source_type`",
        ),
        ChangeKind.NULL_ALLOWED: Fate(
            "NULL is allowed where the contract says `nullable: false` (not told of key and cursor)",
            "goes on; rows with NULL there are rejected and counted, `null_not_allowed`, up to the table's limits",
            "nothing: rejected rows come with `esclusa quarantine replay --rejects`",
            "`nullable: true`",
        ),
        ChangeKind.FIELD_ABSENT: Fate(
            "REST: no record names a field",
            "goes on with NULL; such sources may leave out what is null, so only people know a rename",
            _NOTHING,
            _NOTHING,
        ),
        ChangeKind.COLUMN_MISSING: Fate(
            "a column that leaves is gone: dropped or renamed",
            "held; a new column of the same type is named as what it may be called now",
            "Its values stay in old files, partitions and the base table. The analysts' view does not show it any more. A "
            "renamed column is a new one: rows that do not change again have NULL in it",
            "the column is taken out; of key, cursor and soft deletes only a person can decide",
        ),
        ChangeKind.TYPE_OUTGROWN: Fate(
            "a type holds more than the declared `type`, or texts under a mask or in a string would change",
            "held",
            _TYPE_IN_PLACE,
            "`source_type`, and `type` if it cannot stay",
        ),
        ChangeKind.TYPE_NARROWED: Fate(
            "a type holds less than before",
            "held: values may have been cut, which no later batch shows",
            "nothing: files and tables have the declared type",
            "`source_type`",
        ),
        ChangeKind.TYPE_CHANGED: Fate(
            "another type",
            "held",
            _TYPE_IN_PLACE,
            "`source_type`, and `type` if it cannot stay; `mask: withhold` if no text of it is exact",
        ),
        ChangeKind.TYPE_NOT_CARRIED: Fate(
            "nothing changed, but the declared `type` does not hold the source's",
            "held",
            _TYPE_IN_PLACE,
            "`source_type` and `type`",
        ),
        ChangeKind.KEY_CHANGED: Fate(
            "no primary key or unique index lies within the contract's `key` any more (asked where `key_is_unique: true`)",
            "held: two rows would be taken for one",
            "Rows that were merged stay so. Another `key` needs another table: the native one cannot have doubles in it",
            "nothing: only a person can choose another key",
        ),
    }
)

#: Before, after, declared; under a mask of pseudonyms if it is said.
SAMPLES: Mapping[DialectName, Sequence[tuple[str, str, str, bool]]] = MappingProxyType(
    {
        DialectName.POSTGRESQL: (
            ("character varying(10)", "character varying(50)", "string", False),
            ("character varying(10)", "text", "string", True),
            ("integer", "bigint", "int64", False),
            ("integer", "bigint", "int32", False),
            ("integer", "bigint", "int32", True),
            ("numeric(10,2)", "numeric(12,2)", "decimal(12,2)", False),
            ("numeric(10,2)", "numeric(12,2)", "decimal(10,2)", False),
            ("numeric(10,2)", "numeric(12,4)", "decimal(38,6)", False),
            ("numeric(10,2)", "numeric(12,4)", "decimal(38,6)", True),
            ("numeric(10,2)", "numeric", "decimal(10,2)", False),
            ("timestamp(3) with time zone", "timestamp with time zone", "timestamptz", False),
            ("timestamp without time zone", "timestamp with time zone", "timestamp", False),
            ("integer[]", "bigint[]", "string", False),
            ("character(5)", "character varying(5)", "string", False),
            ("real", "double precision", "float64", False),
            ("public.order_status", "text", "string", False),
            ("json", "jsonb", "json", False),
            ("bigint", "integer", "int64", False),
            ("text", "character varying(10)", "string", False),
            ("integer", "text", "int32", False),
        ),
        DialectName.MYSQL: (
            ("int(11)", "bigint(20)", "int64", False),
            ("int(10) unsigned", "bigint(20)", "int64", False),
            ("int(11)", "int(10) unsigned", "int64", False),
            ("varchar(10)", "varchar(50)", "string", False),
            ("varchar(255)", "text", "string", False),
            ("datetime", "datetime(6)", "timestamp", False),
            ("enum('a','b')", "enum('a','b','c')", "string", False),
            ("enum('a','b')", "enum('b')", "string", False),
            ("decimal(10,2)", "decimal(12,2)", "decimal(10,2)", False),
        ),
        DialectName.SQLSERVER: (
            ("varchar(10)", "varchar(50)", "string", False),
            ("nvarchar(50)", "nvarchar(max)", "string", False),
            ("varchar(50)", "nvarchar(50)", "string", False),
            ("int", "bigint", "int64", False),
        ),
        DialectName.ORACLE: (
            ("VARCHAR2(10)", "VARCHAR2(50)", "string", False),
            ("VARCHAR2(10)", "NVARCHAR2(10)", "string", False),
            ("NUMBER(10,2)", "NUMBER(12,2)", "decimal(12,2)", False),
            ("VARCHAR2(10)", "LONG", "string", False),
        ),
        DialectName.SQLITE: (("VARCHAR(10)", "VARCHAR(50)", "string", False),),
    }
)

_PRODUCTS = {
    DialectName.POSTGRESQL: "PostgreSQL",
    DialectName.MYSQL: "MySQL and MariaDB",
    DialectName.SQLSERVER: "SQL Server",
    DialectName.ORACLE: "Oracle",
    DialectName.SQLITE: "SQLite",
}

_HEAD = """\
# Drift

Sources change under their contracts. Each batch compares the columns of its table with the contract it was planned under,
before the first row is read and again after the last. This page is written from the code
(`python -m services.extractor.drift_page`); why it is so: [decision 24](adr/0024-drift.md).

**The rule.** A change is applied by itself only if contract, files and warehouse stay exactly as they are and no value
changes. Everything else holds the table's batches, with a reason, the names of the columns, and an edit of the
source file proposed. What is not told below is held.

A contract never changes by itself: only its source file changes it, and only batches that are planned or replayed
afterwards have the new version.

## What to do

1. `esclusa quarantine list` or the alarm `batch_held` tells that batches are held for `column_missing` or `type_changed`;
   `esclusa quarantine show BATCH` shows what the source has otherwise.
2. `esclusa contract diff shop.orders` compares the source as it is now with the file, and the file with the ledger.
3. `esclusa contract accept shop.orders --dry-run` shows the edit. Without `--dry-run` it is written: comments and order stay. New
   columns are withheld, unless `--column NAME --mask keep` says otherwise.
4. `esclusa quarantine replay --source shop --table orders --reason type_changed` sends what is held on its way, under the new contract.

What is applied by itself is a note of `esclusa check`, a line of the log (`drift_applied`, `columns_unclassified`), and in `contract diff`
until the file says it too.
"""

_TAIL = """\
## What is not compared

Order of columns, defaults, indexes, constraints, comments, owners, collations, generated columns: they change no value. A
domain counts as the type below it. Labels of a PostgreSQL enum are no part of its name, so new ones arrive as they come. Whether
a table became a view is not asked. A column whose `source_type` the file leaves out may have any type that its `type` can carry.

Changes while a batch is read hold it with `schema_changed_during_read`: a replay reads it again.
"""


def render() -> str:
    """Return the page."""
    lines = [
        *_HEAD.splitlines(),
        "",
        "## Each change",
        "",
        *_fates("Applied by itself", [kind for kind in ChangeKind if kind not in HOLDING]),
        *_fates("Held", list(HOLDING)),
        "## Changes of types",
        "",
        "As the comparison itself answers them. *hmac*: the column leaves as a pseudonym, which is made of the value's text.",
        "",
    ]
    for dialect, samples in SAMPLES.items():
        lines += [
            f"**{_PRODUCTS[dialect]}**",
            "",
            "| before | after | `type` | | proposed |",
            "|---|---|---|---|---|",
        ]
        lines += [_sample_line(dialect, *sample) for sample in samples]
        lines.append("")
    lines += ["The words that SQLite has for types bind no value, so that any change of one is held.", ""]
    return "\n".join([*lines, *_TAIL.splitlines()]) + "\n"


def _fates(title: str, kinds: Sequence[ChangeKind]) -> list[str]:
    rows = [
        f"| `{kind}` | {FATES[kind].what} | {_batch_text(kind)} | {FATES[kind].edit} | {FATES[kind].after} |"
        for kind in kinds
    ]
    return [
        f"**{title}**",
        "",
        "| change | what | the batch | what `contract accept` writes | what is there already, after that |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _batch_text(kind: ChangeKind) -> str:
    text = FATES[kind].batch
    return text.replace("held", f"held, `{HOLDING[kind]}`", 1) if kind in HOLDING else text


def _sample_line(dialect: DialectName, before: str, after: str, declared: str, is_masked: bool) -> str:
    change = change_of(dialect, before, after, declared, is_masked=is_masked)
    fate = "held" if change.is_held else "applied"
    masked = " (hmac)" if is_masked else ""
    return (
        f"| `{before}` | `{after}` | `{declared}`{masked} | {fate}: `{change.kind}` | {_edit_text(change)} |"
    )


def _edit_text(change: Change) -> str:
    if change.edit is None or change.edit.kind is not EditKind.SET:
        return ""
    fields = [f"`{name}: {value}`" for name, value in change.edit.fields.items() if name != "source_type"]
    return ", ".join(fields) or "`source_type` alone"


def change_of(dialect: DialectName, before: str, after: str, declared: str, *, is_masked: bool) -> Change:
    """Return what the change of one type comes to."""
    mask = Mask(MaskKind.HMAC, domain="sample") if is_masked else Mask(MaskKind.KEEP)
    column = Column("sample", ColumnType.parse(declared), mask, source_type=before)
    contract = TableContract(
        origin=Origin("sample", SourceKind.POSTGRES, {}),
        table="sample",
        relation=("public", "sample"),
        columns=(column,),
        key=(),
        cursor=None,
        schedule=Schedule(timedelta(minutes=15), timedelta(hours=1), 24),
        publishing=Publishing(PublishMode.REPLACE),
    )
    found = [SourceColumn(column.name, after)]
    return compare(contract, found, types=dialect_of(dialect)).changes[0]


if __name__ == "__main__":
    print(render(), end="")
