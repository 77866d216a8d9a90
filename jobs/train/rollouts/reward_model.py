"""A reward model: reads a conversation with its completion, and says how good it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import deepspeed

from jobs.models.folder import loading, local_folder, require_no_adapter
from jobs.models.tokenizer import load_tokenizer
from jobs.rank.context import Context
from jobs.train.rollouts.rewards import Completion
from launcher.artifacts.adapter_folder import read_adapter
from launcher.errors import LauncherError
from launcher.recipe.sections.rewards import ModelReward

_BATCH = 8
"""Completions judged at once."""


class RewardModel:
    """Scores completions with a model of one output; each rank has all of it.

    Conversations are written with the reward model's own template and tokens, whatever the policy's are.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._model = model
        self._tokenizer = tokenizer

    @torch.no_grad()
    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Return the model's output for each completion."""
        texts = [self._written(one) for one in completions]
        scores = [self._scores(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return [float(score) for score in torch.cat(scores).tolist()]

    def _written(self, one: Completion) -> str:
        messages = [*one.messages, {"role": "assistant", "content": one.text}]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    def _scores(self, texts: list[str]) -> Tensor:
        inputs = self._tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(self._model.device)
        logits: Tensor = self._model(**inputs).logits
        return logits[:, 0].float()


def load_reward_model(
    context: Context, reward: ModelReward, key: str, device: torch.device, dtype: torch.dtype
) -> RewardModel:
    """Load a reward model, frozen, with its adapter merged if it has one.

    Args:
        context: The run.
        reward: The recipe's entry.
        key: Of the entry, for messages.
        device: This rank's.
        dtype: Format of the weights.

    Raises:
        LauncherError: it cannot be loaded, has more than one output or no trained head, or its tokenizer no template.
    """
    path = context.model_path(reward.path)
    model, untrained = _load(path, f"{key}.path", dtype, {} if reward.adapter is None else {"num_labels": 1})
    holder, name = path, reward.path
    if reward.adapter is not None:
        holder, name = context.model_path(reward.adapter), reward.adapter
        model, untrained = _with_adapter(model, holder, f"{key}.adapter"), []
    if model.num_labels != 1 or untrained:
        fault = f"has {model.num_labels} outputs" if model.num_labels != 1 else "has no trained head"
        raise LauncherError(
            f"{key}.path: `{name}` {fault}, so it is no reward model; name the export of a `reward` run"
        )
    tokenizer = load_tokenizer(holder, name, False)
    if not isinstance(tokenizer.chat_template, str):
        raise LauncherError(f"{key}: the tokenizer of `{name}` has no chat template; train it by `kind: reward`")
    _let_pad(model, tokenizer)
    model.requires_grad_(False)
    model.train(False)
    return RewardModel(model.to(device), tokenizer)  # type: ignore[arg-type]


def _load(path: str, key: str, dtype: torch.dtype, settings: dict[str, Any]) -> tuple[PreTrainedModel, Sequence[str]]:
    """Load the whole model on each rank; return it, and what its files do not have."""
    with loading(path, key, weights=True), unsharded():
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
        )
    require_no_adapter(model, f"{key}: `{path}`")
    return model, sorted(found["missing_keys"])


def _with_adapter(model: PreTrainedModel, path: str, key: str) -> PreTrainedModel:
    """Merge an adapter that brings the head with it."""
    with loading(path, key):
        adapter = read_adapter(local_folder(path, key))
        if adapter.config.get("task_type") != "SEQ_CLS":
            raise LauncherError(f"{key}: `{path}` has no head that rewards; name the export of a `reward` run")
        merged: PreTrainedModel = PeftModel.from_pretrained(model, path).merge_and_unload()
    return merged


def _let_pad(model: PreTrainedModel, tokenizer: Any) -> None:
    """Name the token that fills rows up: the model's own, which tells it where a sequence ends."""
    config = model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)


@contextmanager
def unsharded() -> Iterator[None]:
    """Load a whole model where DeepSpeed would load a part of one on each rank."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
