"""The points of a sweep: which there are, what their recipes hold, and every fault at once."""

from pathlib import Path

import pytest

from launcher.errors import Fault
from launcher.load import load_all
from tests.support.recipe_files import RECIPE, write


def load(tmp_path: Path, sweep: str, *options: str, overrides: tuple[str, ...] = ()) -> list[dict[str, object]]:
    loaded, faults = load_all([write(tmp_path, RECIPE + sweep)], overrides, sweeps=options)
    assert not faults
    return [dict(item.point.values) if item.point else {} for item in loaded]


def refuse(tmp_path: Path, sweep: str, *options: str) -> list[Fault]:
    loaded, faults = load_all([write(tmp_path, RECIPE + sweep)], sweeps=options)
    assert not loaded
    return faults


def test_a_grid_has_all_combinations_the_first_key_varies_slowest(tmp_path: Path) -> None:
    sweep = "sweep: {grid: {optim.lr: [1e-5, 3e-5], optim.weight_decay: [0, 0.1]}}\n"

    loaded, _ = load_all([write(tmp_path, RECIPE + sweep)])

    assert [(item.recipe.optim.lr, item.recipe.optim.weight_decay) for item in loaded if item.recipe.trains] == [
        *((1e-5, 0), (1e-5, 0.1)),
        *((3e-5, 0), (3e-5, 0.1)),
    ]
    assert [item.recipe.name for item in loaded] == [
        *("tiny-lr=1e-5-weight_decay=0", "tiny-lr=1e-5-weight_decay=0.1"),
        *("tiny-lr=3e-5-weight_decay=0", "tiny-lr=3e-5-weight_decay=0.1"),
    ]
    assert {item.point.sweep for item in loaded if item.point} == {"tiny"}


def test_the_sweep_is_no_part_of_the_recipe_of_a_point(tmp_path: Path) -> None:
    loaded, _ = load_all([write(tmp_path, RECIPE + "sweep: {seeds: [7, 8]}\n")])

    plain, _ = load_all([write(tmp_path, RECIPE + "seed: 7\n")], ["name=tiny-seed=7"])
    assert loaded[0].recipe == plain[0].recipe
    assert "sweep" not in loaded[0].recipe.model_dump()


def test_zip_list_and_seeds_are_combined_each_with_each(tmp_path: Path) -> None:
    sweep = (
        "sweep:\n  zip: {optim.lr: [1e-5, 3e-5], optim.weight_decay: [0, 0.1]}\n"
        "  list:\n    - {optim.clip_norm: 1}\n    - {optim.clip_norm: 2}\n  seeds: 2\n"
    )

    points = load(tmp_path, sweep)

    assert len(points) == 8
    assert [tuple(point.values()) for point in points[:3]] == [(1e-5, 0, 1, 1), (1e-5, 0, 1, 2), (1e-5, 0, 2, 1)]
    assert {(point["optim.lr"], point["optim.weight_decay"]) for point in points} == {(1e-5, 0), (3e-5, 0.1)}


def test_random_points_repeat_and_more_of_them_keep_the_first(tmp_path: Path) -> None:
    sweep = "sweep: {random: {points: %d, seed: 3, keys: {optim.lr: {low: 1e-6, high: 1e-3, scale: log}%s}}}\n"

    few, many = load(tmp_path, sweep % (5, "")), load(tmp_path, sweep % (9, ", seed: {low: 0, high: 9}"))
    other = load(tmp_path, (sweep % (5, "")).replace("seed: 3", "seed: 4"))

    assert [point["optim.lr"] for point in many[:5]] == [point["optim.lr"] for point in few]
    assert [point["optim.lr"] for point in other] != [point["optim.lr"] for point in few]
    assert all(1e-6 <= float(str(point["optim.lr"])) <= 1e-3 for point in many)
    assert len({str(point["optim.lr"]) for point in many}) == 9


def test_skipped_points_are_left_out(tmp_path: Path) -> None:
    sweep = (
        "sweep:\n  grid: {optim.lr: [1e-5, 3e-5, 1e-4]}\n  seeds: 2\n  skip:\n    - {optim.lr: [3e-5, 1e-4], seed: 2}\n"
    )

    assert [tuple(point.values()) for point in load(tmp_path, sweep)] == [(1e-5, 1), (1e-5, 2), (3e-5, 1), (1e-4, 1)]


def test_an_option_sweeps_a_recipe_without_a_sweep_and_replaces_values_of_one(tmp_path: Path) -> None:
    sweep = "sweep: {grid: {optim.lr: [1e-5, 3e-5]}}\n"

    alone = load(tmp_path, "", "optim.lr=1e-5,3e-5", "seed=1,2")
    replaced = load(tmp_path, sweep, "optim.lr=1e-3")

    assert [tuple(point.values()) for point in alone] == [(1e-5, 1), (1e-5, 2), (3e-5, 1), (3e-5, 2)]
    assert replaced == [{"optim.lr": 1e-3}]


def test_set_applies_to_all_points_and_rehearsal_to_each(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE + "sweep: {seeds: 2}\n")

    loaded, faults = load_all([path], ["optim.weight_decay=0.5"], rehearse=True)

    assert not faults
    assert [item.recipe.optim.weight_decay for item in loaded if item.recipe.trains] == [0.5, 0.5]
    assert [item.recipe.optim.lr for item in loaded if item.recipe.trains] == [1e-3, 1e-3]
    assert [item.point.sweep for item in loaded if item.point] == ["tiny-rehearsal"] * 2


def test_a_key_that_only_the_points_have_may_be_missing_in_the_recipe(tmp_path: Path) -> None:
    text = RECIPE.replace("optim:\n  lr: 1e-5\n", "")

    loaded, faults = load_all([write(tmp_path, text + "sweep: {grid: {optim.lr: [1e-5, 3e-5]}}\n")])

    assert not faults
    assert len(loaded) == 2


def test_a_fault_of_some_points_names_them_and_one_of_all_does_not(tmp_path: Path) -> None:
    sweep = "sweep:\n  grid:\n    optim.lr: [1e-5, fast]\n    optim.bogus: [1]\n  seeds: 3\n"

    wrong, unknown = sorted(refuse(tmp_path, sweep), key=lambda fault: fault.code, reverse=True)

    first = RECIPE.count("\n") + 1
    assert (wrong.code, wrong.key, wrong.line) == ("wrong-type", "optim.lr", first + 2)
    assert "at the point optim.lr=fast optim.bogus=1 seed=1 and 2 more points" in wrong.message
    assert (unknown.code, unknown.key, unknown.line) == ("unknown-key", "optim.bogus", first + 3)
    assert "point" not in unknown.message


@pytest.mark.parametrize(
    ("sweep", "code", "key"),
    [
        ("{grid: {optim.lr: []}}", "out-of-range", "sweep.grid.optim.lr"),
        ("{grid: {optim.lr: 1e-5}}", "wrong-type", "sweep.grid.optim.lr"),
        ("{zip: {optim.lr: [1e-5, 2e-5], seed: [1]}}", "conflict", "sweep.zip"),
        ("{grid: {seed: [1]}, seeds: 2}", "conflict", "sweep.seeds"),
        ("{grid: {name: [a, b]}}", "invalid-value", "sweep.grid.name"),
        ("{grid: {optim..lr: [1]}}", "invalid-value", "sweep.grid.optim..lr"),
        ("{}", "conflict", "sweep.grid"),
        ("{seeds: 2, skip: [{seed: 3}]}", "unknown-name", "sweep.skip.0"),
        ("{seeds: 2, skip: [{optim.lr: 3}]}", "unknown-name", "sweep.skip.0"),
        ("{seeds: 2, skip: [{seed: [1, 2]}]}", "conflict", "sweep.skip"),
        ("{seeds: [1, 1]}", "conflict", "sweep"),
        ("{seeds: 20000}", "out-of-range", "sweep"),
        ("{random: {points: 2, keys: {seed: {low: 1}}}}", "conflict", "sweep.random.keys.seed.of"),
        ("{random: {points: 2, keys: {optim.lr: {low: 0, high: 1, scale: log}}}}", "conflict", None),
        ("{bogus: 1, seeds: 2}", "unknown-key", "sweep.bogus"),
    ],
)
def test_a_wrong_sweep_is_refused(tmp_path: Path, sweep: str, code: str, key: str | None) -> None:
    faults = refuse(tmp_path, f"sweep: {sweep}\n")

    assert [fault.code for fault in faults] == [code]
    assert key is None or faults[0].key == key


@pytest.mark.parametrize("option", ["optim.lr", "optim.lr=", "=1,2", "optim.lr=[1"])
def test_a_wrong_option_is_refused_by_its_name(tmp_path: Path, option: str) -> None:
    faults = refuse(tmp_path, "", option)

    assert faults[0].file.startswith("--sweep ")
    assert "a base of" not in faults[0].message


def test_long_names_are_cut_and_stay_different(tmp_path: Path) -> None:
    long = "long " * 40
    sweep = f"sweep: {{grid: {{description: [{long}a, {long}b]}}}}\n"

    loaded, faults = load_all([write(tmp_path, RECIPE + sweep)])

    assert not faults
    assert len({item.recipe.name for item in loaded}) == 2
    assert max(len(item.recipe.name) for item in loaded) <= 100
