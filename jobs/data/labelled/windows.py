"""Encode notes as windows of token ids that fit the model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError

Ids: TypeAlias = NDArray[np.int32]
How: TypeAlias = Literal["head", "tail", "head_and_tail", "chunks"]

_BATCH = 256
"""Notes encoded at once: a few MB of text."""


@dataclass(frozen=True)
class NoteEncoder:
    """Encodes notes between the special tokens that the tokenizer adds: `[CLS] ... [SEP]`, or BOS."""

    backend: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    length: int
    """Most tokens of a window, with special tokens."""
    how: How

    def windows(self, texts: Sequence[str]) -> Iterator[list[Ids]]:
        """Give each text's windows: one, except for `chunks`."""
        for start in range(0, len(texts), _BATCH):
            WATCHDOG.heartbeat()
            for encoding in self.backend.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False):
                yield [self._framed(part) for part in cut(encoding.ids, self._room, self.how)]

    @property
    def _room(self) -> int:
        return self.length - len(self.prefix) - len(self.suffix)

    def _framed(self, ids: Sequence[int]) -> Ids:
        return np.array([*self.prefix, *ids, *self.suffix], np.int32)


def note_encoder(tokenizer: PreTrainedTokenizerBase, length: int, how: How) -> NoteEncoder:
    """Make the encoder of a tokenizer, for which names of special tokens in a note are text.

    Raises:
        LauncherError: `length` has no room for more than special tokens.
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
        raise LauncherError(f"batch.sequence_length: {length} tokens leave no room for text; raise it")
    return NoteEncoder(backend, prefix, suffix, length, how)


def cut(ids: Sequence[int], room: int, how: How) -> list[Sequence[int]]:
    """Cut the ids of one text into parts of at most `room`, as the recipe's `long_notes` says."""
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
