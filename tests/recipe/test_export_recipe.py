"""kind: export, from the recipe to what is refused before the queue; nothing here loads a model."""

import json
from pathlib import Path

import pytest

from launcher.artifacts.adapter_folder import AdapterFolder
from launcher.errors import LauncherError
from launcher.load import load_recipes
from launcher.recipe import KINDS, ExportRecipe
from launcher.recipe.base import Artifact

ROOT = Path(__file__).parents[2]


def recipe(**changes: object) -> ExportRecipe:
    fields = {"kind": "export", "name": "export", "model": {"path": "org/llama-7b"}, "format": "onnx"}
    return ExportRecipe.model_validate_json(json.dumps({**fields, "resources": {"time": "1h"}, **changes}))


def test_the_kind_is_known_and_says_what_it_reads_and_makes() -> None:
    made = recipe(model={"path": "org/llama-7b", "adapters": [{"path": "lora"}]}, output="served")

    assert KINDS["export"] is ExportRecipe
    assert [(one.key, one.name) for one in made.inputs()] == [
        ("model.path", "org/llama-7b"),
        ("model.adapters.0.path", "lora"),
    ]
    assert made.makes == Artifact("model", "served")


@pytest.mark.parametrize(
    ("wanted", "extra"),
    [("onnx", "export"), ("int8-onnx", "export"), ("bnb8", "quantization"), ("bnb4", "quantization")],
)
def test_each_format_needs_its_packages_and_no_others(wanted: str, extra: str) -> None:
    assert recipe(format=wanted).required_extras() == ("data", "train", extra)
    assert recipe(format="safetensors").required_extras() == ("data", "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "gguf"}, "safetensors"),
        ({"dtype": "bf16"}, "dtype: graphs for onnxruntime are made in fp32, not `bf16`"),
        ({"output": "lora", "model": {"path": "m", "adapters": [{"path": "lora"}]}}, "output: `lora` is an input"),
        ({"resources": {"time": "1h", "nodes": 2}}, "resources.nodes: `export` is one process"),
        ({"resources": {"time": "1h", "gpus_per_node": 1}}, "resources.gpus_per_node: graphs are traced and tried on"),
        ({"push_to_hub": "me/it"}, "write `HF_TOKEN` under `secrets`"),
        ({"public": True}, "public: nothing is uploaded"),
        (
            {"push_to_hub": "me/it", "secrets": ["HF_TOKEN"], "data_use": "credentialed"},
            "push_to_hub: what was made of credentialed data must not leave the site",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_token_in_the_place_of_a_name_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="write `owner/name`, never a token") as found:
        recipe(push_to_hub="hf_abcdefghijklmnop", secrets=["HF_TOKEN"])

    assert "hf_abc" not in str(found.value).partition("[type")[0]


def test_only_a_public_upload_is_published() -> None:
    upload = {"push_to_hub": "me/it", "secrets": ["HF_TOKEN"]}

    assert recipe().published_at is None
    assert recipe(**upload).published_at is None
    assert recipe(**upload, public=True).published_at == "me/it"


def test_adapters_with_a_head_can_be_exported_and_mixtures_cannot(tmp_path: Path) -> None:
    AdapterFolder(tmp_path, {"peft_type": "LORA", "task_type": "SEQ_CLS"}, {}).require_mergeable("with head")
    with pytest.raises(LauncherError, match="only those of causal language models"):
        AdapterFolder(tmp_path, {"peft_type": "LORA", "task_type": "SEQ_CLS"}, {}).require_mergeable("all")
    with pytest.raises(LauncherError, match="mixture of LoRAs"):
        AdapterFolder(tmp_path, {"peft_type": "MOLORA"}, {}).require_mergeable("with head")


def test_the_shipped_exports_read_what_other_recipes_make() -> None:
    onnx, four = (load_recipes(ROOT / "recipes" / f"export_{name}.yaml")[0].recipe for name in ("onnx", "4bit"))
    merged = load_recipes(ROOT / "recipes" / "medicalgpt_merge.yaml")[0].recipe
    stages = [load_recipes(ROOT / "recipes" / f"medcare_{name}.yaml")[0].recipe for name in ("merge", "stage2")]

    assert isinstance(onnx, ExportRecipe)
    assert isinstance(four, ExportRecipe)
    assert merged.makes == Artifact("model", onnx.model.path)
    assert [stage.makes.name for stage in stages if stage.makes] == [four.model.path, four.model.adapters[0].path]
