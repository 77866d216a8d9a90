"""A rank whose memory is too small, for real: two ranks of a Llama whose forward pass fails, restarted by what the
batch process runs (test_batch.py has the process itself)."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.launch import Launch
from jobs.batch.local_ranks import rank_environment
from jobs.batch.main import main
from launcher.cluster import Cluster
from launcher.recipe import read_recipe
from launcher.run.ledger import read_attempts
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir, SubmissionDir
from tests.support.corpora import make_corpus
from tests.support.counting_runs import PROJECT, summary, write_run
from tests.support.forked_ranks import Forked
from tests.support.memory_limits import make_tight_model, order_of
from tests.support.training_runs import cpt_recipe, losses, train, words

pytestmark = pytest.mark.slow

STEPS = 8
MakeRun = Callable[..., tuple[RunDir, Path]]


@pytest.fixture
def make_run(tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Make a run of two ranks, of which the second has room for `fits` sequences, and the notes of its model."""
    monkeypatch.setenv("LAUNCHER_ATTEMPT", "0")  # for ranks without a batch process, which says it
    monkeypatch.setattr("jobs.batch.local_ranks._start", fork)
    make_corpus(tmp_path / "corpora" / "words", [words(400)])
    cluster = make_cluster(executor="local", gpus={"device": "cpu"})

    def make(name: str, fits: int, after: int = 0, **changes: Any) -> tuple[RunDir, Path]:
        notes = make_tight_model(tmp_path / "models" / name, fits, after=after)
        sections = cpt_recipe(
            model={"path": name, "trust_remote_code": True},
            schedule={"length": f"{STEPS} steps"},
            resources={"gpus_per_node": 2},
            **changes,
        )
        recipe = read_recipe(json.dumps(sections))
        run = RunDir(tmp_path / f"run-{name}")
        write_run(run, recipe.model_dump(mode="json"), cluster)
        run.code.symlink_to(PROJECT)
        return run, notes

    return make


def fork(launch: Launch, rank: int) -> Forked:
    """Start a rank that has imported already."""
    environ = {**rank_environment(launch, rank), "OMP_NUM_THREADS": "1"}
    return Forked(launch.command[2:], environ, launch.run.rank_log(launch.attempt, rank))


def carry_out(run: RunDir) -> tuple[int, str]:
    """Do what the batch process does; return its exit code and what it said."""
    submission = SubmissionDir(run.root.with_name(f"submission-of-{run.root.name}"))
    submission.root.mkdir()
    entry = {"run": str(run.root), "fingerprint": json.loads(run.record.read_text())["fingerprint"]}
    submission.manifest.write_text(json.dumps(entry) + "\n")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    try:
        code = main([str(submission.root), "--local"])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, "".join(path.read_text() for path in sorted(run.logs.rglob("batch.log")))


def test_a_micro_batch_is_halved_until_it_fits_and_nothing_else_changes(make_run: MakeRun) -> None:
    roomy, roomy_notes = make_run("roomy", fits=99, batch={"micro_batch": 4})
    tight, tight_notes = make_run("tight", fits=1, batch={"micro_batch": 4}, limits={"max_failures": 0})
    assert train(roomy, ranks=2).exit_codes == [FINISHED] * 2

    code, said = carry_out(tight)

    assert (code, summary(tight)) == (FINISHED, [("does_not_fit", "restart")] * 2 + [("finished", "done")]), said
    assert [(one.micro_batch, one.max_micro_batch) for one in read_attempts(tight.ledger)] == [
        (4, 2),
        (2, 1),
        (1, None),
    ]
    assert re.search(r"did not fit into a GPU's memory \(rank 1 on \S+: a micro batch of 4 does not fit: CUDA", said)
    assert "a micro batch of 4 does not fit: CUDA out of memory. Tried to" in tight.rank_log(0, 1).read_text()
    assert "micro batch 1 x 4 accumulation steps (`4`, at most 1" in tight.rank_log(2, 0).read_text()
    assert order_of(tight_notes, 2, ranks=2) == order_of(roomy_notes, 0, ranks=2)
    assert losses(tight) == pytest.approx(losses(roomy), abs=1e-5)


def test_a_smaller_micro_batch_goes_on_from_the_checkpoint(make_run: MakeRun) -> None:
    sharded = {"parallel": {"strategy": "full_shard"}, "batch": {"micro_batch": 2}}
    roomy, roomy_notes = make_run("roomy", fits=99, **sharded)
    tight, tight_notes = make_run("tight", fits=1, after=12, **sharded)  # the 7th step, in its first of two passes
    assert train(roomy, ranks=2).exit_codes == [FINISHED] * 2

    assert carry_out(tight)[0] == FINISHED

    failed, last = read_attempts(tight.ledger)
    assert (failed.reason, failed.last_step, last.first_step, last.micro_batch) == ("does_not_fit", 5, 5, 1)
    assert order_of(tight_notes, 1, ranks=2) == order_of(roomy_notes, 0, ranks=2)[5 * 8 :]
    assert losses(tight) == pytest.approx(losses(roomy), abs=1e-5)


def test_a_single_sequence_that_does_not_fit_ends_the_run_and_says_what_to_change(make_run: MakeRun) -> None:
    run, _ = make_run("hopeless", fits=0, batch={"micro_batch": 2})

    code, said = carry_out(run)

    assert (code, summary(run)) == (NEVER_RESTART, [("does_not_fit", "restart"), ("bad_recipe", "stop")]), said
    assert "write `model.activation_checkpointing: full`" in read_attempts(run.ledger)[-1].message
    assert "Traceback" not in run.rank_log(1, 1).read_text()
