"""From the recipe's `model` section to a model, and from samples to what it reads."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from jobs.data.sampling.corpus_reader import CorpusReader
from jobs.data.sampling.dataset import flattening_collator, packed_collator
from jobs.models.build import build_causal_lm, check_fits, check_positions
from jobs.models.classifier import build_classifier
from launcher.artifacts.positions import max_positions
from launcher.errors import LauncherError
from launcher.recipe.sections.common import Batch, Model
from tests.support.corpora import make_corpus, packed_samples
from tests.support.training_runs import ASSETS, words

STORIES = str(ASSETS / "stories260k")


def model_of(**fields: object) -> LlamaForCausalLM:
    return build_causal_lm(Model.model_validate({"path": "stories260k"} | fields), STORIES, seed=1)


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusReader:
    return make_corpus(tmp_path / "words", [words(50)])


def batch_of(**fields: object) -> Batch:
    return Batch.model_validate({"global_batch": "8 sequences"} | fields)


def test_parameters_are_fp32_and_nothing_is_cached() -> None:
    model = model_of()

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.use_cache is False
    assert model.config.pad_token_id is None


def test_random_weights_are_the_same_on_every_rank_and_not_the_published_ones() -> None:
    first, second = model_of(init="random"), model_of(init="random")

    weights = [model.model.layers[0].mlp.up_proj.weight for model in (first, second, model_of())]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_quantised_weights_stay_as_they_are_when_the_model_is_evaluated() -> None:
    model = model_of(quantization={})
    before = [parameter.detach().clone().view(torch.uint8) for parameter in model.parameters()]

    with torch.no_grad():
        model.eval()(torch.ones(1, 4, dtype=torch.long))

    after = [parameter.detach().view(torch.uint8) for parameter in model.parameters()]
    assert all(map(torch.equal, before, after))


def without(folder: Path, kept: Callable[[str], bool]) -> str:
    """A folder whose model has lost tensors."""
    tensors = load_file(folder / "model.safetensors")
    assert not all(map(kept, tensors))
    save_file(
        {name: one for name, one in tensors.items() if kept(name)}, folder / "model.safetensors", {"format": "pt"}
    )
    return str(folder)


def test_a_model_of_which_tensors_are_missing_is_refused(tmp_path: Path) -> None:
    shutil.copytree(STORIES, tmp_path / "stories")
    path = without(tmp_path / "stories", lambda name: "layers.2.mlp" not in name)
    section = Model.model_validate({"path": "stories"})

    with pytest.raises(
        LauncherError, match=r"no `model\.layers\.2\.mlp\.down_proj\.weight`, .* \(3 tensors are missing"
    ):
        build_causal_lm(section, path, seed=1)
    with pytest.raises(LauncherError, match="3 tensors are missing"):
        build_classifier(section, path, 1, torch.float32, {"num_labels": 2, "pad_token_id": 0})


def test_an_encoder_needs_no_pooler_and_all_of_its_layers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=32, **sizes)).save_pretrained(tmp_path)
    section, head = Model.model_validate({"path": "bert"}), {"num_labels": 2, "pad_token_id": 0}

    build_classifier(section, without(tmp_path, lambda name: "pooler" not in name), 1, torch.float32, head)
    with pytest.raises(LauncherError, match="tensors are missing"):
        build_classifier(section, without(tmp_path, lambda name: "attention" not in name), 1, torch.float32, head)


def test_a_new_head_and_what_is_not_used_is_said_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    section = Model.model_validate({"path": "stories260k"})

    build_classifier(section, STORIES, 1, torch.float32, {"num_labels": 2, "pad_token_id": 0})

    assert "model: the new head starts from random numbers: score.weight\n" in capsys.readouterr().out


def test_the_attention_of_the_recipe_is_used() -> None:
    assert model_of(attention="eager").config._attn_implementation == "eager"


def test_weights_in_a_pickle_are_refused(tmp_path: Path) -> None:
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config.save_pretrained(tmp_path)
    torch.save(LlamaForCausalLM(config).state_dict(), tmp_path / "pytorch_model.bin")

    with pytest.raises(LauncherError, match=r"pytorch_model\.bin: .*`save_pretrained`"):
        build_causal_lm(Model(path="pickled"), str(tmp_path), seed=1)


def test_a_corpus_of_a_larger_vocabulary_is_refused(corpus: CorpusReader) -> None:
    manifest = corpus.manifest.model_copy(
        update={"tokenizer": corpus.manifest.tokenizer.model_copy(update={"vocab_size": 513})}
    )
    check_fits(model_of(), batch_of(sequence_length=512), 0, [corpus.manifest])

    with pytest.raises(LauncherError, match="tokenizer of 513 tokens, but the model has 512"):
        check_fits(model_of(), batch_of(sequence_length=512), 0, [manifest])


def test_sequences_longer_than_the_models_positions_are_refused(corpus: CorpusReader) -> None:
    with pytest.raises(LauncherError, match="1024 is more than the model's 512 positions; write at most 512"):
        check_fits(model_of(), batch_of(sequence_length=1024), 0, [corpus.manifest])


@pytest.mark.parametrize(
    ("kind", "padding", "positions"),
    [
        ("roberta", 1, 62),
        ("roberta", 0, 63),
        ("xlm-roberta-xl", 3, 60),
        ("roberta-prelayernorm", 3, 60),
        ("xmod", 3, 60),
        ("camembert", 3, 60),
        ("data2vec-text", 3, 60),
        ("ibert", 3, 60),
        ("lilt", 3, 60),
        ("luke", 3, 60),
        ("markuplm", 3, 60),
        ("mpnet", 1, 62),
        ("mpnet", 3, 62),
        ("bert", 0, 64),
    ],
)
def test_as_many_tokens_as_a_model_has_positions_for_are_accepted_and_no_more(
    kind: str, padding: int, positions: int
) -> None:
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"vocab_size": 32, "max_position_embeddings": 64, "pad_token_id": padding}
    config = AutoConfig.for_model(kind, **sizes, **({"default_language": "en_XX"} if kind == "xmod" else {}))
    assert max_positions(config.to_dict()) == positions, "as `validate` counts"
    model = AutoModelForSequenceClassification.from_config(config)

    check_positions(model, batch_of(sequence_length=positions), 0)
    model(torch.full((1, positions), 5))
    with pytest.raises(LauncherError, match=f"write at most {positions}"):
        check_positions(model, batch_of(sequence_length=positions + 1), 0)
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)|size"):
        model(torch.full((1, positions + 1), 5))


def test_samples_in_one_row_mean_the_same_as_in_rows_of_their_own(corpus: CorpusReader) -> None:
    samples = packed_samples([corpus], [1], 32, seed=1, num_samples=4)
    items = [samples[index] for index in range(4)]
    model = model_of()

    stacked, flattened = packed_collator(items), flattening_collator(items)

    assert flattened["input_ids"].shape == (1, 128)
    with torch.no_grad():
        torch.testing.assert_close(model(**flattened).loss, model(**stacked).loss)
        row, rows = (model(**without_labels(batch)).logits for batch in (flattened, stacked))
    torch.testing.assert_close(row.view_as(rows), rows, atol=1e-4, rtol=1e-4)


def without_labels(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With labels there are no logits."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def test_documents_of_one_row_do_not_see_each_other(corpus: CorpusReader) -> None:
    samples = packed_samples([corpus], [1], 64, seed=1, num_samples=8)
    item = next(item for item in (samples[index] for index in range(8)) if (item["position_ids"][1:] == 0).any())
    start = int((item["position_ids"][1:] == 0).nonzero()[0]) + 1
    model = model_of()

    with torch.no_grad():
        packed = model(**without_labels(packed_collator([item]))).logits[0, start:]
        apart = model(
            input_ids=item["input_ids"][start:][None], position_ids=item["position_ids"][start:][None]
        ).logits[0]

    torch.testing.assert_close(packed, apart, atol=1e-4, rtol=1e-4)
