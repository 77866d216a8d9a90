"""kind: merge, from adapters as peft writes them to a published model."""

import json

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, OFTConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from jobs.kinds.merge import main
from jobs.models.adapters.build import adapted as with_adapter
from jobs.models.adapters.save import write_adapter
from jobs.models.merge.logit_check import Probe, compare
from jobs.train.adapter_checkpoint import gather_adapter
from launcher.load import load_recipes
from tests.support.merge_runs import (
    BASE,
    fp32,
    load,
    logits,
    lora,
    make_adapter,
    make_base,
    make_merge,
    merged_by,
    tensors,
)
from tests.support.prepare_runs import ASSETS, context_of

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]


ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def adapted(adapter, base=BASE):
    return PeftModel.from_pretrained(load(base), adapter).eval()


def update_of(adapter, layer, scale):
    """s B A, from the file, in float64."""
    saved = tensors(adapter)
    down, up = (saved[f"base_model.model.{layer}.lora_{part}.weight"].double() for part in "AB")
    return scale * up @ down


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lora(), id="lora"),
        pytest.param(lora(use_rslora=True), id="rslora"),
        pytest.param(lora(use_dora=True), id="dora"),
        pytest.param(lora("q_proj", "v_proj", init_lora_weights="pissa"), id="pissa", marks=pytest.mark.slow),
        pytest.param(lora("q_proj", bias="all"), id="bias", marks=pytest.mark.slow),
        pytest.param(
            lora("q_proj", "v_proj", rank_pattern={"layers.0.self_attn.q_proj": 2}, alpha_pattern={"v_proj": 3}),
            id="patterns",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            AdaLoraConfig(task_type="CAUSAL_LM", init_r=4, target_r=2, total_step=10, target_modules=["q_proj"]),
            id="adalora",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
            id="ia3",
        ),
        pytest.param(OFTConfig(task_type="CAUSAL_LM", oft_block_size=8, target_modules=["q_proj"]), id="oft"),
    ],
)
def test_the_merged_model_loads_in_plain_transformers_and_says_what_the_adapted_one_says(tmp_path, config):
    adapter = make_adapter(tmp_path / "adapter", config)

    merged = merged_by(fp32(tmp_path, "./adapter"))

    expected = logits(adapted(adapter))
    assert (logits(load(merged)) - expected).abs().max() < 1e-4
    assert (logits(load(BASE)) - expected).abs().max() > 0.01


def test_several_adapters_are_added_in_order_as_the_formula_says(tmp_path):
    first = make_adapter(tmp_path / "first", lora(r=4, lora_alpha=8))
    second = make_adapter(tmp_path / "second", lora(*ATTENTION, r=16, lora_alpha=4, use_rslora=True))

    merged = tensors(merged_by(fp32(tmp_path, "./first", "./second")))

    base = tensors(BASE)
    linear = [name for name in base if name.endswith("_proj.weight")]
    assert len(linear) == 5 * 7
    for name in linear:
        layer = name.removesuffix(".weight")
        expected = base[name].double() + update_of(first, layer, 8 / 4)
        if layer.endswith(ATTENTION):
            expected += update_of(second, layer, 4 / 16**0.5)
        assert (merged[name].double() - expected).abs().max() < 1e-6
    assert all(torch.equal(merged[name], base[name]) for name in base if name not in linear)


@pytest.mark.slow
def test_the_order_counts_where_it_makes_a_difference(tmp_path):
    for name in ("first", "second"):
        make_adapter(tmp_path / name, lora(use_dora=True))

    one = merged_by(fp32(tmp_path, "./first", "./second", output="one"))
    other = merged_by(fp32(tmp_path, "./second", "./first", output="other"))

    assert (logits(load(one)) - logits(load(other))).abs().max() > 1e-2


@pytest.mark.parametrize("config", [lora(), lora(use_dora=True)], ids=["lora", "dora"])
def test_attention_only_changes_the_projections_of_attention_and_nothing_else(tmp_path, config):
    make_adapter(tmp_path / "adapter", config)

    whole = tensors(merged_by(fp32(tmp_path, "./adapter", output="whole")))
    taia = tensors(merged_by(fp32(tmp_path, {"path": "./adapter", "only": "attention"}, output="taia")))

    base = tensors(BASE)
    changed = {name for name in base if not torch.equal(taia[name], base[name])}
    assert changed == {f"model.layers.{layer}.self_attn.{name}.weight" for layer in range(5) for name in ATTENTION}
    assert all(torch.equal(taia[name], whole[name]) for name in changed)
    assert taia.keys() == whole.keys() == base.keys()


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]), id="both embeddings"),
        pytest.param(
            lora("q_proj", modules_to_save=["embed_tokens"], ensure_weight_tying=True),
            id="tied embeddings",
            marks=pytest.mark.slow,
        ),
        pytest.param(lora("q_proj", trainable_token_indices={"embed_tokens": list(range(512, 520))}), id="new rows"),
        pytest.param(lora("q_proj"), id="saved by peft", marks=pytest.mark.slow),
    ],
)
def test_an_expanded_vocabulary_comes_with_the_adapter(tmp_path, config):
    adapter = make_adapter(tmp_path / "adapter", config, rows=520)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens([f"<drug-{number}>" for number in range(8)])
    tokenizer.save_pretrained(adapter)
    base = load(BASE)
    base.resize_token_embeddings(520, mean_resizing=False)
    expected = logits(PeftModel.from_pretrained(base, adapter).eval(), 513, 519)

    merged = merged_by(fp32(tmp_path, "./adapter"))

    assert (logits(load(merged), 513, 519) - expected).abs().max() < 1e-4
    assert json.loads((merged / "config.json").read_text())["vocab_size"] == 520
    assert AutoTokenizer.from_pretrained(merged)("<drug-3>")["input_ids"][-1] == 515


@pytest.mark.slow
def test_new_rows_alone_are_enough(tmp_path):
    base = make_base(tmp_path, tie_word_embeddings=False)
    untied = load(BASE)
    untied.config.tie_word_embeddings = False
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach() * 1.5)
    untied.save_pretrained(base)
    rows = list(range(512, 520))
    config = lora("q_proj", trainable_token_indices={"embed_tokens": rows, "lm_head": rows})
    adapter = make_adapter(tmp_path / "adapter", config, base, rows=520, save_embedding_layers=False)
    assert sum("embed_tokens" in key for key in tensors(adapter)) == 1

    merged = merged_by(fp32(tmp_path, "./adapter"))

    model = load(base)
    model.resize_token_embeddings(520, mean_resizing=False)
    expected = logits(PeftModel.from_pretrained(model, adapter).eval(), 513, 519)
    assert (logits(load(merged), 513, 519) - expected).abs().max() < 1e-4
    assert json.loads((merged / "config.json").read_text())["vocab_size"] == 520


@pytest.mark.slow
def test_attention_only_leaves_new_tokens_behind(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj", modules_to_save=["embed_tokens", "lm_head"]), rows=520)
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens([f"<drug-{number}>" for number in range(8)])
    tokenizer.save_pretrained(adapter)

    merged = merged_by(fp32(tmp_path, {"path": "./adapter", "only": "attention"}))

    assert len(AutoTokenizer.from_pretrained(merged)) == load(merged).config.vocab_size == 512


@pytest.mark.parametrize("targets", [("q_proj", "lm_head"), ("q_proj", "embed_tokens")])
def test_an_adapter_on_one_of_two_tied_embeddings_unties_them(tmp_path, targets):
    adapter = make_adapter(tmp_path / "adapter", lora(*targets))

    merged = merged_by(fp32(tmp_path, "./adapter"))

    assert (logits(load(merged)) - logits(adapted(adapter))).abs().max() < 1e-4
    assert not load(merged).config.tie_word_embeddings


@pytest.mark.parametrize(("dtype", "stored"), [("published", "float32"), ("bf16", "bfloat16")])
def test_the_result_has_the_number_format_that_is_asked_for(tmp_path, dtype, stored):
    make_adapter(tmp_path / "adapter")

    merged = merged_by(make_merge(tmp_path, "./adapter", dtype=dtype))

    assert {str(tensor.dtype) for tensor in tensors(merged).values()} == {f"torch.{stored}"}
    assert json.loads((merged / "config.json").read_text())["dtype"] == stored


def test_rounding_happens_once_and_is_measured(tmp_path):
    for name in ("first", "second"):
        make_adapter(tmp_path / name)

    exact = tensors(merged_by(fp32(tmp_path, "./first", "./second", output="exact")))
    folder = merged_by(make_merge(tmp_path, "./first", "./second", dtype="bf16"))

    assert all(torch.equal(tensor, exact[name].bfloat16()) for name, tensor in tensors(folder).items())
    written = json.loads((folder / "manifest.json").read_text())["written"]
    assert 1e-3 < written["largest"] < 16 / 128 * written["largest_logit"]
    assert written["same_choice"] > 0.9


@pytest.mark.slow
def test_a_base_with_untied_embeddings_and_a_published_format_keeps_both(tmp_path):
    base = make_base(tmp_path)
    model = load(base)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.5)
    model.to(torch.bfloat16).save_pretrained(base)
    adapter = make_adapter(tmp_path / "adapter", base=base)

    merged = merged_by(make_merge(tmp_path, "./adapter"))

    assert {tensor.dtype for tensor in tensors(merged).values()} == {torch.bfloat16}
    assert (logits(load(merged)) - logits(adapted(adapter, base))).abs().max() < 0.5
    assert compare([logits(load(merged))], [logits(adapted(adapter, base))]).same_choice > 0.8


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


@pytest.mark.slow
def test_an_adapter_of_a_quantised_base_is_merged_into_the_full_one(tmp_path):
    pytest.importorskip("bitsandbytes")
    quantised = AutoModelForCausalLM.from_pretrained(BASE, quantization_config=BitsAndBytesConfig(**NF4))
    adapter = tmp_path / "adapter"
    get_peft_model(quantised, lora("q_proj", init_lora_weights=False)).save_pretrained(adapter)

    merged = merged_by(fp32(tmp_path, "./adapter"))

    name = "model.layers.2.self_attn.q_proj"
    expected = tensors(BASE)[f"{name}.weight"].double() + update_of(adapter, name, 2)
    assert (tensors(merged)[f"{name}.weight"].double() - expected).abs().max() < 1e-6
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())


@pytest.mark.slow
def test_a_base_that_is_there_quantised_only_is_brought_to_full_precision(tmp_path):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    base = make_base(tmp_path)
    AutoModelForCausalLM.from_pretrained(base, quantization_config=BitsAndBytesConfig(**NF4)).save_pretrained(base)
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj"))

    merged = merged_by(fp32(tmp_path, "./adapter"))

    name = "model.layers.2.self_attn.q_proj"
    weight = AutoModelForCausalLM.from_pretrained(base).get_submodule(name).weight
    full = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    expected = full.double() + update_of(adapter, name, 2)
    assert (tensors(merged)[f"{name}.weight"].double() - expected).abs().max() < 1e-6
    assert (expected - tensors(BASE)[f"{name}.weight"] - update_of(adapter, name, 2)).abs().max() > 1e-3
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())


def test_the_rehearsal_of_medcare_keeps_attention_and_throws_the_rest_away(tmp_path):
    (tmp_path / "assets").symlink_to(ASSETS)
    make_stage1(tmp_path / "models" / "medcare-stage1-rehearsal")
    (loaded,) = load_recipes(ASSETS.parent / "medcare_merge.yaml", rehearse=True)

    main(context_of(tmp_path, loaded.recipe, tmp_path / "models"))

    merged, base = tensors(tmp_path / "models" / "medcare-taia-rehearsal"), tensors(BASE)
    changed = {name.rpartition(".layers.")[2][2:] for name in base if not torch.equal(merged[name], base[name])}
    assert changed == {f"self_attn.{name}.weight" for name in ATTENTION}


def make_stage1(folder):
    """What the rehearsal before it leaves, but with factors that are not zero."""
    (loaded,) = load_recipes(ASSETS.parent / "medcare_stage1.yaml", rehearse=True)
    model = with_adapter(load(BASE), loaded.recipe.adapter, 1, "CAUSAL_LM", 1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.05)
    write_adapter(model, gather_adapter(model), loaded.recipe.model.path, folder)


def test_the_probe_holds_no_more_than_the_model_knows():
    probe = Probe(AutoTokenizer.from_pretrained(BASE))
    probe.add(range(512, 600))

    found = probe.logits(load(BASE))

    assert len(found) == len(probe.sequences) - 1
    assert compare(found, found).largest == 0
    assert compare(found, [tensor + float("nan") for tensor in found]).largest == float("inf")
