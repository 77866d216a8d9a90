"""What a message proposes works: no value that is refused in its turn, and no choice that was not meant."""

import re
from pathlib import Path

import pytest

from launcher.errors import RecipeError
from launcher.load import load_recipes
from launcher.load.read import MAX_BYTES
from launcher.load.yaml_scalars import resolve
from launcher.recipe.quantities import Duration, duration_of_clock
from tests.support.command_line import launcher
from tests.support.recipe_files import PROFILE, RECIPE, find_faults, find_profile_faults, load, summarise, write


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24:00:00", 86_400), ("12:30:00", 45_000), ("1:05:09", 3909), ("00:00:30", 30), ("100:00:00", 360_000)],
)
def test_a_time_as_slurm_writes_it_is_refused_with_the_same_time_as_a_duration(
    tmp_path: Path, text: str, seconds: int
) -> None:
    plain, quoted = RECIPE.replace("1h", text), RECIPE.replace("1h", f'"{text}"')
    for written in (plain, quoted):
        [fault] = find_faults(tmp_path, written)
        assert summarise([fault])[0].startswith("recipe.yaml:13 ")
        fixed = re.search("write `([^`]+)`", fault.message)
        assert fixed
        assert load(tmp_path, RECIPE.replace("1h", fixed[1])).resources.time.seconds == seconds


def test_days_as_slurm_writes_them_become_a_duration(tmp_path: Path) -> None:
    [fault] = find_faults(tmp_path, RECIPE.replace("1h", "1-12:00:00"))

    assert fault.message == "`1-12:00:00` cannot be read; write `1d12h`"


@pytest.mark.parametrize("text", ["12:30", "24:00:60", "0:00:00", "1:2:3:4", "12h", "-1:00:00", "1" * 50 + ":00:00"])
def test_what_is_no_time_of_slurm_is_told_an_example(text: str) -> None:
    assert duration_of_clock(text) is None
    if text != "12h":
        with pytest.raises(ValueError, match="write a duration such as `30min`"):
            Duration(text)


@pytest.mark.parametrize("seed", ["99999999999999999999", '"99999999999999999999"'])
def test_a_number_of_too_many_digits_is_not_told_to_lose_or_get_quotes_in_a_circle(tmp_path: Path, seed: str) -> None:
    [fault] = find_faults(tmp_path, f"{RECIPE}seed: {seed}\n")

    assert "without quotes" not in fault.message
    assert ("write fewer" if seed[0] != '"' else "write a whole number of at most 18 digits") in fault.message
    assert resolve("9" * 18) == (10**18 - 1, None)


def test_of_two_choices_both_are_told_and_a_slip_is_mended(tmp_path: Path) -> None:
    [device] = find_profile_faults(tmp_path, f"{PROFILE}gpus: {{device: gpu}}\n")
    [slip] = find_profile_faults(tmp_path, f"{PROFILE}gpus: {{device: cdua}}\n")
    [requeue] = find_profile_faults(tmp_path, f"{PROFILE}slurm: {{requeue: requeu}}\n")

    assert device.message == "`gpu` is not known; write `cuda` or `cpu`"
    assert slip.message == "`cdua` is not known; write `cuda` or `cpu`"
    assert requeue.message == "`requeu` is not known; did you mean `requeue`?"


@pytest.mark.parametrize(
    ("text", "key", "said"),
    [
        ("kind: [cpt]", "kind", "a list is not a kind of recipe; write one of `"),
        ("kind: {cpt: 1}", "kind", "a section is not a kind of recipe"),
        ("kind: []", "kind", "an empty list is not a kind of recipe"),
        ("kind: 5", "kind", "`5` is not a kind of recipe"),
    ],
)
def test_a_kind_that_is_no_word_is_told_as_what_it_is(tmp_path: Path, text: str, key: str, said: str) -> None:
    [fault] = find_faults(tmp_path, RECIPE.replace("kind: cpt", text))

    assert (fault.key, fault.code) == (key, "unknown-name")
    assert fault.message.startswith(said)


def test_so_it_is_with_the_format_of_a_section(tmp_path: Path) -> None:
    text = (
        "kind: prepare\nname: p\ncorpus: c\ntokenizer: t\nsources: [{format: [pile], files: x}]\n"
        "resources: {time: 1h}\n"
    )

    [fault] = find_faults(tmp_path, text)

    assert fault.key == "sources.0.format" and fault.message.startswith("a list is not known; write `")


def test_an_empty_space_of_a_search_is_told_what_it_lacks(tmp_path: Path) -> None:
    search = "search: {metric: loss, trials: 2, space: {}}\n"

    [fault] = find_faults(tmp_path, RECIPE + search)

    assert summarise([fault]) == ["recipe.yaml:16 conflict search.space"]
    assert fault.message == "`tpe` needs the values of at least one key; write them"


@pytest.mark.parametrize("value", ["x.yaml", "[a]"])
def test_a_base_is_for_files(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, RECIPE)

    with pytest.raises(RecipeError) as caught:
        load_recipes(path, [f"base={value}"])

    [fault] = caught.value.faults
    assert summarise([fault]) == ["--set base structure"]
    assert fault.message.startswith("only a file has a base; write `base: ")


def test_a_stage_that_sets_a_base_is_told_so(tmp_path: Path) -> None:
    write(tmp_path, RECIPE, "one.yaml")
    path = write(tmp_path, "kind: pipeline\nname: p\nstages: {a: {recipe: one.yaml, set: {base: x.yaml}}}\n")

    said = launcher("validate", str(path), code=2)[1]

    assert "only a file has a base; write `base: x.yaml` into one (of stage `a`, " in said


def test_a_large_file_is_no_recipe_and_is_not_read_to_its_end(tmp_path: Path) -> None:
    fits, large = tmp_path / "fits.yaml", tmp_path / "large.yaml"
    fits.write_text(RECIPE.ljust(MAX_BYTES - 1) + "\n")
    large.write_text(RECIPE)
    with large.open("r+") as file:
        file.truncate(2**40)  # nothing could read that

    assert len(load_recipes(fits)) == 1
    for words in (["validate"], ["submit"], ["plan"], ["validate", str(fits)]):
        profile = write(tmp_path, PROFILE, "site.yaml")
        said = launcher(*words, str(large), "--cluster", str(profile), code=2)[1]
        assert f"{large}: is larger than 5 MB, so it is no recipe; check the path" in said
    assert "is larger than 5 MB" in launcher("status", "--cluster", str(large), code=2)[1]
