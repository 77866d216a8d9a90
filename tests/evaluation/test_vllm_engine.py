"""What vLLM's process is told, without starting it."""

from dataclasses import replace

import pytest
import torch

from jobs.evaluation.engines import open_engine
from jobs.evaluation.generator import GenerationRequest
from jobs.evaluation.loaded_model import ModelFiles
from jobs.evaluation.outlined_model import OutlinedModel, outline_model
from jobs.evaluation.vllm_process import environment_for
from jobs.rank.process_group import RankGroup
from launcher.artifacts.adapter_folder import AdapterFolder
from launcher.errors import LauncherError
from tests.support.generation_runs import generation
from tests.support.merge_runs import BASE
from tests.support.vllm_sites import make_python

CPU = torch.device("cpu")
ADAPTER = {"peft_type": "LORA", "r": 8, "task_type": "CAUSAL_LM"}


@pytest.fixture
def context(tmp_path):
    context = generation(tmp_path, engine="vllm", seed=7)
    context.record.cluster["engines"] = {"vllm": str(make_python(tmp_path / "vllm"))}
    return context


def outlined(context, **adapter: object) -> OutlinedModel:
    model = outline_model(context, context.recipe.model, RankGroup(0, 1, True, CPU, None), {})
    adapters = [AdapterFolder(BASE, {**ADAPTER, **adapter}, {})] if adapter else []
    return replace(model, files=ModelFiles(BASE, adapters, BASE, {}))


@pytest.mark.parametrize(
    ("visible", "index", "seen"), [(None, 1, "1"), ("4,5", 1, "5"), ("GPU-a,GPU-b", 0, "GPU-a"), ("", 2, "2")]
)
def test_a_process_sees_the_gpu_of_its_rank_and_no_secret(visible, index, seen):
    environ = {"PATH": "/bin", "PYTHONPATH": "/code", "WANDB_API_KEY": "x", "LOCAL_RANK": "1", "HF_HOME": "/h"}
    if visible is not None:
        environ["CUDA_VISIBLE_DEVICES"] = visible

    found = environment_for(environ, torch.device("cuda", index), ["WANDB_API_KEY"])

    assert found == {"PATH": "/bin", "HF_HOME": "/h", "PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": seen}


def test_no_weights_are_loaded_for_vllm(context):
    model = outlined(context)

    assert {parameter.device.type for parameter in model.model.parameters()} == {"meta"}
    assert (model.max_length, model.dtype) == (512, torch.float32)


def test_vllm_is_told_the_longest_text_and_all_tokens_that_end_one(context):
    requests = [GenerationRequest("a", [1, 5, 6]), GenerationRequest("b", [1, 7])]
    engine = open_engine(context, context.recipe, outlined(context), requests, end_of_turn=9)

    settings, batch = engine._settings, engine._batch(requests)

    assert (settings["max_model_len"], settings["dtype"], settings["seed"]) == (15, "float32", 7)
    assert batch["sampling"]["stop_token_ids"] == [2, 9]
    assert [one["ids"] for one in batch["prompts"]] == [[1, 5, 6], [1, 7]]
    assert all(0 <= one["seed"] < 2**63 for one in batch["prompts"])


def test_vllm_is_told_a_stop_string_that_is_a_special_token_as_a_token(context):
    decoding = context.recipe.decoding.model_copy(update={"stop": ("<s>", "so")})
    recipe = context.recipe.model_copy(update={"decoding": decoding})
    engine = open_engine(context, recipe, outlined(context), [GenerationRequest("a", [1])], end_of_turn=None)

    assert engine._batch([])["sampling"]["stop_token_ids"] == [1, 2]


def test_the_seed_of_a_text_depends_on_the_recipes_seed_and_the_prompts_id(context):
    model, found = outlined(context), []
    for seed in (1, 2):
        recipe = context.recipe.model_copy(update={"seed": seed})
        engine = open_engine(context, recipe, model, [GenerationRequest("a", [1])], None)
        asked = [GenerationRequest("a", [1]), GenerationRequest("b", [1]), GenerationRequest("a", [3])]
        found.append([one["seed"] for one in engine._batch(asked)["prompts"]])

    assert all(seeds[0] == seeds[2] != seeds[1] for seeds in found)
    assert {*found[0]}.isdisjoint(found[1])


@pytest.mark.parametrize(("adapter", "rank"), [({"r": 8}, 8), ({"r": 8, "rank_pattern": {"q_proj": 100}}, 128)])
def test_the_rank_is_rounded_up_to_one_that_vllm_has(context, adapter, rank):
    engine = open_engine(context, context.recipe, outlined(context, **adapter), [GenerationRequest("a", [1])], None)

    assert engine._settings["rank"] == rank


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"r": 600}, "has rank 600, and vLLM applies at most 512; merge it"),
        ({"peft_type": "IA3"}, "is `IA3`, not LoRA, which vllm does not apply; merge it"),
        ({"alora_invocation_tokens": [3]}, r"holds more than LoRA \(`alora_invocation_tokens`\), which vllm does not"),
        ({"modules_to_save": ["lm_head"]}, r"holds more than LoRA \(`modules_to_save`\), which vllm does not"),
    ],
)
def test_adapters_that_vllm_does_not_apply_are_refused(context, adapter, said):
    with pytest.raises(LauncherError, match=said):
        open_engine(context, context.recipe, outlined(context, **adapter), [GenerationRequest("a", [1])], None)
