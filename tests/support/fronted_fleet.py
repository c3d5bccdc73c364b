"""A small fleet with a relay before each of its servers, so that each can be away for the fleet while it runs."""

import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

import psutil
import psycopg
from support.fleet import SmallFleet
from support.load import Load, under_load
from support.relay import Relays

from local import aws
from local import fleet as local_fleet
from local.fleet import SCHEDULER, WORKERS, worker_processes
from local.ports import LOOPBACK
from local.processes import living_processes, supervise
from local.provision import LEDGER_SECRET, WAREHOUSE_SECRET
from shared.domain.batches import STATES_AT_REST, Batch, BatchState
from shared.ports import QueueName

#: What can be away, as the relays call it. `s3` and `sqs` are the names that requests are signed for.
LEDGER, S3, SQS, WAREHOUSE, SHOP = "ledger", "s3", "sqs", "warehouse", "shop"


# Without slots: `super()` finds no class that was made anew for them.
@dataclass
class FrontedFleet(SmallFleet):
    """
    A fleet whose every process reaches AWS and its databases through relays. The test itself looks past them.

    The local AWS server calls Lambdas and tells queues of objects from within: these two ways cannot be cut.
    Neither can the sample CRM: its links lead to where it stands itself, and are not followed from elsewhere.
    """

    relays: Relays = field(default_factory=Relays, repr=False)
    #: The pid of the command that the load runs, if it does.
    commands: set[int] = field(default_factory=set, repr=False)
    _ports: dict[str, int] = field(default_factory=dict, repr=False)
    _askers: dict[int, str] = field(default_factory=dict, repr=False)

    def up(self) -> None:
        """Start the fleet, and then its processes anew behind the relays."""
        super().up()
        self.relays.name_asker = self._name_asker
        if not self._ports:
            self._ports = {
                database: self.relays.open(self.ports.postgres, dependency=database)
                for database in (LEDGER, WAREHOUSE, SHOP)
            }
            self._ports["aws"] = self.relays.open(self.ports.aws)
        self._move_behind_relays()

    def repair(self) -> None:
        """Bring back what was killed; cheap if nothing was."""
        if local_fleet.dead_processes(self.home):
            self.up()

    def _move_behind_relays(self) -> None:
        server = aws.process(self.home, self.ports.aws)
        # Lambdas are told of the endpoint by the server.
        fronted_server = replace(
            server, environment={**server.environment, "AWS_ENDPOINT_URL": self.fronted_endpoint}
        )
        with supervise(self.home, purpose="move behind relays") as supervisor:
            for name in (SCHEDULER, *WORKERS, aws.PROCESS_NAME):
                supervisor.stop(name)
            supervisor.start(fronted_server)
            supervisor.wait_until(
                aws.PROCESS_NAME, lambda: aws.answers(self.ports.aws), within_seconds=aws.START_SECONDS
            )
            self._tell_secrets()
            for spec in worker_processes(self.fronted_environment):
                supervisor.start(spec)

    def _tell_secrets(self) -> None:
        def moved(dsn: str, dependency: str) -> str:
            return dsn.replace(f":{self.ports.postgres}/", f":{self._ports[dependency]}/")

        self.put_secret(LEDGER_SECRET, {"dsn": moved(self.stack.control_dsn, LEDGER)})
        self.put_secret(WAREHOUSE_SECRET, {"dsn": moved(self.stack.warehouse_dsn, WAREHOUSE)})
        self.put_secret("esclusa/shop", {"dsn": moved(self.stack.shop_reader_dsn, SHOP)})

    @property
    def fronted_endpoint(self) -> str:
        return aws.endpoint_url(self._ports["aws"])

    @property
    def fronted_environment(self) -> dict[str, str]:
        """The settings of processes behind the relays."""
        return {**self.environment, "AWS_ENDPOINT_URL": self.fronted_endpoint}

    @contextmanager
    def under_load(self) -> Iterator[Load]:
        """Change the shop and enqueue what is due, behind the relays, while the block runs."""
        with under_load(self, self.fronted_environment, commands=self.commands) as load:
            yield load

    # ---- looking ---------------------------------------------------------------------------------------------

    def attempts_by_state(self, *, since: datetime) -> Counter[str]:
        """Count the attempts that were claimed after a moment."""
        with psycopg.connect(self.stack.control_dsn) as connection:
            query = "SELECT state, count(*) FROM esclusa.attempt WHERE claimed_at > %s GROUP BY state"
            return Counter(dict(connection.execute(query, [since]).fetchall()))

    def open_batches(self) -> list[Batch]:
        return self.batches(states=frozenset(BatchState) - STATES_AT_REST)

    def dead_letter_count(self) -> int:
        """Return how many messages lie in all dead-letter queues together."""
        client = self.client("sqs")
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        return sum(
            int(count)
            for queue in QueueName
            for count in client.get_queue_attributes(
                QueueUrl=self.queue_url(queue, dead_letters=True), AttributeNames=names
            )["Attributes"].values()
        )

    def worker_pids(self) -> dict[str, int]:
        """Return the pids of all parts that are ours: workers and scheduler."""
        return {
            name: pid for name, pid in living_processes(self.home).items() if name in {*WORKERS, SCHEDULER}
        }

    # ---- who asks --------------------------------------------------------------------------------------------

    def _name_asker(self, port: int) -> str:
        """Say which process of the fleet has a connection from a local port."""
        inode = _inode_of(port)
        for pid, name in list(self._askers.items()):
            if inode in _sockets_of(pid):
                return name
        self._askers = self._name_processes()
        return next((name for pid, name in self._askers.items() if inode in _sockets_of(pid)), "unknown")

    def _name_processes(self) -> dict[int, str]:
        named = dict.fromkeys(self.commands, "esclusa enqueue")
        for name, pid in living_processes(self.home).items():
            with suppress(psutil.Error):
                root = psutil.Process(pid)
                named[pid] = f"{name}, main" if name in WORKERS else name
                for child in root.children(recursive=True):
                    named[child.pid] = _name_of_child(name, child)
        return named


def _name_of_child(parent: str, child: psutil.Process) -> str:
    if parent != aws.PROCESS_NAME:
        return f"{parent}, task"
    function = child.environ().get("AWS_LAMBDA_FUNCTION_NAME", "")
    return f"Lambda {function.removeprefix('esclusa-local-')}"


def _inode_of(port: int) -> str:
    """Return the inode of the client's end of a connection on loopback."""
    address = f"{int.from_bytes(socket.inet_aton(LOOPBACK), 'little'):08X}:{port:04X}"
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        for line in table:
            fields = line.split()
            if fields[1] == address:
                return fields[9]
    return "0"


def _sockets_of(pid: int) -> set[str]:
    """Return the inodes of the sockets of a process."""
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(entry.path)  # noqa: PTH115
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
