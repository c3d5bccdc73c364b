"""
What Redshift says when a statement fails, in our own words.

Its texts may quote values of rows, above all those of COPY. Of a statement that touches rows only what is known to be
free of them goes on; the id of the query leads to the rest, in the warehouse's own records.
"""

import re
from dataclasses import dataclass

from services.publisher.redshift.plan import Found, Statement, found_by_guard
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, EsclusaError, Refused, Unavailable


class StatementFailed(EsclusaError):
    """The warehouse refused a statement, and everything of its transaction with it."""

    def __init__(self, statement: Statement, text: str, *, query_id: str) -> None:
        self.statement = statement
        self.text = text
        self.query_id = query_id
        super().__init__(f"{statement.name!r}: {told(statement, text)}, query {query_id}")

    @property
    def found(self) -> Found | None:
        """What a guard said, if the warehouse let it through."""
        return found_by_guard(self.text)


@dataclass(frozen=True, slots=True)
class _Known:
    """A piece of an error's text, and what it says without any value."""

    pattern: re.Pattern[str]
    told: str


def _known(pattern: str, told: str) -> _Known:
    return _Known(re.compile(pattern, re.IGNORECASE), told)


_CONFLICTS = (
    # Source: Amazon Redshift Developer Guide, "Serializable isolation": ERROR:1023.
    # A number alone may be a count, or a value.
    _known(r"error:?\s*1023\b|serializable isolation violation", "serialisation conflict (1023)"),
    _known(r"could not serialize access|sqlstate:?\s*40001\b", "serialisation conflict (40001)"),
    _known(r"deadlock detected|\b40P01\b", "deadlock (40P01)"),
    _known(
        r"concurrent transaction|concurrently updated|error:?\s*1018\b",
        "conflict with a concurrent transaction",
    ),
)
_RIGHTS = (
    _known(r"permission denied", "permission denied"),
    _known(r"must be owner", "not the owner"),
    _known(r"not authorized to (?:assume|get|perform)|AccessDenied|Access Denied", "access denied"),
)
_NEVER_FITS = (
    # Source: Amazon Redshift Developer Guide, "Troubleshooting queries in Amazon Redshift Spectrum".
    _known(r"incompatible Parquet schema", "the type of a column in the Parquet file is not the staged one"),
    _known(r"value too long|exceeds (?:the )?(?:DDL|column) length", "a value is too long for its column"),
    _known(r"numeric (?:data )?overflow|out of range", "a number is too large for its type"),
    _known(r"invalid JSON|JSON_PARSE", "a text is no JSON that SUPER takes"),
    _known(r"cannot drop .* because other objects depend|depends on", "something else depends on it"),
)
_OUTSIDE = (
    _known(r"different region|PermanentRedirect|must be addressed using", "the bucket is in another region"),
    _known(r"\b416\b|InvalidRange|invalid version number", "a file is not as long as the manifest says"),
    _known(r"\b404\b|NoSuchKey|does not exist in S3|file not found", "a file of the manifest is not there"),
    _known(r"disk full", "the disk is full"),
    _known(r"cancel", "it was cancelled"),
    _known(r"timeout|timed out", "it took too long"),
)


def is_conflict(error: StatementFailed) -> bool:
    """Return whether the same again may succeed at once: others were at the same rows."""
    return any(known.pattern.search(error.text) for known in _CONFLICTS)


def is_from_outside(error: StatementFailed) -> bool:
    """Return whether a statement could not be done at all, whatever it looked at."""
    return error.found is None and any(
        known.pattern.search(error.text) for known in (*_CONFLICTS, *_RIGHTS, *_OUTSIDE)
    )


def told(statement: Statement, text: str) -> str:
    """Return what may be told of an error."""
    if not statement.touches_rows:
        return " ".join(text.split())
    for known in (*_CONFLICTS, *_RIGHTS, *_NEVER_FITS, *_OUTSIDE):
        if known.pattern.search(text):
            return known.told
    return "an error whose text may quote rows and is not told; SYS_QUERY_HISTORY and SYS_LOAD_ERROR_DETAIL have it"


def translated(error: StatementFailed, *, where: str) -> EsclusaError:
    """Return an error as the port tells it: what happens next depends on its class."""
    message = f"warehouse, {where}: {error}"
    if any(known.pattern.search(error.text) for known in _RIGHTS):
        return ConfigurationError(f"{message}; grant it to the publisher's role, or to the role of COPY")
    if any(known.pattern.search(error.text) for known in _NEVER_FITS):
        return Refused(Reason.TARGET_INCOMPATIBLE, f"{where}: {error}")
    return Unavailable(message)
