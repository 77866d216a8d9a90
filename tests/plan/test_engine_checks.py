"""`engine: vllm`: what a recipe, a profile and an adapter must say, before anything is queued."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import Fault, RecipeError
from launcher.load import load_recipes
from launcher.plan import check_all
from tests.support.generation_runs import generate_recipe, write_prompts
from tests.support.recipe_files import PROFILE, profile, write
from tests.support.training_runs import ASSETS

LORA = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "stories260k"}


def find_faults(folder: Path, engines: str = "", **changes: Any) -> list[Fault]:
    """The faults of a recipe with vLLM, at a site with these engines."""
    roots = f"{{runs: {folder}, data: {folder}, corpora: {folder}, models: {ASSETS}}}"
    text = PROFILE.replace("{runs: /r, data: /d, corpora: /c, models: /m}", roots) + engines
    write_prompts(folder, 2)
    recipe = json.dumps(generate_recipe(**{"engine": "vllm"} | changes), indent=1)
    return check_all(load_recipes(write(folder, recipe)), profile(folder, text))


def make_program(folder: Path, mode: int = 0o755) -> str:
    program = write(folder, "#!/bin/sh\n", "python")
    program.chmod(mode)
    return f"engines: {{vllm: {program}}}\n"


def test_a_profile_that_names_a_python_for_vllm_is_enough(tmp_path: Path) -> None:
    assert not find_faults(tmp_path, make_program(tmp_path))
    assert not find_faults(tmp_path, "engines: {vllm: /in/the/image}\ncontainer: {runtime: pyxis, image: i}\n")
    assert not find_faults(tmp_path, engine="transformers")


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ("", "the profile of `site` names no Python that has vllm; write `engines: {vllm: /path/to/bin/python}` in it"),
        ("engines: {vllm: /nowhere/python}\n", "`/nowhere/python`, which the profile names as `engines.vllm`, is no"),
        ("NOT EXECUTABLE", "/python`, which the profile names as `engines.vllm`, is no program; correct the path"),
    ],
)
def test_a_python_that_is_not_there_is_a_fault(tmp_path: Path, engines: str, said: str) -> None:
    (fault,) = find_faults(tmp_path, make_program(tmp_path, 0o644) if engines.isupper() else engines)

    assert (fault.code, fault.key) == ("not-found", "engine")
    assert fault.line
    assert said in fault.message


@pytest.mark.parametrize(("changes", "count"), [({}, 0), ({"use_dora": True}, 1), ({"peft_type": "VERA"}, 1)])
def test_an_adapter_must_be_plain_lora(tmp_path: Path, changes: dict[str, Any], count: int) -> None:
    adapter = tmp_path / "adapter"
    write(adapter, json.dumps(LORA | changes), "adapter_config.json")
    (adapter / "adapter_model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")
    model = {"path": "stories260k", "adapters": [{"path": "./adapter"}]}

    found = find_faults(tmp_path, make_program(tmp_path), model=model)

    assert [(fault.code, fault.key) for fault in found] == [("mismatch", "model.adapters.0.path")] * count
    assert all("which vllm does not apply; merge it into the model first" in fault.message for fault in found)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"path": "m", "adapters": [{"path": "a"}, {"path": "b"}]}}, "model.adapters: vLLM applies one"),
        ({"model": {"path": "m", "dtype": "fp64"}}, "model.dtype: vLLM does not compute in `fp64`"),
        ({"model": {"path": "m", "attention": "eager"}}, "model.attention: vLLM has its own; leave `eager` out"),
        ({"model": {"path": "m", "quantization": {"bits": 4}}}, "model.quantization: weights are loaded in few bits"),
        ({"model": {"path": "m", "trust_remote_code": True}}, "model.trust_remote_code: no code of a model is run"),
        ({"decoding": {"temperature": 2.5}}, "decoding.temperature: vLLM takes at most 2; write less, or write"),
    ],
)
def test_what_vllm_cannot_do_is_refused_with_what_to_write(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_faults(tmp_path, **changes)

    (fault,) = caught.value.faults
    assert (fault.code, f"{fault.key}: {fault.message}".startswith(said)) == ("conflict", True)
    assert not load_recipes(write(tmp_path, json.dumps(generate_recipe(**changes))))[0].recipe.foreign_engine


def test_an_engine_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        find_faults(tmp_path, "engines: {sglang: /python}\n")

    assert caught.value.faults[0].key.startswith("engines")
