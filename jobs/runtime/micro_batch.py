"""The micro batch of an attempt, and what is said when it, or the model itself, does not fit into a GPU's memory.

The recipe is frozen: what later attempts may take at most is in the ledger, written by the batch process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from jobs.runtime.context import Context
from launcher.errors import LauncherError
from launcher.ledger import append_event, micro_batch_limit, read_attempts
from launcher.paths import published_steps
from launcher.recipe.adapter import PrefixTuning, quantization_limit, strategy_limit
from launcher.recipe.sections import Batch
from launcher.recipe.training import TrainingRecipe

if TYPE_CHECKING:  # it imports torch, which a `prepare` need not have
    from jobs.runtime.process_group import Group

R = TypeVar("R", bound=TrainingRecipe)

_SAID = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "'out of memory'")
"""What CUDA, cuBLAS and NCCL say where torch's allocator is not asked. Not what the allocator of CPUs says: RAM that
is gone is not a matter of micro batches only."""


class DoesNotFitError(Exception):
    """A micro batch did not fit into this rank's GPU; a smaller one may."""


def sized(recipe: R, context: Context, group: "Group") -> R:
    """Return the recipe with the micro batch that this attempt takes. A collective.

    Rank 0 reads the ledger for all: it was written on its node, and others may see it later.
    """
    limit = group.from_main(micro_batch_limit(read_attempts(context.run.ledger)) if group.is_main else None)
    number = choose(recipe.batch, group.world_size, context.record.micro_batch, limit)
    if group.is_main:
        append_event(context.run.ledger, context.attempt, micro_batch=number)
        if number != recipe.batch.micro_batch:
            why = "" if limit is None else f", at most {limit} since more did not fit"
            steps = recipe.batch.sequences // (number * group.world_size)
            print(f"micro batch {number} x {steps} accumulation steps (`{recipe.batch.micro_batch}`{why})", flush=True)
    group.barrier()
    return recipe.sized(number)


def choose(batch: Batch, world_size: int, start: int | None, limit: int | None) -> int:
    """Choose a micro batch that keeps the global batch.

    Args:
        batch: The recipe's section; a number there is taken as it is, unless it is above the limit.
        world_size: Ranks of this attempt.
        start: What `auto` starts with, as the launcher estimated it; 1 where it could not.
        limit: What may be tried at most; None: anything.
    """
    wanted = (start or 1) if batch.micro_batch == "auto" else batch.micro_batch
    if batch.sequences % world_size or (batch.micro_batch != "auto" and (limit is None or wanted <= limit)):
        return wanted  # what does not divide is refused with the other sizes
    share = batch.sequences // world_size
    most = wanted if limit is None else min(wanted, limit)
    return next(number for number in range(most, 0, -1) if share % number == 0)


@contextmanager
def one_micro_batch(size: int) -> Iterator[None]:
    """Tell that it was this micro batch that did not fit into the GPU's memory, if that is so.

    Raises:
        DoesNotFitError: it was.
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

    What fails besides micro batches (loading, the optimizer's state) never fitted if nothing was ever saved. If
    something was, the GPU is not what it was, and the attempt is a failure as any other.

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
            error.add_note("it did fit in an earlier attempt: does something else use this GPU?")
            raise
        raise LauncherError(f"without any micro batch: {_first_line(error)}; {_advice(recipe)}") from error


def is_out_of_gpu_memory(error: RuntimeError) -> bool:
    """Tell whether a GPU's memory was not enough."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in _SAID)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _advice(recipe: TrainingRecipe) -> str:
    """Name what validation would let pass."""
    ways, adapter = [], recipe.adapter
    if not (recipe.model.activation_checkpointing or isinstance(adapter, PrefixTuning)):
        ways.append("`model.activation_checkpointing: true`")
    sharing = [name for name in ("full_shard", "zero3") if adapter is None or strategy_limit(adapter, name) is None]
    if recipe.parallel.strategy in ("ddp", "zero2") and sharing:
        names = ", ".join(f"`{name}`" for name in sharing)
        ways.append(f"a `parallel.strategy` that shares the model out ({names})")
    if adapter is not None and recipe.model.quantization is None and quantization_limit(adapter) is None:
        ways.append("`model.quantization: {bits: 4}`")
    return f"write {', '.join([*ways, 'a shorter `batch.sequence_length`'])}, or ask for more or larger GPUs"
