"""From a conversation to token ids, and which of them are the answers.

A conversation becomes one text, which is tokenised as a whole, as it is when the model is used. An answer begins
where the template's text before it ends (its generation prompt) and ends with the token that ends the turn, which
must be learned, too; what a template puts behind that token (ChatML: a line break) the model never has to say. So
nothing of the system, the user or the template's frame is trained on: MedCare's published masks leave the marks of the
other turns in.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers import PreTrainedTokenizerBase

from jobs.data.chat.formats import Message
from launcher.errors import LauncherError

Span: TypeAlias = tuple[int, int]

_PROBE: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class Example:
    """A conversation in the model's terms."""

    ids: NDArray[np.uint32]
    is_answer: NDArray[np.bool_]
    """Of each token: whether it is trained on."""

    def truncated(self, length: int) -> "Example":
        """Keep the first tokens."""
        return Example(self.ids[:length], self.is_answer[:length])


@dataclass(frozen=True)
class Renderer:
    """Turns conversations into examples."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    """In Jinja."""
    system_prompt: str | None = None

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list["Example | ValueError"]:
        """Make an example of each conversation, or say what is wrong with it, in words that quote nothing of it."""
        rendered = [self._try_render(conversation) for conversation in conversations]
        texts = [one[0] for one in rendered if not isinstance(one, ValueError)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [one if isinstance(one, ValueError) else self._example(next(encodings), one[1]) for one in rendered]

    def render(self, conversation: Sequence[Message]) -> tuple[str, list[Span]]:
        """Return the text of a conversation, and where its answers stand in it.

        Raises:
            ValueError: the template cannot show where.
        """
        messages = self._completed(conversation)
        if any(self._control_tokens.search(message["content"]) for message in messages):
            raise ValueError("holds the name of one of the tokenizer's control tokens")
        text, spans = self._apply(messages), []
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                before = self._apply(messages[:number], add_generation_prompt=True)
                until = self._apply(messages[: number + 1])
                if not (text.startswith(until) and until.startswith(before)):
                    raise ValueError("is rendered differently by the chat template once a turn follows")
                spans.append((len(before), len(until)))
        return text, spans

    def check(self) -> None:
        """Refuse a template with which answers cannot be told from the rest, or do not end.

        Raises:
            LauncherError: it is one.
        """
        example = self.encode([_PROBE])[0]
        if isinstance(example, ValueError):
            fault = f"a probe {example}"
        elif self.end_of_answer not in self._control_ids:
            fault = "puts no token at the end of an answer, so the model would never learn to stop"
        elif self._prompt_ids() != example.ids[: int(example.is_answer.argmax())].tolist():
            fault = "ends a prompt with what becomes other tokens once an answer follows"
        else:
            return
        raise LauncherError(f"data.chat_template: {fault}; write the name of another template")

    @property
    def end_of_answer(self) -> int:
        """The token that ends an answer."""
        example = self.encode([_PROBE])[0]
        assert isinstance(example, Example), example
        return int(example.ids[example.is_answer][-1])

    def _prompt_ids(self) -> list[int]:
        prompt = self._apply(self._completed(_PROBE)[:-1], add_generation_prompt=True)
        ids: list[int] = self._backend.encode(prompt, add_special_tokens=False).ids
        return ids

    @cached_property
    def _backend(self) -> Tokenizer:
        backend: Tokenizer = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend

    @cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    @cached_property
    def _control_tokens(self) -> re.Pattern[str]:
        names = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def _completed(self, conversation: Sequence[Message]) -> list[Message]:
        """Add the system prompt, and strip answers: their first space could join with the template's to one token."""
        stripped = [
            message | {"content": message["content"].strip()} if message["role"] == "assistant" else message
            for message in conversation
        ]
        if self.system_prompt is None or conversation[0]["role"] == "system":
            return stripped
        return [{"role": "system", "content": self.system_prompt}, *stripped]

    def _apply(self, messages: Sequence[Message], **options: Any) -> str:
        rendered = self.tokenizer.apply_chat_template(
            list(messages), chat_template=self.template, tokenize=False, **options
        )
        return str(rendered)

    def _try_render(self, conversation: Sequence[Message]) -> tuple[str, list[Span]] | ValueError:
        try:
            return self.render(conversation)
        except TemplateError:
            return ValueError("is refused by the chat template")
        except ValueError as error:
            return error

    def _example(self, encoding: Encoding, spans: Sequence[Span]) -> Example | ValueError:
        ids, offsets = np.array(encoding.ids, np.uint32), np.array(encoding.offsets).reshape(-1, 2)
        is_answer = np.zeros(len(ids), np.bool_)
        for start, end in spans:
            if ((offsets[:, 0] < start) & (offsets[:, 1] > start)).any():
                return ValueError("shares a token between the chat template's text and an answer")
            inside = np.flatnonzero((offsets[:, 0] >= start) & (offsets[:, 1] <= end))
            controls = [place for place in inside if int(ids[place]) in self._control_ids]
            is_answer[inside[inside <= controls[-1]] if controls else inside] = True
        return Example(ids, is_answer)
