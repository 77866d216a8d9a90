"""A reward model: reads a conversation with its completion, and says how good it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import deepspeed

from jobs.data.chat.formats import Message
from jobs.data.chat.render import Renderer
from jobs.models.build import DTYPES, position_count
from jobs.models.classifier import reward_head
from jobs.models.folder import loading, local_folder, require_no_adapter
from jobs.models.merge.peft_merge import merged_if_possible
from jobs.models.tokenizer import load_tokenizer, padding_token
from jobs.rank.context import Context
from jobs.train.rollouts.rewards import Completion
from launcher.artifacts.adapter_folder import MANIFEST, AdapterFolder, read_adapter, read_object
from launcher.artifacts.positions import missing_scoring_positions
from launcher.errors import LauncherError, RunError
from launcher.recipe.kinds.rl import RlRecipe
from launcher.recipe.sections.rewards import ModelReward

_BATCH = 8
"""Completions judged at once."""


@dataclass(frozen=True)
class RewardModel:
    """Scores completions with a model of one output; each rank has all of it.

    Conversations become the tokens that `kind: reward` trains on, by the reward model's own template and tokenizer,
    whatever the policy's are.
    """

    model: Any
    """transformers' model, or peft's around it."""
    renderer: Renderer
    """Its template, and the system prompt that it was trained with."""
    key: str
    """Of the recipe's entry, for messages."""
    positions: int | None = None
    """Tokens that it can read; None: any number."""
    system_prompt: str | None = None
    """Of the policy's recipe, in place of which the reward model reads its own."""

    @torch.no_grad()
    def __call__(self, completions: Sequence[Completion]) -> list[float]:
        """Return the model's output for each completion."""
        rows = self._within_positions(self._tokens([self._conversation(one) for one in completions]))
        scores = [self._scores(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
        return [float(score) for score in torch.cat(scores).tolist()]

    def _conversation(self, one: Completion) -> list[Message]:
        asked, answer = [*one.messages], Message(role="assistant", content=one.text)
        first = asked[0]
        has_policys = first["role"] == "system" and first["content"] == self.system_prompt
        return [*(asked[1:] if has_policys and self.renderer.system_prompt else asked), answer]

    def _tokens(self, conversations: Sequence[list[Message]]) -> list[list[int]]:
        examples = self.renderer.encode(conversations)
        return [
            self._as_it_is(conversation) if isinstance(example, ValueError) else example.ids.tolist()
            for conversation, example in zip(conversations, examples, strict=True)
        ]

    def _as_it_is(self, conversation: list[Message]) -> list[int]:
        """Tokenise what nobody would train on, such as a completion that writes out a control token."""
        tokenizer, messages = self.renderer.tokenizer, self.renderer.completed(conversation)
        try:
            text = tokenizer.apply_chat_template(messages, chat_template=self.renderer.template, tokenize=False)
        except TemplateError:
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise RunError(
                f"{self.key}: the reward model's chat template refuses a conversation (with turns of {roles}); name "
                "another reward model"
            ) from None
        ids: list[int] = tokenizer(str(text), add_special_tokens=False)["input_ids"]
        return ids

    def _within_positions(self, rows: list[list[int]]) -> list[list[int]]:
        """Leave out the beginning of what is too long: the reward model's template or tokens may need more."""
        room = self.positions
        if room is None or not (cut := sum(len(row) > room for row in rows)):
            return rows
        print(
            f"{self.key}: {cut} of {len(rows)} conversations are longer than the {room} tokens that the reward model "
            "can read; it judges their ends",
            flush=True,
        )
        return [row[-room:] for row in rows]

    def _scores(self, rows: Sequence[list[int]]) -> Tensor:
        length, pad = max(map(len, rows)), self.model.config.get_text_config().pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[:, 0].float()


def load_reward_model(context: Context, recipe: RlRecipe, place: int, device: torch.device) -> RewardModel:
    """Load a reward model, frozen, with its adapter as a part of the weights where that is possible.

    Args:
        context: The run.
        recipe: As it is for this attempt.
        place: Of the entry in its rewards.
        device: This rank's.

    Raises:
        LauncherError: it cannot be loaded, has more than one output or no trained head, its adapter does not belong to
            it, its tokenizer has no template, or it reads shorter texts than the policy writes.
    """
    reward, key = recipe.rewards[place], f"rewards.{place}"
    assert isinstance(reward, ModelReward)
    dtype, name = DTYPES[recipe.precision.dtype], reward.adapter or reward.path
    if reward.adapter is None:
        model, tokenizer, manifest = _load_whole(context.model_path(reward.path), reward.path, key, dtype)
    else:
        adapter = _open_adapter(context, reward, key)
        tokenizer, manifest = _tokenizer(context.model_path(name), name, key), adapter.manifest
        model = _load_adapted(context.model_path(reward.path), adapter, _padding(tokenizer, name), key, dtype)
    positions = _positions(model)
    if fault := missing_scoring_positions(name, positions, recipe.batch.sequence_length):
        raise LauncherError(f"{key}.path: {fault}")
    model.requires_grad_(False)
    model.train(False)
    system_prompt = reward.system_prompt or manifest.get("system_prompt")
    renderer = Renderer(tokenizer, str(tokenizer.chat_template), system_prompt, last_only=True)
    return RewardModel(model.to(device), renderer, key, positions, recipe.data.system_prompt)


def _load_whole(
    path: str, name: str, key: str, dtype: torch.dtype
) -> tuple[Any, PreTrainedTokenizerBase, dict[str, Any]]:
    """Load a model that has its head in its own files; its configuration says what it is padded with."""
    model, untrained = _load(path, f"{key}.path", dtype, {})
    if model.num_labels != 1 or untrained:
        fault = f"has {model.num_labels} outputs" if model.num_labels != 1 else "has no trained head"
        raise LauncherError(
            f"{key}.path: `{name}` {fault}, so it is no reward model; name the export of a `reward` run"
        )
    tokenizer, config = _tokenizer(path, name, key), model.config.get_text_config()
    if config.pad_token_id is None:
        config.pad_token_id = _padding(tokenizer, name)
    return model, tokenizer, read_object(Path(path) / MANIFEST) or {}


def _open_adapter(context: Context, reward: ModelReward, key: str) -> AdapterFolder:
    """Read an adapter, and check that it makes a reward model of this base."""
    try:
        adapter = read_adapter(local_folder(context.model_path(str(reward.adapter)), "adapter"))
        adapter.require_reward_head()
        adapter.require_base(reward.path, context.model_path(reward.path), reward.trained_on)
        adapter.require_base_adapters(None)
    except LauncherError as error:
        raise LauncherError(f"{key}.adapter: {error}") from error
    return adapter


def _load_adapted(path: str, adapter: AdapterFolder, pad: int, key: str, dtype: torch.dtype) -> Any:
    """Load a model with the adapter that brings its head, padded with what that was trained with."""
    model, _ = _load(path, f"{key}.path", dtype, reward_head(pad))
    try:
        with unsharded():
            return merged_if_possible(model, adapter)
    except LauncherError as error:
        raise LauncherError(f"{key}.adapter: {error}") from error


def _load(path: str, key: str, dtype: torch.dtype, settings: dict[str, Any]) -> tuple[PreTrainedModel, Sequence[str]]:
    """Load the whole model on each rank; return it, and what its files do not have."""
    with loading(path, key, weights=True), unsharded():
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=dtype, use_safetensors=True, output_loading_info=True, **settings
        )
    require_no_adapter(model, f"{key}: `{path}`")
    return model, sorted(found["missing_keys"])


def _tokenizer(path: str, name: str, key: str) -> PreTrainedTokenizerBase:
    tokenizer = load_tokenizer(path, name, False)
    if not isinstance(tokenizer.chat_template, str):
        raise LauncherError(f"{key}: the tokenizer of `{name}` has no chat template; train it by `kind: reward`")
    return tokenizer


def _padding(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return the number of the token that `kind: reward` pads with."""
    return tokenizer.get_vocab()[padding_token(tokenizer, name)]


def _positions(model: Any) -> int | None:
    """Return how many tokens a model can read, besides those that an adapter puts before them."""
    config = model.active_peft_config if isinstance(model, PeftModel) else None
    prefix = config.num_virtual_tokens if config and config.is_prompt_learning else 0
    positions = position_count(model)
    return positions and positions - prefix


@contextmanager
def unsharded() -> Iterator[None]:
    """Load a whole model where DeepSpeed would load a part of one on each rank."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference
