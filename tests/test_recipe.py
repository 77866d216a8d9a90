"""Recipe models: units, sections, and parts that contradict each other."""

import json
from functools import cache
from pathlib import Path

import jsonschema
import pytest

from launcher.cluster import Cluster
from launcher.load.faults import plain
from launcher.load.nodes import parse_yaml
from launcher.recipe import recipe_adapter
from launcher.recipe.schema import document_schema, recipe_schema
from launcher.recipe.units import BatchSize, Duration, Interval, Length, Quantity, Share, Size
from tests.loading import RECIPE, faults, load

RECIPES = Path(__file__).parents[1] / "recipes"


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
    assert [Share("3%").steps(1001), Share("0%").steps(10), Share("12 steps").steps(1000)] == [31, 0, 12]
    assert Share("1.1%").steps(3000) == 33  # with floats it would be a little more, and rounded up


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
        (Share, "101%"),
        (Share, "3"),
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
    (
        "resources.nodes=3",
        "batch.global_batch: 8 sequences are not a multiple of batch.micro_batch x world size (1 x 3); ",
    ),
    (
        "batch.global_batch=5k tokens",
        "batch.global_batch: `5k tokens` are not a whole number of sequences of 2048 tokens; ",
    ),
    ("parallel.shard=2", "parallel.shard: belongs to `hybrid_shard`, not to `full_shard`; leave it out"),
    ("parallel.replicate=2", "parallel.replicate: belongs to `hybrid_shard`, not to `full_shard`; leave it out"),
    (
        "parallel={strategy: ddp, reshard_after_forward: false}",
        "parallel.reshard_after_forward: has no meaning for `ddp`; leave it out",
    ),
    (
        "parallel.shard=yes",
        "parallel.shard: `yes` is not known; write `node` or a whole number",
    ),
    (
        "parallel={strategy: hybrid_shard, shard: 3}",
        "parallel.shard: 3 ranks do not divide the world size (1); write `node` or a divisor of 1",
    ),
    (
        "parallel={strategy: hybrid_shard, replicate: 2}",
        "parallel.replicate: 2 x shard (1) is not the world size (1); write `auto` or `1`",
    ),
    (
        "parallel.offload=optimizer",
        "parallel.offload: is DeepSpeed's, and `full_shard` is not; write `strategy: zero3`, or leave it out",
    ),
    (
        "parallel={strategy: zero2, offload: all}",
        "parallel.offload: `zero2` computes with all parameters on each GPU; write `offload: optimizer`, or "
        "`strategy: zero3`",
    ),
    ("schedule.decay=5%", "schedule.decay: belongs to `wsd`, not to `cosine`; leave it out"),
    ("schedule={shape: constant, floor: 0.5}", "schedule.floor: has no meaning for `constant`; leave it out"),
    ("schedule.warmup=11 steps", "schedule.warmup: `11 steps` are more than the length (`10 steps`); write less"),
    (
        "schedule={shape: wsd, length: 1 epoch, warmup: 60%, decay: 50%}",
        "schedule.warmup: `60%` and `50%` are more than the length (`1 epoch`); write less",
    ),
    ("resources.gpu_memory=80GB", "resources.gpu_memory: no GPUs are asked for; write `gpus_per_node`, or `null` here"),
    ("data.corpora=[{name: a}, {name: a}]", "data.corpora.1.name: `a` is there twice; raise its `weight` instead"),
    ("name=a/b", "name: `a/b` cannot name a folder; write a name without `/`"),
    ("secrets=[not a name]", "secrets.0: is not the name of an environment variable; write a name such as"),
]


@pytest.mark.parametrize(("override", "message"), CONFLICTS)
def test_parts_that_contradict_each_other_are_refused(tmp_path: Path, override: str, message: str) -> None:
    (said,) = faults(tmp_path, RECIPE.partition("rehearsal:")[0], [override])

    key, _, complaint = message.partition(": ")
    assert f"{key}: " in said
    assert complaint in said


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

    assert faults(tmp_path, text) == [
        "recipe.yaml:6: resources.nodes: a task of `prepare` uses the CPUs of one node; write 1, and raise `tasks`",
    ]


def test_a_prepare_that_leaves_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nsources: [{format: pile, files: x}]\n"
        "resources: {time: 1h}\nvalidation: 1\n"
    )

    assert faults(tmp_path, text) == ["recipe.yaml:7: validation: `1` does not fit here; write a number less than 1"]


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

    assert faults(tmp_path, text) == [
        "recipe.yaml:7: sources.0.format: required, but missing; write `pile`, `text`, `parquet`, `dataset`, "
        "`medline`, `pmc`, `mimic_iv` or `mimic_iii`",
        "recipe.yaml:8: sources.1.format: `medlin` is not known; did you mean `medline`?",
        "recipe.yaml:9: sources.2.subset: unknown key; known keys: `files`, `license`, `format`, `document`",
        "recipe.yaml:10: sources.3.files: `/a` is a path of one site; write a name below the cluster profile's roots, "
        "or a path that starts with `./` (relative to this file)",
        "recipe.yaml:10: sources.3.languages: `eng` does not fit here; write a list: `[eng]`",
        "recipe.yaml:10: sources.3.label: unknown key; did you mean `labels`?",
        "recipe.yaml:11: sources.4.files: required, but missing (glob below the profile's `roots.data`, or `./...` "
        "relative to the recipe); write `files: ...`",
    ]


def test_what_is_meant_by_a_percentage_or_by_true_is_told(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += "sources: [{format: text, files: a}]\nvalidation: 0.5%\nclean: {near_duplicates: true}\n"

    assert faults(tmp_path, text) == [
        "recipe.yaml:7: validation: `0.5%` does not fit here; write `0.005`",
        "recipe.yaml:8: clean.near_duplicates: the boolean `true` does not fit here; write a section (lines of "
        "`key: value`), or `{}` for the usual values",
    ]


@pytest.mark.parametrize("code", ["eng", "EN", "xx", "uk-UA", "english"])
def test_a_language_that_cannot_be_told_is_refused(tmp_path: Path, code: str) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += f"sources: [{{format: text, files: a}}]\nclean: {{languages: [en, {code}]}}\n"

    (said,) = faults(tmp_path, text)

    assert "clean.languages.1: " in said
    assert f"`{code}` is none of the languages that can be told; write af, am, an, ar, " in said


def test_no_document_can_be_longer_than_the_longest(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
    text += "sources: [{format: text, files: a}]\n"

    assert faults(tmp_path, text + "clean:\n  max_characters: 5000\n  min_characters: 50000\n") == [
        "recipe.yaml:9: clean.min_characters: 50,000 is more than `max_characters` (5,000); write less"
    ]


def test_medline_has_codes_of_its_own(tmp_path: Path) -> None:
    text = "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"

    assert faults(tmp_path, text + "sources: [{format: medline, files: a, languages: [eng, en]}]\n") == [
        "recipe.yaml:6: sources.0.languages.1: `en` is no code of MEDLINE, which has three lower-case letters; write "
        "`eng` for English"
    ]


DATA = """data:
  corpora: [{name: a}, {name: b, weight: 2.0}]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "  temperature: 2\n",
            ["data.temperature: belongs to `mixture: temperature`, not to `proportions`; leave it out"],
        ),
        (
            "  mixture: temperature\n",
            ["data.temperature: `mixture: temperature` needs it; write for example `temperature: 2`"],
        ),
        (
            "  mixture: epochs\n  stages: [{until: 80%, weights: {a: 1}}, {weights: {b: 1}}]\n",
            [
                "data.corpora.1.weight: the stages say the weights; leave it out",
                "data.mixture: `epochs` counts whole trainings, not stages; write `proportions` or `temperature`",
            ],
        ),
    ],
)
def test_contradictions_of_a_mixture_are_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert [fault.split(": ", 1)[1] for fault in faults(tmp_path, with_data(DATA + text))] == expected


def test_contradictions_of_stages_are_named(tmp_path: Path) -> None:
    stages = """data:
  corpora: [{name: a}, {name: b}]
  stages:
  - {until: 80%, weights: {a: 1, c: 1}}
  - {until: 70%, weights: {a: 1}}
  - {weights: {a: 1}}
  - {until: 5 steps, weights: {b: 1}}
"""

    assert [fault.split(": ", 1)[1] for fault in faults(tmp_path, with_data(stages))] == [
        "data.stages.0.weights.c: is none of `data.corpora`; add it there",
        "data.stages.1.until: `70%` is not after the stage before (`80%`); write more",
        "data.stages.2.until: required, since another stage follows; write for example `until: 80%`",
        "data.stages.3.until: the last stage ends with the training; leave it out",
    ]


def with_data(section: str) -> str:
    """The usual recipe with another `data` section."""
    return RECIPE.replace("data:\n  corpora:\n    - name: abstracts\n", section)


def test_notes_of_patients_are_credentialed(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: org/t\nresources: {time: 1h}\n"
        "sources:\n- {format: mimic_iii, files: a}\n"
    )

    assert faults(tmp_path, text) == [
        "recipe.yaml:7: sources.0.format: MIMIC is under a data use agreement; write `data_use: credentialed`"
    ]


def test_a_recipe_survives_the_way_through_json(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE)

    assert recipe_adapter.validate_json(recipe.model_dump_json()) == recipe


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
