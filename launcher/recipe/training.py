"""What recipes of every kind of training have: model, batch, optimizer and the rest, and what contradicts what."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Self

from pydantic import model_validator
from typing_extensions import override

from launcher.recipe.adapter import FSDP, PROMPTS, Adapter, PrefixTuning, quantization_limit, strategy_limit
from launcher.recipe.rules import ConflictError, FolderName
from launcher.recipe.sections import (
    Batch,
    Checkpoint,
    Model,
    Optim,
    Parallel,
    Precision,
    RecipeBase,
    Schedule,
    Tracking,
)
from launcher.recipe.stack import stack_conflicts


class TrainingRecipe(RecipeBase):
    """Training of a model; a kind adds its name and what it reads."""

    kind: str
    """The kind of training."""
    model: Model
    """The model to start from."""
    adapter: Adapter | None = None
    """Train a small part beside the model's frozen weights, by the method that it names; all weights if left out."""
    batch: Batch
    """The batch."""
    optim: Optim
    """The optimizer."""
    schedule: Schedule
    """Length and learning rate."""
    precision: Precision = Precision()
    """Number formats."""
    parallel: Parallel = Parallel()
    """How ranks share the work."""
    checkpoint: Checkpoint = Checkpoint()
    """When to save."""
    tracking: Tracking = Tracking()
    """Weights & Biases."""
    output: FolderName | None = None
    """Name below the profile's `roots.models` by which other recipes find what was trained: a link to `outputs/model`
    of the run, made when the run has finished."""

    @property
    @override
    def makes(self) -> str | None:
        """Name that other recipes can use once this one has been carried out."""
        return self.output

    @property
    def accumulation_steps(self) -> int:
        """Gradient accumulation steps that make the global batch at this world size."""
        return self.batch.sequences // (self.batch.least_micro_batch * self.resources.world_size)

    def sized(self, micro_batch: int) -> Self:
        """Return the recipe with another micro batch; the global batch stays."""
        return self.model_copy(update={"batch": self.batch.model_copy(update={"micro_batch": micro_batch})})

    @property
    def shard_size(self) -> int:
        """Ranks in one shard group."""
        if self.parallel.strategy == "ddp":
            return 1
        if self.parallel.strategy != "hybrid_shard":
            return self.resources.world_size
        shard = self.parallel.shard
        return self.resources.ranks_per_node if shard == "node" else shard

    @property
    def replicas(self) -> int:
        """Number of shard groups."""
        return self.resources.world_size // self.shard_size

    def samples_in_epoch(self, sizes: Sequence[int]) -> Fraction:
        """Return how many samples it takes to read the data once.

        Args:
            sizes: Samples in each part of the data.
        """
        return Fraction(sum(sizes))

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if conflicts := [*self._conflicts()]:
            raise ConflictError(conflicts)
        return self

    def _conflicts(self) -> Iterator[str]:
        """Name what contradicts itself; kinds add to it."""
        yield from self._batch_conflicts()
        yield from self._shard_conflicts()
        yield from self._offload_conflicts()
        yield from self._schedule_conflicts()
        yield from self._quantization_conflicts()
        yield from self._adapter_conflicts()
        yield from stack_conflicts(self.model, self.adapter)
        if self.output in {self.model.path, *(adapter.path for adapter in self.model.adapters)}:
            yield f"output: `{self.output}` is what training starts from, and stays as it is; write another name"
        if self.model.attention == "flash" and self.precision.dtype == "fp32":
            yield "model.attention: `flash` needs 16 bits; write `sdpa`, or `bf16` for `precision.dtype`"

    def _batch_conflicts(self) -> Iterator[str]:
        unit = self.batch.least_micro_batch * self.resources.world_size
        if self.batch.sequences % unit:
            nearest = max(unit, round(self.batch.sequences / unit) * unit)
            yield (
                f"batch.global_batch: {self.batch.sequences} sequences are not a multiple of "
                f"batch.micro_batch x world size ({self.batch.least_micro_batch} x {self.resources.world_size}); "
                f"write `{nearest} sequences`"
            )

    def _shard_conflicts(self) -> Iterator[str]:
        world, shard, replicate = self.resources.world_size, self.shard_size, self.parallel.replicate
        if self.parallel.strategy != "hybrid_shard":
            for name in ("shard", "replicate"):
                if getattr(self.parallel, name) != Parallel.model_fields[name].default:
                    yield f"parallel.{name}: belongs to `hybrid_shard`, not to `{self.parallel.strategy}`; leave it out"
            if not self.parallel.reshard_after_forward and self.parallel.strategy != "full_shard":
                yield f"parallel.reshard_after_forward: has no meaning for `{self.parallel.strategy}`; leave it out"
        elif world % shard:
            yield (
                f"parallel.shard: {shard} ranks do not divide the world size ({world}); "
                f"write `node` or a divisor of {world}"
            )
        elif shard == 1 < world:
            yield "parallel.shard: groups of 1 rank shard nothing; write `strategy: full_shard` or `ddp`"
        elif replicate not in ("auto", self.replicas):
            yield (
                f"parallel.replicate: {replicate} x shard ({shard}) is not the world size ({world}); "
                f"write `auto` or `{self.replicas}`"
            )

    def _offload_conflicts(self) -> Iterator[str]:
        strategy, offload = self.parallel.strategy, self.parallel.offload
        if offload != "none" and strategy not in ("zero2", "zero3"):
            yield f"parallel.offload: is DeepSpeed's, and `{strategy}` is not; write `strategy: zero3`, or leave it out"
        if offload == "all" and strategy == "zero2":
            yield (
                "parallel.offload: `zero2` computes with all parameters on each GPU; write `offload: optimizer`, or "
                "`strategy: zero3`"
            )

    def _adapter_conflicts(self) -> Iterator[str]:
        yield from self._token_conflicts()
        if self.adapter is None:
            return
        strategy = self.parallel.strategy
        if reason := strategy_limit(self.adapter, strategy):
            yield f"parallel.strategy: `{strategy}` does not work with `{self.adapter.method}`: {reason}; write `ddp`"
        if self.model.activation_checkpointing and isinstance(self.adapter, PrefixTuning):
            yield (
                "model.activation_checkpointing: layers that are to be recomputed drop the cache in which `prefix` "
                "hands them its keys and values; leave it out"
            )
        if self.packs and isinstance(self.adapter, PROMPTS):
            yield (
                f"adapter.method: `{self.adapter.method}` cannot keep packed {self.packs}s from seeing each other "
                f"(peft leaves `position_ids` out); choose a `data.packing` of one {self.packs} a sequence"
            )

    def _quantization_conflicts(self) -> Iterator[str]:
        quantization, strategy = self.model.quantization, self.parallel.strategy
        if quantization is None:
            return
        if self.adapter is None:
            yield "model.quantization: quantised weights cannot be trained; add an `adapter`, or leave it out"
        elif reason := quantization_limit(self.adapter):
            yield f"adapter.init: {reason}; write `default`, or leave `model.quantization` out"
        if quantization.bits == 8 and strategy in FSDP:
            yield (
                f"model.quantization.bits: bitsandbytes loses the scales of 8 bits where `{strategy}` cuts weights in "
                "parts; write `bits: 4`, or another `parallel.strategy`"
            )
        if quantization.bits == 8 and strategy == "zero3":
            yield (
                "model.quantization.bits: bitsandbytes computes with 8-bit weights of its own, which `zero3` does not "
                "cut in parts; write `bits: 4`, or `strategy: zero2`"
            )
        if self.model.init == "random":
            yield "model.quantization: only published weights are quantised; leave it out, or write `init: pretrained`"

    def _token_conflicts(self) -> Iterator[str]:
        trained = getattr(self.adapter, "embeddings", "frozen")
        if trained == "new" and not self.model.tokenizer:
            yield "adapter.embeddings: `model.tokenizer` adds no tokens; name one there, or leave this out"
        if trained != "frozen" and self.parallel.strategy != "ddp":
            yield f"parallel.strategy: `adapter.embeddings: {trained}` was tried with `ddp` only; write `ddp`"
        if self.model.tokenizer and self.adapter and trained == "frozen":
            yield (
                "adapter.embeddings: the tokens that `model.tokenizer` adds would not be trained; write `new` or "
                "`all`, and `method: lora`"
            )

    @property
    def packs(self) -> str | None:
        """What sequences hold several of that must not see each other; None if they do not."""
        return None

    def _schedule_conflicts(self) -> Iterator[str]:
        schedule = self.schedule
        parts = (schedule.warmup, schedule.decay) if schedule.shape == "wsd" else (schedule.warmup,)
        # A length in epochs or tokens becomes steps only on the nodes; shares in percent can be added up all the same.
        total = schedule.length.value if schedule.length.unit == "step" else 10_000
        can_tell = schedule.length.unit == "step" or all(part.endswith("%") for part in parts)
        if can_tell and sum(part.steps(total) for part in parts) > total:
            names = " and ".join(f"`{part}`" for part in parts)
            yield f"schedule.warmup: {names} are more than the length (`{schedule.length}`); write less"
        if schedule.shape != "wsd" and schedule.decay != Schedule.model_fields["decay"].default:
            yield f"schedule.decay: belongs to `wsd`, not to `{schedule.shape}`; leave it out"
        if schedule.shape == "constant" and schedule.floor != Schedule.model_fields["floor"].default:
            yield "schedule.floor: has no meaning for `constant`; leave it out"
