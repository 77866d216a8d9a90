"""Training without dropout: it is switched off, and a proof finds what is left of it."""

import random
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedConfig

from launcher.errors import RunError

M = TypeVar("M", bound=nn.Module)
_NOISE = ("drop", "jitter")
"""What the names of random parts of a model have in common: `attn_pdrop`, `layerdrop`, `router_jitter_noise`."""
_PUBLISHED = "_dropout_as_published"
"""Attribute of a model: its configuration's settings before they were set to 0."""
_LENGTH = 8


def without_dropout(model: M) -> M:
    """Switch off all dropout of a model and its adapter, skipped layers and the jitter of routers; return the model.

    Models of transformers have dropout as modules, as numbers for a function, or as settings of their configuration
    that a forward pass reads.
    """
    published = []
    for module in model.modules():
        if isinstance(module, _DropoutNd) or (_is_noise(type(module).__name__) and hasattr(module, "p")):
            module.p = 0.0  # type: ignore[assignment]
        for name in _settings(module):
            setattr(module, name, 0.0)
        config = getattr(module, "config", None)
        if isinstance(config, PreTrainedConfig):
            for name in _settings(config):
                published.append((config, name, getattr(config, name)))
                setattr(config, name, 0.0)
    setattr(model, _PUBLISHED, published)
    return model


def is_without_dropout(model: object) -> bool:
    """Tell whether `without_dropout` was called for a model."""
    return hasattr(model, _PUBLISHED)


def restore_configuration(model: object) -> None:
    """Give a model's configuration the settings that it was published with, for an export."""
    for config, name, value in getattr(model, _PUBLISHED, ()):
        setattr(config, name, value)


@torch.no_grad()
def require_no_dropout(model: nn.Module, vocabulary: int, device: torch.device) -> None:
    """Refuse a model whose forward pass is still random in training. A collective, as those of sharded models are.

    Random numbers are drawn afterwards as if nothing had happened.

    Args:
        model: Prepared for training.
        vocabulary: Number of its tokens.
        device: Where its inputs lie.

    Raises:
        RunError: it is.
    """
    was_training, of_python = model.training, random.getstate()
    model.train()
    tokens = torch.arange(_LENGTH, device=device)[None] % vocabulary
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        before = _random_states(device)
        one, other = (model(input_ids=tokens).logits for _ in range(2))
        is_random = _random_states(device) != before and not torch.equal(one, other)
    random.setstate(of_python)
    model.train(was_training)
    if is_random:
        raise RunError(
            "model.path: in training this model computes with random numbers that cannot be switched off as dropout "
            "is; choose another model, or, where the kind of training has that key, write `dropout: true`"
        )


def _settings(holder: nn.Module | PreTrainedConfig) -> list[str]:
    """Name the numbers of a module or a configuration that make it random."""
    return [name for name, value in vars(holder).items() if isinstance(value, float) and value and _is_noise(name)]


def _is_noise(name: str) -> bool:
    return any(part in name.lower() for part in _NOISE)


def _random_states(device: torch.device) -> tuple[object, ...]:
    """Say where random numbers are: whoever draws some moves on. Sums differ by rounding without drawing any."""
    states: list[Tensor] = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return (random.getstate(), *(state.numpy().tobytes() for state in states))
