"""Single faults on short runs: a wrong clock, a slow disk, a W&B run that somebody deletes."""

import subprocess
from collections.abc import Iterator
from random import Random

import pytest
from typing_extensions import override

from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.chaos import ChaosFault, ChaosReport, ChaosTarget, Storm, Strike, differing_steps
from launcher.devcluster.chaos.process_faults import KillRank
from launcher.devcluster.chaos.slow_faults import SkewClock, SlowDisk, set_clock
from launcher.devcluster.chaos.tracking_faults import DeleteWandbRun
from launcher.errors import RunError
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import RunDir
from launcher.run.pauses import read_pauses
from tests.slurm.conftest import running_cluster
from tests.slurm.site import LAUNCHER, Site, joined_losses, logs_text, record
from tests.support.time_accounts import account_of, seconds_by_the_clock
from tests.support.wandb_server import WandbServer, wandb_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

STEPS = 60
SETTINGS = (
    *("resources.gpus_per_node=1", "parallel.strategy=full_shard", "batch.global_batch=4 sequences"),
    *(f"schedule.length={STEPS} steps", "checkpoint.interval=10 steps", "limits.hang=30s"),
)
KEY = "local-" + "k" * 40


class SkewByMuch(SkewClock):
    """By so much that the preflight check refuses the node."""

    @override
    def choose_offset(self, rng: Random) -> int:
        """Five minutes ahead."""
        return 300


class SkewByLittle(SkewClock):
    """By so little that the run trains with it."""

    @override
    def choose_offset(self, rng: Random) -> int:
        """Behind: what comes later may look earlier."""
        return -20


@pytest.fixture(scope="module")
def cluster() -> Iterator[DevCluster]:
    with running_cluster(Shape(nodes=4, gpus=2)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def site(cluster: DevCluster) -> Site:
    site = Site(cluster)
    site.prepare_corpus()
    return site


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> RunDir:
    run = site.submit_rehearsal(*SETTINGS)
    site.wait_until_finished(run)
    assert sorted(joined_losses(run)) == list(range(1, STEPS + 1))
    return run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server


def break_it(site: Site, run: RunDir, *faults: type[ChaosFault]) -> ChaosReport:
    """Let faults strike a run while it trains, and wait until it has finished."""

    def resume() -> None:
        words = [*LAUNCHER, "resume", str(run.root), "--yes"]
        done = subprocess.run(words, env=site.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(done.stderr)

    strikes = [Strike(place, fault, "training", 0.25 + place / 4, seed=1) for place, fault in enumerate(faults)]
    report = Storm(ChaosTarget(run, site.cluster), resume, print).carry_out(strikes, 1)
    assert [cost.fault for cost in report.costs] == [fault.name for fault in faults], report.skipped
    return report


def assert_seconds_are_right(run: RunDir) -> None:
    """Durations are measured by a clock that only passes, and all kinds of time add up."""
    account = account_of(run)
    assert account.seconds() == pytest.approx(seconds_by_the_clock(run), abs=1), account.by_kind()
    assert all(0 <= pause.seconds < 25 for pause in read_pauses(run.pauses))
    speeds = [row["tokens_per_second"] for row in read_json_lines(run.metrics) if "tokens_per_second" in row]
    assert len(speeds) >= STEPS and all(speed > 0 for speed in speeds)


@pytest.mark.parametrize("fault", [SkewByMuch, SkewByLittle])
def test_a_node_with_a_wrong_clock_costs_an_attempt_at_most(
    site: Site, undisturbed: RunDir, fault: type[ChaosFault]
) -> None:
    run = site.submit_rehearsal(*SETTINGS)

    [cost] = break_it(site, run, fault).costs

    skewed = cost.what.split()[3]
    assert cost.recovery == "came back"
    assert differing_steps(run.metrics, undisturbed.metrics) == [], logs_text(run)
    assert_seconds_are_right(run)
    told = [attempt.message for attempt in read_attempts(run.ledger) if "its clock is" in attempt.message]
    if fault is SkewByMuch:
        assert len(told) == 1 and f"{skewed}: its clock is 300 s ahead of that of" in told[0], logs_text(run)
        assert skewed not in read_attempts(run.ledger)[-1].nodes
    else:
        assert told == [] and len(read_attempts(run.ledger)) == 2
        assert skewed in read_attempts(run.ledger)[-1].nodes


def test_a_clock_is_wrong_on_its_node_alone(cluster: DevCluster) -> None:
    def seconds_on(node: str) -> int:
        return int(cluster.slurm("srun", "--quiet", f"--nodelist={node}", "date", "+%s"))

    set_clock(cluster, "a100-01", 10_000)

    skewed, other = seconds_on("a100-01"), seconds_on("a100-02")
    (cluster.layout.node_environments / "a100-01").unlink()
    assert 9_000 < skewed - other < 11_000
    assert abs(seconds_on("a100-01") - other) < 1_000


def test_a_slow_disk_makes_saves_longer_and_is_no_hang(site: Site, undisturbed: RunDir) -> None:
    run = site.submit_rehearsal(*SETTINGS)

    [cost] = break_it(site, run, SlowDisk).costs

    assert (cost.recovery, cost.exit_reason) == ("went on", "")
    assert differing_steps(run.metrics, undisturbed.metrics) == [], logs_text(run)
    assert_seconds_are_right(run)
    saves = [pause.seconds for pause in read_pauses(run.pauses) if pause.what == "saving"]
    assert max(saves) > 1 > min(saves), saves


def test_a_deleted_wandb_run_ends_no_training_and_is_told(site: Site, undisturbed: RunDir, server: WandbServer) -> None:
    tracked = Site(site.cluster, secrets={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    run = tracked.submit_rehearsal(*SETTINGS, "tracking.mode=online")

    deleted, _ = break_it(tracked, run, DeleteWandbRun, KillRank).costs

    assert (deleted.recovery, deleted.what) == ("went on", f"W&B run {record(run).wandb_id} deleted")
    assert [attempt.reason for attempt in read_attempts(run.ledger)] == ["killed", "finished"], logs_text(run)
    assert differing_steps(run.metrics, undisturbed.metrics) == [], logs_text(run)
    assert f"W&B: run {record(run).wandb_id} was deleted there" in run.rank_log(1, 0).read_text()
    assert KEY not in run.rank_log(1, 0).read_text()
