"""From prompts, plain or as conversations, to token ids that leave room for a text."""

from array import array
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

from jobs.data.chat.formats import Message
from jobs.data.chat.render import Renderer
from jobs.data.chat.templates import chat_template
from jobs.evaluation.generator import GenerationRequest
from jobs.evaluation.loaded_model import LoadedModel
from launcher.errors import LauncherError
from launcher.recipe.sections.generation import ChatPrompt


class PromptEncoder:
    """Encodes prompts.

    Args:
        model: The model.
        chat: How prompts become turns of a user; None: they are continued as they are.
        key: Of the section that holds `chat` in the recipe, for messages.
        room: Tokens that come after a prompt.
        too_long: What becomes of prompts that leave less room.

    Raises:
        LauncherError: the tokenizer has no chat template, or lacks the tokens of the one that is named, or nothing but
            the text fits into the model's positions.
    """

    def __init__(
        self, model: LoadedModel, chat: ChatPrompt | None, key: str, room: int, too_long: Literal["refuse", "cut"]
    ) -> None:
        self._tokenizer = model.tokenizer
        self._longest = model.max_length - room
        self._room = room
        self._too_long = too_long
        if self._longest < 1:
            raise LauncherError(
                f"decoding.max_new_tokens: {room} tokens leave no room for a prompt in the model's {model.max_length} "
                "positions; write a smaller number"
            )
        self._renderer: Renderer | None = None
        if chat:
            template = chat_template(model.tokenizer, chat.template, f"{key}.chat.template")
            self._renderer = Renderer(model.tokenizer, template, chat.system_prompt)

    @cached_property
    def end_of_turn(self) -> int | None:
        """The token with which the chat template ends an answer, if there is one."""
        return self._renderer.end_of_turn if self._renderer else None

    def encode(self, name: str, prompt: str | Sequence[Message]) -> GenerationRequest:
        """Encode one prompt.

        Args:
            name: Its id.
            prompt: A text, or turns of which the last one is the user's.

        Raises:
            ValueError: it is empty, has no tokens or too many, holds a control token, or is refused by the template.
        """
        ids = self._ids(prompt)
        if not ids:
            raise ValueError("its prompt has no tokens")
        surplus = max(0, len(ids) - self._longest)
        if surplus and self._too_long == "refuse":
            raise ValueError(
                f"its prompt has {len(ids)} tokens; with {self._room} after it they are more than the model's "
                f"{self._longest + self._room} positions"
            )
        return GenerationRequest(name, array("I", ids[surplus:]), surplus)

    def _ids(self, prompt: str | Sequence[Message]) -> list[int]:
        if isinstance(prompt, str) and not prompt.strip():
            raise ValueError("its prompt is empty")
        if self._renderer is None:
            assert isinstance(prompt, str), "the recipe asks for a chat template"
            ids: list[int] = self._tokenizer.encode(prompt, verbose=False)
            return ids
        return self._renderer.prompt_ids([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
