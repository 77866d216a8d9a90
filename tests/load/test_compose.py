"""`base:`, `--set` and `rehearsal`: what is laid over what, and where faults point to."""

from pathlib import Path

import pytest

from launcher.errors import Fault
from launcher.load import load_all, load_recipes
from tests.support.recipe_files import RECIPE, faults, find_faults, load, summarise, write


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


def test_the_folder_of_a_recipe_behind_a_link_is_where_the_file_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, RECIPE, "project/common/recipe.yaml")
    (tmp_path / "project" / "runs").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "project" / "runs")
    monkeypatch.chdir(tmp_path)

    [item] = load_recipes(Path("runs/../common/recipe.yaml"))

    assert item.folder == f"{tmp_path}/runs/../common", "without the link it would be another folder"
    assert Path(item.folder).samefile(tmp_path / "project" / "common")


def test_files_named_in_a_base_stay_the_same_files(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("org/model", "../models/tiny"), "shared/deep/root.yaml")
    write(tmp_path, "base: deep/root.yaml\nmodel: {path: ./deep/../here}\n", "shared/moved.yaml")

    from_root = load(tmp_path, "base: shared/deep/root.yaml\n")
    from_moved = load(tmp_path, "base: shared/moved.yaml\n")

    assert from_root.model.path == "./shared/models/tiny"
    assert from_moved.model.path == "./shared/here"


def test_a_fault_in_a_base_points_to_the_base(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("1e-5", "-1"), "base.yaml")

    found = find_faults(tmp_path, "base: base.yaml\nseed: x\n")

    assert summarise(found) == ["recipe.yaml:2 wrong-type seed", "base.yaml:9 out-of-range optim.lr"]


@pytest.mark.parametrize(
    ("base", "code", "said"),
    [
        ("missing.yaml", "not-found", "`missing.yaml`"),
        ("recipe.yaml", "structure", "(recipe.yaml -> recipe.yaml)"),
        ("[a, b]", "wrong-type", "`base: other.yaml`"),
        ("two.yaml", "structure", "holds 2 documents"),
    ],
)
def test_a_base_that_cannot_be_one_is_refused(tmp_path: Path, base: str, code: str, said: str) -> None:
    write(tmp_path, f"{RECIPE}---\n{RECIPE}", "two.yaml")

    fault = find_faults(tmp_path, f"base: {base}\n")[0]

    assert summarise([fault]) == [f"recipe.yaml:1 {code} base"]
    assert said in fault.message.replace(f"{tmp_path}/", "")


def test_a_loop_over_several_files_is_named(tmp_path: Path) -> None:
    write(tmp_path, "base: recipe.yaml\n", "other.yaml")

    said = faults(tmp_path, "base: other.yaml\n")

    assert "(recipe.yaml -> other.yaml -> recipe.yaml)" in "".join(said)


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
    ("override", "summary", "said"),
    [
        ("optim.lr", "--set optim.lr structure", "write `--set optim.lr=1e-5`"),
        ("=3", "--set  structure", "write `--set optim.lr=1e-5`"),
        ("optim.lrr=3", "--set optim.lrr unknown-key", "did you mean `lr`?"),
        ("optimm.lr=3", "--set optimm.lr unknown-key optimm", "did you mean `optim`?"),
        ("optim.lr=-1", "--set optim.lr out-of-range", "greater than 0"),
        ("optim.lr=010", "--set optim.lr syntax", "write `10`"),
        ("optim={lr: -1}", "--set optim out-of-range optim.lr", "greater than 0"),
        ("optim.lr.x=3", "--set optim.lr.x structure", "write `--set optim.lr=...`"),
        ("data.corpora.1.name=x", "--set data.corpora.1.name structure", "has 1 items, counted from 0"),
        ("data.corpora.x=1", "--set data.corpora.x structure", "has 1 items, counted from 0"),
        ("name=[", "--set name syntax", "not YAML"),
        ("name=a\n---\nb", "--set name structure", "write one value"),
        ("model.path=/abs", "--set model.path site-path", "write a name below"),
    ],
)
def test_a_set_that_cannot_be_laid_is_explained(tmp_path: Path, override: str, summary: str, said: str) -> None:
    (fault,) = find_faults(tmp_path, RECIPE, [override])

    assert summarise([fault]) == [summary]
    assert said in fault.message


def test_a_set_with_a_key_of_too_many_parts_is_refused(tmp_path: Path) -> None:
    (fault,) = find_faults(tmp_path, RECIPE, ["a." * 5000 + "a=3"])

    assert fault.code == "structure"


def test_a_value_set_in_a_rehearsal_is_complained_of_under_that_key_once(tmp_path: Path) -> None:
    found = find_faults(tmp_path, RECIPE, ["rehearsal.model.path=/abs"], rehearse=True)

    assert summarise(found) == ["--set rehearsal.model.path site-path"]


def test_a_rehearsal_changes_what_it_names_and_the_name(tmp_path: Path) -> None:
    recipe = load(tmp_path, RECIPE, rehearse=True)

    assert (recipe.name, recipe.optim.lr, recipe.rehearsal) == ("tiny-rehearsal", 1e-3, None)


def test_a_rehearsal_may_set_its_own_name(tmp_path: Path) -> None:
    assert load(tmp_path, RECIPE + "  name: quick\n", rehearse=True).name == "quick"


def test_a_recipe_without_a_rehearsal_cannot_be_rehearsed(tmp_path: Path) -> None:
    text = RECIPE.partition("rehearsal:")[0]

    (fault,) = find_faults(tmp_path, text, rehearse=True)

    assert summarise([fault]) == ["recipe.yaml:1 structure"]
    assert "`rehearsal`" in fault.message


@pytest.mark.parametrize("rehearse", [False, True])
def test_a_rehearsal_is_checked_even_when_it_is_not_wanted(tmp_path: Path, rehearse: bool) -> None:
    text = RECIPE.replace("{lr: 1e-3}", "{lrr: 1e-3}")

    found = find_faults(tmp_path, text, rehearse=rehearse)

    assert summarise(found) == ["recipe.yaml:15 unknown-key rehearsal.optim.lrr"]


def test_a_conflict_that_only_the_rehearsal_makes_says_so(tmp_path: Path) -> None:
    text = RECIPE + "  resources: {nodes: 3}\n"

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:7 conflict batch.global_batch"]
    assert fault.message.startswith("with `rehearsal` laid over the recipe: 8 sequences")
    assert fault.message.endswith("write `9 sequences`")


def test_a_fault_of_the_recipe_is_not_told_again_for_its_rehearsal(tmp_path: Path) -> None:
    text = RECIPE.replace("  lr: 1e-5\n", "  eps: 1e-7\n").replace("{lr: 1e-3}", "{weight_decay: 0}")

    (fault,) = find_faults(tmp_path, text)

    assert summarise([fault]) == ["recipe.yaml:8 missing-key optim.lr"]
    assert "(peak learning rate)" in fault.message


def test_set_may_make_a_recipe_whole_that_its_rehearsal_does_not_fit(tmp_path: Path) -> None:
    text = RECIPE + "  resources: {nodes: 2}\n"

    recipe = load(tmp_path, text, ["batch.global_batch=9 sequences"])

    assert recipe.batch.sequences == 9


@pytest.mark.parametrize(
    ("overlay", "summary"),
    [
        ("rehearsal: 3\n", "recipe.yaml:14 wrong-type rehearsal"),
        ("rehearsal: {rehearsal: {}}\n", "recipe.yaml:14 structure rehearsal.rehearsal"),
    ],
)
def test_a_rehearsal_that_is_none_is_refused(tmp_path: Path, overlay: str, summary: str) -> None:
    text = RECIPE.partition("rehearsal:")[0] + overlay

    assert summarise(find_faults(tmp_path, text)) == [summary]


def test_set_applies_to_every_document(tmp_path: Path) -> None:
    loaded = load_recipes(write(tmp_path, f"{RECIPE}---\n{RECIPE}"), ["seed=7"])

    assert [item.recipe.seed for item in loaded] == [7, 7]


def test_a_later_fault_finds_the_line_of_its_key(tmp_path: Path) -> None:
    write(tmp_path, RECIPE, "base.yaml")
    (loaded,) = load_recipes(write(tmp_path, "base: base.yaml\nseed: 1\n"), ["resources.nodes=2"])

    keys = ("seed", "data.corpora.0.name", "resources.nodes", "batch.micro_batch")
    placed = [str(loaded.place(Fault("tiny", None, key, "no", "conflict"))).replace(f"{tmp_path}/", "") for key in keys]

    assert placed == [
        "recipe.yaml:2: seed: no",
        "base.yaml:6: data.corpora.0.name: no",
        "--set resources.nodes: no",
        "base.yaml:7: batch.micro_batch: no",
    ]


def test_a_section_marked_replace_takes_the_place_of_that_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("  lr: 1e-5\n", "  lr: 1e-5\n  eps: 1e-7\n"), "base.yaml")

    merged = load(tmp_path, "base: base.yaml\noptim: {lr: 2e-5}\n")
    replaced = load(tmp_path, "base: base.yaml\noptim: !replace {lr: 2e-5}\n")
    block = load(tmp_path, "base: base.yaml\noptim: !replace\n  lr: 2e-5\n")
    rehearsed = load(tmp_path, RECIPE.replace("optim: {lr: 1e-3}", "optim: !replace {lr: 1e-3}"), rehearse=True)
    write(tmp_path, "base: base.yaml\noptim: !replace {lr: 2e-5}\n", "middle.yaml")
    above = load(tmp_path, "base: middle.yaml\noptim: {eps: 1e-6}\n")

    assert merged.optim.eps == 1e-7
    assert replaced.optim == block.optim and replaced.optim.eps != 1e-7
    assert rehearsed.optim.lr == 1e-3
    assert (above.optim.lr, above.optim.eps) == (2e-5, 1e-6)


@pytest.mark.parametrize("text", ["name: !replace x", "model: !other {path: m}"])
def test_other_tags_are_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path, RECIPE, "base.yaml")

    [fault] = find_faults(tmp_path, f"base: base.yaml\n{text}\n")

    assert summarise([fault]) == [f"recipe.yaml:2 syntax {text.partition(':')[0]}"]
    assert "remove it" in fault.message


def test_faults_that_merging_made_point_to_the_file_that_was_laid_over(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}adapter: {{method: lora, r: 8}}\n", "base.yaml")
    load(tmp_path, "base: base.yaml\n")
    write(tmp_path, "base: base.yaml\nname: m\nadapter: {method: prefix}\n", "middle.yaml")

    other_method = find_faults(tmp_path, "base: base.yaml\nname: x\nadapter: {method: prefix}\n")
    below = find_faults(tmp_path, "base: middle.yaml\nname: x\n")
    larger_batch = find_faults(tmp_path, "name: x\nbase: base.yaml\nbatch:\n  micro_batch: 16\n")
    more_ranks = find_faults(tmp_path, "name: x\nbase: base.yaml\nresources: {nodes: 3}\n")

    assert summarise(other_method) == ["recipe.yaml:3 unknown-key adapter.r"]
    assert summarise(below) == ["middle.yaml:3 unknown-key adapter.r"]
    assert summarise(larger_batch) == ["recipe.yaml:3 conflict batch.global_batch"]
    assert summarise(more_ranks) == ["recipe.yaml:2 conflict batch.global_batch"]
    assert f"`adapter.r` stands in {tmp_path}/base.yaml:16" in other_method[0].message


def test_a_fault_of_a_base_is_told_once_and_names_the_recipes(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("1e-5", "-1"), "base.yaml")
    paths = [write(tmp_path, f"base: base.yaml\nname: r{number}\n", f"r{number}.yaml") for number in range(5)]
    sound = write(tmp_path, RECIPE, "sound.yaml")

    loaded, found = load_all([*paths, sound])

    assert [item.path for item in loaded] == [sound]
    assert summarise(found) == ["base.yaml:9 out-of-range optim.lr"]
    assert all(f"`{path}`" in found[0].message for path in paths[:3]) and "and 2 more" in found[0].message


def test_the_sound_recipes_of_a_file_are_loaded_beside_faulty_ones(tmp_path: Path) -> None:
    path = write(tmp_path, f"{RECIPE}---\n{RECIPE.replace('1e-5', '-1')}---\n{RECIPE.replace('tiny', 'third')}")

    loaded, found = load_all([path])

    assert [item.recipe.name for item in loaded] == ["tiny", "third"]
    assert summarise(found) == ["recipe.yaml:25 out-of-range optim.lr"]
