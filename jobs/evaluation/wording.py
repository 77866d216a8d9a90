"""Which questions of a task are asked, and how its recipe words them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jobs.evaluation.choice_question import ChoiceQuestion
from jobs.evaluation.prompts import Prompt, choose_shots
from jobs.evaluation.question_files import QuestionSet, read_questions
from jobs.evaluation.report import TaskSettings
from jobs.rank.context import Context
from launcher.recipe.sections.evaluation_tasks import QuestionTask


@dataclass(frozen=True)
class WordedQuestions:
    """The questions of a task that are asked, and their prompts."""

    found: QuestionSet
    """All questions of its files."""
    wording: Prompt
    questions: tuple[ChoiceQuestion, ...]
    """Those that are asked: `limit` of them, evenly spread over the files."""
    prompts: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Says how many questions are asked, if not all."""
        asked, all_of_them = len(self.questions), len(self.found.questions)
        return (f"{asked} of {all_of_them} questions",) if asked < all_of_them else ()


def word_questions(
    context: Context, recipe: TaskSettings, task: QuestionTask, key: str, scored: Literal["letters", "texts"]
) -> WordedQuestions:
    """Read the questions of a task and its examples, choose those that are asked, and word them.

    Args:
        context: Knows where files are.
        recipe: The section that the task stands in.
        task: The section.
        key: Of the task in the recipe.
        scored: What the examples' answers are.

    Raises:
        LauncherError: questions or examples cannot be used.
    """
    found = read_questions(context, task, f"{key}.files", recipe.max_bad_fraction)
    shots: Sequence[ChoiceQuestion] = ()
    if task.examples:
        examples = read_questions(context, task, f"{key}.examples", recipe.max_bad_fraction, task.examples)
        shots = choose_shots(task, examples.questions, recipe.seed)
    wording = Prompt(task, scored, shots)
    asked = _spread(found.questions, task.limit)
    return WordedQuestions(found, wording, asked, tuple(wording.of(one) for one in asked))


def _spread(questions: Sequence[ChoiceQuestion], limit: int | None) -> tuple[ChoiceQuestion, ...]:
    """Choose so many questions, evenly spread over the files; all of them if there is no limit."""
    count = min(limit or len(questions), len(questions))
    return tuple(questions[place * len(questions) // count] for place in range(count))
