"""
A contract as canonical JSON: equal contracts have equal text, so that one hash tells whether a table's changed.

Times are ISO 8601 durations, enumerations their slugs; every name of an object stands in the order of its code
points; nothing but ASCII.
"""

import hashlib
import json
from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from shared.domain.contracts import TableContract

_CONTRACT = TypeAdapter(TableContract)

#: Fields that came later, by their path, with what they were before. Left out while they are that: the hash of a contract
#: that says nothing of them stays, and no table gets a new version.
_LATER_FIELDS: Mapping[tuple[str, ...], object] = {
    ("query",): None,
    ("key_ranges",): None,
    ("publishing", "sort_key"): [],
    ("publishing", "dist_key"): "",
}


def to_json(contract: TableContract) -> str:
    """Return a contract as canonical JSON."""
    document = _CONTRACT.dump_python(contract, mode="json")
    for (*parts, name), before in _LATER_FIELDS.items():
        part = document
        for step in parts:
            part = part[step]
        if part[name] == before:
            del part[name]
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> TableContract:
    """
    Read a contract. Fields that it does not have yet take their defaults.

    Fields that this version does not know are refused: who passed over one of them would read or carry the table in another
    way than the contract says, and nobody would notice.

    Raises:
        ValueError: if the text is no contract, or one of a newer version. It names places, and no values.
    """
    try:
        return _CONTRACT.validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        found = (f"{'.'.join(map(str, each['loc']))} ({each['type']})".strip() for each in error.errors())
        raise ValueError(f"expected a contract as this version knows it, found {', '.join(found)}") from None


def sha256_of(contract: TableContract) -> str:
    """Return the SHA-256 of a contract's canonical JSON in lower-case hexadecimal."""
    return hashlib.sha256(to_json(contract).encode()).hexdigest()
