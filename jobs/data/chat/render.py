"""Turn a conversation into token ids, and mark those of the answers.

A conversation becomes one text, which is tokenised as a whole, as when the model is used. An answer begins where the
template's text before it ends (the generation prompt) and ends with the token that ends the turn, which must be learned
as well; what a template puts after that token (ChatML: a line break) is not. So no token of the system, the user or the
template is trained on; MedCare's published masks include the marks of the other turns.
"""

import itertools
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
Numbers: TypeAlias = tuple[NDArray[np.uint32], NDArray[np.int64]]
"""Token ids, and where each token starts and ends in the text."""

_PROBE: list[Message] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True)
class Example:
    """A conversation as tokens."""

    ids: NDArray[np.uint32]
    is_answer: NDArray[np.bool_]
    """Whether each token is trained on."""

    def truncated(self, length: int) -> "Example":
        """Return the first tokens."""
        return Example(self.ids[:length], self.is_answer[:length])


@dataclass(frozen=True)
class Renderer:
    """Turns conversations into examples, by a Jinja template."""

    tokenizer: PreTrainedTokenizerBase
    template: str
    system_prompt: str | None = None
    last_only: bool = False
    """Train on the last answer of a conversation alone."""

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list["Example | ValueError"]:
        """Make an example of each conversation, or say what is wrong without quoting it."""
        rendered = [self._try_render(conversation) for conversation in conversations]
        texts = [one[0] for one in rendered if not isinstance(one, ValueError)]
        encodings = iter(self._backend.encode_batch(texts, add_special_tokens=False))
        return [one if isinstance(one, ValueError) else self._example(next(encodings), *one) for one in rendered]

    def render(self, conversation: Sequence[Message]) -> tuple[str, list[Span]]:
        """Return the text of a conversation, and where its answers are in it.

        Raises:
            ValueError: they cannot be located with this template.
        """
        messages = self.completed(conversation)
        self._refuse_control_tokens(messages)
        text, spans = self._apply(messages), []
        first = len(messages) - 1 if self.last_only else 0
        for number, message in enumerate(messages[first:], first):
            if message["role"] == "assistant":
                before = self._apply(messages[:number], add_generation_prompt=True)
                until = self._apply(messages[: number + 1])
                if not (text.startswith(until) and until.startswith(before)):
                    raise ValueError("is rendered differently by the chat template once a turn follows")
                spans.append((len(before), len(until)))
        return text, spans

    def check(self) -> None:
        """Raise LauncherError if answers cannot be located with this template, or do not end."""
        example = self.encode([_PROBE])[0]
        if isinstance(example, ValueError) and self.system_prompt and self._takes(_PROBE):
            raise LauncherError("data.system_prompt: the chat template accepts no system prompt; leave it out")
        if isinstance(example, ValueError):
            fault = f"a probe {example}"
        elif self.end_of_answer not in self._control_ids:
            fault = "puts no token at the end of an answer, so the model would never learn to stop"
        elif self.prompt_ids(_PROBE[:-1]) != example.ids[: int(example.is_answer.argmax())].tolist():
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

    @property
    def end_of_turn(self) -> int | None:
        """The control token that ends an answer; None if answers end otherwise."""
        example = self.encode([_PROBE])[0]
        end = None if isinstance(example, ValueError) else self.end_of_answer
        return end if end in self._control_ids else None

    def prompt_ids(self, conversation: Sequence[Message]) -> list[int]:
        """Return the token ids of a conversation, up to where the model answers its last turn.

        Raises:
            ValueError: it holds a control token, or the template refuses it; the message does not quote it.
        """
        messages = self.completed(conversation)
        self._refuse_control_tokens(messages)
        try:
            text = self._apply(messages, add_generation_prompt=True)
        except TemplateError:
            raise ValueError("is refused by the chat template") from None
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
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

    def _refuse_control_tokens(self, messages: Sequence[Message]) -> None:
        if any(self._control_tokens.search(message["content"]) for message in messages):
            raise ValueError("holds the name of one of the tokenizer's control tokens")

    def completed(self, conversation: Sequence[Message]) -> list[Message]:
        """Add the system prompt, and strip answers: the space before one could merge with the template's text."""
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
            if conversation[0]["role"] == "system" and self._takes(conversation[1:]):
                return ValueError("has a system prompt, which the chat template refuses")
            return ValueError("is refused by the chat template")
        except ValueError as error:
            return error

    def _takes(self, conversation: Sequence[Message]) -> bool:
        """Tell whether the template accepts a conversation as it is."""
        try:
            self._apply(conversation)
        except TemplateError:
            return False
        return True

    def _example(self, encoding: Encoding, text: str, spans: Sequence[Span]) -> Example | ValueError:
        ids, offsets = _numbers(encoding)
        if any(_crosses(offsets, start) for start, _ in spans):
            apart = self._split(text, [start for start, _ in spans], (ids, offsets))
            if apart is None:
                return ValueError("shares a token between the chat template's text and an answer")
            ids, offsets = apart
        is_answer = np.zeros(len(ids), np.bool_)
        for start, end in spans:
            inside = np.flatnonzero((offsets[:, 0] >= start) & (offsets[:, 1] <= end))
            controls = [place for place in inside if int(ids[place]) in self._control_ids]
            is_answer[inside[inside <= controls[-1]] if controls else inside] = True
        return Example(ids, is_answer)

    def _split(self, text: str, starts: Sequence[int], whole: Numbers) -> Numbers | None:
        """Tokenise prompts and answers apart: a model that is given a prompt ending in a space goes on after it.

        Returns:
            Ids and offsets; None if a prompt ends otherwise, or the tokens would be another text.
        """
        if any(text[start - 1 : start] != " " for start in starts):
            return None
        parts = [text[start:end] for start, end in itertools.pairwise([*starts, len(text)])]
        # After a line break, since many tokenizers write a space where a text starts.
        encodings = self._backend.encode_batch(
            [text[: starts[0]], *("\n" + one for one in parts)], add_special_tokens=False
        )
        first, *rest = map(_numbers, encodings)
        if any(_crosses(offsets, 1) for _, offsets in rest):
            return None
        answers = [
            (ids[own[:, 0] >= 1], own[own[:, 0] >= 1] - 1 + start)
            for start, (ids, own) in zip(starts, rest, strict=True)
        ]
        ids, offsets = (np.concatenate(both) for both in zip(first, *answers, strict=True))
        same = self._decode(ids) == self._decode(whole[0])
        return (ids, offsets) if same else None

    def _decode(self, ids: NDArray[np.uint32]) -> str:
        return self._backend.decode(ids.tolist(), skip_special_tokens=False)


def _numbers(encoding: Encoding) -> Numbers:
    return np.array(encoding.ids, np.uint32), np.array(encoding.offsets, np.int64).reshape(-1, 2)


def _crosses(offsets: NDArray[np.int64], place: int) -> bool:
    return bool(((offsets[:, 0] < place) & (offsets[:, 1] > place)).any())
