"""Models whose sizes cannot be told: a config.json with other values than sizes, or of a type without formulas."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from launcher.artifacts.model_config import count_layers, with_layers
from launcher.artifacts.positions import max_positions
from launcher.artifacts.tokenizer_manifest import EXPANSION
from launcher.cluster import Cluster
from launcher.load import LoadedRecipe, load_recipes
from launcher.plan import trace as traces
from launcher.plan.details import detail
from launcher.plan.feasibility import check_all
from launcher.plan.forecast import forecast
from launcher.plan.model_shape import read_shape
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B

RECIPES = Path(__file__).parents[2] / "recipes"
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"num_attention_heads": 0}, "num_attention_heads: 0"),
    ({"hidden_size": "4096"}, 'hidden_size: "4096"'),
    ({"hidden_size": -4096}, "hidden_size: -4096"),
    ({"hidden_size": 10**30}, "hidden_size: 1000"),
    ({"vocab_size": None}, "vocab_size: null"),
    ({"vocab_size": "32000"}, 'vocab_size: "32000"'),
    ({"num_hidden_layers": -3}, "num_hidden_layers: -3"),
    ({"num_hidden_layers": 3.5}, "num_hidden_layers: 3.5"),
    ({"num_hidden_layers": True}, "num_hidden_layers: true"),
    ({"num_hidden_layers": float("inf")}, "num_hidden_layers: Infinity"),
    ({"num_key_value_heads": "8"}, 'num_key_value_heads: "8"'),
    ({"head_dim": [128]}, "head_dim: [128]"),
    ({"model_type": ["llama"]}, "model_type: "),
]


@pytest.fixture
def site(make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(gpus={"type": "a100", "memory": "80GB", "per_node": 8})


def put(site: Cluster, name: str, config: dict[str, Any], file: str = "config.json") -> Path:
    folder = Path(site.roots.models) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(config))
    return folder / file


def loaded(name: str, *settings: str) -> LoadedRecipe:
    (one,) = load_recipes(RECIPES / f"{name}.yaml", settings)
    return one


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_is_no_size_is_a_fault_that_names_file_and_key(site: Cluster, change: dict[str, Any], said: str) -> None:
    path = put(site, "model", LLAMA_7B | change)
    recipe = loaded("biomed_llama_cpt", "model.path=model", "schedule.length=63B tokens")

    assert read_shape(LLAMA_7B | change) is None
    assert detail(recipe, site) is None
    assert forecast(recipe, site).memory is None
    faults = [one for one in check_all([recipe], site) if one.file == "--set model.path"]

    assert [one.code for one in faults] == ["damaged"]
    assert f"{path}: {said}" in faults[0].message


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_model_that_scores_may_have_any_config(site: Cluster, change: dict[str, Any], said: str) -> None:
    put(site, "policy", LLAMA_7B)
    put(site, "judge", LLAMA_7B | change)
    settings = ("model.path=policy", "rewards=[{type: model, path: judge}]", "schedule.length=9 steps")
    recipe = loaded("medicalgpt_ppo", *settings)

    assert detail(recipe, site) is not None
    assert [one.message for one in check_all([recipe], site) if one.key == "rewards.0.path" and said in one.message]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"expanded": {"vocab_size": "32100"}}, "expanded.vocab_size"),
        ({"expanded": ["vocab_size"]}, "expanded.vocab_size"),
        ({"expanded": {"vocab_size": -1}}, "expanded.vocab_size"),
        ({"parts": 100}, "parts"),
    ],
)
def test_an_expansion_with_other_values_is_a_fault(site: Cluster, change: dict[str, Any], key: str) -> None:
    put(site, "model", LLAMA_7B)
    path = put(site, "more", {"expanded": {"vocab_size": 32_100}, "parts": [[1, 2]] * 100} | change, EXPANSION)
    recipe = loaded("biomed_llama_cpt", "model.path=model", "model.tokenizer=more")

    faults = [one for one in check_all([recipe], site) if one.file == "--set model.tokenizer"]

    assert [one.code for one in faults] == ["damaged"]
    assert f"{path}: {key}: " in faults[0].message
    assert detail(recipe, site) is not None


@pytest.mark.parametrize("value", ["2048", None, [1], 2.5, True])
def test_positions_that_are_no_number_are_not_known(value: Any) -> None:
    assert max_positions({"model_type": "llama", "max_position_embeddings": value}) is None
    assert max_positions({"model_type": ["roberta"], "max_position_embeddings": 514}) == 514
    assert max_positions({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": "1"}) is None


TYPES = ["gpt2", "mpt", "bloom", "gpt_neo", "bert", "llama", "gemma3"]


@pytest.mark.parametrize("model_type", TYPES)
def test_layers_are_counted_and_changed_by_the_name_that_a_type_has_for_them(model_type: str) -> None:
    published = AutoConfig.for_model(model_type).to_dict()

    changed = with_layers(published, 2)
    text = changed.get("text_config", changed)

    assert count_layers(published) == AutoConfig.for_model(model_type).get_text_config().num_hidden_layers
    assert count_layers(changed) == 2
    if model_type != "gpt_neo":  # which says of each layer what it is, in a key of its own
        assert AutoConfig.for_model(**changed).get_text_config().num_hidden_layers == 2
    assert len(text.get("layer_types") or [1, 2]) == 2


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_without_formulas_is_told_from_a_model_that_is_not_there(site: Cluster, model_type: str) -> None:
    put(site, "model", AutoConfig.for_model(model_type).to_dict())
    request = traces.trace_request(loaded("biomed_llama_cpt", "model.path=model"), site, full=False)

    assert request.layers == AutoConfig.for_model(model_type).get_text_config().num_hidden_layers


GPT2 = {"model_type": "gpt2", "n_layer": 12}


@pytest.mark.parametrize(
    ("config", "recipe", "said"),
    [
        (None, "biomed_llama_cpt", "config.json of `model` is not on this machine"),
        (GPT2, "biomed_llama_cpt", "type `gpt2`, which the formulas do not know; `--trace`"),
        (GPT2, "medicalgpt_dpo", "type `gpt2`, which the formulas do not know\n"),
        ({"model_type": "new"}, "biomed_llama_cpt", "does not say how many layers there are, as `num_hidden_layers`"),
        (LLAMA_7B | {"vocab_size": 0}, "biomed_llama_cpt", "vocab_size: 0 is not a positive whole number; copy"),
    ],
)  # fmt: skip
def test_plan_says_why_it_knows_nothing(
    site: Cluster, tmp_path: Path, config: dict[str, Any] | None, recipe: str, said: str
) -> None:
    if config is not None:
        put(site, "model", config)
    profile = tmp_path / "cluster.yaml"
    profile.write_text(site.model_dump_json())
    arguments = (str(RECIPES / f"{recipe}.yaml"), "--set", "model.path=model", "--cluster", str(profile))

    shown, _ = launcher("plan", *arguments)

    assert said in shown
    if recipe == "biomed_llama_cpt" and "gpt2" not in said:
        _, refused = launcher("plan", *arguments, "--trace", code=2)
        assert said in refused
