"""Reading answers from texts as models write them."""

import pytest

from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.reading import RULES, long_answer, read_answer
from launcher.recipe.sections.generation_task import GenerateTask

OPTIONS = ("Metformin", "Insulin", "Insulin glargine", "Diet and exercise")
QUESTION = ChoiceQuestion("1", "Which drug?", OPTIONS, 0)
DECIDED = ChoiceQuestion("2", "Does it?", ("yes", "no", "maybe"), 0)


def task(format, **answer):
    return GenerateTask.model_validate(
        {"type": "generate", "name": "t", "files": "f", "format": format, "answer": answer}
    )


@pytest.mark.parametrize(
    ("text", "letter", "rule"),
    [
        # MedCare's suffix, `Please format the final answer at the end of the response as: The answer is {answer}.`
        ("Metformin is first line therapy in this patient. The answer is A.", "A", "answer_is"),
        ("The answer is B because insulin works.", "B", "answer_is"),
        ("Options A and C are wrong. The answer is {B}.", "B", "answer_is"),
        ("因此,最合适的药物是胰岛素。答案为B。", "B", "answer_is"),
        ("综上所述,答案是:C", "C", "answer_is"),
        ("答案\uff1aD", "D", "answer_is"),
        ("The correct answer is (C) Insulin glargine.", "C", "answer_is"),
        ("**Answer:** D. Diet and exercise", "D", "answer_is"),
        ("**Answer: B**", "B", "answer_is"),
        ("The final answer is: **C**", "C", "answer_is"),
        ("Therefore, the best answer is option D.", "D", "answer_is"),
        ("The answer is B. On reflection, the answer is C.", "C", "answer_is"),
        ("The correct answer choice is A", "A", "answer_is"),
        (r"So the final answer is $\boxed{\text{B}}$.", "B", "boxed"),
        (r"\boxed{C}", "C", "boxed"),
        ("B", "B", "leading_letter"),
        (" (D) Diet and exercise", "D", "leading_letter"),
        ("A. Metformin", "A", "leading_letter"),
        ("C\n\nQuestion: What is", "C", "leading_letter"),
        ("One would start with metformin here.", "A", "option_text"),
        ("Insulin glargine, once a day.", "C", "option_text"),
        ("The answer is B, because insulin works.", "B", "answer_is"),
        ("The answer is B, A patient with diabetes needs it.", "B", "answer_is"),
        ("The answer is B, C. difficile is not seen here.", "B", "answer_is"),
        ("The answer is C, T cells are involved.", "C", "answer_is"),
        ("The answer is D, B-cell lymphoma.", "D", "answer_is"),
        ("答案是B\uff0cC项错误", "B", "answer_is"),
        ("B, because insulin works.", "B", "leading_letter"),
        ("B\u3002胰岛素", "B", "leading_letter"),
        ("B\uff0c因为", "B", "leading_letter"),
        # What must not be taken for an answer.
        ("The answer is B, C.", None, None),
        ("The answer is B, C and D.", None, None),
        ("The answer is **B**, **C**", None, None),
        ("The answer is A & C", None, None),
        ("The correct answers are not told. Answer: A, B, C, or D", None, None),
        ("答案为B\uff0cC", None, None),
        ("答案为B\uff0cC\u3002", None, None),
        ("答案为B、C", None, None),
        ("答案为B及C", None, None),
        (r"\boxed{B, C}", None, None),
        ("A, B and C", None, None),
        ("A, B", None, None),
        ("B、C", None, None),
        ("(A), (B)", None, None),
        ("A 54-year-old man with diabetes needs treatment.", None, None),
        ("The answer is a matter of debate.", None, None),
        ("The answer is A or B.", None, None),
        ("The answer is A patient-centred plan.", None, None),
        ("The answer is F.", None, None),
        ("Either insulin or metformin.", None, None),
        ("I am not sure.", None, None),
        ("", None, None),
    ],
)
def test_a_letter_is_read_as_it_is_meant(text, letter, rule):
    found = read_answer(text, QUESTION, task("medqa").rules)

    assert (found.option, found.rule) == (None if letter is None else "ABCD".index(letter), rule)


@pytest.mark.parametrize(
    ("text", "option"),
    [("The answer is I.", 8), ("Answer: I would guess.", None), ("Answer: I'd guess.", None)],
)
def test_a_pronoun_is_no_letter_of_many_options(text, option):
    many = ChoiceQuestion("3", "Which?", tuple(f"drug {number}" for number in range(12)), 0)

    assert read_answer(text, many, task("medqa").rules).option == option


@pytest.mark.parametrize(
    ("text", "decision", "rule"),
    [
        ("Final Decision: yes\nLong Answer: Because it does.", "yes", "final_decision"),
        ("**Final Decision:** Maybe", "maybe", "final_decision"),
        ("Conclusion: unclear. The answer is no.", "no", "decision_is"),
        ("Yes. The results suggest so.", "yes", "leading_decision"),
        (" no", "no", "leading_decision"),
        ("Notably, it helps.", None, None),
        ("yes-man", None, None),
        ("Final Decision: unknown", None, None),
        ("Final Decision: yes/no/maybe", None, None),
        ("Final Decision: yes, no, or maybe", None, None),
        ("The answer is yes or no.", None, None),
        ("No, no evidence was found.", "no", "leading_decision"),
    ],
)
def test_a_decision_is_read_as_pubmedqa_and_seed_answers_have_it(text, decision, rule):
    found = read_answer(text, DECIDED, task("pubmedqa").rules)

    assert (found.text, found.rule) == (decision, rule)


def test_texts_are_read_whole_or_in_part():
    text = "  Let me think.\nAnswer: aspirin, 100 mg \nThat is all."

    whole, line, after = (read_answer(text, QUESTION, [rule]).text for rule in ("whole", "first_line", "after_answer"))

    assert (whole, line, after) == (text.strip(), "Let me think.", "aspirin, 100 mg ")
    assert read_answer(" \n", QUESTION, ["whole"]).rule is None


def test_the_last_letter_is_read_only_if_it_is_asked_for():
    text = "I would exclude (B) and (C), which leaves (D)"

    assert read_answer(text, QUESTION, task("medqa").rules).rule is None
    assert read_answer(text, QUESTION, task("medqa", rules=("last_letter",)).rules).option == 3


def test_every_rule_has_a_pattern_that_ends_on_hostile_text():
    hostile = "answer is " * 20_000 + "A" * 20_000 + "(" * 20_000

    for rule in RULES:
        read_answer(hostile, QUESTION, [rule])


def test_the_long_answer_is_what_follows_its_name():
    assert long_answer("Final Decision: yes\nLong Answer: It does.\nTruly. ") == "It does.\nTruly."
    assert long_answer("Final Decision: yes") is None


@pytest.mark.parametrize(
    ("format", "answer", "key"),
    [
        ("answers", {"rules": ("boxed",)}, "answer.rules"),
        ("pubmedqa", {"rules": ("leading_letter",)}, "answer.rules"),
        ("answers", {"forced": "So: "}, "answer.forced"),
        ("medqa", {"long_answer": True}, "answer.long_answer"),
    ],
)
def test_what_does_not_fit_the_format_is_refused(format, answer, key):
    with pytest.raises(ValueError, match=key):
        task(format, **answer)
