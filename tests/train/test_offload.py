"""DeepSpeed's offload, for real: it takes effect, and the losses are those of a run that keeps all on its device."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from launcher.run.paths import FINISHED, RunDir
from tests.support.labelled_runs import make_classify_run
from tests.support.training_runs import losses, make_run, start, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

PROBE = """
import sys
import jobs.__main__ as task
from jobs.train import trainer

prepare = trainer.GuardedTrainer._prepare_for_training
def spy(self, *arguments):
    prepared = prepare(self, *arguments)
    zero = self.model_wrapped.optimizer
    moved = getattr(zero, "cpu_offload", None) or getattr(zero, "offload_optimizer", None)
    print("FOUND", "optimizer" if moved else "none", "all" if getattr(zero, "offload_param", None) else "", flush=True)
    return prepared
trainer.GuardedTrainer._prepare_for_training = spy
sys.exit(task.main())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("offload")


def small_run(folder: Path, **parallel: Any) -> RunDir:
    return make_run(folder, parallel=parallel, schedule={"length": "8 steps"})


@pytest.fixture(scope="module")
def plain(folder: Path) -> RunDir:
    """Two ranks, nothing sharded."""
    run = small_run(folder, strategy="ddp")
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2
    return run


@pytest.mark.parametrize(
    ("strategy", "offload", "found"),
    [("zero2", "optimizer", "optimizer"), ("zero3", "optimizer", "optimizer"), ("zero3", "all", "optimizer all")],
)
def test_losses_are_those_of_a_run_that_offloads_nothing(
    folder: Path, plain: RunDir, strategy: str, offload: str, found: str
) -> None:
    run = small_run(folder, strategy=strategy, offload=offload)

    attempt = start(run, ranks=2, program=("-c", PROBE))

    assert attempt.wait() == [FINISHED] * 2, attempt.log()
    assert f"FOUND {found}" in attempt.log()
    assert losses(run) == pytest.approx(losses(plain), abs=1e-5)
    assert "deepspeed_shm_comm" not in attempt.log(), "nothing is compiled"


def test_a_head_is_trained_with_offload_as_well(folder: Path) -> None:
    plain = make_classify_run(folder)
    run = make_classify_run(folder, parallel={"strategy": "zero3", "offload": "all"})
    assert train(plain, ranks=2).exit_codes == [FINISHED] * 2

    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    assert losses(run) == pytest.approx(losses(plain), abs=1e-4)
