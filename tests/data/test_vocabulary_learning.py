"""Expanding tokenizers: what the base knew stays, whatever the text, and new tokens are what the text is made of."""

import itertools
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jobs.data.vocabulary import learning as learning_module
from jobs.data.vocabulary.base import read_base
from jobs.data.vocabulary.counting import WordCounts
from jobs.data.vocabulary.learning import learn
from jobs.models.tokenizer import load_encoder
from launcher.errors import LauncherError
from tests.support.expandable_tokenizers import CHINESE, base_folder, count, learned, learning_texts, recipe_of
from tests.support.prepare_runs import ASSETS, abstracts
from tests.support.shared_data import shared_data

OTHERS = ("llama-3", "mistral_v1_spm32k", "gpt2_bpe50k")
BASES = ("stories260k", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS))
words = [*sorted({word for text in abstracts()[:40] for word in text.split()}), *CHINESE[0], "糖尿病", "血压", "whole"]
texts = st.lists(
    st.sampled_from(
        [*words, "<s>", "</s>", "<|end|>", "<|endoftext|>", "▁", "\n", "\t", "  ", "é", "ß", "ﬁ", "1984", "😷"]
    )
    | st.text(max_size=6),
    max_size=12,
).flatmap(lambda parts: st.sampled_from(["", " "]).map(lambda space: space.join(parts)))


@pytest.fixture(scope="module")
def expansions(tmp_path_factory):
    """Expanded bases by name, each made once; a base that is not at hand skips the test."""
    made = {}

    def expansion(name):
        if name not in made:
            made[name] = learned(base_folder(name, tmp_path_factory.mktemp("bases")), learning_texts())
        return made[name]

    return expansion


@pytest.mark.parametrize("name", BASES)
def test_old_ids_mean_the_same_and_new_ones_follow(expansions, name):
    its = expansions(name)

    old, new = its.base.get_vocab(), its.new.get_vocab()

    assert len(its.tokens) >= 200
    assert {token: new[token] for token in old} == old
    assert [new[token.name] for token in its.tokens] == [*range(its.first, its.first + len(its.tokens))]
    assert len(new) == len(old) + len(its.tokens)


@pytest.mark.parametrize("name", BASES)
def test_special_tokens_stay(expansions, name):
    its = expansions(name)

    assert its.new.special_tokens_map == its.base.special_tokens_map
    assert sorted(its.new.all_special_ids) == sorted(its.base.all_special_ids)
    assert its.new.added_tokens_decoder == its.base.added_tokens_decoder
    assert its.new.chat_template == its.base.chat_template
    assert its.new.model_max_length == its.base.model_max_length


@pytest.mark.parametrize("name", BASES)
@given(text=texts)
def test_new_ids_stand_for_what_the_base_makes_of_any_text(expansions, name, text):
    its = expansions(name)

    old, new = its.base(text)["input_ids"], its.new(text)["input_ids"]

    assert its.replaced(new) == old
    assert its.new.decode(new) == its.base.decode(old)


@pytest.mark.parametrize("name", BASES)
def test_real_text_becomes_shorter(expansions, name):
    its = expansions(name)

    documents = [*abstracts()[300:340], *CHINESE]
    old, new = ([tokenizer(text)["input_ids"] for text in documents] for tokenizer in (its.base, its.new))

    assert [its.replaced(ids) for ids in new] == old
    assert sum(map(len, new)) < 0.99 * sum(map(len, old))


def slow_encode(content, texts):
    """Encode with nothing but the vocabulary and the merges of a tokenizer.json: an independent BPE."""
    tokenizer, model = Tokenizer.from_str(json.dumps(content)), content["model"]
    ranks = {tuple(pair): rank for rank, pair in reversed([*enumerate(model["merges"])])}
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
        splitter = tokenizer.pre_tokenizer
        pieces = [piece for piece, _ in splitter.pre_tokenize_str(normal)] if splitter else [normal]
        yield [id for piece in pieces for id in slow_word(model, ranks, piece)]


def slow_word(model, ranks, piece):
    if model["ignore_merges"] and piece in model["vocab"]:
        return [model["vocab"][piece]]
    symbols = []
    for letter in piece:
        spelt = [f"<0x{byte:02X}>" for byte in letter.encode()]
        symbols += [letter] if letter in model["vocab"] else spelt
    while ranked := [ranks[pair] for pair in itertools.pairwise(symbols) if pair in ranks]:
        left, right = model["merges"][min(ranked)]
        place = next(i for i, pair in enumerate(itertools.pairwise(symbols)) if pair == (left, right))
        symbols[place : place + 2] = [left + right]
    return [model["vocab"][symbol] for symbol in symbols]


@pytest.mark.parametrize("name", BASES)
def test_ids_are_those_of_an_independent_bpe(expansions, name):
    its = expansions(name)

    documents = [*(text[:150] for text in abstracts()[300:312]), *CHINESE, " whole wholes"]
    ids = [encoding.ids for encoding in its.new.backend_tokenizer.encode_batch(documents, add_special_tokens=False)]

    assert ids == [*slow_encode(its.content, documents)]


@pytest.mark.parametrize("name", BASES)
def test_new_tokens_are_parts_of_words_of_documents_enough(expansions, name):
    its = expansions(name)
    documents = [f" {text}" for text in learning_texts()]
    ids = [[".", token.name] for token in its.tokens]  # a decoder may leave out the first space

    spelt = [its.new.decode(its.new.convert_tokens_to_ids(pair))[1:] for pair in ids]
    whole = [text for text in spelt if "\ufffd" not in text]

    assert len(whole) > 200
    assert all(text.strip().isalpha() and len(text) <= 16 for text in whole)
    assert all(sum(text in document for document in documents) >= 3 for text in whole)


@pytest.mark.parametrize("name", BASES)
def test_what_is_said_of_the_documents_is_true_of_each_new_token(expansions, name):
    its = expansions(name)
    pieces = {token.name: token.merge for token in its.tokens}
    alone, inside = Counter(), Counter()
    for ids in its.new(learning_texts(), add_special_tokens=False)["input_ids"]:
        names = {its.tokens[number - its.first].name for number in ids if number >= its.first}
        alone.update(names)
        waiting, found = [*names], set()
        while waiting:
            token = waiting.pop()
            found.add(token)
            waiting += [part for part in pieces[token] or () if part in pieces]
        inside.update(found)
    built_from = {part for merge in pieces.values() for part in merge or ()}
    built_from |= {letter for name in pieces for letter in name if len(name) > 1}

    assert min(inside[token] for token in pieces) >= 3
    assert {token.name for token in its.tokens if not token.occurs} == pieces.keys() - alone.keys()
    assert pieces.keys() - alone.keys() <= built_from
    assert len(alone) > 0.85 * len(pieces)  # 89 % of GPT-2's, 98 % of Llama 3's


@pytest.mark.parametrize("name", BASES)
def test_new_tokens_join_two_others_or_are_letters_spelt_in_bytes(expansions, name):
    its = expansions(name)
    known = dict(
        zip(its.base.convert_ids_to_tokens([*range(its.first)]), ((id,) for id in range(its.first)), strict=True)
    )

    for token in its.tokens:
        if token.merge is None:
            assert token.parts == tuple(
                its.base.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in token.name.encode()])
            )
        else:
            assert token.parts == known[token.merge[0]] + known[token.merge[1]]
        known[token.name] = token.parts


def test_letters_come_first_and_only_where_the_base_spells_them(expansions):
    stories, llama = expansions("stories260k"), expansions("llama-3")

    are_letters = [token.merge is None for token in stories.tokens]

    assert {"糖", "血", "病"} <= {token.name for token in stories.tokens if token.merge is None}
    assert are_letters == sorted(are_letters, reverse=True)
    assert all(token.merge for token in llama.tokens)


def test_without_common_letters_none_is_added():
    its = learned(ASSETS / "stories260k", abstracts()[:100], new_tokens=50)

    assert all(token.merge for token in its.tokens)


def test_text_is_cut_before_new_tokens_are_joined_unlike_with_added_tokens(expansions, tmp_path):
    its = expansions("llama-3")
    added = AutoTokenizer.from_pretrained(base_folder("llama-3", tmp_path))
    added.add_tokens(["stent"])

    cuts = [
        {*itertools.accumulate(map(len, tokenizer.tokenize("consistent")))} for tokenizer in (its.base, its.new, added)
    ]

    assert cuts[1] <= cuts[0]
    assert not cuts[2] <= cuts[0]


def test_what_few_documents_hold_is_not_learned():
    secret = "Xyzzyqwert"
    texts = [f"{secret} has a cough. The name is {secret}."] * 50 + ["The patient has a cough."] * 5
    common = [f"Patient {number} has a cough." for number in range(4)]

    its = learned(ASSETS / "stories260k", [*texts, *common], min_documents=3)

    assert any("cough" in token.name for token in its.tokens)
    assert not any(part in token.name for token in its.tokens for part in ("Xy", "zzy", "yq", "qw", "wert"))


def test_a_token_already_there_is_not_learned_again(tmp_path):
    base = base_folder("llama-3", tmp_path / "base")  # has a token " whole" that no merge makes
    its = learned(
        base, ["the unwhole, a  whole", "as wholeness whole whole", "wholesome whole wholes"] * 3, min_documents=1
    )

    text = "the wholes are whole"

    assert len({token.name for token in its.tokens}) == len(its.tokens)
    assert "Ġwhole" not in {token.name for token in its.tokens}
    assert its.replaced(its.new(text)["input_ids"]) == its.base(text)["input_ids"]


def test_longer_tokens_than_wanted_are_left_out():
    documents = [f"immunohistochemistry {number}" for number in range(5)]

    short, long = (learned(ASSETS / "stories260k", documents, max_characters=limit) for limit in (6, 30))

    assert max(len(token.name) for token in short.tokens) <= 6
    assert max(len(token.name) for token in long.tokens) == len("▁immunohistochemistry")


def test_tokens_are_few_where_the_text_has_no_more():
    its = learned(ASSETS / "stories260k", ["cough"] + [f"cough {i}" for i in range(3)])

    assert 0 < len(its.tokens) < 10


def test_text_without_a_word_teaches_nothing():
    assert learned(ASSETS / "stories260k", ["1 2 3 ... !?", "", " "]).tokens == []


def tables_of(folder):
    return read_base(load_encoder(str(folder), "base").backend, "base")


def test_learning_again_gives_the_same_whatever_the_order():
    base, documents = tables_of(ASSETS / "stories260k"), learning_texts()
    recipe = recipe_of(min_documents=2)
    apart = [count(base, documents[start::3], 2) for start in (2, 0, 1)]
    merged = WordCounts(2)
    for part in apart:
        merged.merge(part)

    assert learn(base, merged, recipe) == learn(base, count(base, documents, 2), recipe)


def test_counts_too_large_for_the_trainer_are_thinned_out_evenly(monkeypatch):
    base = tables_of(ASSETS / "stories260k")
    words = count(base, learning_texts(), 3)
    whole = learn(base, words, recipe_of())

    monkeypatch.setattr(learning_module, "_TOTAL", words.counts.total() // 4)
    thinned = learn(base, words, recipe_of())

    common = {token.name for token in whole[:100]} & {token.name for token in thinned}
    assert len(common) > 80


holders = st.integers(0, 2**64 - 1)
documents = st.lists(st.tuples(st.lists(st.sampled_from("ab𐀁𐀂"), max_size=5), st.sampled_from([1, 2, 3, 2**64 - 1])))


@given(counted=documents)
def test_counts_are_saved_and_read_again(tmp_path_factory, counted):
    words, path = WordCounts(2), tmp_path_factory.mktemp("words") / "words"
    for found, holder in counted:
        words.add("text", found, holder)

    words.save(path)

    assert WordCounts.load(path, 2) == words


@given(counted=documents, place=st.integers(0, 10))
def test_counts_of_parts_add_up(counted, place):
    whole, left, right = WordCounts(2), WordCounts(2), WordCounts(2)
    for number, (found, holder) in enumerate(counted):
        whole.add("text", found, holder)
        (left if number < place else right).add("text", found, holder)

    left.merge(right)

    assert left == whole
    for word in whole.counts:
        assert len(whole.holders[word]) == min(2, len({holder for found, holder in counted if word in found}))


def test_other_models_than_a_bpe_are_refused(tmp_path):
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[UNK]").save_pretrained(tmp_path)

    with pytest.raises(LauncherError, match="tokenizer `base` is a WordPiece model; only a BPE can be expanded"):
        tables_of(tmp_path)


def test_a_bpe_with_marks_for_inner_parts_is_refused(tmp_path):
    tokenizer = Tokenizer(models.BPE({"a": 0, "##b": 1, "ab": 2}, [("a", "##b")], continuing_subword_prefix="##"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="ab").save_pretrained(tmp_path)

    with pytest.raises(LauncherError, match="has a `continuing_subword_prefix`"):
        tables_of(tmp_path)


@pytest.mark.slow
def test_medicalgpts_chinese_becomes_much_shorter(tmp_path):
    lines = shared_data("sft/medicalgpt/medical_sft_sharegpt.600.jsonl").read_bytes().splitlines()
    texts = ["\n".join(turn["value"] for turn in json.loads(line)["conversations"]) for line in lines]

    its = learned(base_folder("mistral_v1_spm32k", tmp_path), texts[30:], new_tokens=2000)
    old, new = (sum(len(tokenizer(text)["input_ids"]) for text in texts[:30]) for tokenizer in (its.base, its.new))

    assert new < 0.65 * old
