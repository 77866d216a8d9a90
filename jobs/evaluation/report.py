"""What a task came to: scores, and a row for each item."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jobs.evaluation.batches import Batches, Row
from launcher.artifacts.scores import TaskScores


@dataclass(frozen=True)
class TaskReport:
    """Scores of a task and what they are made of."""

    scores: TaskScores
    items: list[dict[str, Any]]
    """Rows of items.parquet, without the column `task`."""


@dataclass(frozen=True)
class PreparedTask:
    """A task whose items have been read, worded and cut into batches."""

    batches: Batches
    report: Callable[[Sequence[Row]], TaskReport]
    """Takes the rows of all items."""
    forget: Callable[[], None] = lambda: None
    """To be called when the model's weights have changed."""


class TaskSettings(Protocol):
    """What a task needs of the recipe that it stands in."""

    @property
    def seed(self) -> int:
        """Seed of what is drawn."""

    @property
    def max_bad_fraction(self) -> float:
        """Share of records that may be unreadable."""

    @property
    def tokens_per_batch(self) -> int:
        """Tokens that a rank computes at once."""


def digest(*parts: Any) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def text_digest(text: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    """Leave out what did not happen."""
    return {name: count for name, count in counts.items() if count}
