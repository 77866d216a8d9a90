"""What sharded checkpoints hold of adapters, on one rank of FSDP2; AdaLoRA's ranks where fp16 skips steps."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import fsdp_utils
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from jobs.models.adapters.build import declared_trainable
from jobs.models.recompute import recompute
from jobs.train.adapter_checkpoint import (
    adapter_callbacks,
    adapter_state,
    checkpoint_trained_parameters,
    gather_adapter,
)
from launcher.errors import RunError
from tests.models.test_adapters import adapter, on_stories

OPTIONS = StateDictOptions(full_state_dict=False)


@pytest.fixture
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def sharded(**fields: object) -> PreTrainedModel:
    """An adapted model whose activations are recomputed, as accelerate shards it."""
    model = on_stories(adapter(**fields))
    recompute(model, "full")
    layers = model.base_model.model.model.layers
    for index, layer in enumerate(layers):
        layers[index] = fully_shard(layer)
    return fully_shard(model)


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("method", ["lora", "ia3", "molora"])
def test_a_sharded_checkpoint_holds_all_that_is_trained_where_activations_are_recomputed(method: str) -> None:
    checkpoint_trained_parameters()
    model = sharded(method=method)
    expected = gather_adapter(model)

    saved = fsdp_utils._get_model_state_dict(model, adapter_only=True, sd_options=OPTIONS)
    kept = {name: tensor.full_tensor().clone() for name, tensor in saved.items()}
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    for name, tensor in saved.items():
        tensor.copy_(DTensor.from_local(kept[name], tensor.device_mesh, tensor.placements))
    fsdp_utils._set_model_state_dict(model, saved, adapter_only=True, sd_options=OPTIONS)

    again = gather_adapter(model)
    assert len(kept) == len(declared_trainable(model)) > 0
    assert kept.keys() == expected.keys() == again.keys()
    assert all(
        torch.equal(again[name], tensor) and torch.equal(kept[name], tensor) for name, tensor in expected.items()
    )


@pytest.mark.usefixtures("_group")
def test_an_empty_checkpoint_is_an_error() -> None:
    checkpoint_trained_parameters()
    model = sharded(method="lora")
    model.requires_grad_(False)

    with pytest.raises(RuntimeError, match="would lack some of the 0 trained tensors"):
        fsdp_utils._get_model_state_dict(model, adapter_only=True, sd_options=OPTIONS)


ARGUMENTS = TrainingArguments(use_cpu=True, report_to="none")
IDS = torch.arange(48).reshape(2, 24) + 3
TOO_LARGE, FITS = 2.0**24, 2.0**10
"""Loss scales: the gradient of a logit is about 1 / 46, and fp16 ends at 65,504."""


@pytest.fixture
def _accelerate() -> Iterator[None]:
    Accelerator(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Fp16Steps:
    """Trains an adapter as Trainer does with fp16: torch's own loss scale, in the optimizer of accelerate."""

    def __init__(self, loss_scale: float = FITS) -> None:
        self.model: Any = on_stories(adapter(method="adalora", init_r=4, target_r=2))  # in 20 steps, from the first on
        trained = [one for one in self.model.parameters() if one.requires_grad]
        scaler = torch.amp.GradScaler("cpu", init_scale=loss_scale, backoff_factor=FITS / TOO_LARGE)
        self.optimizer = AcceleratedOptimizer(torch.optim.AdamW(trained, lr=0.01), False, scaler)
        [self._allocation] = adapter_callbacks(self.model)

    def backward(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = self.model(input_ids=IDS, labels=IDS).loss
        self.optimizer.scaler.scale(loss).backward()

    def allocate(self, step: int) -> None:
        state = TrainerState(global_step=step - 1)
        self._allocation.on_optimizer_step(ARGUMENTS, state, TrainerControl(), optimizer=self.optimizer)

    def step(self, number: int) -> bool:
        """Do a step; tell whether it was skipped."""
        self.backward()
        self.optimizer.step()
        self.allocate(number)
        return bool(self.optimizer.step_was_skipped)

    @property
    def known(self) -> dict[str, torch.Tensor]:
        """The weights, what matters among them, and which ranks are cut."""
        return {name: one.clone() for name, one in adapter_state(self.model).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, one in expected.items() if not torch.equal(found[name], one)]


@pytest.mark.usefixtures("_accelerate")
def test_a_step_that_fp16_skips_leaves_no_trace_in_what_matters_to_adalora() -> None:
    untroubled, troubled = Fp16Steps(), Fp16Steps(TOO_LARGE)

    assert [untroubled.step(number) for number in (2, 3)] == [False, False]
    assert [troubled.step(number) for number in (1, 2, 3)] == [True, False, False]

    assert any(name.startswith("allocator/") for name in troubled.known)
    assert all(one.isfinite().all() for one in troubled.known.values())
    assert_same(troubled.known, untroubled.known)


@pytest.mark.usefixtures("_accelerate")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradients_that_are_not_finite_leave_no_trace_either(bad: float) -> None:
    steps = Fp16Steps()
    assert not steps.step(1)
    before = steps.known
    steps.backward()
    next(one for name, one in steps.model.named_parameters() if "lora_E" in name).grad[1] = bad

    steps.allocate(2)

    assert_same(steps.known, before)


@pytest.mark.usefixtures("_accelerate")
def test_ranks_are_fixed_in_their_step_even_if_it_is_skipped() -> None:
    steps = Fp16Steps()
    assert not steps.step(1)
    steps.optimizer.scaler.update(TOO_LARGE)

    assert steps.step(20)

    cut = [one for name, one in steps.known.items() if name.startswith("pattern/")]
    assert int(torch.cat(cut).sum()) == 2 * len(cut)


@pytest.mark.usefixtures("_accelerate")
def test_ranks_of_which_nothing_is_known_are_not_fixed() -> None:
    steps = Fp16Steps(TOO_LARGE)

    with pytest.raises(RunError, match=r"^adapter.tfinal: ranks are fixed in step 20, and fp16 has skipped all steps"):
        steps.step(20)
