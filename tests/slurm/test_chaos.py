"""Runs, sweeps and pipelines that are broken again and again: what they make is what it would have been.

`CHAOS_SEEDS=5 make chaos` tries fewer seeds; each takes about ten minutes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.chaos import (
    FAULTS,
    ChaosReport,
    ChaosTarget,
    Storm,
    Strike,
    differing_steps,
    draw_strikes,
)
from launcher.devcluster.chaos.process_faults import KillRank
from launcher.errors import RunError
from launcher.monitor.usage import summarise
from launcher.run.paths import RunDir
from tests.slurm.conftest import running_cluster
from tests.slurm.site import LAUNCHER, ONE_RANK, RECIPES, Site, joined_losses, logs_text, record
from tests.support.time_accounts import account_of, seconds_by_the_clock
from tests.support.wandb_server import wandb_server

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * 3600)]

SEEDS = int(os.environ.get("CHAOS_SEEDS", "20"))
STEPS, FAULTS_OF_A_RUN, FAULTS_OF_A_GROUP = 200, 12, 6
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
def site(cluster: DevCluster) -> Iterator[Site]:
    """A person with a W&B account, whose runs somebody else may delete."""
    with pytest.MonkeyPatch.context() as patch, wandb_server() as server:
        patch.setenv("WANDB_BASE_URL", server.url)
        patch.setenv("WANDB_API_KEY", "local-" + "k" * 40)
        yield prepared_site(cluster)


def prepared_site(cluster: DevCluster) -> Site:
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
    run = mine.submit_rehearsal(*SETTINGS, "tracking.mode=online")

    report = storm_over(mine, run).carry_out(draw_strikes(FAULTS, FAULTS_OF_A_RUN, seed), seed)

    tell(json.dumps(asdict(report)))
    assert differing_steps(run.metrics, undisturbed.metrics) == [], logs_text(run)
    assert len(report.costs) + len(report.skipped) == FAULTS_OF_A_RUN
    assert len(report.costs) >= FAULTS_OF_A_RUN - 2, "training goes on while the last ones strike"
    assert_all_time_is_accounted_for(run)


def carry_out_together(storms: dict[Storm, Sequence[Strike]]) -> list[ChaosReport]:
    """Let storms rage at the same time, a thread each: what strikes Slurm or a node strikes all runs."""
    with ThreadPoolExecutor(len(storms)) as pool:
        waiting = [pool.submit(storm.carry_out, strikes, 0) for storm, strikes in storms.items()]
        return [one.result() for one in waiting]


@pytest.mark.parametrize("seed", range(3))
def test_a_sweep_under_six_faults_has_the_table_of_an_undisturbed_one(site: Site, seed: int) -> None:
    calm, stormy = submit_sweep(site, f"calm-{seed}"), submit_sweep(site, f"stormy-{seed}")
    strikes = draw_strikes(FAULTS, FAULTS_OF_A_GROUP, seed)
    storms = {storm_over(site, run): strikes[number :: len(stormy)] for number, run in enumerate(stormy)}

    reports = carry_out_together(storms)

    tell(json.dumps([asdict(report) for report in reports]))
    for run in calm:
        site.wait_until_finished(run)
    assert table_of(site, stormy) == table_of(site, calm)
    for one, other in zip(stormy, calm, strict=True):
        assert differing_steps(one.metrics, other.metrics) == [], logs_text(one)
        assert_all_time_is_accounted_for(one)


def submit_sweep(site: Site, name: str) -> list[RunDir]:
    """Three runs of one rank that differ in their learning rate."""
    words = [word for setting in (*ONE_RANK, *SETTINGS[2:], f"name={name}") for word in ("--set", setting)]
    return site.submit(RECIPES / "biomed_llama_cpt.yaml", "--rehearse", *words, "--sweep", "optim.lr=1e-3,2e-3,4e-3")


def table_of(site: Site, points: Sequence[RunDir]) -> list[tuple[dict[str, object], float]]:
    """What `launcher status` says of a sweep: the values of each point, and what it came to."""
    told = json.loads(site.launcher("status", str(record(points[0]).sweep), "--json"))
    return [(point["values"], point["metrics"]["loss"]) for point in told["points"]]


@pytest.mark.parametrize("seed", range(2))
def test_a_pipeline_under_six_faults_has_the_scores_of_an_undisturbed_one(
    site: Site, tmp_path: Path, seed: int
) -> None:
    calm, stormy = (submit_pipeline(site, tmp_path, f"{name}-{seed}") for name in ("calm", "stormy"))
    *trained, last = draw_strikes(FAULTS, FAULTS_OF_A_GROUP, seed)
    evaluated = [replace(last, fault=KillRank, phase="starting")]

    reports = carry_out_together(
        {storm_over(site, stormy["pretrain"]): trained, storm_over(site, stormy["after"]): evaluated}
    )

    tell(json.dumps([asdict(report) for report in reports]))
    for run in (*stormy.values(), *calm.values()):
        site.wait_until_finished(run, timeout=1800)
    assert differing_steps(stormy["pretrain"].metrics, calm["pretrain"].metrics) == []
    assert scores_of(stormy["after"]) == scores_of(calm["after"])


def submit_pipeline(site: Site, folder: Path, name: str) -> dict[str, RunDir]:
    """A training and its evaluation, by the names of their stages."""
    path = folder / f"{name}.yaml"
    pairs = (setting.split("=", 1) for setting in (*ONE_RANK, *SETTINGS[2:]))
    settings = {key: yaml.safe_load(value) for key, value in pairs}  # as `--set` reads them
    stages = {
        "pretrain": {"recipe": f"{RECIPES}/biomed_llama_cpt.yaml", "set": {**settings, "output": "pretrained"}},
        "after": {
            "recipe": f"{RECIPES}/biomed_llama_eval.yaml",
            "set": {
                "model.path": "pretrained",
                "tasks": [{"type": "perplexity", "name": "heldout", "corpus": "pubmed-rehearsal", "limit": 4}],
            },
        },
    }
    path.write_text(json.dumps({"kind": "pipeline", "name": name, "stages": stages}))
    told = json.loads(site.launcher("submit", path, "--rehearse", "--yes", "--json", "--rerun"))
    return {row["stage"]: RunDir(site.cluster.layout.folder / "runs" / row["folder"]) for row in told["stages"]}


def scores_of(run: RunDir) -> object:
    return json.loads((run.outputs / "scores.json").read_text())["tasks"]
