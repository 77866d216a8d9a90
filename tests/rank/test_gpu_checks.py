"""GPUs that a rank cannot use: whether the node is at fault, or the user's software."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.rank.context import load_context
from jobs.rank.gpu_checks import GpuFaults, gpu_faults
from jobs.rank.preflight import judge, preflight
from jobs.rank.ranks import Ranks
from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.run.paths import RunDir
from tests.support.counting_runs import Play, write_run

TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"


@pytest.fixture
def found(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> Callable[[int], GpuFaults]:
    """What the first rank finds that wants so many GPUs on its node."""

    def find(gpus: int) -> GpuFaults:
        run = RunDir(tmp_path / f"run-{gpus}")
        write_run(run, Play(gpus_per_node=gpus).recipe.model_dump(mode="json"), make_cluster(gpus={"device": "cuda"}))
        return gpu_faults(load_context(run, 0, Ranks(0, gpus, 0, gpus, 0)))

    return find


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A node with so many GPUs, whose driver says something when one is used."""

    def make(gpus: int, said: str) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise RuntimeError(said)

        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "current_device", refuse)
        monkeypatch.setattr(torch, "ones", refuse)

    return make


def test_a_torch_without_cuda_is_no_fault_of_the_node(
    found: Callable[[int], GpuFaults], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)

    of_node, [said] = found(2)

    assert of_node == []
    assert "has no CUDA" in said
    assert "install a torch that has it" in said


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("said", [TOO_OLD, "CUDA error: CUDA driver version is insufficient for CUDA runtime version"])
def test_a_torch_that_is_too_new_for_the_driver_is_no_fault_of_the_node(
    found: Callable[[int], GpuFaults], machine: Callable[..., None], gpus: int, said: str
) -> None:
    machine(gpus, said)

    of_node, [told] = found(2)

    assert of_node == []
    assert "built for CUDA 13.0" in told


@pytest.mark.parametrize(
    ("gpus", "said", "fault"),
    [
        (0, "Found no NVIDIA driver on your system.", "0 of 2 GPUs are visible"),
        (1, "", "1 of 2 GPUs are visible"),
        (2, "CUDA error: uncorrectable ECC error\nmore", "GPU 0 does not work: CUDA error: uncorrectable ECC error"),
    ],
)
def test_gpus_that_are_missing_or_broken_are_the_fault_of_the_node(
    found: Callable[[int], GpuFaults], machine: Callable[..., None], gpus: int, said: str, fault: str
) -> None:
    machine(gpus, said)

    assert found(2) == ([fault], [])


def test_two_mig_slices_on_a_node_are_refused_and_one_is_not(
    found: Callable[[int], GpuFaults], machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA shows a process only the first of them."""
    machine(1, "broken")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b0f3,MIG-5c11")
    of_node, [said] = found(2)
    assert of_node == []
    assert "resources.gpus_per_node: 1" in said

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b0f3")
    assert found(1) == (["GPU 0 does not work: broken"], [])


def report(rank: int, **changes: Any) -> dict[str, Any]:
    agreed = {"fingerprint": "f", "code": "c", "queued": "f", "faults": [], "shortages": [], "software": []}
    return {"rank": rank, "node": f"gpu0{rank + 1}", **agreed, **changes}


def test_what_the_software_of_all_ranks_lacks_is_said_once_and_no_node_is_unfit() -> None:
    judged = judge([report(rank, software=["no CUDA"], faults=["dirty"] * rank) for rank in range(2)])

    assert (judged.recipe, judged.node, judged.unfit) == ("no CUDA", "", ())


def test_a_node_whose_software_differs_from_that_of_the_others_is_unfit() -> None:
    judged = judge([report(0), report(1, software=["the driver is too old"])])

    assert (judged.recipe, judged.node) == ("", "gpu02: the driver is too old")
    assert judged.unfit == ("gpu02",)


def test_a_run_whose_torch_has_no_cuda_is_refused_and_tells_nothing_of_its_node(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    run = RunDir(tmp_path / "run")
    write_run(run, Play(gpus_per_node=1).recipe.model_dump(mode="json"), make_cluster(gpus={"device": "cuda"}))
    run.attempt_logs(0).mkdir(parents=True)

    with pytest.raises(RunError, match="has no CUDA"):
        preflight(load_context(run, 0, Ranks(0, 1, 0, 1, 0)))

    assert not run.preflight(0).exists()
