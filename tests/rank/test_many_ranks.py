"""How much a start asks of the store grows with the number of ranks: linearly on rank 0, not at all on the others."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.forked_ranks import Forked
from tests.support.training_runs import free_port
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow

MEETS = """
import collections, json, sys
from pathlib import Path
from jobs.rank.ranks import Ranks
from jobs.rank.start_barrier import StartBarrier

rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
calls = collections.Counter()


class Counted:
    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        calls[name] += 1
        return getattr(self._store, name)


ranks = Ranks(rank, size, rank % 8, 8, rank // 8)
barrier = StartBarrier(ranks, lambda number: f"node {number // 8}", "ours", seconds=1200)
barrier._store = Counted(barrier._store)
said = barrier.ask_all({"rank": rank}, lambda reports: {"ranks": [report["rank"] for report in reports]})
barrier.leave()
(folder / f"{rank}.json").write_text(json.dumps({"said": said, "calls": calls}))
"""


@pytest.mark.parametrize("size", [8, pytest.param(128, marks=pytest.mark.long)])
def test_ranks_that_meet_ask_the_store_a_fixed_number_of_times(tmp_path: Path, size: int) -> None:
    environ = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    ranks = [
        Forked(["-c", MEETS, str(rank), str(size), str(tmp_path)], environ, tmp_path / f"{rank}.log")
        for rank in range(size)
    ]
    for rank, process in enumerate(ranks):
        process.wait(PATIENCE)
        assert process.returncode == 0, (tmp_path / f"{rank}.log").read_text()

    found: list[dict[str, Any]] = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(size)]
    assert all(one["said"] == {"ranks": list(range(size))} for one in found)
    first, *others = (one["calls"] for one in found)
    # Its report, the time, the judgement, that it is done, that all are, that it has left; each report, each clock of
    # the others, and the judgement.
    assert (first["set"], first["get"]) == (6, 2 * size)
    assert {(calls["set"], calls["get"]) for calls in others} == {(4, 2)}
