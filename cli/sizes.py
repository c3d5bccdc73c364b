"""Sizes as people type and read them: `192MB`."""

import re

import typer

_SIZE = re.compile(r"(?P<number>[0-9]{1,6})(?P<unit>KB|MB|GB)", re.IGNORECASE)
_UNITS = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}


def read_size(text: str) -> int:
    """
    Return a size in bytes. As in the guides of Redshift and Athena, a kilobyte has 1024.

    >>> read_size("192MB")
    201326592

    Raises:
        BadParameter: if it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"expected a size such as 192MB, found {text!r}")
    return int(match["number"]) * _UNITS[match["unit"].upper()]


def size_text(size_in_bytes: int) -> str:
    """
    Return a size as people read it.

    >>> size_text(980), size_text(201326592)
    ('980 B', '192.0 MB')
    """
    for unit in ("GB", "MB", "KB"):
        if size_in_bytes >= _UNITS[unit]:
            return f"{size_in_bytes / _UNITS[unit]:.1f} {unit}"
    return f"{size_in_bytes} B"
