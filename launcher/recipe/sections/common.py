"""Sections that recipes of several kinds share."""

import fractions
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import override

from launcher.recipe.base import Fraction, Name, Positive, Section
from launcher.recipe.quantities import BatchSize, Duration, Interval, Length, PercentOrSteps, Size


class Quantization(Section):
    """Frozen weights in few bits, by bitsandbytes (QLoRA, https://arxiv.org/abs/2305.14314)."""

    bits: Literal[4, 8] = 4
    """Bits of a weight; 8 is LLM.int8() (https://arxiv.org/abs/2208.07339)."""
    type: Literal["nf4", "fp4"] = "nf4"
    """Format of 4 bits: quantiles of a normal distribution, or floating point."""
    double: bool = True
    """Quantise the scales of 4-bit weights as well; saves 0.4 bits per weight."""

    @override
    def _conflicts(self) -> Iterator[str]:
        for key in ("type", "double"):
            if self.bits == 8 and getattr(self, key) != type(self).model_fields[key].default:
                yield f"{key}: belongs to 4 bits; leave it out"


class EarlierAdapter(Section):
    """An adapter that an earlier run made."""

    path: Name
    """Folder that an export of the launcher or peft's `save_pretrained` wrote: a name below the profile's
    `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    trainable: bool = False
    """Train it further, together with the new adapter. It is exported next to it; the original is not changed."""
    trained_on: str | None = None
    """The base model that the adapter's own files name, if that is another name of the same model."""


def _recompute_word(value: object) -> object:
    """Read what recipes said before there was a third way."""
    return {False: "none", True: "full"}[value] if isinstance(value, bool) else value


Recompute = Annotated[Literal["none", "full", "selective"], BeforeValidator(_recompute_word)]


class Model(Section):
    """The model to start from."""

    incidental: ClassVar[frozenset[str]] = frozenset({"activation_checkpointing", "compile"})

    path: Name
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    tokenizer: Name | None = None
    """A tokenizer with more tokens than the model's own, made by `kind: vocabulary`; named like `path`. The embeddings
    get a row for each new token, which starts as the mean of the rows of the tokens that it replaces."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from the published weights, or from random ones of the same shape."""
    attention: Literal["sdpa", "flash", "flex", "eager"] = "sdpa"
    """Attention implementation; `flash` needs the flash-attn package on the nodes. `flex` (torch's FlexAttention) skips
    pairs of documents in a sequence; it needs GPUs, and `packing` of several documents or examples."""
    compile: bool = False
    """Compile each layer by torch.compile (inductor): faster steps after minutes of compiling in the first one. For
    training on sequences of one length; not with DeepSpeed or quantised weights."""
    activation_checkpointing: Recompute = "none"
    """Recompute activations in the backward pass. `full`: those of whole layers; least memory, about a third more
    compute. `selective`: all but the results of matrix products and attention; about half the memory of `none`, hardly
    more compute. (`true` means `full`, `false` `none`.)"""
    quantization: Quantization | None = None
    """Keep the weights in few bits; needs an `adapter`, since such weights cannot be trained."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Leave it off unless you have read that code."""
    adapters: tuple[EarlierAdapter, ...] = ()
    """Adapters of earlier runs that the model starts with, in this order. The new one (`adapter`) is added to them, and
    all are active: W + s1 B1 A1 + s2 B2 A2. All of them must be LoRA."""

    @property
    def tokenizer_path(self) -> str:
        """The tokenizer that the model is trained with."""
        return self.tokenizer or self.path


class Batch(Section):
    """The batch. The global batch is the contract: accumulation follows from the world size."""

    incidental: ClassVar[frozenset[str]] = frozenset({"micro_batch"})

    global_batch: BatchSize
    """Sequences or tokens per optimizer step, over all ranks."""
    micro_batch: Literal["auto"] | Positive = 1
    """Sequences per forward pass on one rank; `auto`: the largest power of two that is estimated to fit. If it runs out
    of memory all the same, it is halved and accumulation doubled."""
    sequence_length: Positive = 2048
    """Tokens per sequence."""

    @property
    def sequences(self) -> int:
        """Sequences per optimizer step."""
        count = self.global_batch.value
        return count if self.global_batch.unit == "sequence" else count // self.sequence_length

    def steps(self, length: Length, epoch: fractions.Fraction) -> int:
        """Turn a length of training into optimizer steps, rounded up to whole steps.

        The last step of the last epoch is filled up from the next one, so that no sample goes unseen.

        Args:
            length: As the recipe says it.
            epoch: Samples that it takes to read the data once.
        """
        if length.unit == "step":
            return length.value
        if length.unit == "token":
            return math.ceil(length.exact / (self.sequences * self.sequence_length))
        return math.ceil(length.exact * epoch / self.sequences)

    @property
    def least_micro_batch(self) -> int:
        """The micro batch, or of `auto` the least that can come of it."""
        return 1 if self.micro_batch == "auto" else self.micro_batch

    @override
    def _conflicts(self) -> Iterator[str]:
        tokens = self.global_batch.value
        if self.global_batch.unit == "token" and (tokens % self.sequence_length or not tokens):
            nearest = max(1, round(tokens / self.sequence_length))
            yield (
                f"global_batch: `{self.global_batch}` are not a whole number of sequences of "
                f"{self.sequence_length} tokens; write `{nearest} sequences`"
            )


class Optim(Section):
    """AdamW (Loshchilov & Hutter, https://arxiv.org/abs/1711.05101)."""

    lr: Annotated[float, Field(gt=0, lt=1)]
    """Peak learning rate."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """Decay rates of the first and second moment."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the denominator."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled weight decay; not applied to biases and norms."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm; `null` switches clipping off."""


class Schedule(Section):
    """Length of the training and course of the learning rate."""

    length: Length
    """`1 epoch`, `3000 steps` or `63B tokens`."""
    shape: Literal["cosine", "truncated_cosine", "linear", "constant", "wsd"] = "cosine"
    """After warmup: half a cosine to the floor, a cosine to 0 that is cut off where it meets the floor, a
    line to the floor, constant, or constant and then a line to the floor over `decay` (warmup-stable-decay)."""
    warmup: PercentOrSteps = PercentOrSteps("3%")
    """Linear warmup from 0: a share of the length (`3%`) or `100 steps`."""
    floor: Fraction = 0.1
    """Final learning rate as a fraction of the peak."""
    decay: PercentOrSteps = PercentOrSteps("10%")
    """Length of the final decay; `wsd` only."""

    def is_all_warmup(self, steps: int) -> bool:
        """Tell whether a training of so many steps ends before the learning rate reaches its peak."""
        return self.warmup.steps(steps) >= steps


class Precision(Section):
    """Number formats."""

    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Compute format of forward and backward; parameters and optimizer stay in fp32."""
    tf32: bool = True
    """TF32 matrix products for what stays in fp32 (Ampere GPUs and later)."""


class Parallel(Section):
    """How ranks share the work; carried out by FSDP2 or DeepSpeed."""

    strategy: Literal["ddp", "full_shard", "hybrid_shard", "zero2", "zero3"] = "full_shard"
    """`hybrid_shard` shards inside a group of ranks and replicates over the groups."""
    shard: Literal["node"] | Positive = "node"
    """Ranks in a shard group of `hybrid_shard`: a node's GPUs, or a number."""
    replicate: Literal["auto"] | Positive = "auto"
    """Number of shard groups of `hybrid_shard`; `auto` = world size / shard."""
    reshard_after_forward: bool = True
    """Free the gathered parameters between forward and backward; false trades memory for traffic."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What DeepSpeed keeps in the node's RAM instead of the GPU's memory: AdamW's state, where it also computes its
    step (`zero2`, `zero3`), or `all`: besides it the parameters, while they do not compute (`zero3`)."""


class Checkpoint(Section):
    """When to save the training state."""

    interval: Interval = Interval("30min")
    """`1000 steps` or `30min`. A stop and a time limit save a checkpoint, too."""
    keep: Positive = 3
    """Newest checkpoints to keep."""
    in_background: Annotated[bool, Field(alias="async")] = False
    """Go on training while a checkpoint is written, from a copy in the RAM of the nodes. The last checkpoint of an
    attempt is waited for. Not with DeepSpeed."""


class Tracking(Section):
    """Weights & Biases, and TensorBoard. metrics.jsonl is always written."""

    mode: Literal["online", "offline", "disabled"] = "online"
    """`offline` writes segments that `launcher sync` sends later."""
    project: str = "launcher"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; W&B's default if left out."""
    tags: tuple[str, ...] = ()
    """W&B tags."""
    log_interval: Positive = 1
    """Steps between two logged points."""
    tensorboard: bool = False
    """Also write TensorBoard's event files, into `tensorboard/` of the run directory, whatever `mode` says; needs the
    extra `tensorboard` on the nodes."""


class Resources(Section):
    """What a run needs; the cluster profile says how to ask for it."""

    nodes: Positive = 1
    """Nodes."""
    gpus_per_node: Annotated[int, Field(ge=0)] = 0
    """GPUs, and so ranks, per node; 0 = one rank per node, on CPUs."""
    gpu_memory: Size | None = None
    """Memory that each GPU must have at least."""
    cpus_per_task: Positive = 4
    """CPU cores per rank."""
    memory: Size | None = None
    """RAM per node; the partition's default if left out."""
    time: Duration
    """Time limit of one attempt; a run takes as many attempts as it needs."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.gpu_memory and not self.gpus_per_node:
            yield "gpu_memory: no GPUs are asked for; write `gpus_per_node`, or `null` here"

    @property
    def ranks_per_node(self) -> int:
        """Ranks that srun starts on each node."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Ranks of the whole run."""
        return self.nodes * self.ranks_per_node


class Limits(Section):
    """When to give up. Preemptions and time limits do not count."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """How many crashes, kills, hangs, node failures and ends for lack of RAM a run may have; one more, and it stops."""
    hang: Duration | None = Duration("30min")
    """How long an attempt may go without a heartbeat before it is ended as hung. Each step, batch of an evaluation and
    stage of a checkpoint or export is a heartbeat; for `prepare`, `outcomes` and `vocabulary`, text that was read.
    Loading the model and the first step together have this long, too; once steps, saves and evaluations are known, ten
    times the longest of their kind, if that is less. `null`: no limit."""


def schedule_conflicts(schedule: Schedule) -> Iterator[str]:
    """Say what in a schedule contradicts itself."""
    parts = (schedule.warmup, schedule.decay) if schedule.shape == "wsd" else (schedule.warmup,)
    # A length in epochs or tokens becomes steps only on the nodes, but percentages can be added up now.
    total = schedule.length.value if schedule.length.unit == "step" else 10_000
    can_tell = schedule.length.unit == "step" or all(part.endswith("%") for part in parts)
    if can_tell and sum(part.steps(total) for part in parts) > total:
        names = " and ".join(f"`{part}`" for part in parts)
        yield f"schedule.warmup: {names} are more than the length (`{schedule.length}`); write less"
    elif can_tell and schedule.is_all_warmup(total):
        yield (
            f"schedule.warmup: `{schedule.warmup}` is all of the length (`{schedule.length}`), so the learning "
            "rate never reaches its peak; write less, or train longer"
        )
    if schedule.shape != "wsd" and schedule.decay != Schedule.model_fields["decay"].default:
        yield f"schedule.decay: belongs to `wsd`, not to `{schedule.shape}`; leave it out"
    if schedule.shape == "constant" and schedule.floor != Schedule.model_fields["floor"].default:
        yield "schedule.floor: has no effect with `constant`; leave it out"
