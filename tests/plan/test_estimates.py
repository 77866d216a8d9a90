"""Memory and cost, against figures that others published or that torch counts."""

import math
from pathlib import Path

import pytest

from launcher.load import load_recipes
from launcher.plan.activations import layer_activations
from launcher.plan.cost import attempt_gpu_hours, estimate_run, steps_of
from launcher.plan.memory import (
    estimate_checkpoint,
    estimate_loading,
    estimate_memory,
    estimate_offloaded,
    trained_parameters,
)
from launcher.plan.model_shape import ModelShape, read_shape
from launcher.plan.zero_memory import left_on_gpu
from launcher.recipe import ClassifyRecipe, CptRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.adapter import Lora

ASSETS = Path(__file__).parents[2] / "recipes" / "assets"
LLAMA_7B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
EMBEDDING_LEAVES = (2 + 4) * 32000 * 4096
"""Bytes of its gradient and of the same in fp32, while DeepSpeed reduces it."""
LLAMA_3_8B = LLAMA_7B | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}


def shape(config: dict[str, object]) -> ModelShape:
    found = read_shape(config)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (LLAMA_7B, 6_738_415_616),  # https://arxiv.org/abs/2302.13971, table 2: 6.7B
        (LLAMA_3_8B, 8_030_261_248),  # total_size of its safetensors index / 2 bytes
        (
            LLAMA_7B
            | {"num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28672}
            | {"num_attention_heads": 64, "num_key_value_heads": 8},
            68_976_648_192,  # Llama-2-70B
        ),
    ],
)
def test_parameters_are_those_of_published_models(config: dict[str, object], parameters: int) -> None:
    assert shape(config).parameters == parameters


def test_models_that_the_formulas_do_not_cover_have_no_shape() -> None:
    assert read_shape({"model_type": "mamba"}) is None
    assert read_shape({}) is None
    assert read_shape({"model_type": "llama"}) is None


@pytest.fixture
def biomed() -> CptRecipe:
    (loaded,) = load_recipes(ASSETS.parent / "biomed_llama_cpt.yaml")
    assert isinstance(loaded.recipe, CptRecipe)
    return loaded.recipe


def with_parallel(recipe: CptRecipe, strategy: str, nodes: int, **changes: object) -> CptRecipe:
    parallel = recipe.parallel.model_copy(update={"strategy": strategy, **changes})
    resources = recipe.resources.model_copy(update={"nodes": nodes, "gpus_per_node": 8})
    return recipe.model_copy(update={"parallel": parallel, "resources": resources})


@pytest.mark.parametrize(("strategy", "gigabytes"), [("zero2", 16.6), ("zero3", 1.9), ("ddp", 120)])
def test_model_states_are_those_of_the_zero_paper(biomed: CptRecipe, strategy: str, gigabytes: float) -> None:
    # https://arxiv.org/abs/1910.02054, figure 1: 7.5B parameters on 64 GPUs, Adam with fp32 moments. DDP's buckets are
    # one more copy of the gradients, which the paper leaves out as it does DeepSpeed's; and ours are summed in fp32
    # under ZeRO.
    found = estimate_memory(with_parallel(biomed, strategy, nodes=8), shape(LLAMA_7B))

    states = found.parameters + found.gradients + found.optimizer
    states -= {"ddp": 0, "zero2": 200_000_000 + EMBEDDING_LEAVES, "zero3": 200_000_000}[strategy]
    more = 4 if strategy == "ddp" else 2 / 64
    assert (states / shape(LLAMA_7B).parameters - more) * 7.5 == pytest.approx(gigabytes, abs=0.05)


@pytest.mark.parametrize(
    ("strategy", "offload", "gpu", "ram"),
    [  # deepspeed.runtime.zero.stage3.estimate_zero3_model_states_mem_needs, without its factor of safety
        # and with the sum of gradients in fp32: on the GPU with zero2, in RAM with zero3
        ("zero2", "optimizer", 2 + 4 / 64 + (200_000_000 + EMBEDDING_LEAVES) / 6_738_415_616, 16 / 8),
        ("zero3", "optimizer", 2 / 64 + 200_000_000 / 6_738_415_616, (16 + 4) / 8),
        ("zero3", "all", 200_000_000 / 6_738_415_616, (16 + 4 + 2) / 8),
    ],
)
def test_offloaded_states_move_from_the_gpu_to_ram(
    biomed: CptRecipe, strategy: str, offload: str, gpu: float, ram: float
) -> None:
    recipe, number = with_parallel(biomed, strategy, nodes=8, offload=offload), shape(LLAMA_7B).parameters

    found, in_ram = estimate_memory(recipe, shape(LLAMA_7B)), estimate_offloaded(recipe, shape(LLAMA_7B))

    assert found is not None
    assert (found.parameters + found.gradients + found.optimizer) / number == pytest.approx(gpu, abs=0.001)
    assert in_ram is not None
    assert in_ram / number == pytest.approx(ram)
    assert estimate_offloaded(with_parallel(biomed, strategy, nodes=8), shape(LLAMA_7B)) is None


@pytest.mark.parametrize(
    ("strategy", "dtype", "config", "is_lora", "meanwhile"),
    [  # what is there in the backward pass in addition; a bucket has 50 million numbers
        ("zero2", "bf16", LLAMA_7B, False, 2 * 2 * 50_000_000 + EMBEDDING_LEAVES),
        ("zero2", "bf16", LLAMA_3_8B, False, 2 * 2 * 50_000_000 + (2 + 4) * 128256 * 4096),
        ("zero2", "fp32", LLAMA_7B, False, 2 * 4 * 50_000_000 + 4 * 32000 * 4096),
        ("zero2", "bf16", LLAMA_7B | {"vocab_size": 8000}, False, (2 * 2 + 2 + 4) * 50_000_000),
        ("zero2", "bf16", LLAMA_7B, True, 2 * 2 * 50_000_000 + (2 + 4) * 4_194_304),
        ("zero3", "bf16", LLAMA_7B, False, EMBEDDING_LEAVES),
        ("zero3", "bf16", LLAMA_7B | {"vocab_size": 8000}, False, 4 * 50_000_000),
        ("zero3", "bf16", LLAMA_7B, True, 4 * 4_194_304),
    ],
)
def test_deepspeeds_buckets_take_memory_of_the_gpu(
    biomed: CptRecipe, strategy: str, dtype: str, config: dict[str, object], is_lora: bool, meanwhile: int
) -> None:
    precision = biomed.precision.model_copy(update={"dtype": dtype})
    adapter = Lora(method="lora", r=8, targets=("q_proj", "v_proj")) if is_lora else None
    for offload in ("none", "optimizer"):
        recipe = with_parallel(biomed, strategy, nodes=8, offload=offload)
        recipe = recipe.model_copy(update={"precision": precision, "adapter": adapter})
        number = trained_parameters(recipe, shape(config))
        assert number is not None

        outside, backward = (left_on_gpu(recipe, shape(config), number, when)[0] for when in (False, True))

        sums = 0 if offload == "optimizer" and (strategy == "zero3" or dtype == "fp32") else 4 * (number // 64)
        assert outside - sums == (4 * 50_000_000 if strategy == "zero3" else 0)
        assert backward - outside == meanwhile


@pytest.mark.parametrize(("strategy", "bytes_each"), [("ddp", 12), ("full_shard", 12), ("zero2", 14), ("zero3", 12)])
def test_a_checkpoint_holds_what_is_trained_and_its_moments(biomed: CptRecipe, strategy: str, bytes_each: int) -> None:
    recipe, lora = with_parallel(biomed, strategy, nodes=1), Lora(method="lora", r=8, targets=("q_proj", "v_proj"))

    whole, adapted = (
        estimate_checkpoint(each, shape(LLAMA_7B)) for each in (recipe, recipe.model_copy(update={"adapter": lora}))
    )

    assert whole == bytes_each * 6_738_415_616
    assert adapted == bytes_each * 4_194_304  # https://arxiv.org/abs/2106.09685: 32 layers x 2 matrices x 8 x 8192


def test_biomed_llama_on_its_gpus_by_hand(biomed: CptRecipe) -> None:
    number, tokens = 6_738_415_616, 2048

    found = estimate_memory(biomed, shape(LLAMA_7B))

    assert found.parameters == number  # 4 bytes, sharded over 4 GPUs
    assert found.gathered == 2 * number  # bf16, kept until the backward pass
    assert found.gradients == number  # the sum over 64 micro batches is sharded
    assert found.optimizer == 2 * number
    assert found.activations == tokens * 32 * (2 * (8 * 4096 + 4) + 2 * 4 * 4096 + 4 * 32 + 2 * 4 * 11008 + 3 * 2048)
    assert found.logits == 2**25 * 2 + (4 + 2) * 32000 * 4096  # a part of them, and the gradient of the last matrix
    assert found.total == pytest.approx(55.5e9, rel=0.01)


def test_models_that_cap_their_logits_need_all_of_them(biomed: CptRecipe) -> None:
    found = estimate_memory(biomed, shape(LLAMA_7B | {"model_type": "gemma2"}))

    assert found is not None
    assert found.logits == 2048 * 32000 * (2 + 8)


@pytest.mark.parametrize(("strategy", "loading"), [("hybrid_shard", 4 * 4 * 6_738_415_616), ("zero3", None)])
def test_every_rank_of_a_node_loads_a_copy_in_fp32(biomed: CptRecipe, strategy: str, loading: int | None) -> None:
    parallel = biomed.parallel.model_copy(update={"strategy": strategy})

    assert estimate_loading(biomed.model_copy(update={"parallel": parallel}), shape(LLAMA_7B)) == loading


def test_resharding_and_checkpointing_save_memory(biomed: CptRecipe) -> None:
    model = biomed.model.model_copy(update={"activation_checkpointing": "full"})

    gathered = estimate_memory(biomed, shape(LLAMA_7B))
    resharded = estimate_memory(with_parallel(biomed, "hybrid_shard", 8, reshard_after_forward=True), shape(LLAMA_7B))
    recomputed = estimate_memory(biomed.model_copy(update={"model": model}), shape(LLAMA_7B))

    assert resharded.gathered < gathered.gathered / 10
    assert recomputed.activations < gathered.activations / 10
    assert recomputed.optimizer == gathered.optimizer


@pytest.mark.parametrize(
    ("length", "steps"),
    [("3000 steps", 3000), ("63B tokens", 15021), ("1 epoch", 239), ("0.5 epochs", 120), ("2 epochs", 477)],
)
def test_lengths_become_steps_rounded_up(biomed: CptRecipe, length: str, steps: int) -> None:
    schedule = biomed.schedule.model_copy(update={"length": Length(length)})

    assert steps_of(biomed.model_copy(update={"schedule": schedule}), [math.ceil(10**9 / 2048)]) == steps


def test_epochs_of_unknown_corpora_are_no_number_of_steps(biomed: CptRecipe) -> None:
    assert steps_of(biomed, None) is None
    assert estimate_run(biomed, shape(LLAMA_7B), "a100", None) is None
    assert estimate_run(biomed, shape(LLAMA_7B), "mi300", [10**9]) is None


def test_the_cost_of_biomed_llama_is_what_its_authors_report(biomed: CptRecipe) -> None:
    cost = estimate_run(biomed, shape(LLAMA_7B), "a100", [63 * 10**9 // 2048])

    assert cost is not None
    assert cost.steps == 15021
    assert cost.gpu_hours / 32 / 24 == pytest.approx(7, rel=0.15)  # "about a week" on 32 GPUs
    assert attempt_gpu_hours(biomed) == 32 * 24


@pytest.mark.parametrize("tied", [False, True])
def test_a_head_multiplies_with_no_table_of_embeddings(tied: bool) -> None:
    (loaded,) = load_recipes(ASSETS.parent / "clinical_baseline_mor.yaml", ["schedule.length=1000 steps"])
    recipe, model = loaded.recipe, shape(LLAMA_7B | {"tie_word_embeddings": tied})
    assert isinstance(recipe, ClassifyRecipe)

    cost = estimate_run(recipe, model, "a100")

    assert cost is not None
    length = recipe.batch.sequence_length
    computing = 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096
    flops = cost.tokens * (6 * computing + 12 * 32 * 4096 * length)
    assert cost.gpu_hours * 3600 * 312e12 * cost.mfu == pytest.approx(flops)


def test_the_cost_of_a_run_is_six_flops_a_parameter_and_token(biomed: CptRecipe) -> None:
    # Llama 2 7B: 2T tokens in 184,320 A100-hours, in sequences of 4096 (https://arxiv.org/abs/2307.09288, table 2).
    batch = biomed.batch.model_copy(update={"sequence_length": 4096})

    cost = estimate_run(biomed.model_copy(update={"batch": batch}), shape(LLAMA_7B), "A100-80GB", [2 * 10**12 // 4096])

    assert cost is not None
    assert cost.gpu_hours * cost.mfu / 184_320 == pytest.approx(0.45, abs=0.05)  # the utilisation that they reached


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True])
def test_torch_counts_as_many_parameters(tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(ASSETS / "stories260k", tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_config(config)

    assert shape(config.to_dict()).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize(("attention", "kind"), [("sdpa", "llama"), ("eager", "llama"), ("sdpa", "phi3")])
def test_torch_keeps_as_many_bytes_of_activations(biomed: CptRecipe, dtype: str, attention: str, kind: str) -> None:
    recipe = biomed.model_copy(
        update={
            "precision": biomed.precision.model_copy(update={"dtype": dtype}),
            "model": biomed.model.model_copy(update={"attention": attention}),
            "batch": biomed.batch.model_copy(update={"sequence_length": 256}),
        }
    )
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 8, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 512, "max_position_embeddings": 256}

    kept = [kept_bytes(sizes | {"num_hidden_layers": layers}, dtype, attention, kind) for layers in (2, 4)]

    expected = layer_activations(recipe, shape(sizes | {"model_type": kind, "num_hidden_layers": 4}))
    assert (kept[1] - kept[0]) / 2 / 256 == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_autocast_keeps_copies_of_weights_and_wider_norms(biomed: CptRecipe, kind: str) -> None:
    batch = biomed.batch.model_copy(update={"sequence_length": 256})
    recipe = with_parallel(biomed, "ddp", nodes=1).model_copy(update={"batch": batch})
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 8, "num_key_value_heads": 2}
    sizes |= {"vocab_size": 512, "max_position_embeddings": 256}

    kept = [kept_bytes(sizes | {"num_hidden_layers": layers}, "autocast", "sdpa", kind) for layers in (2, 4)]

    model = shape(sizes | {"model_type": kind, "num_hidden_layers": 4})
    matrices = 2 * (model.layer_parameters - 2 * 128)
    assert (kept[1] - kept[0]) / 2 == matrices + 256 * layer_activations(recipe, model)
    assert estimate_memory(recipe, model).gathered == 2 * model.parameters


def kept_bytes(sizes: dict[str, int], dtype: str, attention: str, kind: str) -> int:
    """Count what torch keeps for the backward pass of one sequence, parameters left out."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **sizes, pad_token_id=0, attn_implementation=attention, use_cache=False)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.arange(sizes["max_position_embeddings"])[None] % sizes["vocab_size"]
    casting = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "autocast")
    with casting, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, labels=ids)
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in parameters)
