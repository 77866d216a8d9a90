"""Watching and controlling runs on a real Slurm, with accounting and without."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from launcher.devcluster import DevCluster
from launcher.load import load_cluster
from launcher.run.paths import RunDir
from launcher.slurm.query import find_jobs
from tests.slurm.site import LAUNCHER, Site, no_new_starts, record
from tests.support.checkouts import COUNTING, copy_checkout
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

RECIPE = """\
kind: prepare
name: counting{number}
corpus: counting
sources: [{{format: pile, files: ./abstracts.jsonl}}]
tokenizer: ./assets/stories260k
resources: {{cpus_per_task: 1, time: 10min}}
seed: {steps}
"""


class Watcher:
    """A person with a checkout, whose runs only count."""

    def __init__(self, site: Site, checkout: Path) -> None:
        self.site, self.checkout = site, checkout

    def launcher(self, *arguments: str, code: int = 0) -> str:
        argv = [*LAUNCHER, *arguments]
        done = subprocess.run(
            argv, cwd=self.checkout, env=self.site.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, steps: int, *options: str, runs: int = 1) -> list[RunDir]:
        paths = []
        for number in range(runs):
            paths.append(self.checkout / "recipes" / f"counting{number}.yaml")
            paths[-1].write_text(RECIPE.format(number=number, steps=steps))
        printed = self.launcher("submit", *map(str, paths), "--yes", "--json", *options)
        return [RunDir(Path(row["folder"])) for row in json.loads(printed)["runs"]]

    @contextmanager
    def braked(self) -> Iterator[None]:
        """Keep runs from their ends meanwhile, however long it takes to look at them."""
        brake = self.checkout / "recipes" / "brake"
        brake.touch()
        try:
            yield
        finally:
            brake.unlink()

    def status(self, run: RunDir) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.launcher("status", str(run.root), "--json"))
        return told

    def wait_for_state(self, run: RunDir, state: str, step: int = 0) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            told = self.status(run)
            return told if told["state"] == state and (told["step"] or 0) >= step else None

        return wait_for(reached, f"{run.root} to be {state} at step {step}") or {}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = copy_checkout(tmp_path_factory.mktemp("checkout"), COUNTING)
    (checkout / "recipes" / "abstracts.jsonl").write_text('{"text": "one"}\n')
    return checkout


@pytest.fixture
def watcher(devcluster: DevCluster, checkout: Path) -> Iterator[Watcher]:
    """A person at a site without accounting."""
    yield from watching(devcluster, checkout)


@pytest.fixture(params=["devcluster", "accounting_cluster"])
def any_watcher(request: pytest.FixtureRequest, checkout: Path) -> Iterator[Watcher]:
    """A person at a site without accounting, and at one with it."""
    yield from watching(request.getfixturevalue(request.param), checkout)


def watching(cluster: DevCluster, checkout: Path) -> Iterator[Watcher]:
    yield Watcher(Site(cluster), checkout)
    wait_for(lambda: not cluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")


def fill_cluster(site: Site) -> str:
    nodes = site.slurm("sinfo", "--noheader", "--Node", "--partition=preempt", "--format=%N").split()
    script = ("sbatch", "--parsable", f"--nodes={len(nodes)}", "--exclusive", "--time=5", "--output=/dev/null")
    job = site.slurm(*script, "--chdir=/", "--wrap=sleep 300")
    wait_for(lambda: site.slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T") == "RUNNING", "the blocker")
    return job


def test_a_run_is_watched_from_start_to_end(any_watcher: Watcher) -> None:
    with any_watcher.braked():
        [run] = any_watcher.submit(30)
        running = any_watcher.wait_for_state(run, "running", step=3)

    followed = any_watcher.launcher("logs", "-f", str(run.root))
    finished = any_watcher.status(run)

    assert running["source"] == "squeue"
    assert running["total_steps"] == 30 and running["eta_seconds"] < 60
    assert "step 30\n" in followed and "==> finished" in followed
    assert (finished["state"], finished["step"], len(finished["attempts"])) == ("finished", 30, 1)
    assert finished["goodput"]["useful_steps"] == 30
    assert "finished" in any_watcher.launcher("status")


def test_a_queued_run_tells_why_and_leaves_the_queue_when_stopped(any_watcher: Watcher) -> None:
    blocker = fill_cluster(any_watcher.site)
    [run] = any_watcher.submit(5)

    waiting = wait_for(lambda: (told := any_watcher.status(run))["why"] and told, "a reason")
    assert "removed from the queue" in any_watcher.launcher("stop", str(run.root))
    stopped = any_watcher.status(run)
    assert "queued as job" in any_watcher.launcher("resume", str(run.root))
    queued_again = any_watcher.status(run)
    any_watcher.site.slurm("scancel", blocker)

    assert (waiting["state"], waiting["source"]) == ("queued", "squeue")
    assert "waits for free nodes (Resources)" in waiting["why"] or "Priority" in waiting["why"]
    assert stopped["state"] == "stopped"
    assert queued_again["state"] == "queued"
    assert any_watcher.wait_for_state(run, "finished")["step"] == 5


def test_a_stopped_run_saves_and_goes_on_when_resumed(watcher: Watcher) -> None:
    with watcher.braked():
        [run] = watcher.submit(20)
        watcher.wait_for_state(run, "running", step=2)
        assert "running" in watcher.launcher("resume", str(run.root), code=2)

        assert "asked to stop after the files" in watcher.launcher("stop", str(run.root))
        stopped = watcher.wait_for_state(run, "stopped")
    watcher.launcher("resume", str(run.root))
    finished = watcher.wait_for_state(run, "finished")

    assert 2 <= stopped["step"] < 20
    assert [attempt["reason"] for attempt in finished["attempts"]] == ["stopped", "finished"]
    assert finished["attempts"][1]["first_step"] == stopped["step"]
    assert finished["goodput"]["redone_steps"] == 0


def test_a_cancelled_run_is_stopped_and_stays_so(watcher: Watcher) -> None:
    with watcher.braked():
        [run] = watcher.submit(20)
        watcher.wait_for_state(run, "running", step=2)

        assert "cancelled" in watcher.launcher("cancel", str(run.root))

        cancelled = watcher.wait_for_state(run, "stopped")
    assert cancelled["attempts"][0]["action"] == "stop"
    assert "nothing to stop" in watcher.launcher("stop", str(run.root), code=2)


def test_a_preempted_run_is_requeued_and_finishes(watcher: Watcher) -> None:
    with watcher.braked():
        [run] = watcher.submit(20)
        watcher.wait_for_state(run, "running", step=2)

        with no_new_starts(watcher.site.cluster):  # until it has been looked at, however long that takes
            watcher.site.cluster.preempt(record(run).submissions[-1].job_id)
            requeued = watcher.wait_for_state(run, "requeued")
    finished = watcher.wait_for_state(run, "finished")

    assert requeued["job_id"] == finished["job_id"]
    assert [attempt["reason"] for attempt in finished["attempts"]] == ["preempted", "finished"]


def test_a_run_put_into_hold_tells_so_and_goes_on_when_released(any_watcher: Watcher) -> None:
    with any_watcher.braked():
        [run] = any_watcher.submit(20)
        any_watcher.wait_for_state(run, "running", step=2)
        job = record(run).submissions[-1].job_id
        any_watcher.site.slurm("scontrol", "requeuehold", job)
        held = wait_for(lambda: "release" in (told := any_watcher.status(run))["why"] and told, "the hold")
        refused = any_watcher.launcher("resume", str(run.root), code=2)
    released = any_watcher.launcher("resume", str(run.root), "--yes")
    finished = any_watcher.wait_for_state(run, "finished")

    assert (held["state"], held["source"]) == ("requeued", "squeue")
    assert "scontrol requeuehold" in held["why"] and f"`scontrol release {job}`" in held["why"]
    assert f"`scontrol release {job}`" in refused
    assert f"released job {job}" in released
    assert [attempt["job_id"] for attempt in finished["attempts"]] == [job, job]
    assert finished["attempts"][1]["first_step"] == held["step"]


def test_elements_of_an_array_are_told_apart(watcher: Watcher) -> None:
    with watcher.braked():
        runs = watcher.submit(5, "--max-parallel", "1", runs=3)
        watcher.wait_for_state(runs[0], "running")
        waiting = wait_for(lambda: (told := watcher.status(runs[2]))["why"] and told, "a reason")
    job = record(runs[0]).submissions[-1].job_id.partition("_")[0]

    assert waiting["job_id"] == f"{job}_2"
    assert waiting["why"] == "as many elements of its array run as may (`--max-parallel`) (JobArrayTaskLimit)"
    for run in runs:
        watcher.wait_for_state(run, "finished")


def test_what_scancel_did_behind_our_back_is_told(any_watcher: Watcher) -> None:
    blocker = fill_cluster(any_watcher.site)
    [run] = any_watcher.submit(5)
    job = record(run).submissions[-1].job_id

    any_watcher.site.slurm("scancel", job, blocker)
    told = any_watcher.wait_for_state(run, "stopped")

    assert told["why"] == f"job {job} was cancelled"
    assert told["source"] in ("squeue", "sacct", "scontrol")


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Leave a single one of Slurm's commands on PATH."""

    def leave(command: str) -> None:
        path = shutil.which(command)
        assert path is not None
        (tmp_path / command).symlink_to(path)
        monkeypatch.setenv("PATH", str(tmp_path))

    return leave


@pytest.mark.parametrize("source", ["squeue", "sacct", "scontrol"])
def test_each_source_alone_tells_the_same(accounting_cluster: DevCluster, only: Any, source: str) -> None:
    slurm, cluster = accounting_cluster.slurm, load_cluster(str(accounting_cluster.profile))
    fails = slurm("sbatch", "--parsable", "--output=/dev/null", "--chdir=/", "--wrap=exit 3")
    runs = slurm("sbatch", "--parsable", "--array=0-1%1", "--output=/dev/null", "--chdir=/", "--wrap=sleep 300")
    wanted = {fails: "FAILED", f"{runs}_0": "RUNNING", f"{runs}_1": "PENDING"}
    wait_for(lambda: "RUNNING" in slurm("squeue", "--noheader", f"--jobs={runs}", "--format=%T"), "the array")
    wait_for(lambda: "FAILED" in slurm("sacct", "-nXP", f"--jobs={fails}", "--format=State"), "the failure")
    wait_for(lambda: "RUNNING" in slurm("sacct", "-nXP", f"--jobs={runs}", "--format=State"), "the accounting")

    only(source)
    answer = find_jobs(cluster, wanted)

    assert {job_id: answer.jobs[job_id].state for job_id in wanted} == wanted
    assert {job.source for job in answer.jobs.values()} == {source}
    accounting_cluster.slurm("/usr/bin/scancel", runs)


def test_points_of_a_sweep_are_cancelled_and_resumed_by_their_values(watcher: Watcher) -> None:
    recipe = watcher.checkout / "recipes" / "sweep.yaml"
    text = RECIPE.format(number="-sweep", steps=1)
    recipe.write_text(f"{text}sweep: {{grid: {{description: [a, b]}}, seeds: [3, 4]}}\n")

    def points() -> dict[tuple[str, int], dict[str, Any]]:
        told = json.loads(watcher.launcher("status", "counting-sweep", "--json"))
        return {(one["values"]["description"], one["values"]["seed"]): one for one in told["points"]}

    def ended(one: dict[str, Any]) -> bool:
        return bool(one["state"] in ("finished", "stopped"))

    with watcher.braked():
        watcher.launcher("submit", str(recipe), "--yes", "--max-parallel", "2")
        wait_for(lambda: points()["a", 4]["state"] == "running", "the second of two points that run at once")
        queued = points()["b", 4]
        watcher.launcher("cancel", "counting-sweep", "--where", "description=b", "--where", "seed=4")
        wait_for(lambda: points()["b", 4]["state"] == "stopped", "the end of the point that was cancelled")
        left = {key: one["state"] for key, one in points().items()}
    wait_for(lambda: all(map(ended, points().values())), "the end of all points")
    resumed = watcher.launcher("resume", "counting-sweep")
    wait_for(lambda: points()["b", 4]["state"] == "finished", "the end of the point that was resumed")

    assert queued["state"] == "queued"
    assert left == {("a", 3): "running", ("a", 4): "running", ("b", 3): "queued", ("b", 4): "stopped"}
    assert "1 of 4 points queued as job" in resumed
    assert {key: (one["step"], len(one["attempts"])) for key, one in points().items()} == {
        key: (key[1], 1) for key in left
    }
