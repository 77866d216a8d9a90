"""Measurements of `make gpu`, one by one: what they see, what counts as failed or skipped, what the clock measures."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu import checks, our_job
from bench.gpu.device import flash_of, seconds_of
from bench.gpu.measurement import Measurement, Place, environment, reason_to_skip
from bench.gpu.programme import programme
from bench.gpu.trainings import TINY, Training
from launcher.plan.site_checks import LEAST_FLEX_HEAD
from launcher.run.paths import NEVER_RESTART, RunDir
from launcher.run.pauses import Pause
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
PLANNED = {"memory": 0, "checkpoint": 13_200_000_000}


@pytest.mark.parametrize(
    ("device", "visible", "gpus", "seen"),
    [
        ("cuda", None, 1, "0"),
        ("cuda", "3,1", 1, "3"),
        ("cuda", "GPU-12,GPU-34", 1, "GPU-12"),
        ("cuda", "3,1", 2, "3,1"),
        ("cuda", "3,1", 0, "3,1"),
        ("cuda", None, 2, None),
        ("cpu", None, 1, None),
    ],
)
def test_a_measurement_for_one_gpu_sees_the_first_alone(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, gpus: int, seen: str | None
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    found = environment(Measurement("m", "g", "program", gpus=gpus), Place(Path(), device, 2, smallest=False))

    assert found.get("CUDA_VISIBLE_DEVICES") == seen


def test_tests_and_the_list_of_gpus_see_all_of_them() -> None:
    all_seen = [one.name for one in programme(2) if one.gpus == 0]

    assert all_seen == ["machine", "tests, first", "tests, others"]


@pytest.mark.parametrize("package", ["pytest", "pytest_timeout", "hypothesis"])
def test_tests_are_skipped_without_what_they_import(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    (tests,) = (one for one in programme(1) if one.name == "tests, first")
    monkeypatch.setattr("bench.gpu.measurement.find_spec", lambda name: None if name == package else find_spec("json"))

    reason = reason_to_skip(tests, Place(Path(), "cuda", 1, smallest=False), {})

    assert reason == f"needs {package}, which {sys.executable} does not have"


NOTES = [["a", "begins", ""], ["b", "begins", ""], ["c", "begins", ""], ["a", "passed", ""]]


@pytest.mark.parametrize(
    ("further", "code", "expected"),
    [
        ([["b", "skipped", "no GPU"], ["c", "passed", ""]], 0, {"passed": ["a", "c"], "not_run": ["b: no GPU"]}),
        ([["b", "failed", ""]], 1, {"passed": ["a"], "failed": ["b"], "not_run": ["c: pytest ended with 1 before it"],
                                    "why": "failed: b"}),
        ([["a", "failed", ""]], None, {"passed": [], "failed": ["a"], "why": "failed: a",
                                       "not_run": ["b: no time was left", "c: no time was left"]}),
        ([["b", "passed", ""]], None, {"passed": ["a", "b"], "not_run": ["c: no time was left"]}),
        ([], 3, {"passed": ["a"], "why": "pytest ended with 3",
                 "not_run": ["b: pytest ended with 3 before it", "c: pytest ended with 3 before it"]}),
    ],
)  # fmt: skip
def test_tests_that_failed_are_a_failure_and_no_time_is_one_reason_of_several(
    further: Sequence[Sequence[str]], code: int | None, expected: dict[str, Any]
) -> None:
    assert checks.answer([*NOTES, *further], code) == {"failed": [], **expected}


TESTS = """
import os
import pytest
pytestmark = pytest.mark.gpu
def test_one(): pass
def test_two(): assert 0
@pytest.mark.skip(reason="too small")
def test_three(): pass
def test_four(): os._exit(9)
def test_five(): pass
"""


def test_what_was_known_of_tests_is_there_when_pytest_ends_early(tmp_path: Path) -> None:
    (tmp_path / "test_few.py").write_text(TESTS)
    environ = os.environ | {"KIT_SECONDS": str(PATIENCE), "PYTHONPATH": str(ROOT)}
    command = ["-m", "bench.gpu.checks", "--work", str(tmp_path), "--device", "cuda", "others"]
    done = subprocess.run(
        [sys.executable, *command, "--file", str(tmp_path / "test_few.py")],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == {
        "passed": ["test_one"],
        "failed": ["test_two"],
        "not_run": [
            "test_three: too small",
            "test_four: pytest ended with 9 before it",
            "test_five: pytest ended with 9 before it",
        ],
        "why": "failed: test_two",
    }


def test_the_first_tests_are_tests() -> None:
    parsed = ast.parse((ROOT / checks.FILE).read_text(encoding="utf-8"))
    names = {one.name for one in parsed.body if isinstance(one, ast.FunctionDef)}

    assert {name.partition("[")[0] for name in checks.FIRST} <= names


def test_the_model_that_flex_attention_is_tested_with_has_heads_that_are_large_enough() -> None:
    assert TINY["1B"]["head_dim"] >= LEAST_FLEX_HEAD


def ended(folder: Path, code: int) -> tuple[RunDir, list["subprocess.Popen[bytes]"]]:
    """A run whose only rank has ended after three steps."""
    run = RunDir(folder)
    run.attempt_logs(0).mkdir(parents=True)
    run.rank_log(0, 0).write_text("Error: the recipe is wrong\n")
    run.metrics.write_text('{"step": 1}\n' * 3)
    rank = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"])
    rank.wait()
    return run, [rank]


def test_a_rank_that_refuses_the_work_has_failed(tmp_path: Path) -> None:
    run, ranks = ended(tmp_path, NEVER_RESTART)

    with pytest.raises(SystemExit, match="rank 0 ended with exit code 78: Error: the recipe is wrong"):
        our_job.wait_for_steps(run, ranks, 4, saves=False)


def test_a_save_is_waited_for_and_the_first_one_is_told(tmp_path: Path) -> None:
    run, ranks = ended(tmp_path, 0)
    our_job.wait_for_steps(run, ranks, 3, saves=False)
    with pytest.raises(SystemExit, match="exit code 0"):
        our_job.wait_for_steps(run, ranks, 3, saves=True)

    for seconds in (2.0, 30.0):
        Pause(0, 3, "saving", 100.0, seconds).append(run.pauses)

    our_job.wait_for_steps(run, ranks, 3, saves=True)
    assert our_job.waits_for_saves(run) == [2.0, 30.0]


def test_a_training_is_skipped_for_what_is_known_to_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(free=14_000_000_000)
    monkeypatch.setattr("bench.gpu.our_job.shutil.disk_usage", lambda _: free)
    monkeypatch.setattr(our_job, "gpu_memory", lambda device: 40_000_000_000 if device == "cuda" else None)
    monkeypatch.setattr(our_job, "gpu_name", lambda: "Tesla V100")
    monkeypatch.setattr(our_job, "computes_bf16", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")

    def reason(one: Training, device: str = "cpu", memory: int = 0) -> str | None:
        return our_job.reason_against(one, tmp_path, device, {**PLANNED, "memory": memory})

    assert reason(Training("cpt")) is None
    assert (reason(Training("cpt", compile=True)) or "").startswith("there is no `no-such-compiler` on this node")
    assert reason(Training("cpt", saves="wait")) == f"a checkpoint has 13 GB; 14 are free in {tmp_path}"
    assert reason(Training("cpt"), "cuda") == "Tesla V100 does not compute in bf16"
    assert reason(Training("cpt", dtype="fp16"), "cuda") is None
    assert reason(Training("cpt", dtype="fp16"), "cuda", 50_000_000_000) == "plan says 50 GB, and the GPU has 40 GB"


def test_the_memory_in_use_is_that_of_the_gpu_that_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\ncase "$*" in *--id=GPU-ab-12*) echo 300;; *) echo 7;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="ab-12"))

    assert our_job.used_memory("cuda") == 300 * 2**20
    assert our_job.used_memory("cpu") is None


def test_a_gpu_without_a_flash_kernel_is_not_asked_for_it() -> None:
    old: Any = SimpleNamespace(cuda=SimpleNamespace(get_device_capability=lambda _: (7, 5)))

    assert flash_of(old) is None


def test_a_device_is_measured_once_it_has_reached_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0, disturbed=False)

    def work() -> None:
        clock.now += 0.1 if clock.now < 0.4 else 0.01
        if clock.now > 0.53 and not clock.disturbed:
            clock.now, clock.disturbed = clock.now + 5, True

    monkeypatch.setattr("bench.gpu.device.time", SimpleNamespace(perf_counter=lambda: clock.now))

    assert seconds_of(work, lambda: None) == pytest.approx(0.01)
    assert clock.disturbed


COUNTED = """
import sys
import torch

def is_available():
    if torch.cuda._nvml_based_avail() and not torch.cuda._parse_visible_devices():
        return False
    raise SystemExit("CUDA was begun")

torch.cuda.is_available = is_available
import tests.support.fork_server_imports
import bitsandbytes
print("done", "jobs.kinds.cpt" in sys.modules)
"""
"""Does as a torch with CUDA when it is asked for GPUs: it begins to use CUDA unless the driver is to be asked, and then
asks for those alone that are visible."""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_the_process_that_ranks_are_forked_from_does_not_begin_to_use_a_gpu() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout == "done True\n", done.stderr
