"""Sweeps of a thousand points and more: one call of sbatch, and one question for all of them."""

import json
from pathlib import Path

import pytest
import yaml

from launcher.operate.sweep_queue import advance
from launcher.run.ledger import StopRequest
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.sweep_points import read_points, sweep_dir
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster
from tests.support.wanted_runs import PREPARE


@pytest.fixture
def site(tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm) -> str:
    """A site with arrays of up to 1,000 elements."""
    profile = tmp_path / "cluster.yaml"
    cluster = make_cluster(slurm={"account": "lab"})
    profile.write_text(yaml.safe_dump(json.loads(cluster.model_dump_json(exclude_defaults=True))))
    return str(profile)


def submit(site: str, points: int) -> str:
    recipe = Path(site).with_name("recipe.yaml")
    recipe.write_text(json.dumps(PREPARE | {"sweep": {"seeds": points}}))
    return launcher("submit", str(recipe), "--cluster", site, "--yes")[0]


def runs(site: str) -> list[RunDir]:
    root = Path(site).parent / "runs"
    return [RunDir(root / point.run) for point in read_points(root, "abstracts")]


def jobs(site: str) -> list[str]:
    records = [RunRecord.read(run.record) for run in runs(site)]
    return [record.submissions[-1].job_id if record.submissions else "" for record in records]


def test_a_thousand_points_are_one_call_and_one_question_and_the_named_ones_end(
    site: str, fake_slurm: FakeSlurm
) -> None:
    submit(site, 1000)
    assert [call.argv[1:-1] for call in fake_slurm.calls("sbatch")] == [[]]
    assert jobs(site) == [f"1001_{index}" for index in range(1000)]
    asked = len(fake_slurm.calls("squeue"))

    printed, _ = launcher("status", "abstracts", "--cluster", site, "--json")

    assert [point["state"] for point in json.loads(printed)["points"]] == ["queued"] * 1000
    assert len(fake_slurm.calls("squeue")) == asked + 1
    seeds = [point.values["seed"] for point in read_points(Path(site).parent / "runs", "abstracts")]
    named = [*range(0, 1000, 3)]
    chosen = ",".join(str(seeds[place]) for place in named)
    launcher("cancel", "abstracts", "--where", f"seed={chosen}", "--cluster", site)

    stopped = [place for place, run in enumerate(runs(site)) if StopRequest.read(run.stop_request)]
    cancelled = {word for call in fake_slurm.calls("scancel") for word in call.argv}
    assert stopped == named
    assert {f"1001_{place}" for place in named} <= cancelled
    assert not {f"1001_{place}" for place in range(1000) if place not in named} & cancelled


@pytest.mark.long
def test_of_2500_points_where_1000_may_be_queued_the_rest_follows(site: str, fake_slurm: FakeSlurm) -> None:
    fake_slurm.limit_jobs(1000, "lab")
    submit(site, 2500)
    ended = 0

    while fake_slurm.queue():
        queued = {*fake_slurm.queue()}
        assert len(queued) <= 1000
        its = [run for run, job in zip(runs(site), jobs(site), strict=True) if job in queued]
        for run in its:
            job = RunRecord.read(run.record).submissions[-1].job_id
            end = {"started": 9e9, "ended": 9e9 + 1, "reason": "finished", "action": "done"}
            run.ledger.write_text(json.dumps({"attempt": 0, "job_id": job, **end}) + "\n")
        fake_slurm.forget(*queued)
        advance(its[-1])
        ended += len(its)

    assert ended == 2500
    assert len({*jobs(site)}) == 2500
    assert not sweep_dir(Path(site).parent / "runs", "abstracts").waiting.exists()
