"""Task of an evaluation: marks that a judge, such as a larger model, has given to answers."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from typing_extensions import override

from launcher.recipe.base import FolderName, Input, Name, Section


class JudgementTask(Section):
    """Mean marks of a judge whose judgements some program has saved. It needs no model."""

    needs_model: ClassVar[bool] = False

    type: Literal["judgements"]
    """Saved judgements."""
    name: FolderName
    """Name of the task in scores and messages."""
    files: Name
    """JSON records, as a glob below the profile's `roots.data`, or `./...` relative to the recipe: `score`, an object
    of numbers by what is judged (such as `fluency`), and, if there are any, `id`, `group` and `type`. MedCare's
    `gpt4_eval_results.json` is such a file."""
    lowest: float = 1.0
    """The lowest mark. A record with a mark outside the range is a bad record."""
    highest: float = 5.0
    """The highest mark."""

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the files.

        Args:
            key: Of the task in the recipe.
        """
        yield Input(f"{key}.files", "files", self.files)

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.lowest >= self.highest:
            yield f"highest: {self.highest:g} is not more than `lowest: {self.lowest:g}`; write a higher one"
