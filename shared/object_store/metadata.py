"""What can be said beside an object."""

import re
from collections.abc import Mapping

from shared.domain.files import Location

#: Source: Amazon S3 User Guide, "Working with object metadata": the sum of all keys and values.
MAX_METADATA_BYTES = 2 * 1024

_KEY = re.compile(r"[a-z0-9_-]+")
_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")


def checked_metadata(metadata: Mapping[str, str], location: Location) -> dict[str, str]:
    """
    Return metadata that comes back from any store exactly as it was given.

    Metadata travels as HTTP headers: other keys are folded to lower case, other values are cut or
    encoded, differently by each store.

    Raises:
        ValueError: names the key, what it should be, and the object.
    """
    for key, value in metadata.items():
        if not _KEY.fullmatch(key):
            raise ValueError(f"{location}: metadata key {key!r} should be of a-z, 0-9, '_' and '-'")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"{location}: metadata {key!r} should be printable ASCII with no space at either end,"
                " found another character; encode names with `key_segment`"
            )
    size_in_bytes = sum(len(key) + len(value) for key, value in metadata.items())
    if size_in_bytes > MAX_METADATA_BYTES:
        raise ValueError(
            f"{location}: metadata should have at most {MAX_METADATA_BYTES} bytes, found {size_in_bytes}"
        )
    return dict(metadata)
