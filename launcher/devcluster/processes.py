"""Starting, recognising and ending the daemons of a dev cluster by process id.

A process id alone proves nothing: it may belong to somebody else after a crash or a reboot. A `Process` therefore also
holds the start time of the process and the boot it was started in, and is only signalled while both still match.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from launcher.errors import LauncherError

POLL_SECONDS = 0.05

Value = TypeVar("Value")


@dataclass(frozen=True)
class Process:
    """One process that was seen alive: its id, its start (clock ticks since boot), and the boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """Return the living process with this id, or None when there is none."""
        with contextlib.suppress(ChildProcessError):  # a child of this process would stay a zombie after its end
            os.waitpid(pid, os.WNOHANG)
        fields = _stat_fields(pid)
        if fields is None or fields[0] in "ZX":
            return None
        return cls(pid, int(fields[19]), boot_id())

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.of(self.pid) == self

    def send(self, signal_number: int) -> None:
        """Signal the process if it is still the same one."""
        if self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal_number)

    def write(self, path: Path) -> None:
        """Record the process, for a later `read` by another command."""
        path.write_text(json.dumps(asdict(self)) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Process | None":
        """Return the recorded process if it still runs, else None; a torn record counts as none."""
        try:
            process = cls(**json.loads(path.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return process if process.is_alive else None


def boot_id() -> str:
    """Return what tells this boot of the machine from any other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _stat_fields(pid: int) -> list[str] | None:
    # Fields after the command, which may itself hold spaces and brackets (man 5 proc): state, ppid, ..., starttime.
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def start(argv: list[str], environment: Mapping[str, str], output: Path) -> Process:
    """Start a daemon in its own session, writing to `output`, that outlives this process.

    Raises:
        LauncherError: if it ended at once.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        argv,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    process = Process.of(pid)
    if process is None:
        raise LauncherError(f"devcluster: `{argv[0]}` ended at once; read `{output}`")
    return process


def stop(processes: Iterable[Process], patience: float) -> None:
    """Ask processes to end, wait for them, and kill those that have not ended after `patience` seconds."""
    alive = list(processes)
    for process in alive:
        process.send(signal.SIGTERM)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: not any(process.is_alive for process in alive), patience, "daemons end")
        return
    kill(alive)


def kill(processes: Iterable[Process]) -> None:
    """Kill processes at once and wait until they are gone."""
    alive = list(processes)
    for process in alive:
        process.send(signal.SIGKILL)
    wait_until(lambda: not any(process.is_alive for process in alive), 60, "killed processes disappear")


def wait_until(condition: Callable[[], Value], seconds: float, what: str) -> Value:
    """Ask again and again until the answer is true; return it.

    Raises:
        TimeoutError: if it is still not true after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"devcluster: gave up after {seconds:.0f} s of waiting until {what}")
        time.sleep(POLL_SECONDS)
    return value


def with_descendants(roots: Iterable[int]) -> set[int]:
    """Return the ids of these processes and of all their children, children's children, and so on."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        if (fields := _stat_fields(pid)) is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    family: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting.extend(children.get(pid, ()))
    return family


def all_pids() -> list[int]:
    """Return the ids of all processes of the machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
