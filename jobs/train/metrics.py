"""metrics.jsonl: one line per optimizer step, by rank 0, in full precision."""

import json
import math
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.train.throughput import Speed
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.pauses import Pause, PauseKind

Row: TypeAlias = dict[str, float | int | None]

_OF_STEP = ("loss", "learning_rate", "grad_norm", "epoch", "num_tokens", "step_time")
"""What of a step's log has its own place in a row, or none."""
_OF_TRAINER = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")


class StepMetrics(TrainerCallback):
    """Writes a row for each step, and passes it on; notes how long training waits for what is no step. For rank 0.

    The loss is the mean over all tokens of the global batch, as Trainer has it before rounding. An attempt that repeats
    steps appends them again: readers take the last row of a step.

    Args:
        run: Where rows go.
        attempt: The attempt.
        speed: Turns seconds into tokens per second and MFU.
        others: Who gets each row besides.
        of_ranks: Says what is known of the ranks' speeds at a step.
    """

    def __init__(
        self,
        run: RunDir,
        attempt: int,
        speed: Speed,
        others: tuple[Callable[[Row], None], ...],
        of_ranks: Callable[[int], Row] = lambda _: {},
    ) -> None:
        self._run = run
        self._of_ranks = of_ranks
        self._attempt = attempt
        self._speed = speed
        self._others = others
        self._mark = time.perf_counter()
        for path in (run.metrics, run.pauses):
            _end_torn_line(path)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Start the clock."""
        append_event(self._run.ledger, self._attempt, began=time.time())
        self._mark = time.perf_counter()

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Write the step's row."""
        logs: dict[str, float] = others["logs"]
        if "loss" not in logs:
            return
        row = self._row(state.global_step, logs)
        _append(self._run.metrics, row)
        for receive in self._others:
            receive(row)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Leave the time of saving out of the next step's speed."""
        self._pause("saving", state.global_step)

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Leave the time of an evaluation out, too."""
        self._pause("evaluating", state.global_step)

    def _pause(self, kind: PauseKind, step: int) -> None:
        """Note that all since the step before, or the pause before, was a pause."""
        now = time.perf_counter()
        Pause(self._attempt, step, kind, time.time(), now - self._mark).append(self._run.pauses)
        self._mark = now

    def _row(self, step: int, logs: dict[str, float]) -> Row:
        now = time.perf_counter()
        rate, mfu = self._speed.rates(now - self._mark)
        self._mark = now
        special = {key: value for key, value in logs.items() if key not in _OF_STEP}
        return {
            "time": time.time(),
            "step": step,
            "attempt": self._attempt,
            "loss": logs["loss"],
            **special,
            "lr": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            "tokens_per_second": rate,
            "mfu": mfu,
            "memory_gib": _peak_memory_gib(),
            **self._of_ranks(step),
        }


class EvaluationMetrics(TrainerCallback):
    """Writes a row for each evaluation, and passes it on. For rank 0.

    An attempt that repeats an evaluation appends it again: readers take the last row of a step.
    """

    def __init__(self, path: Path, attempt: int, receive: Callable[[Row], None]) -> None:
        self._path = path
        self._attempt = attempt
        self._receive = receive

    @override
    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Write the evaluation's row, without Trainer's own speed; null for a score that is undefined."""
        metrics: dict[str, float] = others["metrics"]
        named = {key.removeprefix("eval_"): value for key, value in metrics.items()}
        scores = {
            name: value if math.isfinite(value) else None for name, value in named.items() if name not in _OF_TRAINER
        }
        row: Row = {"time": time.time(), "step": state.global_step, "attempt": self._attempt, **scores}
        _end_torn_line(self._path)
        _append(self._path, row)
        said = "  ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
        print(f"evaluation at step {state.global_step}  {said}", flush=True)
        self._receive(row)


def print_row(row: Row) -> None:
    """Print a step for the log."""
    mfu = "" if row["mfu"] is None else f"  mfu {row['mfu']:.1%}"
    reward = "".join(f"  {name} {row[name]:.4f}" for name in ("reward", "kl") if row.get(name) is not None)
    print(
        f"step {row['step']}  loss {row['loss']:.4f}{reward}  lr {row['lr']:.3g}  "
        f"{row['tokens_per_second']:,.0f} tokens/s{mfu}  {row['memory_gib']:.2f} GiB",
        flush=True,
    )


def _end_torn_line(path: Path) -> None:
    """Start on a new line if a power cut left the last one unfinished."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def _append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def _peak_memory_gib() -> float:
    """Return this rank's peak of GPU memory, or of resident memory on CPUs (Linux counts it in KiB)."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
