"""
The source file that a discovery writes.

Every table and column stands in it with its type and fate. It errs on the side of silence: only columns of
types that can hardly hold a person (numbers, moments, booleans, enums, keys) are preset to `keep`, everything
else to `withhold` with the reason beside it. Values are looked at and never written.
"""

import re
from collections.abc import Mapping, Sequence

from services.extractor.discovery.proposals import DiscoveredColumn, DiscoveredTable, RefusedTable
from shared.catalog import SCHEMA_FILE_NAME
from shared.catalog.editing import scalar
from shared.errors import ConfigurationError
from shared.secrets.reference import parse_reference


def check_names(source: str, *references: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", source):
        raise ConfigurationError(
            f"expected a source name of small letters, digits and _ (up to 31), found {source[:60]!r}"
        )
    for reference in references:
        try:
            parse_reference(reference)
        except ValueError as error:
            raise ConfigurationError(f"source {source}: {error}") from None


def render(
    source: str,
    *,
    kind: str,
    dialect: str = "",
    connection: Mapping[str, str],
    tables: Sequence[DiscoveredTable],
    refused: Sequence[RefusedTable],
) -> str:
    kept = sum(column.is_kept for table in tables for column in table.columns)
    total = sum(len(table.columns) for table in tables)
    lines = [
        f"# yaml-language-server: $schema={SCHEMA_FILE_NAME}",
        "#",
        f"# Written by `esclusa discover {source}`. {kept} of {total} columns are preset to keep,",
        '# the others are withheld until you give them a mask: keep, drop, redact, last4, {constant: "…"},',
        "# {truncate: month}, {bucket: 10} or {hmac: {domain: …}}, which needs mask_key and mask_key_id.",
        "# Look at the kept ones too.",
        f"name: {source}",
        f"kind: {kind}",
        *([f"dialect: {dialect}"] if dialect else []),
        "connection:",
        *(f"  {name}: {scalar(reference)}" for name, reference in connection.items()),
        "# mask_key: secretsmanager:esclusa/mask#k1",
        "# mask_key_id: k1",
        "schedule: {every: 15m, max_window: 1h, catch_up_limit: 24}",
        "quarantine: {max_rejected_rows: 100, max_rejected_ratio: 0.01}",
        "",
        *_refused_lines(refused),
        "tables:",
    ]
    for table in tables:
        lines += _table_lines(table)
    return "\n".join(lines) + "\n"


def _refused_lines(refused: Sequence[RefusedTable]) -> list[str]:
    if not refused:
        return []
    return ["# Not taken in:", *(f"#   {scalar(table.name)}: {table.why}" for table in refused), ""]


def _table_lines(table: DiscoveredTable) -> list[str]:
    withheld = [name for name in table.key if not table.kept(name)]
    lines = [f"  {scalar(table.name)}:", *(f"    # {_comment(remark)}" for remark in table.remarks)]
    lines += [f"    {line}" for line in table.place]
    if not any(column.is_kept for column in table.columns):
        lines.append("    # EDIT: every column is withheld; the file is refused until one leaves.")
    lines += ["    columns:", *(f"      {_column_line(column)}" for column in table.columns)]
    if withheld:
        lines.append(
            f"    # EDIT: {', '.join(map(scalar, withheld))} is withheld; the file is refused "
            "until each key column is kept or masked by hmac."
        )
    lines.append(f"    key: [{', '.join(map(scalar, table.key))}]")
    if table.key_is_unique:
        lines.append("    key_is_unique: true")
    if table.cursor:
        lines += [
            "    # The lag must be longer than the longest transaction that writes this table.",
            f"    cursor: {{column: {scalar(table.cursor)}, lag: 1m, overlap: 5m}}",
        ]
    else:
        missing = "no column that tells of every change was found" if table.key else "no key was found"
        lines += [f"    # {missing}: each batch reads the whole table.", "    cursor: none"]
    if table.deleted_column:
        lines.append(f"    deletes: {{soft: {scalar(table.deleted_column)}}}")
    lines += [f"    publish: {{mode: {'merge' if table.cursor else 'replace'}, target: both}}", ""]
    return lines


def _column_line(column: DiscoveredColumn) -> str:
    parts = {
        "path": column.path,
        "source_type": column.source_type,
        "type": str(column.type),
        "content": "free_text" if column.is_free_text else "",
        "mask": "keep" if column.is_kept else "withhold",
    }
    fields = [f"{name}: {scalar(value)}" for name, value in parts.items() if value]
    if not column.nullable:
        fields.insert(-1, "nullable: false")
    remark = f"  # {_comment(column.why)}" if column.why else ""
    return f"{scalar(column.name)}: {{{', '.join(fields)}}}{remark}"


def _comment(text: str) -> str:
    """Keep a comment on its line, whatever a source calls its types."""
    return "".join(character if character.isprintable() else "?" for character in text)
