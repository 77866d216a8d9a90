"""The loss of next tokens without their logits: a few rows of logits at a time, and only where there are labels.

A batch's logits are tokens x vocabulary numbers, kept twice and as gradients: for 8,192 tokens and 128,000 words 12 GB,
more than anything else of a small model. They are needed for the loss only, whose gradient follows from each row by
itself (softmax - one-hot), so it is computed together with the loss and the logits are forgotten, as Liger
(https://arxiv.org/abs/2410.10989) does it on GPUs. Nothing is computed twice, and nothing where no label is.
"""

from functools import wraps
from types import MethodType
from typing import Any

import torch
from peft.utils import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from typing_extensions import override

from jobs.models.embeddings import embedding_layers
from jobs.models.labels import IGNORED

PLAIN_HEADS = frozenset({"gemma", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi3", "qwen2", "qwen3"})
"""Types of models whose logits are the output embedding times the last hidden state, and nothing more: others scale or
cap them, or add to the loss."""

LOGITS_AT_A_TIME = 1 << 25
"""128 MiB in fp32. `launcher/plan/activations.py` counts with it."""


class NextTokenHead(nn.Linear):
    """An output embedding that gives logits, or losses if it is told which tokens come next."""

    @override
    def forward(self, hidden: Tensor, targets: Tensor | None = None) -> Tensor:
        """Return logits; with targets the sum of their losses, without gradients the loss of each."""
        return super().forward(hidden) if targets is None else _losses(hidden, self.weight, targets)


def fuse_loss(model: PreTrainedModel) -> None:
    """Have a model's forward pass with labels compute no full logits, if its type is known to allow that.

    Without labels it returns logits as before. With labels and without gradients, the place of the logits holds the sum
    of each row's losses and the number of its labels.

    Args:
        model: A causal language model, before it is adapted or sharded; changed.
    """
    _, head = embedding_layers(model)
    if model.config.model_type not in PLAIN_HEADS or type(head) is not nn.Linear or head.bias is not None:
        return
    with torch.device("meta"):
        fused = NextTokenHead(head.in_features, head.out_features, bias=False)
    fused.weight = head.weight
    model.set_output_embeddings(fused)
    plain_forward = model.forward

    @wraps(plain_forward)
    def forward(
        self: PreTrainedModel, *given: Any, labels: Tensor | None = None, num_items_in_batch: Any = None, **others: Any
    ) -> Any:
        _, head = embedding_layers(self)  # peft may have put another in its place
        if labels is None or not _takes_targets(head):
            told = {"labels": labels, "num_items_in_batch": num_items_in_batch}
            # Models with code of their own may not take the latter.
            return plain_forward(*given, **{name: one for name, one in told.items() if one is not None}, **others)
        hidden, targets = self.base_model(*given, **others).last_hidden_state[:, :-1], labels[:, 1:]
        has_label = targets != IGNORED
        return _output(_apply(head, hidden[has_label], targets[has_label]), has_label, num_items_in_batch)

    model.forward = MethodType(forward, model)


def _takes_targets(head: nn.Module) -> bool:
    if isinstance(head, TrainableTokensWrapper):
        return not head.token_adapter.merged and not head.token_adapter.disable_adapters
    if isinstance(head, ModulesToSaveWrapper):  # a copy of ours, but of tied embeddings peft makes a new one
        return not head.disable_adapters and isinstance(head.modules_to_save[head.active_adapters[0]], NextTokenHead)
    return isinstance(head, NextTokenHead)


def _apply(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    if not isinstance(head, TrainableTokensWrapper):
        losses: Tensor = head(hidden, targets)
        return losses
    rows = head.token_adapter  # peft's own forward pass takes hidden states only
    return _losses(hidden, rows.get_merged_weights(rows.active_adapters), targets)


def _output(losses: Tensor, has_label: Tensor, count: Any) -> CausalLMOutputWithPast:
    total = losses.sum() / (has_label.sum() if count is None else count)
    if torch.is_grad_enabled():
        return CausalLMOutputWithPast(loss=total)
    rows = losses.new_zeros(has_label.shape).masked_scatter(has_label, losses).sum(1)
    return CausalLMOutputWithPast(loss=total, logits=torch.stack((rows, has_label.sum(1).to(rows.dtype)), dim=1))


class _SummedLoss(torch.autograd.Function):
    """Sum of the losses of tokens; gradients are computed with it, up to the factor from the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """Args: hidden states, one a token, output embedding, and the tokens that come next."""
        low, low_weight = _compute_format(hidden, weight)
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        ctx.of_hidden = torch.empty_like(hidden) if for_hidden else None
        ctx.of_weight = torch.zeros_like(weight, dtype=torch.float32) if for_weight else None
        total = hidden.new_zeros((), dtype=torch.float32)
        for part in _parts(len(targets), len(weight)):
            losses, gradient = _loss_and_gradient(functional.linear(low[part], low_weight).float(), targets[part])
            total += losses.sum()
            gradient = gradient.to(low.dtype)
            if for_hidden:
                ctx.of_hidden[part] = gradient @ low_weight
            if for_weight and low.dtype == torch.float32:
                ctx.of_weight.addmm_(gradient.T, low[part])
            elif for_weight:
                ctx.of_weight += gradient.T @ low[part]
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Scale what was computed."""
        of_hidden, of_weight = ctx.of_hidden, ctx.of_weight
        ctx.of_hidden = ctx.of_weight = None
        return (
            None if of_hidden is None else of_hidden.mul_(factor),
            None if of_weight is None else of_weight.mul_(factor).to(ctx.weight_dtype),
            None,
        )


def _compute_format(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cast both to the format that a matrix product would use here; once, not for each part."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    return hidden.to(dtype), weight.to(dtype)


def _parts(tokens: int, vocabulary: int) -> list[slice]:
    rows = max(1, LOGITS_AT_A_TIME // vocabulary)
    return [slice(start, start + rows) for start in range(0, tokens, rows)]


def _loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return each token's loss, and its gradient in the place of its logits."""
    index = targets[:, None]
    logits -= logits.amax(1, keepdim=True)
    of_target = logits.gather(1, index)
    exponentials = logits.exp_()
    sums = exponentials.sum(1, keepdim=True)
    gradient = exponentials.div_(sums)
    gradient.scatter_add_(1, index, torch.full_like(of_target, -1.0))
    return (sums.log() - of_target)[:, 0], gradient


def _losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of all losses, or each one where no gradients are wanted."""
    if torch.is_grad_enabled():
        summed: Tensor = _SummedLoss.apply(hidden, weight, targets)  # type: ignore[no-untyped-call]
        return summed
    low, low_weight = _compute_format(hidden, weight)
    parts = [
        functional.cross_entropy(functional.linear(low[part], low_weight).float(), targets[part], reduction="none")
        for part in _parts(len(targets), len(weight))
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
