"""Noise that depends on a key alone: sampling that no batch, rank or interruption can change.

The largest of score + Gumbel noise is a draw from softmax(scores) (Gumbel-max; Gumbel 1954, Maddison et al. 2014,
https://arxiv.org/abs/1411.0030). The noise of a token comes from SplitMix64 (Steele, Lea & Flood 2014,
https://doi.org/10.1145/2660193.2660195), whose n-th number is a function of its seed and n: so it is computed for all
tokens at once, and equally on every device.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = (1 << 64) - 1
_LARGEST = 1 - 2**-24
"""Below 1 in fp32: the noise of a number that rounds to 1 would be infinite."""


def item_key(seed: int, name: str) -> int:
    """Return the key of an item, 64 bits.

    Args:
        seed: The recipe's.
        name: The item's id: its key does not change when other items are added.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()[:8], "little")


def gumbel(keys: Sequence[int], position: int, size: int, device: torch.device) -> Tensor:
    """Return Gumbel noise in fp32, [rows, size].

    Args:
        keys: Of the items.
        position: Number of the token that is chosen, from 0.
        size: Of the vocabulary.
        device: Where to compute it.
    """
    seeds = [_signed(_mixed_number(key + _STEP * (position + 1))) for key in keys]
    tokens = torch.arange(1, size + 1, device=device)
    states = torch.tensor(seeds, device=device)[:, None] + tokens * _signed(_STEP)
    uniform = (_shifted(_mixed(states), 11).double() + 0.5) * 2.0**-53
    # -log(1 - u), not -log(u): what is close to 0 decides, and numbers have most digits there.
    exponential = -torch.log1p(-uniform.float().clamp(max=_LARGEST))
    return -torch.log(exponential)


def _mixed(states: Tensor) -> Tensor:
    """SplitMix64's output for states, as signed numbers; products wrap around."""
    states = (states ^ _shifted(states, 30)) * _signed(_FIRST)
    states = (states ^ _shifted(states, 27)) * _signed(_SECOND)
    return states ^ _shifted(states, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift to the right without the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mixed_number(state: int) -> int:
    state &= _WORD
    state = (state ^ (state >> 30)) * _FIRST & _WORD
    state = (state ^ (state >> 27)) * _SECOND & _WORD
    return state ^ (state >> 31)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
