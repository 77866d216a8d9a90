"""Flex attention keeps packed documents apart, with the gradients of sdpa; its kernels for GPUs are in tests/gpu."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import create_causal_mask

from jobs.models.build import ATTENTION
from jobs.models.recompute import recompute
from jobs.train.isolation_check import require_isolation

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # torch and transformers, of each other

SIZES = {"hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}


@pytest.fixture(autouse=True)
def on_cpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's own form of it without a kernel (tests/support/cheap_compiling.py)."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    with torch.compiler.set_stance("force_eager"):
        yield


def llama(attention: str) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, num_key_value_heads=2, use_cache=False, attn_implementation=ATTENTION[attention])
    return LlamaForCausalLM(config).train()


def gradients(model: Any) -> list[torch.Tensor]:
    ids = torch.randint(3, 64, (2, 40), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat((torch.arange(cut), torch.arange(40 - cut))) for cut in (9, 25)])
    loss = model(input_ids=ids, labels=ids, position_ids=positions).loss
    loss.backward()
    return [loss.detach(), *(one.grad for one in model.parameters())]


@pytest.mark.parametrize("how", ["none", "full", "selective"])
def test_gradients_of_packed_documents_are_those_of_sdpa(how: Any) -> None:
    model = llama("flex")
    recompute(model, how)

    found, expected = gradients(model), gradients(llama("sdpa"))

    assert len(found) == len(expected) > 15
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(found, expected, strict=True))


def test_the_check_before_training_finds_documents_isolated() -> None:
    require_isolation(llama("flex"), 64, torch.device("cpu"), torch.float32, "document")


def test_blocks_between_documents_are_not_computed() -> None:
    model, positions = llama("flex"), torch.arange(256).repeat(2)[None]

    mask: Any = create_causal_mask(
        model.config, torch.zeros(1, 512, 64), attention_mask=None, past_key_values=None, position_ids=positions
    )

    causal_in_a_document = torch.tensor([[1, 0], [1, 1]])
    assert mask.to_dense()[0, 0].tolist() == torch.block_diag(causal_in_a_document, causal_in_a_document).tolist()
