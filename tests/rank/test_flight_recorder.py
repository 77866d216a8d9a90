"""Two real ranks, one of which does not come to a collective: what is agreed before, and what is known then."""

from pathlib import Path

import pytest

from launcher.run.collectives import collectives_file, find_waiting
from launcher.run.stacks import group_stacks, parse_dump
from tests.support.forked_ranks import Forked
from tests.support.training_runs import free_port, make_run, rank_environment
from tests.support.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow

PROGRAM = """
import os, sys, time
from pathlib import Path
from jobs.rank.context import load_context
from jobs.rank.process_group import process_group
from jobs.rank.ranks import ranks_from
from jobs.rank.watchdog import WATCHDOG
from launcher.run.paths import RunDir

def stays_away():
    while True:
        time.sleep(0.1)

WATCHDOG.start({**os.environ, "LAUNCHER_HANG_SECONDS": "20"})
context = load_context(RunDir(Path(sys.argv[1])), 0, ranks_from(os.environ))
with process_group(context) as group:
    print(group.any_and_all((False, group.rank == 1), (group.rank + 0.5, 2.0)), flush=True)
    if group.rank == 1:
        stays_away()
    group.barrier()
os._exit(0)
"""


def test_the_rank_that_stays_away_is_named_with_the_place_where_it_is(tmp_path: Path) -> None:
    run, port = make_run(tmp_path), free_port()
    run.attempt_logs(0).mkdir(parents=True)
    logs = {rank: run.rank_log(0, rank) for rank in range(2)}
    ranks = [Forked(["-c", PROGRAM, str(run.root)], rank_environment(rank, 2, 1, port), logs[rank]) for rank in logs]
    try:
        kept = [collectives_file(run.collectives(0), rank) for rank in logs]
        wait_for(lambda: all(path.is_file() for path in kept), "what both ranks kept")
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(PATIENCE)

    for log in logs.values():
        assert "([False, True], [[0.5, 2.0], [1.5, 2.0]])" in log.read_text()
    [waiting] = find_waiting(run.collectives(0), 2)
    assert (waiting.waiting, waiting.behind) == ((0,), (1,))
    assert "gloo" in waiting.name
    dumps = {rank: parse_dump(log.read_text()) for rank, log in logs.items()}
    places = {one.ranks: one.frames for one in group_stacks({rank: dump for rank, dump in dumps.items() if dump})}
    assert any("in barrier" in frame for frame in places[(0,)])
    assert any("in stays_away" in frame for frame in places[(1,)])
