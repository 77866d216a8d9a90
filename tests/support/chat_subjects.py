"""The shipped Llama to talk to, in memory or as what the chat program is told."""

from typing import Any

import torch

from jobs.chat.model import ChatModel
from launcher.recipe.sections.chat import ChatSubject
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from tests.support.prepare_runs import ASSETS

STORIES = ASSETS / "stories260k"
LORA = ASSETS / "stories260k_lora"
CPU = torch.device("cpu")


def subject(**changes: Any) -> ChatSubject:
    """The model, with and without its adapter; keywords replace fields."""
    fields: dict[str, Any] = {
        "title": "stories",
        "model": EvaluatedModel(path="stories260k", dtype="fp32"),
        "base": str(STORIES),
        "adapters": {"none": (), "lora": (str(LORA),)},
        "choice": "none",
    }
    return ChatSubject.model_validate(fields | changes)


def chat_model(**changes: Any) -> ChatModel:
    """The same, loaded."""
    return ChatModel(subject(**changes), CPU, 42)
