"""ZeRO on another number of ranks than saved the checkpoint, for real: gloo, DeepSpeed and its converter on CPUs."""

import json
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from jobs.train import zero_checkpoint
from launcher.run.paths import FINISHED, RunDir, published_steps
from tests.support.labelled_runs import make_classify_run
from tests.support.training_runs import Attempt, losses, make_run, start, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

STEPS = 12
LORA = {"method": "lora", "r": 8}


def zero_run(folder: Path, **changes: Any) -> RunDir:
    sections: dict[str, Any] = {
        "schedule": {"length": f"{STEPS} steps"},
        "checkpoint": {"interval": "6 steps"},
        # What decays and what does not must stay apart: with so much decay it shows in the losses.
        "optim": {"weight_decay": 10.0, "lr": 5e-3},
    }
    return make_run(folder, **sections | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("universal")


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, RunDir]:
    """Finished runs of two ranks, by what they trained; made when they are asked for."""
    return {}


def finished(uninterrupted: dict[str, RunDir], folder: Path, name: str, **changes: Any) -> RunDir:
    if name not in uninterrupted:
        run = zero_run(folder, **changes)
        assert train(run, ranks=2).exit_codes == [FINISHED] * 2
        uninterrupted[name] = run
    return uninterrupted[name]


def cut_off(run: RunDir, folder: Path) -> RunDir:
    """A copy of a finished run, as if it had been killed after its checkpoint of step 6."""
    copy = RunDir(folder / f"run-{len(list(folder.glob('run-*')))}")
    shutil.copytree(run.root, copy.root)
    shutil.rmtree(copy.outputs)
    shutil.rmtree(copy.checkpoint(STEPS))
    copy.ledger.unlink()
    return copy


CASES = [
    ("zero2", 1, {}),
    ("zero2", 4, {}),
    ("zero3", 1, {}),
    ("zero3", 4, {}),
    ("zero2", 1, {"adapter": LORA}),
    ("zero2", 4, {"adapter": LORA}),
    ("zero3", 1, {"adapter": LORA}),
    ("zero3", 4, {"adapter": LORA}),
    ("zero3", 4, {"precision": {"dtype": "bf16"}}),
]


REPEATED = (("zero3", 1, {}), ("zero3", 4, {"adapter": LORA}))
"""For `make long`: on one rank a killed conversion goes on as well, and on four those of all weights."""


@pytest.mark.parametrize(
    ("strategy", "ranks", "changes"),
    [pytest.param(*case, marks=[pytest.mark.long] * (case in REPEATED)) for case in CASES],
    ids=[f"{s}-on-{n}-{'-'.join(c) or 'full'}" for s, n, c in CASES],
)
def test_a_run_goes_on_with_other_ranks_as_if_nothing_had_happened(
    folder: Path, uninterrupted: dict[str, RunDir], strategy: str, ranks: int, changes: dict[str, Any]
) -> None:
    expected = finished(uninterrupted, folder, f"{strategy} {changes}", parallel={"strategy": strategy}, **changes)
    run = cut_off(expected, folder)
    before = fingerprint(run)

    attempt = train(run, ranks=ranks, attempt=1)

    assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()
    assert f"converting step-00000006 from 2 to {ranks} ranks: done in" in attempt.log()
    assert attempt.steps()[0] == 7
    closeness = 1e-5 if "precision" not in changes else 1e-2
    assert losses(run) == pytest.approx(losses(expected), abs=closeness)
    assert fingerprint(run) == before, "the checkpoint that was converted is as it was"
    assert not (run.checkpoints / ".converted").exists()
    assert published_steps(run) == [6, STEPS]


def fingerprint(run: RunDir) -> dict[str, bytes]:
    checkpoint = run.checkpoint(6)
    return {str(path.relative_to(checkpoint)): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()}


def killed_while_converting(run: RunDir) -> Attempt:
    attempt = start(run, ranks=1, attempt=1, program=("-c", KILLED_HALFWAY))
    attempt.wait()
    return attempt


KILLED_HALFWAY = """
import os, signal, sys
import jobs.__main__ as task
from jobs.train import zero_checkpoint as universal

def wait_and_die(converter, what, target):
    while not list(target.rglob("*.pt")):
        yield
    os.kill(os.getpid(), signal.SIGKILL)

universal._wait_for = wait_and_die
sys.exit(task.main())
"""


def test_a_kill_in_the_middle_of_a_conversion_costs_that_conversion(
    folder: Path, uninterrupted: dict[str, RunDir]
) -> None:
    expected = finished(uninterrupted, folder, "zero3 {}", parallel={"strategy": "zero3"})
    run = cut_off(expected, folder)

    killed = killed_while_converting(run)
    assert killed.exit_codes == [-9]
    assert (run.checkpoints / ".converted").exists()
    last = train(run, ranks=1, attempt=2)

    assert last.exit_codes == [FINISHED]
    assert losses(run) == pytest.approx(losses(expected), abs=1e-5)


def test_a_stop_ends_the_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "step-00000006" / "global_step6").mkdir(parents=True)
    started: list[subprocess.Popen[bytes]] = []

    def start_another(*_: Any) -> "subprocess.Popen[bytes]":
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        return started[0]

    monkeypatch.setattr(zero_checkpoint, "_start_converter", start_another)
    converting = zero_checkpoint._convert(tmp_path / "step-00000006", tmp_path / "converted", "from 2 to 1 ranks")

    next(converting)
    assert started[0].poll() is None
    converting.close()

    assert started[0].poll() == -signal.SIGKILL


BROKEN = """
import sys
import jobs.__main__ as task
from jobs.train import zero_checkpoint as universal

start = universal._start_converter
universal._start_converter = lambda parts, target, log: start(parts.with_name("elsewhere"), target, log)
sys.exit(task.main())
"""


def test_a_conversion_that_fails_says_what_deepspeed_said(folder: Path, uninterrupted: dict[str, RunDir]) -> None:
    run = cut_off(finished(uninterrupted, folder, "zero3 {}", parallel={"strategy": "zero3"}), folder)

    attempt = start(run, ranks=1, attempt=1, program=("-c", BROKEN))

    assert attempt.wait() == [1]
    assert "ds_to_universal ended with 1:" in attempt.log()
    assert "elsewhere" in attempt.log()
    assert published_steps(run) == [6]


def test_the_best_checkpoint_is_found_again_by_other_ranks(folder: Path) -> None:
    run = make_classify_run(folder, parallel={"strategy": "zero3"})
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    before = scores(run)
    assert before["best_step"] < STEPS, "nothing is proven if the best is the last"
    shutil.rmtree(run.outputs)
    run.ledger.unlink()

    attempt = train(run, ranks=1, attempt=1)

    assert attempt.exit_codes == [FINISHED], attempt.log()
    assert f"converting step-{before['best_step']:08d} from 2 to 1 ranks: done" in attempt.log()
    assert scores(run)["best_step"] == before["best_step"]
    after, expected = (found["splits"]["test"]["scores"]["log_loss"]["value"] for found in (scores(run), before))
    assert after == pytest.approx(expected, abs=1e-5)


def scores(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.outputs / "scores.json").read_text())
    return found
