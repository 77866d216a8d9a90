"""A dialogue with one model, in memory alone."""

from collections.abc import Iterator

from jobs.chat.answer import Answer
from jobs.chat.model import ChatModel
from jobs.chat.settings import ChatSettings
from jobs.data.chat.formats import Message
from launcher.errors import LauncherError


class Dialogue:
    """What was said, and what the model is told first.

    Args:
        model: Whom to talk to.
    """

    def __init__(self, model: ChatModel) -> None:
        self.model = model
        self.system_prompt = model.first_system_prompt
        self.turns: list[Message] = []
        """Questions and answers, one after the other."""
        self.answer: Answer | None = None
        """The newest one."""
        self.left_out = 0
        """Messages at the start that the newest answer does not know, since they do not fit."""
        self._is_stopped = False

    def reset(self) -> None:
        """Forget what was said; the system prompt stays."""
        self.turns = []

    def take_back(self, question: str) -> None:
        """Forget the last question and its answer, if this was the question."""
        if self.turns and self.turns[-2]["content"] == question:
            self.turns = self.turns[:-2]

    def stop(self) -> None:
        """End the answer that is being written, or that is about to be."""
        self._is_stopped = True
        if self.answer:
            self.answer.stop()

    def set_system_prompt(self, text: str | None) -> None:
        """Tell the model something first, from the next question on.

        Raises:
            LauncherError: the chat template has no place for it.
        """
        if text and not self.model.has_system_prompt:
            raise LauncherError(f"{self.model.title}: the chat template accepts no system prompt")
        self.system_prompt = text or None

    def ask(self, question: str, settings: ChatSettings, times: int = 0) -> Iterator[str]:
        """Ask, and give the answer part by part. What was answered before a stop is part of the dialogue.

        Args:
            question: What the user says.
            settings: How to answer.
            times: How often it was asked before: other numbers draw other random numbers.

        Raises:
            LauncherError: the question cannot be asked.
        """
        system: list[Message] = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        asked: Message = {"role": "user", "content": question}
        name = f"turn-{len(self.turns) // 2}" + (f"-{times}" if times else "")
        self._is_stopped = False
        try:
            self.answer, self.left_out = self.model.answer([*system, *self.turns, asked], settings, name)
        except ValueError as error:
            raise LauncherError(f"{self.model.title}: the conversation {error}") from None
        if self._is_stopped:
            self.answer.stop()
        try:
            yield from self.answer
        finally:
            if self.answer.text.strip():
                self.turns += [asked, {"role": "assistant", "content": self.answer.text}]

    def summary(self) -> str:
        """Say how the newest answer ended, and how fast it was."""
        answer = self.answer
        assert answer is not None, "there is one"
        parts = [f"{answer.tokens} tokens, {answer.tokens / max(answer.seconds, 1e-9):.0f} a second"]
        if answer.finish == "length":
            parts.append("cut off there")
        if answer.finish == "stopped":
            parts.append("stopped")
        if self.left_out:
            parts.append(f"the {self.left_out} oldest messages do not fit into the model and were left out")
        return "; ".join(parts)
