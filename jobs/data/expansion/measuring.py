"""Measuring an expanded tokenizer on text that it has not learned from, and checking it against its base there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from jobs.data.tokenize import TextEncoder
from launcher.errors import LauncherError
from launcher.expansion import Fertility, Measurement


@dataclass
class Meter:
    """Counts what two tokenizers make of the same text."""

    base: TextEncoder
    expanded: TextEncoder
    parts: Sequence[tuple[int, ...]]
    """The base's ids that each new one stands for."""
    documents: int = 0
    words: int = 0
    characters: int = 0
    base_tokens: int = 0
    """Without those that begin and end every document."""
    expanded_tokens: int = 0
    new_tokens: int = 0

    def add(self, texts: Sequence[str]) -> None:
        """Count some documents.

        Raises:
            LauncherError: the expanded tokenizer does not cut them as its base does; the text is not quoted.
        """
        old, new = self.base.encode(texts), self.expanded.encode(texts)
        is_same = [self._replaced(ids) for ids in new] == old
        if not is_same or self.base.backend.decode_batch(old) != self.expanded.backend.decode_batch(new):
            raise LauncherError(
                f"tokenizer: with new tokens, `{self.base.record.path}` does not cut text as before; one of its rules "
                "works against them, so take another tokenizer"
            )
        frame = len(texts) * (len(self.base.record.prefix) + 1)
        self.documents += len(texts)
        self.words += sum(len(text.split()) for text in texts)
        self.characters += sum(map(len, texts))
        self.base_tokens += sum(map(len, old)) - frame
        self.expanded_tokens += sum(map(len, new)) - frame
        self.new_tokens += sum(token >= self.base.record.vocab_size for token in chain.from_iterable(new))

    def _replaced(self, ids: Iterable[int]) -> list[int]:
        first = self.base.record.vocab_size
        return [part for token in ids for part in ((token,) if token < first else self.parts[token - first])]

    def measurement(self) -> Measurement:
        """Sum up."""
        return Measurement(
            documents=self.documents,
            words=self.words,
            characters=self.characters,
            base=self._fertility(self.base_tokens),
            expanded=self._fertility(self.expanded_tokens),
            new_share=round(self.new_tokens / max(1, self.expanded_tokens), 4),
        )

    def _fertility(self, tokens: int) -> Fertility:
        return Fertility(
            tokens=tokens,
            tokens_per_word=round(tokens / max(1, self.words), 4),
            characters_per_token=round(self.characters / max(1, tokens), 4),
        )
