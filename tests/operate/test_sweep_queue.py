"""A sweep of more points than the user may have queued: the rest follows by itself, and never twice."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from launcher.monitor.sweep import folders_of
from launcher.operate.sweep_queue import advance
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.sweep_points import read_points, sweep_dir
from launcher.site.submit_limit import SubmitLimit, read_submit_limit
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster, all_runs

RECIPE = {
    "kind": "prepare",
    "name": "abstracts",
    "corpus": "x",
    "sources": [{"format": "pile", "files": "abstracts.jsonl"}],
    "tokenizer": "tokenizer",
    "resources": {"cpus_per_task": 2, "time": "10min"},
    "sweep": {"seeds": 8},
}


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm) -> str:
    """A site where the user may have three jobs, none of which is queued yet."""
    fake_slurm.limit_jobs(3, "lab")
    profile = tmp_path / "cluster.yaml"
    cluster = make_cluster(slurm={"account": "lab"})
    profile.write_text(yaml.safe_dump(json.loads(cluster.model_dump_json(exclude_defaults=True))))
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    return str(profile)


def test_the_limit_of_an_account_is_found_in_capitals(make_cluster: MakeCluster, fake_slurm: FakeSlurm) -> None:
    """Slurm takes `LAB` for `lab`."""
    fake_slurm.limit_jobs(3, "lab")

    assert read_submit_limit(make_cluster(slurm={"account": "LAB"})) == SubmitLimit(3, 0)
    assert read_submit_limit(make_cluster(slurm={"account": "other"})) is None


def submit(site: str, code: int = 0) -> tuple[str, str]:
    return launcher("submit", str(Path(site).with_name("recipe.yaml")), "--cluster", site, "--yes", code=code)


def runs(site: str) -> list[RunDir]:
    root = Path(site).parent / "runs"
    return [RunDir(root / point.run) for point in read_points(root, "abstracts")]


def jobs(site: str) -> list[str]:
    records = [RunRecord.read(run.record) for run in runs(site)]
    return [record.submissions[-1].job_id if record.submissions else "" for record in records]


def end(run: RunDir, fake: FakeSlurm) -> list[str]:
    """Let a run finish, and do what its node does then."""
    job = RunRecord.read(run.record).submissions[-1].job_id
    append_event(run.ledger, 0, job_id=job, started=9e9, ended=9e9 + 1, reason="finished", action="done")
    fake.forget(job)
    return advance(run)


def test_what_fits_is_queued_and_the_rest_said_to_follow(site: str, fake_slurm: FakeSlurm) -> None:
    told, warned = submit(site)

    assert told == "abstracts: 3 runs in job 1002\n" + told.partition("\n")[2]
    assert "abstracts: 5 points more than you may have queued" in warned
    assert jobs(site) == ["1002_0", "1002_1", "1002_2", "", "", "", "", ""]
    assert [call.argv[1:-1] for call in fake_slurm.calls("sbatch")] == [[], ["--array=0-2"]]


def test_each_end_queues_more_until_all_have_run_once(site: str, fake_slurm: FakeSlurm) -> None:
    submit(site)
    ended: set[str] = set()

    while fake_slurm.queue():
        queued = fake_slurm.queue()[0]
        assert queued not in ended
        ended.add(queued)
        end(runs(site)[jobs(site).index(queued)], fake_slurm)

    assert len(ended) == 8
    assert len(set(jobs(site))) == 8
    assert not sweep_dir(Path(site).parent / "runs", "abstracts").waiting.exists()


def test_points_wait_until_a_tenth_of_the_limit_is_free(site: str, fake_slurm: FakeSlurm) -> None:
    fake_slurm.limit_jobs(30, "lab")
    Path(site).with_name("recipe.yaml").write_text(json.dumps(RECIPE | {"sweep": {"seeds": 60}}))
    submit(site)

    first, second, third = (end(run, fake_slurm) for run in runs(site)[:3])

    assert (first, second) == ([], [])
    assert third == ["queued 3 of 30 waiting points as job 1003"]


def test_points_that_nobody_queues_since_a_batch_process_was_killed_are_told_of(
    site: str, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(site)
    first, *others = runs(site)[:3]
    end(first, fake_slurm)
    waiting = jobs(site).index("")
    monkeypatch.setattr(f"{__name__}.advance", lambda _: [])  # their batch processes were killed
    for run in others:
        end(run, fake_slurm)
    assert "note" not in launcher("status", "abstracts", "--cluster", site)[0]

    end(runs(site)[waiting - 1], fake_slurm)

    fix = f"launcher sweep advance {runs(site)[waiting].root}"
    told = launcher("status", "abstracts", "--cluster", site)[0]
    assert "note: 4 points wait for room in the queue, and no run is left" in told
    assert f"`{fix}` does it" in told
    assert "note" not in launcher("status", "abstracts", "--where", "seed=8", "--cluster", site)[0]
    launcher(*fix.split()[1:])
    assert "note" not in launcher("status", "abstracts", "--cluster", site)[0]


@pytest.mark.parametrize(("most", "code"), [(3, 0), (0, 1)])
def test_whoever_waits_queues_points_in_place_of_batch_processes_that_were_killed(
    site: str, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch, most: int, code: int
) -> None:
    monkeypatch.setattr(f"{__name__}.advance", lambda _: [])
    monkeypatch.setattr("launcher.cli.submit.POLL_SECONDS", (20, 20))
    looks = iter(range(30))

    def pass_time(_: float) -> None:
        next(looks)  # or it would wait for ever
        for job in fake_slurm.queue():
            end(runs(site)[jobs(site).index(job)], fake_slurm)
            fake_slurm.limit_jobs(most, "lab")

    monkeypatch.setattr("launcher.cli.submit.time", SimpleNamespace(sleep=pass_time))

    recipe = str(Path(site).with_name("recipe.yaml"))
    _, told = launcher("submit", recipe, "--cluster", site, "--yes", "--wait", code=code)

    assert told.count("waiting points as job") == (2 if code == 0 else 0)
    assert [bool(job) for job in jobs(site)] == [True] * 3 + [code == 0] * 5


def test_a_cancelled_point_is_not_queued_later(site: str, fake_slurm: FakeSlurm) -> None:
    submit(site)
    launcher("cancel", "abstracts", "--where", "seed=4,5,6,7", "--cluster", site)

    assert end(runs(site)[0], fake_slurm) == ["queued 1 of 1 waiting points as job 1003"]
    assert jobs(site) == ["1002_0", "1002_1", "1002_2", "", "", "", "", "1003_7"]


def test_submitting_again_makes_no_second_run_of_a_waiting_point(site: str, fake_slurm: FakeSlurm) -> None:
    submit(site)
    before = runs(site)

    submit(site)

    assert runs(site) == before


def test_a_full_queue_takes_nothing_and_leaves_nothing(
    site: str, fake_slurm: FakeSlurm, make_cluster: MakeCluster
) -> None:
    fake_slurm.limit_jobs(0, "lab")

    _, told = submit(site, code=1)

    assert "AssocMaxSubmitJobLimit" in told
    assert all_runs(make_cluster()) == []


def test_points_show_that_they_wait_for_room(site: str) -> None:
    submit(site)

    printed, _ = launcher("status", "abstracts", "--cluster", site, "--json")

    states = {(point["state"], point["why"]) for point in json.loads(printed)["points"]}
    assert states == {
        ("queued", "other jobs have a higher priority (Priority)"),
        ("not submitted", "waits for room in the queue"),
    }


def test_limits_that_accounting_does_not_tell_are_found_by_trying(site: str, fake_slurm: FakeSlurm) -> None:
    fake_slurm.answer("sacctmgr", "")

    submit(site)

    assert [call.argv[1:-1] for call in fake_slurm.calls("sbatch")][:3] == [[], ["--array=0-3"], ["--array=0,1"]]


def test_the_command_of_nodes_does_the_same(site: str, fake_slurm: FakeSlurm) -> None:
    submit(site)
    fake_slurm.forget("1002_0")

    printed, _ = launcher("sweep", "advance", str(runs(site)[0].root))

    assert printed == "queued 1 of 5 waiting points as job 1003\n"


def test_a_run_without_a_sweep_has_nothing_to_advance(site: str, make_cluster: MakeCluster) -> None:
    Path(site).with_name("recipe.yaml").write_text(json.dumps({**RECIPE, "sweep": None}))
    submit(site)

    [run] = all_runs(make_cluster())
    assert advance(RunDir(run)) == []
    assert folders_of(make_cluster(), []) == []
