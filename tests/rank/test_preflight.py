"""What all ranks check before the work, and how they meet for it."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.batch.rendezvous import choose_port
from jobs.rank.context import Context, load_context
from jobs.rank.node_checks import leftover_faults, shared_memory_faults
from jobs.rank.preflight import (
    Judgement,
    UnfitNodeError,
    code_hash,
    judge,
    preflight,
    room_needed,
    space_faults,
    write_faults,
)
from jobs.rank.ranks import Ranks
from jobs.rank.start_barrier import MissingRanksError, StartBarrier
from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import COMPLETE, RunDir
from tests.support.counting_runs import PROJECT, Play, write_run
from tests.support.waiting import PATIENCE, wait_for

NODES = ["gpu01", "gpu02"]


def where(rank: int) -> str:
    return NODES[rank // 2]


@pytest.fixture
def meeting_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(choose_port(10000 + 2 * (os.getpid() % 10000), (10000, 32000))))


def place(rank: int, world_size: int = 4) -> Ranks:
    return Ranks(rank, world_size, rank % 2, 2, rank // 2)


def in_all_ranks(act: Callable[[int], Any], ranks: range = range(4)) -> list[Any]:
    """Run `act(rank)` for all ranks at once; exceptions are results."""

    def caught(rank: int) -> Any:
        try:
            return act(rank)
        except (MissingRanksError, UnfitNodeError, RunError) as error:
            return error

    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(caught, ranks))


@pytest.mark.usefixtures("meeting_place")
def test_all_ranks_hear_one_judgement_of_all_reports_and_leave_together() -> None:
    ready: list[int] = []
    left: list[int] = []
    left_early: list[int] = []

    def meet(rank: int) -> str:
        barrier = StartBarrier(place(rank), where, "ours")
        said = barrier.ask_all({"rank": rank}, lambda reports: str([report["rank"] for report in reports]))
        ready.append(rank)
        if rank == 0:
            wait_for(lambda: len(ready) == 4, "the other ranks")
            left_early.extend(left)
        barrier.leave()
        left.append(rank)
        return said

    assert in_all_ranks(meet) == ["[0, 1, 2, 3]"] * 4
    assert left_early == []
    assert sorted(left) == [0, 1, 2, 3]


@pytest.mark.usefixtures("meeting_place")
def test_ranks_that_do_not_come_are_named_with_their_nodes() -> None:
    def meet(rank: int) -> str:
        return StartBarrier(place(rank), where, "ours", seconds=20 if rank else 1).ask_all({}, lambda _: "")

    for error in in_all_ranks(meet, range(2)):
        assert str(error) == "rank 2 on gpu02, rank 3 on gpu02 did not arrive within 1 s"
        assert error.nodes == ("gpu02",)


@pytest.mark.usefixtures("meeting_place")
def test_a_first_rank_that_does_not_come_is_named() -> None:
    with pytest.raises(MissingRanksError, match="rank 0 on gpu01 did not arrive within 1 s"):
        StartBarrier(place(2), where, "ours", seconds=1)


@pytest.mark.usefixtures("meeting_place")
def test_a_first_rank_whose_port_is_taken_does_not_say_that_it_waited() -> None:
    taken = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1)

    with (
        socket.create_server(taken),
        pytest.raises(MissingRanksError, match=r"rank 0 on gpu01 cannot open the start barrier: .*EADDRINUSE"),
    ):
        StartBarrier(place(0), where, "ours", seconds=1)


@pytest.mark.usefixtures("meeting_place")
def test_a_rank_of_another_run_that_comes_to_the_same_port_is_taken_for_nobody_here() -> None:
    ours = StartBarrier(place(0, world_size=2), where, "ours", seconds=1)
    theirs = StartBarrier(place(1, world_size=2), where, "theirs", seconds=1)

    with pytest.raises(MissingRanksError, match="rank 0 on gpu01 did not answer within 1 s"):
        theirs.ask_all({}, lambda _: "")
    with pytest.raises(MissingRanksError, match="rank 1 on gpu01 did not arrive within 1 s"):
        ours.ask_all({}, lambda _: "")


@pytest.mark.usefixtures("meeting_place")
def test_clocks_are_compared_with_that_of_the_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    own = threading.local()
    real = time.time
    monkeypatch.setattr("jobs.rank.start_barrier.time.time", lambda: real() + getattr(own, "ahead", 0))

    def meet(rank: int) -> str:
        own.ahead = 900 if rank == 2 else 0
        barrier = StartBarrier(place(rank), where, "ours")
        message = barrier.ask_all(report(rank), lambda reports: judge(reports).node)
        barrier.leave()
        return str(message)

    [told] = {*in_all_ranks(meet)}
    assert re.fullmatch(r"gpu02: its clock is 9\d\d s ahead of that of gpu01", told)


def test_a_node_with_a_wrong_clock_is_unfit() -> None:
    found = judge([report(0), report(1, clock=0.4), report(2, clock=-300.0), report(3, clock=0.2)])

    assert found == Judgement(node="gpu02: its clock is 300 s behind that of gpu01", unfit=("gpu02",))


def test_the_node_whose_clock_is_wrong_is_named_also_if_it_is_the_first_one() -> None:
    of_three = [report(0), *(report(rank, node=f"gpu0{rank + 1}", clock=300.0) for rank in (1, 2))]
    told = "gpu01: its clock is 300 s behind that of gpu0"
    assert (judge(of_three).unfit, judge(of_three).node[:-1]) == (("gpu01",), told)

    # Of two nodes files know better, in either order.
    behind, right = report(0, file_clock=-300.0), report(1, node="gpu02", clock=300.0, file_clock=0.1)
    assert judge([behind, right]).unfit == ("gpu01",)
    right, ahead = report(0, file_clock=0.1), report(1, node="gpu02", clock=300.0, file_clock=300.1)
    assert judge([right, ahead]).unfit == ("gpu02",)


def test_without_a_majority_and_without_times_of_files_the_first_node_is_believed() -> None:
    assert judge([report(0), report(1, node="gpu02", clock=300.0)]).unfit == ("gpu02",)


@pytest.mark.parametrize(
    ("free", "total", "is_fault"),
    [
        (0, 64 * 2**30, True),
        (2**29, 64 * 2**30, True),
        (2**30, 64 * 2**30, False),
        (2**26, 2**26, False),
        (0, 0, False),
    ],
)
def test_a_full_dev_shm_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, total: int, is_fault: bool
) -> None:
    space = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_blocks=total // 4096)
    monkeypatch.setattr("jobs.rank.node_checks.os.statvfs", lambda _: space)

    assert [f"{tmp_path} has" in fault for fault in shared_memory_faults(tmp_path)] == [True] * is_fault


def test_a_system_without_dev_shm_is_fine(tmp_path: Path) -> None:
    assert shared_memory_faults(tmp_path / "missing") == []


@pytest.mark.parametrize(("used", "is_fault"), [(2**29, False), (2**31, False), (10 * 2**30, True)])
def test_gpu_memory_that_is_in_use_before_the_work_is_a_fault(used: int, is_fault: bool) -> None:
    total = 80 * 2**30

    assert bool(leftover_faults(1, total - used, total)) is is_fault


def report(rank: int, **changes: Any) -> dict[str, Any]:
    agreed = {"fingerprint": "f", "code": "c", "queued": "f", "faults": [], "shortages": []}
    return {"rank": rank, "node": where(rank), **agreed, **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, Judgement()),
        ({3: {"faults": ["3 of 4 GPUs are visible"]}},
         Judgement(node="gpu02: 3 of 4 GPUs are visible", unfit=("gpu02",))),
        ({0: {"faults": ["x"]}, 1: {"faults": ["x"]}, 3: {"faults": ["y"]}},
         Judgement(node="gpu01: x; gpu02: y", unfit=("gpu01", "gpu02"))),
        ({0: {"shortages": ["full"]}, 3: {"faults": ["y"]}}, Judgement(node="gpu01: full; gpu02: y", unfit=("gpu02",))),
        ({2: {"code": "other"}},
         Judgement("the ranks do not see the same code: rank 2 on gpu02 differ from the others")),
        ({1: {"fingerprint": "g"}, 2: {"fingerprint": "g2"}},
         Judgement("the ranks do not see the same recipe.json: rank 1 on gpu01, rank 2 on gpu02 differ from the "
                   "others")),
        ({rank: {"queued": "q"} for rank in range(4)},
         Judgement("recipe.json is not the recipe that was queued; submit the changed recipe as a new run")),
    ],
)  # fmt: skip
def test_the_judgement_names_the_odd_ones(changes: dict[int, dict[str, Any]], said: Judgement) -> None:
    assert judge([report(rank, **changes.get(rank, {})) for rank in range(4)]) == said


def test_a_run_directory_that_cannot_be_written_is_a_fault(tmp_path: Path) -> None:
    gone = RunDir(tmp_path / "gone")

    [fault] = write_faults(gone)

    assert space_faults(gone, None) == []
    assert fault == f"cannot write and read `{tmp_path}/gone`: No such file or directory"


def test_a_run_directory_where_not_even_the_probe_can_be_removed_is_a_fault(tmp_path: Path) -> None:
    """A file system that has become read-only refuses to remove what is not there, too."""
    [fault] = write_faults(RunDir(tmp_path / ("x" * 300)))

    assert fault.endswith("File name too long")


def test_room_for_another_checkpoint_is_needed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert write_faults(run) + space_faults(run, None) == []
    for step, size in ((10, 1), (20, 10**18)):
        run.checkpoint(step).mkdir(parents=True)
        (run.checkpoint(step) / COMPLETE).write_text(json.dumps({"files": {"model": [size, "0"]}}))

    [fault] = space_faults(run, expected=1)

    assert fault.endswith("GiB left, but the run needs 931322575.6 GiB (1 checkpoint of 931322574.6 GiB)")
    assert list(tmp_path.iterdir()) == [run.checkpoints]  # the probe is gone


def test_before_the_first_checkpoint_the_estimate_tells_the_room_for_two(tmp_path: Path) -> None:
    run, seven_billion = RunDir(tmp_path), 12 * 6_738_415_616

    [fault] = space_faults(run, expected=10**4 * seven_billion)

    assert room_needed(run, seven_billion).total == 2**30 + 2 * seven_billion
    assert fault.endswith("but the run needs 1506154.3 GiB (2 checkpoints of about 753076.6 GiB)")
    assert room_needed(run, None).total == 2**30


def test_the_hash_of_the_code_tells_any_change(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "data").mkdir(parents=True)
    module = tmp_path / "jobs" / "data" / "x.py"
    hashes = []
    for content in ("1", "2"):
        module.write_text(content)
        hashes.append(code_hash(tmp_path))
    module.rename(module.with_name("y.py"))
    hashes.append(code_hash(tmp_path))

    assert len(set(hashes)) == 3


@pytest.fixture
def run(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> RunDir:
    run = RunDir(tmp_path / "run")
    write_run(run, Play(gpus_per_node=0).recipe.model_dump(mode="json"), make_cluster(gpus={"device": "cpu"}))
    append_event(run.ledger, 0, nodes=NODES)
    run.attempt_logs(0).mkdir(parents=True)
    return run


def context_of(run: RunDir, rank: int = 0, world_size: int = 1) -> Context:
    return load_context(run, 0, place(rank, world_size))


def test_a_rank_that_is_alone_needs_no_meeting(run: RunDir) -> None:
    assert preflight(context_of(run)) is None


@pytest.mark.usefixtures("meeting_place")
def test_every_rank_refuses_a_recipe_that_was_changed_after_it_was_queued(run: RunDir) -> None:
    run.recipe.write_text(run.recipe.read_text().replace("stories260k", "stories15m"))

    errors = in_all_ranks(lambda rank: preflight(context_of(run, rank, 4)))

    assert all(isinstance(error, RunError) for error in errors)
    assert not run.preflight(0).exists()


@pytest.mark.usefixtures("meeting_place")
def test_an_unfit_node_is_left_in_the_attempts_folder_for_the_batch_process(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.version.cuda", "13.0")  # or torch would be at fault, not the node
    run = RunDir(tmp_path / "run")
    write_run(run, Play(gpus_per_node=64).recipe.model_dump(mode="json"), make_cluster(gpus={"device": "cuda"}))
    run.attempt_logs(0).mkdir(parents=True)

    errors = in_all_ranks(lambda rank: preflight(context_of(run, rank, 2)), range(2))

    assert all(isinstance(error, UnfitNodeError) for error in errors)
    left = json.loads(run.preflight(0).read_text())
    assert "of 64 GPUs are visible" in left["message"]
    assert left["unfit"] == [os.uname().nodename]


def start_task(run: RunDir) -> "subprocess.CompletedProcess[str]":
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "jobs", str(run.root)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_task_with_a_recipe_it_cannot_read_ends_with_the_code_that_is_never_restarted(run: RunDir) -> None:
    run.recipe.write_text(json.dumps({**json.loads(run.recipe.read_text()), "spelling": 1}))

    done = start_task(run)

    assert done.returncode == 78
    assert "spelling" in done.stderr
    assert "Traceback" not in done.stderr
    (attempt,) = read_attempts(run.ledger)
    assert attempt.fault
    assert done.stderr.startswith(attempt.fault)


def test_a_task_without_its_secret_ends_with_the_code_that_is_never_restarted(
    tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    run = RunDir(tmp_path / "run")
    recipe = {**Play(gpus_per_node=0).recipe.model_dump(mode="json"), "secrets": ["LAUNCHER_TEST_TOKEN"]}
    write_run(run, recipe, make_cluster(gpus={"device": "cpu"}))

    done = start_task(run)

    assert done.returncode == 78
    assert f"rank 0 on {os.uname().nodename}: secrets: `LAUNCHER_TEST_TOKEN` not set" in done.stderr
