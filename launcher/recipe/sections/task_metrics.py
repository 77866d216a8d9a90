"""The scores that tasks report, as far as a recipe tells."""

from collections.abc import Iterable, Mapping

from launcher.recipe.base import Direction
from launcher.recipe.sections.generation_task import AnyTask

CHOICE = ("acc", "acc_norm", "acc_bytes", "acc_tokens", "acc_mutual_info")
"""Scores of a choice, in the order in which they are shown."""
PERPLEXITY = ("token_perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "document_perplexity")
"""Scores of a text, in the order in which they are shown."""
PAIRS: Mapping[str, Direction] = {
    "accuracy": "maximize",
    "margin": "maximize",
    "log_loss": "minimize",
    "calibration_error": "minimize",
}
"""Scores of pairs of answers (jobs/scoring/pairs.py computes them)."""
_KNOWN: Mapping[str, Mapping[str, Direction]] = {
    "choice": dict.fromkeys(CHOICE, "maximize"),
    "perplexity": dict.fromkeys((*PERPLEXITY, "nll"), "minimize"),
    "reward": PAIRS,
}
"""By the type of a task; the scores of other types depend on their data."""


def task_metrics(tasks: Iterable[AnyTask], separator: str) -> dict[str, Direction | None]:
    """Name the scores of tasks, and which values are better; `TASK/*` where only the data tell.

    Args:
        tasks: The tasks.
        separator: What stands between a task's name and a score's.
    """
    found: dict[str, Direction | None] = {}
    for task in tasks:
        known, prefix = _KNOWN.get(task.type), f"{task.name}{separator}"
        found |= {f"{prefix}{name}": way for name, way in known.items()} if known else {f"{prefix}*": None}
    return found
