"""What the project is for: runs of 2 nodes x 2 ranks, hybrid shard, real abstracts, that survive whatever happens."""

from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.devcluster.chaos import ChaosReport, ChaosTarget, Storm, Strike, differing_steps
from launcher.devcluster.chaos.process_faults import KillRank
from launcher.devcluster.chaos.slurm_faults import Preempt, ReachTimeLimit
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, published_steps
from tests.slurm.site import (
    Site,
    ended,
    joined_losses,
    logs_text,
    record,
    recorded_losses,
    steps_by_attempt,
)
from tests.support.time_accounts import account_of, seconds_by_the_clock
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

PLANTED = {"WANDB_API_KEY": "local-planted-key-0123456789abcdef", "HF_TOKEN": "hf_planted_token_value_never_written"}


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    site = Site(devcluster, secrets=PLANTED)
    site.prepare_corpus()
    return site


@pytest.fixture(scope="module")
def uninterrupted(site: Site) -> RunDir:
    run = site.submit_rehearsal()
    site.wait_until_finished(run)
    return run


@pytest.fixture(scope="module")
def storm(site: Site) -> tuple[RunDir, ChaosReport]:
    """60 steps with one preemption, one time limit and one `kill -9` of a rank, by `launcher devcluster chaos`."""
    run = site.submit_rehearsal()

    def resume() -> None:
        raise AssertionError(f"{run.root} did not come back by itself:\n{logs_text(run)}")

    storm = Storm(ChaosTarget(run, site.cluster), resume)
    strikes = [
        Strike(number, fault, "training", part, seed=number)
        for number, (fault, part) in enumerate(((Preempt, 0.14), (ReachTimeLimit, 0.3), (KillRank, 0.6)))
    ]
    return run, storm.carry_out(strikes, seed=0)


@pytest.fixture(scope="module")
def interrupted(storm: tuple[RunDir, ChaosReport]) -> RunDir:
    return storm[0]


def test_every_parameter_is_sharded_in_the_node_and_replicated_between_nodes(uninterrupted: RunDir) -> None:
    [line] = [line for line in uninterrupted.rank_log(0, 0).read_text().splitlines() if line.startswith("parameters:")]

    assert line == "parameters: DTensor (Replicate(), Shard(dim=0)) on mesh (2, 2)"


def test_an_interrupted_run_has_the_losses_of_an_uninterrupted_one(uninterrupted: RunDir, interrupted: RunDir) -> None:
    expected = joined_losses(uninterrupted)

    assert sorted(expected) == list(range(1, 61))
    assert list(expected.values()) == recorded_losses("biomed-llama-cpt")
    assert joined_losses(interrupted) == expected
    assert differing_steps(interrupted.metrics, uninterrupted.metrics) == []


def test_the_ledger_tells_why_each_attempt_ended(interrupted: RunDir) -> None:
    reasons = [attempt.reason for attempt in read_attempts(interrupted.ledger)]

    assert reasons[:2] == ["preempted", "time_limit"]
    assert reasons[2] in ("error", "killed")
    assert reasons[3:] == ["finished"]


def test_graceful_stops_redo_no_step_and_a_kill_at_most_the_interval(interrupted: RunDir) -> None:
    steps = steps_by_attempt(interrupted)

    assert steps[1][0] == steps[0][-1] + 1
    assert steps[2][0] == steps[1][-1] + 1
    assert 0 <= steps[2][-1] - (steps[3][0] - 1) <= 10


def test_what_each_fault_cost_is_told(storm: tuple[RunDir, ChaosReport]) -> None:
    run, report = storm
    preempted, out_of_time, killed = report.costs

    assert [cost.exit_reason for cost in report.costs][:2] == ["preempted", "time_limit"]
    assert [(cost.attempts, cost.recovery) for cost in report.costs] == 3 * [(1, "came back")]
    assert (preempted.redone, out_of_time.redone) == (0, 0)
    steps = steps_by_attempt(run)
    assert killed.redone == steps[2][-1] - (steps[3][0] - 1)
    assert all(cost.seconds is not None and cost.seconds > 0 for cost in report.costs)


def test_the_seconds_of_all_kinds_are_those_of_the_clock(interrupted: RunDir) -> None:
    account = account_of(interrupted)

    assert account.seconds() == pytest.approx(seconds_by_the_clock(interrupted), abs=1)
    assert account.seconds("idle") == 0


def test_a_run_is_one_wandb_run(interrupted: RunDir) -> None:
    segments = sorted(interrupted.wandb.rglob("offline-run-*"))

    assert len({segment.name.rsplit("-", 1)[1] for segment in segments}) == 1
    assert segments[0].name.endswith(record(interrupted).wandb_id)


def test_no_secret_of_the_environment_is_in_the_run_directory(uninterrupted: RunDir, interrupted: RunDir) -> None:
    files = [path for run in (uninterrupted, interrupted) for path in run.root.rglob("*") if path.is_file()]
    files += [path for path in (uninterrupted.root.parent / ".submissions").rglob("*") if path.is_file()]

    guilty = [path for path in files for value in PLANTED.values() if value.encode() in path.read_bytes()]

    assert len(files) > 30
    assert guilty == []


def test_a_finished_run_that_is_requeued_does_nothing(site: Site, uninterrupted: RunDir) -> None:
    attempts = read_attempts(uninterrupted.ledger)
    job = record(uninterrupted).submissions[-1].job_id

    site.slurm("scontrol", "requeue", job)
    wait_for(lambda: "JobState=COMPLETED" in site.slurm("scontrol", "show", "job", job), "the requeued job")

    assert read_attempts(uninterrupted.ledger) == attempts
    assert "Restarts=1" in site.slurm("scontrol", "show", "job", job)


def test_on_one_node_instead_of_two_the_data_and_the_losses_go_on(site: Site, uninterrupted: RunDir) -> None:
    run = site.submit_rehearsal()
    site.stop(run, step=12)
    assert site.wait_until_ended(run).reason == "stopped"

    site.launcher("resume", run.root, "--nodes", "1")
    wait_for(lambda: ended(run) and read_attempts(run.ledger)[-1].reason == "finished", "the end on one node", 600)

    attempts, losses = read_attempts(run.ledger), joined_losses(run)
    assert [attempt.world_size for attempt in attempts] == [4, 2]
    assert losses == pytest.approx(joined_losses(uninterrupted), abs=1e-5)


def test_broken_checkpoints_are_quarantined_and_named(site: Site) -> None:
    checkpoint = ("checkpoint.interval=4 steps", "checkpoint.keep=5")
    one_node = ("resources.nodes=1", "batch.global_batch=8 sequences")
    run = site.submit_rehearsal(*one_node, "schedule.length=40 steps", *checkpoint)
    site.stop(run, step=18)
    site.wait_until_ended(run)
    *_, older, middle, newest = [run.checkpoint(step) for step in published_steps(run)]
    (newest / "COMPLETE").unlink()
    _flip_a_byte(middle)
    _lose_the_optimizer(older)

    site.launcher("resume", run.root)
    wait_for(lambda: len(read_attempts(run.ledger)) == 2 and ended(run), "the end of the resumed run", 600)

    log = run.rank_log(1, 0).read_text()
    assert read_attempts(run.ledger)[-1].reason == "finished", logs_text(run)
    for folder in (newest, middle, older):
        assert any(folder.name in path.name for path in (run.checkpoints / "quarantine").iterdir())
        assert folder.name in log
    assert sorted(joined_losses(run)) == list(range(1, 41)), "redone steps had the same losses"
    assert steps_by_attempt(run)[1][0] < steps_by_attempt(run)[0][-1] - 8


def _flip_a_byte(checkpoint: Path) -> None:
    victim = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)


def _lose_the_optimizer(checkpoint: Path) -> None:
    victims = [path for path in checkpoint.rglob("*") if path.is_file() and "optimizer" in str(path)]
    assert victims
    for path in victims:
        path.unlink()
