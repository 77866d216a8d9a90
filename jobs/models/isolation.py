"""Proof that what shares a sequence does not see each other.

Packed samples hold documents whose positions restart and no mask (`jobs.data.samples`). Most models of transformers
take that for a border. Others (OPT, BLOOM, Falcon, MPT, BioGPT in 5.23) mask by order alone, and recurrent ones
(Mamba) carry their state across: they would learn from the wrong context without a word. So the model is asked: what
it says of a text must not depend on the one that shares its sequence.
"""

import torch
from torch import Tensor, nn

from launcher.errors import RunError

_LENGTH = 8
"""Tokens of each text."""
_ROUNDING = 16
"""Logits may be off by so many units in the last place of the largest one: experts that get other tokens besides
compute in other shapes. Where nothing depends on shapes they are equal."""


@torch.no_grad()
def require_isolation(model: nn.Module, vocabulary: int, device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Refuse a model that mixes texts of one sequence. A collective, as each forward pass of a sharded model is.

    Args:
        model: A prepared causal language model.
        vocabulary: Number of its tokens.
        device: Where its inputs lie.
        dtype: The format that it computes in.
        what: The text's kind, for the message.

    Raises:
        RunError: it does.
    """
    was_training = model.training
    model.eval()
    one, other = (_logits_behind(model, first, vocabulary, device) for first in (0, _LENGTH))
    model.train(was_training)
    if (one - other).abs().max() > _ROUNDING * torch.finfo(dtype).eps * one.abs().max():
        raise RunError(
            f"model.path: this model lets {what}s that share a sequence see each other; choose a `data.packing` of one "
            f"{what} a sequence, and `model.attention: sdpa`"
        )


def _logits_behind(model: nn.Module, first: int, vocabulary: int, device: torch.device) -> Tensor:
    """The logits of one and the same text behind another that begins with this token."""
    tokens = torch.cat([torch.arange(first, first + _LENGTH), torch.arange(2 * _LENGTH, 3 * _LENGTH)]) % vocabulary
    positions = torch.arange(_LENGTH).repeat(2)
    logits: Tensor = model(input_ids=tokens[None].to(device), position_ids=positions[None].to(device)).logits
    return logits[0, _LENGTH:].float()
