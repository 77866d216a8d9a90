"""Tasks of an evaluation whose answers are generated texts."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field
from typing_extensions import override

from launcher.recipe.base import Input, Name, Section
from launcher.recipe.sections.evaluation_tasks import WITHOUT_OPTIONS, EvaluationTask, QuestionTask
from launcher.recipe.sections.generation import ChatPrompt, Decoding

LetterRule: TypeAlias = Literal["answer_is", "boxed", "leading_letter", "last_letter", "option_text"]
DecisionRule: TypeAlias = Literal["final_decision", "decision_is", "leading_decision"]
TextRule: TypeAlias = Literal["after_answer", "first_line", "whole"]
ReadingRule: TypeAlias = LetterRule | DecisionRule | TextRule


class AnswerReading(Section):
    """How an answer is read from a text."""

    rules: tuple[ReadingRule, ...] | None = None
    """Rules to read the answer by; the first one that finds an answer wins. If left out: the defaults of the format,
    which the handbook's page on evaluation lists."""
    forced: str | None = None
    """A second pass: the answer is the option that is most likely after the text and these words, such as
    `The answer is `. What the rules read is then scored as `acc_read`."""
    long_answer: bool = False
    """Of `pubmedqa`: also compare the text after `Long Answer:` with the published conclusion."""
    structured: Name | None = None
    """Of `cblue`: a file of the right answers, such as MedCare's `CBLUE_structured.json`: a JSON object that has for
    each data set a list of `sample_id` and `answer`. If left out, they are read from the items' `target`."""


class GenerateTask(QuestionTask):
    """Questions that the model answers by writing a text."""

    needs_model: ClassVar[bool] = True

    type: Literal["generate"]
    """Generated text, from which the answer is read."""
    chat: ChatPrompt | None = None
    """Make each prompt a user's turn. If left out, a prompt is continued as it is."""
    decoding: Decoding = Decoding()
    """How the tokens of a text are chosen."""
    answer: AnswerReading = AnswerReading()
    """How the answer is read."""

    @property
    def scored(self) -> Literal["letters", "texts"]:
        """What options are called in answers."""
        return "texts" if self.prompt == "biomed_llama" or self.format in ("pubmedqa", *WITHOUT_OPTIONS) else "letters"

    @property
    def rules(self) -> tuple[ReadingRule, ...]:
        """The rules to read answers by."""
        if self.answer.rules is not None:
            return self.answer.rules
        match self.format:
            case "answers" | "cblue" | "ccte":
                return ("whole",)
            case "pubmedqa":
                return ("final_decision", "decision_is", "leading_decision")
            case "medcare":
                return ("answer_is", "boxed", "leading_letter")
            case _:
                return ("answer_is", "boxed", "leading_letter", "option_text")

    @override
    def inputs(self, key: str) -> Iterator[Input]:
        yield from super().inputs(key)
        if self.answer.structured:
            yield Input(f"{key}.answer.structured", "files", self.answer.structured)

    @override
    def _conflicts(self) -> Iterator[str]:
        yield from super()._conflicts()
        fitting: dict[str, object] = {"pubmedqa": DecisionRule, **dict.fromkeys(WITHOUT_OPTIONS, TextRule)}
        known = get_args(fitting.get(self.format, LetterRule))
        for rule in self.rules:
            if rule not in known and not (self.format == "pubmedqa" and rule == "option_text"):
                yield f"answer.rules: `{rule}` does not fit `{self.format}`; write some of {', '.join(known)}"
        if self.answer.forced is not None and self.format in WITHOUT_OPTIONS:
            yield f"answer.forced: `{self.format}` has no options to choose from; leave it out"
        if self.answer.structured is not None and self.format != "cblue":
            yield f"answer.structured: belongs to `cblue`, not to `{self.format}`; leave it out"
        if self.answer.rules is not None and self.format == "cblue":
            yield "answer.rules: answers of `cblue` are read as its instructions ask for them; leave it out"
        if self.answer.long_answer and self.format != "pubmedqa":
            yield f"answer.long_answer: belongs to `pubmedqa`, not to `{self.format}`; leave it out"


AnyTask: TypeAlias = Annotated[EvaluationTask | GenerateTask, Field(discriminator="type")]
"""A task of `kind: evaluate`."""
