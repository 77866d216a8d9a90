"""What recipes of all kinds of training have in common, and which of their keys contradict each other."""

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from typing_extensions import override

from launcher.recipe.base import AdapterInput, Artifact, Direction, FolderName, Input
from launcher.recipe.kinds.parallel_conflicts import parallel_conflicts
from launcher.recipe.kinds.quantization_conflicts import quantization_conflicts
from launcher.recipe.kinds.recipe_base import RecipeBase
from launcher.recipe.sections.adapter import PROMPTS, Adapter, PrefixTuning, strategy_limit
from launcher.recipe.sections.adapter_stack import stack_conflicts
from launcher.recipe.sections.common import (
    Batch,
    Checkpoint,
    Model,
    Optim,
    Parallel,
    Precision,
    Schedule,
    Tracking,
    schedule_conflicts,
)
from launcher.recipe.sections.molora import Orthogonal
from launcher.recipe.sections.step_speed import speed_conflicts

if TYPE_CHECKING:
    from launcher.recipe.sections.chat import ChatSetup
    from launcher.recipe.sections.rollouts import RolloutSize


class TrainingRecipe(RecipeBase):
    """Training of a model; a kind adds its name and what it reads."""

    progress: ClassVar[Literal["steps"]] = "steps"
    trains: ClassVar[Literal[True]] = True
    is_tracked: ClassVar[Literal[True]] = True
    predicts: ClassVar[Literal["tokens", "labels"]] = "tokens"
    """What the model's last layer computes: logits of the vocabulary, or of a head that replaces it."""
    is_traceable: ClassVar[bool] = False
    """Whether `launcher plan --trace` knows its model and its micro batches."""

    incidental: ClassVar[frozenset[str]] = RecipeBase.incidental | {"parallel", "checkpoint", "tracking"}

    kind: str
    """The kind of training."""
    model: Model
    """The model to start from."""
    adapter: Adapter | None = None
    """Train an adapter beside the model's frozen weights; all weights are trained if left out."""
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

    @override
    def inputs(self) -> Iterator[Input]:
        yield Input("model.path", "model", self.model.path, "causal" if self.predicts == "tokens" else "any")
        if isinstance(self.adapter, Orthogonal):
            yield Input("adapter.start_from", "adapter", self.adapter.start_from)
        for place, one in enumerate(self.model.adapters):
            key = f"model.adapters.{place}.path"
            yield AdapterInput(key, "adapter", one.path, base=self.model.path, trained_on=one.trained_on)
        if self.model.tokenizer:
            yield Input("model.tokenizer", "tokenizer", self.model.tokenizer, "expansion")

    @property
    @override
    def makes(self) -> Artifact | None:
        return Artifact("adapter" if self.adapter else "model", self.output) if self.output else None

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        return {"loss": "minimize"}

    @property
    @override
    def reads_corpora_with(self) -> str | None:
        return self.model.tokenizer_path

    @property
    @override
    def chat(self) -> "ChatSetup | None":
        from launcher.recipe.sections.chat import ChatSetup

        return None if self.predicts == "labels" else ChatSetup.of_training(self.model, self.precision.dtype)

    @override
    def required_extras(self) -> tuple[str, ...]:
        deepspeed = ("deepspeed",) if self.parallel.strategy.startswith("zero") else ()
        return (*self.extras, *deepspeed, *(("quantization",) if self.model.quantization else ()))

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

    def find_too_little(self, epoch: Fraction) -> str | None:
        """Say why so much data gives no training with this batch and schedule; None if it gives one.

        Args:
            epoch: Samples that it takes to read the data once.
        """
        length, wanted = self.schedule.length, self.batch.sequences
        read = math.floor(length.exact * epoch)
        if length.unit == "epoch" and read < wanted:
            unit = self.batch.least_micro_batch * self.resources.world_size
            smaller = f"write `{read // unit * unit} sequences` or less" if read >= unit else "add data"
            return f"batch.global_batch: `{length}` is {read} sequences, less than one step of {wanted}; {smaller}"
        steps = self.batch.steps(length, epoch)
        if self.schedule.is_all_warmup(steps):
            return (
                f"schedule.warmup: `{self.schedule.warmup}` takes all steps of the training ({steps}), so the learning "
                "rate never reaches its peak; write `0 steps`, or train longer"
            )
        return None

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from self._batch_conflicts()
        yield from parallel_conflicts(self)
        yield from schedule_conflicts(self.schedule)
        yield from quantization_conflicts(self)
        yield from self._adapter_conflicts()
        yield from stack_conflicts(self.model, self.adapter)
        if self.output in {self.model.path, *(adapter.path for adapter in self.model.adapters)}:
            yield f"output: `{self.output}` is an input of the training, which is never changed; write another name"
        yield from speed_conflicts(
            self.model,
            self.adapter,
            self.parallel.strategy,
            self.precision.dtype,
            packs=self.packs,
            has_full_rows=self.has_full_rows,
        )

    def _batch_conflicts(self) -> Iterator[str]:
        unit = self.batch.least_micro_batch * self.resources.world_size
        if self.batch.sequences % unit:
            nearest = max(unit, round(self.batch.sequences / unit) * unit)
            yield (
                f"batch.global_batch: {self.batch.sequences} sequences are not a multiple of "
                f"batch.micro_batch x world size ({self.batch.least_micro_batch} x {self.resources.world_size}); "
                f"write `{nearest} sequences`"
            )

    def _adapter_conflicts(self) -> Iterator[str]:
        yield from self._token_conflicts()
        if self.adapter is None:
            return
        strategy = self.parallel.strategy
        if reason := strategy_limit(self.adapter, strategy):
            yield f"parallel.strategy: `{strategy}` does not work with `{self.adapter.method}`: {reason}; write `ddp`"
        if self.model.activation_checkpointing != "none" and isinstance(self.adapter, PrefixTuning):
            yield (
                "model.activation_checkpointing: recomputed layers lose the cache that holds the keys and values of "
                "`prefix`; leave it out"
            )
        if self.packs and isinstance(self.adapter, PROMPTS):
            yield (
                f"adapter.method: `{self.adapter.method}` lets packed {self.packs}s attend to one another (peft drops "
                f"`position_ids`); choose a `data.packing` with one {self.packs} per sequence"
            )

    def _token_conflicts(self) -> Iterator[str]:
        trained = getattr(self.adapter, "embeddings", "frozen")
        if trained == "new" and not self.model.tokenizer:
            yield "adapter.embeddings: `model.tokenizer` adds no tokens; name one there, or leave this out"
        if trained != "frozen" and self.parallel.strategy != "ddp":
            yield f"parallel.strategy: `adapter.embeddings: {trained}` is supported with `ddp` only; write `ddp`"
        if self.model.tokenizer and self.adapter and trained == "frozen":
            yield (
                "adapter.embeddings: the tokens that `model.tokenizer` adds would not be trained; write `new` or "
                "`all`, and `method: lora`"
            )

    @property
    def virtual_tokens(self) -> int:
        """Trained tokens that the adapter puts before each sequence; they take positions as its own tokens do."""
        return self.adapter.virtual_tokens if isinstance(self.adapter, PROMPTS) else 0

    @property
    def sequences_per_sample(self) -> int:
        """Sequences that one of the batch's samples consists of."""
        return 1

    @property
    def has_frozen_copy(self) -> bool:
        """Whether a second model is held in memory, which is not trained."""
        return False

    @property
    def loads_frozen_copy(self) -> bool:
        """Whether a second model is loaded, be it only for a while at the start."""
        return self.has_frozen_copy

    @property
    def loads_frozen_copy_first(self) -> bool:
        """Whether that is in the compute format, and before the Trainer takes the trained model; else it comes after
        that, in the format of the trained one."""
        return False

    @property
    def shards_frozen_copy(self) -> bool:
        """Whether each rank holds only its part of that model."""
        return self.parallel.strategy not in ("ddp", "zero2")

    @property
    def scoring_models(self) -> tuple[str, ...]:
        """Names of further models that every rank holds whole, which score what the trained one writes."""
        return ()

    @property
    def further_passes(self) -> int:
        """Forward passes besides training's own in each step, of a reference or over other answers."""
        return 0

    @property
    def rollout_size(self) -> "RolloutSize | None":
        """What is sampled from the model before it is trained on; None if nothing is."""
        return None

    @property
    def has_value_head(self) -> bool:
        """Whether a head beside the output embedding says how good a state is."""
        return False

    @property
    def classes(self) -> int | None:
        """Outputs of a head that replaces the output embedding; None if there is none, or its classes are in a file."""
        return None

    @property
    def packs(self) -> str | None:
        """What a sequence holds several of, which must not attend to one another; None if it holds one."""
        return None

    @property
    def has_full_rows(self) -> bool:
        """Whether each sequence can be of the recipe's `sequence_length` without much padding."""
        return False

    @property
    def chat_template(self) -> str | None:
        """Template that makes a text of a conversation; None if no conversations are read."""
        return None
