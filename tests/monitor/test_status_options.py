"""`launcher status` where an option does not fit, a file is gone or the terminal is narrow."""

import json
from pathlib import Path

import pytest

from launcher.cli.views.plot import plot
from tests.support.command_line import launcher
from tests.support.run_histories import MIDNIGHT, History


@pytest.fixture
def site(tmp_path: Path) -> str:
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")
    return f"--cluster={path}"


@pytest.mark.parametrize("names", [["abc123"], []], ids=["a run", "all runs"])
def test_a_metric_is_for_sweeps_and_searches(tmp_path: Path, site: str, names: list[str]) -> None:
    History.begin(tmp_path / "runs").submit("local-1", at=0)

    said = launcher("status", *names, "--metric", "loss", site, code=2)[1]

    assert said == "--metric loss: compares points of a sweep or of a search; name one, or leave it out\n"


def test_a_prepare_of_which_the_ledger_is_gone_is_shown_without_a_total(tmp_path: Path, site: str) -> None:
    history = History.begin(tmp_path / "runs", name="medline").submit("local-1", at=0).start(0, "local-1", at=1)
    history.run.recipe.write_text('{"kind": "prepare"}')
    row = {"time": MIDNIGHT + 5, "step": 1, "attempt": 0, "bytes": 4_000_000, "bytes_total": 4_000_000}
    history.run.metrics.write_text(json.dumps(row) + "\n")
    history.run.ledger.unlink()

    table, one = launcher("status", site)[0], launcher("status", "abc123", site)[0]

    assert "None" not in table + one
    assert "100% 1 " in table
    assert "files    1, 4 MB (100% read)" in one


@pytest.mark.parametrize("width", range(1, 25))
def test_a_curve_has_room_or_is_left_out(width: int) -> None:
    lines = plot([(float(step), 1e-3 * step) for step in range(11)], [5.0], width, 14)

    assert len(lines) == (14 if width >= 20 else 0)
    assert all(len(line) <= width for line in lines)
