"""
What may stand in a log line: nothing secret, nothing endless, nothing that cannot be written as JSON.

This is the net under the rope. The rule is that nobody hands a secret to a logger; but a driver's error message may
quote a DSN, and a library may log the header of a request.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from itertools import islice
from typing import Final, TypeAlias

REDACTED: Final = "***"

#: Longer text is cut, and says how long it was.
MAX_TEXT_CHARACTERS: Final = 4_000
MAX_ITEMS: Final = 50
MAX_DEPTH: Final = 8
#: What is read of a text before it is cut, so that a secret across the cut is still recognised.
_READ_CHARACTERS: Final = MAX_TEXT_CHARACTERS + 2_000

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"

_TELLTALE: Final = (
    r"(?:pass(?:word|wd|phrase)|pwd|secret(?!smanager)|token|dsn|credential|authorization|cookie|signature"
    r"|(?:api|access|private|mask|encryption)[_-]?key|key[_-]?material|connection[_-]?string)"
)
_SECRET_KEY: Final = re.compile(_TELLTALE, re.IGNORECASE)
#: Fields about a secret that are not the secret: `mask_key_id`, `secret_reference`.
_HARMLESS_KEY: Final = re.compile(r"(?:_id|_ids|_reference|_count|_name|_seconds)$", re.IGNORECASE)

#: What every pattern below needs one of. Most texts are names and ids, and have none.
_SUSPICIOUS: Final = re.compile(r"[:=\s]")

_QUOTED_OR_WORD: Final = r"""(?:'[^']*'?|"[^"]*"?|\{[^}]*\}?|[^\s;,&'"{}]+)"""
_SECRETS_IN_TEXT: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    # A DSN or URL with a user: everything up to the last @. Keys of S3 may hold an @ and stay.
    (
        re.compile(r"(?<![a-z0-9+.-])(?!s3://)([a-z][a-z0-9+.-]{1,30}://)[^\s\"'<>]*@", re.IGNORECASE),
        rf"\1{REDACTED}@",
    ),
    # As above, but its end was not read.
    (
        re.compile(
            r"(?<![a-z0-9+.-])(?!s3://)([a-z][a-z0-9+.-]{1,30}://)[^\s\"'<>/@]*:[^\s\"'<>/@]{20,}$",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    # The keywords of libpq, ODBC, query strings, headers and JSON. A reference that tells where a secret lies stays.
    (
        re.compile(
            r"(?P<kept>\b(?:env|file|secretsmanager|ssm):[\w/#.@+-]++(?!\s*=)"
            rf"|(?P<name>{_TELLTALE}[\w-]{{0,40}}[\"']?\s{{0,3}}[=:]\s{{0,3}}))"
            rf"(?(name)(?:(?:bearer|basic)\s+)?{_QUOTED_OR_WORD})",
            re.IGNORECASE,
        ),
        lambda found: found["kept"] + (REDACTED if found["name"] else ""),
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{REDACTED}"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
        REDACTED,
    ),
)


def harmless(value: object, *, key: str = "", depth: int = 0) -> Json:
    """
    Return a value as JSON that may be logged. Never raises, whatever it is given.

    >>> harmless({"dsn": "x", "detail": "cannot reach postgresql://reader:pw@db/shop", "rows": 3})
    {'dsn': '***', 'detail': 'cannot reach postgresql://***@db/shop', 'rows': 3}
    """
    if value is None or isinstance(value, bool):
        return value
    if _SECRET_KEY.search(key) and not _HARMLESS_KEY.search(key):
        return REDACTED
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return harmless_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _harmless_items(value, depth=depth)
    return harmless_text(_text_of(value))


def harmless_text(text: str) -> str:
    """Return a text without what looks like a secret, and cut to a bearable length."""
    shown = str(text[:_READ_CHARACTERS])
    if _SUSPICIOUS.search(shown):
        for pattern, replacement in _SECRETS_IN_TEXT:
            shown = pattern.sub(replacement, shown)
    if len(text) <= MAX_TEXT_CHARACTERS:
        return shown
    return f"{shown[:MAX_TEXT_CHARACTERS]}… (cut, {len(text)} characters)"


def _harmless_items(value: Mapping[object, object] | Iterable[object], *, depth: int) -> Json:
    if depth >= MAX_DEPTH:
        return "… (too deep)"
    if isinstance(value, Mapping):
        return {
            harmless_text(_text_of(key)): harmless(item, key=_text_of(key), depth=depth + 1)
            for key, item in islice(value.items(), MAX_ITEMS)
        }
    return [harmless(item, depth=depth + 1) for item in islice(value, MAX_ITEMS)]


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - any object may be logged, and none may stop the program that logs it
        return f"<unprintable {type(value).__name__}>"
