"""Faults of processes and nodes: something dies, or stands still."""

import signal
from random import Random

from typing_extensions import override

from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.devcluster.processes import Process
from launcher.errors import LauncherError
from launcher.recipe.quantities import Duration

LONGEST_HANG = 120
"""Seconds that chaos waits until a hang is noticed; `limits.hang` is half an hour where nothing else is said."""


class KillRank(ChaosFault):
    """`kill -9` of one rank."""

    name = "kill-rank"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Kill one of the ranks."""
        number, process = choose_rank(target, rng)
        process.send(signal.SIGKILL)
        return f"kill -9 of rank {number}"


class KillBatchProcess(ChaosFault):
    """`kill -9` of the batch process: with a guardian the run comes back, else a person resumes it."""

    name = "kill-batch-process"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Kill it."""
        process = target.batch_process()
        if process is None:
            raise LauncherError("chaos: the run has no batch process")
        process.send(signal.SIGKILL)
        return "kill -9 of the batch process"


class KillNode(ChaosFault):
    """A power cut of one node, which comes back when the run has left it."""

    name = "kill-node"
    until = 15.0

    def __init__(self) -> None:
        self._node = ""

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Cut the power of one of the run's nodes, and tell slurmctld, which would find out in half a minute."""
        self._node = rng.choice(target.attempts[-1].nodes)
        target.cluster.kill_node(self._node, announce=True)
        return f"power cut of {self._node}"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Switch the node on again."""
        target.cluster.revive_node(self._node)


class FreezeRank(ChaosFault):
    """A rank that stands still for some seconds, as on a node that swaps, and goes on."""

    name = "freeze-rank"
    until = 4.0

    def __init__(self) -> None:
        self._process: Process | None = None

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Stop one rank."""
        number, self._process = choose_rank(target, rng)
        target.freeze(self._process)
        return f"rank {number} stands still for 4 s"

    @override
    def undo(self, target: ChaosTarget) -> None:
        """Let it go on."""
        if self._process is not None:
            target.thaw(self._process)


class HangRank(ChaosFault):
    """A rank that stands still for good, until the hang is noticed."""

    name = "hang-rank"
    phases = ("training",)

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """It takes a run that notices hangs soon."""
        limit = target.recipe["limits"]["hang"]
        if limit is not None and Duration(limit).seconds <= LONGEST_HANG:
            return ""
        return f"limits.hang: `{limit}` is longer than {LONGEST_HANG} s"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Stop one rank."""
        number, process = choose_rank(target, rng)
        target.freeze(process)
        return f"rank {number} stands still"


def choose_rank(target: ChaosTarget, rng: Random) -> tuple[int, Process]:
    """Choose one of the ranks that live.

    Raises:
        LauncherError: There is none.
    """
    ranks = target.ranks()
    if not ranks:
        raise LauncherError("chaos: the run has no ranks")
    number = rng.choice(sorted(ranks))
    return number, ranks[number]
