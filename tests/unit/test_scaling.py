"""The simulation of KEDA decides as KEDA does, and the page about scaling shows what comes of it."""

from datetime import timedelta

import pytest
from support.ledger_rows import NOON, a_batch, an_attempt

from bench import scaling
from bench.scaling import Autoscaler, Case, Pods, Worker, simulate, steady_containers, wanted_pods
from bench.service_times import COLD_BATCHES, service_time
from shared.domain.batches import Attempt

EXTRACTOR = Worker("extract", concurrency=2, most_pods=20)
SECONDS = {"extract": 1.0, "process": 1.0, "publish": 1.0}


def pods_with(message_count: int, *, count: int = 0) -> Pods:
    pods = Pods(EXTRACTOR, service_seconds=10.0, count=count)
    pods.queue.extend([(0.0, 0.0)] * message_count)
    return pods


@pytest.mark.parametrize(("messages", "pods"), [(0, 0), (1, 1), (2, 1), (3, 2), (40, 20), (4000, 20)])
def test_keda_asks_for_as_many_pods_as_messages_need(messages: int, pods: int) -> None:
    assert wanted_pods(messages, EXTRACTOR) == pods


def test_the_first_message_brings_one_pod_at_the_next_look_and_it_takes_time_to_start() -> None:
    pods = pods_with(10)
    autoscaler = Autoscaler(pods)

    autoscaler.poll(30)
    pods.work(30, 31)
    starting = len(pods.busy)
    pods.work(49, 51)
    pods.work(51, 52)

    assert pods.count == 1
    assert starting == 0
    assert len(pods.busy) == EXTRACTOR.concurrency


def test_the_autoscaler_adds_four_pods_or_doubles_them_in_half_a_minute() -> None:
    pods = pods_with(1000)
    autoscaler = Autoscaler(pods)
    counts = []

    for now in range(121):
        if now % 30 == 0:
            autoscaler.poll(now)
        if now % 15 == 0:
            autoscaler.sync(now)
        if now % 30 == 0:
            counts.append(pods.count)

    assert counts == [5, 10, 20, 20, 20]


def counts_after_a_rush(*, messages_left: int) -> dict[int, int]:
    """Return how many pods there are at each second, twenty of them after two minutes when the rush is over."""
    pods = pods_with(40)
    autoscaler = Autoscaler(pods)
    counts = {}
    for now in range(1200):
        if now == 120:
            pods.queue.clear()
            pods.queue.extend([(0.0, 0.0)] * messages_left)
        if now % 30 == 0:
            autoscaler.poll(now)
        if now % 15 == 0:
            autoscaler.sync(now)
        counts[now] = pods.count
    return counts


def test_after_a_rush_half_of_the_pods_go_each_minute_once_five_minutes_are_over() -> None:
    counts = counts_after_a_rush(messages_left=1)

    assert counts[119] == counts[404] == 20
    falling = list(dict.fromkeys(counts[now] for now in range(120, 1200)))
    assert falling == [20, 10, 5, 2, 1]
    assert counts[405] == 10
    assert counts[1199] == 1


def test_without_a_message_all_pods_go_after_the_cooldown() -> None:
    counts = counts_after_a_rush(messages_left=0)

    assert counts[389] == 20
    assert counts[390] == 0


def test_a_pod_that_is_at_work_is_not_scaled_away() -> None:
    pods = Pods(EXTRACTOR, service_seconds=10_000.0, count=1)
    pods.coming.append((0.0, 0.0))
    autoscaler = Autoscaler(pods)

    for now in range(3600):
        pods.work(now, now + 1)
        if now % 30 == 0:
            autoscaler.poll(now)
        if now % 15 == 0:
            autoscaler.sync(now)

    assert (pods.count, len(pods.busy)) == (1, 1)


def test_tasks_of_less_than_a_second_follow_each_other_at_once() -> None:
    pods = Pods(EXTRACTOR, service_seconds=0.25, count=1)
    pods.queue.extend([(0.0, 0.0)] * 100)

    done = pods.work(0, 1)

    assert len(done) == 4 * EXTRACTOR.concurrency
    assert done[-1][0] == 1.0


def test_the_same_case_comes_to_the_same() -> None:
    case = Case(table_count=100, every_minutes=15)

    assert simulate(case, SECONDS) == simulate(case, SECONDS)


def test_workers_that_are_counted_out_keep_up() -> None:
    case = Case(table_count=3000, every_minutes=15)
    enough = steady_containers(case, SECONDS)
    too_few = {**enough, "processor": enough["processor"] // 2}

    assert enough == {"extractor": 5, "processor": 5, "publisher": 5}
    assert simulate(case, SECONDS, containers=enough).slowest_seconds is not None
    assert simulate(case, SECONDS, containers=too_few).slowest_seconds is None


def test_every_task_has_its_connections() -> None:
    outcome = simulate(Case(10, 15), SECONDS, containers={"extractor": 3, "processor": 2, "publisher": 1})

    assert outcome.pods == {"extractor": 3, "processor": 2, "publisher": 1}
    assert outcome.ledger_connections == 2 * (3 + 2 + 1)


def test_the_page_shows_what_the_simulation_says() -> None:
    page = scaling.PAGE.read_text()

    assert page == scaling.written(page), "python -m bench.scaling --write"


def test_one_case_is_told_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(["--tables", "40", "--every", "15", "--json"])

    assert '"table_count": 40' in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tables", "0"],
        ["--tables", "5", "--every", "0"],
        ["--tables", "5", "--seconds", "1", "0", "1"],
        ["--tables", "5", "--seconds", "1"],
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(arguments)


def test_what_a_batch_costs_is_told_from_claim_to_claim_without_those_of_a_cold_process() -> None:
    def attempt(number: int) -> Attempt:
        # The cold ones take a minute each, then one begins each second, and its work is done after half of it.
        seconds = 60.0 * min(number, COLD_BATCHES) + max(0, number - COLD_BATCHES)
        claimed_at = NOON + timedelta(seconds=seconds)
        ended_at = claimed_at + timedelta(seconds=0.5)
        return an_attempt(a_batch(), claimed_at=claimed_at, ended_at=ended_at)

    measured = service_time([attempt(number) for number in reversed(range(COLD_BATCHES + 30))])

    assert (measured.seconds, measured.p95_seconds, measured.work_seconds) == (1.0, 1.0, 0.5)
