"""Tasks of an evaluation: what the model is asked, and how its answers are scored. Prompts never hold the answer."""

import string
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import FolderName, Input, Name, Positive, Section, nearest_first
from launcher.recipe.sections.classification_task import ClassificationTask
from launcher.recipe.sections.judgement_task import JudgementTask
from launcher.recipe.sections.perplexity_task import PerplexityTask
from launcher.recipe.sections.reward_task import RewardTask

QuestionFormat: TypeAlias = Literal[
    "medqa", "medmcqa", "pubmedqa", "mmlu", "choice", "medcare", "cblue", "ccte", "answers"
]
WITHOUT_OPTIONS: tuple[QuestionFormat, ...] = ("cblue", "ccte", "answers")

PLACEHOLDERS = ("question", "options", "context", "subject")
"""What a template may contain."""


class QuestionFiles(Section):
    """Questions with options in files of a known format."""

    files: Name
    """Files, as a glob below the profile's `roots.data`, or `./...` relative to the recipe; with .gz or .zst, too."""
    format: QuestionFormat
    """`medqa`, `medmcqa`, `pubmedqa`: as `sft` reads them. `mmlu`: the official CSV files without a header, or Hugging
    Face's JSON lines. `choice`: JSON lines of `question`, `options` (a list of texts), `answer` (a letter or a number
    from 0) and, if there are any, `id`, `context`, `group` and `subject`. `medcare`: MedCare's test files, whose
    `conversations` hold the options in the question's text, and `eval` the letter. `cblue`: instructions of
    PromptCBLUE, in its own form or MedCare's. `ccte`: MedCare's questions with a `solution`. `answers`: JSON lines of
    `question` and `answers` (a text or a list of texts) and, if there are any, `id`, `context` and `group`."""
    cop_base: Literal[0, 1] | None = None
    """Of `medmcqa`: number of the first option in `cop`. If left out, it is derived from the explanations that name the
    answer's letter; if that is not possible, the run ends and says so."""
    only: Name | None = None
    """Of `pubmedqa`: a JSON object from PubMed number to decision, such as `test_ground_truth.json`, that selects the
    questions. Each must be in `files` with the same decision."""

    @override
    def _conflicts(self) -> Iterator[str]:
        if self.cop_base is not None and self.format != "medmcqa":
            yield f"cop_base: belongs to `medmcqa`, not to `{self.format}`; leave it out"
        if self.only and self.format != "pubmedqa":
            yield f"only: belongs to `pubmedqa`, not to `{self.format}`; leave it out"


class QuestionTask(QuestionFiles):
    """Questions with options, and how they are worded."""

    name: FolderName
    """Name of the task in scores and messages."""
    prompt: Literal["lm_eval", "biomed_llama", "sft", "own"] = "lm_eval"
    """Wording of prompts. `lm_eval`: that of the Language Model Evaluation Harness 0.4.13 for this format.
    `biomed_llama`: that of BioMed-LLaMA's evaluation, which hides the options. `sft`: that of `kind: sft` for
    questions. `own`: `template`."""
    template: str | None = None
    """Wording of `prompt: own`: a text with some of `{question}`, `{options}`, `{context}` and `{subject}`."""
    shots: Annotated[int, Field(ge=0, le=100)] = 0
    """Solved examples before each question; needs `examples`."""
    examples: Name | None = None
    """Files with the examples, in the same format; a glob like `files`. A question never gets itself or a question of
    its group as an example."""
    order: Literal["first", "drawn"] = "drawn"
    """Which examples are used: the first ones of the subject, as usual for MMLU, or random ones (by the recipe's seed).
    All questions of a subject get the same examples where possible."""
    limit: Positive | None = None
    """Use only this many questions, evenly spread over the files, for a quick look."""

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if bool(self.shots) != bool(self.examples):
            yield "examples: `shots` and `examples` belong together; write both, or none"
        if (self.prompt == "own") != (self.template is not None):
            yield "template: belongs to `prompt: own`; write both, or none"
        if self.template is not None:
            yield from _template_conflicts(self.template)

    def inputs(self, key: str) -> Iterator[Input]:
        """Give the files of questions and examples.

        Args:
            key: Of the task in the recipe.
        """
        for name in ("files", "examples", "only"):
            if pattern := getattr(self, name):
                yield Input(f"{key}.{name}", "files", pattern)


def _template_conflicts(template: str) -> Iterator[str]:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        yield f"template: {error}; write `{{{{` for a brace that is text"
        return
    for wrong in [name for name in fields if name not in PLACEHOLDERS]:
        yield f"template: `{{{wrong}}}` is not known; write one of {nearest_first(wrong, PLACEHOLDERS)} in braces"
    if "question" not in fields:
        yield "template: has no `{question}`; add it"


class ChoiceTask(QuestionTask):
    """Choice among options by their log-likelihood after the prompt."""

    needs_model: ClassVar[bool] = True

    type: Literal["choice"]
    """Choice by log-likelihood."""
    options: Literal["letters", "texts"] | None = None
    """What is scored: the letter of each option, or its text. If left out: texts for `prompt: biomed_llama` and
    `format: pubmedqa`, else letters."""

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        if self.format in WITHOUT_OPTIONS:
            yield f"format: `{self.format}` has no options to choose from; write `type: generate`"

    @property
    def scored(self) -> Literal["letters", "texts"]:
        """What is scored as the answer."""
        if self.options:
            return self.options
        return "texts" if self.prompt == "biomed_llama" or self.format == "pubmedqa" else "letters"


EvaluationTask: TypeAlias = Annotated[
    ChoiceTask | PerplexityTask | ClassificationTask | JudgementTask | RewardTask, Field(discriminator="type")
]
"""A task of any type."""
