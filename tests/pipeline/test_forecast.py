"""`launcher plan PIPELINE`: sums of stages and the longest way through them, worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.load.pipeline import load_pipeline
from launcher.pipeline.forecast import PipelineForecast, forecast_pipeline
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B

PIPELINES = Path(__file__).parents[2] / "recipes" / "pipelines"


@pytest.fixture
def site(make_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = make_cluster(gpus={"type": "a100", "memory": "80GB", "price": 2})
    folder = Path(cluster.roots.models) / "huggyllama" / "llama-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    return cluster


def forecast(site: Cluster, *overrides: str) -> PipelineForecast:
    return forecast_pipeline(load_pipeline(PIPELINES / "biomed_llama.yaml", overrides), site)


def test_what_cannot_be_estimated_counts_one_attempt(site: Cluster) -> None:
    found = forecast(site)

    assert [(one.name, one.is_limit, round(one.gpu_hours)) for one in found.stages] == [
        ("prepare", True, 0),
        ("before", True, 16),
        ("pretrain", True, 32 * 24),  # the corpus is not there, so nobody knows how many steps an epoch is
        ("after", True, 16),
    ]
    assert found.gpu_hours == pytest.approx(16 + 32 * 24 + 16)
    assert found.price == pytest.approx(2 * found.gpu_hours)
    assert found.longest == ("prepare", "pretrain", "after")
    assert found.days == pytest.approx(1 + 1 + 4 / 24)


def test_trainings_are_estimated_and_the_longest_way_follows(site: Cluster) -> None:
    found = forecast(site, "schedule.length=63B tokens")

    pretrain = {one.name: one for one in found.stages}["pretrain"]
    assert not pretrain.is_limit
    assert pretrain.days == pytest.approx(7, rel=0.15)  # as its authors report
    assert pretrain.gpu_hours == pytest.approx(pretrain.days * 24 * 32)
    assert found.days == pytest.approx(1 + pretrain.days + 4 / 24)


def test_the_command_shows_stages_and_sums(site: Cluster, tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(site.model_dump_json())
    arguments = ("plan", str(PIPELINES / "biomed_llama.yaml"), "--cluster", str(profile))

    shown, _ = launcher(*arguments)
    [plain] = json.loads(launcher(*arguments, "--json")[0])["pipelines"]
    _, refused = launcher(*arguments, "--trace", code=2)

    assert "all stages: 800 GPU-hours, price 1,600" in shown
    assert "2.2 days without the queue: prepare -> pretrain -> after" in shown
    assert plain["longest"] == ["prepare", "pretrain", "after"]
    assert "is a pipeline; name the recipes of its stages" in refused
