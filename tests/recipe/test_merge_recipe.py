"""kind: merge, from the recipe to what is refused before the queue; nothing here loads a model."""

import json
from pathlib import Path

import pytest

from launcher.artifacts.adapter_folder import AdapterFolder, is_credentialed
from launcher.cluster import Cluster, Roots
from launcher.errors import LauncherError
from launcher.load import load_recipes
from launcher.plan import check
from launcher.plan.feasibility import hub_ids
from launcher.recipe import KINDS, MergeRecipe
from launcher.recipe.base import Artifact

ROOT = Path(__file__).parents[2]
BASE = "org/llama-7b"


def recipe(**changes: object) -> MergeRecipe:
    fields = {"kind": "merge", "name": "merge", "base_model": BASE, "adapters": [{"path": "lora"}]}
    return MergeRecipe.model_validate_json(json.dumps({**fields, "resources": {"time": "1h"}, **changes}))


def make_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return folder


def faults(folder: Path, made: MergeRecipe, *pending: str) -> list[str]:
    roots = Roots(runs="r", data="d", corpora="c", models=str(folder))
    cluster = Cluster(name="site", executor="local", roots=roots)
    awaited = dict.fromkeys(pending, "open")
    return [f"{fault.key}: {fault.message}" for fault in check(made, cluster, str(folder), awaited)]


def test_the_kind_is_known() -> None:
    assert KINDS["merge"] is MergeRecipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": []}, "at least 1 item"),
        ({"adapters": [{"path": "/data/lora"}]}, "write a name below the cluster profile's roots"),
        ({"output": "lora"}, "output: `lora` is an input"),
        ({"output": "a/b"}, "cannot name a folder"),
        ({"resources": {"time": "1h", "nodes": 2}}, "resources.nodes: `merge` is one process"),
        ({"resources": {"time": "1h", "gpus_per_node": 2}}, "resources.gpus_per_node: `merge` is one process"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_merge_of_what_is_there_is_feasible(tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora")

    assert faults(tmp_path, recipe()) == []
    assert faults(tmp_path, recipe(adapters=[{"path": "yet-to-come"}]), "yet-to-come") == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "`lora` is prefix tuning"),
        ({"peft_type": "PROMPT_TUNING"}, "`lora` is prompt tuning"),
        ({"peft_type": "P_TUNING"}, "`lora` is p-tuning"),
        ({"peft_type": "ADAPTION_PROMPT"}, "`lora` is adaption prompts"),
        ({"task_type": "SEQ_CLS"}, "`lora` is an adapter for `SEQ_CLS`"),
        ({"base_model_name_or_path": "other/llama-7b"}, "`lora` was trained on `other/llama-7b`"),
    ],
)
def test_adapters_that_cannot_be_merged_never_get_into_the_queue(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    make_adapter(tmp_path / "lora", **config)

    (fault,) = faults(tmp_path, recipe())

    assert fault.startswith(f"adapters.0.path: {message}")


def test_a_folder_with_several_adapters_names_them(tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora" / "base")
    make_adapter(tmp_path / "lora" / "orthogonal")

    (fault,) = faults(tmp_path, recipe())

    assert fault.endswith("`base`, `orthogonal`")


def test_credentialed_inputs_need_a_credentialed_recipe(tmp_path: Path) -> None:
    (make_adapter(tmp_path / "lora") / "manifest.json").write_text('{"data_use": "credentialed"}')
    expanded = tmp_path / "expanded"
    expanded.mkdir()
    (expanded / "expansion.json").write_text('{"data_use": "credentialed"}')

    (fault,) = faults(tmp_path, recipe())

    assert fault == "adapters.0.path: `lora` was made of credentialed data; write `data_use: credentialed`"
    assert faults(tmp_path, recipe(data_use="credentialed")) == []
    assert is_credentialed(expanded)


@pytest.mark.parametrize(
    ("theirs", "ours", "is_same"),
    [
        ("org/llama-7b", "org/llama-7b", True),
        ("other/llama-7b", "org/llama-7b", False),
        ("/elsewhere/models/llama-7b", "org/llama-7b", True),
        ("/elsewhere/models/llama-13b", "org/llama-7b", False),
        ("/home/me/.cache/hub/models--org--llama-7b/snapshots/0123", "org/llama-7b", True),
        ("/home/me/.cache/hub/models--other--llama-7b/snapshots/0123", "org/llama-7b", False),
        ("org/llama-7b", "llama-7b", True),
        ("./models/llama-7b", "../llama-7b", True),
    ],
)
def test_models_are_told_apart_by_name(tmp_path: Path, theirs: str, ours: str, is_same: bool) -> None:
    adapter = AdapterFolder(tmp_path, {"base_model_name_or_path": theirs}, {})

    try:
        adapter.require_base(ours, ours, None)
        found = True
    except LauncherError:
        found = False

    assert found is is_same


def test_the_recipe_can_say_that_two_names_mean_one_model(tmp_path: Path) -> None:
    adapter = AdapterFolder(tmp_path, {"base_model_name_or_path": "other/llama-7b-4bit"}, {})

    adapter.require_base(BASE, BASE, "other/llama-7b-4bit")
    with pytest.raises(LauncherError, match="not on `other/llama-7b`, and the base of the recipe is `org/llama-13b`"):
        adapter.require_base("org/llama-13b", BASE, "other/llama-7b")


def test_models_that_are_not_on_the_site_are_asked_for(tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora")
    cluster = Cluster(name="site", executor="local", roots=Roots(runs="r", data="d", corpora="c", models=str(tmp_path)))

    assert hub_ids(recipe(), cluster, str(tmp_path)) == [BASE]


def test_medcare_keeps_attention_only() -> None:
    (loaded,) = load_recipes(ROOT / "recipes" / "medcare_merge.yaml")

    assert isinstance(loaded.recipe, MergeRecipe)
    assert [(adapter.path, adapter.only) for adapter in loaded.recipe.adapters] == [("medcare-stage1", "attention")]
    assert (loaded.recipe.base_model, loaded.recipe.dtype) == ("Qwen/Qwen1.5-7B-Chat", "published")
    assert loaded.recipe.makes == Artifact("model", "medcare-7b-taia")
