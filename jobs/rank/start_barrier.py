"""All ranks start the work together, and leave together after it, over a small store of their own.

The process group of the work does not exist yet while nodes are checked, and is gone while rank 0 still uploads. A rank
that exits early makes srun end the others (`--kill-on-bad-exit`), even rank 0 while it is still writing.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from jobs.rank.ranks import Ranks
from launcher.run import batch_process

START_SECONDS = 300
"""How long ranks wait for each other at the start: images and cold file systems differ by minutes."""

_POLL_SECONDS = 0.05


class MissingRanksError(Exception):
    """Some ranks did not arrive.

    Args:
        message: Which ones, as rank and node.
        nodes: Their nodes, where the fault is clearly theirs and not the waiting rank's.
    """

    def __init__(self, message: str, nodes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


class StartBarrier:
    """Ranks exchange reports here before the work, and leave together after it.

    Rank 0 serves the store, on the port after MASTER_PORT.

    Args:
        ranks: This rank's place.
        where: Names the node of a rank, for messages.
        attempt: Names this attempt, of all runs. Another job's ranks may come to this port: two jobs that start at the
            same moment on one node can choose the same.
        seconds: How long to wait for the others.
    """

    def __init__(self, ranks: Ranks, where: Callable[[int], str], attempt: str, seconds: float = START_SECONDS) -> None:
        from torch.distributed import DistNetworkError, PrefixStore, TCPStore  # type: ignore[attr-defined]

        self._ranks = ranks
        self._where = where
        self._deadline = time.monotonic() + seconds
        self._seconds = seconds
        try:
            store = TCPStore(
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]) + 1,
                is_master=ranks.is_main,
                timeout=timedelta(seconds=seconds),
                wait_for_workers=False,
            )
        except DistNetworkError as error:
            what = "cannot open the start barrier" if ranks.is_main else f"did not arrive within {seconds:g} s"
            raise MissingRanksError(f"{self._name(0)} {what}: {error}") from error
        self._store = PrefixStore(attempt, store)

    def ask_all(self, report: dict[str, Any], judge: Callable[[Sequence[dict[str, Any]]], Any]) -> Any:
        """Collect all reports on rank 0, and give its judgement to all ranks.

        Each report gets `clock`: by how many seconds the rank's clock is ahead of rank 0's. How fast a rank looks adds
        to it.

        Args:
            report: This rank's.
            judge: Applied by rank 0 to all reports, in the order of ranks; its result must fit into JSON.

        Returns:
            The judgement.

        Raises:
            MissingRanksError: names the ranks that did not arrive.
        """
        self._store.set(f"report/{self._ranks.rank}", json.dumps(report))
        if self._ranks.is_main:
            self._store.set("judgement", json.dumps(self._judge(judge)))
        else:
            self._compare_clock()
        judged = json.loads(self._store.get("judgement"))
        if judged["absent"]:
            raise MissingRanksError(judged["absent"], judged["nodes"])
        return judged["said"]

    def _compare_clock(self) -> None:
        if self._wait(["clock"], slack=self._seconds / 10):
            self._store.set(f"clock/{self._ranks.rank}", str(time.time() - float(self._store.get("clock"))))
        if not self._wait(["judgement"], slack=self._seconds / 10):
            raise MissingRanksError(f"{self._name(0)} did not answer within {self._seconds:g} s")

    def leave(self) -> None:
        """Wait until every rank has finished its work.

        There is no time limit: if a rank fails, srun ends all others, and if one hangs, its heartbeats stop.
        """
        self._store.set(f"done/{self._ranks.rank}", "")
        if self._ranks.is_main:
            self._wait_for_all("done")
            self._store.set("all done", "")
        else:  # one key, however many ranks there are
            self._wait_until(["all done"])
        # Rank 0 keeps the store, so it goes last: a client of a store that is gone prints a page of C++ frames.
        self._store.set(f"left/{self._ranks.rank}", "")
        if self._ranks.is_main:
            self._wait_for_all("left")

    def _wait_for_all(self, what: str) -> None:
        self._wait_until([f"{what}/{rank}" for rank in range(self._ranks.world_size)])

    def _wait_until(self, keys: list[str]) -> None:
        while not self._store.check(keys):
            time.sleep(_POLL_SECONDS)

    def _judge(self, judge: Callable[[Sequence[dict[str, Any]]], Any]) -> dict[str, Any]:
        everybody = range(self._ranks.world_size)
        if not self._wait([f"report/{rank}" for rank in everybody]):
            missing = [rank for rank in everybody if not self._store.check([f"report/{rank}"])]
            names = ", ".join(self._name(rank) for rank in missing)
            nodes = sorted({self._where(rank) for rank in missing})
            self._store.set("clock", str(time.time()))  # the others wait for it
            return {"absent": f"{names} did not arrive within {self._seconds:g} s", "nodes": nodes}
        reports = [json.loads(self._store.get(f"report/{rank}")) for rank in everybody]
        self._store.set("clock", str(time.time()))
        clocks = [f"clock/{rank}" for rank in everybody if rank]
        if self._wait(clocks, slack=self._seconds / 20):
            for report, name in zip(reports[1:], clocks, strict=True):
                report["clock"] = float(self._store.get(name))
        return {"absent": "", "said": judge(reports)}

    def _wait(self, keys: list[str], slack: float = 0) -> bool:
        while not self._store.check(keys):
            if time.monotonic() > self._deadline + slack:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._where(rank)}"


def open_start_barrier(ranks: Ranks, where: Callable[[int], str], attempt: str) -> StartBarrier | None:
    """Open the barrier; None for a rank that is alone, or where torch is not installed."""
    if ranks.world_size == 1 or find_spec("torch") is None:
        return None
    return StartBarrier(ranks, where, attempt, float(os.environ.get(batch_process.START_SECONDS) or START_SECONDS))
