"""kind: site_check on four real ranks that believe to be on two nodes; on Slurm in tests/slurm/test_doctor.py."""

import json
import time
from pathlib import Path

import pytest
import torch

from jobs.rank.probes import REPEATS, WARM_UPS
from launcher.artifacts.site_measurements import measurements_of_run
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir
from tests.support.training_runs import make_run_of, start, train

pytestmark = pytest.mark.slow

RECIPE = {
    "kind": "site_check",
    "name": "check",
    "messages": ["1MiB", "2MiB"],
    "file": "1MiB",
    "small_files": 3,
    "resources": {"nodes": 2, "gpus_per_node": 2, "cpus_per_task": 1, "time": "10min"},
}


def make_check(folder: Path, wait: str) -> RunDir:
    run = make_run_of({**RECIPE, "wait": wait}, folder)
    append_event(run.ledger, 0, started=time.time(), nodes=["a", "b"])
    return run


def test_the_first_attempt_measures_and_waits_and_the_second_one_finishes(tmp_path: Path) -> None:
    run = make_check(tmp_path, wait="10min")
    first = start(run, ranks=4, nodes=2)
    while measurements_of_run(run) is None and first.exit_codes == [None] * 4:
        time.sleep(0.1)
    run.stop_request.write_text("{}")

    assert first.wait() == [75] * 4, first.log()
    measured = measurements_of_run(run)
    run.stop_request.unlink()
    append_event(run.ledger, 1, started=time.time(), nodes=["a", "b"])
    assert train(run, ranks=4, nodes=2, attempt=1).exit_codes == [0] * 4

    assert measured == measurements_of_run(run)  # the second attempt did not measure again
    assert measured is not None and (measured.nodes, measured.ranks_per_node) == (("a", "b"), 2)
    assert [rate.bytes for rate in measured.inside] == [rate.bytes for rate in measured.between] == [2**20, 2**21]
    rates = [*measured.inside, *measured.between, measured.write, measured.read]
    assert all(rate is not None and rate.per_second > 0 for rate in rates)
    assert measured.small_files_per_second > 0
    assert not list(run.root.glob(".site-check-*"))
    assert [one.reason for one in read_attempts(run.ledger)] == ["stopped", "finished"]


def test_without_a_stop_request_it_finishes_after_a_while(tmp_path: Path) -> None:
    run = make_check(tmp_path, wait="1s")

    assert train(run, ranks=4, nodes=2).exit_codes == [0] * 4


def test_rates_are_of_what_ranks_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all-reduces that take a known time: four ranks of a node send 1.5 times the message each."""
    from jobs.rank import probes
    from jobs.rank.process_group import RankGroup
    from jobs.rank.ranks import Ranks

    times = iter(range(10_000))
    monkeypatch.setattr(probes.time, "perf_counter", lambda: float(next(times)))  # every reading is a second later
    monkeypatch.setattr(probes.dist, "new_group", lambda members: members)
    asked: list[int] = []
    monkeypatch.setattr(probes.dist, "all_reduce", lambda _, group: asked.append(len(group)))
    group = RankGroup(0, 1, True, torch.device("cpu"), None)

    inside, between = probes.measure_messages(group, Ranks(0, 8, 0, 4, 0), [2**20])

    assert [rate.per_second for rate in inside] == [1.5 * 2**20]
    assert [rate.per_second for rate in between] == [4 * 1.0 * 2**20]  # four ranks of the node at once
    assert asked == [4] * (WARM_UPS + REPEATS) + [2] * (WARM_UPS + REPEATS)


def test_a_full_disk_is_no_failure(tmp_path: Path) -> None:
    run = make_run_of({**RECIPE, "file": "9000TB", "wait": "1s"}, tmp_path)
    append_event(run.ledger, 0, started=time.time(), nodes=["a", "b"])

    assert train(run, ranks=4, nodes=2).exit_codes == [0] * 4
    assert json.loads((run.outputs / "site_check.json").read_text())["write"] is None
