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

RECIPES = Path(__file__).parents[2] / "recipes"
CHAIN = f"""\
kind: pipeline
name: chain
stages:
  prepare: {{recipe: {RECIPES}/prepare_pile_pubmed.yaml, set: {{corpus: pubmed}}}}
  before: {{recipe: {RECIPES}/biomed_llama_eval.yaml, set: {{name: before, model.path: huggyllama/llama-7b}}}}
  pretrain:
    recipe: {RECIPES}/biomed_llama_cpt.yaml
    set: {{data.corpora: [{{name: pubmed}}], output: pretrained}}
  after: {{recipe: {RECIPES}/biomed_llama_eval.yaml, set: {{name: after, model.path: pretrained}}}}
"""


@pytest.fixture
def site(make_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = make_cluster(gpus={"type": "a100", "memory": "80GB", "price": 2})
    folder = Path(cluster.roots.models) / "huggyllama" / "llama-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    return cluster


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = tmp_path / "chain.yaml"
    path.write_text(CHAIN)
    return path


def forecast(path: Path, site: Cluster, *overrides: str) -> PipelineForecast:
    return forecast_pipeline(load_pipeline(path, overrides), site)


def test_what_cannot_be_estimated_counts_one_attempt(site: Cluster, chain: Path) -> None:
    found = forecast(chain, site)

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


def test_a_site_without_gpus_is_charged_no_gpu_hours(
    make_cluster: Callable[..., Cluster], site: Cluster, chain: Path
) -> None:
    cpus = make_cluster(gpus={"device": "cpu", "type": "a100", "memory": "80GB", "price": 2})

    for length in ("1 epoch", "63B tokens"):
        found = forecast(chain, cpus, f"schedule.length={length}")

        assert [(one.gpu_hours, one.is_limit) for one in found.stages] == [(0, True)] * 4
        assert found.price == 0
        assert found.days == pytest.approx(1 + 1 + 4 / 24)


def test_trainings_are_estimated_and_the_longest_way_follows(site: Cluster, chain: Path) -> None:
    found = forecast(chain, site, "schedule.length=63B tokens")

    pretrain = {one.name: one for one in found.stages}["pretrain"]
    assert not pretrain.is_limit
    assert pretrain.days == pytest.approx(7, rel=0.15)  # as its authors report
    assert pretrain.gpu_hours == pytest.approx(pretrain.days * 24 * 32)
    assert found.days == pytest.approx(1 + pretrain.days + 4 / 24)


def test_the_points_of_a_sweep_count_together_and_what_is_behind_waits_for_the_longest(
    site: Cluster, chain: Path
) -> None:
    sweep = "sweep: {grid: {resources.time: [2h, 6h]}, seeds: 2}"
    chain.write_text(
        CHAIN.replace("output: pretrained}", f"output: pretrained}}\n    {sweep}\n    select: {{metric: loss}}")
    )

    found = forecast(chain, site)

    pretrain = {one.name: one for one in found.stages}["pretrain"]
    assert (pretrain.points, pretrain.awaits, pretrain.gpu_hours) == (4, ("prepare",), 32 * (2 + 6) * 2)
    assert found.longest == ("prepare", "pretrain", "after")
    assert found.days == pytest.approx(1 + 6 / 24 + 4 / 24)


def test_the_trials_of_a_search_count_together_and_those_that_follow_each_other_take_their_time(
    site: Cluster, chain: Path
) -> None:
    space = "{optim.lr: {low: 1.0e-5, high: 1.0e-3, scale: log}}"
    search = f"{{method: random, space: {space}, trials: 5, parallel: 2, metric: validation_loss}}"
    chain.write_text(
        CHAIN.replace(
            f"recipe: {RECIPES}/biomed_llama_cpt.yaml",
            f"recipe: {{base: {RECIPES}/biomed_llama_cpt.yaml, search: {search}}}",
        )
    )

    found = forecast(chain, site)

    pretrain = {one.name: one for one in found.stages}["pretrain"]
    assert (pretrain.trials, pretrain.points, pretrain.gpu_hours, pretrain.days) == (5, None, 32 * 24 * 5, 3)
    assert found.gpu_hours == pytest.approx(16 + 32 * 24 * 5 + 16)
    assert found.days == pytest.approx(1 + 3 + 4 / 24)


def test_array_elements_that_share_an_evaluation_are_all_charged(site: Cluster, chain: Path) -> None:
    chain.write_text(CHAIN.replace("set: {name: before,", "set: {name: before, array_size: 8,"))

    before = {one.name: one for one in forecast(chain, site).stages}["before"]

    assert (before.gpu_hours, before.days) == (8 * 16, pytest.approx(4 / 24))


def test_the_command_shows_stages_and_sums(site: Cluster, chain: Path, tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(site.model_dump_json())
    arguments = ("plan", str(chain), "--cluster", str(profile))

    shown, _ = launcher(*arguments)
    [plain] = json.loads(launcher(*arguments, "--json")[0])["pipelines"]
    _, refused = launcher(*arguments, "--trace", code=2)

    assert "all stages: 800 GPU-hours, price 1,600" in shown
    assert "2.2 days without the queue: prepare -> pretrain -> after" in shown
    assert plain["longest"] == ["prepare", "pretrain", "after"]
    assert "is a pipeline; name the recipes of its stages" in refused
