"""The ranks' group: what one rank alone agrees on, its device, and the way to the first node."""

import dataclasses
import gc
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from jobs.rank.process_group import RankGroup, interface_towards, process_group
from jobs.rank.watchdog import WATCHDOG
from launcher.run.paths import RunDir
from tests.support.training_runs import context_of, make_run


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
