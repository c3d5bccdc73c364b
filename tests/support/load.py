"""What goes on at the source and in cron while a test breaks things."""

import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from support.fleet import SmallFleet

from local.processes import PYTHON, inherited_environment


@contextmanager
def under_load(
    fleet: SmallFleet,
    environment: Mapping[str, str],
    *,
    enqueue_every_seconds: float = 3.0,
    commands: set[int] | None = None,
) -> Iterator["Load"]:
    """
    Change the shop, and run `esclusa enqueue` with the settings given, again and again while the block runs.

    `commands` holds the pid of the command that runs, if one does.
    """
    load = Load(fleet, environment, enqueue_every_seconds, set() if commands is None else commands)
    threads = [
        threading.Thread(target=work, daemon=True)
        for work in (load.write_until_done, load.enqueue_until_done)
    ]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.done.set()
        for thread in threads:
            thread.join(timeout=120)
    assert load.written_count > 0, "nothing was written at the source"


@dataclass(slots=True)
class Load:
    """A writer at the shop, and cron."""

    fleet: SmallFleet
    environment: Mapping[str, str] = field(repr=False)
    enqueue_every_seconds: float
    commands: set[int]
    done: threading.Event = field(default_factory=threading.Event)
    written_count: int = 0
    #: How each `esclusa enqueue` ended, and after how many seconds.
    enqueued: list["Enqueued"] = field(default_factory=list)

    def write_until_done(self) -> None:
        """Change some rows of the shop each half second, as its owner does, whom no relay stops."""
        with psycopg.connect(self.fleet.stack.shop_owner_dsn, autocommit=True) as connection:
            while not self.done.wait(0.5):
                number = self.written_count
                connection.execute(
                    "UPDATE orders SET updated_at = now(), item_count = item_count %% 100 + 1"
                    " WHERE order_id %% 100 = %s",
                    [number % 100],
                )
                connection.execute(
                    "UPDATE customers SET updated_at = now(), loyalty_points = (loyalty_points + 1) %% 100"
                    " WHERE customer_id %% 50 = %s",
                    [number % 50],
                )
                self.written_count += 1

    def enqueue_until_done(self) -> None:
        """Run `esclusa enqueue` again and again; one at a time, as cron jobs that lock do."""
        while not self.done.is_set():
            began = time.monotonic()
            command = subprocess.Popen(
                [PYTHON, "-m", "cli.main", "enqueue", "--sources", str(self.fleet.sources)],
                env={**inherited_environment(), **self.environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            self.commands.add(command.pid)
            _, errors = command.communicate(timeout=120)
            self.commands.discard(command.pid)
            self.enqueued.append(Enqueued(command.returncode, errors, began, time.monotonic() - began))
            self.done.wait(max(0.0, self.enqueue_every_seconds - (time.monotonic() - began)))


@dataclass(frozen=True, slots=True)
class Enqueued:
    """How one `esclusa enqueue` ended."""

    exit_code: int
    errors: str
    #: Of `time.monotonic`.
    began_at: float
    duration_seconds: float
