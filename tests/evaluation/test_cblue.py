"""CBLUE: answers as PromptCBLUE's instructions ask for them, and its metrics, beside independent implementations."""

import json
import random

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import f1_score
from transformers import BasicTokenizer

from jobs.evaluation.cblue import CBLUE, read_cblue, structured_cblue
from jobs.evaluation.cblue_scores import CblueItem, cblue_scores, class_f1, rouge_l_of_characters
from jobs.kinds.evaluate import main
from launcher.errors import LauncherError
from tests.support.evaluation_of_texts import evaluation
from tests.support.evaluation_runs import items_of, scores_of
from tests.support.generation_runs import write_records
from tests.support.prepare_runs import ASSETS

OWN = json.loads((ASSETS / "medcare_layout" / "CBLUE.json").read_text())
CTC = [f"class {number}" for number in range(5)]


def facts(name, text, labels=()):
    """What is read from a text, as objects."""
    return [json.loads(fact) for fact in sorted(read_cblue(name, text, labels))]


@pytest.mark.parametrize(
    ("name", "text", "labels", "expected"),
    [
        (
            "CMeEE-V2",
            "上述句子中的实体包含:\n药物实体\uff1a青霉素\uff0c 头孢\n身体实体\uff1a",
            ["药物", "身体"],
            [{"entity": "头孢", "type": "药物"}, {"entity": "青霉素", "type": "药物"}],
        ),
        (
            "CMeIE",
            "具有药物治疗关系的头尾实体对如下\uff1a头实体为肺炎\uff0c尾实体为青霉素。头实体为胃炎",
            ["药物治疗"],
            [{"object": "青霉素", "predicate": "药物治疗", "subject": "肺炎"}],
        ),
        (
            "CHIP-CDN",
            "标准词\n肺炎\uff0c胃炎\uff0c肺炎",
            ["肺炎"],
            [{"entity": "肺炎", "type": "normalization"}],
        ),
        (
            "CHIP-CDEE",
            "如下\n主体词\uff1a疼痛\uff1b描述词\uff1a胀痛\uff0c持续\uff1b发生状态\uff1a",
            [],
            [{"主体词": "疼痛", "发生状态": "", "描述词": ["胀痛", "持续"], "解剖部位": []}],
        ),
        (
            "CHIP-MDCFNPC",
            "如下\n发热\uff1a有\n头痛\uff1a也许\n一行",
            ["有", "无"],
            [{"attr": "不标注", "entity": "头痛"}, {"attr": "有", "entity": "发热"}],
        ),
    ],
)
def test_facts_are_read_in_the_form_that_is_asked_for(name, text, labels, expected):
    found = facts(name, text, labels)

    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_texts_and_classes_are_read_as_they_stand():
    assert read_cblue("CHIP-STS", " 相同\n", []) == "是的"
    assert read_cblue("KUAKE-QIC", "治疗方案 ", []) == "治疗方案"
    assert read_cblue("MedDG", " 多喝水 ", []) == {"": "多喝水"}
    report = "报告\n主诉\uff1a咳嗽\n诊断\uff1a\n别的\uff1a无"
    assert read_cblue("IMCS-V2-MRG", report, []) == {"主诉": "咳嗽", "诊断": ""}


def test_every_data_set_reads_its_own_right_answer_and_a_file_of_them():
    assert {one["eval"]["task_dataset"] for one in OWN} == {*CBLUE}
    for one in OWN:
        told = one["eval"]
        name, labels = told["task_dataset"], told["answer_choices"] or []
        answer = read_cblue(name, one["conversations"][1]["value"], labels)
        assert answer
        plain = [json.loads(fact) for fact in answer] if isinstance(answer, frozenset) else answer
        assert structured_cblue(name, plain.get("", plain) if isinstance(plain, dict) else plain) == answer


def test_the_f1_of_classes_is_that_of_scikit_learn_with_any_text_as_a_class():
    draw = random.Random(1)
    answers = [draw.choice(CTC[:4]) for _ in range(60)]
    found = [one if draw.random() < 0.5 else draw.choice([*CTC, "", f"text {draw.randint(0, 9)}"]) for one in answers]

    for average in ("macro", "weighted"):
        weights = np.ones((60, 1))
        expected = f1_score(answers, found, average=average, zero_division=0)
        assert class_f1(answers, found, weights, average == "macro")[0] == pytest.approx(expected)
        drawn = np.array([draw.randint(0, 2) for _ in range(60)])
        again = [[one for one, n in zip(its, drawn, strict=True) for _ in range(n)] for its in (answers, found)]
        expected = f1_score(*again, average=average, zero_division=0)
        assert class_f1(answers, found, drawn[:, None].astype(float), average == "macro")[0] == pytest.approx(expected)


class Words:
    """BasicTokenizer for rouge-score."""

    def __init__(self):
        self.reader = BasicTokenizer(tokenize_chinese_chars=True)

    def tokenize(self, text):
        return self.reader.tokenize(text)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("多喝水\uff0c注意休息。", "应该多休息\uff0c多喝水。"),
        ("Take DHCT 2.5mg\uff0ccafé", "DHCT 2.5 mg 每日"),
        ("完全不同", "别的回答"),
    ],
)
def test_rouge_of_characters_is_that_of_rouge_score_with_basic_tokens(text, reference):
    expected = RougeScorer(["rougeL"], tokenizer=Words()).score(reference, text)["rougeL"].fmeasure

    assert rouge_l_of_characters(text, reference) == pytest.approx(expected)


def test_an_empty_text_is_compared_as_none_and_an_empty_section_equals_another():
    assert rouge_l_of_characters("", "") == 1.0
    item = CblueItem("IMCS-V2-MRG", {"主诉": "咳嗽", "诊断": ""}, {"主诉": "咳嗽"})
    assert item.metrics == {"rouge_l/IMCS-V2-MRG": 1.0}


def test_the_mean_weighs_data_sets_equally_and_its_error_is_that_of_a_mean_of_independent_scores():
    one, other = frozenset({"a", "b"}), frozenset({"a", "c"})
    items = [
        *(CblueItem("CMeEE-V2", one, found) for found in (one, other, frozenset())),
        *(CblueItem("MedDG", {"": "多喝水"}, {"": text}) for text in ("多喝水", "水")),
    ]

    scores = cblue_scores(items)

    assert scores["micro_f1/CMeEE-V2"].value == pytest.approx(2 * 3 / (2 * 3 + 1 + 3))
    assert scores["rouge_l/MedDG"].value == pytest.approx((1 + 2 * 1 / 4) / 2)
    parts = [scores[name] for name in ("micro_f1/CMeEE-V2", "rouge_l/MedDG")]
    assert scores["mean"].value == pytest.approx(sum(part.value for part in parts) / 2)
    assert scores["mean"].standard_error == pytest.approx(sum(part.standard_error**2 for part in parts) ** 0.5 / 2)


def cblue(folder, **changes):
    task = {"name": "CBLUE", "format": "cblue", "files": "./q.json", "decoding": {"max_new_tokens": 2}} | changes
    return evaluation(folder, task)


def write(folder, items):
    (folder / "q.json").write_text(json.dumps(items))


def promptcblue(item):
    """The same item in PromptCBLUE's own form."""
    asked, answered = item["conversations"]
    return {"input": asked["value"], "target": answered["value"], **item["eval"]}


@pytest.mark.slow
def test_an_evaluation_scores_all_data_sets_in_both_forms_alike(tmp_path):
    write(tmp_path, OWN)
    (tmp_path / "own").mkdir()
    (tmp_path / "prompted").mkdir()
    for folder, items in (("own", OWN), ("prompted", [promptcblue(one) for one in OWN])):
        write(tmp_path / folder, items)
    contexts = [cblue(tmp_path / folder) for folder in ("own", "prompted")]
    for context in contexts:
        main(context)

    (own, prompted) = (scores_of(context).tasks["CBLUE"] for context in contexts)
    assert own.scores == prompted.scores
    assert own.headline == "mean"
    assert {name.partition("/")[2] for name in own.scores} == {"", *CBLUE}
    assert own.notes == ()
    rows = items_of(contexts[0])
    assert [row["id"] for row in rows] == [one["eval"]["sample_id"] for one in OWN]
    expected = read_cblue("KUAKE-QIC", "治疗方案", [])
    assert next(row["answer"] for row in rows if row["details"]["data_set"] == "KUAKE-QIC") == expected


@pytest.mark.slow
def test_answers_of_a_file_take_the_place_of_targets(tmp_path):
    few = [one | {"conversations": one["conversations"][:1]} for one in OWN if one["eval"]["task_type"] == "cls"]
    write(tmp_path, few)
    given = {}
    for one in few:
        entry = {"sample_id": one["eval"]["sample_id"], "answer": "别的"}
        given.setdefault(one["eval"]["task_dataset"], []).append(entry)
    (tmp_path / "answers.json").write_text(json.dumps(given))
    context = cblue(tmp_path, answer={"structured": "./answers.json"})

    main(context)

    assert {row["answer"] for row in items_of(context)} == {"别的"}
    assert "without CMeEE-V2, " in scores_of(context).tasks["CBLUE"].notes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task_dataset": "Text2DT"}, "its `task_dataset` is none of CMeEE-V2, CMeIE, "),
        ({"answer_choices": "one"}, "its `answer_choices` are not a list of texts"),
        ({"input": " "}, "has no text as `input`"),
        ({"input": None}, "its `input` is null"),
    ],
)
def test_items_that_cannot_be_read_are_named(tmp_path, change, reason):
    write_records(tmp_path / "q.json", [promptcblue(OWN[0]) | change])

    with pytest.raises(LauncherError, match=reason):
        main(cblue(tmp_path))


def test_items_without_an_answer_are_refused_with_the_fix(tmp_path):
    write(tmp_path, [promptcblue(OWN[0]) | {"target": ""}, promptcblue(OWN[1])])

    with pytest.raises(LauncherError, match=r"tasks\.0\.files: 1 of 2 questions have no answer, first `own-1`; name a"):
        main(cblue(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"CMeEE-V2": []}, r"answer\.structured: 1 of 1 questions have no answer"),
        ({"CMeEE-V2": [{"sample_id": "own-1"}]}, "is no JSON object that has for each data set"),
        ({"CMeEE-V2": [{"sample_id": "own-1", "answer": "text"}]}, "its answer is no list of objects"),
    ],
)
def test_a_file_of_answers_that_does_not_fit_is_refused(tmp_path, content, said):
    write(tmp_path, OWN[:1])
    (tmp_path / "answers.json").write_text(json.dumps(content))

    with pytest.raises(LauncherError, match=said):
        main(cblue(tmp_path, answer={"structured": "./answers.json"}))
