"""`launcher compare --group`: means over seeds, and whether two methods differ by more than their seeds do."""

import csv
import io
import json
import re
import stat

import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from launcher.artifacts.scores import Training
from launcher.recipe import read_recipe
from launcher.recipe.identity import method_checksum
from launcher.scores.seeds import SeedDifference, Spread
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, write_evaluation
from tests.support.pages import PageReader
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
    assert [row["values"] for row in found["rows"]] == [accuracies("plain"), accuracies("terms")]


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


def test_latex_has_a_row_for_each_group_and_comments_that_say_who_is_in_it(six):
    out, _ = launcher("compare", "--group", *six, "--latex")

    assert r"group & pubmedqa (acc) \\" in out.splitlines()
    assert r"plain & $0.3333 \pm 0.0577$ \\" in out.splitlines()
    assert r"terms & $0.8333^{*} \pm 0.0577$ \\" in out.splitlines()
    assert "% p: Welch's t test over the seeds." in out.splitlines()
    assert "% terms: terms-seed1 (seed 1), terms-seed2 (seed 2), terms-seed3 (seed 3)" in out.splitlines()
    assert out.count("{") == out.count("}")


def test_a_group_without_the_task_has_an_empty_cell(tmp_path, six):
    tasks = {"medqa": choice_report(answered("1100")), "pubmedqa": choice_report(answered(RIGHT["plain-seed1"]))}
    both = [
        write_evaluation(tmp_path / name, tasks, name, f"{name}1", trainings=[Training(name="a", method=name, seed=1)])
        for name in ("first", "other")
    ]

    out, _ = launcher("compare", "--group", *map(str, both), six[0], six[1], "--latex")

    assert r"plain & -- & $0.3500 \pm 0.0707$ \\" in out


def without_score(folder, name):
    """An evaluation whose score is not known."""
    place = evaluation(folder, name, "1100101000")
    path = place / "outputs" / "scores.json"
    scores = json.loads(path.read_text())
    scores["tasks"]["pubmedqa"]["scores"]["acc"] = {"value": None, "n": 10}
    path.write_text(json.dumps(scores))
    return place


def test_a_mean_that_is_not_shown_since_a_seed_lacks_the_score_is_named(tmp_path, six):
    unknown = str(without_score(tmp_path, "terms-seed4"))

    found = as_json(*six, unknown)
    compared = as_json(unknown, *six)

    assert [row["group"] for row in found["rows"]] == ["plain"]
    said = "`pubmedqa`: no mean of `acc` for `terms`: 1 of 4 seeds have no such score"
    assert said in found["notes"]
    assert compared["rows"] == []
    assert f"{said}; nothing is compared with it, the baseline" in compared["notes"]
    assert f"note: {said}" in " ".join(launcher("compare", "--group", *six, unknown)[0].split())


def test_the_page_has_the_mean_and_every_seed_of_each_group(tmp_path, six):
    out, said = launcher("compare", "--group", *six, "--html", str(tmp_path / "page.html"))

    page = PageReader((tmp_path / "page.html").read_text(encoding="utf-8"))
    text = "".join(page.texts)
    assert said == f"written: {tmp_path}/page.html\n"
    assert "terms  0.8333" in out
    for part in ("Mean scores of 2 groups", "0.8333 ±0.0577", "+0.5000 ±0.0471 *", "Welch", "plain-seed2 (seed 2)"):
        assert part in text
    assert [page.labels[0], page.classes["plain dot"], page.classes["plain small dot"]] == [
        "plain: mean 0.3333 of seeds with 0.4000, 0.3000, 0.3000",
        1,
        3,
    ]
    assert (page.classes["better dot"], page.classes["better small dot"]) == (1, 3)
    assert page.urls == []


def test_the_page_of_one_seed_each_has_no_deviation(tmp_path, six):
    launcher("compare", "--group", six[0], six[3], "--html", str(tmp_path / "page.html"))

    page = PageReader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert (page.classes["plain small dot"], page.classes["plain"]) == (2, 0)


def test_the_page_of_a_lower_score_that_is_better_says_so(tmp_path):
    places = []
    for name, right in RIGHT.items():
        method, seed = name.split("-seed")
        report = choice_report(answered(right, "error"), "error", lower=True)
        training = Training(name=name, method=method, seed=int(seed))
        run = f"{seed}{method[:5]}"
        places.append(str(write_evaluation(tmp_path / name, {"qa": report}, name, run, trainings=[training])))

    launcher("compare", "--group", *places, "--html", str(tmp_path / "page.html"))

    page = PageReader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "error; lower is better" in "".join(page.texts)
    assert page.classes["worse dot"] == 1


def test_a_page_of_groups_about_credentialed_data_is_for_its_owner_only(tmp_path):
    places = [str(evaluation(tmp_path, name, right, data_use="credentialed")) for name, right in RIGHT.items()]

    launcher("compare", "--group", *places, "--html", str(tmp_path / "page.html"))

    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


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


@pytest.mark.parametrize("values", [(0.1, 0.1, 0.1), (0.7, 0.7, 0.7), (0.1 + 0.2,) * 3])
def test_equal_scores_do_not_vary_however_their_mean_is_rounded(values):
    assert Spread.of(values) == Spread(values[0], 0.0, 3)


def test_rounding_errors_are_no_variation_to_test_against():
    nearly = Spread.of([0.3, 0.1 + 0.2, 0.3])

    assert SeedDifference.of(Spread.of([0.8] * 3), Spread.of([0.7] * 3)).p is None
    assert SeedDifference.of(Spread.of([0.3] * 3), nearly).p == 1.0
    assert SeedDifference.of(Spread.of([0.8] * 3), nearly) == SeedDifference(pytest.approx(0.5), 0.0, None)


@pytest.mark.parametrize("right", ["1000000000", "1110000000"])
def test_the_page_of_seeds_that_came_out_equal_has_an_axis(tmp_path, right):
    places = [evaluation(tmp_path, f"plain-seed{seed}", right) for seed in (1, 2, 3)]

    out, _ = launcher("compare", "--group", *map(str, places), "--html", str(tmp_path / "page.html"))

    page = PageReader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert (page.classes["plain dot"], page.classes["plain small dot"]) == (1, 3)
    assert "±0.0000" in out
