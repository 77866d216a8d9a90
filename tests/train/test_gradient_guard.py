"""The guard that every tensor declared trainable is trained, and no other."""

import copy
from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState

from jobs.models.adapters.build import declared_trainable
from jobs.rank.process_group import RankGroup
from jobs.train.gradient_guard import PATIENCE, GradientGuard
from launcher.errors import RunError
from tests.support.training_runs import ASSETS

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)
BOTH = ("default", "downstream")


@pytest.fixture
def two_step() -> peft.PeftModel:
    """A clinical adapter and a downstream one behind it, as Clinical LLaMA-LoRA's code leaves them."""
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k")
    model = peft.get_peft_model(base, config)
    model.add_adapter("downstream", copy.deepcopy(config))
    return model


def thaw(model: nn.Module, adapters: tuple[str, ...]) -> None:
    """Make adapters trainable by name, and freeze all else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(adapter in name.split(".") for adapter in adapters))


def steps(model: nn.Module, guard: GradientGuard, lr: float = 0.1) -> Iterator[int]:
    """Train as Trainer does, so far as the guard sees it; yield the number of steps done."""
    ids = torch.arange(16).unsqueeze(0) + 3
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    arguments: Any = None
    guard.on_train_begin(arguments, TrainerState(), TrainerControl(), model=model)
    for done in range(PATIENCE + 1):
        model(input_ids=ids, labels=ids).loss.backward()
        guard.on_pre_optimizer_step(arguments, TrainerState(), TrainerControl(), model=model)
        optimizer.step()
        optimizer.zero_grad()
        yield done + 1


@pytest.mark.parametrize("by_hooks", [False, True])
def test_an_adapter_that_is_not_active_is_named_in_the_first_step(two_step: peft.PeftModel, by_hooks: bool) -> None:
    thaw(two_step, BOTH)
    guard = GradientGuard(ALONE, declared_trainable(two_step, BOTH), by_hooks)

    with pytest.raises(
        RunError, match=r"downstream.weight` and 6 more: declared trainable, but without effect"
    ) as caught:
        list(steps(two_step, guard))

    assert "default" not in str(caught.value)


def test_an_adapter_that_peft_froze_on_the_way_is_named_before_the_first_step(two_step: peft.PeftModel) -> None:
    guard = GradientGuard(ALONE, declared_trainable(two_step, BOTH), by_hooks=False)

    with pytest.raises(RunError, match=r"downstream.weight`.*: declared trainable, but frozen"):
        next(steps(two_step, guard))


def test_an_adapter_that_peft_thaws_with_the_other_is_named(two_step: peft.PeftModel) -> None:
    two_step.base_model.set_adapter([*BOTH])  # what makes both take part also thaws the clinical one
    guard = GradientGuard(ALONE, declared_trainable(two_step, ("downstream",)), by_hooks=False)

    with pytest.raises(RunError, match=r"default.weight`.*: trainable, but not declared trainable"):
        next(steps(two_step, guard))


@pytest.mark.parametrize("by_hooks", [False, True])
@pytest.mark.parametrize("trained", [BOTH, ("downstream",)])
def test_two_active_adapters_pass(two_step: peft.PeftModel, trained: tuple[str, ...], by_hooks: bool) -> None:
    two_step.base_model.set_adapter([*BOTH])
    thaw(two_step, trained)
    guard = GradientGuard(ALONE, declared_trainable(two_step, trained), by_hooks)

    done = list(steps(two_step, guard))

    assert len(done) == PATIENCE + 1
    assert not guard._hooks or not any(p._backward_hooks for p in two_step.parameters())


def test_a_gradient_that_stays_zero_is_named_when_patience_ends(two_step: peft.PeftModel) -> None:
    thaw(two_step, ("default",))
    guard = GradientGuard(ALONE, declared_trainable(two_step), by_hooks=False)
    done: list[int] = []

    with pytest.raises(RunError, match=rf"lora_A.default.weight`.*: .* without a gradient in {PATIENCE} steps"):
        done.extend(steps(two_step, guard, lr=0.0))  # so B stays zero, and with it A's gradient

    assert done == list(range(1, PATIENCE))
