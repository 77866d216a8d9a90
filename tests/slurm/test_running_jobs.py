"""Looking at and touching jobs that run on a real Slurm: watch, stacks, attach, notify."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from tests.slurm.site import Site, record
from tests.slurm.test_watch import Watcher
from tests.support.checkouts import COUNTING, copy_checkout, typing
from tests.support.waiting import wait_for
from tests.support.webhook_server import Webhook, webhook

pytestmark = pytest.mark.slurm


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as heard:
        yield heard


@pytest.fixture
def watcher(devcluster: DevCluster, hook: Webhook, tmp_path: Path) -> Iterator[Watcher]:
    """A person whose runs count, and whose profile tells a webhook."""
    checkout = copy_checkout(tmp_path / "checkout", COUNTING)
    (checkout / "recipes" / "abstracts.jsonl").write_text('{"text": "one"}\n')
    profile = yaml.safe_load(devcluster.profile.read_text())
    profile["notify"] = {"webhook": "HOOK", "events": ["started", "requeued", "stopped", "finished", "failed"]}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(profile))
    site = Site(devcluster, {"HOOK": hook.address, "LAUNCHER_CLUSTER": str(tmp_path / "cluster.yaml")})
    yield Watcher(site, checkout)
    wait_for(lambda: not devcluster.slurm("squeue", "--noheader", "--format=%i"), "an empty queue")


def test_a_running_job_is_looked_into_stopped_and_resumed(watcher: Watcher, hook: Webhook) -> None:
    with watcher.braked():
        first, run = watcher.submit(6, runs=2)  # an array: its ids are not those of single jobs
        watcher.wait_for_state(run, "running", step=2)
        watcher.wait_for_state(first, "running", step=2)

        [seen] = json.loads(watcher.launcher("watch", "--json", str(run.root)))["runs"]
        assert seen["job_id"] == record(run).submissions[-1].job_id and seen["job_id"].endswith("_1")
        assert seen["time_limit"] - seen["saves_at"] == 60
        assert seen["time_limit"] - seen["attempts"][0]["started"] == pytest.approx(600, abs=60)

        report = json.loads(watcher.launcher("stacks", "--json", "--patience", "300", str(run.root)))
        [shared] = report["stacks"]
        assert (shared["ranks"], report["silent"]) == ([0], [])
        assert "jobs/__main__.py" in "".join(shared["threads"]["MainThread"])
        assert "Stacks on request" not in first.rank_log(0, 0).read_text(), "the other element was not asked"

        look = "kill -0 $LAUNCHER_RANK_PROCESS && echo $LAUNCHER_ATTEMPT of $PYTHONPATH in $PWD; exit 7"
        said = watcher.launcher("attach", str(run.root), "--", "sh", "-c", look, code=7)
        assert f"0 of {run.code}" in said and f"in {run.root}" in said

        environment = {**os.environ, **watcher.site.environment}
        with typing(watcher.checkout, environment, "attach", str(run.root)) as shell:
            shell.sendline("echo here $SLURM_JOB_ID")
            shell.expect(r"here \d+")
            with typing(watcher.checkout, environment, "watch", str(run.root), "--interval", "1") as live:
                live.expect(r"running.*\(squeue\)")
                live.send("sy")
                live.expect_exact("asked to save and stop")
                wait_for(lambda: read_attempts(run.ledger)[-1].reason == "stopped", "the rank to save")
                live.expect(r"stopped.*\(run directory\)")
                live.send("ry")
                while live.expect_exact(["queued as job", "try again in a minute"]):  # Slurm still cleans up
                    live.send("ry")
                live.send("q")
                live.expect(pexpect.EOF)
            shell.close(force=True)
    finished = watcher.wait_for_state(run, "finished")
    watcher.wait_for_state(first, "finished")

    assert [attempt["reason"] for attempt in finished["attempts"]] == ["stopped", "finished"]
    told = [text.partition(": ")[2].partition(":")[0] for text in hook.texts if record(run).id in text]
    assert told == ["started", "stopped", "started", "finished"]
    assert "is finished, so nothing of it runs" in watcher.launcher("attach", str(run.root), code=2)
