"""Where extracted files go when no S3 is to be measured: a directory, written as fast as the disk takes it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from shared.domain.files import Location


class DiskStore:
    """The part of `ObjectStore` that the extractor uses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open_upload(self, location: Location, *, metadata: Mapping[str, str]) -> "DiskUpload":  # noqa: ARG002
        """Begin an object."""
        return DiskUpload(self._directory / location.key)


class DiskUpload:
    """An object being written; see `Upload`. It appears under its name once it is whole."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.with_suffix(".part").open("wb")
        self._digest = hashlib.sha256()
        self.file_size_in_bytes = 0

    @property
    def sha256(self) -> str:
        """Of what was written so far."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._file.write(data)
        self._digest.update(data)
        self.file_size_in_bytes += len(data)

    def complete(self) -> None:
        """Let the object appear."""
        self._file.close()
        Path(self._file.name).rename(self._path)

    def abort(self) -> None:
        """Give the object up."""
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
