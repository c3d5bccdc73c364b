"""
The code of all Lambdas as one zip: `python -m infra.package`.

Equal sources give equal bytes: entries are sorted, times and rights are fixed, and the dependencies are those of
`requirements/lambdas.txt`, by hash. They are wheels for the runtime of Lambda, whatever machine builds them. boto3
is among them: the one that the runtime brings changes without notice.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shared.errors import ConfigurationError

SOURCE_ROOT: Final = Path(__file__).resolve().parent.parent
REQUIREMENTS: Final = SOURCE_ROOT / "requirements" / "lambdas.txt"

#: Our packages that a Lambda imports.
PACKAGES: Final = ("lambdas", "shared")

#: The runtime in `infra.templates`, on x86_64.
PYTHON_VERSION: Final = "3.12"
#: Lambda runs Amazon Linux 2023, whose C library is newer than these ask for.
PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux2014_x86_64")

#: Source: AWS Lambda Developer Guide, "Lambda quotas". A zip above 50 MB is uploaded through S3, as ours always is.
MAX_UNZIPPED_BYTES: Final = 250 * 1000**2
MAX_DIRECT_UPLOAD_BYTES: Final = 50 * 1000**2

#: What no import of ours reaches: tests and sources of C.
_NEEDLESS_FOLDERS: Final = frozenset({"__pycache__", "tests", "include", "includes", "bin", "src"})
_NEEDLESS_SUFFIXES: Final = (".pyc", ".pyx", ".pxd", ".pxi", ".pyi", ".h", ".hpp", ".cc", ".cpp", ".a")

#: Parts of Arrow that a Parquet footer does not need, a third of the whole: its RPC and its own way to S3. And
#: libraries that lie there three times, under the names a linker looks for and not only the one that is loaded.
_NEEDLESS_ARROW: Final = ("_flight.", "_s3fs.", "libarrow_flight.", "libarrow_s3.", "libarrow_python_flight.")
_LIBRARY_DOUBLES: Final = re.compile(r"lib\w+\.so(\.\d+\.\d+\.\d+)?")

# The first moment that a zip can tell.
_MOMENT: Final = (1980, 1, 1, 0, 0, 0)
_READABLE_BY_ALL: Final = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Archive:
    """A finished zip."""

    path: Path
    size_in_bytes: int
    unzipped_size_in_bytes: int


def build(target: Path, *, python_version: str = PYTHON_VERSION) -> Archive:
    """
    Write the zip, for the runtime of Lambda unless another version of Python is named.

    Raises:
        ConfigurationError: if the dependencies cannot be had as wheels for Lambda, or the whole is too large.
    """
    with tempfile.TemporaryDirectory(prefix="esclusa-lambdas-") as folder:
        root = Path(folder)
        install_dependencies(root, python_version=python_version)
        for package in PACKAGES:
            shutil.copytree(SOURCE_ROOT / package, root / package)
        archive = write_zip(target, root)
    if archive.unzipped_size_in_bytes > MAX_UNZIPPED_BYTES:
        raise ConfigurationError(
            f"{target}: expected at most {MAX_UNZIPPED_BYTES} bytes unzipped, found "
            f"{archive.unzipped_size_in_bytes}; find out which dependency grew"
        )
    return archive


def install_dependencies(root: Path, *, python_version: str) -> None:
    """Unpack the wheels of the lock file."""
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--require-hashes", "--only-binary=:all:", "--no-deps", f"--python-version={python_version}"),
        *("--implementation=cp", *platforms, f"--target={root}", f"--requirement={REQUIREMENTS}"),
    ]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if finished.returncode:
        raise ConfigurationError(
            f"{REQUIREMENTS}: expected a wheel for Python {python_version} on {' or '.join(PLATFORMS)} of each "
            f"dependency, with its hash; pip says: {finished.stderr.strip()}"
        )


def write_zip(target: Path, root: Path) -> Archive:
    """Write a folder as a zip whose bytes depend on names and contents only."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unzipped = 0
    with zipfile.ZipFile(target, "w") as archive:
        for path in _needed_files(root):
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = _READABLE_BY_ALL
            entry.create_system = 3  # as on Unix, also where it is not
            body = path.read_bytes()
            archive.writestr(entry, body)
            unzipped += len(body)
    return Archive(target, target.stat().st_size, unzipped)


def _needed_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        within = path.relative_to(root)
        if path.is_file() and not _NEEDLESS_FOLDERS.intersection(within.parts) and _is_needed(within):
            yield path


def _is_needed(within: Path) -> bool:
    if within.suffix in _NEEDLESS_SUFFIXES:
        return False
    if within.parts[0] in {"botocore", "boto3"} and "data" in within.parts:
        return _is_api_of_ours(within)
    if within.parts[0] == "pyarrow" and _is_needless_arrow(within.name):
        return False
    # pip writes when and from where it installed; our zip depends on neither.
    return within.name not in {"INSTALLER", "REQUESTED", "direct_url.json", "RECORD"}


def _is_needless_arrow(name: str) -> bool:
    return name.startswith(_NEEDLESS_ARROW) or _LIBRARY_DOUBLES.fullmatch(name) is not None


#: The services that a Lambda of ours calls. botocore brings descriptions of some 400.
_SERVICES: Final = frozenset({"s3", "sns", "sqs", "secretsmanager", "ssm", "sts"})


def _is_api_of_ours(within: Path) -> bool:
    """Return whether a description of an AWS API is of a service that we call, or of all."""
    after_data = within.parts[within.parts.index("data") + 1 :]
    return len(after_data) == 1 or after_data[0] in _SERVICES


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the zip and say how large it is."""
    parser = argparse.ArgumentParser(prog="python -m infra.package", description=main.__doc__)
    default = SOURCE_ROOT / "dist" / "lambdas.zip"
    parser.add_argument("target", nargs="?", type=Path, default=default, help="the zip to write")
    chosen = parser.parse_args(arguments)
    try:
        archive = build(chosen.target)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(
        f"{archive.path}: {archive.size_in_bytes / 1e6:.1f} MB, unzipped {archive.unzipped_size_in_bytes / 1e6:.1f} "
        f"of at most {MAX_UNZIPPED_BYTES / 1e6:.0f} MB\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
