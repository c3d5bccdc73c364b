"""The command `esclusa` over adapters in memory, run as from a shell."""

import json
from dataclasses import dataclass, field
from typing import Any

from support.ledgers import SteppingClock
from typer.testing import CliRunner

from cli.context import Connections
from cli.main import app
from services.publisher.memory import MemoryCatalog
from services.publisher.warehouse import QueryFailed, QueryResult
from shared.fleet import Fleet
from shared.ledger.memory import MemoryLedger
from shared.object_store.memory import MemoryObjectStore
from shared.ports import Ledger, OutboxMessage, SecretStore
from shared.queues.memory import MemoryQueues
from shared.secrets.memory import MemorySecrets
from shared.settings import FleetSettings


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """Standard output, which has to be one JSON document."""
        return json.loads(self.output)


class OneAnswer:
    """A warehouse that knows one answer."""

    def __init__(self, answer: QueryResult | QueryFailed) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, float]] = []

    def query(self, sql: str, *, row_limit: int, timeout_seconds: float) -> QueryResult:
        self.asked.append((sql, row_limit, timeout_seconds))
        if isinstance(self.answer, QueryFailed):
            raise self.answer
        return self.answer


@dataclass
class Shell:
    """A fleet and the command that looks at it."""

    clock: SteppingClock = field(default_factory=SteppingClock)
    secrets: SecretStore = field(default_factory=lambda: MemorySecrets({}))
    queues: Any = None
    warehouse: Any = field(default_factory=lambda: OneAnswer(QueryResult(("one",), ((1,),), is_cut=False)))
    catalog: Any = field(default_factory=MemoryCatalog)
    ledger: Ledger = None  # type: ignore[assignment]
    store: Any = field(default_factory=MemoryObjectStore)

    def __post_init__(self) -> None:
        if self.ledger is None:
            self.ledger = MemoryLedger(self.clock)
        if self.queues is None:
            self.queues = MemoryQueues(clock=self.clock)

    @property
    def fleet(self) -> Fleet:
        settings = FleetSettings(ledger_dsn="env:LEDGER_DSN", bucket_prefix="esclusa")
        return Fleet(settings, self.ledger, self.store, self.queues, self.secrets)

    def run(self, *arguments: str, typed: str | None = None, **environment: str) -> Ended:
        """Run `esclusa` with these arguments, and answer what it asks with what is typed."""
        connections = Connections(
            fleet=lambda: self.fleet,
            secrets=lambda: self.secrets,
            queues=lambda _: self.queues,
            warehouse=lambda _: self.warehouse,
            catalog=lambda _: self.catalog,
        )
        return run_command(*arguments, connections=connections, typed=typed, **environment)


def run_command(
    *arguments: str, connections: Connections | None = None, typed: str | None = None, **environment: str
) -> Ended:
    """Run `esclusa`, connected as its environment says or as told."""
    result = CliRunner().invoke(
        app, list(arguments), obj=connections, input=typed, env=environment, catch_exceptions=False
    )
    return Ended(result.exit_code, result.stdout, result.stderr)


class QueuesAway:
    """Queues that cannot be reached."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def send(self, messages: list[OutboxMessage]) -> list[int]:
        raise self.error

    def depth(self, queue: str, *, dead_letters: bool = False) -> Any:
        raise self.error

    def oldest_ages(self, *, dead_letters: bool = False) -> dict[Any, Any]:
        return {}

    def look(self, queue: str, **_: Any) -> Any:
        raise self.error
