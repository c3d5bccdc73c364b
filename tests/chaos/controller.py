"""The controller of the chaos tests: what processes of the fleet ask before and after each side effect."""

import json
import os
import signal
import socketserver
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """What can happen to a side effect."""

    #: The process dies before it.
    KILL_BEFORE = "kill before"
    #: The process dies after it.
    KILL_AFTER = "kill after"
    #: It happens, and the caller is told that the connection broke.
    LOSE_REPLY = "lose reply"
    #: It does not happen; the caller gets a 503, or a connection that broke.
    UNAVAILABLE = "unavailable"
    #: The whole process stands still before it, for longer than its lease, and goes on as if nothing had been.
    ZOMBIE = "zombie"
    #: It happens twice; the caller gets the second answer. Of calls to AWS only.
    DUPLICATE = "duplicate"


_VERDICTS = {
    Mode.KILL_BEFORE: ("before", "kill_before"),
    Mode.UNAVAILABLE: ("before", "unavailable"),
    Mode.ZOMBIE: ("before", "freeze"),
    Mode.KILL_AFTER: ("after", "kill_after"),
    Mode.LOSE_REPLY: ("after", "lose_reply"),
    Mode.DUPLICATE: ("after", "duplicate"),
}

#: Above the lease of a claim and the visibility timeout of the fleet under test.
WORKER_FROZEN_SECONDS = 9.0
#: Above the time after which the sweeper wakes a batch that a gate should have moved; below the Lambda's timeout.
LAMBDA_FROZEN_SECONDS = 16.0
_WORKERS = ("extractor", "processor", "publisher", "planner")


@dataclass(frozen=True, slots=True, order=True)
class Effect:
    """One kind of side effect: which part of the fleet does what."""

    role: str
    name: str


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong once."""

    mode: Mode | None
    effect: Effect
    #: Of which batch; None for a shared process, or for a planner, which is told by its tag.
    batch_id: str | None = None
    tag: str = ""
    #: Which occurrence of the effect for the batch, from 1.
    occurrence: int = 1
    #: In place of a mode: the call takes so long, and nothing is wrong. To see what goes on meanwhile.
    sleep_seconds: float = 0.0
    hit_at: float | None = None
    #: When a frozen process goes on.
    over_at: float = 0.0
    _seen: int = 0

    @property
    def is_over(self) -> bool:
        """Whether it happened, and nothing stands still because of it any more."""
        return self.hit_at is not None and time.monotonic() >= self.over_at

    def verdict(self, question: dict[str, Any], occurrences: dict[str, int]) -> str | None:
        """Return what to answer, if this fault is meant."""
        if self.hit_at is not None or (question["role"], question["effect"]) != (
            self.effect.role,
            self.effect.name,
        ):
            return None
        if self.tag and question["tag"] != self.tag:
            return None
        phase, verdict = _VERDICTS[self.mode] if self.mode else ("before", f"sleep {self.sleep_seconds}")
        if question["phase"] != phase:
            return None
        if self.batch_id is not None:
            if self.batch_id not in question["batches"] or occurrences[self.batch_id] < self.occurrence:
                return None
        else:
            self._seen += 1
            if self._seen < self.occurrence:
                return None
        self.hit_at = time.monotonic()
        if verdict == "freeze":
            is_worker = self.effect.role.startswith(_WORKERS)
            seconds = WORKER_FROZEN_SECONDS if is_worker else LAMBDA_FROZEN_SECONDS
            self.over_at = self.hit_at + seconds
            timer = threading.Timer(seconds, _let_go_on, [question["pid"]])
            timer.daemon = True
            timer.start()
        return verdict


@dataclass(frozen=True, slots=True)
class Seen:
    """A side effect that a process was about to do."""

    at: float
    effect: Effect
    #: Of the effect for the batch, from 1.
    occurrence: int


@dataclass(slots=True)
class Controller:
    """Answers the processes of one fleet. Says `go` unless a fault is set."""

    address: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _faults: list[Fault] = field(default_factory=list)
    _counts: Counter[tuple[str, Effect]] = field(default_factory=Counter)
    _of_batch: defaultdict[str, list[Seen]] = field(default_factory=lambda: defaultdict(list))
    _of_nobody: Counter[Effect] = field(default_factory=Counter)
    _of_tag: defaultdict[str, Counter[Effect]] = field(default_factory=lambda: defaultdict(Counter))
    _pids: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    #: The occurrence numbers that a question got before, for its second half.
    _under_way: dict[str, dict[str, int]] = field(default_factory=dict)

    def answer(self, question: dict[str, Any]) -> str:
        """Note a side effect, and say what shall become of it."""
        effect = Effect(question["role"], question["effect"])
        with self._lock:
            self._pids[effect.role].add(question["pid"])
            if question["phase"] == "before":
                occurrences = self._note(effect, question["batches"])
                if not question["batches"]:
                    self._of_nobody[effect] += 1
                if question["tag"]:
                    self._of_tag[question["tag"]][effect] += 1
                self._under_way[question["id"]] = occurrences
            else:
                occurrences = self._under_way.pop(question["id"], {})
                # What a receive brought is known only now.
                occurrences |= self._note(
                    effect, [each for each in question["batches"] if each not in occurrences]
                )
            verdicts = [fault.verdict(question, occurrences) for fault in self._faults]
        return next(filter(None, verdicts), "go")

    def _note(self, effect: Effect, batches: Sequence[str]) -> dict[str, int]:
        for batch in dict.fromkeys(batches):
            self._counts[batch, effect] += 1
            self._of_batch[batch].append(Seen(time.monotonic(), effect, self._counts[batch, effect]))
        return {batch: self._counts[batch, effect] for batch in batches}

    @contextmanager
    def faults(self, *faults: Fault) -> Iterator[None]:
        """Set faults for a block."""
        with self._lock:
            self._faults += faults
        try:
            yield
        finally:
            with self._lock:
                self._faults = [fault for fault in self._faults if not any(fault is each for each in faults)]

    def pids_of(self, role: str) -> set[int]:
        """Return the processes of a role that have asked, and forget them; many may have ended."""
        with self._lock:
            return self._pids.pop(role, set())

    def seen(self, batch_id: str) -> list[Seen]:
        """Return the side effects that named a batch, in order."""
        with self._lock:
            return list(self._of_batch[batch_id])

    def seen_without_batch(self) -> dict[Effect, int]:
        """Return the side effects that named no batch: those of shared processes."""
        with self._lock:
            return dict(self._of_nobody)

    def seen_by(self, tag: str) -> dict[Effect, int]:
        """Return the side effects of the planner with a tag."""
        with self._lock:
            return dict(self._of_tag[tag])


def _let_go_on(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


@contextmanager
def controller() -> Iterator[Controller]:
    """Serve a controller on loopback for a block."""
    made = Controller()

    class Connection(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(OSError, ValueError):
                for line in self.rfile:
                    verdict = made.answer(json.loads(line))
                    self.wfile.write((json.dumps({"verdict": verdict}) + "\n").encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Connection) as server:
        host, port = server.server_address[:2]
        made.address = f"{host!s}:{port}"
        thread = threading.Thread(target=server.serve_forever, name="chaos-controller", daemon=True)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
