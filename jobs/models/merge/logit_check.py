"""Compares two models by their logits on a few lines of text."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from launcher.errors import LauncherError

LENGTH = 64
"""Tokens of each text that are used."""
TEXTS = (
    "A 64-year-old man with hypertension and type 2 diabetes came to the emergency department with chest pain that had "
    "begun two hours before. The electrocardiogram showed ST elevation in leads II, III and aVF, and troponin was "
    "raised. He was given aspirin and heparin and taken to the catheterisation laboratory.",
    "Metformin lowers glucose mainly by reducing its production in the liver. It activates AMP-activated protein "
    "kinase and does not raise insulin, so that it rarely causes hypoglycaemia when it is the only drug.",
    "Question: Which vitamin is needed for the carboxylation of clotting factors II, VII, IX and X?\nAnswer: vitamin K",
    "患者,女,45岁,反复上腹痛三个月,餐后加重。胃镜检查提示十二指肠溃疡,幽门螺杆菌阳性。",
)
"""Invented sentences of the kind that biomedical models read."""


@dataclass(frozen=True)
class LogitDifference:
    """How far the logits of one model are from those of another."""

    largest: float
    """Of all logits; infinite if one of them is no number."""
    largest_logit: float
    """Of the first model, to compare with."""
    same_choice: float
    """Share of positions where both find the same token most probable."""

    def require_numbers(self, one: str, other: str, fix: str) -> None:
        """Refuse models that compute NaN or infinite logits, which no tolerance could allow.

        Args:
            one: Names the first model, after the key that it comes from.
            other: Names the second one.
            fix: What to do about the second one.

        Raises:
            LauncherError: One of them does.
        """
        said = "computes logits that are not numbers (NaN or infinite)"
        if not math.isfinite(self.largest_logit):
            raise LauncherError(f"{one} {said}, so nothing can be compared with it; check its weights")
        if not math.isfinite(self.largest):
            raise LauncherError(f"{other} {said}; {fix}")

    def as_json(self) -> dict[str, float]:
        """For a manifest."""
        return asdict(self)


class Probe:
    """Token ids of the texts.

    Args:
        tokenizer: Makes them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.sequences: list[list[int]] = [tokenizer(text)["input_ids"][:LENGTH] for text in TEXTS]

    def add(self, ids: range) -> None:
        """Test these tokens as well, or some of them; new ones may occur in none of the texts."""
        self.sequences.append([*ids[:: max(1, len(ids) // LENGTH)]][:LENGTH])

    @torch.inference_mode()
    def logits(self, model: PreTrainedModel | PeftModel) -> list[Tensor]:
        """The logits of a model, for each text `[tokens, vocabulary]`."""
        device = next(model.parameters()).device
        rows = model.config.get_text_config().vocab_size
        known = [[index for index in ids if index < rows] for ids in self.sequences]  # others come with later adapters
        return [model(input_ids=torch.tensor([ids], device=device)).logits[0].float().cpu() for ids in known if ids]


def compare(ones: Sequence[Tensor], others: Sequence[Tensor]) -> LogitDifference:
    """Compare the logits of two models."""
    pairs = [*zip(ones, others, strict=True)]
    largest = torch.stack([(one - other).abs().max() for one, other in pairs]).max()
    same = torch.cat([one.argmax(-1) == other.argmax(-1) for one, other in pairs])
    return LogitDifference(
        largest=float(largest.nan_to_num(math.inf, posinf=math.inf)),
        largest_logit=float(torch.stack([one.abs().max() for one in ones]).max()),  # NaN if one is
        same_choice=float(same.double().mean()),
    )
