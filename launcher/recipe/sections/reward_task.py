"""Task of an evaluation: a reward model judges pairs of answers."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from launcher.recipe.base import FolderName, Input, Name, Positive, Section
from launcher.recipe.sections.chat_sources import Template


class RewardTask(Section):
    """How often a reward model prefers the preferred answer of a pair, and by how much.

    The model is one that `kind: reward` trained, or any sequence classifier with one output.
    """

    needs_model: ClassVar[bool] = True

    type: Literal["reward"]
    """Pairs of answers."""
    name: FolderName
    """Name of the task in scores and messages."""
    files: Name
    """JSON lines or a JSON list of pairs, as a glob below the profile's `roots.data`, or `./...` relative to the
    recipe."""
    format: Literal["question", "sharegpt", "trl", "hh_rlhf"]
    """How pairs are written, as in the sources of `kind: reward`; `trl`: `prompt`, `chosen`, `rejected`."""
    chat_template: Template = "tokenizer"
    """How conversations become text: by the tokenizer's own template, which `kind: reward` saves with the model, or by
    one of ours."""
    system_prompt: Annotated[str, Field(min_length=1)] | None = None
    """System prompt of conversations that have none; write the one that the model was trained with."""
    length: Positive | None = None
    """Tokens that a conversation can have; as many as the model has positions if left out."""
    too_long: Literal["drop", "truncate"] = "drop"
    """What happens to a pair with a longer side; it is counted. A pair that truncation makes equal is dropped."""
    limit: Positive | None = None
    """Use only this many pairs, evenly spread over the files, for a quick look."""

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the files.

        Args:
            key: Of the task in the recipe.
        """
        yield Input(f"{key}.files", "files", self.files)
