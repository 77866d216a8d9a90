"""Learning: from counted words to new tokens, the most useful first."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import regex
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jobs.data.expansion.base import Base, is_letter
from jobs.data.expansion.counting import Words
from jobs.runtime.watchdog import WATCHDOG
from launcher.recipe.vocabulary import VocabularyRecipe

COVERAGE = 0.9995
"""Share of all characters that are to be in tokens, not spelt in bytes (SentencePiece's `character_coverage`)."""
_MARGIN = 1.25
"""Merges to learn for one that is wanted: some turn out to be rare, long, or there already."""
_TOTAL = 2**25
"""Words that the trainer sees. It takes words, not counts, about 1 us for each; larger counts are thinned out."""
_BATCH = 2**14

Merge = tuple[str, str]
"""Two strings of symbols that are joined."""


@dataclass(frozen=True)
class NewToken:
    """One new token."""

    name: str
    """As the tokenizer writes it."""
    merge: tuple[str, str] | None
    """The tokens it is joined of; None for a letter that the base spells in bytes."""
    parts: tuple[int, ...]
    """The base's ids that it stands for."""


def learn(base: Base, words: Words, recipe: VocabularyRecipe) -> list[NewToken]:
    """Learn new tokens: letters first, then merges, each in the order of their use.

    Args:
        base: The tokenizer to expand.
        words: Of all documents to learn from.
        recipe: Says how many, and which may be.
    """
    letters = find_letters(words)[: recipe.new_tokens]
    learned = {letter: NewToken(letter, None, base.ids(letter)) for letter in letters}
    merges = find_merges(keep_letters(words, letters), recipe.new_tokens - len(letters))
    taken = {*base.tokens.values()}
    for left, right in merges:
        if len(learned) == recipe.new_tokens:
            break
        one, other = (learned.get(side) or _base_token(base, side) for side in (left, right))
        if one is None or other is None:  # was left out itself
            continue
        token = NewToken(one.name + other.name, (one.name, other.name), one.parts + other.parts)
        if token.name not in taken and base.lengths[[*token.parts]].sum() <= recipe.max_characters:
            learned[left + right] = token
    return [*learned.values()]


def _base_token(base: Base, symbols: str) -> NewToken | None:
    if len(symbols) > 1 or is_letter(symbols):
        return None
    return NewToken(base.name(symbols), None, base.ids(symbols))


def find_letters(words: Words) -> list[str]:
    """Find common letters that the base spells in bytes, the most frequent first, until `COVERAGE` is reached."""
    counts, holders = Counter[str](), Words(words.enough)
    for word, count in words.counts.items():
        for letter in filter(is_letter, word):
            counts[letter] += count
            holders.hold(letter, words.holders[word])
    spelt, found = counts.total(), []
    for letter, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if spelt <= (1 - COVERAGE) * words.characters:
            break
        if len(holders.holders[letter]) >= words.enough:
            found.append(letter)
            spelt -= count
    return found


def keep_letters(words: Words, letters: Sequence[str]) -> Words:
    """Split words at letters that stay spelt in bytes, and leave out what is one symbol."""
    kept, made = {*letters}, Words(words.enough, characters=words.characters)
    for word, count in words.counts.items():
        rare = {letter for letter in word if is_letter(letter)} - kept
        pieces = regex.split(f"[{''.join(rare)}]", word) if rare else [word]
        for piece in pieces:
            if len(piece) > 1:
                made.counts[piece] += count
                made.hold(piece, words.holders[word])
    return made


def find_merges(words: Words, wanted: int) -> list[Merge]:
    """Find the most frequent merges, in their order, of which each is applied in documents enough."""
    if wanted <= 0 or not words.counts:
        return []
    model, merges = train(words, int(wanted * _MARGIN) + 1)
    holders = find_holders(model, merges, words)
    return [merge for merge in merges if len(holders["".join(merge)]) >= words.enough]


def train(words: Words, wanted: int) -> tuple[Tokenizer, list[Merge]]:
    """Train a BPE on words of symbols.

    Returns:
        It, and its merges in their order.
    """
    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    thinning = max(1.0, words.counts.total() / _TOTAL)
    alphabet = {symbol for word in words.counts for symbol in word}
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + wanted, min_frequency=max(1, int(words.enough / thinning)), show_progress=False
    )
    model.train_from_iterator(_repeated(words.counts, thinning), trainer)
    merges = json.loads(model.to_str())["model"]["merges"]
    return model, [(left, right) for left, right in merges]


def _repeated(counts: Mapping[str, int], thinning: float) -> Iterator[str]:
    """Give each word as often as it was counted; if that is too much, fewer of all, the same in every run."""
    passed, block = 0, []
    for word in sorted(counts):
        times = int((passed + counts[word]) / thinning) - int(passed / thinning)
        passed += counts[word]
        block.append(f"{word}\n" * times)
        if len(block) == _BATCH:
            WATCHDOG.beat()
            yield "".join(block)
            block = []
    yield "".join(block)
    WATCHDOG.rest()  # the rest of the training is one call


def find_holders(model: Tokenizer, merges: Sequence[Merge], words: Words) -> dict[str, set[int]]:
    """Find for each merge, by the symbols it joins, who holds text that it is applied to; no more than matter."""
    halves = {left + right: (left, right) for left, right in merges}
    tokens = {number: token for token, number in model.get_vocab().items()}
    holders = defaultdict[str, set[int]](set)
    everything = sorted(words.counts)
    for start in range(0, len(everything), _BATCH):
        WATCHDOG.beat()
        some = everything[start : start + _BATCH]
        for word, encoding in zip(some, model.encode_batch_fast(some), strict=True):
            waiting = [tokens[number] for number in encoding.ids if tokens[number] in halves]
            while waiting:
                token = waiting.pop()
                if len(holders[token]) < words.enough:  # if it has enough, so have its halves
                    holders[token].update(words.holders[word])
                    waiting += [half for half in halves[token] if half in halves]
    return holders
