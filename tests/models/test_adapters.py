"""Adapters: what recipes may ask for, what peft builds of it, how many parameters that trains."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from jobs.models.adapters.build import adapted, declared_trainable
from jobs.models.build import build_causal_lm, weights_dtype
from jobs.train.throughput import cost_of, count_parameters
from launcher.errors import LauncherError
from launcher.load import load_recipes
from launcher.plan.adapters import trainable_parameters
from launcher.plan.memory import estimate_loading, estimate_memory
from launcher.plan.model_shape import read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.sections.adapter import Adapter, strategy_limit
from launcher.recipe.sections.common import Parallel
from tests.support.recipe_files import RECIPE, faults, load, write
from tests.support.training_runs import ASSETS, cpt_recipe

STORIES = str(ASSETS / "stories260k")

LLAMA_7B = LlamaConfig(tie_word_embeddings=False)
SMALL = LlamaConfig(
    vocab_size=64, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip

METHODS: list[dict[str, Any]] = [
    {"method": "lora"},
    {"method": "lora", "targets": ["q_proj", "v_proj"], "dora": True},
    {"method": "lora", "r": 6, "init": "orthogonal", "rslora": True},
    {"method": "lora", "init": "gaussian"},
    {"method": "adalora"},
    {"method": "prefix"},
    {"method": "prefix", "projection": True},
    {"method": "prefix", "projection": True, "hidden": 24},
    {"method": "prompt"},
    {"method": "p_tuning"},
    {"method": "p_tuning", "encoder": "lstm", "layers": 3},
    {"method": "ia3"},
    {"method": "oft", "block_size": 4},
    {"method": "adaption_prompt", "layers": 2},
]


def adapter(**fields: Any) -> Adapter:
    found: Adapter = TypeAdapter(Adapter).validate_json(json.dumps(fields))
    return found


def on_meta(config: Any, section: Adapter) -> PreTrainedModel:
    """An adapted model of a size that would not fit, without its numbers."""
    with torch.device("meta"):
        return adapted(AutoModelForCausalLM.from_config(config), section, 1, "CAUSAL_LM", steps=20)


def on_stories(section: Adapter, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return adapted(AutoModelForCausalLM.from_pretrained(STORIES, dtype=dtype), section, 1, "CAUSAL_LM", steps=20)


@pytest.mark.parametrize("fields", METHODS, ids=str)
def test_the_plan_counts_what_peft_builds(fields: dict[str, Any]) -> None:
    shape = read_shape(SMALL.to_dict())
    assert shape is not None

    assert trainable_parameters(adapter(**fields), shape) == count_parameters(on_meta(SMALL, adapter(**fields)))[0]


def test_the_plan_counts_nothing_for_layers_it_does_not_know() -> None:
    shape = read_shape(SMALL.to_dict())
    assert shape is not None

    assert trainable_parameters(adapter(method="lora", targets=["qkv_proj"]), shape) is None


@pytest.mark.parametrize("fields", METHODS, ids=str)
def test_the_base_stays_frozen_in_16_bits_and_the_adapter_trains_in_32(fields: dict[str, Any]) -> None:
    model = on_stories(
        adapter(**fields | ({"layers": 3} if fields["method"] == "adaption_prompt" else {})), torch.bfloat16
    )

    declared = declared_trainable(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    formats = {parameter.dtype for name, parameter in model.named_parameters() if name in declared}
    frozen = {parameter.dtype for name, parameter in model.named_parameters() if name.endswith("norm.weight")}

    assert trainable == declared != set()
    assert formats == {torch.float32}
    assert frozen == {torch.bfloat16}


def test_every_rank_starts_from_the_same_adapter() -> None:
    first, second = (on_stories(adapter(method="lora")) for _ in range(2))

    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_frozen_weights_have_the_format_that_is_computed_in() -> None:
    def dtype(**changes: Any) -> torch.dtype:
        return weights_dtype(CptRecipe.model_validate_json(json.dumps(cpt_recipe(**changes))))

    assert dtype(precision={"dtype": "bf16"}) == torch.float32
    assert dtype(precision={"dtype": "bf16"}, adapter={"method": "lora"}) == torch.bfloat16
    assert dtype(precision={"dtype": "fp32"}, adapter={"method": "lora"}) == torch.float32


def test_4_bit_weights_are_stored_as_numbers_of_the_models_format() -> None:
    pytest.importorskip("bitsandbytes")
    recipe = CptRecipe.model_validate_json(
        json.dumps(cpt_recipe(model={"path": "stories260k", "quantization": {}}, adapter={"method": "lora"}))
    )

    model = build_causal_lm(recipe.model, STORIES, 1, torch.bfloat16)
    weight = model.model.layers[0].mlp.up_proj.weight

    assert (type(weight).__name__, weight.dtype) == ("Params4bit", torch.bfloat16)
    assert weight.quant_state.quant_type == "nf4"
    assert weight.quant_state.nested
    assert model.lm_head.weight.dtype == torch.bfloat16


def test_layers_that_the_model_does_not_have_are_named() -> None:
    with pytest.raises(LauncherError, match=r"adapter.targets: .*no module `query_key_value`"):
        on_stories(adapter(method="lora", targets=["query_key_value"]))


def tiny_gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, bos_token_id=1, eos_token_id=2))


@pytest.mark.parametrize("targets", ["all-linear", ["c_attn"], ["c_proj"]])
def test_olora_is_refused_where_weights_are_stored_the_other_way_round(targets: Any) -> None:
    name = targets[0] if isinstance(targets, list) else "c_attn"
    with pytest.raises(LauncherError, match=rf"adapter\.init: `olora` .* of `{name}` .*; write `pissa`"):
        adapted(tiny_gpt2(), adapter(method="lora", init="olora", r=4, targets=targets), 0, "CAUSAL_LM", 10)


@pytest.mark.parametrize("init", ["pissa", "orthogonal", "gaussian", "default"])
def test_other_initialisations_leave_such_a_model_as_it_is(init: str) -> None:
    ids, base = torch.tensor([[1, 5, 6, 7]]), tiny_gpt2().eval()
    expected = base(ids).logits

    model = adapted(base, adapter(method="lora", init=init, r=4), 0, "CAUSAL_LM", 10)

    torch.testing.assert_close(model.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_adalora_needs_steps_to_cut_ranks_in() -> None:
    with pytest.raises(LauncherError, match=r"adapter.tinit: 10 steps and `tfinal` \(10\) leave none of 20"):
        on_stories(adapter(method="adalora", tinit="10 steps", tfinal="50%"))


def test_a_frozen_weight_costs_4_flops_and_a_trained_one_6() -> None:
    model = on_meta(SMALL, adapter(method="lora"))
    trainable, total = count_parameters(model)

    cost = cost_of(model, sequence_length=8)

    table = 64 * 48
    assert cost.flops_per_token == 6 * trainable + 4 * (total - trainable - table) + 12 * 3 * 48 * 8


ADAPTED = RECIPE + "adapter: {method: lora, r: 8}\n"


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{method: lroa}", "adapter.method: `lroa` is not known; did you mean `lora`?"),
        ("{r: 8}", "adapter.method: required, but missing; write `lora`, `adalora`, `prefix`, `prompt`, `p_tuning`,"),
        ("{method: lora, rank: 8}", "adapter.rank: unknown key; known keys: `method`, `r`, `alpha`,"),
        ("{method: ia3, target: [x]}", "adapter.target: unknown key; did you mean `targets`?"),
        ("{method: lora, r: 0}", "adapter.r: `0` is not valid here; write a number of at least 1"),
        ("{method: lora, r: 7, init: orthogonal}", "adapter.r: `init: orthogonal` needs an even rank; write `8`"),
        ("{method: adalora, target_r: 12}", "adapter.target_r: 12 is not less than `init_r` (12); write less"),
        ("{method: ia3, feedforward: [up_proj]}", "adapter.feedforward: `up_proj` is not one of `targets`"),
        ("{method: prefix, hidden: 8}", "adapter.hidden: needs a projection; write `projection: true`"),
    ],
)
def test_what_an_adapter_cannot_be_is_explained(tmp_path: Path, section: str, told: str) -> None:
    (found,) = faults(tmp_path, RECIPE + f"adapter: {section}\n")

    assert told in found


def test_prefixes_do_not_go_with_recomputed_layers(tmp_path: Path) -> None:
    text = RECIPE.replace("data:\n", "data:\n  packing: truncate\n") + "parallel: {strategy: ddp}\n"
    recomputed = text.replace("{path: org/model}", "{path: org/model, activation_checkpointing: true}")

    (found,) = faults(tmp_path, recomputed + "adapter: {method: prefix}\n")

    assert "model.activation_checkpointing: recomputed layers lose the cache" in found
    load(tmp_path, text + "adapter: {method: prefix}\n")
    load(tmp_path, recomputed + "adapter: {method: prompt}\n")


CHATS = "data:\n  sources:\n    - {name: a, files: a.json, format: alpaca}\n"
SFT = re.sub(r"data:\n(  .*\n)*", CHATS, RECIPE).replace("kind: cpt", "kind: sft")


@pytest.mark.parametrize("method", ["prefix", "prompt", "p_tuning"])
@pytest.mark.parametrize(
    ("recipe", "packed", "alone"), [(RECIPE, "document", "truncate"), (SFT, "example", "pad")], ids=["cpt", "sft"]
)
def test_prompts_do_not_go_with_what_is_packed(
    tmp_path: Path, recipe: str, packed: str, alone: str, method: str
) -> None:
    text = recipe + f"adapter: {{method: {method}}}\nparallel: {{strategy: ddp}}\n"

    (found,) = faults(tmp_path, text)

    assert f"adapter.method: `{method}` lets packed {packed}s attend to one another" in found
    assert found.endswith(f"choose a `data.packing` with one {packed} per sequence")
    load_recipes(write(tmp_path, text.replace("data:\n", f"data:\n  packing: {alone}\n")))


@pytest.mark.parametrize(
    ("method", "strategies"),
    [
        ("lora", set()),
        ("ia3", set()),
        ("oft", set()),
        ("adaption_prompt", set()),
        ("prefix", {"full_shard", "hybrid_shard"}),
        ("prompt", {"full_shard", "hybrid_shard"}),
        ("p_tuning", {"full_shard", "hybrid_shard"}),
        ("adalora", {"full_shard", "hybrid_shard", "zero2", "zero3"}),
    ],
)
def test_strategies_that_a_method_was_seen_to_fail_with_are_refused(method: str, strategies: set[str]) -> None:
    known = get_args(Parallel.model_fields["strategy"].annotation)

    assert {strategy for strategy in known if strategy_limit(adapter(method=method), strategy)} == strategies


def test_a_refused_strategy_is_explained(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, RECIPE + "adapter: {method: adalora}\nparallel: {strategy: zero3}\n")

    assert "parallel.strategy: `zero3` does not work with `adalora`: " in found
    assert found.endswith("write `ddp`")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (RECIPE, "quantised weights cannot be trained; add an `adapter`"),
        (ADAPTED, "only pretrained weights are quantised"),
    ],
)
def test_only_published_frozen_weights_are_quantised(tmp_path: Path, text: str, told: str) -> None:
    init = "random" if "adapter" in text else "pretrained"
    model = f"{{path: org/model, init: {init}, quantization: {{bits: 4}}}}"

    (found,) = faults(tmp_path, text.replace("{path: org/model}", model))

    assert told in found


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("init", "told"), [("pissa", "packed bits"), ("olora", "quantises them again")])
def test_starts_that_take_weights_apart_do_not_go_with_quantised_ones(
    tmp_path: Path, init: str, told: str, bits: int
) -> None:
    text = RECIPE + f"adapter: {{method: lora, init: {init}}}\nparallel: {{strategy: ddp}}\n"
    quantised = f"{{path: org/model, quantization: {{bits: {bits}}}}}"

    (found,) = faults(tmp_path, text.replace("{path: org/model}", quantised))

    assert f"adapter.init: `{init}` " in found
    assert told in found
    load(tmp_path, text)
    load(tmp_path, text.replace("{path: org/model}", quantised).replace(init, "gaussian"))


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("ddp", None),
        (
            "full_shard",
            "bitsandbytes loses the scales of 8-bit weights if `full_shard` shards them; write `bits: 4`",
        ),
        ("zero2", None),
        ("zero3", "`zero3` cannot shard them; write `bits: 4`"),
    ],
)
def test_8_bit_weights_are_refused_where_they_cannot_be_shared_out(
    tmp_path: Path, strategy: str, told: str | None
) -> None:
    model = "{path: org/model, quantization: {bits: 8}}"
    text = ADAPTED.replace("{path: org/model}", model) + f"parallel: {{strategy: {strategy}}}\n"

    if told is None:
        load(tmp_path, text)
    else:
        assert told in faults(tmp_path, text)[0]


def test_memory_of_a_run_is_the_frozen_base_and_a_small_optimizer() -> None:
    shape = read_shape(LLAMA_7B.to_dict())
    assert shape is not None
    number, trainable = 6_738_415_616, 8_388_608

    def estimate(**changes: Any) -> Any:
        lora = {"method": "lora", "r": 16, "targets": ["q_proj", "v_proj"]}
        recipe = cpt_recipe(adapter=lora, precision={"dtype": "bf16"}, resources={"gpus_per_node": 2}, **changes)
        return estimate_memory(CptRecipe.model_validate_json(json.dumps(recipe)), shape)

    plain, sharded = estimate(), estimate(parallel={"strategy": "full_shard"})
    quantised = estimate(model={"path": "stories260k", "quantization": {}})

    assert plain.parameters == 2 * number + 4 * trainable
    assert (plain.gradients, plain.optimizer) == (8 * trainable, 8 * trainable)
    assert sharded.parameters == number + 2 * trainable
    assert sharded.optimizer == 4 * trainable
    in_layers = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096)
    assert quantised.parameters == pytest.approx(0.516 * in_layers + 2 * (number - in_layers) + 4 * trainable, rel=1e-3)


def test_a_frozen_base_is_loaded_in_16_bits() -> None:
    shape = read_shape(LLAMA_7B.to_dict())
    assert shape is not None
    recipe = cpt_recipe(adapter={"method": "lora"}, precision={"dtype": "bf16"}, resources={"gpus_per_node": 2})

    assert estimate_loading(CptRecipe.model_validate_json(json.dumps(recipe)), shape) == 2 * 2 * 6_738_415_616


def test_all_weights_of_a_model_without_an_adapter_are_declared_trainable() -> None:
    model: nn.Module = LlamaForCausalLM(SMALL)

    assert declared_trainable(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("adapter.targets", {"method": "lora", "targets": ["q_proj", "vproj"]}),
        ("adapter.targets", {"method": "adalora", "targets": ["vproj"]}),
        ("adapter.targets", {"method": "oft", "block_size": 4, "targets": ["q_proj", "vproj"]}),
        ("adapter.targets", {"method": "ia3", "targets": ["k_proj", "vproj"], "feedforward": []}),
        ("adapter.attention_targets", {"method": "molora", "attention_targets": ["q_proj", "vproj"]}),
        ("adapter.ffn_targets", {"method": "molora", "ffn_targets": ["up_proj", "vproj"]}),
        ("adapter.targets", {"method": "orthogonal", "start_from": "x", "targets": ["up_proj", "vproj"]}),
    ],
    ids=str,
)
def test_each_target_must_be_a_module_of_the_model(key: str, fields: dict[str, Any]) -> None:
    model = AutoModelForCausalLM.from_pretrained(STORIES)
    modules = [name for name, _ in model.named_modules()]

    with pytest.raises(LauncherError) as caught:
        adapted(model, adapter(**fields), 1, "CAUSAL_LM", steps=20)

    assert str(caught.value).startswith(f"{key}: ")
    assert "`vproj`; there are `v_proj` (5 modules), " in str(caught.value), "the nearest name first"
    assert [name for name, _ in model.named_modules()] == modules, "nothing was adapted before the error"


def test_a_target_may_be_the_end_of_a_longer_name() -> None:
    assert count_parameters(on_stories(adapter(method="lora", targets=["self_attn.q_proj"])))[0] > 0
