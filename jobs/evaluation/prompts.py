"""How questions are worded. A prompt is made without the answer: `Prompt.of` is given none.

lm-eval's wordings: medqa, medmcqa, pubmedqa and mmlu of the Language Model Evaluation Harness 0.4.13
(https://github.com/EleutherAI/lm-evaluation-harness). BioMed-LLaMA's: github.com/Coldog2333/BioMed-LLaMA, 7a5876a.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.data.chat.questions import worded
from jobs.evaluation.choice_question import LETTERS, ChoiceQuestion
from launcher.errors import LauncherError
from launcher.recipe.sections.evaluation_tasks import QuestionTask

_BETWEEN = "\n\n"
"""Between solved examples, as in lm-eval."""


@dataclass(frozen=True)
class Prompt:
    """Words a question.

    Args:
        task: The recipe's section.
        shots: Solved examples that every question may get, in the order in which they are used.
    """

    task: QuestionTask
    scored: str
    """`letters` or `texts`."""
    shots: Sequence[ChoiceQuestion] = ()

    def of(self, question: ChoiceQuestion) -> str:
        """Return the text after which the answer is asked for."""
        header = self._description(question.subject)
        solved = [self._body(shot) + " " + self.answers(shot)[shot.answer] for shot in self._shots_for(question)]
        return header + _BETWEEN.join([*solved, self._body(question)])

    def answers(self, question: ChoiceQuestion) -> tuple[str, ...]:
        """Return what is scored for each option, without the space before it."""
        if not question.options:
            return question.references
        return question.options if self.scored == "texts" else tuple(LETTERS[: len(question.options)])

    def names(self, question: ChoiceQuestion, shows_text: bool) -> tuple[str, ...]:
        """Return what options are called in reports: as they are scored, or by their letters.

        Args:
            question: Has options.
            shows_text: Whether reports may hold text of the data; PubMedQA's decisions are none.
        """
        if shows_text or self.task.format == "pubmedqa":
            return self.answers(question)
        return tuple(LETTERS[: len(question.options)])

    def _shots_for(self, question: ChoiceQuestion) -> list[ChoiceQuestion]:
        usable = [
            shot
            for shot in self.shots
            if shot.subject == question.subject
            and (shot.question, shot.context) != (question.question, question.context)
            and not (shot.group and shot.group == question.group)
        ]
        if len(usable) < self.task.shots:
            of = f" of the subject `{question.subject}`" if question.subject else ""
            raise LauncherError(
                f"tasks: {self.task.name}: question `{question.id}` can have {len(usable)} examples{of}, not "
                f"{self.task.shots}; write fewer `shots`, or name more `examples`"
            )
        return usable[: self.task.shots]

    def _description(self, subject: str) -> str:
        if self.task.prompt != "lm_eval" or self.task.format != "mmlu":
            return ""
        return f"The following are multiple choice questions (with answers) about {subject}.{_BETWEEN}"

    def _body(self, asked: ChoiceQuestion) -> str:
        if self.task.prompt == "own":
            assert self.task.template is not None
            return self.task.template.format(
                question=asked.question, options=_listed(asked), context=asked.context, subject=asked.subject
            ).rstrip(" ")
        if self.task.prompt == "sft":
            return worded(asked.question, dict(zip(LETTERS, asked.options, strict=False)), asked.context)
        context = f"Abstract: {asked.context}\n" if asked.context else ""
        if self.task.format in ("medcare", "cblue", "ccte"):
            return asked.question
        if self.task.prompt == "biomed_llama" or self.task.format in ("pubmedqa", "answers"):
            return f"{context}Question: {asked.question}\nAnswer:"
        if self.task.format == "mmlu":
            return f"{asked.question.strip()}\n{_listed(asked)}\nAnswer:"
        choices = "Choices:\n" if self.task.format == "medmcqa" else ""
        return f"{context}Question: {asked.question}\n{choices}{_listed(asked)}\nAnswer:"


def _listed(asked: ChoiceQuestion) -> str:
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, asked.options, strict=False))


def choose_shots(task: QuestionTask, examples: Sequence[ChoiceQuestion], seed: int) -> list[ChoiceQuestion]:
    """Put examples into the order in which they are used: that of their files, or one drawn with the seed."""
    if task.order == "first":
        return list(examples)
    return random.Random(seed).sample(examples, len(examples))  # noqa: S311 - no secret
