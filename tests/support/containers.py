"""The fleet of docker-compose.yml, for one test: brought up under a name of its own, looked into, and taken away."""

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from support.needs import lacking

from local.ports import find_free_port

ROOT = Path(__file__).parents[2]
ENGINE_CURE = "start Docker, or set DOCKER_HOST; as root on Debian .ci/container-engine brings one"


def require_engine() -> None:
    """Skip the test if no container engine answers, or there is no Compose."""
    if shutil.which("docker") is None or _run(["docker", "info"], check=False).returncode:
        lacking("a container engine that answers", cure=ENGINE_CURE)
    if compose_command() is None:
        lacking("Compose", cure="apt-get install docker-compose, or the plugin `docker compose`")


@cache
def compose_command() -> tuple[str, ...] | None:
    """Return how Compose is called on this machine: Compose 2 as `docker compose`, or `docker-compose`."""
    if _run(["docker", "compose", "version"], check=False).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else None


@dataclass(frozen=True, slots=True)
class ComposedFleet:
    """A running project of docker-compose.yml."""

    project: str
    environment: Mapping[str, str] = field(repr=False)

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Compose on this project, with the sample sources."""
        command = compose_command()
        assert command is not None
        options = ["--project-name", self.project, "--profile", "samples"]
        return _run([*command, *options, *arguments], environment=self.environment, check=check)

    def up(self, *arguments: str) -> None:
        self.compose("up", "--detach", "--no-build", *arguments)

    def esclusa(self, *arguments: str) -> Any:
        """Run the command `esclusa` in the container of the enqueuer, and return the JSON that it prints."""
        done = self.compose("exec", "-T", "enqueuer", "esclusa", *arguments, "--json", check=False)
        return json.loads(done.stdout)

    def compare(self) -> list[dict[str, Any]] | None:
        """Compare sources and warehouse row by row; None while something was not published yet."""
        done = self.compose("run", "--rm", "--no-deps", "-T", "provision", "compare", check=False)
        if done.returncode not in {0, 1}:
            return None
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def containers(self, service: str | None = None) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers of a service, or of all."""
        ids = self.docker("ps", "--all", "--quiet", *self._filters(service)).split()
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", *ids)) if ids else []
        return found

    def leftovers(self) -> dict[str, str]:
        """Return what of this project the engine still has."""
        asked = {
            "containers": ("ps", "--all", "--quiet"),
            "volumes": ("volume", "ls", "--quiet"),
            "networks": ("network", "ls", "--quiet"),
        }
        return {name: self.docker(*words, *self._filters(None)) for name, words in asked.items()}

    def _filters(self, service: str | None) -> list[str]:
        labels = [f"com.docker.compose.project={self.project}"]
        if service is not None:
            labels.append(f"com.docker.compose.service={service}")
        return [f"--filter=label={label}" for label in labels]

    def docker(self, *arguments: str) -> str:
        return _run(["docker", *arguments]).stdout


@contextmanager
def composed_fleet(**settings: str) -> Iterator[ComposedFleet]:
    """Give a project with settings of docker-compose.yml; whatever of it is left at the end is taken away."""
    environment = {"ESCLUSA_WAREHOUSE_PORT": str(find_free_port()), **settings}
    fleet = ComposedFleet(f"esclusa-test-{secrets.token_hex(4)}", environment)
    try:
        yield fleet
    finally:
        fleet.compose("down", "--volumes", "--remove-orphans", "--timeout", "20", check=False)


def wait_until(
    is_so: Callable[[], object], *, what: str, within_seconds: float, pause_seconds: float = 1.0
) -> None:
    """
    Look again and again.

    Raises:
        TimeoutError: if it does not come to be.
    """
    deadline = time.monotonic() + within_seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within_seconds:.0f} seconds for {what}")
        time.sleep(pause_seconds)


def _run(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )
    return done
