"""Proof that packed documents cannot attend to one another.

Packed samples hold documents whose positions restart, and no mask (`jobs.data.sampling.dataset`). Most models of
transformers see a border there. Others (OPT, BLOOM, Falcon, MPT, BioGPT in 5.23) mask by order alone, and recurrent
ones (Mamba) carry their state across: they would silently learn from the wrong context. So the model is tested: its
logits for a text must not depend on the other text in the sequence.
"""

import torch
from torch import Tensor, nn

from launcher.errors import RunError

_LENGTH = 8
"""Tokens of each text."""
ROUNDING = 16
"""Logits may be off by so many units in the last place of the largest one: experts that get other tokens besides
compute in other shapes. Where nothing depends on shapes they are equal."""


@torch.no_grad()
def require_isolation(model: nn.Module, vocabulary: int, device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Refuse a model whose packed texts attend to one another. A collective, as forward passes of sharded models are.

    Args:
        model: A prepared causal language model.
        vocabulary: Number of its tokens.
        device: Where its inputs lie.
        dtype: The format that it computes in.
        what: The text's kind, for the message.

    Raises:
        RunError: they do.
    """
    was_training = model.training
    model.eval()
    one, other = (_logits_behind(model, first, vocabulary, device) for first in (0, _LENGTH))
    model.train(was_training)
    if (one - other).abs().max() > ROUNDING * torch.finfo(dtype).eps * one.abs().max():
        raise RunError(
            f"model.path: this model lets packed {what}s attend to one another; choose a `data.packing` of one "
            f"{what} per sequence, and `model.attention: sdpa`"
        )


def _logits_behind(model: nn.Module, first: int, vocabulary: int, device: torch.device) -> Tensor:
    """The logits of a fixed text behind another one that begins with token `first`."""
    tokens = torch.cat([torch.arange(first, first + _LENGTH), torch.arange(2 * _LENGTH, 3 * _LENGTH)]) % vocabulary
    positions = torch.arange(_LENGTH).repeat(2)
    logits: Tensor = model(input_ids=tokens[None].to(device), position_ids=positions[None].to(device)).logits
    return logits[0, _LENGTH:].float()
