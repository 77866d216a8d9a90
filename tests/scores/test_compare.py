"""`launcher compare` as typed: what it prints, what it refuses, and what it marks."""

import csv
import io
import json
import random
import re
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from launcher.artifacts.scores import ITEMS
from launcher.run.paths import SCORES
from launcher.scores.comparison import compare
from launcher.scores.items import read_items
from launcher.scores.scored_model import open_models
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, perplexity_report, texts, write_evaluation

BASE = "1001010001010010100100100010001000100110"
BETTER = "1011110111011110110110111010111110101111"
PASSAGES = [f"p{place // 4}" for place in range(40)]


def evaluation(folder, name, right=BASE, run="abc123", **changes):
    return write_evaluation(folder / run / name, {"medqa": choice_report(answered(right))}, name, run, **changes)


@pytest.fixture
def three(tmp_path):
    """Base, a better model, and a small one that lacks a task."""
    places = []
    for name, right, loss in (("base", BASE, 1.0), ("tuned", BETTER, 0.97), ("small", BASE[::-1], 1.2)):
        tasks = {
            "medqa": choice_report(answered(right), counts={"prompts cut at their start": 3 if name == "small" else 2}),
            "passages": choice_report(answered(right, "f1", PASSAGES), "f1", notes=("40 of 500 questions",)),
            "abstracts": perplexity_report(texts(1, loss=loss)),
        }
        if name == "small":
            del tasks["passages"]
        dtype = "bf16" if name == "small" else "fp32"
        places.append(str(write_evaluation(tmp_path / name, tasks, name, f"{len(places)}fe12a", dtype=dtype)))
    return places


def as_json(*arguments):
    return json.loads(launcher("compare", *map(str, arguments), "--json")[0])


def rows_of(found, model):
    return {(row["task"], row["metric"]): row for row in found["rows"] if row["model"] == model}


def refused(*arguments):
    _, said = launcher("compare", *map(str, arguments), code=2)
    return said


def test_the_table_of_three_models(three, golden):
    out, _ = launcher("compare", *three, "--metric", "all", environ={"COLUMNS": "80"})

    golden("compare.txt", out)
    assert max(map(len, out.splitlines())) <= 80


def test_a_model_with_a_long_name_keeps_the_table_within_80_columns(tmp_path):
    name = "a-model-whose-name-is-much-longer-than-what-the-numbers-leave-in-a-terminal"
    both = [str(evaluation(tmp_path, one, right)) for one, right in ((name, BASE), ("short", BETTER))]

    out, _ = launcher("compare", *both, environ={"COLUMNS": "80"})

    assert f"\n  {name}\n" in out
    assert max(map(len, out.splitlines())) <= 80


def test_one_evaluation_is_shown_without_differences(three):
    out, _ = launcher("compare", three[0])

    assert "difference" not in out
    assert "0.3500 ±0.0764" in out


def test_json_agrees_with_statsmodels(three):
    found = as_json(*three)

    [tuned, small] = [rows_of(found, name)["medqa", "acc"] for name in ("tuned", "small")]
    for row, right in ((tuned, BETTER), (small, BASE[::-1])):
        pairs = [*zip(right, BASE, strict=True)]
        table = [[pairs.count((one, other)) for other in "10"] for one in "10"]
        assert row["difference"]["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
        assert row["difference"]["value"] == pytest.approx((right.count("1") - BASE.count("1")) / 40)
    tests = [row for row in found["rows"] if row["difference"]]
    rejected, adjusted, *_ = multipletests([row["difference"]["p"] for row in tests], method="holm")
    assert found["tests"] == len(tests) == 5
    assert [row["p_holm"] for row in tests] == pytest.approx(adjusted.tolist())
    assert [row["significant"] for row in tests] == rejected.tolist()


def test_only_what_survives_the_correction_is_marked(tmp_path):
    """One p of 0.039 is significant by itself, and is not among nine others that are 1."""
    base, other = "0" * 9 + "1" * 9, "0" + "1" * 8 + "1" * 8 + "0"
    alone, many = {}, {}
    for name, right in (("base", base), ("other", other)):
        tasks = {"medqa": choice_report(answered(right))}
        more = {f"task{number}": choice_report(answered("1100")) for number in range(9)}
        alone[name] = write_evaluation(tmp_path / "alone" / name, tasks, name)
        many[name] = write_evaluation(tmp_path / "many" / name, tasks | more, name)

    one, ten = (rows_of(as_json(*places.values()), "other")["medqa", "acc"] for places in (alone, many))

    assert one["difference"]["p"] == ten["difference"]["p"] == pytest.approx(0.0390625)
    assert (one["significant"], ten["significant"]) == (True, False)
    tables = [launcher("compare", *map(str, places.values()))[0] for places in (alone, many)]
    assert [bool(re.search(r"other .* \+0\.3889 ±\d\.\d+  \* ", table)) for table in tables] == [True, False]


def test_a_copy_of_an_evaluation_does_not_differ(three, tmp_path):
    copy = shutil.copytree(three[0], tmp_path / "copy")

    found = as_json(three[0], copy, "--metric", "all")

    differences = [row["difference"] for row in found["rows"] if row["difference"]]
    assert len(differences) == 7
    assert {(one["value"], one["p"], one["detectable"]) for one in differences} == {(0.0, 1.0, None)}
    assert {one["label"] for one in found["models"]} == {f"base ({three[0]})", f"base ({copy})"}


def test_the_order_of_rows_in_the_file_does_not_matter(three):
    before = as_json(*three, "--metric", "all")
    path = f"{three[1]}/outputs/{ITEMS}"
    table = pq.read_table(path)
    pq.write_table(table.take(random.Random(0).sample(range(len(table)), len(table))), path)

    assert as_json(*three, "--metric", "all") == before


def test_exchanging_baseline_and_model_changes_signs_only(three):
    there = rows_of(as_json(*three[:2], "--metric", "all"), "tuned")
    back = rows_of(as_json(*three[:2], "--metric", "all", "--baseline", "tuned"), "base")

    for key, row in there.items():
        assert row["difference"]["value"] == -back[key]["difference"]["value"]
        assert row["difference"]["standard_error"] == back[key]["difference"]["standard_error"]
        assert row["p_holm"] == back[key]["p_holm"]


def test_csv_has_the_numbers_of_json(three):
    rows = [*csv.DictReader(io.StringIO(launcher("compare", *three, "--csv")[0]))]

    told = as_json(*three)["rows"]
    assert [(row["task"], row["metric"], row["model"]) for row in rows] == [
        (row["task"], row["metric"], row["model"]) for row in told
    ]
    for row, other in zip(rows, told, strict=True):
        assert float(row["value"]) == other["score"]["value"]
        assert row["difference"] == ("" if other["difference"] is None else str(other["difference"]["value"]))
        assert row["significant"] == ("" if other["difference"] is None else str(other["significant"]))


def test_latex_is_a_table_of_models_by_tasks(tmp_path):
    both = [evaluation(tmp_path, name, right) for name, right in (("a_b & 50%", BASE), ("tuned", BETTER))]

    lines = launcher("compare", *map(str, both), "--latex")[0].splitlines()

    assert lines[2] == r"model & medqa (acc) \\"
    assert lines[4] == r"a\_b \& 50\% & $0.3500 \pm 0.0764$ \\"
    assert lines[5] == r"tuned & $0.7500^{*} \pm 0.0693$ \\"
    assert lines[7] == r"\end{tabular}"
    assert all(line.startswith("% ") for line in lines[8:])


@pytest.mark.parametrize("both", [("--json", "--csv"), ("--csv", "--latex")])
def test_two_formats_at_once_are_refused(three, both):
    assert "write one of them" in refused(*three, *both)


def test_other_items_are_refused_with_how_many_and_which(tmp_path):
    base = evaluation(tmp_path, "base", BASE)
    other = evaluation(tmp_path, "fewer", BASE[:38])

    said = refused(base, other)

    assert "`medqa`: `base` and `fewer` were not scored on the same items" in said
    assert "2 of 40 items are only in `base` (first `q38`, `q39`)" in said
    assert "only in `fewer`" not in said


def test_other_prompts_and_settings_are_refused(tmp_path):
    settings = {"type": "choice", "shots": 0}
    base = write_evaluation(tmp_path / "a", {"medqa": choice_report(answered(BASE), settings=settings)}, "base")
    items = answered(BASE, prompt="example, then question")
    other = write_evaluation(tmp_path / "b", {"medqa": choice_report(items, settings=settings | {"shots": 5})}, "five")

    said = refused(base, other)

    assert "40 of 40 items have other prompts (first `q00`, `q01`, `q02`)" in said
    assert "`shots` is `0` (`base`) and `5` (`five`)" in said


def test_other_right_answers_and_other_options_are_refused(tmp_path):
    base = evaluation(tmp_path, "base")
    items = answered(BASE)
    items[7]["answer"] = "B"
    other = write_evaluation(tmp_path / "b", {"medqa": choice_report(items)}, "other")
    options = write_evaluation(
        tmp_path / "c", {"medqa": choice_report(answered(BASE), items_sha256="other options")}, "options"
    )

    said = refused(base, other, options)

    assert "1 of 40 items have other right answers (first `q07`)" in said
    assert "`base` and `options` were not scored on the same items: the texts of their options differ" in said


def test_ids_of_credentialed_items_are_not_named(tmp_path):
    base = evaluation(tmp_path, "base", BASE)
    other = evaluation(tmp_path, "fewer", BASE[:38], data_use="credentialed")

    said = refused(base, other)

    assert "2 of 40 items are only in `base`" in said
    assert "q38" not in said


def test_saved_predictions_that_an_earlier_version_scored_are_to_be_evaluated_again(tmp_path):
    reports = [choice_report(answered(BASE), type="classification", items_sha256=sha) for sha in ("now", "earlier")]
    both = [write_evaluation(tmp_path / name, {"t": one}, name) for name, one in zip("ab", reports, strict=True)]

    assert "same items: an earlier version scored one of them, when the order of rows counted;" in refused(*both)


def test_answers_that_one_evaluation_withholds_are_not_called_other_answers(tmp_path):
    base = evaluation(tmp_path, "base", BASE)
    withheld = [item | {"answer": "0" * 64} for item in answered(BASE[:38])]
    other = write_evaluation(tmp_path / "b", {"medqa": choice_report(withheld)}, "fewer", data_use="credentialed")

    said = refused(base, other)

    assert "2 of 40 items are only in `base`" in said
    assert "right answers" not in said


def test_files_that_say_they_have_the_same_items_are_compared_by_their_rows(tmp_path):
    base = write_evaluation(tmp_path / "a", {"medqa": choice_report(answered(BASE), items_sha256="same")}, "base")
    items = answered(BASE, prompt="other")
    other = write_evaluation(tmp_path / "b", {"medqa": choice_report(items, items_sha256="same")}, "other")

    assert "40 of 40 items have other prompts" in refused(base, other)


def test_evaluations_without_a_common_task_are_refused_with_what_each_has(tmp_path):
    base = evaluation(tmp_path, "base")
    other = write_evaluation(tmp_path / "b", {"mmlu": choice_report(answered(BASE))}, "other")

    assert "`base` has no task in common with another model: `base`: medqa; `other`: mmlu" in refused(base, other)


def of_tokenizers(tmp_path, **settings):
    """Perplexities of the same texts in tokens of two tokenizers, which `items_sha256` tells apart."""
    places = []
    for name, tokens in (("base", 1.5), ("other", 1.25)):
        facts = {"type": "perplexity", "length": round(100 * tokens), **(settings if name == "other" else {})}
        report = perplexity_report(texts(1, tokens_per_word=tokens), items_sha256=name, settings=facts)
        places.append(write_evaluation(tmp_path / name, {"text": report}, name))
    return places


def test_perplexities_by_token_are_not_compared_over_tokenizers(tmp_path):
    found = as_json(*of_tokenizers(tmp_path), "--metric", "token_perplexity", "--metric", "word_perplexity")

    rows = rows_of(found, "other")
    assert rows["text", "token_perplexity"]["difference"] is None
    assert rows["text", "word_perplexity"]["difference"]["value"] == 0.0
    assert "other numbers of tokens, since the tokenizers differ" in found["notes"][0]
    assert found["notes"][1:] == ["`text`: length: 150 (`base`), 125 (`other`)"]


def test_perplexities_of_other_windows_are_refused(tmp_path):
    said = refused(*of_tokenizers(tmp_path, windows="documents"))

    assert "`windows` is not set (`base`) and `documents` (`other`)" in said


def test_documents_count_the_same_in_the_perplexity_by_document(tmp_path):
    reports = [perplexity_report(texts(1, loss=loss)) for loss in (1.0, 0.97)]
    places = [
        write_evaluation(tmp_path / name, {"text": report}, name)
        for name, report in zip(("base", "tuned"), reports, strict=True)
    ]

    found = rows_of(as_json(*places, "--metric", "document_perplexity"), "tuned")["text", "document_perplexity"]

    base, tuned = ([item["nll"] / item["tokens"] for item in report.items] for report in reports)
    expected = stats.ttest_rel(tuned, base)
    assert found["difference"]["value"] == pytest.approx(sum(tuned) / 30 - sum(base) / 30)
    assert found["difference"]["p"] == pytest.approx(expected.pvalue)


def test_a_score_that_items_do_not_add_up_to_has_no_difference(tmp_path):
    """Such as a macro-averaged F1."""
    places = []
    for name in ("base", "other"):
        report = choice_report(answered(BASE))
        its = report.scores
        macro, other = its.scores["acc"].model_copy(update={"value": 0.5}), its.scores["acc"]
        changed = its.model_copy(update={"scores": {"acc": macro, "f1": other}})
        places.append(write_evaluation(tmp_path / name, {"medqa": type(report)(changed, report.items)}, name))

    found = as_json(*places, "--metric", "all")

    assert found["tests"] == 0
    assert found["notes"] == [
        "`medqa`: no difference of `acc` for `other`: it is not the mean of the items' scores",
        "`medqa`: no difference of `f1` for `other`: there is no score of each item",
    ]


def test_notes_tell_what_else_differs(three):
    notes = as_json(*three)["notes"]

    assert notes == [
        "`passages`: only in `base`, `tuned`",
        "`medqa`: prompts cut at their start: 2 (`base`), 2 (`tuned`), 3 (`small`)",
        "`passages`: 40 of 500 questions",
        "dtype of the model: fp32 (`base`), fp32 (`tuned`), bf16 (`small`)",
    ]


def test_metrics_that_no_task_has_are_refused_with_those_that_there_are(three):
    said = refused(*three, "--metric", "word_perplexty")

    assert "--metric word_perplexty: no task has such a metric; there are `word_perplexity`, " in said


@pytest.mark.parametrize("way", ["label", "run", "as typed"])
def test_the_baseline_is_named_as_people_know_it(three, way):
    name = {"label": "tuned", "run": "1fe12a", "as typed": three[1]}[way]

    found = as_json(*three, "--baseline", name)

    assert found["baseline"] == "tuned"
    assert {row["model"] for row in found["rows"] if row["difference"] is None} == {"tuned"}


def test_an_unknown_or_ambiguous_baseline_is_refused_with_the_names(tmp_path):
    both = [evaluation(tmp_path, "base", run=run) for run in ("aaa111", "bbb222")]

    unknown, ambiguous = (refused(*both, "--baseline", name) for name in ("bse", "base"))

    assert "--baseline bse: no model is called that; write one of `base (aaa111)`, `base (bbb222)`" in unknown
    assert "--baseline base: several models are called that" in ambiguous


def test_naming_an_evaluation_twice_is_refused(three):
    said = refused(three[0], f"{three[0]}/outputs/{SCORES}")

    assert "is the same evaluation as" in said


def test_all_that_cannot_be_read_is_named_at_once(tmp_path):
    said = refused(tmp_path / "one", tmp_path / "two")

    assert f"{tmp_path}/one: holds no scores.json" in said
    assert f"{tmp_path}/two: holds no scores.json" in said


def damage(path, how):
    table = pq.read_table(path)
    match how:
        case "missing":
            path.unlink()
        case "torn":
            path.write_bytes(path.read_bytes()[:-100])
        case "fewer rows":
            pq.write_table(table.slice(1), path)
        case "twice":
            pq.write_table(table.take([0, *range(len(table) - 1)]), path)
        case "other columns":
            pq.write_table(table.drop_columns(["prompt_sha256"]), path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "is missing; copy it too"),
        ("torn", "cannot be read"),
        ("fewer rows", "has 39 items of `medqa`, scores.json 40"),
        ("twice", "ids of the items of `medqa` are not unique"),
        ("other columns", "has no column `prompt_sha256`"),
    ],
)
def test_items_that_do_not_go_with_the_scores_are_refused(tmp_path, how, said):
    both = [evaluation(tmp_path, name) for name in ("base", "other")]
    damage(both[1] / "outputs" / ITEMS, how)

    assert said in refused(*both)


def test_without_pyarrow_the_extra_is_named(three, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "`pyarrow` is missing; install it with `pip install -e '.[data]'` in a checkout" in refused(*three)
    assert "0.3500" in launcher("compare", three[0])[0]


def test_comparing_changes_nothing_of_what_it_is_given(three):
    models = open_models([(place, Path(place)) for place in three])

    assert compare(models, models[2]).baseline == "small"
    assert [model.label for model in models] == ["base", "tuned", "small"]


def test_an_item_on_its_own_is_not_of_the_group_that_has_its_name(tmp_path):
    items = answered("1100", groups=("q01", "", "q01", ""))

    found = read_items(write_evaluation(tmp_path / "run", {"qa": choice_report(items)}) / "outputs")["qa"]

    first, alone, second, other = found.clusters
    assert first == second
    assert len({first, alone, other}) == 3
