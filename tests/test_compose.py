"""`base:`, `--set` and `rehearsal`: what is laid over what, and where faults point to."""

from pathlib import Path

import pytest

from launcher.errors import Fault
from launcher.load import load_recipes
from tests.loading import RECIPE, faults, load, write


def test_a_base_is_merged_key_by_key_and_lists_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("  lr: 1e-5\n", "  lr: 1e-5\n  eps: 1e-7\n"), "base.yaml")

    recipe = load(tmp_path, "base: base.yaml\nname: over\noptim: {lr: 2e-5}\ndata: {corpora: [{name: a}, {name: b}]}\n")

    assert (recipe.name, recipe.optim.lr, recipe.optim.eps) == ("over", 2e-5, 1e-7)
    assert [corpus.name for corpus in recipe.data.corpora] == ["a", "b"]


def test_bases_form_chains_over_folders(tmp_path: Path) -> None:
    write(tmp_path, RECIPE, "shared/root.yaml")
    write(tmp_path, "base: ../shared/root.yaml\nname: middle\nseed: 1\n", "team/middle.yaml")

    recipe = load(tmp_path, "base: team/middle.yaml\nname: top\n")

    assert (recipe.name, recipe.seed, recipe.optim.lr) == ("top", 1, 1e-5)


def test_files_named_in_a_base_stay_the_same_files(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("org/model", "../models/tiny"), "shared/deep/root.yaml")
    write(tmp_path, "base: deep/root.yaml\nmodel: {path: ./deep/../here}\n", "shared/moved.yaml")

    from_root = load(tmp_path, "base: shared/deep/root.yaml\n")
    from_moved = load(tmp_path, "base: shared/moved.yaml\n")

    assert from_root.model.path == "./shared/models/tiny"
    assert from_moved.model.path == "./shared/here"


def test_a_fault_in_a_base_points_to_the_base(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("1e-5", "-1"), "base.yaml")

    said = faults(tmp_path, "base: base.yaml\nseed: x\n")

    assert said == [
        "recipe.yaml:2: seed: `x` does not fit here; write a whole number",
        "base.yaml:9: optim.lr: `-1` does not fit here; write a number greater than 0",
    ]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("missing.yaml", "there is no file `missing.yaml`; the path is relative to this file"),
        ("recipe.yaml", "the files are each other's base (recipe.yaml -> recipe.yaml); break the loop"),
        ("[a, b]", "name one file: `base: other.yaml`"),
        ("two.yaml", "`two.yaml` holds 2 documents; a base holds one"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(tmp_path: Path, base: str, message: str) -> None:
    write(tmp_path, f"{RECIPE}---\n{RECIPE}", "two.yaml")

    assert f"recipe.yaml:1: base: {message}" in faults(tmp_path, f"base: {base}\n")


def test_a_loop_over_several_files_is_named(tmp_path: Path) -> None:
    write(tmp_path, "base: recipe.yaml\n", "other.yaml")

    said = faults(tmp_path, "base: other.yaml\n")

    assert "each other's base (recipe.yaml -> other.yaml -> recipe.yaml)" in "".join(said)


def test_set_lays_yaml_values_over_the_recipe(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        RECIPE,
        ["optim.lr=1e-4", "data.corpora.0.weight=2", "tracking={mode: offline, tags: [a, b]}", "optim.clip_norm=null"],
    )

    assert (recipe.optim.lr, recipe.optim.clip_norm, recipe.data.corpora[0].weight) == (1e-4, None, 2)
    assert (recipe.tracking.mode, recipe.tracking.tags) == ("offline", ("a", "b"))


def test_set_wins_over_the_rehearsal_and_reaches_into_it(tmp_path: Path) -> None:
    over = load(tmp_path, RECIPE, ["optim.lr=0.5"], rehearse=True)
    inside = load(tmp_path, RECIPE, ["rehearsal.optim.lr=0.25"], rehearse=True)

    assert (over.optim.lr, inside.optim.lr) == (0.5, 0.25)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr", "--set optim.lr: is not an assignment; write `--set optim.lr=1e-5`"),
        ("a." * 5000 + "a=3", "--set a.a."),
        ("=3", "--set : is not an assignment; write `--set optim.lr=1e-5`"),
        ("optim.lrr=3", "--set optim.lrr: unknown key; did you mean `lr`?"),
        ("optimm.lr=3", "--set optimm.lr: optimm: unknown key; did you mean `optim`?"),
        ("optim.lr=-1", "--set optim.lr: `-1` does not fit here; write a number greater than 0"),
        ("optim.lr=010", "--set optim.lr: `010` is octal in YAML 1.1 and decimal in 1.2; write `10`, or"),
        ("optim={lr: -1}", "--set optim: optim.lr: `-1` does not fit here; write a number greater than 0"),
        ("optim.lr.x=3", "--set optim.lr.x: `optim.lr` is a value without parts; write `--set optim.lr=...`"),
        ("data.corpora.1.name=x", "--set data.corpora.1.name: `data.corpora` has 1 items, counted from 0; write"),
        ("data.corpora.x=1", "--set data.corpora.x: `data.corpora` has 1 items, counted from 0; write one of"),
        ("name=[", "--set name: not YAML: "),
        ("name=a\n---\nb", "--set name: holds several YAML documents; write one value"),
        ("model.path=/abs", "--set model.path: `/abs` is a path of one site; write a name below"),
    ],
)
def test_a_set_that_cannot_be_laid_is_explained(tmp_path: Path, override: str, message: str) -> None:
    (said,) = faults(tmp_path, RECIPE, [override])

    assert said.startswith(message)


def test_a_value_set_in_a_rehearsal_is_complained_of_under_that_key_once(tmp_path: Path) -> None:
    (said,) = faults(tmp_path, RECIPE, ["rehearsal.model.path=/abs"], rehearse=True)

    assert said.startswith("--set rehearsal.model.path: `/abs` is a path of one site; write a name below")


def test_a_rehearsal_changes_what_it_names_and_the_name(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE, rehearse=True)

    assert (recipe.name, recipe.optim.lr, recipe.rehearsal) == ("tiny-rehearsal", 1e-3, None)


def test_a_rehearsal_may_set_its_own_name(tmp_path: Path) -> None:
    assert load(tmp_path, RECIPE + "  name: quick\n", rehearse=True).name == "quick"


def test_a_recipe_without_a_rehearsal_cannot_be_rehearsed(tmp_path: Path) -> None:
    text = RECIPE.partition("rehearsal:")[0]

    assert faults(tmp_path, text, rehearse=True) == [
        "recipe.yaml:1: the recipe has no `rehearsal`; write one, or leave out `--rehearse`"
    ]


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_rehearsal_is_checked_even_when_it_is_not_wanted(tmp_path: Path, rehearse: bool) -> None:
    text = RECIPE.replace("{lr: 1e-3}", "{lrr: 1e-3}")

    assert faults(tmp_path, text, rehearse=rehearse) == [
        "recipe.yaml:15: rehearsal.optim.lrr: unknown key; did you mean `lr`?"
    ]


def test_a_conflict_that_only_the_rehearsal_makes_says_so(tmp_path: Path) -> None:
    text = RECIPE + "  resources: {nodes: 3}\n"

    assert faults(tmp_path, text) == [
        "recipe.yaml:7: batch.global_batch: with `rehearsal` laid over the recipe: 8 sequences are not a multiple of "
        "batch.micro_batch x world size (1 x 3); write `9 sequences`"
    ]


def test_a_fault_of_the_recipe_is_not_told_again_for_its_rehearsal(tmp_path: Path) -> None:
    text = RECIPE.replace("  lr: 1e-5\n", "  eps: 1e-7\n").replace("{lr: 1e-3}", "{weight_decay: 0}")

    assert faults(tmp_path, text) == [
        "recipe.yaml:8: optim.lr: required, but missing (peak learning rate); write `lr: ...`"
    ]


def test_set_may_make_a_recipe_whole_that_its_rehearsal_does_not_fit(tmp_path: Path) -> None:
    text = RECIPE + "  resources: {nodes: 2}\n"

    recipe = load(tmp_path, text, ["batch.global_batch=9 sequences"])

    assert recipe.batch.sequences == 9


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("rehearsal: 3\n", "recipe.yaml:14: rehearsal: `3` does not fit here; write a section (lines of `key: value`)"),
        (
            "rehearsal: {rehearsal: {}}\n",
            "recipe.yaml:14: rehearsal.rehearsal: a rehearsal has no rehearsal of its own; remove it",
        ),
    ],
)
def test_a_rehearsal_that_is_none_is_refused(tmp_path: Path, overlay: str, message: str) -> None:
    text = RECIPE.partition("rehearsal:")[0] + overlay

    assert faults(tmp_path, text) == [message]


def test_set_applies_to_every_document(tmp_path: Path) -> None:
    loaded = load_recipes(write(tmp_path, f"{RECIPE}---\n{RECIPE}"), ["seed=7"])

    assert [item.recipe.seed for item in loaded] == [7, 7]


def test_a_later_fault_finds_the_line_of_its_key(tmp_path: Path) -> None:
    write(tmp_path, RECIPE, "base.yaml")
    (loaded,) = load_recipes(write(tmp_path, "base: base.yaml\nseed: 1\n"), ["resources.nodes=2"])

    keys = ("seed", "data.corpora.0.name", "resources.nodes", "batch.micro_batch")
    placed = [str(loaded.place(Fault("tiny", None, key, "no"))).replace(f"{tmp_path}/", "") for key in keys]

    assert placed == [
        "recipe.yaml:2: seed: no",
        "base.yaml:6: data.corpora.0.name: no",
        "--set resources.nodes: no",
        "base.yaml:7: batch.micro_batch: no",
    ]
