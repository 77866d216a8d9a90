"""Marks of a judge: means, errors and what is refused; and CCTE, whose answers are judged."""

import json

import pandas as pd
import pytest

from jobs.kinds.evaluate import main
from launcher.errors import LauncherError
from launcher.recipe.kinds.evaluate import EvaluateRecipe
from launcher.recipe.sections.generation_task import GenerateTask
from tests.support.evaluation_of_texts import evaluation as evaluation_of_texts
from tests.support.evaluation_runs import items_of, scores_of
from tests.support.generation_runs import write_records
from tests.support.prepare_runs import ASSETS, context_of

AXES = ("fluency", "relevance", "completeness", "proficiency")
MARKS = ((5, 4, 3, 2), (4, 4, 4, 4), (1, 2, 3, 4), (5, 5, 5, 5), (3, 3, 2, 1))


def judged(number, marks, **more):
    """A record as MedCare's program writes it."""
    told = {"description": f"case {number // 2}", "question": "?", "solution": "!", "type": "ab"[number % 2]}
    return {"prompt": "?", "text": "!", "additional_info": told, "score": dict(zip(AXES, marks, strict=True)), **more}


def judgements(folder, records, **changes):
    (folder / "judged.json").write_text(json.dumps(records))
    task = {"type": "judgements", "name": "CCTE", "files": "./judged.json", **changes}
    recipe = {
        "kind": "evaluate",
        "name": "judged",
        "tasks": [task],
        "tracking": {"mode": "disabled"},
        "resources": {"cpus_per_task": 1, "time": "1h"},
    }
    return context_of(folder, EvaluateRecipe.model_validate_json(json.dumps(recipe)))


@pytest.fixture
def records():
    return [judged(number, marks) for number, marks in enumerate(MARKS)]


def test_means_are_those_of_the_published_program(tmp_path, records):
    context = judgements(tmp_path, records)

    main(context)

    task = scores_of(context).tasks["CCTE"]
    frame = pd.DataFrame(MARKS, columns=AXES).assign(type=[record["additional_info"]["type"] for record in records])
    for axis in AXES:
        assert task.scores[axis].value == pytest.approx(frame[axis].mean())
    by_type = frame.groupby("type")[[*AXES]].mean()
    assert task.scores["mean_of_types"].value == pytest.approx(by_type.to_numpy().mean())
    assert task.scores["mean"].value == pytest.approx(frame[[*AXES]].to_numpy().mean())
    assert (task.headline, task.n, task.scores["mean"].clusters) == ("mean", 5, 3)
    assert [row["fluency"] for row in items_of(context)] == [float(marks[0]) for marks in MARKS]


def test_the_error_of_the_mean_of_types_counts_that_a_case_has_questions_of_several_types(tmp_path):
    marks = [(5, 5, 5, 5), (5, 4, 5, 4), (2, 1, 2, 1), (1, 1, 1, 1), (4, 3, 3, 4), (4, 4, 4, 4)]
    context = judgements(tmp_path, [judged(number, its) for number, its in enumerate(marks)])

    main(context)

    scores = scores_of(context).tasks["CCTE"].scores
    assert scores["mean"].standard_error > 0.5
    for name in ("value", "standard_error", "low", "clusters"):
        assert getattr(scores["mean_of_types"], name) == pytest.approx(getattr(scores["mean"], name)), name


def test_a_group_and_a_type_that_are_called_0_count(tmp_path):
    records = [{"score": {"help": mark}, "group": 0, "type": mark % 2} for mark in (1, 2, 3, 5)]
    context = judgements(tmp_path, [*records, {"score": {"help": 2}, "group": " ", "type": 0}])

    main(context)

    scores = scores_of(context).tasks["CCTE"].scores
    assert scores["mean"].clusters == 2
    assert scores["mean_of_types"].value == pytest.approx((2 + 3) / 2)
    assert [row["group"] for row in items_of(context)] == ["0", "0", "0", "0", ""]


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("not JSON", "its `score` is no object of numbers"),
        ({"fluency": "5"}, "its `score` holds something other than numbers"),
        ({"fluency": 6}, "a mark of it is not from 1 to 5"),
        ({"mean": 5}, "has a mark `mean`, which is the name of another column"),
    ],
)
def test_marks_that_are_none_are_bad_records(tmp_path, records, score, said):
    with pytest.raises(LauncherError, match=rf"1 of 6 records cannot be read(.|\n)*{said}"):
        main(judgements(tmp_path, [*records, {"score": score}]))


def test_answers_that_are_judged_by_different_things_are_refused(tmp_path, records):
    with pytest.raises(
        LauncherError, match=r"`judged\.json:\d+` is judged by fluency, `judged\.json:1` by completeness, "
    ):
        main(judgements(tmp_path, [*records, {"score": {"fluency": 3}}]))


def test_judgements_of_files_of_one_name_have_ids_of_their_own(tmp_path, records):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "judged.json").write_text(json.dumps(records[:2]))
    context = judgements(tmp_path, records, files="./[ab]/judged.json")

    main(context)

    assert [row["id"] for row in items_of(context)] == [
        f"{place}/judged.json:{line}" for place in "ab" for line in (1, 2)
    ]


def test_a_range_without_marks_is_refused(tmp_path, records):
    with pytest.raises(ValueError, match="highest: 1 is not more than `lowest: 1`"):
        judgements(tmp_path, records, lowest=1, highest=1)


CCTE = {"name": "CCTE", "format": "ccte", "files": "./assets/medcare_layout/CCTE.json"}


@pytest.mark.slow
def test_answers_to_ccte_are_compared_with_the_solutions(tmp_path):
    context = evaluation_of_texts(tmp_path, CCTE | {"decoding": {"max_new_tokens": 2}})

    main(context)

    task, rows = scores_of(context).tasks["CCTE"], items_of(context)
    items = json.loads((ASSETS / "medcare_layout" / "CCTE.json").read_text())
    assert (task.headline, task.n, task.scores["rouge_l"].clusters) == ("rouge_l", 3, 2)
    assert [row["answer"] for row in rows] == [one["eval"]["solution"] for one in items]


def test_questions_without_a_solution_are_bad_records(tmp_path):
    record = {"conversations": [{"from": "human", "value": "?"}], "eval": {"solution": ""}}
    write_records(tmp_path / "q.jsonl", [record])

    with pytest.raises(LauncherError, match="its `eval` has no text as `solution`"):
        main(evaluation_of_texts(tmp_path, CCTE | {"files": "./q.jsonl"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"answer": {"forced": "so "}}, r"answer\.forced: `ccte` has no options"),
        ({"answer": {"structured": "./a.json"}}, r"answer\.structured: belongs to `cblue`, not to `ccte`"),
        ({"format": "cblue", "answer": {"rules": ["whole"]}}, r"answer\.rules: answers of `cblue` are read as"),
    ],
)
def test_what_does_not_fit_these_formats_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        GenerateTask.model_validate_json(json.dumps({"type": "generate", **CCTE, **changes}))
