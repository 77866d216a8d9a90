"""Hangs of real training that were planted into one rank: named within a bound of the run's own, and requeued."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.monitor.tracebacks import find_stacks
from launcher.recipe import read_recipe
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from tests.support.corpora import make_corpus
from tests.support.counting_runs import PROJECT, run_batch, summary, write_run
from tests.support.training_runs import ASSETS, cpt_recipe, losses, words

PLANTED = """

import os as planted_os, time as planted_time

def planted_hang():
    while planted_os.environ["RANK"] == "1" and planted_os.environ["LAUNCHER_ATTEMPT"] == "0":
        planted_time.sleep(0.1)
"""
IN_COLLECTIVE = """
planted_agree = StepControl.on_step_end
def planted_step_end(self, args, state, control, **others):
    if state.global_step == 15:
        planted_hang()
    planted_agree(self, args, state, control, **others)
StepControl.on_step_end = planted_step_end
"""
IN_DATA = """
planted_read = OrderedSamples.__getitem__
def planted_getitem(self, index):
    if index > 15 * 8:
        planted_hang()
    return planted_read(self, index)
OrderedSamples.__getitem__ = planted_getitem
"""
IN_SAVE = """
planted_seal = CheckpointStore.publish
def planted_publish(self, folder, step, best):
    if step == 15:
        planted_hang()
    planted_seal(self, folder, step, best)
CheckpointStore.publish = planted_publish
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "plant", "doing", "place"),
    [
        pytest.param(
            "jobs/train/stop_callback.py", IN_COLLECTIVE, "training", "in planted_step_end", marks=pytest.mark.long
        ),
        pytest.param(
            "jobs/data/sampling/dataset.py", IN_DATA, "training", "in planted_getitem", marks=pytest.mark.long
        ),
        pytest.param("jobs/train/checkpoint.py", IN_SAVE, "saving", "in planted_publish", marks=pytest.mark.long),
    ],
)
def test_a_rank_that_hangs_is_named_within_a_bound_of_the_runs_own(
    tmp_path: Path, make_cluster: Callable[..., Cluster], module: str, plant: str, doing: str, place: str
) -> None:
    submission, run = prepare(tmp_path, make_cluster)
    for package in ("jobs", "launcher"):
        shutil.copytree(PROJECT / package, run.code / package)
    with (run.code / module).open("a") as file:
        file.write(PLANTED + plant)

    _, said = run_batch(submission, PYTHONPATH=str(run.code))

    assert summary(run) == [("hang", "requeue"), ("finished", "done")], said
    message = read_attempts(run.ledger)[0].message
    bound = float(message.partition("no heartbeat for ")[2].partition("s")[0])
    assert bound < 300, message
    assert f"while {doing}, which took" in message
    assert "rank 0 waits in gloo" in message and "which rank 1 did not come to" in message
    odd = next(one for one in find_stacks({rank: run.rank_log(0, rank) for rank in (0, 1)}) if one.ranks == (1,))
    assert any(place in frame for frame in odd.frames)
    assert "rank 1: " in run.batch_log(0).read_text() and place in run.batch_log(0).read_text()
    assert sorted(losses(run)) == list(range(1, 21))


def prepare(folder: Path, make_cluster: Callable[..., Cluster]) -> tuple[SubmissionDir, RunDir]:
    roots = {"runs": str(folder), "data": str(folder), "models": str(ASSETS), "corpora": str(folder / "corpora")}
    cluster = make_cluster(executor="local", gpus={"device": "cpu"}, roots=roots)
    make_corpus(folder / "corpora" / "words", [words(400)])
    fields = cpt_recipe(resources={"nodes": 2}, limits={"hang": "300s"}, tracking={"log_interval": 5})
    run = RunDir(folder / "run")
    write_run(run, read_recipe(json.dumps(fields)).model_dump(mode="json"), cluster)
    run.code.mkdir()
    submission = SubmissionDir(folder / ".submissions" / "1")
    submission.root.mkdir(parents=True)
    entry = {"run": str(run.root), "fingerprint": RunRecord.read(run.record).fingerprint}
    submission.manifest.write_text(json.dumps(entry) + "\n")
    return submission, run
