"""`launcher usage`: sums over runs, quick by kept summaries, and right when a run changes."""

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.load import load_cluster
from launcher.monitor import usage
from launcher.monitor.usage import Usage, measure_usage
from launcher.run.ledger import append_event
from tests.support.command_line import launcher
from tests.support.run_histories import MIDNIGHT, History


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: ./c, models: ./m}}\n")
    return str(path)


def begin(folder: Path, run_id: str, name: str = "tiny cpt", gpus: int = 8, price: float | None = 2.0) -> History:
    history = History.begin(folder / "runs", run_id, name)
    history.record.cluster = {"gpus": {"price": price}}
    recipe = json.loads(history.run.recipe.read_text()) | {"resources": {"nodes": 2, "gpus_per_node": gpus}}
    history.run.recipe.write_text(json.dumps(recipe))
    return history.submit("7", at=0)


def finish(history: History, at: float = 0) -> History:
    """10 s of starting, 60 useful, 20 of saving."""
    history.start(0, "7", at=at).begin_steps(0, at=at + 10).train(0, 0, 30, at=at + 10)
    return history.end(0, "finished", "done", at=at + 90, last_step=30)


def measure(profile: str, since: float = 0.0) -> Usage:
    return measure_usage(load_cluster(profile), since)


def hours(**seconds: float) -> Any:
    return pytest.approx({kind: 16 * value / 3600 for kind, value in seconds.items()})


def test_gpu_hours_are_summed_by_recipe_and_by_state(tmp_path: Path, profile: str) -> None:
    finish(begin(tmp_path, "aaaaa1", price=3.0))
    finish(begin(tmp_path, "aaaaa2"))
    finish(begin(tmp_path, "aaaaa3", gpus=0, price=None))
    other = begin(tmp_path, "aaaaa4", "other").start(0, "7", at=0)
    other.end(0, "error", "stop", at=50)
    begin(tmp_path, "aaaaa5", "other")

    found = measure(profile)

    tiny, others = found.recipes
    assert (tiny.name, tiny.runs, others.name, others.runs) == ("tiny cpt", 3, "other", 2)
    assert tiny.gpu_hours == hours(starting=20, useful=120, saving=40)
    assert tiny.node_hours == pytest.approx(2 * 270 / 3600)
    assert tiny.cost == pytest.approx(16 * 90 / 3600 * (2 + 3))
    assert others.gpu_hours == hours(lost=50)
    assert {state.name: state.runs for state in found.states} == {"finished": 3, "failed": 1, "going on": 1}
    assert found.total.runs == 5
    assert found.total.useful_share == pytest.approx(120 / 230)


def test_each_attempt_counts_with_its_own_number_of_nodes(tmp_path: Path, profile: str) -> None:
    """After `launcher resume --nodes 1` and another resume with three."""
    history = begin(tmp_path, "aaaaa1")
    history.start(0, "7", at=0).end(0, "stopped", "stop", at=100)
    history.submit("8", at=200).start(1, "8", at=200, nodes=("a1",)).end(1, "stopped", "stop", at=300)
    history.submit("9", at=400).start(2, "9", at=400, nodes=("a1", "a2", "a3")).end(2, "error", "stop", at=500)

    found = measure(profile).total

    assert found.node_hours == pytest.approx((2 + 1 + 3) * 100 / 3600)
    assert found.all_gpu_hours == pytest.approx(8 * (2 + 1 + 3) * 100 / 3600)
    assert found.cost == pytest.approx(2 * found.all_gpu_hours)


def test_without_slurm_one_machine_stands_for_all_nodes(tmp_path: Path, profile: str) -> None:
    history = begin(tmp_path, "aaaaa1").start(0, "local-7", at=0, nodes=("here",))
    history.end(0, "error", "stop", at=100)

    assert measure(profile).total.all_gpu_hours == pytest.approx(16 * 100 / 3600)


def test_without_a_price_there_is_no_cost(tmp_path: Path, profile: str) -> None:
    finish(begin(tmp_path, "aaaaa1"))
    finish(begin(tmp_path, "aaaaa2", price=None))

    assert measure(profile).total.cost is None


def test_a_summary_is_made_once_and_again_when_the_run_changes(
    tmp_path: Path, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    summarise = usage.summarise
    monkeypatch.setattr(usage, "summarise", lambda run: made.append(run.root.name[-6:]) or summarise(run))
    first, second = finish(begin(tmp_path, "aaaaa1")), begin(tmp_path, "aaaaa2")
    second.start(0, "7", at=0).end(0, "stopped", "stop", at=40, last_step=0)
    before = measure(profile)
    assert sorted(made) == ["aaaaa1", "aaaaa2"]

    made.clear()
    assert measure(profile) == before
    assert made == []

    second.submit("8", at=100).start(1, "8", at=110).train(1, 0, 5, at=120)
    second.end(1, "finished", "done", at=140, last_step=5)
    after = measure(profile)
    assert made == ["aaaaa2"]
    assert after.total.gpu_hours == hours(starting=10 + 40 + 10, useful=60 + 10, saving=20 + 10)
    (tmp_path / "runs" / ".summaries").rename(tmp_path / "elsewhere")
    assert measure(profile) == after
    assert first.run.root.is_dir()


def test_damaged_summaries_are_made_anew_and_a_damaged_run_hides_no_other(tmp_path: Path, profile: str) -> None:
    finish(begin(tmp_path, "aaaaa1"))
    expected = measure(profile)
    [cache] = (tmp_path / "runs" / ".summaries").rglob("usage.json")
    assert stat.S_IMODE(cache.parent.stat().st_mode) == 0o700

    for content in ("", "[]", '{"version": 0, "runs": {"x": 1}}'):
        cache.write_text(content)
        assert measure(profile) == expected

    begin(tmp_path, "aaaaa2").run.recipe.write_text("{")
    found = measure(profile)
    assert found.total == expected.total
    assert "aaaaa2" in found.notes[0]


def test_a_pruned_trial_has_not_failed_and_none_of_its_time_is_lost(tmp_path: Path, profile: str) -> None:
    history = begin(tmp_path, "aaaaa1").start(0, "7", at=0).begin_steps(0, at=10).train(0, 0, 30, at=10)
    history.end(0, "pruned", "stop", at=90, last_step=30)

    [state] = measure(profile).states

    assert state.name == "pruned"
    assert state.gpu_hours == hours(starting=10, useful=60, saving=20)


def test_an_attempt_without_an_end_counts_up_to_its_last_sign_of_life_and_is_not_kept(
    tmp_path: Path, profile: str
) -> None:
    history = begin(tmp_path, "aaaaa1", gpus=1)
    now = time.time()
    append_event(history.run.ledger, 0, job_id="7", started=now - 1800)

    before = measure(profile).total.all_gpu_hours

    assert before == pytest.approx(1.0, abs=0.2)
    assert not (tmp_path / "runs" / ".summaries").exists()


def last_wrote(history: History, attempt: int, at: float) -> History:
    """Set when the run last wrote anything, into the logs of an attempt and elsewhere."""
    history.log(attempt, 0, "step 30")
    logs = history.run.attempt_logs(attempt)
    for path in (history.run.ledger, history.run.metrics, *logs.iterdir(), logs):
        os.utime(path, (MIDNIGHT + at, MIDNIGHT + at))
    return history


def killed(folder: Path, began: float = 0.0) -> History:
    """An attempt without an end: 10 s of starting, 60 useful, and a rank that wrote into its log 30 s later."""
    history = begin(folder, "aaaaa1").start(0, "7", at=began).begin_steps(0, at=began + 10)
    return last_wrote(history.train(0, 0, 30, at=began + 10), 0, at=began + 100)


def test_what_a_dead_attempt_did_after_its_last_step_is_lost(tmp_path: Path, profile: str) -> None:
    killed(tmp_path)

    assert measure(profile).total.gpu_hours == hours(starting=10, useful=60, lost=30)


def test_it_is_useful_while_the_attempt_may_be_alive(tmp_path: Path, profile: str) -> None:
    killed(tmp_path, began=time.time() - MIDNIGHT - 100)

    assert measure(profile).total.gpu_hours == hours(starting=10, useful=90)


def test_an_attempt_without_an_end_does_not_last_into_the_next_one(tmp_path: Path, profile: str) -> None:
    history = killed(tmp_path).start(1, "7", at=90).begin_steps(1, at=100).train(1, 20, 40, at=100)
    last_wrote(history, 1, at=150)

    found = measure(profile).total

    assert found.gpu_hours == hours(starting=10 + 10, useful=40 + 40, redone=20, lost=20 + 10)
    history.end(1, "finished", "done", at=150, last_step=40)
    again = measure(profile).total
    assert again.gpu_hours == hours(starting=10 + 10, useful=40 + 40, redone=20, lost=20, saving=10)


def test_what_was_used_before_does_not_count(tmp_path: Path, profile: str) -> None:
    finish(begin(tmp_path, "aaaaa1"))
    finish(begin(tmp_path, "aaaaa2"), at=1000)

    assert measure(profile, MIDNIGHT + 1000).total.gpu_hours == hours(starting=10, useful=60, saving=20)
    assert measure(profile, MIDNIGHT + 45).total.gpu_hours == hours(starting=15, useful=90, saving=30)
    assert measure(profile, MIDNIGHT + 2000).total.runs == 0


def test_the_command_prints_tables_or_json(tmp_path: Path, profile: str) -> None:
    finish(begin(tmp_path, "aaaaa1"))
    environ = {"LAUNCHER_CLUSTER": profile}

    printed, _ = launcher("usage", environ=environ)
    found = json.loads(launcher("usage", "--json", environ=environ)[0])
    nothing, _ = launcher("usage", "--since", "1s", environ=environ)
    _, refused = launcher("usage", "--since", "7", code=2, environ=environ)

    assert "1 run in" in printed
    assert "66.7 %" in printed
    assert found["total"]["all_gpu_hours"] == pytest.approx(16 * 90 / 3600)
    assert "no runs" in nothing
    assert "`7` cannot be read" in refused
