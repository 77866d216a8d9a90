"""Runs, sweeps and pipelines that are broken again and again: what they make is what it would have been.

`CHAOS_SEEDS=5 make chaos` tries fewer seeds; each takes about ten minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.chaos import (
    FAULTS,
    ChaosTarget,
    Storm,
    differing_steps,
    draw_strikes,
)
from launcher.errors import RunError
from launcher.monitor.usage import summarise
from launcher.run.paths import RunDir
from tests.slurm.conftest import running_cluster
from tests.slurm.site import LAUNCHER, Site, joined_losses, logs_text
from tests.support.time_accounts import account_of, seconds_by_the_clock

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * 3600)]

SEEDS = int(os.environ.get("CHAOS_SEEDS", "20"))
STEPS, FAULTS_OF_A_RUN = 200, 12
SETTINGS = (
    *("resources.gpus_per_node=1", "parallel.strategy=full_shard", "batch.global_batch=4 sequences"),
    *(f"schedule.length={STEPS} steps", "checkpoint.interval=10 steps", "limits.hang=30s"),
)
"""Of a run of 2 ranks on 2 nodes, in which a hang is noticed soon."""


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
def guarded(site: Site, tmp_path: Path) -> Site:
    """The same site with a profile whose runs have guardians."""
    profile = tmp_path / "guarded.yaml"
    profile.write_text(f"base: {site.cluster.profile}\nslurm: {{guardian: true}}\n")
    other = Site(site.cluster)
    other.environment["LAUNCHER_CLUSTER"] = str(profile)
    return other


def storm_over(site: Site, run: RunDir) -> Storm:
    """Chaos over a run that a person of the site resumes."""

    def resume() -> None:
        words = [*LAUNCHER, "resume", str(run.root), "--yes"]
        done = subprocess.run(words, env=site.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(done.stderr)

    return Storm(ChaosTarget(run, site.cluster), resume, tell)


def assert_all_time_is_accounted_for(run: RunDir) -> None:
    account = account_of(run)
    assert account.seconds() == pytest.approx(seconds_by_the_clock(run), abs=1), account.by_kind()
    used = sum(sum(one.seconds.values()) for one in summarise(run).attempts)
    assert used == pytest.approx(account.attempt_seconds, abs=1)


def tell(text: str) -> None:
    """For `pytest -s`."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_run_under_twelve_faults_has_the_losses_of_an_undisturbed_one(
    site: Site, guarded: Site, undisturbed: RunDir, seed: int
) -> None:
    mine = guarded if seed % 2 else site
    run = mine.submit_rehearsal(*SETTINGS)

    report = storm_over(mine, run).carry_out(draw_strikes(FAULTS, FAULTS_OF_A_RUN, seed), seed)

    tell(json.dumps(asdict(report)))
    assert differing_steps(run.metrics, undisturbed.metrics) == [], logs_text(run)
    assert len(report.costs) + len(report.skipped) == FAULTS_OF_A_RUN
    assert "the run had finished" not in [why for _, why in report.skipped]
    assert_all_time_is_accounted_for(run)
