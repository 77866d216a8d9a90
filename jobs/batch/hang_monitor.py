"""How the batch process notices that an attempt hangs, by the heartbeat of `jobs.rank.watchdog`."""

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from jobs.batch.allocation import BatchJob, seconds_of
from launcher.run.collectives import OpenCollective, find_waiting
from launcher.run.heartbeat import Bound, pulse_seconds
from launcher.run.ledger import Attempt, parse_json_lines
from launcher.run.numbers import ranks_in_words
from launcher.run.stacks import TIMEOUT, SharedStack, group_stacks, parse_dump, short_frame

END_SECONDS = 120
"""How long killed ranks may take to end. A process that waits for a dead file system cannot be killed."""

_GRACE = 0.1
"""Share of the limit that ranks get to write their stacks, and collectives to time out by themselves."""
_TAIL_BYTES = 2**18
_NAMED = 4
_FRAMES = 6


class Silence:
    """How long a heartbeat has not been renewed.

    All that counts is that the file's time has changed, never which time it is: clocks differ between nodes and file
    servers. Time in which this process did not run either (Slurm suspends whole jobs) does not count.

    Args:
        heartbeat: The file; until it is there, the silence counts from now on.
        limit: Seconds of silence that mean a hang.
        clock: Tells seconds.
    """

    def __init__(self, heartbeat: Path, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._heartbeat = heartbeat
        self._limit = limit
        self._pulse = pulse_seconds(limit)
        self._clock = clock
        self._looked = clock()
        self._renewed = self._last_renewal()
        self._seconds = 0.0
        self.bound = Bound(limit)
        """How long it may last now."""

    def look(self) -> None:
        """Look at the heartbeat, if the last look is long enough ago."""
        passed = self._clock() - self._looked
        if passed < self._pulse:
            return
        self._looked += passed
        renewed = self._last_renewal()
        if renewed == self._renewed:
            self._seconds += min(passed, 2 * self._pulse)
        else:
            self._seconds, self.bound = 0.0, Bound.read(self._heartbeat, self._limit)
        self._renewed = renewed

    @property
    def is_hang(self) -> bool:
        """Whether the silence is so long that the attempt is to be ended."""
        return self._seconds >= self.bound.seconds + _GRACE * self._limit

    @property
    def explains_failure(self) -> bool:
        """Whether a failure now is probably a collective timeout: collectives wait as long as the limit."""
        return self._seconds >= self._limit - 2 * self._pulse

    def _last_renewal(self) -> int | None:
        try:
            return self._heartbeat.stat().st_mtime_ns
        except OSError:
            return None


class HangMonitor:
    """Watches the heartbeat of one attempt.

    Args:
        job: This start of the batch process.
        attempt: The attempt, whose ranks are about to start.
        limit: `limits.hang`.
    """

    def __init__(self, job: BatchJob, attempt: Attempt, limit: str) -> None:
        self._job = job
        self._attempt = attempt
        self._limit = limit
        self._silence = Silence(job.run.heartbeat(attempt.number), seconds_of(limit))
        self._noticed_at: float | None = None

    def notices(self) -> bool:
        """Tell whether the attempt hangs; True only once."""
        self._silence.look()
        if self.has_noticed or not self._silence.is_hang:
            return False
        self._noticed_at = time.monotonic()
        return True

    @property
    def has_noticed(self) -> bool:
        """Whether a hang was noticed."""
        return self._noticed_at is not None

    @property
    def is_unkillable(self) -> bool:
        """Whether ranks that were killed because of a hang still run."""
        return self._noticed_at is not None and time.monotonic() - self._noticed_at >= END_SECONDS

    def finding(self) -> str:
        """Describe the hang that ranks which have just ended were in; empty if there was none."""
        return self.evidence if self.has_noticed or self._silence.explains_failure else ""

    @cached_property
    def evidence(self) -> str:
        """How far the attempt got, where the stacks are, and which ranks wrote none: stopped, dead or out of reach."""
        run, number = self._job.run, self._attempt.number
        rows = parse_json_lines(_tail(run.metrics))
        steps = [row["step"] for row in rows if row.get("attempt") == number]
        where = f"after step {max(steps)}" if steps else "since the start"
        silent = self._silent
        stacks = f"stacks in {run.attempt_logs(number).relative_to(run.root)}/rank-*.log"
        parts = (f"no heartbeat for {self._silence_in_words()} {where}", *map(str, self._waiting), stacks)
        return "; ".join(parts) + self._without_stacks(silent)

    def stacks(self) -> list[str]:
        """Say where the ranks are, those at the same place together, the odd ones first."""
        dumps = {rank: parse_dump(_tail(log).decode(errors="replace")) for rank, log in self._logs.items()}
        return [_say_stack(one) for one in group_stacks({rank: dump for rank, dump in dumps.items() if dump})]

    def suspects(self) -> tuple[str, ...]:
        """Name the nodes of the ranks that the others waited for, if those are at most half of all ranks."""
        behind = {*self._silent, *(rank for one in self._waiting for rank in one.behind)}
        return tuple(sorted({self._node_of(rank) for rank in behind})) if 2 * len(behind) <= len(self._logs) else ()

    @cached_property
    def _silent(self) -> list[int]:
        return [rank for rank, log in self._logs.items() if not has_stacks(log)]

    @cached_property
    def _waiting(self) -> list[OpenCollective]:
        return find_waiting(self._job.run.collectives(self._attempt.number), self._attempt.world_size)

    def _node_of(self, rank: int) -> str:
        nodes = self._attempt.nodes
        return nodes[min(rank // self._job.ranks_per_node, len(nodes) - 1)]

    @property
    def _logs(self) -> dict[int, Path]:
        ranks = range(self._attempt.world_size)
        return {rank: self._job.run.rank_log(self._attempt.number, rank) for rank in ranks}

    def _silence_in_words(self) -> str:
        bound = self._silence.bound
        doing = f" while {bound.doing}" if bound.doing else ""
        if not bound.longest:
            return f"{self._limit}{doing}"
        return f"{bound.seconds:.0f}s{doing}, which took {bound.longest:.1f}s at most before,"

    def _without_stacks(self, silent: list[int]) -> str:
        if not silent:
            return ""
        named = [f"rank {rank} on {self._node_of(rank)}" for rank in silent[:_NAMED]]
        more = f" and {len(silent) - _NAMED} more" if len(silent) > _NAMED else ""
        return f", but none of {', '.join(named)}{more}"


def _say_stack(stack: SharedStack) -> str:
    """Say who is where: the innermost calls of the main thread, the most recent one first."""
    return f"{ranks_in_words(stack.ranks)}: {' < '.join(short_frame(frame) for frame in stack.frames[:_FRAMES])}"


def has_stacks(log: Path) -> bool:
    """Tell whether the watchdog has written stacks into a rank's log."""
    return any(line.startswith(TIMEOUT.encode()) for line in _tail(log).splitlines())


def _tail(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read()
    except OSError:  # must not end the process that requeues the run
        return b""
