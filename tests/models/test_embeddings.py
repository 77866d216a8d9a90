"""New tokens: rows that start as means, embeddings beside LoRA, and what becomes of them in exports and merges."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from jobs.data.vocabulary.building import expand, save
from jobs.kinds.vocabulary import identity_of
from jobs.models.adapters.build import adapted, declared_trainable
from jobs.models.embeddings import add_rows, new_tokens
from jobs.models.tokenizer import load_encoder
from launcher.artifacts.tokenizer_manifest import EXPANSION, Expansion, Fertility, Measurement, read_expansion
from launcher.errors import LauncherError
from launcher.plan.adapters import trainable_parameters
from launcher.plan.model_shape import NEW_TOKENS, read_shape
from launcher.recipe import CptRecipe
from launcher.recipe.sections.adapter import Lora
from launcher.run.paths import FINISHED, RunDir
from tests.support.corpora import make_corpus
from tests.support.expandable_tokenizers import learned
from tests.support.merge_runs import make_merge, merged_by
from tests.support.prepare_runs import abstracts
from tests.support.recipe_files import faults
from tests.support.training_runs import ASSETS, context_of, cpt_recipe, losses, make_run_of, preempted_once, train

BASE = ASSETS / "stories260k"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expanded tokenizer, and a corpus of abstracts that was made with it."""
    folder = tmp_path_factory.mktemp("new")
    expand_tokenizer(folder / "expanded")
    encoder = load_encoder(str(folder / "expanded"), "expanded")
    make_corpus(folder / "corpora" / "abstracts", [encoder.encode(abstracts()[:60])])
    return folder


def expand_tokenizer(folder: Path) -> None:
    """What `kind: vocabulary` leaves, of few abstracts."""
    expanded = learned(BASE, abstracts()[:200], new_tokens=60)
    base = AutoTokenizer.from_pretrained(BASE)
    folder.mkdir()
    save(base, expand(base.backend_tokenizer, expanded.tokens), folder)
    said = Fertility(tokens=1, tokens_per_word=1.0, characters_per_token=1.0)
    expansion = Expansion(
        tokenizer="expanded",
        data_use="open",
        recipe_fingerprint="0",
        code="0",
        base=identity_of(load_encoder(str(BASE), "base")),
        expanded=identity_of(load_encoder(str(folder), "expanded")),
        parts=tuple(token.parts for token in expanded.tokens),
        min_documents=3,
        measurement=Measurement(documents=1, words=1, characters=1, base=said, expanded=said, new_share=0.1),
        sources=(),
    )
    (folder / EXPANSION).write_text(expansion.model_dump_json())


def recipe_of(adapter: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    sections: dict[str, Any] = {
        "model": {"path": "stories260k", "tokenizer": "./expanded"},
        "data": {"corpora": [{"name": "abstracts"}]},
        "adapter": adapter,
        "batch": {"micro_batch": 1, "sequence_length": 64},
        "schedule": {"length": "10 steps", "warmup": "2 steps"},
        "optim": {"lr": 5e-3},
    }
    return cpt_recipe(**sections | changes)


def lora(embeddings: str) -> dict[str, Any]:
    return {"method": "lora", "r": 4, "targets": ["q_proj", "v_proj"], "embeddings": embeddings}


@pytest.mark.parametrize("is_tied", [True, False])
def test_rows_of_new_tokens_are_means_and_the_old_ones_stay(folder: Path, is_tied: bool) -> None:
    model, expansion = base_model(is_tied), read_expansion(folder / "expanded")
    ends = [layer.weight.detach().clone() for layer in (model.get_input_embeddings(), model.get_output_embeddings())]

    add_rows(model, expansion)

    for layer, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), ends, strict=True):
        assert layer.weight.shape == (572, 64)
        assert torch.equal(layer.weight[:512], before)
        parts = [*expansion.parts[7]]
        torch.testing.assert_close(layer.weight[512 + 7], before[parts].mean(0))
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == is_tied


def test_biases_of_new_tokens_are_means_and_the_old_ones_stay(folder: Path) -> None:
    sizes = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("phi", **sizes, num_attention_heads=2))
    expansion, head = read_expansion(folder / "expanded"), model.get_output_embeddings()
    torch.nn.init.normal_(head.bias)
    before = head.bias.detach().clone()

    add_rows(model, expansion)

    biases = model.get_output_embeddings().bias
    assert torch.equal(biases[:512], before)
    expected = torch.stack([before[[*parts]].mean() for parts in expansion.parts])
    torch.testing.assert_close(biases[512:572], expected)


def base_model(is_tied: bool) -> PreTrainedModel:
    if is_tied:
        return AutoModelForCausalLM.from_pretrained(BASE)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BASE, tie_word_embeddings=False))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("embeddings", ["new", "all"])
def test_beside_lora_only_those_rows_are_trained_that_should_be(folder: Path, is_tied: bool, embeddings: str) -> None:
    model, expansion = base_model(is_tied), read_expansion(folder / "expanded")
    add_rows(model, expansion)
    section = Lora.model_validate(lora(embeddings) | {"targets": ("q_proj",)})

    ours = adapted(model, section, 1, "CAUSAL_LM", 10, expansion)

    trained = [name for name, parameter in ours.named_parameters() if parameter.requires_grad]
    assert {*trained} == declared_trainable(ours)
    sizes = {parameter.shape for name, parameter in ours.named_parameters() if parameter.requires_grad}
    assert ((60, 64) if embeddings == "new" else (572, 64)) in sizes
    assert sum("lora_" not in name for name in trained) == (1 if is_tied else 2)
    config = json.loads((BASE / "config.json").read_text()) | {"tie_word_embeddings": is_tied}
    shape = read_shape(config | {"vocab_size": 572, NEW_TOKENS: 60})
    assert shape is not None
    assert trainable_parameters(section, shape) == ours.get_nb_trainable_parameters()[0]


@pytest.mark.slow
@pytest.mark.parametrize("embeddings", ["new", "all"])
def test_new_tokens_are_learned_over_interruptions_exported_and_merged(folder: Path, embeddings: str) -> None:
    recipe = recipe_of(lora(embeddings))
    uninterrupted, run = make_run_of(recipe, folder), make_run_of(recipe, folder)
    assert train(uninterrupted, 2).exit_codes == [FINISHED] * 2

    preempted_once(run, 2)

    assert losses(run) == losses(uninterrupted)
    assert losses(run)[10] < losses(run)[1] - 0.3
    require_mergeable(run, folder)


def require_mergeable(run: RunDir, folder: Path) -> None:
    """The export says in plain peft what the merged model says in plain transformers."""
    export = run.outputs / "model"
    assert len(AutoTokenizer.from_pretrained(export)) == 572
    work = folder / f"merge-{run.root.name}"
    shutil.copytree(export, work / "adapter")
    context = make_merge(work, "./adapter")
    merged = AutoModelForCausalLM.from_pretrained(merged_by(context))
    plain = AutoModelForCausalLM.from_pretrained(BASE)
    plain.resize_token_embeddings(572, mean_resizing=False)
    beside = PeftModel.from_pretrained(plain, export).eval()
    ids = torch.arange(500, 572)[None]

    torch.testing.assert_close(merged(input_ids=ids).logits, beside(input_ids=ids).logits, atol=1e-3, rtol=1e-4)
    assert merged.config.vocab_size == 572


@pytest.mark.slow
def test_all_weights_are_trained_with_new_tokens_and_exported(folder: Path) -> None:
    run = make_run_of(recipe_of(None), folder)

    assert train(run).exit_codes == [FINISHED]

    export = run.outputs / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(export), AutoTokenizer.from_pretrained(export)
    assert model.config.vocab_size == len(tokenizer) == 572
    assert load_file(export / "model.safetensors")["model.embed_tokens.weight"].shape == (572, 64)


def test_a_tokenizer_that_adds_to_another_models_is_refused(folder: Path) -> None:
    expansion = json.loads((folder / "expanded" / EXPANSION).read_text())
    strange = folder / "strange"
    shutil.copytree(folder / "expanded", strange)
    (strange / EXPANSION).write_text(json.dumps(expansion | {"base": expansion["base"] | {"fingerprint": "1"}}))
    run = make_run_of(recipe_of(None, model={"tokenizer": "./strange"}), folder)
    recipe = CptRecipe.model_validate_json(run.recipe.read_bytes())

    with pytest.raises(LauncherError, match="extends the tokenizer of `base`, but `stories260k`"):
        new_tokens(context_of(run), recipe)


def test_a_tokenizer_of_credentialed_text_needs_a_credentialed_recipe(folder: Path) -> None:
    expansion = json.loads((folder / "expanded" / EXPANSION).read_text())
    bound = folder / "bound"
    shutil.copytree(folder / "expanded", bound)
    (bound / EXPANSION).write_text(json.dumps(expansion | {"data_use": "credentialed"}))
    run = make_run_of(recipe_of(None, model={"tokenizer": "./bound"}), folder)

    with pytest.raises(LauncherError, match=r"`./bound` was made of credentialed text; write `data_use: credentialed`"):
        new_tokens(context_of(run), CptRecipe.model_validate_json(run.recipe.read_bytes()))


@pytest.mark.parametrize(
    ("model", "adapter", "message"),
    [
        ({"path": "a/b"}, lora("new"), "adapter.embeddings: `model.tokenizer` adds no tokens"),
        (
            {"path": "a/b", "tokenizer": "t"},
            lora("frozen"),
            "adapter.embeddings: the tokens that `model.tokenizer` adds",
        ),
        ({"path": "a/b", "tokenizer": "t"}, {"method": "ia3"}, "adapter.embeddings: the tokens that"),
        ({"path": "a/b", "tokenizer": "/t"}, None, "model.tokenizer: `/t` is a path that only one site has"),
    ],
)
def test_recipes_that_would_leave_new_tokens_untrained_are_refused(
    tmp_path: Path, model: dict[str, Any], adapter: dict[str, Any] | None, message: str
) -> None:
    text = json.dumps(cpt_recipe(adapter=adapter) | {"model": model})

    assert message in "\n".join(faults(tmp_path, text))


def test_embeddings_beside_lora_are_refused_where_they_were_not_tried(tmp_path: Path) -> None:
    text = json.dumps(cpt_recipe(adapter=lora("all"), parallel={"strategy": "full_shard"}, model={"path": "a/b"}))

    assert "parallel.strategy: `adapter.embeddings: all` is supported with `ddp` only" in faults(tmp_path, text)[0]
