"""How long export and original take for a prompt and for a token, side by side on the same CPUs."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from jobs.export.probe import PaddedBatch, ProbedModel
from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG

ROUNDS = 20
"""Measurements of each kind; also tokens that are generated after a prompt."""


@torch.inference_mode()
def compare_latency(
    models: Mapping[str, ProbedModel],
    lengths: Sequence[int],
    rows: int,
    generates: bool,
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Measure models in turns, on one text without padding.

    Args:
        models: By name.
        lengths: Of prompts, in tokens.
        rows: Size of the vocabulary.
        generates: Go on from the cache, token by token; else there is only `prefill`, which is a whole answer.
        rounds: Measurements of each kind.
        clock: In seconds.

    Returns:
        By prompt length, `prefill` or `decode`, and model: `p50` and `p95` in milliseconds.
    """
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for length in lengths:
        STOP.raise_if_requested()
        ids = torch.arange(length)[None] % rows
        batch = PaddedBatch(ids, torch.ones_like(ids))
        seconds = _measure(models, batch, rounds, clock, generates)
        kinds = ("prefill", "decode") if generates else ("prefill",)
        found[str(length)] = {kind: {name: _percentiles(seconds[kind, name]) for name in models} for kind in kinds}
    return found


def _measure(
    models: Mapping[str, ProbedModel], batch: PaddedBatch, rounds: int, clock: Callable[[], float], generates: bool
) -> dict[tuple[str, str], list[float]]:
    seconds: dict[tuple[str, str], list[float]] = {
        (kind, name): [] for kind in ("prefill", "decode") for name in models
    }
    caches: dict[str, Any] = {}

    def run(kind: str, name: str, text: PaddedBatch, last: int, cache: Any) -> None:
        WATCHDOG.heartbeat()
        start = clock()
        _, caches[name] = models[name](text, last, cache)
        seconds[kind, name].append(clock() - start)

    for number in range(rounds + 1):
        for name in [*models][:: -1 if number % 2 else 1]:
            run("prefill", name, batch, batch.ids.shape[1], None)
    for number in range(rounds + 1 if generates else 0):
        batch = batch.followed_by(batch.ids[:, :1])
        for name in [*models][:: -1 if number % 2 else 1]:
            run("decode", name, batch, 1, caches[name])
    return {key: times[1:] for key, times in seconds.items()}  # the first one warms up


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ordered) * 1e3, 4), "p95": round(late * 1e3, 4)}
