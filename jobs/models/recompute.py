"""Activations that are computed again in the backward pass instead of being kept: all of a layer's, or the cheap ones.

All strategies do it in the same way: transformers' layers compute their own `forward` again. FSDP2's hooks are around
that, so nothing is gathered twice. accelerate 1.15 would wrap the layers instead, without keeping the random state:
dropout would draw another mask in the backward pass.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

from launcher.errors import LauncherError

_ATEN = torch.ops.aten
_KEPT = frozenset(
    {
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN._grouped_mm.default,
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
        torch.ops.higher_order.flex_attention,
    }
)
"""Operations whose results `selective` keeps. Batched products are not among them: those of `eager` attention are a
number for each pair of tokens."""
_KEPT_NAMESPACE = "flash_attn"


def recompute(model: PreTrainedModel, how: Literal["none", "full", "selective"]) -> None:
    """Have a model's layers keep fewer activations; the results are the same.

    `selective` goes by operation instead of by layer: a product of matrices costs as much again to recompute, a norm or
    an activation function hardly anything, and both take the same memory. Which operations a layer consists of, torch
    sees by itself, so this works for every architecture; what is not known by name is recomputed.

    Args:
        model: Adapted, but not yet sharded; changed.
        how: The recipe's word.

    Raises:
        LauncherError: the model's class cannot do it.
    """
    if how == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if how == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    try:
        model.activation_checkpointing_enable(options)
    except ValueError as error:
        raise LauncherError(f"model.activation_checkpointing: {error}; write `none`") from error
    # transformers makes embeddings require gradients, for another way of recomputing. Frozen ones would be gathered for
    # nothing.
    model.disable_input_require_grads()  # type: ignore[no-untyped-call]


def _policy(_context: Any, operation: Any, *_given: Any, **_named: Any) -> CheckpointPolicy:
    is_kept = operation in _KEPT or operation.namespace == _KEPT_NAMESPACE
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE
