"""Sections that recipes of several kinds share. Pure data: validators refuse, they never repair."""

import fractions
import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from launcher.recipe.rules import ConflictError, Fraction, Positive, Section, VariableName, refuse_site_path
from launcher.recipe.units import BatchSize, Duration, Interval, Length, Share, Size


class Quantization(Section):
    """Frozen weights in few bits, by bitsandbytes (QLoRA, https://arxiv.org/abs/2305.14314)."""

    bits: Literal[4, 8] = 4
    """Bits of a weight; 8 is LLM.int8() (https://arxiv.org/abs/2208.07339)."""
    type: Literal["nf4", "fp4"] = "nf4"
    """Format of 4 bits: quantiles of a normal distribution, or floating point."""
    double: bool = True
    """Quantise the 4-bit format's scales as well: 0.4 bits less for a weight."""

    @model_validator(mode="after")
    def _holds_together(self) -> "Quantization":
        changed = [key for key in ("type", "double") if getattr(self, key) != type(self).model_fields[key].default]
        if self.bits == 8 and changed:
            raise ConflictError([f"{key}: belongs to 4 bits; leave it out" for key in changed])
        return self


class EarlierAdapter(Section):
    """An adapter that an earlier run made."""

    path: str
    """Folder that an export of the launcher or peft's `save_pretrained` wrote: a name below the profile's
    `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    trainable: bool = False
    """Train it further, together with the new one; it is exported beside that, and the original stays as it is."""
    trained_on: str | None = None
    """What the adapter calls its base where that is not `model.path` and is the same model all the same."""

    _path = field_validator("path")(refuse_site_path)


class Model(Section):
    """The model to start from."""

    path: str
    """Name below the profile's `roots.models`, a Hugging Face id, or `./...` relative to the recipe."""
    tokenizer: str | None = None
    """A tokenizer with more tokens than the model's own, by `kind: vocabulary`; named as `path`. The embeddings get
    rows for the new tokens, each starting as the mean of what it replaces."""
    init: Literal["pretrained", "random"] = "pretrained"
    """Start from the published weights, or from random ones of the same shape."""
    attention: Literal["sdpa", "flash", "eager"] = "sdpa"
    """Attention implementation; `flash` needs the flash-attn package on the nodes."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""
    quantization: Quantization | None = None
    """Keep the weights in few bits; needs an `adapter`, since such weights cannot be trained."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you have read it."""
    adapters: tuple[EarlierAdapter, ...] = ()
    """Adapters of earlier runs that the model starts with, in this order. The new one (`adapter`) comes on top, and all
    are active: W + s1 B1 A1 + s2 B2 A2. LoRA on LoRA only."""

    _path = field_validator("path")(refuse_site_path)

    @field_validator("tokenizer")
    @classmethod
    def _no_site_path(cls, tokenizer: str | None) -> str | None:
        return None if tokenizer is None else refuse_site_path(tokenizer)

    @property
    def tokenizer_path(self) -> str:
        """The tokenizer that the model is trained with."""
        return self.tokenizer or self.path


class Batch(Section):
    """The batch. The global batch is the contract: accumulation follows from the world size."""

    global_batch: BatchSize
    """Sequences or tokens per optimizer step, over all ranks."""
    micro_batch: Literal["auto"] | Positive = 1
    """Sequences per forward pass on one rank; `auto`: a power of two that should fit by an estimate. What does not fit
    is halved, with more accumulation instead."""
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

    @model_validator(mode="after")
    def _whole_sequences(self) -> "Batch":
        tokens = self.global_batch.value
        if self.global_batch.unit == "token" and (tokens % self.sequence_length or not tokens):
            nearest = max(1, round(tokens / self.sequence_length))
            message = (
                f"global_batch: `{self.global_batch}` are not a whole number of sequences of "
                f"{self.sequence_length} tokens; write `{nearest} sequences`"
            )
            raise ConflictError([message])
        return self


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
    """How long to train, and the learning rate on the way."""

    length: Length
    """`1 epoch`, `3000 steps` or `63B tokens`."""
    shape: Literal["cosine", "truncated_cosine", "linear", "constant", "wsd"] = "cosine"
    """After warmup: half a cosine to the floor, a cosine to 0 that is cut off where it meets the floor, a
    line to the floor, constant, or constant and then a line to the floor over `decay` (warmup-stable-decay)."""
    warmup: Share = Share("3%")
    """Linear warmup from 0: a share of the length (`3%`) or `100 steps`."""
    floor: Fraction = 0.1
    """Final learning rate as a fraction of the peak."""
    decay: Share = Share("10%")
    """Length of the final decay; `wsd` only."""


class Precision(Section):
    """Number formats."""

    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Compute format of forward and backward; parameters and optimizer stay in fp32."""
    tf32: bool = True
    """TF32 matrix products for what stays in fp32 (Ampere GPUs and later)."""


class Parallel(Section):
    """How ranks share the work: intent, compiled to FSDP2 or DeepSpeed on the nodes."""

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
    """`1000 steps` or `30min`. Stops and time limits save besides."""
    keep: Positive = 3
    """Newest checkpoints to keep."""


class Tracking(Section):
    """Weights & Biases. metrics.jsonl is written whatever this says."""

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
    """Time limit of one attempt; a run goes on over as many as it needs."""

    @model_validator(mode="after")
    def _memory_of_gpus(self) -> "Resources":
        if self.gpu_memory and not self.gpus_per_node:
            raise ConflictError(["gpu_memory: no GPUs are asked for; write `gpus_per_node`, or `null` here"])
        return self

    @property
    def ranks_per_node(self) -> int:
        """Tasks that srun starts on each node."""
        return max(1, self.gpus_per_node)

    @property
    def world_size(self) -> int:
        """Ranks of the whole run."""
        return self.nodes * self.ranks_per_node


class Limits(Section):
    """When to give up. Preemptions and time limits are free."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """Crashes, hangs and node failures after which the run stops."""
    hang: Duration | None = Duration("30min")
    """How long an attempt may go without a sign of life before it is ended as hung. A sign of life is a
    step, a batch of an evaluation, a stage of a checkpoint, the export; for `prepare` and `vocabulary`, source
    text that was read. The start counts, too: loading the model and the first step together. `null` = for ever."""


class RecipeBase(Section):
    """What every recipe has."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    """Name of the run; part of its folder's name."""
    description: str = ""
    """A line for people."""
    data_use: Literal["open", "credentialed"] = "open"
    """`credentialed` (MIMIC): run directories are 0700, nothing leaves the site."""
    resources: Resources
    """What it needs."""
    limits: Limits = Limits()
    """When to give up."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Seed of data order, initialisation and dropout."""
    secrets: tuple[VariableName, ...] = ()
    """Names (never values) of environment variables the run needs, e.g. `WANDB_API_KEY`."""
    rehearsal: dict[str, Any] | None = None
    """A partial recipe laid over this one by `--rehearse`: small, quick, same strategy."""

    @property
    def makes(self) -> str | None:
        """Name of what other recipes can use once this one has been carried out: a corpus, tokenizer or model."""
        return None

    @field_validator("name")
    @classmethod
    def _is_no_path(cls, name: str) -> str:
        if "/" in name or not name.strip():
            raise ValueError(f"`{name}` cannot name a folder; write a name without `/`")
        return name
