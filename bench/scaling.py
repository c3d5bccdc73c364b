"""
How many workers so many batches an hour need: KEDA's formula, simulated with measured service times.

    python -m bench.scaling            print the tables
    python -m bench.scaling --write    write them into docs/scaling.md
    python -m bench.scaling --tables 300 --every 10 [--seconds 30 20 5] [--json]      one case of yours

A second at a time, without randomness. Tables are due together, on multiples of their interval, as `esclusa enqueue` plans
them; each gives a batch, which waits for a free task of each kind of worker in turn. Every POLL_SECONDS KEDA reads the
queue, every SYNC_SECONDS its autoscaler decides. What the manifests in `k8s/` say is said here again; a test compares them.

Sources: KEDA documentation, "AWS SQS Queue" and "Scaling Deployments"; Kubernetes documentation, "Horizontal Pod
Autoscaling", algorithm details and configurable scaling behaviour.
"""

import argparse
import heapq
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "scaling.md"
SERVICE_TIMES: Final = Path(__file__).parent / "service_times.json"

#: KEDA and its autoscaler, as k8s/components/keda has them.
POLL_SECONDS: Final = 30
COOLDOWN_SECONDS: Final = 300
SYNC_SECONDS: Final = 15  # of the autoscaler: what a cluster has if nobody says otherwise
SCALE_UP_PODS: Final = 4
SCALE_UP_PERCENT: Final = 100
SCALE_UP_PERIOD_SECONDS: Final = 30
SCALE_DOWN_WINDOW_SECONDS: Final = 300
SCALE_DOWN_PERCENT: Final = 50
SCALE_DOWN_PERIOD_SECONDS: Final = 60

#: Until a pod that was asked for takes its first message: scheduling, an image that is there, the start of Python. Assumed.
POD_START_SECONDS: Final = 20
#: Between two stages: the gates, which are Lambdas, and the messages. Assumed.
GATES_SECONDS: Final = 3

#: What of its time a task works, at most, if workers are counted out for a steady flow.
UTILISATION: Final = 0.7

#: Of a container that compose runs; compose.workers.yml says nothing else.
TASKS_OF_A_CONTAINER: Final = 1

#: Connections to the ledger: a task has two (its work, and the lease that is renewed meanwhile); a Lambda one.
CONNECTIONS_OF_A_TASK: Final = 2


@dataclass(frozen=True, slots=True)
class Worker:
    """A kind of worker, as the manifests have it."""

    stage: str
    #: Tasks of a pod at the same time; KEDA's `queueLength`.
    concurrency: int
    most_pods: int


WORKERS: Final[Mapping[str, Worker]] = {
    "extractor": Worker("extract", concurrency=2, most_pods=20),
    "processor": Worker("process", concurrency=1, most_pods=20),
    "publisher": Worker("publish", concurrency=1, most_pods=10),
}
#: The same, as compose runs them.
CONTAINERS: Final[Mapping[str, Worker]] = {
    name: replace(worker, concurrency=TASKS_OF_A_CONTAINER) for name, worker in WORKERS.items()
}


def wanted_pods(message_count: int, worker: Worker) -> int:
    """
    Return how many pods KEDA asks for. `message_count`: visible and in flight.

    >>> wanted_pods(7, Worker("extract", concurrency=2, most_pods=20))
    4
    """
    return min(worker.most_pods, math.ceil(message_count / worker.concurrency))


@dataclass(frozen=True, slots=True)
class Case:
    """So many tables, each due so often."""

    table_count: int
    every_minutes: int

    @property
    def batches_per_hour(self) -> int:
        """Batches that are planned in an hour."""
        return self.table_count * 60 // self.every_minutes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a case, from the second round of its tables on."""

    #: The most pods at once, by kind of worker.
    pods: Mapping[str, int]
    #: Pods of all kinds on average.
    mean_pods: float
    #: From planned to published, the slowest batch; None if a round is not done before the next begins.
    slowest_seconds: float | None
    #: The most connections that the tasks of these pods hold.
    ledger_connections: int


CASES: Final = (
    *(Case(count, 60) for count in (100, 1000, 5000)),
    *(Case(count, 15) for count in (10, 100, 1000, 3000)),
    *(Case(count, 5) for count in (10, 100, 1000)),
)
#: Bigger batches: what they cost a task in each stage, and cases of them.
BIG_SECONDS: Final[Mapping[str, float]] = {"extract": 20.0, "process": 20.0, "publish": 10.0}
BIG_CASES: Final = (Case(100, 60), Case(1000, 60), Case(3000, 60), Case(100, 15), Case(500, 15))


@dataclass(slots=True)
class Pods:
    """The pods of one kind of worker with their queue."""

    worker: Worker
    service_seconds: float
    count: int = 0
    #: On their way to the queue: when each comes, and when its batch was planned. In the order of their coming.
    coming: deque[tuple[float, float]] = field(default_factory=deque)
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    #: At work: when each ends, and when its batch was planned.
    busy: list[tuple[float, float]] = field(default_factory=list)
    #: Pods that were asked for and do not work yet: when they will.
    starting: list[float] = field(default_factory=list)

    @property
    def message_count(self) -> int:
        """Messages that are visible or in flight."""
        return len(self.queue) + len(self.busy)

    def work(self, start: float, end: float) -> list[tuple[float, float]]:
        """Let tasks end and begin for a while; return when each batch ended that did, and when it was planned."""
        while self.coming and self.coming[0][0] <= end:
            self.queue.append(self.coming.popleft())
        self.starting = [moment for moment in self.starting if moment > start]
        tasks = (self.count - len(self.starting)) * self.worker.concurrency
        done, now = [], start
        while True:
            while self.queue and len(self.busy) < tasks:
                came_at, planned_at = self.queue.popleft()
                heapq.heappush(self.busy, (max(now, came_at) + self.service_seconds, planned_at))
            if not self.busy or self.busy[0][0] > end:
                return done
            now, planned_at = heapq.heappop(self.busy)
            done.append((now, planned_at))

    def become(self, count: int, now: float) -> None:
        """Add pods, which start first, or take some away: the youngest go, and what is at work is done."""
        if count > self.count:
            self.starting += [now + POD_START_SECONDS] * (count - self.count)
        else:
            del self.starting[max(0, len(self.starting) - (self.count - count)) :]
        self.count = count


@dataclass(slots=True)
class Autoscaler:
    """KEDA, which alone decides between none and one, and the autoscaler that it feeds."""

    pods: Pods
    wanted: int = 0
    last_active: float = -math.inf
    #: What was wanted, and when: pods are taken away only down to the most that was wanted within the window.
    wishes: deque[tuple[float, int]] = field(default_factory=deque)
    #: When the number changed, and what it was before.
    changes: deque[tuple[float, int]] = field(default_factory=deque)

    def poll(self, now: float) -> None:
        """Read the queue."""
        count = self.pods.message_count
        self.wanted = wanted_pods(count, self.pods.worker)
        if count:
            self.last_active = now
            if self.pods.count == 0:
                # No change of the autoscaler's, whose policies count only their own.
                self.pods.become(1, now)
        elif self.pods.count and now - self.last_active >= COOLDOWN_SECONDS:
            self.pods.become(0, now)
            self.wishes.clear()
            self.changes.clear()

    def sync(self, now: float) -> None:
        """Go towards what is wanted, as fast as the policies allow, and never to none."""
        if self.pods.count == 0:
            return
        wish = max(1, self.wanted)
        self.wishes.append((now, wish))
        while self.wishes[0][0] <= now - SCALE_DOWN_WINDOW_SECONDS:
            self.wishes.popleft()
        if wish > self.pods.count:
            before = self._count_at(now - SCALE_UP_PERIOD_SECONDS)
            most = before + max(SCALE_UP_PODS, math.ceil(before * SCALE_UP_PERCENT / 100))
            self._become(max(self.pods.count, min(wish, most)), now)
            return
        before = self._count_at(now - SCALE_DOWN_PERIOD_SECONDS)
        fewest = math.floor(before * (100 - SCALE_DOWN_PERCENT) / 100)
        self._become(min(self.pods.count, max(fewest, *(number for _, number in self.wishes))), now)

    def _become(self, count: int, now: float) -> None:
        if count == self.pods.count:
            return
        self.changes.append((now, self.pods.count))
        while self.changes[0][0] <= now - SCALE_DOWN_PERIOD_SECONDS:
            self.changes.popleft()
        self.pods.become(count, now)

    def _count_at(self, moment: float) -> int:
        """Return how many pods there were after a moment."""
        return next((number for at, number in self.changes if at > moment), self.pods.count)


def simulate(
    case: Case, service_seconds: Mapping[str, float], *, containers: Mapping[str, int] | None = None
) -> Outcome:
    """Run a case, scaled by KEDA from nothing, or with so many containers of each kind all the time."""
    line = [
        Pods(worker, service_seconds[worker.stage], containers[name])
        if containers
        else Pods(worker, service_seconds[worker.stage])
        for name, worker in (CONTAINERS if containers else WORKERS).items()
    ]
    autoscalers = [] if containers else [Autoscaler(pods) for pods in line]
    round_seconds = case.every_minutes * 60
    rounds = max(3, 60 // case.every_minutes)
    most, pod_seconds = [0] * len(line), 0
    latencies: list[float] = []
    for second in range(rounds * round_seconds):
        if second % round_seconds == 0:
            line[0].coming.extend([(second, second)] * case.table_count)
        for autoscaler in autoscalers:
            if second % POLL_SECONDS == 0:
                autoscaler.poll(second)
            if second % SYNC_SECONDS == 0:
                autoscaler.sync(second)
        done: list[tuple[float, float]] = []
        for pods in line:
            pods.coming.extend((ended_at + GATES_SECONDS, planned_at) for ended_at, planned_at in done)
            done = pods.work(second, second + 1)
        if second >= round_seconds:
            latencies += [
                ended_at - planned_at for ended_at, planned_at in done if planned_at >= round_seconds
            ]
            pod_seconds += sum(pods.count for pods in line)
            most = [max(before, pods.count) for before, pods in zip(most, line, strict=True)]
    return Outcome(
        pods=dict(zip(WORKERS, most, strict=True)),
        mean_pods=pod_seconds / ((rounds - 1) * round_seconds),
        slowest_seconds=max(latencies) if len(latencies) == case.table_count * (rounds - 1) else None,
        ledger_connections=sum(
            count * pods.worker.concurrency * CONNECTIONS_OF_A_TASK
            for count, pods in zip(most, line, strict=True)
        ),
    )


def steady_containers(case: Case, service_seconds: Mapping[str, float]) -> dict[str, int]:
    """Return how many containers of each kind are at work for UTILISATION of their time."""
    per_second = case.batches_per_hour / 3600
    return {
        name: max(1, math.ceil(per_second * service_seconds[worker.stage] / worker.concurrency / UTILISATION))
        for name, worker in CONTAINERS.items()
    }


# ---- the page --------------------------------------------------------------------------------------------------


def read_service_seconds(file: Path = SERVICE_TIMES) -> dict[str, float]:
    """Return what a batch costs a task, by stage, as `bench.service_times` measured it."""
    return {stage: time["seconds"] for stage, time in json.loads(file.read_text())["stages"].items()}


def measured_table(file: Path = SERVICE_TIMES) -> str:
    """Return the service times as a table of the page."""
    document = json.loads(file.read_text())
    rows = [
        "| stage | a batch costs a task | slowest of twenty | the work alone | batches an hour and task |",
        "|---|---|---|---|---|",
    ]
    for stage, time in document["stages"].items():
        seconds = time["seconds"]
        rows.append(
            f"| {stage} | {seconds:.2f} s | {time['p95_seconds']:.2f} s | {time['work_seconds']:.2f} s | {3600 / seconds:,.0f} |"
        )
    return "\n".join([*rows, "", f"Of {document['batches']} batches each; {document['machine']}."])


def scaling_table(cases: Sequence[Case], service_seconds: Mapping[str, float]) -> str:
    """Return the cases as a table of the page."""
    rows = [
        (
            "| tables | each every | batches/h | KEDA: most pods | pods on average | all published after | ledger connections "
            "| compose: `--scale` | all published after |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        keda, fixed = simulate(case, service_seconds), steady_containers(case, service_seconds)
        compose = simulate(case, service_seconds, containers=fixed)
        rows.append(
            f"| {case.table_count:,} | {case.every_minutes} min | {case.batches_per_hour:,} | {_told(keda.pods)} "
            f"| {keda.mean_pods:.1f} | {_duration(keda.slowest_seconds)} | {keda.ledger_connections} "
            f"| {_told(fixed)} | {_duration(compose.slowest_seconds)} |"
        )
    return "\n".join(rows)


def _told(pods: Mapping[str, int]) -> str:
    return " + ".join(str(count) for count in pods.values())


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not before the next are due"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"


def written(page: str) -> str:
    """Return the page with its tables made anew."""
    service_seconds = read_service_seconds()
    for name, table in (
        ("measured", measured_table()),
        ("scaling", scaling_table(CASES, service_seconds)),
        ("big", scaling_table(BIG_CASES, BIG_SECONDS)),
    ):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        page = f"{head}{begin}\n{table}\n{end}{tail}"
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, write them, or tell of one case."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scaling.md")
    parser.add_argument("--tables", type=int, metavar="N", help="one case: so many tables")
    parser.add_argument("--every", type=int, default=15, metavar="MINUTES", help="each due so often; 15")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs=len(WORKERS),
        metavar=tuple(worker.stage.upper() for worker in WORKERS.values()),
        help="what a batch costs a task in each stage, if not what was measured",
    )
    parser.add_argument("--json", action="store_true", help="print the case as JSON")
    chosen = parser.parse_args(arguments)
    service_seconds = read_service_seconds()
    if chosen.seconds is not None:
        service_seconds = dict(
            zip((worker.stage for worker in WORKERS.values()), chosen.seconds, strict=True)
        )
    if min(service_seconds.values()) <= 0:
        parser.error(f"expected seconds above 0, found {chosen.seconds}")
    if chosen.write:
        PAGE.write_text(written(PAGE.read_text()))
    elif chosen.tables is None:
        print(f"{measured_table()}\n\n{scaling_table(CASES, service_seconds)}")
    elif chosen.tables < 1 or chosen.every < 1:
        parser.error(f"expected at least one table and one minute, found {chosen.tables} and {chosen.every}")
    elif chosen.json:
        case = Case(chosen.tables, chosen.every)
        outcome, fixed = simulate(case, service_seconds), steady_containers(case, service_seconds)
        document = {**asdict(case), "keda": asdict(outcome), "compose": fixed}
        print(json.dumps(document, indent=2))
    else:
        print(scaling_table([Case(chosen.tables, chosen.every)], service_seconds))


if __name__ == "__main__":
    main()
