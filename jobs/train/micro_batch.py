"""The micro batch of an attempt, and what to change when it, or the model itself, does not fit into a GPU's memory.

The recipe is frozen: the limit for later attempts is in the ledger, written by the batch process.
"""

# transformers' auto_find_batch_size and accelerate's find_executable_batch_size retry inside one rank, while the other
# ranks wait in a collective.

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from jobs.rank.context import Context
from launcher.errors import LauncherError
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.adapter import PrefixTuning, quantization_limit, strategy_limit
from launcher.recipe.sections.common import Batch
from launcher.run.ledger import append_event, micro_batch_limit, read_attempts
from launcher.run.paths import published_steps

if TYPE_CHECKING:  # it imports torch, which a `prepare` need not have
    from jobs.rank.process_group import RankGroup

R = TypeVar("R", bound=TrainingRecipe)

_OUT_OF_MEMORY = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "'out of memory'")
"""Messages of CUDA, cuBLAS and NCCL, which do not use torch's allocator. Those of the CPU's allocator are left out: RAM
that runs out is not a matter of micro batches alone."""


class DoesNotFitError(Exception):
    """A micro batch did not fit into this rank's GPU; a smaller one may."""


def sized(recipe: R, context: Context, group: "RankGroup") -> R:
    """Return the recipe with the micro batch of this attempt. A collective.

    Rank 0 reads the ledger for all: it was written on its node, and others may see it later.
    """
    limit = group.from_main(micro_batch_limit(read_attempts(context.run.ledger)) if group.is_main else None)
    number = choose(recipe.batch, group.world_size, context.record.micro_batch, limit)
    if group.is_main:
        append_event(context.run.ledger, context.attempt, micro_batch=number)
        if number != recipe.batch.micro_batch:
            why = "" if limit is None else f", at most {limit} because more did not fit"
            steps = recipe.batch.sequences // (number * group.world_size)
            print(f"micro batch {number} x {steps} accumulation steps (`{recipe.batch.micro_batch}`{why})", flush=True)
    group.barrier()
    return recipe.sized(number)


def choose(batch: Batch, world_size: int, start: int | None, limit: int | None) -> int:
    """Choose a micro batch that keeps the global batch.

    Args:
        batch: The recipe's section; a number there is taken as it is, unless it is above the limit.
        world_size: Ranks of this attempt.
        start: What `auto` starts with, as the launcher estimated it; None: 1.
        limit: The largest that may be tried; None: any.
    """
    wanted = (start or 1) if batch.micro_batch == "auto" else batch.micro_batch
    if batch.sequences % world_size or (batch.micro_batch != "auto" and (limit is None or wanted <= limit)):
        return wanted  # sizes that do not divide are refused later
    share = batch.sequences // world_size
    most = wanted if limit is None else min(wanted, limit)
    return next(number for number in range(most, 0, -1) if share % number == 0)


@contextmanager
def one_micro_batch(size: int) -> Iterator[None]:
    """Name the micro batch that did not fit into the GPU's memory.

    Raises:
        DoesNotFitError: it did not fit.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        raise DoesNotFitError(f"a micro batch of {size} does not fit: {_first_line(error)}") from error


@contextmanager
def explaining_memory(recipe: TrainingRecipe, context: Context) -> Iterator[None]:
    """Say what to change where no smaller micro batch helps.

    If memory runs out outside of a micro batch (loading, the optimizer's state) and nothing was ever saved, the run
    cannot work. If something was saved it did fit once, and the attempt fails as any other.

    Raises:
        LauncherError: the run cannot work as it is.
        DoesNotFitError: a smaller micro batch may fit.
    """
    try:
        yield
    except DoesNotFitError as error:
        if recipe.batch.least_micro_batch > 1:
            raise
        raise LauncherError(f"{error}; {_advice(recipe)}") from error
    except RuntimeError as error:
        if not is_out_of_gpu_memory(error):
            raise
        if published_steps(context.run):
            error.add_note("it fitted in an earlier attempt: does another process use this GPU?")
            raise
        raise LauncherError(f"even without a micro batch: {_first_line(error)}; {_advice(recipe)}") from error


def is_out_of_gpu_memory(error: RuntimeError) -> bool:
    """Tell whether a GPU's memory was not enough."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in _OUT_OF_MEMORY)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _advice(recipe: TrainingRecipe) -> str:
    """Name changes that the recipe's validation would accept."""
    ways, adapter = [], recipe.adapter
    if recipe.model.activation_checkpointing != "full" and not isinstance(adapter, PrefixTuning):
        ways.append("`model.activation_checkpointing: full`")
    sharing = [name for name in ("full_shard", "zero3") if adapter is None or strategy_limit(adapter, name) is None]
    if recipe.parallel.strategy in ("ddp", "zero2") and sharing:
        names = ", ".join(f"`{name}`" for name in sharing)
        ways.append(f"a `parallel.strategy` that shards the model ({names})")
    if adapter is not None and recipe.model.quantization is None and quantization_limit(adapter) is None:
        ways.append("`model.quantization: {bits: 4}`")
    return f"write {', '.join([*ways, 'a shorter `batch.sequence_length`'])}, or ask for more or larger GPUs"
