"""A run directory as 0.1.0 left it on a dev cluster (2 ranks, preempted after step 9) is read as those of now are.

`run_of_0_1_0/` is that directory without its checkpoints, weights and W&B files; a log ends after its last step.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.command_line import launcher

LEFT = Path(__file__).parent / "run_of_0_1_0"
RUN = "920f21"
STEPS = 24


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_slurm: object) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(LEFT, runs / f"biomed-llama-cpt-rehearsal-20261201-133941-{RUN}")
    roots = ", ".join(f"{name}: {tmp_path / name}" for name in ("runs", "corpora", "models", "data"))
    (tmp_path / "cluster.yaml").write_text(f"name: here\nroots: {{{roots}}}\n")
    monkeypatch.setenv("LAUNCHER_CLUSTER", str(tmp_path / "cluster.yaml"))


def test_status_has_its_attempts_and_its_cost() -> None:
    [row] = json.loads(launcher("status", "--json")[0])["runs"]
    said, _ = launcher("status", RUN)

    assert (row["id"], row["state"], row["step"]) == (RUN, "finished", STEPS)
    assert [(one["reason"], one["first_step"], one["last_step"]) for one in row["attempts"]] == [
        ("preempted", 0, 9),
        ("finished", 9, STEPS),
    ]
    assert "24 useful steps, 0 redone" in said
    assert "0: preempted (PreemptTime 2026-12-01T13:41:32), step 9 is safe" in said


def test_why_says_how_it_ended_and_what_came_before() -> None:
    said, _ = launcher("why", RUN)

    assert f"{RUN} is finished" in said
    assert "Attempts before it: 0 preempted." in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "step 24  loss 2.7959"),
        (("--attempt", "0"), "step 9  loss "),
        (("--batch",), "finished (ledger): finished -> done"),
        (("--batch", "--attempt", "0"), "scontrol requeue: requeued"),
    ],
)
def test_its_logs_are_found(options: tuple[str, ...], expected: str) -> None:
    assert expected in launcher("logs", RUN, *options)[0]


def test_its_time_is_accounted_for() -> None:
    [run] = json.loads(launcher("report", RUN, "--json")[0])["runs"]
    began, ended = 1796132382.0, 1796132618.8  # by its ledger

    assert run["wall_clock_seconds"] == pytest.approx(ended - began, abs=1)
    assert sum(run["seconds"].values()) == pytest.approx(run["wall_clock_seconds"])
    assert run["seconds"]["useful"] > run["seconds"]["saving"] > 0


def test_it_has_no_scores_to_compare_and_that_is_said() -> None:
    _, said = launcher("compare", RUN, code=2)

    assert f"`{RUN}`: is a run of `kind: cpt` without scores" in said
