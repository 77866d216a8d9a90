"""Learn new tokens from counted words, the most frequent first."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import regex
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jobs.data.vocabulary.base import Base, is_letter
from jobs.data.vocabulary.counting import WordCounts
from jobs.rank.watchdog import WATCHDOG
from launcher.recipe.kinds.vocabulary import VocabularyRecipe

COVERAGE = 0.9995
"""Fraction of all characters that should be tokens, not bytes (SentencePiece's `character_coverage`)."""
_MARGIN = 1.25
"""Merges to learn for each one wanted: some turn out to be rare, long, or known."""
_TOTAL = 2**25
"""Words that the trainer sees, at about 1 us each, since it takes no counts; larger counts are scaled down."""
_BATCH = 2**14

Merge = tuple[str, str]
"""Two strings of symbols that are joined."""


@dataclass(frozen=True)
class NewToken:
    """One new token."""

    name: str
    """As the tokenizer writes it."""
    merge: tuple[str, str] | None
    """The tokens that it joins; None for a letter that the base spells in bytes."""
    parts: tuple[int, ...]
    """The base's ids that it stands for."""
    occurs: bool = True
    """False if the text holds it only inside of longer new tokens, which are built from it."""


def learn(base: Base, words: WordCounts, recipe: VocabularyRecipe) -> list[NewToken]:
    """Learn new tokens: letters first, then merges, each by frequency."""
    letters = find_letters(words)[: recipe.new_tokens]
    kept = keep_letters(words, letters)
    merges = find_merges(kept, recipe.new_tokens - len(letters))
    learned = _tokens_of(base, letters, merges, recipe)
    # Merges that were left out may have taken their place from others, which now occur nowhere.
    merges = [merge for merge in merges if "".join(merge) in learned]
    holders, alone = find_holders(_model_of(merges, kept), merges, kept)
    frequent = [merge for merge in merges if len(holders["".join(merge)]) >= kept.enough]
    alone.update(run for word in words.counts for run in _runs(word, {*letters}) if len(run) == 1)
    tokens = _tokens_of(base, letters, frequent, recipe)
    return [replace(token, occurs=symbols in alone) for symbols, token in tokens.items()]


def _tokens_of(
    base: Base, letters: Sequence[str], merges: Sequence[Merge], recipe: VocabularyRecipe
) -> dict[str, NewToken]:
    """Make tokens of letters and merges, as many as are wanted, by their symbols."""
    learned = {letter: NewToken(letter, None, base.ids(letter)) for letter in letters}
    taken = {*base.tokens.values()}
    for left, right in merges:
        if len(learned) == recipe.new_tokens:
            break
        one, other = (learned.get(side) or _base_token(base, side) for side in (left, right))
        if one is None or other is None:  # a side was left out
            continue
        token = NewToken(one.name + other.name, (one.name, other.name), one.parts + other.parts)
        if token.name not in taken and base.lengths[[*token.parts]].sum() <= recipe.max_characters:
            learned[left + right] = token
    return learned


def _model_of(merges: Sequence[Merge], words: WordCounts) -> Tokenizer:
    """Make a BPE on words of symbols, of these merges alone."""
    symbols = [*sorted({symbol for word in words.counts for symbol in word}), *map("".join, merges)]
    model = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, [*merges]))
    model.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    return model


def _base_token(base: Base, symbols: str) -> NewToken | None:
    if len(symbols) > 1 or is_letter(symbols):
        return None
    return NewToken(base.name(symbols), None, base.ids(symbols))


def find_letters(words: WordCounts) -> list[str]:
    """Find common letters that the base spells in bytes, the most frequent first, until COVERAGE is reached."""
    counts, holders = Counter[str](), WordCounts(words.enough)
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


def keep_letters(words: WordCounts, letters: Sequence[str]) -> WordCounts:
    """Split words at letters that stay spelt in bytes, and leave out single symbols."""
    kept, made = {*letters}, WordCounts(words.enough, characters=words.characters)
    for word, count in words.counts.items():
        for run in _runs(word, kept):
            if len(run) > 1:
                made.counts[run] += count
                made.hold(run, words.holders[word])
    return made


def _runs(word: str, kept: set[str]) -> list[str]:
    rare = {letter for letter in word if is_letter(letter)} - kept
    return regex.split(f"[{''.join(rare)}]", word) if rare else [word]


def find_merges(words: WordCounts, wanted: int) -> list[Merge]:
    """Find the most frequent merges that are applied in at least `min_documents` documents, in their order."""
    if wanted <= 0 or not words.counts:
        return []
    model, merges = train(words, int(wanted * _MARGIN) + 1)
    holders, _ = find_holders(model, merges, words)
    return [merge for merge in merges if len(holders["".join(merge)]) >= words.enough]


def train(words: WordCounts, wanted: int) -> tuple[Tokenizer, list[Merge]]:
    """Train a BPE on words of symbols; return it and its merges in their order."""
    # BpeTrainer cannot start from a vocabulary, so each token of the base is one symbol here.
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
    """Give each word as often as it was counted, divided by `thinning`; the same in every run."""
    passed, block = 0, []
    for word in sorted(counts):
        times = int((passed + counts[word]) / thinning) - int(passed / thinning)
        passed += counts[word]
        block.append(f"{word}\n" * times)
        if len(block) == _BATCH:
            WATCHDOG.heartbeat()
            yield "".join(block)
            block = []
    yield "".join(block)
    WATCHDOG.pause()  # the rest of the training is one call


def find_holders(model: Tokenizer, merges: Sequence[Merge], words: WordCounts) -> tuple[dict[str, set[int]], set[str]]:
    """For each merge, collect up to `min_documents` documents that contain it; name the symbols that no merge joins."""
    halves = {left + right: (left, right) for left, right in merges}
    tokens = {number: token for token, number in model.get_vocab().items()}
    holders, alone = defaultdict[str, set[int]](set), set[str]()
    everything = sorted(words.counts)
    for start in range(0, len(everything), _BATCH):
        WATCHDOG.heartbeat()
        some = everything[start : start + _BATCH]
        for word, encoding in zip(some, model.encode_batch_fast(some), strict=True):
            found = [tokens[number] for number in encoding.ids]
            alone.update(found)
            waiting = [token for token in found if token in halves]
            while waiting:
                token = waiting.pop()
                if len(holders[token]) < words.enough:  # if it has enough, so have its halves
                    holders[token].update(words.holders[word])
                    waiting += [half for half in halves[token] if half in halves]
    return holders, alone
