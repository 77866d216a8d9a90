"""Statuses of runs that are over are kept, and are what reading the runs again would give."""

from pathlib import Path

import pytest

from launcher.load import load_cluster
from launcher.monitor import run_state
from launcher.monitor.status import RunStatus, read_statuses
from launcher.run.ledger import StopRequest
from launcher.run.paths import RunDir
from tests.support.run_histories import History


class Site:
    """A folder of runs, and what is read of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        profile = folder / "cluster.yaml"
        profile.write_text(f"name: here\nexecutor: local\nroots: {{runs: {folder}/runs, corpora: ./c, models: ./m}}\n")
        self.cluster = load_cluster(str(profile))
        self.runs: list[RunDir] = []
        self.read: list[str] = []
        read_state = run_state.read_state
        monkeypatch.setattr(run_state, "read_state", lambda run: self.read.append(run.root.name[-1]) or read_state(run))

    def statuses(self, *places: int) -> list[RunStatus]:
        """Read runs, after forgetting which ones were read."""
        self.read.clear()
        return read_statuses(self.cluster, [self.runs[place] for place in places or range(len(self.runs))])[0]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path, monkeypatch)
    for place, reason in enumerate(("finished", "error", "stopped")):
        history = History.begin(tmp_path / "runs", f"aaaaa{place}").submit("local-1", at=0)
        history.start(0, "local-1", at=10).train(0, 0, 30, at=20, loss=float("nan") if place else 2.0)
        history.end(0, reason, "done" if reason == "finished" else "stop", at=90, last_step=30, message="said so")
        site.runs.append(history.run)
    return site


def test_what_is_over_is_read_once(site: Site) -> None:
    first = site.statuses()
    assert sorted(site.read) == ["0", "1", "2"]

    second = site.statuses()

    assert site.read == []
    assert repr(second) == repr(first)  # NaN is not equal to itself
    assert [one.state for one in second] == ["finished", "failed", "stopped"]


def test_some_runs_are_read_without_forgetting_the_others(site: Site) -> None:
    site.statuses()
    site.statuses(1)

    site.statuses()

    assert site.read == []


def test_a_change_is_seen(site: Site, tmp_path: Path) -> None:
    site.statuses()
    StopRequest().write(site.runs[1].stop_request)
    again = History(site.runs[2])
    again.record = run_state.RunRecord.read(again.run.record)
    again.submit("local-999999", at=200)

    changed = site.statuses()

    assert sorted(site.read)[:2] == ["1", "2"]
    assert "0" not in site.read
    assert changed[1].stop_requested
    assert changed[2].state != "stopped"
    site.statuses()
    assert "1" not in site.read  # it is over
    assert "2" in site.read  # it is not


def test_a_run_that_goes_on_is_always_read(site: Site, tmp_path: Path) -> None:
    running = History.begin(tmp_path / "runs", "aaaaa3").submit("local-1", at=0).start(0, "local-1", at=0)
    site.runs.append(running.run)
    site.statuses()

    running.train(0, 0, 5, at=10)

    assert site.statuses()[3].step == 5
    assert "3" in site.read


def test_summaries_of_removed_runs_are_dropped_and_a_closed_folder_does_no_harm(site: Site, tmp_path: Path) -> None:
    site.statuses()
    [kept] = (tmp_path / "runs").rglob("status.json")
    site.runs.pop().root.rename(tmp_path / "gone")
    History.begin(tmp_path / "runs", "aaaaa4").submit("local-1", at=0).start(0, "local-1", at=0)

    site.runs[0].metrics.write_text("")
    site.statuses()

    assert "aaaaa2" not in kept.read_text()
    kept.unlink()
    kept.mkdir()
    assert len(site.statuses()) == 2
