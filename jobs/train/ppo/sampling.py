"""Completions of prompts, sampled from the policy as it is: generation settings that a model comes with are off."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from launcher.recipe.sections.rollouts import RolloutSampling


def generation_config(sampling: RolloutSampling, stops: Sequence[int], pad: int) -> GenerationConfig:
    """Express a recipe's section in transformers' terms.

    Args:
        sampling: The recipe's section.
        stops: Tokens that end a completion.
        pad: Any token, to fill rows up.
    """
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        repetition_penalty=1.0,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens or None,
        eos_token_id=[*stops],
        pad_token_id=pad,
        use_cache=True,
        disable_compile=True,
    )


@torch.no_grad()
def sample(
    model: Any, prompts: Sequence[Sequence[int]], config: GenerationConfig, device: torch.device, is_sharded: bool
) -> list[list[int]]:
    """Sample one completion of each prompt.

    Args:
        model: The policy; `generate` is called.
        prompts: Token ids.
        config: From `generation_config`.
        device: Of this rank.
        is_sharded: Whether other ranks hold a part of the weights: then all of them generate until the last is done.

    Returns:
        Token ids of the completions, up to the token that ends each, if one does.
    """
    ids, attention = _left_padded(prompts, config.pad_token_id, device)
    with _evaluating(model), without_published_settings(model, config):
        output = model.generate(
            input_ids=ids, attention_mask=attention, generation_config=config, synced_gpus=is_sharded
        )
    return [_up_to_end(row, config.eos_token_id) for row in output[:, ids.shape[1] :].tolist()]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
    lengths = torch.tensor(list(map(len, prompts)))[:, None]
    attention = (torch.arange(width) >= width - lengths).long()
    return ids.to(device), attention.to(device)


def _up_to_end(ids: list[int], stops: Sequence[int]) -> list[int]:
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return ids[: end + 1]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def without_published_settings(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Keep `generate` (transformers 5.23) from filling in what the config leaves open, such as other penalties."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    published, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = published
