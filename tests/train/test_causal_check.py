"""Whether a model is a causal language model with the loss of next tokens is asked of the model itself."""

import json
import random
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PromptTuningConfig, get_peft_model
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

from jobs.evaluation.loaded_model import load_weights
from jobs.models.build import build_causal_lm
from jobs.models.fused_loss import fuse_loss
from jobs.train.causal_check import next_token_loss, require_causality, require_next_token_loss
from launcher.artifacts.adapter_folder import AdapterFolder
from launcher.errors import LauncherError, RunError
from launcher.recipe.sections.common import Model
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.run.paths import FINISHED, NEVER_RESTART
from tests.support.training_runs import ASSETS, losses, make_run, train

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CPU = torch.device("cpu")
LLAMA = {"intermediate_size": 64, "num_key_value_heads": 2}
BERT = {"intermediate_size": 64, "max_position_embeddings": 64}
BART = {
    "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 64, "encoder_layers": 1,
    "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "max_position_embeddings": 64,
    "pad_token_id": 1, "decoder_start_token_id": 2,
}  # fmt: skip


def model_of(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"vocab_size": 64} if "d_model" in changes else SIZES
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | changes)))
    model.config.use_cache = False
    return model


@torch.no_grad()
def sees_what_comes_later(model: PreTrainedModel) -> bool:
    """Compare with the beginning of the text alone."""
    text = torch.arange(20, 30)[None]
    beginning, whole = (model.eval()(input_ids=ids).logits[:, :6] for ids in (text[:, :6], text))
    return not torch.allclose(beginning, whole, atol=1e-5)


def require_all(model: Any) -> None:
    require_causality(model, 64, CPU, torch.float32)
    require_next_token_loss(model, 64, CPU)


CAUSAL: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gemma2": LLAMA | {"head_dim": 16},
    "gpt2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "bloom": {},
    "phi": LLAMA,
    "mixtral": LLAMA | {"num_local_experts": 4, "output_router_logits": True},
    "bert": BERT | {"is_decoder": True},
}


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("kind", CAUSAL)
def test_causal_language_models_are_accepted_and_left_as_they_were(kind: str, is_fused: bool) -> None:
    model = model_of(kind, **CAUSAL[kind])
    assert not sees_what_comes_later(model)
    if is_fused:
        fuse_loss(model)
    model.train()
    before = torch.get_rng_state(), random.getstate()

    require_all(model)

    assert model.training
    assert (torch.get_rng_state().equal(before[0]), random.getstate()) == (True, before[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_so_they_are_in_16_bits(dtype: torch.dtype) -> None:
    model = model_of("llama", **LLAMA).to(dtype)
    fuse_loss(model)

    require_causality(model, 64, CPU, dtype)
    require_next_token_loss(model, 64, CPU)


def test_a_trained_prompt_before_the_text_is_no_reason_to_refuse() -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)

    require_all(get_peft_model(model_of("llama", **LLAMA), prompt))


@pytest.mark.filterwarnings("ignore")  # transformers, of encoders without `is_decoder`
@pytest.mark.parametrize(
    ("kind", "changes"),
    [("bert", BERT), ("roberta", BERT), ("electra", BERT), ("xlnet", {"d_model": 32, "n_layer": 2, "n_head": 2})],
)
def test_encoders_are_refused(kind: str, changes: dict[str, Any]) -> None:
    model = model_of(kind, **changes)
    assert sees_what_comes_later(model)

    with pytest.raises(RunError, match=r"model\.path: this is no causal .* with `kind: classify`, or name"):
        require_causality(model, 64, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus", "plbart"])
def test_decoders_whose_loss_teaches_to_copy_are_refused(kind: str) -> None:
    model = model_of(kind, **BART)
    assert not sees_what_comes_later(model)
    require_causality(model, 64, CPU, torch.float32)

    with pytest.raises(RunError, match=r"model\.path: the loss that this model computes is not that of the next tok"):
        require_next_token_loss(model, 64, CPU)


class OddLlama(LlamaForCausalLM):
    """Has another loss."""

    loss = "mean"

    def forward(self, *given: Any, labels: Any = None, num_items_in_batch: Any = None, **others: Any) -> Any:
        output = super().forward(*given, **others)
        if labels is not None:
            shift = 0 if self.loss == "unshifted" else 1
            logits, wanted = output.logits[0, : len(labels[0]) - shift], labels[0, shift:]
            total = functional.cross_entropy(logits.float(), wanted, reduction="sum")
            output.loss = 5.0 + total / (len(wanted) if self.loss == "mean" else num_items_in_batch)
        return output


@pytest.mark.parametrize("loss", ["mean", "unshifted"])
def test_each_of_both_faults_is_found_alone(loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OddLlama(AutoConfig.for_model("llama", **SIZES, **LLAMA))
    monkeypatch.setattr(OddLlama, "loss", "right, but for a term that no label changes")
    require_all(model)
    monkeypatch.setattr(OddLlama, "loss", loss)

    with pytest.raises(RunError, match="is not that of the next tokens"):
        require_next_token_loss(model, 64, CPU)


@pytest.mark.parametrize("count", [None, 11])
def test_our_own_loss_is_that_of_transformers(count: int | None) -> None:
    model = model_of("llama", **LLAMA)
    ids = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    labels = ids.masked_fill(ids % 3 == 0, -100)

    found = next_token_loss(model(input_ids=ids), labels, count)

    torch.testing.assert_close(found, model(input_ids=ids, labels=labels, num_items_in_batch=count).loss)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "roberta"
    AutoModelForCausalLM.from_config(AutoConfig.for_model("roberta", **(SIZES | BERT))).save_pretrained(folder)
    return folder


def test_an_encoder_is_refused_by_its_configuration_wherever_language_models_are_loaded(roberta: Path) -> None:
    section, adapters = EvaluatedModel(path="x"), [cast(AdapterFolder, None)]
    calls: list[Any] = [
        lambda: build_causal_lm(Model(path="x"), str(roberta), 1),
        lambda: build_causal_lm(Model(path="x", init="random"), str(roberta), 1),
        lambda: load_weights(section, roberta, [], CPU, 1),
        lambda: load_weights(section, roberta, adapters, CPU, 1),
    ]
    for call in calls:
        with pytest.raises(
            LauncherError, match=r"model\.path: `.*/roberta` is no causal language model but an encoder"
        ):
            call()


OWN_CODE = """
from transformers import LlamaForCausalLM

class OwnLlama(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, labels=None, use_cache=None):
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, labels=labels
        )
"""


@pytest.mark.slow
def test_a_model_that_cannot_be_told_the_tokens_of_a_step_is_trained_like_one_that_can(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(ASSETS / "stories260k", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["OwnLlama"], "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnLlama"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_own.py").write_text(OWN_CODE)
    changes: dict[str, Any] = {
        "data": {"packing": "pad"}, "schedule": {"length": "3 steps", "warmup": "1 steps"},
        "batch": {"global_batch": "4 sequences", "micro_batch": 1},
    }  # fmt: skip
    plain = make_run(tmp_path, **changes)
    own = make_run(tmp_path, **changes, model={"path": "./own", "trust_remote_code": True})

    for run in (plain, own):
        attempt = train(run)
        assert attempt.exit_codes == [FINISHED], attempt.log()

    assert losses(own) == pytest.approx(losses(plain), rel=1e-5)


@pytest.mark.slow
def test_no_step_is_trained_with_a_loss_that_teaches_to_copy(tmp_path: Path) -> None:
    folder = tmp_path / "bart"
    model_of("bart", **BART | {"vocab_size": 512}).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "stories260k" / name, folder)
    run = make_run(tmp_path, model={"path": "./bart"}, data={"packing": "pad"})

    attempt = train(run)

    assert attempt.exit_codes == [NEVER_RESTART], attempt.log()
    assert "model.path: the loss that this model computes is not that of the next tokens" in attempt.log()
    assert not run.metrics.exists()
