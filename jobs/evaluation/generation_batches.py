"""Generation as numbered batches, and how fast it goes."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jobs.evaluation.batches import Batches, Row
from jobs.evaluation.generator import GeneratedText
from jobs.evaluation.item_progress import ItemProgress
from jobs.rank.context import Context


class Engine(Protocol):
    """Writes texts in batches that are cut beforehand."""

    batches: list[tuple[int, ...]]
    """Numbers of the requests of each batch."""
    tokens: int
    """Tokens that this process has made so far."""
    seconds: float
    """How long that took."""

    @property
    def identity(self) -> str:
        """Equal for what makes equal texts: model, prompts, decoding and batches."""

    def generate(self, numbers: Sequence[int]) -> list[GeneratedText]:
        """Write the texts of a batch."""

    def close(self) -> None:
        """Release what the engine holds."""


def batches_of(name: str, engine: Engine) -> Batches:
    """Return the batches of an engine, whose rows have `text`, `tokens` and `finish`.

    Args:
        name: Of their folder.
        engine: Does the work.
    """

    def work(numbers: Sequence[int]) -> list[Row]:
        return rows_of(numbers, engine.generate(numbers))

    return Batches(name, engine.identity, engine.batches, work)


def rows_of(numbers: Sequence[int], texts: Sequence[GeneratedText]) -> list[Row]:
    """Return what is kept of texts.

    Args:
        numbers: Of their items.
        texts: In the order of the numbers.
    """
    return [
        {"item": number, "text": one.text, "tokens": len(one.ids), "finish": one.finish}
        for number, one in zip(numbers, texts, strict=True)
    ]


class GenerationProgress(ItemProgress):
    """Follows the items; each row also has the tokens per second since the attempt began to generate.

    Args:
        context: Its metrics.jsonl gets the rows.
        done: Items of each task that are finished before this attempt begins.
        total: Items.
        engine: Rank 0's; the other ranks are taken to be as fast.
    """

    def __init__(self, context: Context, done: Mapping[str, int], total: int, engine: Engine) -> None:
        self._engine = engine
        self._ranks = context.ranks.world_size
        super().__init__(context, done, total)

    def write_row(self, **values: Any) -> None:
        """Write a row now."""
        made, seconds = self._engine.tokens, self._engine.seconds
        speed = {"tokens_per_second": made / seconds * self._ranks} if seconds else {}
        super().write_row(**values, **speed)
