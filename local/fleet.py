"""The whole of Esclusa on one machine: the embedded stack, provisioned, and its workers."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from infra.migrations import upgrade
from local import aws
from local.ports import PortBlock
from local.processes import (
    PYTHON,
    Home,
    ProcessSpec,
    Supervisor,
    find_process,
    inherited_environment,
    living_processes,
    read_state,
    supervise,
    write_privately,
)
from local.provision import CLAIM_LEASE, provision
from local.shop import ShopSize
from local.stack import FOUNDATION_NAMES, Stack, bring_up, describe, take_down
from shared.catalog import load_sources
from shared.errors import Unavailable


@dataclass(frozen=True, slots=True)
class LocalWorker:
    """A worker process of the embedded fleet."""

    service: str
    #: How many tasks it has at once.
    concurrency: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)


#: The workers of the embedded fleet by the names of their processes.
WORKERS = {
    "extractor": LocalWorker("extractor", concurrency=2),
    "backfiller": LocalWorker("extractor", environment={"ESCLUSA_EXTRACT_QUEUE": "backfill"}),
    "processor": LocalWorker("processor"),
    "publisher": LocalWorker("publisher"),
}
SCHEDULER = "scheduler"

ENVIRONMENT_FILE = "environment.json"

_RESTORE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Running:
    """A fleet that runs."""

    stack: Stack
    #: The settings of its processes: references, no secrets.
    environment: dict[str, str] = field(repr=False)
    started: tuple[str, ...] = ()


def up(
    home: Home,
    sources: Path,
    *,
    ports: PortBlock | None = None,
    shop_size: ShopSize | None = None,
    claim_lease: timedelta = CLAIM_LEASE,
    on_step: Callable[[str], None] = lambda _: None,
) -> Running:
    """
    Start what does not run, repair what was killed, and bring everything to what the sources need.

    Without `ports` the block that the environment names is taken.

    Raises:
        ConfigurationError: if another command is at work on this stack, a port is taken, or a source file is wrong.
        Unavailable: if a part does not start; the message holds the end of its log.
    """
    catalog = load_sources(sources)
    with supervise(home, purpose="up") as supervisor:
        stack = bring_up(supervisor, ports=ports or PortBlock.find(), shop_size=shop_size, on_step=on_step)
        on_step("migrating the ledger")
        upgrade(stack.control_dsn)
        on_step("provisioning queues, Lambdas and buckets")
        provisioned = provision(stack, catalog.sources, claim_lease=claim_lease)
        if aws.PROCESS_NAME in stack.started:
            on_step("registering published batches in the catalog")
            _restore_catalog(provisioned.environment)
        if aws.PROCESS_NAME in stack.started or provisioned.has_changed:
            # From here on the local AWS server survives a kill -9 with all that was provisioned.
            aws.checkpoint(supervisor, stack.ports.aws)
        write_privately(home.path / ENVIRONMENT_FILE, json.dumps(provisioned.environment, indent=2) + "\n")
        on_step("starting the workers")
        references = [reference for source in catalog.sources for reference in source.references()]
        _stop_workers_with_other_secrets(supervisor, references)
        started = [spec.name for spec in worker_processes(provisioned.environment) if supervisor.start(spec)]
    return Running(stack, provisioned.environment, (*stack.started, *started))


def down(home: Home, *, ports: PortBlock | None = None) -> list[str]:
    """Stop every process of a home, workers first; data stays. Returns the names of what was stopped."""
    with supervise(home, purpose="down") as supervisor:
        return take_down(supervisor, ports=ports or PortBlock.find())


def dead_processes(home: Home) -> set[str]:
    """Return the names of the processes that should run and do not."""
    return {*FOUNDATION_NAMES, *WORKERS, SCHEDULER} - set(living_processes(home))


def read_environment(home: Home) -> dict[str, str]:
    """Return the settings of the fleet of a home; empty if it was never up."""
    try:
        environment: dict[str, str] = json.loads((home.path / ENVIRONMENT_FILE).read_text())
    except FileNotFoundError:
        return {}
    return environment


def running(home: Home) -> Running:
    """Return where the parts of a fleet that is up are reached."""
    return Running(describe(home, ports=PortBlock.find()), read_environment(home))


def start_beside(supervisor: Supervisor, spec: ProcessSpec) -> None:
    """Start one more process of a home, replacing what is left of an earlier one of its name."""
    supervisor.stop(spec.name)
    supervisor.start(spec)


def _restore_catalog(environment: dict[str, str]) -> None:
    """After a kill -9 the local AWS server knows the partitions of its last checkpoint only."""
    command = [PYTHON, "-m", "services.publisher.restore"]
    done = subprocess.run(
        command,
        env=inherited_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_RESTORE_SECONDS,
    )
    if done.returncode != 0:
        raise Unavailable(f"the catalog could not be restored: {(done.stdout + done.stderr)[-2000:]}")


def _stop_workers_with_other_secrets(supervisor: Supervisor, references: Iterable[str]) -> None:
    """A running worker does not learn of environment variables that were set since: it is started anew."""
    names = {reference.removeprefix("env:") for reference in references if reference.startswith("env:")}
    wanted = {name: os.environ.get(name) for name in names}
    for record in read_state(supervisor.home):
        process = find_process(record) if record.name in WORKERS else None
        if process is not None:
            environment = process.environ()
            if any(environment.get(name) != value for name, value in wanted.items()):
                supervisor.stop(record.name)


def worker_processes(environment: dict[str, str]) -> list[ProcessSpec]:
    """Return how to run the workers and the scheduler."""
    workers = [
        ProcessSpec(
            name=name,
            command=[PYTHON, "-m", f"services.{worker.service}.app"],
            environment={
                **environment,
                "POLARS_MAX_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
                **worker.environment,
                "ESCLUSA_CONCURRENCY": str(worker.concurrency),
                # Four on one machine would want one port.
                "ESCLUSA_METRICS_PORT": "0",
            },
            # Soft shutdown, one receive, interruption, and the end of the processes.
            stop_seconds=20.0,
        )
        for name, worker in WORKERS.items()
    ]
    scheduler = ProcessSpec(
        name=SCHEDULER,
        command=[PYTHON, "-m", "local.scheduler"],
        environment=environment,
        stop_seconds=10.0,
    )
    return [*workers, scheduler]
