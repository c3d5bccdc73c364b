"""
Names and texts as Redshift reads them. Nothing else quotes.

Source: Amazon Redshift Developer Guide, "Names and identifiers" and "Literals"; what it does not say is in docs/redshift.md.
"""

import hashlib
from collections.abc import Iterable

from shared.domain.reasons import Reason
from shared.errors import Refused

# Source: "Names and identifiers": 1 to 127 bytes; longer names are cut.
MAX_IDENTIFIER_BYTES = 127
#: A comment is for people. What it may hold is not documented.
MAX_COMMENT_CHARACTERS = 4_000

#: Columns that every table has already. The first are PostgreSQL 8.0's, on which Redshift stands, the last its own.
SYSTEM_COLUMNS = frozenset(
    {"oid", "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "insertxid", "deletexid"}
)


def folded(name: str) -> str:
    """
    Return a name as Redshift keeps it: it folds ASCII letters, even of quoted names.

    >>> folded("Order Ä")
    'order Ä'
    """
    return "".join(character.lower() if character.isascii() else character for character in name)


def quote_identifier(name: str) -> str:
    """
    Return a name folded and quoted, whatever is in it.

    >>> print(quote_identifier('We"ird; DROP TABLE x'))
    "we""ird; drop table x"

    Raises:
        Refused: TARGET_INCOMPATIBLE if Redshift has no such name: empty, too long, with characters that are not printed,
            or with capital letters that it is not documented to fold.
    """
    size = len(name.encode())
    if not 1 <= size <= MAX_IDENTIFIER_BYTES or not name.isprintable():
        raise _no_name(name, f"1 to {MAX_IDENTIFIER_BYTES} bytes of printable characters, found {size} bytes")
    if folded(name) != name.lower():
        raise _no_name(
            name, "capital letters of ASCII only: of others it is not said whether they are folded"
        )
    return '"' + folded(name).replace('"', '""') + '"'


def quote_found(name: str) -> str:
    """Return a name quoted as the catalogue has it: of a column that is there, or of a person."""
    return '"' + name.replace('"', '""') + '"'


def refuse_one_name_twice(names: Iterable[str], *, where: str) -> None:
    """
    Refuse columns whose names differ in case alone.

    Raises:
        Refused: TARGET_INCOMPATIBLE.
    """
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.get(name.lower())) is not None:
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{where}: columns {other!r} and {name!r} are one name in Redshift, which folds capital letters; rename "
                "one of them at the source, by a view, or publish to `external` only",
            )
        seen[name.lower()] = name


def quote_text(text: str) -> str:
    r"""
    Return a text as an expression that has no backslash in it.

    Redshift takes a backslash in a literal as an escape, and says so nowhere; so there never is one.

    >>> print(quote_text("it's"), quote_text("a\\b"))
    'it''s' 'a' || CHR(92) || 'b'

    Raises:
        ValueError: if there is a NUL in it, which no text of Redshift holds.
    """
    if "\0" in text:
        raise ValueError("a text with a NUL fits no VARCHAR")
    return " || CHR(92) || ".join("'" + part.replace("'", "''") + "'" for part in text.split("\\"))


def comment_text(text: str) -> str:
    r"""
    Return a text as a comment can hold it: COMMENT takes one literal, so a backslash becomes what looks like one.

    >>> print(comment_text("a\\b"))
    a⧵b
    """
    told = text.replace("\\", "\N{REVERSE SOLIDUS OPERATOR}").replace("\0", "")
    return told if len(told) <= MAX_COMMENT_CHARACTERS else told[: MAX_COMMENT_CHARACTERS - 1] + "…"


def short_digest(text: str) -> str:
    """Return what stands for a name that may be too long to be part of another."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _no_name(name: str, expected: str) -> Refused:
    return Refused(
        Reason.TARGET_INCOMPATIBLE,
        f"name {name!r}: expected {expected}; give it another name in the source's file or publish to `external` only",
    )
