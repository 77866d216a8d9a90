"""From prompts and options to token ids, as lm-eval 0.4.13 cuts them (`_encode_pair`)."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from jobs.evaluation.choice_question import LETTERS
from launcher.errors import LauncherError

Ids = tuple[int, ...]


@dataclass(frozen=True)
class OptionRequest:
    """A prompt and the options to score after it."""

    item: int
    context: Ids
    options: tuple[Ids, ...]
    cut_tokens: int = 0
    """Tokens at the start of the prompt that do not fit into the model and are left out."""
    joined: bool = False
    """Whether the end of the prompt and the start of an option became one token, so that the option's first letters
    are scored with the prompt's own tokens before them."""

    @property
    def length(self) -> int:
        """Tokens of a batch that it takes: the prompt once and all options but their last tokens."""
        return len(self.context) + sum(len(option) - 1 for option in self.options)


class PairEncoder:
    """Encodes prompts with options.

    Args:
        tokenizer: The model's.
        max_length: Positions of the model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length

    @property
    def start(self) -> Ids:
        """What an empty prompt is replaced with: the token that begins a text, or else the one that ends it."""
        return (start_of_text(self._tokenizer),)

    def encode(self, item: int, context: str, options: Sequence[str]) -> OptionRequest:
        """Encode one prompt with its options.

        Trailing spaces of the prompt become part of the options: most tokenizers join a space with the word after it.

        Raises:
            ValueError: an option has no tokens of its own, or is longer than the model's positions; the message quotes
                neither prompt nor options.
        """
        bare = context.rstrip()
        spaces = context[len(bare) :]
        ids: Ids = tuple(self._tokenizer.encode(bare)) if bare else self.start
        found, joined = [], False
        for place, option in enumerate(options):
            whole = tuple(self._tokenizer.encode(bare + spaces + option)) if bare else (*ids, *self._bare(option))
            joined |= whole[: len(ids)] != ids
            if not whole[len(ids) :]:
                raise ValueError(f"option {LETTERS[place]} has no tokens of its own after the prompt")
            found.append(whole[len(ids) :])
        longest = max(map(len, found))
        if longest > self._max_length:
            raise ValueError(f"an option has {longest} tokens, more than the model's {self._max_length} positions")
        # The last token of an option is predicted, never read, so it needs no position.
        room = self._max_length + 1 - longest
        return OptionRequest(item, ids[-room:], tuple(found), max(0, len(ids) - room), joined)

    def _bare(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids


def start_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that begins a text, or else the one that ends it.

    Raises:
        LauncherError: the tokenizer has neither.
    """
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if not isinstance(token, int):
        raise LauncherError("model: its tokenizer has neither a `bos_token` nor an `eos_token`; name another tokenizer")
    return token
