"""Proof that training changes each tensor declared trainable, and no other.

Libraries silently leave an adapter out of the forward pass, or unfreeze one that was to stay frozen
(https://github.com/huggingface/peft/issues/837, /2749, /2759); the loss falls all the same.
"""

from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from jobs.rank.process_group import RankGroup
from launcher.errors import RunError

PATIENCE = 20
"""Optimizer steps, of those in which some tensor has a gradient, within which each must have had one. LoRA's A has none
while B is zero: for two steps if the learning rate starts from 0, for more where fp16's loss scale has to be found."""

_SHOWN = 4


class GradientGuard(TrainerCallback):
    """Looks at gradients in the first steps of an attempt, then no more.

    Args:
        group: All ranks; a gradient on one of them is enough.
        declared: Names of the tensors that are to be trained.
        by_hooks: Whether gradients can only be seen while they are computed: DeepSpeed frees them before
            Trainer's callbacks come.
    """

    def __init__(self, group: RankGroup, declared: Collection[str], by_hooks: bool) -> None:
        self._group = group
        self._declared = frozenset(declared)
        self._awaited = sorted(self._declared)
        self._by_hooks = by_hooks
        self._steps = self._with_gradient = 0
        self._hooks: list[RemovableHandle] = []
        self._used: set[str] = set()
        """Tensors that took part in the loss on this rank."""
        self._moved: set[str] = set()
        """Those of them whose gradient was not zero."""
        self._has_gradient = False
        """Whether some gradient of this step was not zero: where all rewards are equal, there is nothing to learn."""

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Compare what can be trained with what is to be trained.

        Raises:
            RunError: a tensor is frozen that should not be, or the other way round.
        """
        parameters = _named_parameters(others["model"])
        can = {name for name, parameter in parameters.items() if parameter.requires_grad}
        if frozen := self._declared - can:
            raise RunError(f"{_list(frozen)}: declared trainable, but frozen; make the adapter trainable and active")
        if thawed := can - self._declared:
            raise RunError(f"{_list(thawed)}: trainable, but not declared trainable; freeze it")
        if self._by_hooks:
            for name in self._awaited:
                hook = partial(self._note, name)
                self._hooks.append(parameters[name].register_hook(hook))  # type: ignore[no-untyped-call]

    @override
    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **others: Any
    ) -> None:
        """Look at the gradients of what had none yet.

        Raises:
            RunError: a tensor takes no part in the loss, or its gradient stayed zero.
        """
        if not self._awaited:
            return
        if not self._by_hooks:
            self._look(_named_parameters(others["model"]))
        if self._steps == 0:
            unused = self._agreed_without(self._used)
            if unused:
                raise RunError(
                    f"{_list(unused)}: declared trainable, but without effect on the loss; is the adapter active?"
                )
        self._awaited = self._agreed_without(self._moved)
        self._steps += 1
        self._with_gradient += self._group.any(self._has_gradient)[0]
        self._has_gradient = False
        if self._awaited and self._with_gradient == PATIENCE:
            raise RunError(f"{_list(self._awaited)}: declared trainable, but without a gradient in {PATIENCE} steps")
        if not self._awaited:
            self._remove_hooks()

    def _look(self, parameters: dict[str, nn.Parameter]) -> None:
        for name in self._declared:
            if (gradient := parameters[name].grad) is not None:
                self._note(name, gradient)

    def _note(self, name: str, gradient: Tensor) -> None:
        self._used.add(name)
        if name in self._moved and self._has_gradient:
            return
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        if bool(torch.count_nonzero(local)):
            self._moved.add(name)
            self._has_gradient = True

    def _agreed_without(self, found: set[str]) -> list[str]:
        # A collective.
        claims = self._group.any(*(name in found for name in self._awaited))
        return [name for name, claim in zip(self._awaited, claims, strict=True) if not claim]

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()


def _named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def _list(names: Collection[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in sorted(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
