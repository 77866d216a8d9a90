"""One W&B run over all attempts: the real client on the nodes against a server of this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.run.paths import RunDir
from tests.slurm.site import ONE_RANK, Site, joined_losses, record
from tests.support.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slurm

SHORT = (*ONE_RANK, "schedule.length=12 steps", "checkpoint.interval=4 steps")
KEY = "local-" + "k" * 40


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


@pytest.fixture
def site(devcluster: DevCluster, server: WandbServer) -> Site:
    site = Site(devcluster, secrets={"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY})
    site.prepare_corpus()
    return site


def test_a_preempted_run_online_is_one_run_with_every_step(site: Site, server: WandbServer) -> None:
    run = site.submit_rehearsal(*SHORT, "tracking.mode=online")
    site.preempt(run, step=3)
    attempts = site.wait_until_finished(run)

    assert [attempt.reason for attempt in attempts] == ["preempted", "finished"]
    assert list(server.runs) == [record(run).wandb_id]
    _assert_curve(server, run)
    _assert_key_is_nowhere(run.root)


def test_two_attempts_offline_are_one_run_once_they_are_synced(site: Site, server: WandbServer) -> None:
    run = _run_in_two_attempts(site, "tracking.mode=offline")
    assert not server.runs

    site.launcher("sync", run.root)
    site.launcher("sync", run.root)

    assert list(server.runs) == [record(run).wandb_id]
    _assert_curve(server, run)
    _assert_key_is_nowhere(run.root)


def _run_in_two_attempts(site: Site, tracking: str) -> RunDir:
    run = site.submit_rehearsal(*SHORT, tracking)
    site.stop(run, step=5)
    assert site.wait_until_ended(run).reason == "stopped"
    site.launcher("resume", run.root)
    site.wait_for_attempt(run, 1)
    site.wait_until_finished(run)
    return run


def _assert_curve(server: WandbServer, run: RunDir) -> None:
    """W&B has every point of metrics.jsonl; those it got twice are the same twice."""
    history = server.runs[record(run).wandb_id].history
    points = {(row["train/global_step"], row["train/loss"]) for row in history if "train/loss" in row}
    losses = joined_losses(run)
    assert sorted(losses) == list(range(1, 13))
    assert points == set(losses.items())


def _assert_key_is_nowhere(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
