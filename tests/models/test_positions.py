"""How long a sequence may be: what `validate` and the nodes say of a model, against what the model takes."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from jobs.evaluation.loaded_model import LoadedModel
from jobs.models.adapters.build import adapted
from jobs.models.build import check_positions
from launcher.artifacts.positions import max_positions
from launcher.errors import LauncherError
from launcher.recipe.sections.adapter import Adapter, PrefixTuning, PromptTuning, PTuning
from launcher.recipe.sections.common import Batch

POSITIONS, VIRTUAL = 24, 5
SIZES = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
OFTEN = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
CAUSAL: dict[str, dict[str, Any]] = {
    "biogpt": SIZES | {"max_position_embeddings": POSITIONS},
    "gpt2": OFTEN | {"n_positions": POSITIONS},
    "gpt_bigcode": OFTEN | {"n_positions": POSITIONS},
    "mpt": {"vocab_size": 32, "d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": POSITIONS},
    "opt": SIZES | {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": POSITIONS},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES | {"max_position_embeddings": POSITIONS},
    "roberta": SIZES | {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1},
}
PROMPTS: dict[str, Adapter] = {
    "prefix": PrefixTuning(method="prefix", virtual_tokens=VIRTUAL),
    "prompt": PromptTuning(method="prompt", virtual_tokens=VIRTUAL),
    "p_tuning": PTuning(method="p_tuning", virtual_tokens=VIRTUAL),
}


def config_of(kind: str) -> PreTrainedConfig:
    tokens = {"bos_token_id": 2, "eos_token_id": 2} | ({} if kind == "roberta" else {"pad_token_id": 0})
    return AutoConfig.for_model(kind, **tokens, **(CAUSAL | ENCODERS)[kind])


def build(auto: Any, config: PreTrainedConfig) -> Any:
    return auto.from_config(config)


def longest(model: Any) -> int:
    """Find the longest sequence that a model takes."""
    for length in range(POSITIONS + 3, 0, -1):
        ids = torch.full((1, length), 5)
        try:
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
        except (IndexError, RuntimeError):
            continue
        return length
    raise AssertionError("it takes no sequence at all")


def accepts(model: Any, length: int, virtual_tokens: int) -> bool:
    batch = Batch.model_validate({"global_batch": "8 sequences", "sequence_length": length})
    try:
        check_positions(model, batch, virtual_tokens)
    except LauncherError as error:
        assert str(error).endswith(f"write at most {POSITIONS - virtual_tokens}")
        return False
    return True


@pytest.mark.parametrize("kind", CAUSAL)
def test_sequences_as_long_as_a_model_takes_are_accepted_and_no_longer_ones(kind: str) -> None:
    config = config_of(kind)
    model = build(AutoModelForCausalLM, config)

    assert longest(model) == POSITIONS
    assert max_positions(config.to_dict()) == POSITIONS, "as `validate` counts"
    assert accepts(model, POSITIONS, 0)
    assert not accepts(model, POSITIONS + 1, 0)


@pytest.mark.parametrize("method", PROMPTS)
@pytest.mark.parametrize("kind", ["biogpt", "gpt2", "opt"])
def test_prompts_and_prefixes_take_positions_of_a_causal_model(kind: str, method: str) -> None:
    config = config_of(kind)
    model = adapted(build(AutoModelForCausalLM, config), PROMPTS[method], 1, "CAUSAL_LM", steps=20)

    most = longest(model)

    assert most == POSITIONS - VIRTUAL
    assert LoadedModel(model, None, torch.device("cpu"), torch.float32).max_length == most  # type: ignore[arg-type]
    bare = model.get_base_model()
    assert max_positions(config.to_dict()) == POSITIONS
    assert accepts(bare, most, VIRTUAL)
    assert not accepts(bare, most + 1, VIRTUAL)


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_prefix_takes_positions_of_an_encoder(kind: str) -> None:
    config = config_of(kind)
    model = adapted(build(AutoModelForSequenceClassification, config), PROMPTS["prefix"], 1, "SEQ_CLS", steps=20)

    most = longest(model)

    assert most == POSITIONS - VIRTUAL
    bare = model.get_base_model()
    assert max_positions(config.to_dict()) == POSITIONS
    assert accepts(bare, most, VIRTUAL)
    assert not accepts(bare, most + 1, VIRTUAL)


def test_validate_reads_positions_where_each_model_type_has_them() -> None:
    wrong = []
    for kind in sorted(
        {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES} - {"mpt"}
    ):
        its = CONFIG_MAPPING[kind]
        key = its.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        if max_positions({"model_type": its.model_type, key: 100}) not in (100, 98):
            wrong.append((kind, key))

    assert not wrong


def test_positions_of_a_model_that_also_sees_are_those_of_its_text() -> None:
    text = {"model_type": "gemma3_text", "max_position_embeddings": 100}

    assert max_positions({"model_type": "gemma3", "text_config": text, "max_position_embeddings": 7}) == 100
    assert max_positions({"model_type": "gemma3"}) is None
