"""Faults of time: a clock that is wrong, and a file system that is slow."""

import os
import signal
import subprocess
from pathlib import Path
from random import Random

from typing_extensions import override

from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.process_faults import choose_rank
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.devcluster.cluster import DevCluster
from launcher.devcluster.machine import program
from launcher.devcluster.processes import Process, wait_until
from launcher.errors import LauncherError

OFFSETS = (-300, -20, 20, 300)
"""Seconds by which a clock is wrong: few enough to train, or so many that the preflight check refuses the node."""
_SOURCE = Path(__file__).with_name("wrong_clock.c")
SECONDS_A_CALL = 0.5
"""By which each flush and each rename takes longer on a slow file system."""
_SLOW_CALLS = "fsync,fdatasync,rename,renameat,renameat2"
_PATIENCE = 20


class SkewClock(ChaosFault):
    """The clock of a node is wrong when the next attempt starts there, and is set right while it trains."""

    name = "skew-clock"
    phases = ("training",)
    until = "steps again"

    def __init__(self) -> None:
        self._node = ""

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """A library gives programs another time; it has to be built."""
        return "" if program("cc") else "there is no C compiler `cc` (Debian: `apt-get install gcc libc6-dev`)"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Set the clock of one of the run's nodes, and kill a rank."""
        self._node, offset = rng.choice(target.attempts[-1].nodes), self.choose_offset(rng)
        set_clock(target.cluster, self._node, offset)
        number, process = choose_rank(target, rng)
        process.send(signal.SIGKILL)
        return f"the clock of {self._node} is wrong by {offset:+d} s; kill -9 of rank {number}"

    def choose_offset(self, rng: Random) -> int:
        """Draw by how many seconds the clock is ahead."""
        return rng.choice(OFFSETS)

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Set the clock right, also that of the processes which started with the wrong one."""
        _environment_of(target.cluster, self._node).unlink(missing_ok=True)
        _offset_of(target.cluster, self._node).write_text("0\n", encoding="utf-8")


def set_clock(cluster: DevCluster, node: str, offset: int) -> None:
    """Give all that starts on a node from now on a clock that is wrong.

    Time that only passes (CLOCK_MONOTONIC) is left alone: no administrator and no NTP changes that.

    Args:
        cluster: Which cluster.
        node: Which of its nodes.
        offset: Seconds by which it is ahead.
    """
    offsets = _offset_of(cluster, node)
    offsets.write_text(f"{offset}\n", encoding="utf-8")
    variables = {"LD_PRELOAD": _build(cluster), "WRONG_CLOCK": offsets}
    lines = "".join(f"export {name}={value}\n" for name, value in variables.items())
    _environment_of(cluster, node).write_text(lines, encoding="utf-8")


def _build(cluster: DevCluster) -> Path:
    """Build the library that gives programs another time, once per dev cluster.

    libfaketime would do, but its 0.9.10 breaks `time.sleep` or `Event.wait` of Python 3.11.
    """
    library = cluster.layout.node_environments / "wrong_clock.so"
    if not library.exists():
        draft = library.with_suffix(".draft")
        argv = [program("cc") or "cc", "-O1", "-shared", "-fPIC", "-o", str(draft), str(_SOURCE), "-ldl"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LauncherError(f"chaos: {_SOURCE.name} cannot be built: {done.stderr.strip()}")
        draft.replace(library)
    return library


class SlowDisk(ChaosFault):
    """Each flush and each rename takes half a second longer, as on a file server with too much to do."""

    name = "slow-disk"
    phases = ("training", "saving")
    until = 15.0

    def __init__(self) -> None:
        self._tracers: list[subprocess.Popen[bytes]] = []

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """It needs strace, and the right to trace processes that are not one's children."""
        if program("strace") is None:
            return "strace is not installed (Debian: `apt-get install strace`)"
        scope = Path("/proc/sys/kernel/yama/ptrace_scope")
        limit = int(scope.read_text()) if scope.exists() else 0
        return "" if limit == 0 or (limit < 3 and os.geteuid() == 0) else f"{scope} keeps strace from the ranks"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Trace all ranks, and delay what they ask the file system for."""
        for rank in target.ranks().values():
            self._tracers.append(_delay(rank))
        for rank in target.ranks().values():
            wait_until(lambda rank=rank: _is_traced(rank), _PATIENCE, "strace has found the rank")  # type: ignore[misc]
        return f"flushes and renames take {SECONDS_A_CALL:g} s longer for {self.until:g} s"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Leave the ranks alone again."""
        for tracer in self._tracers:
            tracer.send_signal(signal.SIGINT)
        for tracer in self._tracers:
            tracer.wait(_PATIENCE)
        self._tracers.clear()


def _delay(rank: Process) -> "subprocess.Popen[bytes]":
    inject = f"inject={_SLOW_CALLS}:delay_enter={SECONDS_A_CALL:g}s"
    argv = [program("strace") or "strace", "-f", "-qq", "-o", os.devnull, "-p", str(rank.pid)]
    argv += ["-e", f"trace={_SLOW_CALLS}", "-e", inject]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _is_traced(rank: Process) -> bool:
    """Tell whether somebody traces all threads of a rank, or it is gone."""
    threads = Path(f"/proc/{rank.pid}/task")
    try:
        told = [(thread / "status").read_text() for thread in threads.iterdir()]
    except OSError:
        return not rank.is_alive
    return all("TracerPid:\t0\n" not in text for text in told)


def _environment_of(cluster: DevCluster, node: str) -> Path:
    folder = cluster.layout.node_environments
    if not folder.is_dir():
        raise LauncherError("chaos: this dev cluster was started by an older launcher; start it again")
    return folder / node


def _offset_of(cluster: DevCluster, node: str) -> Path:
    return cluster.layout.node_environments / f"{node}.offset"
