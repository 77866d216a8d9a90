"""What cannot work on a cluster is said before it is queued, at its line."""

import json
from pathlib import Path

import pytest

from launcher.corpus import read_manifest
from launcher.load import load_recipes
from launcher.plan import check, check_all, forecast
from launcher.recipe.prepare import Clean
from tests.corpora import make_corpus
from tests.loading import RECIPE, load, profile, write

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


def complaints(folder: Path, text: str = RECIPE, cluster: str = PROFILE, *overrides: str) -> list[str]:
    loaded = load_recipes(write(folder, text), overrides)
    return [str(fault).replace(f"{folder}/", "") for fault in check_all(loaded, profile(folder, cluster))]


def test_a_recipe_that_fits_has_no_complaint(tmp_path: Path) -> None:
    site(tmp_path)

    assert not complaints(tmp_path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "resources.gpus_per_node=8",
            "--set resources.gpus_per_node: 8 are more than a node of `site` has; write at most 4, and more `nodes`",
        ),
        (
            "resources={gpus_per_node: 4, gpu_memory: 80GB}",
            "--set resources: resources.gpu_memory: `80GB` is more than a GPU of `site` has; write at most `40GB`",
        ),
        (
            "resources.time=5min",
            "--set resources.time: `5min` leaves no time to work: runs of `site` are stopped 5min before their "
            "limit; write more, or a shorter `slurm.lead` in the profile",
        ),
        (
            "secrets=[NO_SUCH_VARIABLE]",
            "--set secrets: secrets.0: `NO_SUCH_VARIABLE` is neither in this environment nor in the file that the "
            "profile names as `secrets_file`; export it, or write it there",
        ),
        ("model.path=./nowhere", "--set model.path: there is no folder `nowhere`; check the name"),
        (
            "model.path=llama",
            "--set model.path: `llama` is not below `models`; put it there, or write a Hugging Face id such as "
            "`org/name`",
        ),
        ("model.path=orgg", "--set model.path: `orgg` is not below `models`; did you mean `org`?"),
        (
            "data.corpora.0.name=abstract",
            "--set data.corpora.0.name: there is no corpus `abstract` in `corpora`; did you mean `abstracts`?",
        ),
        (
            "data.corpora.0.name=notes",
            "--set data.corpora.0.name: there is no corpus `notes` in `corpora`; it is not whole yet: write `--after` "
            "and the run that makes it",
        ),
        (
            "data.corpora.0.name=other",
            "--set data.corpora.0.name: there is no corpus `other` in `corpora`; first submit the `prepare` recipe "
            "that makes it",
        ),
        (
            "batch.sequence_length=4096",
            "--set batch.sequence_length: 4096 is more than the model's 2048 positions; write at most 2048",
        ),
    ],
)
def test_what_cannot_work_here_is_refused_at_its_line(tmp_path: Path, override: str, message: str) -> None:
    site(tmp_path)
    (tmp_path / "corpora" / "notes.partial").mkdir()

    assert complaints(tmp_path, RECIPE, PROFILE, override) == [message]


def test_a_model_that_counts_positions_behind_padding_has_two_fewer(tmp_path: Path) -> None:
    site(tmp_path)
    config = {"model_type": "roberta", "max_position_embeddings": 514}
    write(tmp_path, json.dumps(config), "models/org/model/config.json")

    assert not complaints(tmp_path, RECIPE, PROFILE, "batch.sequence_length=512")
    assert complaints(tmp_path, RECIPE, PROFILE, "batch.sequence_length=513") == [
        "--set batch.sequence_length: 513 is more than the model's 512 positions; write at most 512"
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

    assert "tracking.mode: credentialed data must not be tracked at wandb.ai; write `offline`" in complaint
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

    (said,) = complaints(tmp_path)

    assert said.startswith("recipe.yaml:6: data.corpora.0.name: `abstracts` was made with another tokenizer")


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
    write(tmp_path, "# mine\nexport WANDB_API_KEY=abc\nOTHER = x\n", "secrets").chmod(0o600)

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

    assert complaints(tmp_path, text) == [
        "recipe.yaml:5: sources.0.files: no file matches `data/pile`; check the pattern, or write `pile/*` for the "
        "files in that folder",
    ]


def test_of_a_dataset_on_disk_the_arrow_files_are_advised(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "{}", "data/hf/pubmed/dataset_dict.json")
    text = PREPARE.replace("org/model", "./tokenizer").replace("pile, files: pile/*.zst", "dataset, files: hf/pubmed/")

    assert complaints(tmp_path, text) == [
        "recipe.yaml:5: sources.0.files: no file matches `data/hf/pubmed`; check the pattern, or write "
        "`hf/pubmed/**/data-*.arrow` for the files in that folder",
    ]


def test_braces_of_the_shell_are_no_pattern(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    text = PREPARE.replace("org/model", "./tokenizer").replace("pile/*.zst", '"pile/*.{gz,zst}"')

    assert complaints(tmp_path, text) == [
        "recipe.yaml:5: sources.0.files: no file matches `data/pile/*.{gz,zst}`; check the pattern, which knows no "
        "`{}`: write a source for each",
    ]


def test_a_folder_of_sources_that_is_not_for_this_user_is_named(stranger: Path) -> None:
    write(stranger, "", "tokenizer/tokenizer.json")
    write(stranger, "", "data/pile/0.zst").parent.chmod(0o000)

    said = complaints(stranger, PREPARE.replace("org/model", "./tokenizer"))
    (stranger / "data" / "pile").chmod(0o700)

    assert said == [
        "recipe.yaml:5: sources.0.files: no file matches `data/pile/*.zst`; check the pattern, or ask who owns "
        "`data/pile`, which is not for you to read",
    ]


def test_two_recipes_that_make_different_corpora_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    text = PREPARE.replace("org/model", "./tokenizer")
    again, other = (
        text.replace("name: p\n", "name: q\ntasks: 2\n"),
        text.replace("name: p\n", "name: r\nvalidation: 0.5\n"),
    )

    assert complaints(tmp_path, f"{text}---\n{again}---\n{other}") == [
        "recipe.yaml:19: corpus: `abstracts` is what `p` makes of other files or settings; write another name"
    ]


def test_a_corpus_made_otherwise_takes_its_name(tmp_path: Path) -> None:
    write(tmp_path, "", "tokenizer/tokenizer.json")
    write(tmp_path, "", "data/pile/0.zst")
    folder = make_corpus(tmp_path / "corpora" / "abstracts", [[[5, 2]]]).folder
    made = read_manifest(folder).model_copy(update={"clean": Clean().model_dump(mode="json")})
    write(folder, made.model_dump_json(), "manifest.json")
    text = PREPARE.replace("org/model", "./tokenizer")

    assert complaints(tmp_path, f"{text}validation: 0.0\n") == []
    (said,) = complaints(tmp_path, f"{text}validation: 0.25\nclean: {{min_characters: 9}}\n")
    (folder / "manifest.json").write_text("{")
    (torn,) = complaints(tmp_path, text)

    assert said == (
        "recipe.yaml:3: corpus: `abstracts` is there already, made otherwise (`validation` 0.0 there, 0.25 here; "
        "`clean.min_characters` 1 there, 9 here); write another name, or remove `corpora/abstracts`"
    )
    assert torn == (
        "recipe.yaml:3: corpus: `abstracts` is there already, and no whole corpus; write another name, or remove "
        "`corpora/abstracts`"
    )


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
    assert said.gpu_memory == 40 * 10**9
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
