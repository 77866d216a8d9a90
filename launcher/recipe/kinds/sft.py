"""kind: sft - supervised fine-tuning: a language model learns the answers of conversations."""

from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Direction, Input
from launcher.recipe.kinds.conversations import ConversationRecipe
from launcher.recipe.quantities import Length
from launcher.recipe.sections.chat_sources import ChatData
from launcher.recipe.sections.during import During, during_conflicts
from launcher.recipe.sections.task_metrics import task_metrics


class SftRecipe(ConversationRecipe):
    """Supervised fine-tuning."""

    is_traceable: ClassVar[bool] = True

    kind: Literal["sft"]
    """Supervised fine-tuning."""
    data: ChatData
    """The conversations."""
    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on the embeddings during training (NEFTune, Jain et al. 2023, https://arxiv.org/abs/2310.05914), scaled by
    the length of each example; usually 5 to 15."""
    evaluate: Length = Length("1 epoch")
    """How often the loss of held-out answers (`data.validation`) is measured; also before the first step and after the
    last."""
    during: During | None = None
    """Tasks that the model is scored on while it is trained. They change nothing about the training."""

    @override
    def inputs(self) -> Iterator[Input]:
        yield from super().inputs()
        if self.during:
            yield from self.during.inputs()

    @override
    def required_extras(self) -> tuple[str, ...]:
        return (*super().required_extras(), *(("eval",) if self.during else ()))

    @property
    @override
    def reports(self) -> Mapping[str, Direction | None]:
        held_out: Mapping[str, Direction] = {"answer_loss": "minimize"} if self.data.validation else {}
        return {**super().reports, **held_out, **task_metrics(self.during.tasks if self.during else (), "/")}

    @property
    @override
    def packs(self) -> str | None:
        return "example" if self.data.packing == "bfd" else None

    @property
    @override
    def has_full_rows(self) -> bool:
        return self.data.packing == "bfd"

    @property
    def pads_to_full_length(self) -> bool:
        """Whether rows are padded beyond the longest of a micro batch, since code is compiled for one length."""
        return self.model.compile or self.model.attention == "flex"

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        yield from during_conflicts(self.during, self.data_use, self.parallel.strategy, self.model.attention)
        lengths = {"schedule.length": self.schedule.length, "evaluate": self.evaluate}
        if self.during:
            lengths["during.interval"] = self.during.interval
        for key, length in lengths.items():
            if length.unit == "token":
                yield f"{key}: `{length}` depends on padding; write epochs or steps"
