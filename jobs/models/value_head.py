"""A policy that also says how good a state is: a value head beside the output embedding, and probabilities of tokens.

As in TRL 0.4 and Ziegler et al. 2019 (https://arxiv.org/abs/1909.08593) both heads share all layers below. The value
head starts at 0, so that it neither moves the policy nor favours a completion before it has learned anything.
"""

from functools import wraps
from types import MethodType
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from jobs.models.fused_loss import PLAIN_HEADS

VALUE_HEAD = "value_head"
"""Name of the head in a model's parameters."""


def add_value_head(model: PreTrainedModel | PeftModel, temperature: float = 1.0) -> None:
    """Give a model a value head, in fp32, and the forward pass of `let_score`."""
    base = _base(model)
    device = next(base.parameters()).device
    head = nn.Linear(base.config.get_text_config().hidden_size, 1, device=device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    setattr(base, VALUE_HEAD, head)
    let_score(base, temperature)


def remove_value_head(model: PreTrainedModel | PeftModel) -> None:
    """Leave the plain language model, for an export, if there is a value head."""
    if hasattr(_base(model), VALUE_HEAD):
        delattr(_base(model), VALUE_HEAD)


def let_score(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """Have a model's forward pass return probabilities of tokens if it is told which ones to score.

    `model(input_ids=..., scored=MASK)` returns a dictionary of vectors with an entry for each True
    of the mask, in its order: `logprobs`, `entropies`, and `values` if there is a value head. Entry t of the mask is
    for token t, as it is predicted from the tokens before it. Where `forbidden` is True as well, the tokens of
    `forbidden_ids` have no probability. Without `scored` the forward pass is as before.

    Args:
        model: A causal language model, not adapted.
        temperature: Logits are divided by it.
    """
    plain_forward = model.forward

    @wraps(plain_forward)
    def forward(
        self: PreTrainedModel,
        *given: Any,
        scored: Tensor | None = None,
        forbidden: Tensor | None = None,
        forbidden_ids: Tensor | None = None,
        **others: Any,
    ) -> Any:
        if scored is None:
            return plain_forward(*given, **others)
        hidden, logits = _hidden_and_logits(self, plain_forward, scored, others)
        if forbidden is not None and forbidden_ids is not None:
            at = forbidden[scored].nonzero()
            logits = logits.index_put((at, forbidden_ids[None]), logits.new_tensor(-torch.inf))
        found = _probabilities(logits / temperature, others["input_ids"][scored])
        head: nn.Linear | None = getattr(self, VALUE_HEAD, None)
        return found if head is None else {**found, "values": _values(head, hidden)}

    model.forward = MethodType(forward, model)


def _base(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(base, PreTrainedModel), type(base)
    return base


def _hidden_and_logits(
    model: PreTrainedModel, plain_forward: Any, scored: Tensor, inputs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the last hidden state before each scored token, and the logits of it in fp32."""
    before = scored[:, 1:]
    if model.config.model_type in PLAIN_HEADS:
        hidden = model.base_model(**inputs, use_cache=False).last_hidden_state[:, :-1][before]
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        return hidden, head(hidden).float()
    output = plain_forward(**inputs, output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][:, :-1][before], output.logits[:, :-1][before].float()


def _probabilities(logits: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropies = -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
    # A sum, not a view: FSDP2 warns of views that leave a module.
    return {"logprobs": logprobs.gather(-1, tokens[:, None]).sum(-1), "entropies": entropies}


def _values(head: nn.Linear, hidden: Tensor) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        values: Tensor = head(hidden.to(head.weight.dtype)).sum(-1)
    return values.float()
