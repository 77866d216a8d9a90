"""Recipe models: units, sections, and parts that contradict each other."""

import json
import re
from fractions import Fraction
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from launcher.cluster import Cluster
from launcher.load.translate import plain
from launcher.load.yaml_tree import parse_yaml
from launcher.recipe import read_recipe
from launcher.recipe.quantities import BatchSize, Duration, Interval, Length, PercentOrSteps, Quantity, Size
from launcher.recipe.schema import document_schema, recipe_schema
from tests.support.recipe_files import RECIPE, faults, find_faults, load, summarise

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("12h", 43200), ("1d12h", 129600), ("1h30min", 5400)]
)
def test_durations_are_seconds(text: str, seconds: int) -> None:
    assert Duration(text).seconds == seconds


@pytest.mark.parametrize(("text", "size"), [("80GB", 80 * 10**9), ("1.5GiB", 3 * 2**29), ("2TiB", 2**41)])
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert Size(text).bytes == size


@pytest.mark.parametrize(
    ("quantity", "value", "unit"),
    [
        (BatchSize("2048 sequences"), 2048, "sequence"),
        (BatchSize("4M tokens"), 4_000_000, "token"),
        (BatchSize("4.2M tokens"), 4_200_000, "token"),
        (Length("1 epoch"), 1, "epoch"),
        (Length("63B tokens"), 63 * 10**9, "token"),
        (Length("3k steps"), 3000, "step"),
    ],
)
def test_counts_have_a_value_and_a_unit(quantity: BatchSize | Length, value: int, unit: str) -> None:
    assert (quantity.value, quantity.unit) == (value, unit)


def test_shares_become_steps_and_percentages_are_rounded_up() -> None:
    assert [
        PercentOrSteps("3%").steps(1001),
        PercentOrSteps("0%").steps(10),
        PercentOrSteps("12 steps").steps(1000),
    ] == [31, 0, 12]
    assert PercentOrSteps("1.1%").steps(3000) == 33  # with floats it would be a little more, and rounded up


def test_an_interval_is_in_steps_or_in_seconds() -> None:
    assert (Interval("1000 steps").steps, Interval("1000 steps").seconds) == (1000, None)
    assert (Interval("30min").steps, Interval("30min").seconds) == (None, 1800)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Duration, "12"),
        (Duration, "12 h"),
        (Duration, "-1h"),
        (Duration, "0h"),
        (Duration, "1h\n"),
        (Duration, "٣h"),
        (Duration, "9" * 5000 + "h"),
        (Size, "80"),
        (Size, "80gb"),
        (Size, "0GB"),
        (BatchSize, "2048"),
        (BatchSize, "1.5 sequences"),
        (BatchSize, "8 epochs"),
        (Length, "0 steps"),
        (Length, "1.5 steps"),
        (PercentOrSteps, "101%"),
        (PercentOrSteps, "3"),
        (Interval, "0 steps"),
        (Interval, "1 epoch"),
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(kind: type[Quantity], text: str) -> None:
    with pytest.raises(ValueError, match=r"write an? .* such as `"):
        kind(text)


def test_half_an_epoch_is_a_length() -> None:
    assert Length("0.5 epochs").exact * 2 == 1


CONFLICTS = [
    ("resources.nodes=3", "batch.global_batch", "(1 x 3)"),
    ("batch.global_batch=5k tokens", "batch.global_batch", "of 2048 tokens"),
    ("parallel.shard=2", "parallel.shard", "`hybrid_shard`"),
    ("parallel.replicate=2", "parallel.replicate", "`hybrid_shard`"),
    ("parallel={strategy: ddp, reshard_after_forward: false}", "parallel.reshard_after_forward", "`ddp`"),
    ("parallel={strategy: hybrid_shard, shard: 3}", "parallel.shard", "write `node` or a divisor of 1"),
    ("parallel={strategy: hybrid_shard, replicate: 2}", "parallel.replicate", "write `auto` or `1`"),
    ("parallel.offload=optimizer", "parallel.offload", "write `strategy: zero3`"),
    (
        "parallel={strategy: zero2, offload: all}",
        "parallel.offload",
        "write `offload: optimizer`, or `strategy: zero3`",
    ),
    ("schedule.decay=5%", "schedule.decay", "`wsd`"),
    ("schedule={shape: constant, floor: 0.5}", "schedule.floor", "`constant`"),
    ("schedule.warmup=11 steps", "schedule.warmup", "(`10 steps`)"),
    ("schedule.warmup=10 steps", "schedule.warmup", "never reaches its peak"),
    ("schedule={length: 1 step, warmup: 3%}", "schedule.warmup", "`3%` is all of the length (`1 step`)"),
    ("schedule={length: 1 epoch, warmup: 100%}", "schedule.warmup", "never reaches its peak"),
    ("schedule={shape: wsd, length: 1 epoch, warmup: 60%, decay: 50%}", "schedule.warmup", "`60%` and `50%`"),
    ("resources.gpu_memory=80GB", "resources.gpu_memory", "write `gpus_per_node`, or `null`"),
    ("data.corpora=[{name: a}, {name: a}]", "data.corpora.1.name", "raise its `weight`"),
]


@pytest.mark.parametrize(
    ("epoch", "schedule", "said"),
    [
        (
            63,
            {"length": "1 epoch"},
            "batch.global_batch: `1 epoch` is 63 sequences, less than one step of 64; write `60 ",
        ),
        (3, {"length": "1 epoch"}, "batch.global_batch: `1 epoch` is 3 sequences, less than one step of 64; add data"),
        (3, {"length": "5 epochs"}, "batch.global_batch: `5 epochs` is 15 sequences, .*; write `12 sequences` or less"),
        (
            64,
            {"length": "1 epoch"},
            r"schedule.warmup: `3%` takes all steps of the training \(1\), .*; write `0 steps`",
        ),
        (640, {"length": "1 epoch", "warmup": "10 steps"}, r"schedule.warmup: `10 steps` takes all steps .* \(10\)"),
        (64, {"length": "1 epoch", "warmup": "0 steps"}, None),
        (3, {"length": "22 epochs"}, None),
        (640, {"length": "1 epoch", "warmup": "9 steps"}, None),
        (3, {"length": "2 steps"}, None),
    ],
)
def test_data_and_schedules_that_train_nothing_are_told_from_those_that_train(
    tmp_path: Path, epoch: int, schedule: dict[str, str], said: str | None
) -> None:
    batch = "batch={global_batch: 64 sequences, micro_batch: 4}"
    overrides = [batch, *(f"schedule.{key}={value}" for key, value in schedule.items())]
    recipe = load(tmp_path, RECIPE.partition("rehearsal:")[0], overrides)

    fault = recipe.find_too_little(Fraction(epoch))

    assert re.match(said, fault or "") if said else fault is None


@pytest.mark.parametrize(("override", "key", "said"), CONFLICTS)
def test_parts_that_contradict_each_other_are_refused(tmp_path: Path, override: str, key: str, said: str) -> None:
    (fault,) = find_faults(tmp_path, RECIPE.partition("rehearsal:")[0], [override])

    assert fault.code == "conflict"
    assert (fault.key or fault.file.removeprefix("--set ")) == key
    assert said in fault.message


@pytest.mark.parametrize(
    ("override", "summary"),
    [
        ("name=a/b", "--set name invalid-value"),
        ("secrets=[not a name]", "--set secrets invalid-value secrets.0"),
        ("parallel.shard=yes", "--set parallel.shard unknown-name"),
    ],
)
def test_values_that_a_key_cannot_have_are_refused(tmp_path: Path, override: str, summary: str) -> None:
    assert summarise(find_faults(tmp_path, RECIPE.partition("rehearsal:")[0], [override])) == [summary]


def test_all_conflicts_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    text = RECIPE.partition("rehearsal:")[0].replace("  time: 1h\n", "  time: 1h\n  nodes: 3\n")
    text += "precision: {dtype: fp32}\nparallel: {shard: 2}\n"

    said = faults(tmp_path, text.replace("org/model}", "org/model, attention: flash}"))

    assert [line.split(": ")[1] for line in said] == ["model.attention", "batch.global_batch", "parallel.shard"]


def test_a_single_shard_per_replica_is_refused(tmp_path: Path) -> None:
    text = RECIPE.partition("rehearsal:")[0] + "parallel: {strategy: hybrid_shard}\n"

    assert "parallel.shard: groups of 1 rank shard nothing" in faults(tmp_path, text, ["resources.nodes=2"])[0]


@pytest.mark.parametrize(
    ("strategy", "shard_size", "replicas"),
    [("ddp", 1, 8), ("full_shard", 8, 1), ("zero3", 8, 1), ("hybrid_shard", 4, 2)],
)
def test_ranks_form_shard_groups_and_replicas(tmp_path: Path, strategy: str, shard_size: int, replicas: int) -> None:
    text = RECIPE.partition("rehearsal:")[0]

    recipe = load(tmp_path, text, [f"parallel.strategy={strategy}", "resources={nodes: 2, gpus_per_node: 4}"])

    assert (recipe.shard_size, recipe.replicas, recipe.accumulation_steps) == (shard_size, replicas, 1)


def test_a_task_of_prepare_has_one_node(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nsources: [{format: pile, files: x}]\n"
        "resources: {time: 1h, nodes: 2}\n"
    )

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:6 conflict resources.nodes"]
    assert fault.message.endswith("write 1, and raise `tasks`")


def test_a_prepare_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nsources: [{format: pile, files: x}]\n"
        "resources: {time: 1h}\nvalidation: 1\n"
    )

    assert summarise(find_faults(tmp_path, text)) == ["recipe.yaml:7 out-of-range validation"]


def test_faults_of_a_source_are_those_of_its_format(tmp_path: Path) -> None:
    text = """kind: prepare
name: p
corpus: c
tokenizer: org/t
resources: {time: 1h}
sources:
- {files: a}
- {format: medlin, files: a}
- {format: text, files: a, subset: b}
- {format: medline, files: /a, label: true, languages: eng}
- {format: mimic_iv}
"""

    found = find_faults(tmp_path, text)

    assert summarise(found) == [
        "recipe.yaml:7 missing-key sources.0.format",
        "recipe.yaml:8 unknown-name sources.1.format",
        "recipe.yaml:9 unknown-key sources.2.subset",
        "recipe.yaml:10 site-path sources.3.files",
        "recipe.yaml:10 wrong-type sources.3.languages",
        "recipe.yaml:10 unknown-key sources.3.label",
        "recipe.yaml:11 missing-key sources.4.files",
    ]
    fixes = ("`mimic_iv` or `mimic_iii`", "`medline`?", "`document`", "(relative to this file)", "`[eng]`", "`labels`?")
    assert [fix for fix, fault in zip(fixes, found, strict=False) if not fault.message.endswith(fix)] == []


def test_what_is_meant_by_a_percentage_or_by_true_is_told(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += "sources: [{format: text, files: a}]\nvalidation: 0.5%\nclean: {near_duplicates: true}\n"

    found = find_faults(tmp_path, text)

    assert summarise(found) == [
        "recipe.yaml:7 wrong-type validation",
        "recipe.yaml:8 wrong-type clean.near_duplicates",
    ]
    assert found[0].message.endswith("write `0.005`")
    assert "or `{}` for" in found[1].message


@pytest.mark.parametrize(
    ("code", "nearest"), [("eng", "en"), ("EN", "en"), ("xx", "xh"), ("ukr", "uk"), ("english", "el")]
)
def test_a_language_that_cannot_be_identified_is_refused(tmp_path: Path, code: str, nearest: str) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += f"sources: [{{format: text, files: a}}]\nclean: {{languages: [en, {code}]}}\n"

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:7 unknown-name clean.languages.1"]
    assert f"`{code}`" in fault.message
    assert f"write one of `{nearest}`, " in fault.message
    assert all(f"`{known}`" in fault.message for known in ("af", "en", "zu"))


def test_no_document_can_be_longer_than_the_longest(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += "sources: [{format: text, files: a}]\n"

    found = find_faults(tmp_path, text + "clean:\n  max_characters: 5000\n  min_characters: 50000\n")

    assert summarise(found) == ["recipe.yaml:9 conflict clean.min_characters"]


def test_medline_has_codes_of_its_own(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"

    (fault,) = find_faults(tmp_path, text + "sources: [{format: medline, files: a, languages: [eng, en]}]\n")

    assert summarise([fault]) == ["recipe.yaml:6 invalid-value sources.0.languages.1"]
    assert fault.message.endswith("write `eng` for English")


DATA = """data:
  corpora: [{name: a}, {name: b, weight: 2.0}]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  temperature: 2\n", ["data.temperature"]),
        ("  mixture: temperature\n", ["data.temperature"]),
        (
            "  mixture: epochs\n  stages: [{until: 80%, weights: {a: 1}}, {weights: {b: 1}}]\n",
            ["data.corpora.1.weight", "data.mixture"],
        ),
    ],
)
def test_contradictions_of_a_mixture_are_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = find_faults(tmp_path, with_data(DATA + text))

    assert [(fault.code, fault.key) for fault in found] == [("conflict", key) for key in expected]


def test_contradictions_of_stages_are_named(tmp_path: Path) -> None:
    stages = """data:
  corpora: [{name: a}, {name: b}]
  stages:
  - {until: 80%, weights: {a: 1, c: 1}}
  - {until: 70%, weights: {a: 1}}
  - {weights: {a: 1}}
  - {until: 5 steps, weights: {b: 1}}
"""

    assert [(fault.code, fault.key) for fault in find_faults(tmp_path, with_data(stages))] == [
        ("conflict", "data.stages.0.weights.c"),
        ("conflict", "data.stages.1.until"),
        ("conflict", "data.stages.2.until"),
        ("conflict", "data.stages.3.until"),
    ]


def with_data(section: str) -> str:
    """The usual recipe with another `data` section."""
    return RECIPE.replace("data:\n  corpora:\n    - name: abstracts\n", section)


def test_notes_of_patients_are_credentialed(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
        "sources:\n- {format: mimic_iii, files: a}\n"
    )

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:7 conflict sources.0.format"]
    assert fault.message.endswith("write `data_use: credentialed`")


def test_a_recipe_survives_the_way_through_json(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)

    assert read_recipe(recipe.model_dump_json()) == recipe


def test_every_key_is_described_and_no_section_has_more_than_fifteen() -> None:
    definitions = recipe_schema()["$defs"] | document_schema(Cluster)["$defs"]
    sections = {name: schema["properties"] for name, schema in definitions.items() if not name.startswith("Rehearsal")}

    # A key whose words are those of its section has no description of its own, only the reference.
    lacking = [
        key for keys in sections.values() for key, value in keys.items() if not {"description", "$ref"} & {*value}
    ]

    assert not lacking
    assert max(map(len, sections.values())) <= 15


@cache
def validator(kind: str = "") -> jsonschema.Draft202012Validator:
    """Editors' view of one kind of file, or of any recipe; making one takes a second."""
    schema = document_schema(Cluster) if kind == "cluster" else recipe_schema(kind or None)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_obey_the_schema_for_editors(path: Path) -> None:
    documents = parse_yaml(path.read_text(encoding="utf-8"), path.name).documents

    assert documents
    for document in documents:
        validator("cluster" if path.parent.name == "clusters" else "").validate(plain(document.root))


@pytest.mark.parametrize(
    ("document", "is_valid"),
    [
        ({"base": "x.yaml", "optim": {"eps": 1e-8}}, True),
        ({"base": "x.yaml", "optim": {"epps": 1e-8}}, True),
        ({"base": "x.yaml", "kind": "cpt", "optim": {"eps": 1e-8}}, True),
        ({"base": "x.yaml", "kind": "cpt", "optim": {"epps": 1e-8}}, False),
        ({"kind": "cpt", "optim": {"eps": 1e-8}}, False),
        ({"kind": "ctp"}, False),
        ({}, False),
    ],
)
def test_the_schema_asks_for_less_in_a_file_with_a_base(document: dict[str, object], is_valid: bool) -> None:
    assert validator().is_valid(document) is is_valid


def test_the_schema_knows_the_keys_of_a_rehearsal(tmp_path: Path) -> None:
    whole = json.loads(load(tmp_path, RECIPE).model_dump_json(exclude_defaults=True))

    whole["rehearsal"] = {"optim": {"eps": 1e-7}}
    sound = validator("cpt").is_valid(whole)
    whole["rehearsal"] = {"optim": {"epps": 1e-7}}

    assert (sound, validator("cpt").is_valid(whole)) == (True, False)


def test_a_stage_that_weighs_an_unknown_corpus_is_told_the_corpora_there_are_nearest_first(tmp_path: Path) -> None:
    text = RECIPE.replace(
        "    - name: abstracts\n",
        "    - name: notes\n    - name: abstracts\n  stages: [{weights: {abstract: 1, notes: 1}}]\n",
    )

    (said,) = faults(tmp_path, text)

    assert "data.stages.0.weights.abstract: is not one of `data.corpora` (`abstracts`, `notes`)" in said
