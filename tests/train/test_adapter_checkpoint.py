"""What sharded checkpoints hold of adapters, on one rank of FSDP2."""

from collections.abc import Iterator

import pytest
import torch
from accelerate.utils import fsdp_utils
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from jobs.models.adapters.build import declared_trainable
from jobs.models.recompute import recompute
from jobs.train.adapter_checkpoint import checkpoint_trained_parameters, gather_adapter
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
