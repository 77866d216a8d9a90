"""The ranks' group: what one rank alone agrees on, its device, and the way to the first node."""

import dataclasses
import gc
import json
import os
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from jobs.rank import process_group as processes
from jobs.rank.process_group import RankGroup, interface_towards, process_group, wait_for_main
from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG
from launcher.run.paths import CONTINUE, RunDir
from tests.support.stops import stopped_after
from tests.support.training_runs import context_of, make_run, start

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)


@pytest.fixture(autouse=True)
def _environment_is_put_back() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


def test_one_rank_needs_no_rendezvous_and_agrees_with_itself(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    with process_group(context_of(run)) as group:
        assert dist.get_world_size() == 1
        assert group.any(True, False) == (True, False)
        assert group.from_main("word") == "word"
        assert group.collect(7) == [7]
        group.barrier()

    assert not dist.is_initialized()


def test_a_model_that_was_trained_is_not_the_last_to_hold_its_group(run: RunDir) -> None:
    """Freeing it would wait for gloo's threads with the interpreter's lock held, which they may be waiting for."""

    def train() -> Any:
        with process_group(context_of(run)):
            DistributedDataParallel(torch.nn.Linear(2, 2))
            return weakref.ref(dist.group.WORLD)

    groups = [train(), train()]  # torch itself keeps the first model of a process
    gc.collect()

    assert all(group() is not None for group in groups)


def test_every_agreement_is_a_sign_of_life(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage of a checkpoint and of an export ends in one, so that long ones are no hang."""
    signs: list[str] = []

    with process_group(context_of(run)) as group:
        monkeypatch.setattr(WATCHDOG, "heartbeat", lambda: signs.append("heartbeat"))
        group.any(False)
        group.from_main(1)
        group.collect(1)
        group.barrier()

    assert len(signs) == 4


def test_a_recipe_without_gpus_runs_on_the_cpu(run: RunDir) -> None:
    with process_group(context_of(run)) as group:
        assert group.device == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_node_that_lost_its_gpus_is_named(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    record, recipe = json.loads(run.record.read_text()), json.loads(run.recipe.read_text())
    record["cluster"]["gpus"]["device"] = "cuda"
    recipe["resources"]["gpus_per_node"] = 1
    run.record.write_text(json.dumps(record))
    run.recipe.write_text(json.dumps(recipe))
    monkeypatch.setattr("socket.gethostname", lambda: "gpu07")

    with pytest.raises(RuntimeError, match="node gpu07 has no GPU"), process_group(context_of(run)):
        pass


def test_gloo_is_led_to_the_interface_that_reaches_the_first_node() -> None:
    assert interface_towards("127.0.0.1") == "lo"


def test_a_first_node_that_does_not_resolve_leaves_the_choice_to_gloo() -> None:
    assert interface_towards("no-such-node.invalid") is None


def test_only_rank_zero_is_main() -> None:
    group = RankGroup(rank=1, world_size=2, leads_node=False, device=torch.device("cpu"), control=None)

    assert not group.is_main
    assert dataclasses.replace(group, rank=0).is_main


def steps_of(log: list[str], count: int) -> Iterator[None]:
    try:
        for number in range(count):
            log.append(f"step {number}")
            yield
        log.append("published")
    finally:
        log.append("closed")


def test_a_stop_ends_what_rank_zero_does_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_REPORT_SECONDS", -1)
    log: list[str] = []

    with stopped_after(2):
        wait_for_main(ALONE, partial(steps_of, log, 9))

    assert log == ["step 0", "step 1", "step 2", "closed"]


def test_what_publishes_is_done_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_REPORT_SECONDS", -1)
    log: list[str] = []

    with STOP.heeding(lambda: True):
        wait_for_main(ALONE, partial(steps_of, log, 2), finishes=True)

    assert log == ["step 0", "step 1", "published", "closed"]


ASKED_ALONE = """
import sys, time
from functools import partial
from threading import Event
import jobs.__main__ as task
from jobs.kinds import cpt
from jobs.rank import process_group as processes
from jobs.rank.stop_flag import STOP
from jobs.rank.transfer import transfer

def forever():
    while True:
        yield time.sleep(0.01)

def main(context):
    with processes.process_group(context) as group:
        if group.rank == {rank}:
            STOP.signal = "SIGUSR2"
        {work}

processes._REPORT_SECONDS = 0.1
cpt.main = main
task.exit_codes.append(task.main())
task.end_at_once()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "rank"),
    [("processes.wait_for_main(group, forever)", 1), ("transfer(Event().wait if group.is_main else int)", 1)],
    ids=["rank 0 works", "rank 0 fetches"],
)
def test_all_ranks_leave_together_if_one_is_asked(run: RunDir, work: str, rank: int) -> None:
    stopped = start(run, ranks=2, program=("-c", ASKED_ALONE.format(work=work, rank=rank)))

    assert stopped.wait() == [CONTINUE] * 2, stopped.log()
