"""Whether packed documents attend to one another is asked of the model itself."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from jobs.train.isolation_check import require_isolation
from launcher.errors import RunError

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CPU = torch.device("cpu")


def model_of(kind: str, **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES, **sizes))
    return model


def depends_on_what_is_before(model: PreTrainedModel) -> bool:
    """Compare with the text alone."""
    text, before, positions = torch.arange(20, 26)[None], torch.arange(9)[None], torch.arange(6)[None]
    together = torch.cat([before, text], 1), torch.cat([torch.arange(9)[None], positions], 1)
    with torch.no_grad():
        alone = model.eval()(text, position_ids=positions, use_cache=False).logits
        behind = model(together[0], position_ids=together[1], use_cache=False).logits[:, 9:]
    return not torch.allclose(alone, behind, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma2"])
def test_models_that_heed_positions_are_accepted(kind: str) -> None:
    model = model_of(kind, **({} if kind == "gpt2" else {"intermediate_size": 64, "num_key_value_heads": 2}))
    model.config.use_cache = False

    require_isolation(model.train(), 64, CPU, torch.float32, "document")

    assert model.training
    assert not depends_on_what_is_before(model)


@pytest.mark.parametrize("kind", ["opt", "bloom", "mamba"])
def test_models_that_do_not_are_refused(kind: str) -> None:
    model = model_of(kind, **({"ffn_dim": 64, "word_embed_proj_dim": 32} if kind == "opt" else {}))
    model.config.use_cache = False

    with pytest.raises(RunError, match="lets packed documents attend"):
        require_isolation(model, 64, CPU, torch.float32, "document")

    if kind == "opt":  # the others take no positions
        assert depends_on_what_is_before(model)
