"""kind: merge, and adapters that do not fit their base or cannot be merged."""

import json
from functools import partial

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig
from safetensors.torch import save_file
from transformers import AutoTokenizer

from jobs.kinds.export import main as export_main
from jobs.kinds.merge import main
from launcher.errors import LauncherError
from tests.support.export_runs import make_export
from tests.support.merge_runs import (
    BASE,
    fp32,
    load,
    lora,
    make_adapter,
    make_base,
    make_merge,
    merged_by,
    tensors,
)

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
]


def write(adapter, weights):
    save_file(weights, adapter / "adapter_model.safetensors")


def test_new_tokens_without_embeddings_are_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_tokens(["<drug>"])
    tokenizer.save_pretrained(adapter)

    with pytest.raises(LauncherError, match=r"513 tokens, .* 512 embedding rows.*save_embedding_layers"):
        main(fp32(tmp_path, "./adapter"))
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k"}


def test_rows_that_the_adapter_holds_for_a_part_only_are_refused(tmp_path):
    base = make_base(tmp_path, vocab_size=512)
    indices = {"embed_tokens": [515, 519]}
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj", trainable_token_indices=indices), base, rows=520)
    (base / "config.json").unlink()
    weights = {key: value for key, value in tensors(adapter).items() if "base_layer" not in key}
    write(adapter, weights)
    (base / "config.json").write_text((BASE / "config.json").read_text())

    with pytest.raises(LauncherError, match="does not hold all new rows of `embed_tokens`"):
        main(fp32(tmp_path, "./adapter"))


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
        main(fp32(tmp_path, "./adapter"))


def test_an_adapter_of_another_base_is_refused_unless_the_recipe_knows_its_name(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "org/llama-4bit"}))

    with pytest.raises(LauncherError, match=r"trained on `org/llama-4bit`.*`trained_on: org/llama-4bit`"):
        main(fp32(tmp_path, "./adapter"))
    merged_by(fp32(tmp_path, {"path": "./adapter", "trained_on": "org/llama-4bit"}))


def test_an_adapter_of_another_shape_is_refused(tmp_path):
    base = make_base(tmp_path)
    model = load(base)
    wider = type(model)(type(model.config)(**model.config.to_dict() | {"intermediate_size": 200}))
    wider.save_pretrained(tmp_path / "wider" / "stories260k")
    make_adapter(tmp_path / "adapter", base=tmp_path / "wider" / "stories260k")

    with pytest.raises(LauncherError, match=r"(?s)adapter `adapter` does not fit the base model: .*size mismatch"):
        main(fp32(tmp_path, "./adapter"))


def test_an_adapter_of_more_layers_is_refused(tmp_path):
    make_base(tmp_path)
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj"))
    weights = tensors(adapter)
    extra = {key.replace("layers.0", "layers.5"): value.clone() for key, value in weights.items() if "layers.0" in key}
    write(adapter, weights | extra)

    with pytest.raises(LauncherError, match=r"has a place for no .*layers\.5.* \(2 in all\)"):
        main(fp32(tmp_path, "./adapter"))


def test_an_adapter_with_missing_tensors_is_refused(tmp_path):
    adapter = make_adapter(tmp_path / "adapter", lora("q_proj"))
    write(adapter, {key: value for key, value in tensors(adapter).items() if "layers.3" not in key})

    with pytest.raises(LauncherError, match=r"adapter `adapter` has no .*layers\.3.* \(2 in all\)"):
        main(fp32(tmp_path, "./adapter"))


def test_a_difference_above_the_tolerance_is_an_error_and_nothing_is_published(tmp_path):
    make_adapter(tmp_path / "adapter")

    with pytest.raises(LauncherError, match=r"differ by .* in a logit; .*`tolerance`"):
        main(fp32(tmp_path, "./adapter", tolerance=1e-9))
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
        main(make_merge(tmp_path, "./adapter", dtype="fp16"))
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"stories260k"}


def test_a_pickle_is_never_read(tmp_path):
    adapter = make_adapter(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")

    with pytest.raises(LauncherError, match=r"has no adapter_model.safetensors"):
        main(fp32(tmp_path, "./adapter"))


def test_no_tolerance_is_proposed_for_a_base_that_is_not_of_numbers(tmp_path):
    base = make_base(tmp_path)
    model = load(base)
    with torch.no_grad():  # where no adapter is, so that peft finds no fault with what it merges
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(base)
    make_adapter(tmp_path / "adapter", lora("q_proj"), base)

    merge = fp32(tmp_path, "./adapter")
    export = make_export(tmp_path, model={"path": "stories260k", "adapters": [{"path": "./adapter"}]})
    for carry_out, key in ((partial(main, merge), "adapter"), (partial(export_main, export), "model.adapters")):
        with pytest.raises(LauncherError, match=rf"^{key}.*`adapter`.* logits that are not numbers") as refused:
            carry_out()
        assert "tolerance" not in str(refused.value)
