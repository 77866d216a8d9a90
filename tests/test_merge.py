"""kind: merge, from adapters as peft writes them to a published model."""

import json
import stat

import pytest
import torch
from peft import AdaLoraConfig, IA3Config, OFTConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from jobs.merge import main
from jobs.models.adapter_files import write_adapter
from jobs.models.adapter_state import gather_adapter
from jobs.models.adapters import adapted as with_adapter
from jobs.models.probe import Probe, compare
from jobs.runtime.stop import StopFlag
from launcher.errors import LauncherError
from launcher.ledger import read_attempts
from launcher.load import load_recipes
from launcher.paths import CONTINUE, FINISHED
from tests.merging import BASE, load, logits, lora, make_adapter, make_base, make_merge, merged_by, tensors
from tests.preparing import ASSETS, context_of, files_of

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class StopAtOnce(StopFlag):
    """A stop request that is there from the start."""

    def wanted(self, run, is_main):  # noqa: ARG002
        return True


def fp32(folder, *adapters, **changes):
    return make_merge(folder, *adapters, dtype="fp32", **changes)


def adapted(adapter, base=BASE):
    return PeftModel.from_pretrained(load(base), adapter).eval()


def update_of(adapter, layer, scale):
    """s B A, from the file, in float64."""
    saved = tensors(adapter)
    down, up = (saved[f"base_model.model.{layer}.lora_{part}.weight"].double() for part in "AB")
    return scale * up @ down


def write(adapter, weights):
    save_file(weights, adapter / "adapter_model.safetensors")


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


def test_new_tokens_without_embeddings_are_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens(["<drug>"])
    tokenizer.save_pretrained(adapter)

    with pytest.raises(LauncherError, match=r"513 tokens, and the merged model rows for 512.*save_embedding_layers"):
        main(fp32(tmp_path, "./adapter"), StopFlag())
    assert not (tmp_path / "models" / "merged").exists()


def test_rows_that_the_adapter_holds_for_a_part_only_are_refused(tmp_path):
    base = make_base(tmp_path, vocab_size=512)
    indices = {"embed_tokens": [515, 519]}
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj", trainable_token_indices=indices), base, rows=520)
    (base / "config.json").unlink()
    weights = {key: value for key, value in tensors(adapter).items() if "base_layer" not in key}
    write(adapter, weights)
    (base / "config.json").write_text((BASE / "config.json").read_text())

    with pytest.raises(LauncherError, match="does not hold all new rows of `embed_tokens`"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


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


def test_files_beside_the_weights_are_copied_as_they_are(tmp_path):
    base = make_base(tmp_path)
    (base / "generation_config.json").write_text('{"temperature": 0.6, "do_sample": false, "eos_token_id": 2}')
    (base / "chat_template.jinja").write_text("{{ messages[0]['content'] }}!")
    make_adapter(tmp_path / "adapter")

    merged = merged_by(fp32(tmp_path, "./adapter"))

    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for name in names | {"generation_config.json", "chat_template.jinja"}:
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    chat = [{"role": "user", "content": "Hello"}]
    assert AutoTokenizer.from_pretrained(merged).apply_chat_template(chat, tokenize=False) == "Hello!"


def test_others_may_read_all_files_of_an_open_model(tmp_path):
    make_adapter(tmp_path / "adapter")

    merged = merged_by(fp32(tmp_path, "./adapter"))

    expected = (merged / "config.json").stat().st_mode
    assert {path.name for path in merged.iterdir() if path.stat().st_mode != expected} == set()


@pytest.mark.slow
def test_the_tokenizer_of_the_last_adapter_that_has_one_wins_and_takes_the_template_of_the_base(tmp_path):
    base = make_base(tmp_path)
    (base / "chat_template.jinja").write_text("from the base")
    for name, mark in (("first", "</s>"), ("second", "<s>"), ("third", None)):
        make_adapter(tmp_path / name)
        if mark:
            tokenizer = AutoTokenizer.from_pretrained(BASE)
            tokenizer.pad_token = mark
            tokenizer.save_pretrained(tmp_path / name)

    merged = AutoTokenizer.from_pretrained(merged_by(fp32(tmp_path, "./first", "./second", "./third")))

    assert merged.pad_token == "<s>"
    assert merged.chat_template == "from the base"


def test_the_manifest_names_what_the_model_is_made_of(tmp_path):
    make_adapter(tmp_path / "first")
    make_adapter(tmp_path / "second")
    (tmp_path / "first" / "manifest.json").write_text('{"corpora": ["medline"], "data_use": "open"}')

    merged = merged_by(fp32(tmp_path, "./first", {"path": "./second", "only": "attention"}))

    manifest = json.loads((merged / "manifest.json").read_text())
    assert [(one["path"], one["only"]) for one in manifest["adapters"]] == [
        ("./first", "all"),
        ("./second", "attention"),
    ]
    first, second = (one["files"]["adapter_model.safetensors"] for one in manifest["adapters"])
    assert len(first) == len(second) == 64
    assert first != second
    assert "model.safetensors" in manifest["base"]["files"]
    assert (manifest["base_model"], manifest["corpora"], manifest["data_use"]) == ("stories260k", ["medline"], "open")
    assert 0 < manifest["adapters"][0]["difference"]["largest"] < 1e-4


@pytest.mark.parametrize("where", ["models/stories260k", "adapter"])
def test_what_was_made_of_credentialed_data_stays_credentialed(tmp_path, where):
    make_base(tmp_path)
    make_adapter(tmp_path / "adapter")
    (tmp_path / where / "manifest.json").write_text('{"data_use": "credentialed", "corpora": ["mimic-iv"]}')

    with pytest.raises(LauncherError, match=r"data_use: .* write `credentialed`"):
        main(fp32(tmp_path, "./adapter"), StopFlag())
    merged = merged_by(fp32(tmp_path, "./adapter", data_use="credentialed"))

    manifest = json.loads((merged / "manifest.json").read_text())
    assert (manifest["data_use"], manifest["corpora"]) == ("credentialed", ["mimic-iv"])
    assert stat.S_IMODE(merged.stat().st_mode) == 0o700


@pytest.mark.slow
def test_one_of_several_adapters_of_a_credentialed_export_is_credentialed(tmp_path):
    make_adapter(tmp_path / "export" / "clinical")
    (tmp_path / "export" / "manifest.json").write_text('{"data_use": "credentialed"}')

    with pytest.raises(LauncherError, match="credentialed"):
        main(fp32(tmp_path, "./export/clinical"), StopFlag())


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "prefix tuning"),
        (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "prompt tuning"),
        (lora("q_proj", alora_invocation_tokens=[5]), "activated LoRA"),
    ],
    ids=["prefix", "prompt", "alora"],
)
def test_methods_without_a_merged_form_are_refused_by_name(tmp_path, config, name):
    make_adapter(tmp_path / "adapter", config)

    with pytest.raises(LauncherError, match=f"adapters.0.path: `adapter` is {name}, which .* cannot be merged"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


def test_an_adapter_of_another_base_is_refused_unless_the_recipe_knows_its_name(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/llama-4bit"}))

    with pytest.raises(LauncherError, match=r"trained on `org/llama-4bit`.*`trained_on: org/llama-4bit`"):
        main(fp32(tmp_path, "./adapter"), StopFlag())
    merged_by(fp32(tmp_path, {"path": "./adapter", "trained_on": "org/llama-4bit"}))


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    base = make_base(tmp_path)
    model = load(base)
    wider = type(model)(type(model.config)(**model.config.to_dict() | {"intermediate_size": 200}))
    wider.save_pretrained(tmp_path / "wider" / "stories260k")
    make_adapter(tmp_path / "adapter", base=tmp_path / "wider" / "stories260k")

    with pytest.raises(LauncherError, match=r"(?s)adapter `adapter` does not fit the base model: .*size mismatch"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


def test_an_adapter_of_more_layers_is_refused(tmp_path):
    make_base(tmp_path)
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj"))
    weights = tensors(adapter)
    extra = {key.replace("layers.0", "layers.5"): value.clone() for key, value in weights.items() if "layers.0" in key}
    write(adapter, weights | extra)

    with pytest.raises(LauncherError, match=r"has a place for no .*layers\.5.* \(2 in all\)"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


def test_an_adapter_with_missing_tensors_is_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj"))
    write(adapter, {key: value for key, value in tensors(adapter).items() if "layers.3" not in key})

    with pytest.raises(LauncherError, match=r"adapter `adapter` has no .*layers\.3.* \(2 in all\)"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


def test_a_difference_above_the_tolerance_is_an_error_and_nothing_is_published(tmp_path):
    make_adapter(tmp_path / "adapter")

    with pytest.raises(LauncherError, match=r"differ by .* in a logit; write at least that as `tolerance`"):
        main(fp32(tmp_path, "./adapter", tolerance=1e-9), StopFlag())
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k"}


@pytest.mark.slow
def test_numbers_that_do_not_fit_the_format_are_an_error(tmp_path):
    base = make_base(tmp_path)
    model = load(base)
    with torch.no_grad():  # harmless in fp32: the norm before the projection divides by it again
        model.model.layers[0].self_attn.v_proj.weight.mul_(1e7)
        model.model.layers[0].self_attn.o_proj.weight.mul_(1e-7)
    model.save_pretrained(base)
    make_adapter(tmp_path / "adapter", lora("up_proj"), base)

    with pytest.raises(LauncherError, match=r"rounded to torch.float16, the merged model differs by inf"):
        main(make_merge(tmp_path, "./adapter", dtype="fp16"), StopFlag())
    assert not (tmp_path / "models" / "merged").exists()


def test_a_pickle_is_never_read(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    with pytest.raises(LauncherError, match=r"has no adapter_model.safetensors"):
        main(fp32(tmp_path, "./adapter"), StopFlag())


def test_a_merge_that_is_done_is_not_done_again(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")
    folder = merged_by(context)
    before = files_of(folder), folder.stat().st_ino

    assert main(context, StopAtOnce()) == FINISHED

    assert (files_of(folder), folder.stat().st_ino) == before
    (attempt,) = read_attempts(context.run.ledger)
    assert (attempt.first_step, attempt.last_step, attempt.total_steps, attempt.reason) == (0, 1, 1, "finished")


def test_a_name_that_is_taken_by_something_else_is_refused(tmp_path):
    make_adapter(tmp_path / "adapter")
    folder = merged_by(fp32(tmp_path, "./adapter"))
    before = files_of(folder)

    with pytest.raises(LauncherError, match="holds something else than this merge would make"):
        main(make_merge(tmp_path, "./adapter", dtype="bf16"), StopFlag())
    assert files_of(folder) == before


def test_a_stop_leaves_nothing_and_the_next_attempt_starts_again(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")

    assert main(context, StopAtOnce()) == CONTINUE
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k"}
    assert main(context, StopFlag()) == FINISHED


@pytest.mark.slow
def test_what_a_killed_attempt_left_is_replaced(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter")
    (tmp_path / "models" / ".merged.abc123").mkdir()
    (tmp_path / "models" / ".merged.abc123" / "model-00001-of-00009.safetensors").write_bytes(b"half")

    folder = merged_by(context)

    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k", "merged"}
    assert not (folder / "model-00001-of-00009.safetensors").exists()


@pytest.mark.slow
def test_without_a_name_the_model_is_an_output_of_the_run(tmp_path):
    make_adapter(tmp_path / "adapter")
    context = fp32(tmp_path, "./adapter", output=None)

    assert main(context, StopFlag()) == FINISHED

    assert load(context.run.outputs / "model").config.vocab_size == 512


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

    assert main(context_of(tmp_path, loaded.recipe, tmp_path / "models"), StopFlag()) == FINISHED

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
