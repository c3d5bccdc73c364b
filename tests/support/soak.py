"""
A fleet under everything at once: live writes, random kills, messages doubled, late and out of order.

Each trouble-maker is a thread with dice of its own, made from one seed. What each does is decided by the seed; when it
meets what, is not.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil
import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from local.processes import living_processes
from local.shop import Written, change_something, insert_order
from shared import lifecycle
from shared.domain.batches import STAGE_STATES, STATES_AT_REST, BatchState
from shared.errors import EsclusaError
from shared.messages import clean_message, gate_message, task_message
from shared.ports import QueueName

if TYPE_CHECKING:
    from support.fleet import SmallFleet

#: What a trouble-maker may meet while the part it talks to is being killed.
AWAY = (EsclusaError, psycopg.Error, ClientError, BotoCoreError, psutil.Error, OSError)

WORKERS = ("extractor", "processor", "publisher")

#: Nothing more is planned while so many batches are on their way.
MOST_OPEN_BATCHES = 150
OPEN_STATES = frozenset(BatchState) - STATES_AT_REST

#: A row without the marker of its batch, or a snapshot that is not one: what no reader may ever see.
PARTIAL_ROWS = """
    SELECT (SELECT count(*) FROM shop__base.orders o
            WHERE NOT EXISTS (SELECT FROM _esclusa.loads l WHERE l.batch_id = o._esclusa_batch_id)),
           (SELECT count(DISTINCT _esclusa_batch_id) > 1 FROM shop__base.products),
           (SELECT count(*) FROM shop__base.products)
             = (SELECT rows_staged FROM _esclusa.loads WHERE batch_id = (
                  SELECT min(_esclusa_batch_id) FROM shop__base.products))
"""


@dataclass
class Soak:
    """A soak of one fleet, and what was done to it."""

    fleet: SmallFleet
    seed: int
    done: Counter[str] = field(default_factory=Counter)
    #: What a reader saw and should not have.
    partial_reads: list[object] = field(default_factory=list)
    #: What ended a trouble-maker before its time.
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def _shop(self) -> str:
        return self.fleet.stack.shop_owner_dsn

    def run(self, *, seconds: float, tell: Callable[[str], None] = print) -> None:
        """Make trouble for so long, then bring back what is dead."""
        # Every client of these threads reaches this fleet: made here, where the environment is set.
        sqs = self.fleet.client("sqs")
        makers = {
            "writer": self._write,
            "late writer": self._write_late,
            "planner": self._plan,
            "killer": self._kill,
            "doubler": lambda dice: self._double_messages(dice, sqs),
            "reader": self._read,
        }
        threads = [
            threading.Thread(target=self._guarded, args=(name, make), name=name, daemon=True)
            for name, make in makers.items()
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._stop.wait(min(left, 30.0))
            tell(f"{left:.0f} seconds left; {dict(sorted(self.done.items()))}")
            if self.failures:
                break
        self._stop.set()
        for thread in threads:
            thread.join(timeout=120)
        self._bring_back()

    def _guarded(self, name: str, make: Callable[[random.Random], None]) -> None:
        try:
            make(random.Random(f"{name} {self.seed}"))
        except Exception as error:  # noqa: BLE001  told by the test
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            self._stop.set()

    # ---- the trouble-makers --------------------------------------------------------------------------------

    def _write(self, dice: random.Random) -> None:
        """Change the shop, now and then with a transaction that commits seconds after others overtook it."""
        while not self._stop.wait(0.5):
            with suppress(psycopg.Error), psycopg.connect(self._shop, autocommit=True) as connection:
                while not self._stop.wait(0.05):
                    change_something(connection, dice, Written())
                    self.done["changes at the source"] += 1

    def _write_late(self, dice: random.Random) -> None:
        while not self._stop.wait(0.5):
            with suppress(psycopg.Error), psycopg.connect(self._shop, autocommit=True) as connection:
                with connection.transaction():
                    insert_order(connection, dice)
                    self._stop.wait(dice.uniform(1.0, 4.0))
                self.done["late commits"] += 1

    def _plan(self, dice: random.Random) -> None:
        while not self._stop.wait(dice.uniform(1.0, 4.0)):
            with suppress(*AWAY):
                if len(self.fleet.batches(states=OPEN_STATES)) > MOST_OPEN_BATCHES:
                    # What waits is then read in longer windows, as after any outage.
                    continue
                planned = sum(source.planned_count for source in self.fleet.enqueue())
                self.done["batches planned"] += planned

    def _read(self, _: random.Random) -> None:
        while not self._stop.wait(0.2):
            with suppress(psycopg.Error):
                ((orphans, mixed, whole),) = self.fleet.warehouse(PARTIAL_ROWS)
                self.done["reads"] += 1
                if orphans or mixed or not whole:
                    self.partial_reads.append((orphans, mixed, whole))

    def _double_messages(self, dice: random.Random, sqs: object) -> None:
        """Send what nobody decided to send: doubles of messages of recent batches, some of them much later."""
        while not self._stop.wait(dice.uniform(0.2, 1.5)):
            with suppress(*AWAY):
                with self.fleet.fleet.ledger.transaction() as tx:
                    recent = tx.batches(newest_first=True, limit=40)
                if not recent:
                    continue
                queue, body = _a_message(dice.choice(recent).id, dice)
                for _ in range(dice.choice((1, 1, 2, 5))):
                    sqs.send_message(  # type: ignore[attr-defined]
                        QueueUrl=self.fleet.queue_url(queue),
                        MessageBody=body,
                        MessageGroupId="shop",
                        DelaySeconds=dice.choice((0, 0, 1, 5, 20)),
                    )
                    self.done["messages doubled"] += 1

    def _kill(self, dice: random.Random) -> None:
        kills = {
            self._kill_child: 6,
            self._kill_worker: 4,
            self._kill_lambda: 5,
            self._kill_aws: 1,
            self._kill_databases: 1,
        }
        while not self._stop.wait(dice.uniform(2.0, 10.0)):
            with suppress(*AWAY, KeyError):
                dice.choices(list(kills), weights=list(kills.values()))[0](dice)
            self._stop.wait(dice.uniform(0.0, 3.0))
            self._bring_back()

    def _kill_child(self, dice: random.Random) -> None:
        children = self.fleet.children(dice.choice(WORKERS))
        if children:
            dice.choice(children).kill()
            self.done["task processes killed"] += 1

    def _kill_worker(self, dice: random.Random) -> None:
        name = dice.choice(WORKERS)
        main = psutil.Process(living_processes(self.fleet.home)[name])
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.done["workers killed"] += 1

    def _kill_lambda(self, dice: random.Random) -> None:
        server = psutil.Process(living_processes(self.fleet.home)["aws"])
        if children := server.children(recursive=True):
            dice.choice(children).kill()
            self.done["Lambdas killed"] += 1

    def _kill_aws(self, _: random.Random) -> None:
        self.fleet.kill("aws")
        self.done["AWS server killed"] += 1

    def _kill_databases(self, _: random.Random) -> None:
        self.fleet.kill("postgres")
        self.done["databases killed"] += 1

    def _bring_back(self) -> None:
        """Restart what is dead, as an orchestrator would; what comes in its way is tried again."""
        for _ in range(5):
            with suppress(EsclusaError, psutil.Error, psycopg.Error, ClientError, BotoCoreError):
                self.fleet.repair()
                return
            time.sleep(1.0)
        self.fleet.repair()


def _a_message(batch_id: str, dice: random.Random) -> tuple[QueueName, str]:
    stage = dice.choice(list(STAGE_STATES))
    queue = QueueName(str(stage))
    area, gate_queue = dice.choice(list(lifecycle.GATE_QUEUES.items()))
    task = task_message(
        f"esclusa.{stage}", {"batch_id": batch_id}, queue=queue, task_id=f"{batch_id}-{stage}"
    )
    return dice.choice(
        [
            (queue, task),
            (gate_queue, gate_message(batch_id, area)),
            (QueueName.CLEAN, clean_message(batch_id)),
        ]
    )
