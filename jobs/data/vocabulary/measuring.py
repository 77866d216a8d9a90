"""Measure an expanded tokenizer on held-out text, and check it against its base there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from jobs.models.tokenizer import TextEncoder
from launcher.artifacts.tokenizer_manifest import Fertility, Measurement
from launcher.errors import LauncherError


@dataclass
class Meter:
    """Compares two tokenizers on the same text."""

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
        """Count some documents; raise LauncherError if the expanded tokenizer does not cut them as its base does."""
        old, new = self.base.encode(texts), self.expanded.encode(texts)
        is_same = [self._replaced(ids) for ids in new] == old
        if not is_same or self.base.backend.decode_batch(old) != self.expanded.backend.decode_batch(new):
            raise LauncherError(
                f"tokenizer: with new tokens, `{self.base.record.path}` does not cut text as before, because of one of "
                "its rules; take another tokenizer"
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
        """Return the result."""
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
