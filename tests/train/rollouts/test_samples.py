"""Completions that are kept to look at: in the run directory always, at W&B only if the data is open."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.train.rollouts.rewards import Completion
from jobs.train.rollouts.samples import Sampled
from jobs.train.run import TrainingRun
from jobs.train.tracking import Tracker
from launcher.recipe import RlRecipe
from launcher.run.ledger import read_json_lines
from tests.support.rl_runs import make_rl
from tests.support.training_runs import context_of


@pytest.mark.parametrize("data_use", ["open", "credentialed"])
def test_texts_leave_the_site_only_if_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data_use: str) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr("wandb.Table", lambda columns, data: {"columns": columns, "data": data})
    context = context_of(make_rl(tmp_path, {"name": "rloo"}, data_use=data_use))
    assert isinstance(context.recipe, RlRecipe)
    group: Any = SimpleNamespace(is_main=True)
    run = TrainingRun(context, context.recipe, group, is_exported=False)
    run._tracker = Tracker(SimpleNamespace(log=sent.append), log_interval=1)
    one = Completion([{"role": "user", "content": "Why?"}], "because", "so", [7])

    run.record_samples(4, [Sampled.of(one, 0.5, {"length": 1.0}, kl=0.1)])

    [row] = read_json_lines(context.run.samples)
    assert (row["step"], row["attempt"], row["prompt"], row["completion"]) == (4, 0, "Why?", "so")
    assert (row["reward"], row["rewards"], row["kl"]) == (0.5, {"length": 1.0}, 0.1)
    if data_use == "credentialed":
        assert sent == []
    else:
        [point] = sent
        assert point["train/global_step"] == 4
        assert point["samples"]["columns"] == ["prompt", "completion", "reference", "reward", "rewards", "kl"]
