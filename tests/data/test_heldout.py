"""Held-out text: which sequences are read, and how many bytes of text they have."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from jobs.data.sampling.corpus_reader import CorpusReader
from jobs.data.sampling.heldout import HeldOutText, held_out_text
from jobs.data.sampling.order import EvenlySpread
from launcher.artifacts.corpus_manifest import TOKENIZER
from launcher.errors import LauncherError
from tests.support.corpora import make_corpus
from tests.support.training_runs import ASSETS

TEXTS = [
    "Fieber über 39 °C; 5 µg/kg.",
    " a space first, and 漢字 that are bytes",
    "x",
    "naïve 😀😀😀 β-blockers " * 9,
]


def stories() -> Tokenizer:
    return Tokenizer.from_file(str(ASSETS / "stories260k" / "tokenizer.json"))


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    options = {"special_tokens": ["<s>", "<p>", "</s>"], "initial_alphabet": ByteLevel.alphabet()}
    tokenizer.train_from_iterator(TEXTS[:1], BpeTrainer(vocab_size=300, show_progress=False, **options))
    return tokenizer


def corpus_of(folder: Path, tokenizer: Tokenizer) -> CorpusReader:
    documents = [[*tokenizer.encode(text).ids, 2] for text in TEXTS]
    return make_corpus(folder, [documents], validation=documents, tokenizer=tokenizer.to_str().encode())


def counted(text: HeldOutText | None) -> list[float]:
    assert text is not None
    counts = [0.0] * len(text.names)
    assert len(list(text.count_bytes(counts))) == len(text)
    return counts


@pytest.mark.parametrize("tokenizer", [stories, byte_level])
@pytest.mark.parametrize("packing", ["packed", "pad"])
@pytest.mark.parametrize("length", [3, 5, 16, 1000])
def test_all_sequences_have_the_bytes_of_all_documents(tmp_path, tokenizer, packing, length):
    corpus = corpus_of(tmp_path / "a", tokenizer())

    counts = counted(held_out_text([corpus], packing, length, None))

    assert counts == pytest.approx([sum(len(text.encode()) for text in TEXTS)]), "even where characters are cut"


def test_text_that_packing_leaves_out_is_not_counted(tmp_path):
    corpus = corpus_of(tmp_path / "a", byte_level())

    (whole,), (some,) = (counted(held_out_text([corpus], "truncate", length, None)) for length in (1000, 10))

    assert some < whole == pytest.approx(sum(len(text.encode()) for text in TEXTS))


def test_corpora_are_counted_each_by_itself_and_those_without_held_out_text_are_left_out(tmp_path):
    first, second = corpus_of(tmp_path / "a", stories()), corpus_of(tmp_path / "b", byte_level())
    without = make_corpus(tmp_path / "c", [[[3, 2]]])

    text = held_out_text([first, without, second], "packed", 8, None)

    assert text is not None
    assert text.names == ["a", "b"]
    assert counted(text) == pytest.approx([sum(len(one.encode()) for one in TEXTS)] * 2)
    assert text.sources == sorted(text.sources) and {*text.sources} == {0, 1}
    assert held_out_text([without], "packed", 8, None) is None


@pytest.mark.parametrize("chosen", [1, 2, 5, 9, 10])
def test_chosen_sequences_are_spread_over_all(chosen):
    counts = [3, 0, 7]
    spread = EvenlySpread(counts, chosen)

    places = [spread.locate(index) for index in range(chosen)]

    numbers = [item + (3 if source else 0) for source, item in places]
    assert all(item < counts[source] for source, item in places)
    assert numbers[0] == 0 and len({*numbers}) == chosen
    assert all(abs(number - index * 10 / chosen) < 1 for index, number in enumerate(numbers))


def test_no_more_sequences_are_read_than_are_wanted_or_there(tmp_path):
    corpus = corpus_of(tmp_path / "a", stories())

    few, many = (held_out_text([corpus], "pad", 1000, wanted) for wanted in (3, 99))

    assert few is not None and many is not None
    assert (len(few), len(many)) == (3, 4)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path):
    corpus = corpus_of(tmp_path / "a", stories())
    (corpus.folder / TOKENIZER).write_text("{")

    with pytest.raises(LauncherError, match=r"a/tokenizer\.json: .*; copy the corpus again"):
        counted(held_out_text([corpus], "packed", 8, None))
