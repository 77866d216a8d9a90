"""Reading the logs of a run: which there are, which rank failed first, and following them over attempts."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import RunError
from launcher.monitor.run_state import read_state
from launcher.run.ledger import read_attempts
from launcher.run.log_tail import Tail, split_lines
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord

POLL_SECONDS = 0.5
IDLE_SECONDS = 15
"""After this long without a new line, Slurm is asked whether the run is still alive."""

_TAIL_BYTES = 1 << 20
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Failure:
    """The rank that failed first in an attempt, and why we think so."""

    rank: int
    evidence: str
    log: Path


def attempts_with_logs(run: RunDir) -> list[int]:
    """List the attempts that left logs, oldest first."""
    folders = run.logs.glob("attempt-*") if run.logs.is_dir() else ()
    return sorted(int(digits) for one in folders if (digits := one.name.removeprefix("attempt-")).isdecimal())


def choose_attempt(run: RunDir, attempt: int | None) -> int:
    """Return the attempt asked for, or the newest one.

    Raises:
        RunError: There is no such attempt, or none at all yet.
    """
    known = attempts_with_logs(run)
    if not known:
        raise RunError(f"`{run.root.name}`: has no logs yet; `launcher status {run.root.name}` shows why")
    if attempt is None:
        return known[-1]
    if attempt not in known:
        raise RunError(f"--attempt: `{run.root.name}` has no attempt {attempt}; write one of {_list(known)}")
    return attempt


def rank_logs(run: RunDir, attempt: int) -> dict[int, Path]:
    """Find the logs of an attempt's ranks."""
    found = run.attempt_logs(attempt).glob("rank-*.log")
    return {int(path.stem.removeprefix("rank-")): path for path in sorted(found)}


def choose_rank(run: RunDir, attempt: int, rank: int) -> Path:
    """Return the log of a rank.

    Raises:
        RunError: The attempt has no such rank.
    """
    known = rank_logs(run, attempt)
    if rank not in known and known:
        raise RunError(f"--rank: attempt {attempt} has no rank {rank}; write one of {_list([*known])}")
    return run.rank_log(attempt, rank)


def scheduler_log(run: RunDir) -> Path | None:
    """Find what Slurm itself wrote of the newest job: all there is when the batch script failed at once."""
    submissions = RunRecord.read(run.record).submissions
    if not submissions:
        return None
    path = SubmissionDir(Path(submissions[-1].folder)).slurm_log(submissions[-1].job_id)
    return path if path.is_file() and path.stat().st_size else None


def find_failure(run: RunDir, attempt: int) -> Failure | None:
    """Find the rank that failed first: the one the ledger names, else the earliest log with a traceback."""
    logs = rank_logs(run, attempt)
    noted = next((one for one in read_attempts(run.ledger) if one.number == attempt), None)
    if noted and noted.reason in ("finished", "stopped", "preempted", "time_limit", "pruned"):
        return None
    named = re.search(r"\b(?:rank|task) (\d+)", noted.message) if noted else None
    if noted and named and int(named[1]) in logs:
        return Failure(int(named[1]), noted.message, logs[int(named[1])])
    broken = [rank for rank, path in logs.items() if any(_TRACEBACK in line for line in read_tail(path, None))]
    if not broken:
        return None
    first = min(broken, key=lambda rank: (logs[rank].stat().st_mtime, rank))
    return Failure(first, "the earliest traceback", logs[first])


def read_tail(path: Path, count: int | None, most_bytes: int = _TAIL_BYTES) -> list[str]:
    """Read the last `count` lines, all if None; of a very long log at most the last mebibyte, or `most_bytes`."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        size = file.seek(0, 2)
        start = 0 if count is None else max(0, size - most_bytes)
        file.seek(start)
        lines = split_lines(file.read())
    lines = lines[1:] if start else lines
    return lines if count is None else lines[max(0, len(lines) - count) :]


@dataclass
class Follower:
    """Yields new lines of some logs, over all attempts, until the run is over.

    Args:
        run: The run.
        choose: Label and path of the logs to follow in an attempt.
        attempt: Where to start.
        across: Whether to continue with the next attempts.
        is_over: Asked when no line came for a while: whether the run is over.
    """

    run: RunDir
    choose: Callable[[int], Mapping[str, Path]]
    attempt: int
    across: bool
    is_over: Callable[[], bool]
    _tails: dict[Path, Tail] = field(default_factory=dict)

    def lines(self) -> Iterator[tuple[int, str, str]]:
        """Yield attempt, label and line."""
        quiet_since = time.monotonic()
        while True:
            over = self._attempt_is_over()  # asked before reading, so that its last lines are read
            for label, line in self._new_lines():
                quiet_since = time.monotonic()
                yield self.attempt, label, line
            if over and not self._go_on():
                return
            if time.monotonic() - quiet_since > IDLE_SECONDS:
                quiet_since = time.monotonic()
                if self.is_over():
                    return
            time.sleep(POLL_SECONDS)

    def _attempt_is_over(self) -> bool:
        noted = {one.number: one for one in read_attempts(self.run.ledger)}
        later = any(number > self.attempt for number in attempts_with_logs(self.run))
        return later or (self.attempt in noted and noted[self.attempt].action is not None)

    def _go_on(self) -> bool:
        """Move to the next attempt if there is one; return whether to keep waiting."""
        if not self.across:
            return False
        later = [number for number in attempts_with_logs(self.run) if number > self.attempt]
        if later:
            self.attempt = later[0]
            return True
        return not read_state(self.run).is_terminal  # it may have been resumed, and wait in the queue

    def _new_lines(self) -> Iterator[tuple[str, str]]:
        for label, path in self.choose(self.attempt).items():
            for line in self._tails.setdefault(path, Tail(path)).read():
                yield label, line

    def skip_to_tail(self, count: int) -> None:
        """Start so that the last `count` lines of each log come first."""
        for path in self.choose(self.attempt).values():
            size = path.stat().st_size if path.is_file() else 0
            length = sum(len(line.encode()) + 1 for line in read_tail(path, count))
            self._tails[path] = Tail(path, max(0, size - length))


def _list(numbers: list[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 2 else " or ".join(map(str, numbers))
