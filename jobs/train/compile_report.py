"""How much code has been compiled, and how often it breaks off: in the log and in each step's metrics."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.models.compiled_layers import CompiledCode


class CompileReport(TrainerCallback):
    """Adds what was compiled so far to a step's numbers, and prints it when there is more. For rank 0."""

    def __init__(self) -> None:
        self._told: CompiledCode | None = None

    @override
    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any) -> None:
        """Add to a step's numbers; callbacks that come later see them."""
        logs: dict[str, float] = others["logs"]
        if "loss" not in logs:
            return
        code = CompiledCode.so_far()
        logs |= {"compiled_graphs": code.graphs, "graph_breaks": sum(code.breaks.values())}
        if code != self._told:
            print(f"step {state.global_step}  {code}", flush=True)
            self._told = code
