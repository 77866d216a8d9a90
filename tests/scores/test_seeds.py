"""`launcher compare --group`: means over seeds, and whether two methods differ by more than their seeds do."""

import csv
import io
import json
import re

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from launcher.artifacts.scores import Training
from launcher.recipe import read_recipe
from launcher.recipe.identity import method_checksum
from launcher.scores.seeds import SeedDifference, Spread
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, write_evaluation
from tests.support.training_runs import cpt_recipe

RIGHT = {
    "plain-seed1": "1100101000",
    "plain-seed2": "1100001000",
    "plain-seed3": "1000101000",
    "terms-seed1": "1111111010",
    "terms-seed2": "1111101110",
    "terms-seed3": "1111111110",
}


@pytest.fixture
def six(tmp_path):
    """Two methods with three seeds each."""
    return [str(evaluation(tmp_path, name, right)) for name, right in RIGHT.items()]


def evaluation(folder, name, right, **changes):
    method, seed = name.split("-seed")
    tasks = {"pubmedqa": choice_report(answered(right))}
    trainings = [Training(name="llama"), Training(name=f"{name}-adapter", method=method, seed=int(seed))]
    return write_evaluation(folder / name, tasks, name, f"{seed}{method[:4]}", **{"trainings": trainings, **changes})


def accuracies(method):
    return [right.count("1") / 10 for name, right in RIGHT.items() if name.startswith(method)]


def as_json(*arguments):
    return json.loads(launcher("compare", "--group", *map(str, arguments), "--json")[0])


def test_means_and_deviations_over_seeds_agree_with_scipy(six):
    found = as_json(*six)

    [plain, terms] = found["rows"]
    assert [(one["label"], one["seeds"]) for one in found["groups"]] == [("plain", [1, 2, 3]), ("terms", [1, 2, 3])]
    for row, method in ((plain, "plain"), (terms, "terms")):
        assert row["spread"]["mean"] == pytest.approx(stats.tmean(accuracies(method)))
        assert row["spread"]["standard_deviation"] == pytest.approx(stats.tstd(accuracies(method)))
        assert row["spread"]["n"] == 3
    welch = stats.ttest_ind(accuracies("terms"), accuracies("plain"), equal_var=False)
    assert terms["difference"]["value"] / terms["difference"]["standard_error"] == pytest.approx(welch.statistic)
    rounded = 2 * stats.t.sf(welch.statistic, int(welch.df + 1e-9))
    assert terms["difference"]["p"] == pytest.approx(rounded)
    assert rounded >= welch.pvalue
    assert (plain["difference"], terms["significant"]) == (None, True)


def test_the_correction_counts_every_difference(tmp_path):
    names = {**RIGHT, "third-seed1": "1100101100", "third-seed2": "1000101010", "third-seed3": "1110101000"}

    found = as_json(*(evaluation(tmp_path, name, right) for name, right in names.items()))

    tests = [row for row in found["rows"] if row["difference"]]
    _, adjusted, *_ = multipletests([row["difference"]["p"] for row in tests], method="holm")
    assert found["tests"] == len(tests) == 2
    assert [row["p_holm"] for row in tests] == pytest.approx(adjusted.tolist())


def test_the_table_says_mean_deviation_and_number_of_seeds(six):
    out, _ = launcher("compare", "--group", *six, environ={"COLUMNS": "80"})

    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"plain  0\.3333 ±0\.0577 +3 +baseline", out)
    assert re.search(r"terms  0\.8333 ±0\.0577 +3 +\+0\.5000 ±0\.0471  \*", out)
    assert "± one standard deviation over seeds" in out
    assert "plain: plain-seed1 (seed 1), plain-seed2 (seed 2), plain-seed3 (seed 3)\n" in out


def test_csv_has_the_numbers_of_json(six):
    rows = [*csv.DictReader(io.StringIO(launcher("compare", "--group", *six, "--csv")[0]))]

    its = as_json(*six)["rows"][1]
    assert float(rows[1]["mean"]) == its["spread"]["mean"]
    assert float(rows[1]["p_holm"]) == its["p_holm"]
    assert rows[0]["difference"] == ""


def test_the_baseline_names_a_group_by_one_of_its_models(six):
    found = as_json(*six, "--baseline", "terms-seed2")

    assert found["baseline"] == "terms"
    assert found["rows"][1]["difference"]["value"] == pytest.approx(-0.5)


def test_one_seed_has_no_deviation_and_no_test(six):
    found = as_json(six[0], six[3])

    assert [row["spread"]["standard_deviation"] for row in found["rows"]] == [None, None]
    assert (found["rows"][1]["difference"]["p"], found["tests"]) == (None, 0)


def test_the_same_seed_twice_is_refused(tmp_path):
    first = evaluation(tmp_path / "a", "plain-seed1", "1100")
    again = evaluation(tmp_path / "b", "plain-seed1", "1100")

    _, said = launcher("compare", "--group", str(first), str(again), code=2)

    assert "were trained with the same seed (1); name one of them" in said


def test_models_of_unknown_training_and_of_other_number_formats_are_groups_by_themselves(tmp_path):
    places = [
        evaluation(tmp_path, "plain-seed1", "1100"),
        evaluation(tmp_path, "plain-seed2", "1100", dtype="bf16"),
        evaluation(tmp_path, "foreign-seed1", "1100", trainings=[Training(name="llama")]),
        evaluation(tmp_path, "foreign-seed2", "1100", trainings=[Training(name="llama")]),
    ]

    assert [len(one["runs"]) for one in as_json(*places)["groups"]] == [1, 1, 1, 1]


def test_other_items_are_refused_within_a_group_too(tmp_path):
    places = [evaluation(tmp_path, "plain-seed1", "1100"), evaluation(tmp_path, "plain-seed2", "110")]

    _, said = launcher("compare", "--group", *map(str, places), code=2)

    assert "1 of 4 items are only in `plain-seed1`" in said


@pytest.mark.parametrize("other", [["--latex"], ["--html", "page.html"]])
def test_formats_without_groups_are_refused(six, other):
    _, said = launcher("compare", "--group", *six, *other, code=2)

    assert "--group: goes with the table, --json and --csv" in said


def test_the_method_of_a_recipe_is_all_but_seed_names_and_place():
    base = cpt_recipe()
    changes = {
        "a": {},
        "b": {"name": "b", "output": "b", "seed": 2, "resources": {"nodes": 2, "gpus_per_node": 1, "time": "1h"}},
        "c": {"optim": {"lr": 2e-4}},
    }
    method = {name: method_checksum(read_recipe(json.dumps(base | its))) for name, its in changes.items()}

    assert method["a"] == method["b"] != method["c"]


def test_groups_that_do_not_vary_have_no_test_unless_they_are_equal():
    same, other = Spread.of([0.5, 0.5]), Spread.of([0.75, 0.75])

    assert SeedDifference.of(same, same).p == 1.0
    assert SeedDifference.of(other, same) == SeedDifference(0.25, 0.0, None)
