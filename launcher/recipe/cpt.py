"""kind: cpt - continued pretraining of a causal language model on prepared corpora."""

from typing import Literal

from pydantic import model_validator

from launcher.recipe.sections import (
    Batch,
    Checkpoint,
    Data,
    Model,
    Optim,
    Parallel,
    Precision,
    RecipeBase,
    Schedule,
    Tracking,
)


class CptRecipe(RecipeBase):
    """Continued pretraining."""

    kind: Literal["cpt"]
    """Continued pretraining."""
    model: Model
    """The model to start from."""
    data: Data
    """What it reads."""
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

    @property
    def accumulation_steps(self) -> int:
        """Gradient accumulation steps that make the global batch at this world size."""
        return self.batch.sequences // (self.batch.micro_batch * self.resources.world_size)

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

    @model_validator(mode="after")
    def _batch_divides(self) -> "CptRecipe":
        unit = self.batch.micro_batch * self.resources.world_size
        if self.batch.sequences % unit:
            nearest = max(unit, round(self.batch.sequences / unit) * unit)
            raise ValueError(
                f"batch.global_batch ({self.batch.sequences} sequences) is not a multiple of "
                f"batch.micro_batch x world size ({self.batch.micro_batch} x {self.resources.world_size}); "
                f"the nearest that is: `{nearest} sequences`"
            )
        return self

    @model_validator(mode="after")
    def _shards_divide(self) -> "CptRecipe":
        world, replicate = self.resources.world_size, self.parallel.replicate
        if world % self.shard_size:
            raise ValueError(
                f"parallel.shard ({self.shard_size}) does not divide the world size ({world}); "
                f"write `node` or a divisor of {world}"
            )
        if self.parallel.strategy == "hybrid_shard" and replicate not in ("auto", self.replicas):
            raise ValueError(
                f"parallel.replicate ({replicate}) x shard ({self.shard_size}) is not the world size "
                f"({world}); write `auto` or {self.replicas}"
            )
        grouping = (self.parallel.shard, self.parallel.replicate)
        if self.parallel.strategy != "hybrid_shard" and grouping != ("node", "auto"):
            raise ValueError(
                f"parallel.shard and parallel.replicate belong to `hybrid_shard`, not to "
                f"`{self.parallel.strategy}`; leave them out"
            )
        return self

    @model_validator(mode="after")
    def _schedule_holds_together(self) -> "CptRecipe":
        schedule = self.schedule
        if schedule.shape != "wsd" and schedule.decay != Schedule.model_fields["decay"].default:
            raise ValueError(f"schedule.decay belongs to `wsd`, not to `{schedule.shape}`; leave it out")
        if schedule.shape == "constant" and schedule.floor != Schedule.model_fields["floor"].default:
            raise ValueError("schedule.floor has no meaning for `constant`; leave it out")
        return self

    @model_validator(mode="after")
    def _combination_exists(self) -> "CptRecipe":
        if self.model.attention == "flash" and self.precision.dtype == "fp32":
            raise ValueError("model.attention `flash` needs bf16 or fp16; write `precision.dtype: bf16`")
        if self.data_use == "credentialed" and self.tracking.mode == "online":
            raise ValueError(
                "credentialed data must not be tracked online; write `tracking.mode: offline` or `disabled`"
            )
        return self
