"""What each rank does in a step before it waits for the others: how a straggler is told from those it delays.

All ranks take equally long for a step, since each waits for the slowest. So a rank measures what does not depend on the
others: fetching its samples, and the forward pass of one layer, in which no strategy but ZeRO-3 communicates. From that
layer follows about how long it computes in a step. On GPUs events are recorded and read when they are long past, so
nothing waits for a measurement.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import torch
from torch import nn

from jobs.models.compiled_layers import layers_of
from launcher.run.stragglers import Straggler

PASSES = 3
"""A backward pass takes twice as long as a forward pass."""
SLOW = 0.7
"""A rank is a straggler below this share of the speed of the median rank, ..."""
LEAST_SECONDS = 0.02
"""... if that costs so many seconds of a step, ..."""
POINTS = 20
"""... on average over so many logged points: everything is slow at times, ..."""
HICCUPS = 2
"""... without so many, each rank's slowest: a pause of the file system would make an average as large as a slow GPU."""


@dataclass(frozen=True)
class OwnTime:
    """What one rank spent on its own part, per step, since the point before."""

    loading: float
    computing: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.loading + self.computing


class StepTimes:
    """Measures this rank."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._layers = 0
        self._begun: Any = None
        self._passes: deque[tuple[Any, Any]] = deque()
        self._loading = self._computing = 0.0
        self._steps = 0

    def watch(self, model: nn.Module) -> None:
        """Measure one of the model's layers, before the model is sharded: hooks of FSDP2 stay around ours."""
        layers = layers_of(model)
        if layers:
            self._layers = len(layers)
            middle = layers[len(layers) // 2]
            middle.register_forward_pre_hook(self._begin)
            middle.register_forward_hook(self._end)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Count a block as loading the data of a step."""
        began = time.perf_counter()
        yield
        self._loading += time.perf_counter() - began
        self._steps += 1

    def take(self) -> tuple[float, float]:
        """Return seconds of loading and computing in a step, on average since the last call."""
        self._read_passed()
        steps = max(1, self._steps)
        own = self._loading / steps, self._computing * self._layers * PASSES / steps
        self._loading, self._computing, self._steps = 0.0, 0.0, 0
        return own

    def _begin(self, layer: nn.Module, *_: Any) -> None:
        if layer.training:
            self._begun = self._mark()

    def _end(self, *_: Any) -> None:
        # Recomputing may break off before the end of a layer; then the next one begins anew.
        if self._begun is not None:
            self._passes.append((self._begun, self._mark()))
            self._begun = None

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _read_passed(self) -> None:
        while self._passes and (not self._on_gpu or self._passes[0][1].query()):
            begun, ended = self._passes.popleft()
            self._computing += begun.elapsed_time(ended) / 1000 if self._on_gpu else ended - begun


class StragglerWatch:
    """Judges what all ranks measured. For rank 0.

    Args:
        report: Called once for each rank that is a straggler.
        node_of: Names the node of a rank.
    """

    def __init__(self, report: Callable[[Straggler], None], node_of: Callable[[int], str]) -> None:
        self._report = report
        self._node_of = node_of
        self._points: deque[list[OwnTime]] = deque(maxlen=POINTS)
        self._reported: set[int] = set()

    def note(self, step: int, ranks: Sequence[OwnTime]) -> dict[str, float | int | None]:
        """Take in what the ranks measured, if they did; return what belongs into the step's row."""
        if not ranks:
            return {}
        self._points.append([*ranks])
        if len(self._points) == POINTS:
            self._judge(step)
        slowest = max(range(len(ranks)), key=lambda rank: ranks[rank].seconds)
        return {"slowest_rank": slowest, "slowest_speed": _speed(ranks, slowest)}

    def _judge(self, step: int) -> None:
        means = [_usual(points) for points in zip(*self._points, strict=True)]
        usual = median_low(one.seconds for one in means)
        for rank, mean in enumerate(means):
            is_slow = _speed(means, rank) < SLOW and mean.seconds - usual > LEAST_SECONDS
            if is_slow and rank not in self._reported:
                self._reported.add(rank)
                loading = mean.loading - median_low(one.loading for one in means)
                cause = "loading data" if loading > (mean.seconds - usual) / 2 else "computing"
                speed = _speed(means, rank)
                self._report(Straggler(rank, self._node_of(rank), step, speed, mean.seconds, usual, cause))


def _usual(points: Sequence[OwnTime]) -> OwnTime:
    """Average what one rank measured, without its hiccups."""
    kept = sorted(points, key=lambda one: one.seconds)[: len(points) - HICCUPS]
    return OwnTime(sum(one.loading for one in kept) / len(kept), sum(one.computing for one in kept) / len(kept))


def _speed(ranks: Sequence[OwnTime], rank: int) -> float:
    own = ranks[rank].seconds
    return min(1.0, median_low(one.seconds for one in ranks) / own) if own else 1.0
