"""
Processes that outlive the command that started them, and never outlive `down`.

    with supervise(home, purpose="up") as supervisor:   # one command at a time
        supervisor.start(ProcessSpec(name="aws", …))     # no-op while it lives
        supervisor.stop_all()                            # and strays, should state.json be lost

A process is known by its pid *and* the time it was created, so that a reused pid is never signalled. Each one
carries `ESCLUSA_SUPERVISED_BY=<home>` in its environment: that is how strays are found. It is a variable of its own
because a person may well export ESCLUSA_HOME, and then their shell carries it too.
"""

import fcntl
import json
import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import IO

import psutil
import structlog

from shared.errors import ConfigurationError, Unavailable

log = structlog.get_logger()

HOME_VARIABLE = "ESCLUSA_HOME"
SUPERVISED_BY_VARIABLE = "ESCLUSA_SUPERVISED_BY"
DEFAULT_HOME = ".esclusa"
SOURCE_ROOT = Path(__file__).resolve().parent.parent

#: The Python of this environment, under the one name it is always started by: `python` and `python3` are two files.
PYTHON = str(interpreter) if (interpreter := Path(sys.prefix) / "bin" / "python").exists() else sys.executable

# psutil derives the creation time from the boot time, which moves when the clock is set.
CREATION_TIME_TOLERANCE_SECONDS = 2.0
STRAY_STOP_SECONDS = 5.0
LOG_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Home:
    """The directory that holds everything a local stack keeps: state, logs, passwords, data."""

    path: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> "Home":
        """Return the home that `ESCLUSA_HOME` names, else `.esclusa` in the current directory."""
        return cls(Path(environment.get(HOME_VARIABLE) or DEFAULT_HOME).absolute())

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def state_file(self) -> Path:
        return self.path / "state.json"

    @property
    def lock_file(self) -> Path:
        return self.path / "lock"

    def log_file(self, name: str) -> Path:
        """Return where the process `name` writes its output."""
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Create the directories. Nobody but the owner may list them."""
        # root starts PostgreSQL as another user, who has to pass through (and cannot list).
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(mode)
        self.logs.mkdir(mode=0o700, exist_ok=True)


class Tier(IntEnum):
    """What is stopped first: the higher tier."""

    #: Databases, AWS, sample sources: others talk to them until they end.
    FOUNDATION = 0
    #: Whatever works against the foundation.
    WORKER = 1


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run, and how to end it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    #: The user to run as; only root can ask for one.
    user: str | None = None
    stop_signal: int = signal.SIGTERM
    #: How long the process may take to end before it is killed.
    stop_seconds: float = 10.0
    tier: Tier = Tier.WORKER


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process that was started. The creation time tells it from a later one with the same pid."""

    name: str
    command: list[str]
    pid: int
    created_at_epoch_seconds: float
    stop_signal: int
    stop_seconds: float
    tier: int


class Supervisor:
    """Starts and stops the processes of one home. Made by `supervise`, which holds the lock meanwhile."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, spec: ProcessSpec) -> bool:
        """
        Start a process in a session of its own; return False if it runs already.

        Raises:
            ConfigurationError: if it runs already with another command line: on another port, say.
            Unavailable: if the program cannot be started.
        """
        for record in read_state(self.home):
            if record.name == spec.name and find_process(record):
                require_same_command(record, spec)
                return False
        with self.home.log_file(spec.name).open("ab") as log_file:
            child = spawn(spec, home=self.home, log_file=log_file)
        self._children[child.pid] = child
        record = record_of(spec, child.pid)
        self._write_state([*(r for r in read_state(self.home) if r.name != spec.name), record])
        log.info("process_started", process=spec.name, pid=child.pid)
        return True

    def is_alive(self, name: str) -> bool:
        """Return whether the named process was started from this home and still runs."""
        self._reap()
        return any(record.name == name and find_process(record) for record in read_state(self.home))

    def wait_until(self, name: str, ready: Callable[[], bool], *, within_seconds: float) -> None:
        """
        Wait until `ready()` is true.

        Raises:
            Unavailable: if the process ends before, or the time is up. The message has the end of its log.
        """
        deadline = time.monotonic() + within_seconds
        while not ready():
            # Asked first: a process that died says more than a timeout does.
            if not self.is_alive(name):
                raise Unavailable(f"{name} ended while it was starting. {tail_of(self.home.log_file(name))}")
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{name} is not ready after {within_seconds:.0f} seconds. {tail_of(self.home.log_file(name))}"
                )
            time.sleep(0.05)

    def stop(self, name: str) -> bool:
        """End the named process and all it started; return False if it did not run."""
        return self._stop([record for record in read_state(self.home) if record.name == name])

    def stop_all(self) -> list[str]:
        """End every process of this home, workers before what they work against, then strays. Return names."""
        records = read_state(self.home)
        living = [record.name for record in records if find_process(record)]
        for tier in sorted({record.tier for record in records}, reverse=True):
            self._stop([record for record in records if record.tier == tier])
        return living + self.sweep_strays()

    def sweep_strays(self) -> list[str]:
        """End what was started from this home and is not in the state file, and return its program names."""
        self._reap()
        recorded = [process for record in read_state(self.home) if (process := find_process(record))]
        known = {process.pid for root in recorded for process in (root, *descendants(root))}
        strays = [process for process in find_supervised(self.home) if process.pid not in known]
        names = [name for process in strays if (name := ask_to_end(process))]
        # Asked first, not killed: the AWS server writes its state when it ends.
        psutil.wait_procs(strays, timeout=STRAY_STOP_SECONDS)
        kill_all(strays)
        self._reap()
        if names:
            log.warning("strays_ended", programs=names)
        return names

    def _stop(self, records: Sequence[ProcessRecord]) -> bool:
        """Ask all of them at once, then wait for each, so that the slowest sets the time."""
        families = [
            (record, process, descendants(process)) for record in records if (process := find_process(record))
        ]
        for record, process, _ in families:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(record.stop_signal)
        deadline = time.monotonic() + max((record.stop_seconds for record in records), default=0.0)
        for record, process, family in families:
            psutil.wait_procs([process], timeout=max(0.0, deadline - time.monotonic()))
            kill_all([process, *family, *group_of(record.pid)])
            log.info("process_stopped", process=record.name, pid=record.pid)
        self._reap()
        ended = {record.name for record in records}
        self._write_state([record for record in read_state(self.home) if record.name not in ended])
        return bool(families)

    def _write_state(self, records: Iterable[ProcessRecord]) -> None:
        text = json.dumps({"version": 1, "processes": [asdict(record) for record in records]}, indent=2)
        write_privately(self.home.state_file, text + "\n")

    def _reap(self) -> None:
        """Collect ended children, which would else stay as zombies of a long-lived command."""
        for pid, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[pid]


@contextmanager
def supervise(home: Home, *, purpose: str) -> Iterator[Supervisor]:
    """
    Hold the home's lock, and give the supervisor of its processes.

    Raises:
        ConfigurationError: if another command holds the lock.
    """
    home.prepare()
    with home.lock_file.open("a+") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock_file.seek(0)
            holder = lock_file.read().strip() or "another command"
            raise ConfigurationError(
                f"{home.path}: {holder} is at work on this stack, so `{purpose}` cannot start; "
                "wait for it to end, or choose another directory with ESCLUSA_HOME"
            ) from error
        lock_file.truncate(0)
        lock_file.write(f"`{purpose}` (pid {os.getpid()})")
        lock_file.flush()
        try:
            yield Supervisor(home)
        finally:
            lock_file.truncate(0)


def read_state(home: Home) -> list[ProcessRecord]:
    """
    Return the processes that were started, dead or alive. Needs no lock: the file is replaced as a whole.

    A file that cannot be read counts as none: what it named is found again as strays.
    """
    try:
        state = json.loads(home.state_file.read_text())
        return [ProcessRecord(**record) for record in state["processes"]]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        log.warning("state_file_unreadable", path=str(home.state_file))
        return []


def living_processes(home: Home) -> dict[str, int]:
    """Return the names and pids of the processes of a home that run now."""
    return {record.name: record.pid for record in read_state(home) if find_process(record)}


def find_process(record: ProcessRecord) -> psutil.Process | None:
    """Return the process that was started, or None if it ended, even if another has its pid now."""
    try:
        process = psutil.Process(record.pid)
        drift_seconds = abs(process.create_time() - record.created_at_epoch_seconds)
        if drift_seconds > CREATION_TIME_TOLERANCE_SECONDS or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def find_supervised(home: Home) -> list[psutil.Process]:
    """Return every process that was started from this home, by its environment; never ourselves or our parents."""
    ourselves = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            marked = process.environ().get(SUPERVISED_BY_VARIABLE) == str(home.path)
            if marked and process.pid not in ourselves and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def spawn(spec: ProcessSpec, *, home: Home, log_file: IO[bytes]) -> subprocess.Popen[bytes]:
    """
    Start a program in a session of its own, with its output in `log_file`.

    Raises:
        Unavailable: if it cannot be started.
    """
    environment = {**inherited_environment(), **spec.environment}
    environment |= {HOME_VARIABLE: str(home.path), SUPERVISED_BY_VARIABLE: str(home.path)}
    try:
        return subprocess.Popen(
            list(spec.command),
            env=environment,
            cwd=spec.directory,
            user=spec.user,
            group=primary_group(spec.user) if spec.user else None,
            extra_groups=[] if spec.user else None,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # The home can be passed through by others if we are root; what is made in it stays ours.
            umask=0o077,
        )
    except OSError as error:
        raise Unavailable(f"{spec.name}: could not start {spec.command[0]}: {error}") from error


def require_same_command(record: ProcessRecord, spec: ProcessSpec) -> None:
    """
    Check that a process that runs is the one wanted.

    Raises:
        ConfigurationError: if it was started with another command line.
    """
    if record.command != list(spec.command):
        raise ConfigurationError(
            f"{record.name} (pid {record.pid}) runs already, but with other settings: expected "
            f"{shlex.join(spec.command)}, found {shlex.join(record.command)}; stop the stack first"
        )


def inherited_environment() -> dict[str, str]:
    """
    Return what a process takes over from the command that starts it.

    Without AWS_*: a profile or an endpoint of the person at the keyboard must not lead to a real account.
    With our own source on the path: a clone need not be installed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    paths = [str(SOURCE_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    return environment | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def record_of(spec: ProcessSpec, pid: int) -> ProcessRecord:
    """Return what to remember of a process that has just been started."""
    return ProcessRecord(
        name=spec.name,
        pid=pid,
        command=list(spec.command),
        created_at_epoch_seconds=psutil.Process(pid).create_time(),
        stop_signal=spec.stop_signal,
        stop_seconds=spec.stop_seconds,
        tier=spec.tier,
    )


def descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return the children of a process, and theirs."""
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def group_of(group_id: int) -> list[psutil.Process]:
    """Return the processes of a process group: also those whose parent has gone."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group_id:
                members.append(process)
    return members


def ask_to_end(process: psutil.Process) -> str | None:
    """Send SIGTERM, and return the program's name; None if the process has ended."""
    with suppress(psutil.NoSuchProcess):
        name = process.name()
        process.terminate()
        return name
    return None


def kill_all(processes: Iterable[psutil.Process]) -> list[str]:
    """Kill what still runs, wait until it has gone, and return the names of the programs killed."""
    killed = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            name = process.name()
            process.kill()
            killed.append((name, process))
    psutil.wait_procs([process for _, process in killed], timeout=5.0)
    return [name for name, _ in killed]


def primary_group(user: str) -> int:
    """Return the group id that the system's user database gives a user."""
    return pwd.getpwnam(user).pw_gid


def tail_of(log_file: Path) -> str:
    """Return the end of a log, for an error message."""
    try:
        lines = log_file.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
    except FileNotFoundError:
        lines = []
    return f"The end of {log_file}:\n" + "\n".join(f"  {line}" for line in lines or ["(empty)"])


def write_privately(path: Path, text: str) -> None:
    """Replace a file as a whole; only its owner may read it, at no instant anyone else."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
