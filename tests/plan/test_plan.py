"""What cannot work on a cluster is said before it is queued, at its line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.artifacts.corpus_manifest import read_manifest
from launcher.errors import Fault
from launcher.load import load_recipes
from launcher.plan import check, check_all, forecast
from launcher.recipe.kinds.prepare import Clean
from tests.support.corpora import make_corpus
from tests.support.recipe_files import RECIPE, load, profile, write

MODEL = {"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 11008} | {
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
PROFILE = """\
name: site
roots: {runs: runs, data: data, corpora: corpora, models: models}
slurm: {lead: 5min}
gpus: {type: a100, memory: 40GB, per_node: 4}
"""
PREPARE = """\
kind: prepare
name: p
corpus: abstracts
tokenizer: org/model
sources: [{format: pile, files: pile/*.zst}]
resources: {time: 1h}
"""


def site(folder: Path, manifest: dict[str, object] | None = None) -> None:
    """Put a model and a corpus below the roots of PROFILE."""
    write(folder, json.dumps(MODEL), "models/org/model/config.json")
    write(folder, json.dumps(manifest or {"data_use": "open"}), "corpora/abstracts/manifest.json")


def find_faults(folder: Path, text: str = RECIPE, cluster: str = PROFILE, *overrides: str) -> list[Fault]:
    loaded = load_recipes(write(folder, text), overrides)
    return check_all(loaded, profile(folder, cluster))


def complaints(folder: Path, text: str = RECIPE, cluster: str = PROFILE, *overrides: str) -> list[str]:
    return [str(fault).replace(f"{folder}/", "") for fault in find_faults(folder, text, cluster, *overrides)]


def test_a_recipe_that_fits_has_no_complaint(tmp_path: Path) -> None:
    site(tmp_path)

    assert not complaints(tmp_path)


@pytest.mark.parametrize(
    ("override", "code", "key", "fix"),
    [
        ("resources.gpus_per_node=8", "site-limit", "", "write at most 4, and more `nodes`"),
        (
            "resources={gpus_per_node: 4, gpu_memory: 80GB}",
            "site-limit",
            "resources.gpu_memory",
            "write at most `40GB`",
        ),
        ("resources.time=5min", "site-limit", "", "write more, or a shorter `slurm.lead` in the profile"),
        ("secrets=[NO_SUCH_VARIABLE]", "not-found", "secrets.0", "export it, or write it there"),
        ("model.path=./nowhere", "not-found", "", "check the name"),
        ("model.path=llama", "not-found", "", "put it there, or write a Hugging Face id such as `org/name`"),
        ("model.path=orgg", "not-found", "", "did you mean `org`?"),
        ("data.corpora.0.name=abstract", "not-found", "", "did you mean `abstracts`?"),
        ("data.corpora.0.name=notes", "not-found", "", "write `--after` and the run that makes it"),
        ("data.corpora.0.name=other", "not-found", "", "first submit the `prepare` recipe that makes it"),
        ("batch.sequence_length=4096", "mismatch", "", "write at most 2048"),
    ],
)
def test_what_cannot_work_here_is_refused_at_its_line(
    tmp_path: Path, override: str, code: str, key: str, fix: str
) -> None:
    site(tmp_path)
    (tmp_path / "corpora" / "notes.partial").mkdir()

    (fault,) = find_faults(tmp_path, RECIPE, PROFILE, override)

    assert (fault.file, fault.code, fault.key) == (f"--set {override.partition('=')[0]}", code, key)
    assert fault.message.endswith(fix)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({"model_type": "roberta"}, 512),
        ({"model_type": "roberta", "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta-xl", "pad_token_id": 0}, 513),
        ({"model_type": "camembert", "pad_token_id": 5}, 508),
        ({"model_type": "mpnet", "pad_token_id": 5}, 512),
        ({"model_type": "bert", "pad_token_id": 5}, 514),
    ],
)
def test_a_model_that_counts_positions_behind_padding_has_fewer(
    tmp_path: Path, config: dict[str, object], most: int
) -> None:
    site(tmp_path)
    config |= {"max_position_embeddings": 514, "is_decoder": True}
    write(tmp_path, json.dumps(config), "models/org/model/config.json")

    assert not complaints(tmp_path, RECIPE, PROFILE, f"batch.sequence_length={most}")
    assert complaints(tmp_path, RECIPE, PROFILE, f"batch.sequence_length={most + 1}") == [
        f"--set batch.sequence_length: {most + 1} is more than the model's {most} positions; write at most {most}"
    ]


def test_models_of_the_hub_are_accepted_and_named(tmp_path: Path) -> None:
    site(tmp_path)
    (loaded,) = load_recipes(write(tmp_path, RECIPE), ["model.path=huggyllama/llama-7b"])
    cluster = profile(tmp_path, PROFILE)

    assert not check_all([loaded], cluster)
    assert forecast(loaded, cluster).hub_ids == ["huggyllama/llama-7b"]


def test_a_corpus_that_will_be_there_is_no_complaint(tmp_path: Path) -> None:
    recipe, cluster = load(tmp_path, RECIPE), profile(tmp_path, PROFILE)

    missing = check(recipe, cluster, str(tmp_path))
    pending = check(recipe, cluster, str(tmp_path), {"abstracts": "open"})

    assert [fault.key for fault in missing] == ["data.corpora.0.name"]
    assert not pending


def test_credentialed_corpora_ask_for_a_credentialed_recipe(tmp_path: Path) -> None:
    site(tmp_path, manifest={"data_use": "credentialed"})
    careful = RECIPE + "data_use: credentialed\ntracking: {mode: offline}\n"

    assert complaints(tmp_path) == [
        "recipe.yaml:6: data.corpora.0.name: `abstracts` is credentialed data; write `data_use: credentialed`"
    ]
    assert not complaints(tmp_path, careful)


def test_credentialed_runs_are_tracked_online_only_on_a_server_of_the_site(tmp_path: Path) -> None:
    site(tmp_path)
    online = RECIPE + "data_use: credentialed\ntracking: {mode: online}\n"

    [complaint] = complaints(tmp_path, online)

    assert "tracking.mode: credentialed data must not be tracked at W&B's public server; write `offline`" in complaint
    assert not complaints(tmp_path, online, PROFILE + "wandb_base_url: https://wandb.example.org\n")
    assert not complaints(tmp_path, online.replace("credentialed", "open"))


def test_a_corpus_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    site(tmp_path, manifest={"data_use": "open", "tokenizer": {"vocab_size": 32001}})

    (said,) = complaints(tmp_path)

    assert said.startswith("recipe.yaml:6: data.corpora.0.name: ")
    assert "`abstracts` was made with a tokenizer of 32001 tokens, the model has 32000; " in said


def test_a_corpus_of_another_tokenizer_of_the_same_size_is_refused(tmp_path: Path) -> None:
    site(tmp_path, manifest={"data_use": "open", "tokenizer": {"vocab_size": 32000}})
    write(tmp_path, json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}), "models/org/model/tokenizer.json")
    write(tmp_path, json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}), "corpora/abstracts/tokenizer.json")

    (fault,) = find_faults(tmp_path)

    assert (fault.code, fault.key, fault.line) == ("mismatch", "data.corpora.0.name", 6)
    assert fault.message.startswith("tokenizer mismatch")


def test_an_evaluation_is_not_queued_with_a_corpus_of_another_tokenizer(tmp_path: Path) -> None:
    site(tmp_path)
    write(tmp_path, json.dumps({"model": {"vocab": {"a": 0, "b": 1}}}), "models/org/model/tokenizer.json")
    write(tmp_path, json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}), "corpora/abstracts/tokenizer.json")
    task = "{type: perplexity, name: held-out, corpus: abstracts}"
    model = "model: {path: org/model}"
    text = f"kind: evaluate\nname: e\n{model}\ntasks: [{task}]\ntracking: {{mode: offline}}\nresources: {{time: 1h}}\n"

    (fault,) = find_faults(tmp_path, text)

    assert (fault.code, fault.key) == ("mismatch", "tasks.0.corpus")
    assert "of `abstracts` mean other tokens than those of the model" in fault.message


@pytest.mark.parametrize(
    ("override", "key", "fix"),
    [("model.attention=flash", "model.attention", "`sdpa`"), ("precision.dtype=fp16", "precision.dtype", "`bf16`")],
)
def test_cpus_cannot_do_everything(tmp_path: Path, override: str, key: str, fix: str) -> None:
    site(tmp_path)

    (said,) = complaints(tmp_path, RECIPE, PROFILE.replace("per_node: 4", "device: cpu"), override)

    assert said.startswith(f"--set {key}: ")
    assert said.endswith(f"write {fix}")


def test_secrets_may_come_from_the_profiles_file(tmp_path: Path) -> None:
    site(tmp_path)
    text = "# mine\nexport WANDB_API_KEY=abc\nOTHER = x\u2029THIRD=y\x85THIRD=z\n"
    write(tmp_path, text, "secrets").chmod(0o600)

    said = complaints(tmp_path, RECIPE, f"{PROFILE}secrets_file: secrets\n", "secrets=[WANDB_API_KEY, OTHER, THIRD]")

    assert len(said) == 1
    assert "secrets.2: `THIRD` is neither in this environment nor in secrets" in said[0]
    assert "abc" not in said[0]


def test_source_files_and_tokenizers_must_be_there(tmp_path: Path) -> None:
    text = PREPARE.replace("org/model", "./tokenizer")

    said = complaints(tmp_path, text)
    write(tmp_path, "", "data/pile/0.zst")
    write(tmp_path, "", "tokenizer/tokenizer.json")

    assert said == [
        "recipe.yaml:4: tokenizer: there is no folder `tokenizer`; check the name",
        "recipe.yaml:5: sources.0.files: no file matches `data/pile/*.zst`; check the pattern",
    ]
    assert not complaints(tmp_path, text)


def test_a_folder_is_no_source_file(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    text = PREPARE.replace("org/model", "./tokenizer").replace("pile/*.zst", "pile")

    (fault,) = find_faults(tmp_path, text)

    assert (fault.code, fault.key, fault.line) == ("not-found", "sources.0.files", 5)
    assert "write `pile/*`" in fault.message


def test_of_a_dataset_on_disk_the_arrow_files_are_advised(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "{}", "data/hf/pubmed/dataset_dict.json")
    text = PREPARE.replace("org/model", "./tokenizer").replace("pile, files: pile/*.zst", "dataset, files: hf/pubmed/")

    (fault,) = find_faults(tmp_path, text)

    assert (fault.code, fault.key) == ("not-found", "sources.0.files")
    assert "write `hf/pubmed/**/data-*.arrow`" in fault.message


def test_braces_of_the_shell_are_no_pattern(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    text = PREPARE.replace("org/model", "./tokenizer").replace("pile/*.zst", '"pile/*.{gz,zst}"')

    (fault,) = find_faults(tmp_path, text)

    assert (fault.code, fault.key) == ("not-found", "sources.0.files")
    assert fault.message.endswith("write a source for each")


def test_a_folder_of_sources_without_permission_is_named(stranger: Path) -> None:
    write(stranger, "", "tokenizer/tokenizer.json")
    write(stranger, "", "data/pile/0.zst").parent.chmod(0o000)

    (fault,) = find_faults(stranger, PREPARE.replace("org/model", "./tokenizer"))
    (stranger / "data" / "pile").chmod(0o700)

    assert (fault.code, fault.key) == ("no-permission", "sources.0.files")
    assert f"permission denied for `{stranger}/data/pile`" in fault.message


def test_two_recipes_that_make_different_corpora_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    text = PREPARE.replace("org/model", "./tokenizer")
    again, other = (
        text.replace("name: p\n", "name: q\ntasks: 2\n"),
        text.replace("name: p\n", "name: r\nvalidation: 0.5\n"),
    )

    (fault,) = find_faults(tmp_path, f"{text}---\n{again}---\n{other}")

    assert (fault.code, fault.key, fault.line) == ("conflict", "corpus", 19)
    assert "`p` makes `abstracts`" in fault.message


def test_a_corpus_built_with_other_settings_takes_its_name(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    folder = make_corpus(tmp_path / "corpora" / "abstracts", [[[5, 2]]]).folder
    made = read_manifest(folder).model_copy(update={"clean": Clean().model_dump(mode="json")})
    write(folder, made.model_dump_json(), "manifest.json")
    text = PREPARE.replace("org/model", "./tokenizer")

    assert complaints(tmp_path, f"{text}validation: 0.0\n") == []
    (other,) = find_faults(tmp_path, f"{text}validation: 0.25\nclean: {{min_characters: 9}}\n")
    (folder / "manifest.json").write_text("{")
    (torn,) = find_faults(tmp_path, text)

    assert (other.code, other.key, torn.code, torn.key) == ("name-taken", "corpus") * 2
    assert "(`validation` 0.0 there, 0.25 here; `clean.min_characters` 1 there, 9 here)" in other.message
    assert "not a complete corpus" in torn.message


def test_evaluation_sets_must_be_there(tmp_path: Path) -> None:
    write(tmp_path, "", "data/pile/0.zst")
    write(tmp_path, "", "own.json")
    text = f"{PREPARE}clean: {{decontaminate: {{files: [qa/*.jsonl, ./own.json]}}}}\n"

    said = complaints(tmp_path, text)
    write(tmp_path, "", "data/qa/medqa.jsonl")

    assert len(said) == 1
    assert "clean.decontaminate.files.0: no file matches `data/qa/*.jsonl`; check the pattern" in said[0]
    assert not complaints(tmp_path, text)


def test_sources_beside_the_recipe_are_found_in_folders_with_brackets(tmp_path: Path) -> None:
    folder = tmp_path / "a [b] *"
    write(folder, "", "own/x.jsonl")
    text = PREPARE.replace("pile/*.zst", "./own/*.jsonl")

    assert not complaints(folder, text)
    assert complaints(folder, text.replace("./own", "./none"))


def test_a_gpu_that_is_too_small_is_told_but_no_fault(tmp_path: Path) -> None:
    site(tmp_path)
    (loaded,) = load_recipes(write(tmp_path, RECIPE), ["resources.gpus_per_node=4"])

    said = forecast(loaded, profile(tmp_path, PROFILE))

    assert said.memory is not None
    assert said.gpu_memory == 42_400_000_000  # CUDA has 39.4 GiB of an A100-40GB
    assert said.is_too_large
    assert not check_all([loaded], profile(tmp_path, PROFILE))


def test_nothing_is_forecast_for_cpus_or_unknown_models(tmp_path: Path) -> None:
    (loaded,) = load_recipes(write(tmp_path, RECIPE), ["resources.gpus_per_node=4"])

    unknown = forecast(loaded, profile(tmp_path, PROFILE))
    site(tmp_path)
    on_cpus = forecast(loaded, profile(tmp_path, PROFILE.replace("per_node: 4", "device: cpu")))

    assert (unknown.memory, unknown.run, unknown.attempt_gpu_hours) == (None, None, 4)
    assert (on_cpus.memory, on_cpus.run, on_cpus.attempt_gpu_hours) == (None, None, 0)


def test_tokens_of_a_corpus_come_from_its_manifest(tmp_path: Path) -> None:
    site(tmp_path, manifest={"data_use": "open", "counts": {"tokens": {"train": 16_384_000, "validation": 1}}})
    (loaded,) = load_recipes(write(tmp_path, RECIPE), ["resources.gpus_per_node=4", "schedule.length=1 epoch"])

    said = forecast(loaded, profile(tmp_path, PROFILE))

    assert said.run is not None
    assert (said.run.steps, said.run.tokens) == (1000, 16_384_000)


def truncate_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((60).to_bytes(8, "little") + b'{"x": {"data_offsets": [0, 4]}}')


def leave_a_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 5\n")


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (lambda folder: (folder / "pytorch_model.bin").touch(), "pytorch_model.bin"),
        (truncate_weights, "model.safetensors"),
        (leave_a_pointer, "model.safetensors"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'),
            "model.safetensors.index.json",
        ),
    ],
)
def test_weights_that_cannot_load_are_refused_unless_they_are_not_read(
    tmp_path: Path, damage: Callable[[Path], object], file: str
) -> None:
    site(tmp_path)
    damage(tmp_path / "models" / "org" / "model")

    (fault,) = find_faults(tmp_path)

    assert (fault.code, fault.key) == ("damaged", "model.path")
    assert f"/models/org/model/{file}: " in fault.message
    assert not find_faults(tmp_path, RECIPE, PROFILE, "model.init=random")
    (tmp_path / "data" / "pile").mkdir(parents=True)
    (tmp_path / "data" / "pile" / "a.zst").touch()
    (tmp_path / "models" / "org" / "model" / "tokenizer_config.json").write_text("{}")
    assert not find_faults(tmp_path, PREPARE.replace("corpus: abstracts", "corpus: new")), "it reads no weights"


def test_a_corpus_of_less_than_a_step_is_refused_where_its_size_is_known(tmp_path: Path) -> None:
    counts = {"tokens": {"train": 2048 * 5}}
    site(tmp_path, {"data_use": "open", "counts": counts})
    changes = ("schedule.length=1 epoch", "batch.global_batch=8 sequences", "rehearsal=null")

    (fault,) = find_faults(tmp_path, RECIPE, PROFILE, *changes)

    assert (fault.code, fault.file) == ("conflict", "--set batch.global_batch")
    assert fault.message == "`1 epoch` is 5 sequences, less than one step of 8; write `5 sequences` or less"
    assert not find_faults(tmp_path, RECIPE, PROFILE, *changes, "schedule.length=9 epochs")


SFT = """\
kind: sft
name: talk
model: {path: org/model}
data: {sources: [{name: a, files: ./a.jsonl, format: alpaca}], chat_template: alpaca}
batch: {global_batch: 8 sequences, sequence_length: 128}
optim: {lr: 1e-5}
schedule: {length: 10 steps}
resources: {time: 1h}
"""
CLASSIFY = """\
kind: classify
name: notes
model: {path: org/model}
data: {format: csv, train: ./a.jsonl, validation: ./a.jsonl, test: ./a.jsonl, labels: binary, classes: ["0", "1"]}
batch: {global_batch: 8 sequences, sequence_length: 128}
optim: {lr: 1e-5}
schedule: {length: 10 steps}
resources: {time: 1h}
"""


@pytest.mark.parametrize("text", [RECIPE, SFT, CLASSIFY])
def test_a_model_whose_own_tokenizer_has_more_tokens_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    site(tmp_path, {"data_use": "open", "tokenizer": {"vocab_size": 32001}})
    write(tmp_path, "{}", "a.jsonl")
    added = [{"id": 32000, "content": "[PAD]", "special": True}]
    tokenizer = {"model": {"vocab": {"a": 0}}, "added_tokens": added}
    write(tmp_path, json.dumps(tokenizer), "models/org/model/tokenizer.json")

    (fault,) = find_faults(tmp_path, text)

    assert (fault.code, fault.key) == ("mismatch", "model.path")
    assert "32001 tokens" in fault.message and "32000 embedding rows" in fault.message
    assert "`model.resize_token_embeddings(32001)`" in fault.message
    write(tmp_path, json.dumps(MODEL | {"vocab_size": 32001}), "models/org/model/config.json")
    assert not find_faults(tmp_path, text)


def test_tokens_without_a_row_do_not_matter_to_a_corpus_without_them(tmp_path: Path) -> None:
    site(tmp_path, {"data_use": "open", "tokenizer": {"vocab_size": 32000}})
    tokenizer = {"model": {"vocab": {"a": 32000}}}
    write(tmp_path, json.dumps(tokenizer), "models/org/model/tokenizer.json")

    assert not find_faults(tmp_path)


@pytest.mark.parametrize(
    ("template", "files", "said"),
    [
        ("tokenizer", {}, "the tokenizer has none; write the one that"),
        ("tokenizer", {"chat_template.jinja": "{{ messages }}"}, None),
        ("tokenizer", {"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'}, None),
        ("chatml", {}, "`chatml` needs `<|im_start|>` and `<|im_end|>`, which the tokenizer lacks"),
        ("chatml", {"added_tokens.json": '{"<|im_start|>": 5}'}, "`chatml` needs `<|im_end|>`, which"),
        (
            "chatml",
            {
                "added_tokens.json": '{"<|im_end|>": 6}',
                "tokenizer_config.json": '{"added_tokens_decoder": {"5": {"content": "<|im_start|>"}}}',
            },
            None,
        ),
        ("alpaca", {}, None),
    ],
)
def test_chat_templates_that_the_tokenizer_cannot_work_with_are_refused(
    tmp_path: Path, template: str, files: dict[str, str], said: str | None
) -> None:
    site(tmp_path)
    write(tmp_path, "{}", "a.jsonl")
    write(tmp_path, '{"model": {"vocab": {"a": 0}}}', "models/org/model/tokenizer.json")
    for name, content in files.items():
        write(tmp_path, content, f"models/org/model/{name}")

    found = find_faults(tmp_path, SFT.replace("chat_template: alpaca", f"chat_template: {template}"))

    assert [(fault.code, fault.key) for fault in found] == ([("mismatch", "data.chat_template")] if said else [])
    assert not said or said in found[0].message
