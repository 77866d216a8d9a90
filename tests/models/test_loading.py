"""Folders that cannot load are refused with the file and the fix, without torch where that is enough."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from jobs.models.build import build_causal_lm
from jobs.models.folder import loading
from jobs.models.tokenizer import load_tokenizer
from launcher.artifacts.model_folder import require_files
from launcher.errors import LauncherError
from launcher.recipe.sections.common import Model
from launcher.run.ledger import read_attempts
from launcher.run.paths import NEVER_RESTART, RunDir
from tests.support.corpora import make_corpus
from tests.support.labelled_runs import make_classify_run
from tests.support.training_runs import ASSETS, cpt_recipe, make_run, make_run_of, train, words

STORIES = ASSETS / "stories260k"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1044992\n"

Damage = Callable[[Path], object]


def pickles_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lose_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2)
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 3
    for shard in shards[1:3]:
        shard.unlink()


def cut_to(size: int) -> Damage:
    return lambda folder: os.truncate(folder / "model.safetensors", size)


def written(name: str, text: str) -> Damage:
    return lambda folder: (folder / name).write_text(text)


def configured(**changes: object) -> Damage:
    config = json.loads((STORIES / "config.json").read_text())
    return written("config.json", json.dumps(config | changes))


DAMAGES = [
    (pickles_only, "pytorch_model.bin", "`save_pretrained`"),
    (cut_to(500_000), "model.safetensors", "500,000 bytes, but its header says 1,0.*; copy it again"),
    (cut_to(5), "model.safetensors", "no complete safetensors file .*; copy it again"),
    (cut_to(0), "model.safetensors", "no complete safetensors file .*; copy it again"),
    (written("model.safetensors", POINTER), "model.safetensors", "Git LFS.*`git lfs pull`"),
    (lose_shards, "model.safetensors.index.json", "names `model-00002-of-.*` and 1 more .*; copy it again"),
    (written("config.json", POINTER), "config.json", "Git LFS.*`git lfs pull`"),
    (written("config.json", "{"), "config.json", "is not JSON.*copy it again"),
    (written("tokenizer.json", POINTER), "tokenizer.json", "Git LFS.*`git lfs pull`"),
]


def damaged(tmp_path: Path, damage: Damage) -> Path:
    folder = tmp_path / "tiny"
    shutil.copytree(STORIES, folder)
    damage(folder)
    return folder


def build(folder: Path | str, **section: object) -> object:
    return build_causal_lm(Model.model_validate({"path": "tiny", **section}), str(folder), seed=1)


@pytest.mark.parametrize(("damage", "file", "said"), DAMAGES)
def test_damaged_files_are_named_with_the_fix_before_and_while_they_are_loaded(
    tmp_path: Path, damage: Damage, file: str, said: str
) -> None:
    folder = damaged(tmp_path, damage)

    for load in (lambda: require_files(folder, weights=True), lambda: build(folder)):
        with pytest.raises(LauncherError, match=rf"/tiny/{file}: .*{said}") as told:
            load()
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(("damage", "file"), [(damage, file) for damage, file, _ in DAMAGES[:6]])
def test_weights_do_not_matter_where_only_the_tokenizer_or_the_configuration_is_read(
    tmp_path: Path, damage: Damage, file: str
) -> None:
    folder = damaged(tmp_path, damage)

    assert load_tokenizer(str(folder), "tiny").vocab_size == 512
    build(folder, init="random")


def test_a_folder_that_is_whole_or_holds_a_configuration_only_passes(tmp_path: Path) -> None:
    require_files(STORIES, weights=True)
    (tmp_path / "config.json").write_text("{}")
    require_files(tmp_path, weights=True)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), r"no file named model\.safetensors .*; copy it again"),
        (lambda folder: (folder / "config.json").unlink(), r"Unrecognized model .*; copy its config\.json as well"),
        (configured(hidden_size=128), r"other shapes than its config\.json says; copy both from one place"),
        (configured(vocab_size=600), r"other shapes than its config\.json says; copy both from one place"),
        (configured(hidden_size="big"), "hidden_size.*; copy it again"),
        (configured(model_type="new"), "`new` .* not recognize this architecture; .* name another model"),
        (
            configured(model_type="new", auto_map={"AutoConfig": "a.C", "AutoModelForCausalLM": "a.M"}),
            "custom code .*; write `trust_remote_code: true` if you have read and trust",
        ),
    ],
)
def test_what_the_library_refuses_is_said_in_a_line_with_the_fix(tmp_path: Path, damage: Damage, said: str) -> None:
    folder = damaged(tmp_path, damage)

    with pytest.raises(LauncherError, match=rf"model\.path: `{folder}` cannot be loaded: .*{said}") as told:
        build(folder)

    assert "\n" not in str(told.value)


def test_a_tokenizer_that_was_not_copied_to_its_end_is_named(tmp_path: Path) -> None:
    folder = damaged(tmp_path, written("tokenizer.json", '{"version": "1.0"'))

    with pytest.raises(
        LauncherError, match=r"tokenizer `tiny`: .*/tiny/tokenizer\.json: is not JSON .*; copy it again"
    ):
        load_tokenizer(str(folder), "tiny")


def test_a_name_that_is_neither_here_nor_on_a_hub_that_answers_is_told_with_where_to_put_it() -> None:
    said = r"`org/none` cannot be loaded: .*; write a folder below the profile's `roots\.models`"
    with pytest.raises(LauncherError, match=said):
        build("org/none")
    with pytest.raises(LauncherError, match=said):
        load_tokenizer("org/none", "org/none")


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), RuntimeError("no room"), torch.OutOfMemoryError("CUDA out of memory.")]
)
def test_what_may_work_next_time_is_no_fault_of_the_folder(error: Exception) -> None:
    with pytest.raises(type(error)) as told, loading(STORIES, "model.path"):
        raise error

    assert told.value is error


@pytest.mark.slow
@pytest.mark.parametrize("damage", [pickles_only, configured(hidden_size=128)])
def test_a_run_ends_for_good_in_its_first_attempt_and_says_why_in_a_line(tmp_path: Path, damage: Damage) -> None:
    damaged(tmp_path, damage)
    run = make_run(tmp_path, model={"path": "./tiny"})

    attempt = train(run, ranks=2)

    assert attempt.failure == NEVER_RESTART
    assert "Traceback" not in attempt.log()
    (attempted,) = read_attempts(run.ledger)
    assert str(tmp_path / "tiny") in attempted.fault


def make_padded(folder: Path) -> None:
    """A model of 512 rows whose tokenizer has got one token more, as in many published models."""
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    shutil.copytree(STORIES, folder)
    tokenizer.save_pretrained(folder)


def cpt_run(folder: Path) -> RunDir:
    make_corpus(folder / "corpora" / "words", [words(40)], vocabulary=513)
    return make_run(folder, model={"path": "./padded"})


def sft_run(folder: Path) -> RunDir:
    (folder / "a.jsonl").write_text(json.dumps({"instruction": "Why?", "output": "So."}))
    data = {"sources": [{"name": "a", "files": "a.jsonl", "format": "alpaca"}], "chat_template": "alpaca"}
    recipe = cpt_recipe(kind="sft", model={"path": "./padded"}, batch={"sequence_length": 256})
    return make_run_of(recipe | {"data": data}, folder)


def classify_run(folder: Path) -> RunDir:
    return make_classify_run(folder, model={"path": "./padded"})


@pytest.mark.slow
@pytest.mark.parametrize("make", [cpt_run, sft_run, classify_run])
def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_is_told_with_what_to_do(
    tmp_path: Path, make: Callable[[Path], RunDir]
) -> None:
    make_padded(tmp_path / "padded")

    attempt = train(make(tmp_path))

    assert attempt.exit_codes == [NEVER_RESTART]
    assert "513 tokens, but it has 512 embedding rows" in attempt.log()
    assert "`model.resize_token_embeddings(513)`" in attempt.log()
