"""Takes two steps of a training on fake tensors, as rank 0 of a process group of its full world size."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from jobs.models.parallel import lay_out
from jobs.models.recompute import recompute
from jobs.rank.ranks import Ranks
from jobs.trace.collectives import Message
from jobs.trace.memory_tracker import StepTracker
from jobs.trace.subject import Subject, build_subject, samples_of
from jobs.trace.trainer import TracedTrainer
from jobs.trace.unknown_values import UnknownValues
from jobs.trace.without_contents import without_contents
from jobs.train.arguments import training_arguments
from jobs.train.throughput import count_parameters
from launcher.artifacts.trace import TraceRequest
from launcher.recipe.kinds.training import TrainingRecipe

_STEPS = 2
"""The first one makes the optimizer's state and what FSDP2 gathers into; the second one is what every other is like."""

Place = tuple[str, str, str]
"""`first` or `last` micro batch of a step, the phase, and the module, with its layer as `first` or `last`."""


@dataclass(frozen=True)
class Measured:
    """What a step needed."""

    layers: int
    peaks: dict[Place, dict[str, int]]
    """Memory by part; layers between the first and the last are left out."""
    counts: Counter[Message]
    bytes: Counter[Message]
    parameters: int
    trained: int


def measure(recipe: TrainingRecipe, request: TraceRequest, layers: int) -> Measured:
    """Measure a step of a training whose model has so many layers.

    Args:
        recipe: The training, at its full world size.
        request: Where its model is.
        layers: Of the model.
    """
    resources = recipe.resources
    ranks = Ranks(0, resources.world_size, 0, resources.ranks_per_node, 0)
    tensors = partial(fake_tensors, recipe.packs is not None)
    with tempfile.TemporaryDirectory() as folder, _fake_ranks(ranks):
        return take_steps(recipe, Subject(request, layers, Path(folder)), ranks, tensors)


@contextmanager
def fake_tensors(packs: bool) -> Iterator[None]:
    """Have tensors without contents; sequences hold several documents or not."""
    with without_contents(packs), FakeTensorMode(allow_non_fake_inputs=True), UnknownValues():  # type: ignore[no-untyped-call]
        yield


def take_steps(
    recipe: TrainingRecipe, subject: Subject, ranks: Ranks, tensors: Callable[[], AbstractContextManager[None]]
) -> Measured:
    """Take two steps as a rank of a process group, and measure the second one.

    Args:
        recipe: The training.
        subject: Its model.
        ranks: This rank's place.
        tensors: What tensors are like.
    """
    micro_batches = min(2, recipe.accumulation_steps)
    trainer = _trainer(_shortened(recipe, micro_batches), subject, ranks, tensors)
    model: Any = trainer.model
    trained, parameters = count_parameters(model)
    with tensors():
        tracker = trainer.trace()
    counts, sizes = _sum_of_step(tracker, micro_batches, recipe.accumulation_steps)
    peaks = _peaks_of_step(tracker, micro_batches, subject.layers)
    base = parameters - trained if recipe.adapter else parameters
    return Measured(subject.layers, peaks, counts, sizes, base, trained)


@contextmanager
def _fake_ranks(ranks: Ranks) -> Iterator[None]:
    os.environ.update(
        RANK=str(ranks.rank),
        WORLD_SIZE=str(ranks.world_size),
        LOCAL_RANK=str(ranks.local_rank),
        LOCAL_WORLD_SIZE=str(ranks.local_world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT="1",  # nobody listens, nobody asks
    )
    dist.init_process_group("fake", rank=ranks.rank, world_size=ranks.world_size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
        _forget_ranks()


def _forget_ranks() -> None:
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _shortened(recipe: TrainingRecipe, micro_batches: int) -> TrainingRecipe:
    """Return the recipe with at most two micro batches in a step: those between the first and the last are alike."""
    sequences = micro_batches * recipe.batch.least_micro_batch * recipe.resources.world_size
    dtype = "bf16" if recipe.precision.dtype == "fp16" else recipe.precision.dtype  # CPUs have no fp16, fakes included
    batch = recipe.batch.model_copy(update={"global_batch": type(recipe.batch.global_batch)(f"{sequences} sequences")})
    precision = recipe.precision.model_copy(update={"dtype": dtype})
    return recipe.model_copy(update={"batch": batch, "precision": precision})


def _trainer(
    recipe: TrainingRecipe, subject: Subject, ranks: Ranks, tensors: Callable[[], AbstractContextManager[None]]
) -> TracedTrainer:
    layout = lay_out(recipe.parallel, ranks, torch.device("cpu"))
    arguments = training_arguments(recipe, layout, _STEPS, subject.folder / "output", dataloader_pin_memory=False)
    with tensors():
        model = build_subject(recipe, subject)
    recompute(model, recipe.model.activation_checkpointing)
    samples, collator = samples_of(recipe, subject.request.classes)
    return TracedTrainer(layout, model=model, args=arguments, train_dataset=samples, data_collator=collator)


def _sum_of_step(
    tracker: StepTracker, micro_batches: int, accumulated: int
) -> tuple[Counter[Message], Counter[Message]]:
    """Sum the second step, whose first micro batch stands for all but the last."""
    counts: Counter[Message] = Counter()
    sizes: Counter[Message] = Counter()
    of_step = tracker.sent[-micro_batches:]
    for place, (counted, sent) in enumerate(of_step):
        times = accumulated - 1 if place < len(of_step) - 1 else 1
        counts.update({message: times * number for message, number in counted.items()})
        sizes.update({message: times * number for message, number in sent.items()})
    return counts, sizes


def _peaks_of_step(tracker: StepTracker, micro_batches: int, layers: int) -> dict[Place, dict[str, int]]:
    peaks: dict[Place, dict[str, int]] = {}
    for (micro_batch, phase, module), parts in tracker.peaks.items():
        name = _in_any_number_of_layers(module, layers)
        if micro_batch < micro_batches or name is None:
            continue
        place = ("last" if micro_batch == 2 * micro_batches - 1 else "first", phase, name)
        if place not in peaks or sum(peaks[place].values()) < sum(parts.values()):
            peaks[place] = parts
    return peaks


def _in_any_number_of_layers(module: str, layers: int) -> str | None:
    """Name a module of the first or the last layer so; None for one of a layer between them."""
    found = re.search(r"\.(\d+)(?=\.|$)", module)
    if found is None:
        return module
    number = int(found[1])
    if number not in (0, layers - 1):
        return None
    return f"{module[: found.start(1)]}{'first' if number == 0 else 'last'}{module[found.end(1) :]}"
