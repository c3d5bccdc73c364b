"""
The images of the fleet: `python -m infra.images build`, and `check`.

Standard library only: it runs before anything is installed. Dockerfiles and compose files build the same without it;
what it adds are labels, times and `dist/`:

    build    builds every image, and puts its bill of materials into dist/images/
    check    builds every image once more without any cache, and compares file by file

Two builds of one commit give equal files: contents, rights, owners and links. Layers are not equal bytes: their format
holds the times of directories that the engine itself makes.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

SOURCE_ROOT: Final = Path(__file__).resolve().parents[2]
TARGET: Final = SOURCE_ROOT / "dist" / "images"

#: Each image with its Dockerfile.
IMAGES: Final[Mapping[str, str]] = {
    "esclusa-extractor": "services/extractor/Dockerfile",
    "esclusa-processor": "services/processor/Dockerfile",
    "esclusa-publisher": "services/publisher/Dockerfile",
    "esclusa-control": "cli/Dockerfile",
    "esclusa-local": "local/Dockerfile",
}
#: Where an image has its bill of materials.
SBOM: Final = "opt/esclusa/sbom.cdx.json"

#: What a build hands on to `pip` and `apt` from the environment it runs in. None of it is in an image.
HANDED_ON: Final = ("PYTHON_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST")
#: A file of certificate authorities for registries behind a proxy, and where the builds find a copy of it.
CA_VARIABLE: Final = "ESCLUSA_BUILD_CA"
BUILD_CA: Final = SOURCE_ROOT / "build-ca.pem"

#: What a build may make differently each time, and no program of ours reads: written by the engine, or by dpkg.
_LEFT_OUT: Final = frozenset({".dockerenv", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab"})


class BuildFailed(Exception):
    """An image could not be built, or is not what it was; the message says which and why."""


@dataclass(frozen=True, slots=True)
class Revision:
    """What an image is built from."""

    version: str
    commit: str
    committed_at: datetime

    @classmethod
    def find(cls) -> "Revision":
        """Return that of the working tree; changes that are not committed are told by `-dirty`."""
        with (SOURCE_ROOT / "pyproject.toml").open("rb") as file:
            version = tomllib.load(file)["project"]["version"]
        try:
            commit, seconds = _git("log", "-1", "--format=%H %ct").split()
            if _git("status", "--porcelain", "--untracked-files=no"):
                commit += "-dirty"
        except (subprocess.CalledProcessError, FileNotFoundError):  # an archive, or no git
            commit, seconds = "unknown", "0"
        return cls(version, commit, datetime.fromtimestamp(int(seconds), UTC))

    @property
    def build_arguments(self) -> dict[str, str]:
        return {
            "VERSION": self.version,
            "REVISION": self.commit,
            "CREATED": self.committed_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "SOURCE_DATE_EPOCH": str(int(self.committed_at.timestamp())),
        }


# ---- build -----------------------------------------------------------------------------------------------------


def build(names: Sequence[str], *, registry: str, tag: str | None) -> None:
    """Build images, and put beside them what one should know of each."""
    revision = Revision.find()
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in names:
        image = f"{registry}{name}:{tag or revision.version}"
        build_image(name, image, revision)
        (TARGET / f"{name}.cdx.json").write_bytes(read_sbom(image))
        megabytes = int(_docker("image", "inspect", "--format", "{{.Size}}", image)) / 1e6
        print(
            f"{image}: {megabytes:.0f} MB, dist/images/{name}.cdx.json",
            flush=True,
        )


def build_image(name: str, image: str, revision: Revision, *, without_cache: bool = False) -> None:
    """
    Build an image under a name and tag.

    Raises:
        BuildFailed: with the end of what the engine said.
    """
    arguments = revision.build_arguments | {key: os.environ[key] for key in HANDED_ON if os.environ.get(key)}
    with _authorities_at_hand():
        _docker(
            *("build", "--network", "host", "--file", IMAGES[name], "--tag", image),
            *(["--no-cache"] if without_cache else []),
            *(part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")),
            ".",
        )


@contextmanager
def _authorities_at_hand() -> Iterator[None]:
    """Lay the file of authorities, if there is one, where builds find it, and take it away again."""
    given = os.environ.get(CA_VARIABLE)
    if not given:
        yield
        return
    shutil.copyfile(given, BUILD_CA)
    try:
        yield
    finally:
        BUILD_CA.unlink()


# ---- check -----------------------------------------------------------------------------------------------------


def check(names: Sequence[str]) -> None:
    """
    Build images twice, the second time from nothing, and compare all files.

    Raises:
        BuildFailed: naming the files that differ.
    """
    revision = Revision.find()
    for name in names:
        first, second = f"{name}:first-build", f"{name}:second-build"
        try:
            build_image(name, first, revision)
            build_image(name, second, revision, without_cache=True)
            before, after = read_files(first), read_files(second)
        finally:
            for image in (first, second):
                subprocess.run(["docker", "image", "rm", "--force", image], capture_output=True, check=False)  # noqa: S603, S607
        if differing := sorted(
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        ):
            raise BuildFailed(
                f"{name}: {len(differing)} of {len(after)} files differ between two builds: "
                + ", ".join(differing[:20])
            )
        print(f"{name}: {len(after)} files, equal in two builds", flush=True)


def read_sbom(image: str) -> bytes:
    """Return the bill of materials that an image holds."""
    with _container_of(image) as container, _archive_of("cp", f"{container}:/{SBOM}", "-") as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                return file.read()
    raise BuildFailed(f"{image}: expected a bill of materials in /{SBOM}, found none")


def read_files(image: str) -> dict[str, str]:
    """Return all files of an image by path: kind, rights, owner, and what each holds or where it leads."""
    digests = {}
    with _container_of(image) as container, _archive_of("export", container) as archive:
        for member in archive:
            if member.name in _LEFT_OUT or member.name.startswith(("dev/", "proc/", "sys/")):
                continue
            held = member.linkname
            if member.isfile() and (file := archive.extractfile(member)) is not None:
                held = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
            digests[member.name] = f"{member.type.decode()} {member.mode:o} {member.uid}:{member.gid} {held}"
    return digests


@contextmanager
def _container_of(image: str) -> Iterator[str]:
    """Give a container that was never started: its files can be read."""
    container = _docker("create", image).strip()
    try:
        yield container
    finally:
        _docker("rm", container)


@contextmanager
def _archive_of(*arguments: str) -> Iterator[tarfile.TarFile]:
    """Give what the engine writes, as it comes."""
    with subprocess.Popen(["docker", *arguments], stdout=subprocess.PIPE) as engine:  # noqa: S603, S607
        try:
            with tarfile.open(fileobj=engine.stdout, mode="r|") as archive:
                yield archive
        except tarfile.TarError as error:
            raise BuildFailed(f"docker {' '.join(arguments)}: expected an archive: {error}") from error


# ---- the programs that are asked -------------------------------------------------------------------------------


def _docker(*arguments: str) -> str:
    try:
        finished = subprocess.run(  # noqa: S603
            ["docker", *arguments],  # noqa: S607
            cwd=SOURCE_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise BuildFailed("docker: expected the command on the PATH, found none; install an engine") from None
    if finished.returncode:
        told = "\n".join(finished.stdout.splitlines()[-40:])
        raise BuildFailed(f"docker {' '.join(arguments)} ended with {finished.returncode}:\n{told}")
    return finished.stdout


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=SOURCE_ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or check images; 0 if all is well, 1 if not."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.images",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["build", "check"])
    parser.add_argument("--image", action="append", choices=sorted(IMAGES), help="only this one; repeatable")
    parser.add_argument(
        "--registry", default="", help="begins the names of images, such as registry.example/team/"
    )
    parser.add_argument("--tag", help="the version if not given")
    chosen = parser.parse_args(arguments)
    names = chosen.image or list(IMAGES)
    try:
        if chosen.command == "build":
            build(names, registry=chosen.registry, tag=chosen.tag)
        else:
            check(names)
    except BuildFailed as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
