"""Which micro batch an attempt takes, and what is said when none fits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs.train.micro_batch import DoesNotFitError, choose, explaining_memory, is_out_of_gpu_memory, one_micro_batch
from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.load import LoadedRecipe, load_recipes
from launcher.plan import starting_micro_batch
from launcher.plan.memory import estimate_memory
from launcher.plan.model_shape import read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.sections.common import Batch
from launcher.run.paths import COMPLETE
from tests.support.training_runs import context_of, cpt_recipe, make_run

OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a capacity of ...")
LLAMA_7B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


def batch(sequences: int, micro_batch: int | str) -> Batch:
    return Batch.model_validate({"global_batch": f"{sequences} sequences", "micro_batch": micro_batch})


@pytest.mark.parametrize(
    ("sequences", "micro_batch", "world_size", "start", "limit", "chosen"),
    [
        (64, 8, 2, None, None, 8),  # what the recipe says
        (64, 8, 2, None, 4, 4),  # halved
        (64, 2, 2, None, 4, 2),  # less than the limit already
        (28, 7, 2, None, 3, 2),  # half of 7 does not divide the 14 of a rank
        (64, "auto", 2, 16, None, 16),
        (64, "auto", 2, 16, 4, 4),
        (24, "auto", 2, 8, None, 6),  # planned for other ranks
        (64, "auto", 2, None, None, 1),  # a run of an older launcher knows no start
        (9, "auto", 2, 4, None, 4),  # refused later, as every batch that the ranks do not divide
        (9, 4, 2, None, 2, 4),
    ],
)
def test_the_micro_batch_keeps_the_global_batch(
    sequences: int, micro_batch: int | str, world_size: int, start: int | None, limit: int | None, chosen: int
) -> None:
    assert choose(batch(sequences, micro_batch), world_size, start, limit) == chosen


@pytest.mark.parametrize(
    ("error", "of_gpu"),
    [
        (OUT_OF_MEMORY, True),
        (RuntimeError("CUDA error: out of memory\nCompile with ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("NCCL error ... Last error:\nCuda failure 2 'out of memory'"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"), False),
        (RuntimeError("Connection closed by peer [127.0.0.1]:4711"), False),
    ],
)
def test_memory_of_gpus_is_told_from_ram(error: RuntimeError, of_gpu: bool) -> None:
    assert is_out_of_gpu_memory(error) is of_gpu


def test_only_what_a_micro_batch_asked_for_can_be_halved() -> None:
    told = r"a micro batch of 8 does not fit: .*Tried to allocate 2.00 GiB.$"

    with pytest.raises(DoesNotFitError, match=told), one_micro_batch(8):
        raise OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match="Connection"), one_micro_batch(8):
        raise RuntimeError("Connection closed by peer")


def recipe_with(**changes: object) -> CptRecipe:
    return CptRecipe.model_validate_json(json.dumps(cpt_recipe(**changes)))


def test_a_larger_micro_batch_goes_on_smaller(tmp_path: Path) -> None:
    context = context_of(make_run(tmp_path))

    with pytest.raises(DoesNotFitError), explaining_memory(recipe_with(batch={"micro_batch": 2}), context):
        raise DoesNotFitError("a micro batch of 2 does not fit")


@pytest.mark.parametrize("error", [DoesNotFitError("a micro batch of 1 does not fit"), OUT_OF_MEMORY])
def test_what_cannot_be_smaller_says_what_to_change(tmp_path: Path, error: Exception) -> None:
    run = make_run(tmp_path)

    with (
        pytest.raises(LauncherError, match=r"fit|without a micro batch.*Tried to allocate") as told,
        explaining_memory(recipe_with(batch={"micro_batch": 1}), context_of(run)),
    ):
        raise error
    assert "write `model.activation_checkpointing: full`, a `parallel.strategy` that shards" in str(told.value)


@pytest.mark.parametrize(
    ("adapter", "advice"),
    [
        (
            {"method": "lora"},
            "write `model.activation_checkpointing: full`, a `parallel.strategy` that shards the model "
            "(`full_shard`, `zero3`), `model.quantization: {bits: 4}`, a shorter `batch.sequence_length`",
        ),
        (
            {"method": "prefix"},
            "write a `parallel.strategy` that shards the model (`zero3`), `model.quantization: {bits: 4}`, a ",
        ),
        (
            {"method": "adalora"},
            "write `model.activation_checkpointing: full`, `model.quantization: {bits: 4}`, a shorter ",
        ),
        (
            {"method": "lora", "init": "pissa"},
            "shards the model (`full_shard`, `zero3`), a shorter `batch.sequence_length`",
        ),
    ],
    ids=["lora", "prefix", "adalora", "pissa"],
)
def test_nothing_is_advised_that_would_be_refused(tmp_path: Path, adapter: dict[str, str], advice: str) -> None:
    recipe = recipe_with(batch={"micro_batch": 1}, adapter=adapter, data={"packing": "truncate"})

    with pytest.raises(LauncherError) as told, explaining_memory(recipe, context_of(make_run(tmp_path))):
        raise OUT_OF_MEMORY

    assert advice in str(told.value)


def test_a_model_that_fitted_once_is_not_given_up(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.checkpoint(5).mkdir(parents=True)
    (run.checkpoint(5) / COMPLETE).touch()

    with pytest.raises(torch.OutOfMemoryError) as told, explaining_memory(recipe_with(), context_of(run)):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert "does another process use this GPU?" in told.value.__notes__[0]


@pytest.fixture
def auto(tmp_path: Path, make_cluster: Callable[..., Cluster]) -> Callable[..., LoadedRecipe]:
    """Load a recipe with `micro_batch: auto` for a LLaMA of 7B parameters; keywords replace its keys."""
    (tmp_path / "models" / "llama-7b").mkdir(parents=True)
    (tmp_path / "models" / "llama-7b" / "config.json").write_text(json.dumps(LLAMA_7B))

    def load(**changes: object) -> LoadedRecipe:
        sections = {
            "model": {"path": "llama-7b"},
            "batch": {"global_batch": "768 sequences", "micro_batch": "auto", "sequence_length": 512},
            "parallel": {"strategy": "full_shard"},
            "resources": {"nodes": 1, "gpus_per_node": 8},
            "precision": {"dtype": "bf16"},
        }
        (tmp_path / "recipe.yaml").write_text(json.dumps(cpt_recipe(**sections | changes)))
        [loaded] = load_recipes(tmp_path / "recipe.yaml")
        return loaded

    return load


def test_auto_starts_with_the_largest_power_of_two_that_fits_and_divides(
    auto: Callable[..., LoadedRecipe], make_cluster: Callable[..., Cluster]
) -> None:
    loaded, shape = auto(), read_shape(LLAMA_7B)
    assert isinstance(loaded.recipe, CptRecipe)
    assert shape is not None
    starts = {size: starting_micro_batch(loaded, make_cluster(gpus={"memory": size})) for size in ("40GB", "80GB")}

    needed = [estimate_memory(loaded.recipe.sized(number), shape) for number in (8, 16, 32)]
    assert starts == {"40GB": 8, "80GB": 16}
    assert [one.total > size for one, size in zip(needed, (42.4e9, 42.4e9, 84.8e9), strict=True) if one] == [
        False,
        True,
        True,
    ]
    assert starting_micro_batch(loaded, make_cluster(gpus={"memory": "2000GB"})) == 32  # 96 = 3 x 32 for each rank


@pytest.mark.parametrize(
    ("gpus", "changes", "start"),
    [
        ({"memory": "1GB"}, {}, 1),  # the warning says that it may not fit
        ({}, {}, 16),  # nobody knows what a GPU has
        ({"memory": "80GB"}, {"model": {"path": "org/unknown"}}, 16),
        ({"device": "cpu"}, {}, 1),
        ({"memory": "80GB"}, {"batch": {"global_batch": "768 sequences", "micro_batch": 2}}, None),
    ],
)
def test_auto_starts_somewhere_without_an_estimate_as_well(
    auto: Callable[..., LoadedRecipe],
    make_cluster: Callable[..., Cluster],
    gpus: dict[str, str],
    changes: dict[str, object],
    start: int | None,
) -> None:
    assert starting_micro_batch(auto(**changes), make_cluster(gpus=gpus)) == start
