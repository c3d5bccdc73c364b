"""
The one CSV dialect of Esclusa: what PostgreSQL's `COPY … (FORMAT csv)` writes and Polars reads as all-String.

An unquoted empty field is NULL, `""` is the empty string, `NULL` is four letters. A line break inside quotes
belongs to the value, so records and lines are two things. `docs/adr/0004-csv-dialect.md` says why.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

DELIMITER = ","
QUOTE = '"'
RECORD_TERMINATOR = "\n"
ENCODING = "utf-8"

#: How the manifest of a batch describes its files.
DIALECT: Mapping[str, str] = MappingProxyType(
    {
        "name": "esclusa-csv-1",
        "encoding": ENCODING,
        "delimiter": DELIMITER,
        "quote": QUOTE,
        "escape": QUOTE * 2,
        "record_terminator": RECORD_TERMINATOR,
        "null": "",
        "empty_string": QUOTE * 2,
        "header": "quoted",
    }
)

_NEEDS_QUOTES = frozenset({DELIMITER, QUOTE, "\n", "\r"})


def header_line(names: Iterable[str]) -> bytes:
    """
    Return the first line of a file: every name in quotes, whatever it is.

    >>> header_line(["id", 'the "best" one'])
    b'"id","the ""best"" one"\\n'
    """
    return _record(_quoted(name) for name in names)


def record_line(values: Iterable[str | None]) -> bytes:
    """
    Return one record, with quotes where they are needed and nowhere else, as COPY writes it.

    A record of one NULL is an empty line. It is a record all the same.

    >>> record_line(["a", None, "", "NULL", "b,c"])
    b'a,,"",NULL,"b,c"\\n'

    Raises:
        UnicodeEncodeError: if a value holds half of a surrogate pair, which no UTF-8 can say.
    """
    return _record(_field(value) for value in values)


def _record(fields: Iterable[str]) -> bytes:
    return (DELIMITER.join(fields) + RECORD_TERMINATOR).encode(ENCODING)


def _field(value: str | None) -> str:
    if value is None:
        return ""
    if not value or not _NEEDS_QUOTES.isdisjoint(value):
        return _quoted(value)
    return value


def _quoted(value: str) -> str:
    return QUOTE + value.replace(QUOTE, QUOTE * 2) + QUOTE
