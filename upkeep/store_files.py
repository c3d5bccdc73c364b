"""Files of the object store as PyArrow opens them: by name only, to read only, and piece by piece."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.fs as pafs

from shared.domain.files import DataFile
from shared.errors import EsclusaError
from shared.ports import ObjectStore


class StoreFiles:
    """
    What opens files that the ledger names.

    Errors of the store pass through PyArrow and DuckDB, which keep their text and nothing else: the first is kept here.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._failure: EsclusaError | None = None

    def filesystem(self, files: Sequence[DataFile]) -> pafs.FileSystem:
        """Return a filesystem that holds these files and no others; their paths are their locations."""
        return pafs.PyFileSystem(_Handler(self, {str(file.location): file for file in files}))

    @contextmanager
    def failures_raised(self) -> Iterator[None]:
        """Raise what the store said in place of what became of it."""
        try:
            yield
        except Exception:
            if self._failure is not None:
                raise self._failure from None
            raise

    def read(self, file: DataFile, start: int, length: int) -> bytes:
        """Return bytes of a file."""
        try:
            return self._store.read(file.location, start=start, length=length)
        except EsclusaError as error:
            self._failure = self._failure or error
            raise


class _StoreFile(io.RawIOBase):
    """One file. Its size is the ledger's word: a file of another size has no footer where one is looked for."""

    def __init__(self, files: StoreFiles, file: DataFile) -> None:
        self._files = files
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.file_size_in_bytes}[
            whence
        ]
        self._position = base + offset
        return self._position

    def size(self) -> int:
        """Asked for by PyArrow."""
        return self._file.file_size_in_bytes

    def read(self, size: int = -1, /) -> bytes:
        left = self._file.file_size_in_bytes - self._position
        length = left if size < 0 else min(size, left)
        if length <= 0:
            return b""
        body = self._files.read(self._file, self._position, length)
        self._position += len(body)
        return body


class _Handler(pafs.FileSystemHandler):  # type: ignore[misc]  # PyArrow has no types
    """The part of a filesystem that reading a dataset takes."""

    def __init__(self, files: StoreFiles, by_path: Mapping[str, DataFile]) -> None:
        self._files = files
        self._by_path = by_path

    def get_type_name(self) -> str:
        return "esclusa"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: Sequence[str]) -> list[Any]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> Any:
        file = self._by_path.get(path)
        if file is None:
            return pafs.FileInfo(path, pafs.FileType.NotFound)
        return pafs.FileInfo(path, pafs.FileType.File, size=file.file_size_in_bytes)

    def open_input_file(self, path: str) -> Any:
        file = self._by_path.get(path)
        if file is None:
            raise FileNotFoundError(path)
        return pa.PythonFile(_StoreFile(self._files, file), mode="r")

    def open_input_stream(self, path: str) -> Any:
        return self.open_input_file(path)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise PermissionError("these files are read by their names, and nothing else")

    get_file_info_selector = _refuse
    create_dir = _refuse
    delete_dir = _refuse
    delete_dir_contents = _refuse
    delete_root_dir_contents = _refuse
    delete_file = _refuse
    move = _refuse
    copy_file = _refuse
    open_output_stream = _refuse
    open_append_stream = _refuse
