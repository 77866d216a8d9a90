"""What `launcher plan --trace` asks of the program that traces a training, and what that answers: JSON both ways."""

import json
from dataclasses import asdict, dataclass
from typing import Any

TRACE_MODULE = "jobs.trace"
"""The program: `python -m jobs.trace`, a request on its standard input, a trace on its standard output."""
TRACED_STRATEGIES = ("ddp", "full_shard", "hybrid_shard")
FEW_LAYERS = (2, 4)
"""Layers of the models that are traced instead of the whole one; what they need grows linearly with the layers."""
PARTS = ("parameters", "gathered", "gradients", "optimizer", "activations", "other")
"""Parts of the memory: those of the closed form, whose `logits` are activations here, and without its `overhead`."""


@dataclass(frozen=True)
class TraceRequest:
    """What is to be traced."""

    recipe: dict[str, Any]
    """As resolved, with a micro batch that is a number."""
    model: str
    """Folder of the model's config.json."""
    layers: int
    """Of that model."""
    traced: tuple[int, ...]
    """Numbers of layers to trace: `FEW_LAYERS`, or the whole model's."""
    tokenizer: str | None = None
    """Folder of the recipe's `model.tokenizer`; None if it names none."""
    classes: int = 2
    """Of a head that classifies."""

    @classmethod
    def read(cls, text: str) -> "TraceRequest":
        """Read a request."""
        fields = json.loads(text)
        return cls(**fields | {"traced": tuple(fields["traced"])})

    def write(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class TracedMessages:
    """One kind of collective in one group of ranks, in a step."""

    name: str
    """all-gather, reduce-scatter, all-reduce or broadcast."""
    dimension: str
    """Ranks that take part: the mesh's `shard` or `replicate`, or `all`."""
    ranks: int
    count: int
    bytes: int
    """What each rank sends, as a ring does it, in all micro batches together."""


@dataclass(frozen=True)
class Trace:
    """What a step needs, on one rank."""

    memory: dict[str, int]
    """Bytes at the peak by `PARTS`."""
    place: str
    """Where the peak is: forward, backward or optimizer, and the module."""
    messages: tuple[TracedMessages, ...]
    parameters: int
    """Of the whole model, without an adapter."""
    trained: int
    layers: tuple[int, ...]
    """Layers of the models that were traced."""

    @property
    def total(self) -> int:
        """All of the memory."""
        return sum(self.memory.values())

    @classmethod
    def read(cls, text: str) -> "Trace":
        """Read a trace."""
        fields = json.loads(text)
        messages = tuple(TracedMessages(**one) for one in fields.pop("messages"))
        return cls(**fields | {"messages": messages, "layers": tuple(fields["layers"])})

    def write(self) -> str:
        """Write it as JSON."""
        return json.dumps(asdict(self), sort_keys=True)
