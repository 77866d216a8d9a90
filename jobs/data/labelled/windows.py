"""What of a note a model reads: its text as token ids, cut to the model's length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from jobs.runtime.watchdog import WATCHDOG
from launcher.errors import LauncherError

Ids: TypeAlias = NDArray[np.int32]
How: TypeAlias = Literal["head", "tail", "head_and_tail", "chunks"]

_BATCH = 256
"""Notes that are encoded at once: a few MB of text."""


@dataclass(frozen=True)
class NoteEncoder:
    """Encodes notes in the frame that the tokenizer gives to texts: `[CLS] ... [SEP]`, or BOS before them."""

    backend: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    length: int
    """Most tokens of a window, frame included."""
    how: How

    def windows(self, texts: Sequence[str]) -> Iterator[list[Ids]]:
        """Give each text's windows: one, but for `chunks`."""
        for start in range(0, len(texts), _BATCH):
            WATCHDOG.beat()
            for encoding in self.backend.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
                yield [self._framed(part) for part in cut(encoding.ids, self._room, self.how)]

    @property
    def _room(self) -> int:
        return self.length - len(self.prefix) - len(self.suffix)

    def _framed(self, ids: Sequence[int]) -> Ids:
        return np.array([*self.prefix, *ids, *self.suffix], np.int32)


def note_encoder(tokenizer: PreTrainedTokenizerBase, length: int, how: How) -> NoteEncoder:
    """Make the encoder of a tokenizer.

    Names of special tokens that occur in a note are text.

    Raises:
        LauncherError: nothing fits between the tokens that the tokenizer puts around a text.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    frame = backend.encode("a")
    marks = list(zip(frame.ids, frame.special_tokens_mask, strict=True))
    prefix = tuple(token for token, is_special in takewhile(lambda pair: pair[1], marks))
    suffix = tuple(token for token, is_special in takewhile(lambda pair: pair[1], reversed(marks)))[::-1]
    if length <= len(prefix) + len(suffix):
        raise LauncherError(f"batch.sequence_length: {length} tokens leave no room for text; write more")
    return NoteEncoder(backend, prefix, suffix, length, how)


def cut(ids: Sequence[int], room: int, how: How) -> list[Sequence[int]]:
    """Cut the ids of one text into what is read of them.

    Args:
        ids: Of the text, without special tokens.
        room: Most ids of a part.
        how: The recipe's `long_notes`.
    """
    if len(ids) <= room:
        return [ids]
    match how:
        case "head":
            return [ids[:room]]
        case "tail":
            return [ids[-room:]]
        case "head_and_tail":
            return [[*ids[: room - room // 2], *ids[len(ids) - room // 2 :]]]
        case "chunks":
            return [ids[start : start + room] for start in range(0, len(ids), room)]
