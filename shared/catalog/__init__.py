"""
Sources as files: one YAML per source, read into contracts. `docs/sources.md` tells the format.

    catalog = load_sources(Path("sources"))
    for source in catalog.sources:
        source.contracts()

Every mistake of every file is reported at once, by file, line and field.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from shared.catalog.document import Document, parse_document, read_document
from shared.catalog.filling import fill
from shared.catalog.forms import (
    AnySourceForm,
    ColumnForm,
    DatabaseTableForm,
    OdbcSourceForm,
    PostgresSourceForm,
    RestColumnForm,
    RestSourceForm,
    RestTableForm,
    SqlalchemySourceForm,
    WholeOdbcSource,
    WholePostgresSource,
    WholeRestSource,
    WholeSqlalchemySource,
    check_name,
)
from shared.catalog.problems import Problem, SourceFilesInvalid, shown, suggestion
from shared.catalog.rules import TableDraft, check_source
from shared.catalog.translation import expected_by, source_limits, table_contract
from shared.domain.contracts import SourceKind, TableContract
from shared.domain.sources import SourceLimits
from shared.errors import SourceNotFound

__all__ = [
    "SCHEMA_FILE_NAME",
    "Catalog",
    "Problem",
    "Source",
    "SourceFilesInvalid",
    "json_schema",
    "load_sources",
    "read_edited",
    "read_sources",
    "write_json_schema",
]

#: Beside the source files, which name it in their first line for editors.
SCHEMA_FILE_NAME = "source.schema.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A source whose file is sound."""

    name: str
    kind: SourceKind
    file: Path
    tables: tuple[TableContract, ...]
    #: By so long after the end of a window its rows are expected in the warehouse, by table.
    expected_by: Mapping[str, timedelta]
    #: What the whole fleet may take of it.
    limits: SourceLimits

    def contracts(self) -> list[TableContract]:
        """Return the contracts of its tables, in the order of the file."""
        return list(self.tables)

    def references(self) -> list[str]:
        """Return every reference to a secret that the source needs, for `check`."""
        origin = self.tables[0].origin
        return [*origin.connection_references, *origin.mask_keys.values()]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a directory of source files says."""

    directory: Path
    sources: tuple[Source, ...]
    #: Mistakes. A source that has one is not among `sources`.
    problems: tuple[Problem, ...] = ()
    #: What is allowed and perhaps not meant: columns that nobody has classified.
    warnings: tuple[Problem, ...] = ()

    def source(self, name: str) -> Source:
        """
        Return a source by name.

        Raises:
            SourceNotFound: if there is none of that name.
        """
        for source in self.sources:
            if source.name == name:
                return source
        names = [source.name for source in self.sources]
        raise SourceNotFound(
            f"{self.directory}: expected one of the sources {', '.join(names) or '(none)'}, "
            f"found {shown(name)}{suggestion(name, names)}"
        )

    def contracts(self) -> list[TableContract]:
        """Return the contracts of all sources."""
        return [contract for source in self.sources for contract in source.tables]


def load_sources(directory: Path) -> Catalog:
    """
    Read every source file of a directory.

    Raises:
        SourceFilesInvalid: if any file has a mistake. The message lists all of all files.
    """
    catalog = read_sources(directory)
    if catalog.problems:
        raise SourceFilesInvalid(catalog.problems)
    return catalog


def read_sources(directory: Path) -> Catalog:
    """
    Read every source file of a directory, and keep the sound ones beside the mistakes of the others.

    For those who go on with the rest: a planner whose one source is being edited.
    """
    problems: list[Problem] = []
    read = [_read_document_of(file, read_document(file)) for file in _source_files(directory, problems)]
    return Catalog(
        directory,
        tuple(source for catalog in read for source in catalog.sources),
        (*problems, *(problem for catalog in read for problem in catalog.problems)),
        tuple(warning for catalog in read for warning in catalog.warnings),
    )


def read_edited(file: Path, text: str) -> Catalog:
    """Read a text as if it stood in a source file: what would become of an edit."""
    return _read_document_of(file, parse_document(text, file=str(file)))


def _read_document_of(file: Path, document: Document) -> Catalog:
    source = _read_source(file, document) if document.content else None
    problems = sorted(document.problems, key=lambda problem: problem.line)
    return Catalog(file.parent, (source,) if source else (), tuple(problems), tuple(document.warnings))


def _source_files(directory: Path, problems: list[Problem]) -> Iterator[Path]:
    if not directory.is_dir():
        problems.append(Problem(str(directory), 0, "", "a directory of source files", "none"))
        return
    files = sorted(file for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    problems += [
        Problem(str(file), 0, "", "a name that ends with .yaml", file.suffix)
        for file in files
        if file.suffix.lower() in {".yml", ".yaml"} and file.suffix != ".yaml"
    ]
    found = [file for file in files if file.suffix == ".yaml"]
    if not found:
        problems.append(Problem(str(directory), 0, "", "at least one source file, such as shop.yaml", "none"))
    yield from found


# ---- one file ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Forms:
    """The forms of a kind of source."""

    source: type[AnySourceForm]
    table: type[DatabaseTableForm] | type[RestTableForm]
    column: type[ColumnForm]


_FORMS = {
    SourceKind.POSTGRES: _Forms(PostgresSourceForm, DatabaseTableForm, ColumnForm),
    SourceKind.ODBC: _Forms(OdbcSourceForm, DatabaseTableForm, ColumnForm),
    SourceKind.SQLALCHEMY: _Forms(SqlalchemySourceForm, DatabaseTableForm, ColumnForm),
    SourceKind.REST: _Forms(RestSourceForm, RestTableForm, RestColumnForm),
}


def _read_source(file: Path, document: Document) -> Source | None:
    """Return the source of a file; None, and its problems in the document, if its kind is unknown."""
    content = dict(document.content)
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in set(SourceKind):
        document.report(("kind",), expected=" or ".join(SourceKind), found=shown(kind))
        return None
    forms = _FORMS[SourceKind(kind)]
    tables = content.pop("tables", None)
    source, wrong = fill(forms.source, content, at=(), document=document)
    if "name" not in wrong and source.name != file.stem:
        document.report(("name",), expected=f"the name of the file, {file.stem!r}", found=shown(source.name))
    read = [
        _read_table(name, table, forms, document) for name, table in _entries(("tables",), tables, document)
    ]
    drafts = [draft for draft in read if draft]
    check_source(source, wrong, drafts, document=document)
    if document.problems:
        return None
    contracts = tuple(
        table_contract(source, draft.name, draft.form, _sound(draft.columns)) for draft in drafts
    )
    return Source(
        source.name,
        SourceKind(source.kind),
        file,
        contracts,
        {draft.name: expected_by(draft.form, source.schedule) for draft in drafts},
        source_limits(source),
    )


def _read_table(name: str, content: object, forms: _Forms, document: Document) -> TableDraft | None:
    path = ("tables", name)
    if not isinstance(content, dict):
        document.report(path, expected="a mapping", found=shown(content))
        return None
    body = dict(content)
    columns = _entries((*path, "columns"), body.pop("columns", None), document)
    form, wrong = fill(forms.table, body, at=path, document=document)
    return TableDraft(
        name,
        form,
        wrong,
        {
            column: _read_column((*path, "columns", column), value, forms, document)
            for column, value in columns
        },
    )


def _read_column(
    path: tuple[str, ...], content: object, forms: _Forms, document: Document
) -> ColumnForm | None:
    column, wrong = fill(forms.column, content, at=path, document=document)
    is_mapping = content is None or isinstance(content, dict)
    return None if wrong or not is_mapping else column


def _entries(path: tuple[str, ...], content: object, document: Document) -> list[tuple[str, Any]]:
    """The named parts of a mapping that must not be empty, with their names checked."""
    if not isinstance(content, dict) or not content:
        document.report(path, expected=f"a mapping of {path[-1]} by name", found=shown(content or None))
        return []
    for name in content:
        try:
            check_name(name)
        except PydanticCustomError as error:
            context = error.context or {}
            found = context["found"] or shown(name)
            document.report((*path, name), expected=context["expected"], found=found)
    return list(content.items())


def _sound(columns: Mapping[str, ColumnForm | None]) -> dict[str, ColumnForm]:
    return {name: column for name, column in columns.items() if column}


# ---- the JSON Schema ---------------------------------------------------------------------------------------


class _PlainSchema(GenerateJsonSchema):
    """Without a title for each field: editors show the descriptions."""

    def field_title_should_be_set(self, schema: object) -> bool:  # noqa: ARG002 (asked by Pydantic)
        """Say no."""
        return False


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a source file."""
    whole: TypeAdapter[Any] = TypeAdapter(
        Annotated[
            WholePostgresSource | WholeOdbcSource | WholeSqlalchemySource | WholeRestSource,
            Field(discriminator="kind"),
        ]
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A source of Esclusa",
        **whole.json_schema(schema_generator=_PlainSchema),
    }


def write_json_schema(path: Path) -> None:
    """Write the JSON Schema for editors, always the same bytes for the same forms."""
    path.write_text(
        json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )
