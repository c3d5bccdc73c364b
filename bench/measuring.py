"""What a comparison is: some ways to do the same, tried in turns, each time in a process of its own."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

MIB = 1024 * 1024

Try = Callable[[], "Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What one try took. CPU is that of the client, without the database's."""

    seconds: float
    cpu_seconds: float
    record_count: int
    #: Of the whole process; of a program that is not ours nobody tells.
    peak_mib: float | None = None
    #: Of the local S3 server meanwhile, where one was used.
    s3_cpu_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """That one way is at least so many times as fast as another."""

    way: str
    against: str
    at_least: float


@dataclass(slots=True)
class Comparison:
    """Some ways to do the same, and what came of them."""

    name: str
    targets: Sequence[Target] = ()
    #: No way may take more memory.
    most_mib: float | None = None
    taken: dict[str, list[Taken]] = field(default_factory=dict)

    def run(self, ways: Mapping[str, Try], *, rounds: int) -> None:
        """Try each way once in each round, so that whatever else the machine does hits all of them alike."""
        for number in range(rounds):
            for way, attempt in ways.items():
                taken = attempt()
                self.taken.setdefault(way, []).append(taken)
                say(f"{self.name}, round {number + 1} of {rounds}, {way}: {taken.seconds:.2f} s")

    def median_seconds(self, way: str) -> float:
        """Return how long a way usually takes."""
        return statistics.median(taken.seconds for taken in self.taken[way])

    def ratio(self, target: Target) -> float:
        """Return how many times as fast a way is as the other."""
        return self.median_seconds(target.against) / self.median_seconds(target.way)

    def document(self) -> dict[str, object]:
        """Return it as JSON values."""
        return {
            "comparison": self.name,
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "ways": {way: self._way_document(way) for way in self.taken},
            "targets": [
                {
                    "way": target.way,
                    "against": target.against,
                    "at_least": target.at_least,
                    "ratio": round(self.ratio(target), 3),
                    "is_met": self.ratio(target) >= target.at_least,
                }
                for target in self.targets
            ],
            "most_mib": self.most_mib,
        }

    def table(self) -> str:
        """Return it as text for people."""
        width = max(len(way) for way in self.taken)
        lines = [
            f"{self.name}",
            f"{'':{width}}  {'seconds':>8}  {'krows/s':>8}  {'CPU s':>6}  {'S3 CPU s':>8}  {'peak MiB':>8}",
        ]
        for way, tries in self.taken.items():
            seconds = self.median_seconds(way)
            cpu_seconds = statistics.median(taken.cpu_seconds for taken in tries)
            s3_cpu_seconds = s3_cpu_seconds_of(tries)
            rate = tries[0].record_count / seconds / 1000
            lines.append(
                f"{way:{width}}  {seconds:8.2f}  {rate:8.0f}  {cpu_seconds:6.2f}  "
                f"{'' if s3_cpu_seconds is None else f'{s3_cpu_seconds:.2f}':>8}  {_whole(most_of(tries)):>8}"
            )
        for target in self.targets:
            verdict = "met" if self.ratio(target) >= target.at_least else "MISSED"
            lines.append(
                f"{target.way} is {self.ratio(target):.2f} times as fast as {target.against}; "
                f"at least {target.at_least} is wanted: {verdict}"
            )
        if self.most_mib is not None:
            found = most_of([taken for tries in self.taken.values() for taken in tries]) or 0.0
            verdict = "met" if found < self.most_mib else "MISSED"
            lines.append(f"at most {found:.0f} MiB; less than {self.most_mib:.0f} is wanted: {verdict}")
        return "\n".join(lines)

    def _way_document(self, way: str) -> dict[str, object]:
        tries = self.taken[way]
        return {
            "median_seconds": round(self.median_seconds(way), 3),
            "seconds": [round(taken.seconds, 3) for taken in tries],
            "cpu_seconds": [round(taken.cpu_seconds, 3) for taken in tries],
            "s3_cpu_seconds": s3_cpu_seconds_of(tries),
            "peak_mib": most_of(tries),
            "record_count": tries[0].record_count,
        }


def most_of(tries: Sequence[Taken]) -> float | None:
    """Return the most memory that any try took; None if nobody told."""
    return max((round(taken.peak_mib, 1) for taken in tries if taken.peak_mib is not None), default=None)


def s3_cpu_seconds_of(tries: Sequence[Taken]) -> float | None:
    """Return what a local S3 server usually takes meanwhile; None if there is none."""
    found = [taken.s3_cpu_seconds for taken in tries if taken.s3_cpu_seconds is not None]
    return round(statistics.median(found), 3) if found else None


def _whole(number: float | None) -> str:
    return "" if number is None else f"{number:.0f}"


def machine() -> dict[str, object]:
    """Return what is worth knowing of this machine beside the numbers."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def say(line: str) -> None:
    """Tell who waits how far we are; results go to standard output."""
    print(line, file=sys.stderr, flush=True)


# ---- one try -----------------------------------------------------------------------------------------------


def in_a_process(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Taken:
    """Run a module of ours that measures itself by `measured`, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    return Taken(**json.loads(done.stdout.splitlines()[-1]))


def of_a_command(command: Sequence[str], *, record_count: int) -> Taken:
    """Run a program of somebody else to its end."""
    began_at = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began_at
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command[0])
    # Its `ru_maxrss` begins with what we had when we forked.
    return Taken(seconds, usage.ru_utime + usage.ru_stime, record_count)


@contextmanager
def measured() -> Iterator[Callable[[int], None]]:
    """
    Measure a block of this process, and print it as one line of JSON. The block tells how many records it had.

    Imports and connections made before are no part of the time, as in a worker that is warm; the memory is that of
    the whole process.
    """
    counts: list[int] = []
    began_at, cpu_before = time.perf_counter(), _cpu_seconds()
    yield counts.append
    seconds, cpu_seconds = time.perf_counter() - began_at, _cpu_seconds() - cpu_before
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu_seconds": cpu_seconds,
                "peak_mib": peak_mib(),
                "record_count": counts[-1],
            }
        )
    )


def peak_mib() -> float:
    """Return the most memory that this process ever had; unlike `ru_maxrss`, without that of its parent before."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
