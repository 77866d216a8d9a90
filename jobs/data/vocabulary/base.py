"""The base tokenizer of an expansion: its tokens as symbols, and the words that they form in a text.

A symbol is a character: token N of the base is 2^16 + N, and a letter that the base spells in bytes is itself. A word
is a run of symbols that may become one token: letters of one kind, with the space before them. So new tokens hold no
digits or punctuation, as in SentencePiece's training with `split_by_unicode_script` and `split_digits`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from launcher.errors import LauncherError

_OFFSET = 2**16
_NOTHING, _LETTERS, _CHINESE, _SPACE, _FRAGMENT = range(5)
"""Kinds of symbols: not part of words; letters; letters of scripts without spaces; a space; part of a character."""
_KINDS = ((_CHINESE, regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}]+")), (_LETTERS, regex.compile(r"[\p{L}\p{M}]+")))
_BYTE_TOKEN = regex.compile(r"<0x([0-9A-F]{2})>")


def is_letter(symbol: str) -> bool:
    """Tell whether a symbol is a letter that the base spells in bytes."""
    return ord(symbol) < _OFFSET


@dataclass(frozen=True)
class Base:
    """The tables of a base, by token id."""

    backend: Tokenizer
    model: dict[str, Any]
    """From tokenizer.json."""
    tokens: dict[int, str]
    kinds: NDArray[np.uint8]
    opens: NDArray[np.bool_]
    """The token starts with a space."""
    lengths: NDArray[np.uint16]
    """Characters of each token; one that spans several tokens counts where it begins."""
    fragments: dict[int, bytes]
    """The bytes of tokens that are parts of characters."""
    has_words: bool
    """Whether it cuts text into words before merging."""

    def cut(self, texts: Sequence[str]) -> Iterator[tuple[list[str], int]]:
        """Give for each text its words as symbols, without those that are tokens already, and its number of tokens."""
        for encoding in self.backend.encode_batch(texts, add_special_tokens=False):
            yield self._words(encoding) if encoding.ids else [], len(encoding.ids)

    def name(self, symbol: str) -> str:
        """Return the token that a symbol stands for, as the tokenizer writes it."""
        return symbol if is_letter(symbol) else self.tokens[ord(symbol) - _OFFSET]

    def ids(self, symbol: str) -> tuple[int, ...]:
        """Return the base's ids that a symbol stands for."""
        if not is_letter(symbol):
            return (ord(symbol) - _OFFSET,)
        vocabulary: dict[str, int] = self.model["vocab"]
        return tuple(vocabulary[f"<0x{byte:02X}>"] for byte in symbol.encode())

    def _words(self, encoding: Encoding) -> list[str]:
        ids = np.array(encoding.ids)
        symbols, kinds, opens = ids + _OFFSET, self.kinds[ids], self.opens[ids]
        if self.has_words:
            numbers = np.array(encoding.word_ids)
            opens[1:] |= numbers[1:] != numbers[:-1]
        if (kinds == _FRAGMENT).any():
            symbols, kinds, opens = self._mend(ids, (symbols, kinds, opens))
        ends_word = (kinds[1:] == _NOTHING) | ((kinds[1:] != kinds[:-1]) & (kinds[:-1] != _SPACE))
        starts = np.flatnonzero(np.concatenate([[True], opens[1:] | ends_word]))
        ends = np.append(starts[1:], len(symbols))
        kept = (kinds[starts] != _NOTHING) & ((ends - starts > 1) | (symbols[starts] < _OFFSET))
        text = symbols.astype("<u4").tobytes().decode("utf-32-le")
        return [text[start:end] for start, end in zip(starts[kept].tolist(), ends[kept].tolist(), strict=True)]

    def _mend(self, ids: NDArray[Any], columns: "_Columns") -> "_Columns":
        """Replace runs of fragments by the characters that they spell."""
        is_fragment, opens = columns[1] == _FRAGMENT, columns[2]
        edges = np.flatnonzero((is_fragment[1:] != is_fragment[:-1]) | opens[1:]) + 1
        made: list[_Columns] = []
        for start, end in pairwise([0, *edges.tolist(), len(ids)]):
            symbols, kinds, opens = (column[start:end] for column in columns)
            if is_fragment[start]:
                spelt = b"".join(self.fragments[token] for token in ids[start:end].tolist()).decode(errors="replace")
                if self.model["byte_fallback"]:
                    symbols, kinds, opens = _spelt_symbols(spelt)
                else:
                    kinds = np.full(end - start, _kind(spelt), np.uint8)
            made.append((symbols, kinds, opens))
        symbols, kinds, opens = (np.concatenate(column) for column in zip(*made, strict=True))
        return symbols, kinds, opens


_Columns = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def _spelt_symbols(text: str) -> _Columns:
    """Letters become symbols; those beyond the first 2^16 code points stay spelt in bytes."""
    kinds = [_kind(letter) if ord(letter) < _OFFSET else _NOTHING for letter in text]
    codes = [ord(letter) if kind in (_LETTERS, _CHINESE) else 0 for letter, kind in zip(text, kinds, strict=True)]
    return np.array(codes), np.array(kinds, np.uint8), np.zeros(len(codes), np.bool_)


@lru_cache(2**16)
def _kind(text: str) -> int:
    inner = text[1:] if text.startswith(" ") else text
    if not inner:
        return _SPACE if text else _NOTHING
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(inner)), _NOTHING)


def read_base(backend: Tokenizer, name: str) -> Base:
    """Read the tables of a base.

    Args:
        backend: Encodes text as the base does, with the names of special tokens as text.
        name: What the recipe calls it.

    Raises:
        LauncherError: merges cannot be added to it.
    """
    content = json.loads(backend.to_str())
    _require_plain_bpe(content["model"], name)
    tokens = {index: token for token, index in backend.get_vocab().items()}
    unfit = {token["content"] for token in content["added_tokens"]} | {content["model"]["unk_token"]}
    texts = {index: _text_of(token, content) for index, token in tokens.items() if token not in unfit}
    count = max(tokens) + 1
    kinds, opens, lengths = np.zeros(count, np.uint8), np.zeros(count, np.bool_), np.zeros(count, np.uint16)
    for index, text in texts.items():
        kinds[index] = _kind(text) if isinstance(text, str) else _FRAGMENT
        opens[index] = text.startswith(" ") if isinstance(text, str) else text.startswith(b" ")
        lengths[index] = len(text) if isinstance(text, str) else sum(byte >> 6 != 0b10 for byte in text)
    fragments = {index: text for index, text in texts.items() if isinstance(text, bytes)}
    splitter = content["pre_tokenizer"]
    has_words = splitter is not None and not (splitter["type"] == "Metaspace" and not splitter["split"])
    return Base(backend, content["model"], tokens, kinds, opens, lengths, fragments, has_words)


def _require_plain_bpe(model: dict[str, Any], name: str) -> None:
    if model["type"] != "BPE":
        raise LauncherError(
            f"tokenizer `{name}` is a {model['type']} model; only a BPE can be expanded (Llama's, GPT-2's)"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise LauncherError(f"tokenizer `{name}` has a `{key}`, which new merges do not support; take another")


def _text_of(token: str, content: dict[str, Any]) -> str | bytes:
    """Return the text of a token; its bytes if they are parts of characters."""
    if content["model"]["byte_fallback"] and (match := _BYTE_TOKEN.fullmatch(token)):
        return bytes([int(match[1], 16)])
    if not _is_byte_level(content):
        return token.replace("▁", " ")
    table = _byte_table()
    raw = bytes(table.get(letter, 0) for letter in token)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _is_byte_level(content: dict[str, Any]) -> bool:
    return '"ByteLevel"' in json.dumps([content["pre_tokenizer"], content["decoder"]])


@lru_cache(1)
def _byte_table() -> dict[str, int]:
    """GPT-2's letters for bytes."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]
