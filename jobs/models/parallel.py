"""Parallelism: from the recipe's intent to FSDP2 or DeepSpeed, and proof that it took effect."""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from jobs.rank.ranks import Ranks
from launcher.errors import LauncherError
from launcher.recipe.deepspeed import deepspeed_config, zero_stage
from launcher.recipe.kinds.training import TrainingRecipe
from launcher.recipe.sections.common import Batch, Parallel, Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class ParallelLayout:
    """How the ranks of this attempt share a model."""

    parallel: Parallel
    world_size: int
    shard_size: int
    """Ranks that hold one copy of the parameters together."""
    device: torch.device
    """This rank's."""
    resumes_converted: bool = False
    """Whether the checkpoint to resume from is in DeepSpeed's universal format."""

    @property
    def replicas(self) -> int:
        """Copies of the parameters."""
        return self.world_size // self.shard_size

    @property
    def uses_fsdp(self) -> bool:
        """Whether FSDP2 does it."""
        return self.parallel.strategy in ("full_shard", "hybrid_shard")

    @property
    def zero_stage(self) -> int | None:
        """DeepSpeed's stage, or None where DeepSpeed has no part in it."""
        return zero_stage(self.parallel.strategy)

    @property
    def is_alone(self) -> bool:
        """Whether a single rank trains a model that nothing shards."""
        return self.world_size == 1 and self.parallel.strategy == "ddp"

    def __str__(self) -> str:
        return f"{self.parallel.strategy}: {self.replicas} x {self.shard_size} ranks"


def lay_out(parallel: Parallel, ranks: Ranks, device: torch.device) -> ParallelLayout:
    """Fit the recipe's intent to the ranks of this attempt.

    Their number may differ from the attempt before: `shard: node` and `replicate: auto` follow.

    Raises:
        LauncherError: the ranks cannot be divided into such groups.
    """
    world = ranks.world_size
    if parallel.strategy == "ddp":
        return ParallelLayout(parallel, world, 1, device)
    if parallel.strategy != "hybrid_shard":
        return ParallelLayout(parallel, world, world, device)
    shard = ranks.local_world_size if parallel.shard == "node" else parallel.shard
    if world % shard or parallel.replicate not in ("auto", world // shard):
        raise LauncherError(
            f"parallel: {parallel.replicate} groups of {shard} ranks are not the {world} ranks of this attempt; "
            f"write `shard: node` and `replicate: auto`"
        )
    if shard == 1 and world > 1:
        raise LauncherError("parallel.shard: groups of 1 rank shard nothing; write `strategy: ddp` or `full_shard`")
    return ParallelLayout(parallel, world, shard, device)


def accumulation_steps(batch: Batch, world_size: int) -> int:
    """Return the micro batches per optimizer step that keep the global batch at this world size.

    Raises:
        LauncherError: the global batch is not a multiple of micro batch x world size.
    """
    unit = batch.least_micro_batch * world_size
    if batch.sequences % unit:
        raise LauncherError(
            f"batch.global_batch: {batch.sequences} sequences are not a multiple of micro batch x world size "
            f"({batch.least_micro_batch} x {world_size}); run on a number of ranks that divides it"
        )
    return batch.sequences // unit


def strategy_arguments(layout: ParallelLayout, recipe: TrainingRecipe) -> dict[str, Any]:
    """Express a layout as arguments of transformers' TrainingArguments."""
    if layout.zero_stage is not None:
        config = deepspeed_config(recipe, layout.world_size) or {}
        if layout.resumes_converted:
            config["checkpoint"] = {"load_universal": True}
        return {"deepspeed": config}
    if not layout.uses_fsdp:
        return {"ddp_find_unused_parameters": False}
    arguments: dict[str, Any] = {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            # Which class is a decoder layer, accelerate asks the model.
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "SHARDED_STATE_DICT",
            "reshard_after_forward": layout.parallel.reshard_after_forward,
        },
        # Without this accelerate keeps unsharded gradients between micro batches: a whole model of them on each GPU.
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }
    if layout.replicas > 1:
        from accelerate.parallelism_config import ParallelismConfig

        sizes = {"dp_replicate_size": layout.replicas, "dp_shard_size": layout.shard_size}
        arguments["parallelism_config"] = ParallelismConfig(**sizes)
    return arguments


def silence_deepspeed() -> None:
    """Keep DeepSpeed 0.19 from compiling at start-up, and from warnings in every step and every layer."""
    # By its path: as an attribute of deepspeed.comm it is torch itself.
    backend = importlib.import_module("deepspeed.comm.torch")
    # A collective for inference on CPUs, which training never calls: it takes a compiler and, where all wait for one
    # lock in a shared home that somebody who was killed has left behind, forever.
    backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
    # It calls torch's collectives by their old names.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)


def fsdp_mixed_precision(precision: Precision) -> Any:
    """Return FSDP2's policy: compute in the recipe's format, reduce gradients in fp32.

    accelerate would reduce in the compute format as well. Summing the gradients of many ranks in
    bf16 costs precision that no rank can restore.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    dtype = _DTYPES.get(precision.dtype)
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else None


@contextmanager
def prepared_as(layout: ParallelLayout) -> Iterator[None]:
    """Let accelerate prepare a model as the layout says while its Trainer is created, where it would not by itself.

    accelerate 1.15 enables FSDP on every kind of device but the CPU. There it silently ignores the FSDP plugin and
    trains DDP, though torch's FSDP2 runs on gloo. A rehearsal on CPUs has to take the path of the run on GPUs, so this
    does for MULTI_CPU what accelerate's AcceleratorState does for MULTI_GPU. And it wraps the model of a single rank
    into DDP, which copies all gradients into buckets that nobody reduces. `verify` fails if either ever stops working.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    original = AcceleratorState.__init__

    def init_as_planned(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                plugin.set_mixed_precision(self._mixed_precision)
            self.fsdp_plugin, chosen = plugin, DistributedType.FSDP
        elif layout.is_alone and self.distributed_type in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            chosen = DistributedType.NO
        else:
            return
        self.distributed_type = PartialState._shared_state["distributed_type"] = chosen

    AcceleratorState.__init__ = init_as_planned
    try:
        yield
    finally:
        AcceleratorState.__init__ = original


def reshard(model: nn.Module | None) -> None:
    """Free what FSDP2 has gathered for a backward pass that does not come."""
    assert model is not None
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def verify(model: nn.Module, layout: ParallelLayout) -> None:
    """Check that a model prepared for training really is laid out as the recipe says.

    The libraries fall back without an error; training would be slower or run out of memory, and resume into the wrong
    state.

    Args:
        model: What Trainer wrapped the model into.
        layout: What was asked for.

    Raises:
        RuntimeError: it is laid out otherwise.
    """
    if layout.zero_stage is not None:
        _verify_deepspeed(model, layout.zero_stage)
    elif layout.uses_fsdp:
        _verify_fsdp(model, layout)
    elif layout.is_alone is isinstance(model, nn.parallel.DistributedDataParallel):
        expected = "bare" if layout.is_alone else "in DistributedDataParallel"
        raise _not_in_effect(layout, f"the model is a {type(model).__name__}, not {expected}")


def describe(model: nn.Module) -> str:
    """Describe how a prepared model's parameters really lie; one phrase for each way that is found."""
    ways = {
        f"DTensor {parameter.placements} on mesh {tuple(parameter.device_mesh.shape)}"
        if isinstance(parameter, DTensor)
        else f"plain tensors in {type(model).__name__}"
        for parameter in model.parameters()
    }
    return "parameters: " + "; ".join(sorted(ways))


def _verify_fsdp(model: nn.Module, layout: ParallelLayout) -> None:
    shape = (layout.replicas, layout.shard_size) if layout.replicas > 1 else (layout.shard_size,)
    placements = (Replicate(), Shard(0)) if layout.replicas > 1 else (Shard(0),)
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            raise _not_in_effect(layout, f"parameter {name} is a plain {type(parameter).__name__}, not a DTensor")
        if parameter.placements != placements or tuple(parameter.device_mesh.shape) != shape:
            found = f"{parameter.placements} on a mesh of {tuple(parameter.device_mesh.shape)}"
            raise _not_in_effect(layout, f"parameter {name} lies {found}, not {placements} on {shape}")
    wrapped = {type(module).__name__ for module in model.modules() if isinstance(module, FSDPModule)}
    if len(wrapped) < 2:
        raise _not_in_effect(layout, f"only {wrapped} is sharded on its own, no decoder layer is")


def _verify_deepspeed(model: nn.Module, stage: int) -> None:
    import deepspeed

    if not isinstance(model, deepspeed.DeepSpeedEngine) or model.zero_optimization_stage() != stage:
        raise RuntimeError(
            f"zero{stage}: the model is a {type(model).__name__}, not DeepSpeed's engine at stage {stage}"
        )


def _not_in_effect(layout: ParallelLayout, found: str) -> RuntimeError:
    return RuntimeError(f"{layout} is not in effect: {found}")
