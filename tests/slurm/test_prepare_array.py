"""kind: prepare in several tasks on a real Slurm: preempted, killed, given up - and the corpus of one task."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.kinds.prepare import main
from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.paths import RunDir, list_shares
from tests.slurm.site import Site, ended, rank_processes, record
from tests.support.corpora import flaws_of
from tests.support.prepare_runs import ASSETS, abstracts, files_of, make_context, write_pile
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

RECIPE = """\
kind: prepare
name: array
corpus: array
sources: [{format: pile, files: "./*.jsonl.zst", license: MIT}]
tokenizer: ./stories260k
validation: 0.1
tasks: 3
resources: {cpus_per_task: 1, time: 10min}
"""
TASKS, FILES = 3, 9


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe beside its sources: files of different sizes, each some seconds' work."""
    folder = tmp_path_factory.mktemp("sources")
    for number in range(FILES):
        write_pile(folder / f"{number}.jsonl.zst", abstracts()[number:] * (4 + number))
    (folder / "stories260k").symlink_to(ASSETS / "stories260k")
    (folder / "array.yaml").write_text(RECIPE)
    return folder / "array.yaml"


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The corpus as one task on one machine makes it."""
    folder = tmp_path_factory.mktemp("alone")
    for path in recipe.parent.glob("*.zst"):
        (folder / path.name).symlink_to(path)
    source = {"format": "pile", "files": "./*.jsonl.zst", "license": "MIT"}
    context = make_context(folder, corpus="array", sources=[source], tokenizer="./stories260k", validation=0.1)
    (folder / "stories260k").symlink_to(ASSETS / "stories260k")
    main(context)
    return bytes_of(folder / "corpora" / "array")


def bytes_of(corpus: Path) -> dict[str, Any]:
    """All files of a corpus; its name, and where and by which code it was made, are left out."""
    assert flaws_of(corpus) == []
    files: dict[str, Any] = files_of(corpus)
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["code"], manifest["corpus"]
    for one in manifest["sources"]:
        one["path"] = Path(one["path"]).name
    return files | {"manifest.json": manifest}


def corpus_of(site: Site, name: str) -> Path:
    return site.cluster.layout.folder / "corpora" / name


def submit(site: Site, recipe: Path, name: str, *settings: str) -> RunDir:
    words = [word for setting in (f"corpus={name}", *settings) for word in ("--set", setting)]
    [run] = site.submit(recipe, *words)
    return run


def files_done(run: RunDir) -> int:
    attempts = read_attempts(run.ledger)
    return (attempts[-1].last_step or 0) if attempts else 0


def is_at_work(run: RunDir) -> bool:
    """Whether a file is done and the next one is half read."""
    rows = read_json_lines(run.metrics)
    return files_done(run) >= 1 and bool(rows) and ended(run) is None


def kill_task(run: RunDir) -> None:
    os.kill(rank_processes(run)[0], signal.SIGKILL)


def test_preempted_and_killed_tasks_redo_their_unfinished_file_only(
    site: Site, recipe: Path, alone: dict[str, Any]
) -> None:
    run = submit(site, recipe, "interrupted")
    preempted, killed, quiet = list_shares(run)

    wait_for(lambda: is_at_work(preempted), "the first task to be at work")
    site.slurm("scontrol", "requeue", record(preempted).submissions[-1].job_id)
    wait_for(lambda: is_at_work(killed), "the second task to be at work")
    kill_task(killed)
    site.wait_until_finished(run)

    for share in (preempted, killed):
        attempts = read_attempts(share.ledger)
        assert [attempt.reason == "finished" for attempt in attempts] == [False, True]
        assert attempts[0].last_step
        assert attempts[1].first_step == attempts[0].last_step
    assert [attempt.reason for attempt in read_attempts(quiet.ledger)] == ["finished"]
    [last] = read_attempts(run.ledger)
    assert last.first_step == last.last_step == FILES
    assert bytes_of(corpus_of(site, "interrupted")) == alone


def test_the_last_run_does_the_work_of_a_task_that_failed_for_good(
    site: Site, recipe: Path, alone: dict[str, Any]
) -> None:
    run = submit(site, recipe, "given-up", "limits.max_failures=0")
    lost = list_shares(run)[1]

    wait_for(lambda: is_at_work(lost), "the second task to be at work")
    kill_task(lost)
    assert site.wait_until_ended(lost).action == "stop"
    told = json.loads(site.launcher("status", run.root, "--json"))
    site.wait_until_finished(run)

    [last] = read_attempts(run.ledger)
    assert "failed" in [task["state"] for task in told["group"]["tasks"]]
    assert FILES / TASKS < (last.first_step or 0) < FILES == last.last_step
    assert bytes_of(corpus_of(site, "given-up")) == alone


def test_a_stopped_group_waits_and_goes_on_when_resumed(site: Site, recipe: Path, alone: dict[str, Any]) -> None:
    run = submit(site, recipe, "stopped")
    wait_for(lambda: any(is_at_work(share) for share in list_shares(run)), "a task to be at work")

    assert "asked to stop after the files that are being read" in site.launcher("stop", run.root)
    wait_for(lambda: not site.slurm("squeue", "--me", "--noheader", "--format=%i"), "an empty queue")
    stopped = json.loads(site.launcher("status", run.root, "--json"))
    site.launcher("resume", run.root)
    site.wait_until_finished(run)

    assert stopped["state"] == "stopped"
    assert not run.ledger.exists() or read_attempts(run.ledger)[0].reason == "finished"
    assert bytes_of(corpus_of(site, "stopped")) == alone


def test_a_new_job_of_a_task_is_waited_for_where_jobs_cannot_be_requeued(
    site: Site, recipe: Path, alone: dict[str, Any], tmp_path: Path
) -> None:
    profile = tmp_path / "resubmitting.yaml"
    profile.write_text(site.cluster.profile.read_text().replace("slurm:\n", "slurm:\n  requeue: resubmit\n", 1))
    [run] = site.submit(recipe, "--set", "corpus=resubmitted", "--cluster", profile)
    again = list_shares(run)[0]

    wait_for(lambda: is_at_work(again), "the first task to be at work")
    kill_task(again)
    site.wait_until_finished(run)

    first, second = (entry.job_id for entry in record(again).submissions)
    assert first != second
    [last] = read_attempts(run.ledger)
    assert last.first_step == FILES, again.batch_log(0).read_text()
    assert bytes_of(corpus_of(site, "resubmitted")) == alone
