"""Samples: every token once, documents kept apart, the same order for everybody."""

import json
import pickle
import random
import resource
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from jobs.data.corpus.merge_shards import SHARD_TOKENS
from jobs.data.sampling.corpus_reader import mapped, maps_to_keep, open_corpus
from jobs.data.sampling.dataset import Samples, packed_collator
from jobs.data.sampling.mixture import Mixture, Proportions, describe_mixture, mixture_of
from jobs.data.sampling.permutation import Permutation
from jobs.data.sampling.sequences import cut, describe_loss
from jobs.models.labels import IGNORED
from launcher.errors import LauncherError
from launcher.recipe.quantities import BatchSize, Length
from launcher.recipe.sections.common import Batch
from launcher.recipe.sections.mixture import Data
from tests.support.corpora import make_corpus, packed_samples

STORIES = Path(__file__).parents[2] / "recipes" / "assets" / "stories260k"
many = settings(max_examples=60)

documents = st.lists(st.lists(st.integers(0, 511), min_size=1, max_size=20), min_size=1, max_size=6)
shards = st.lists(documents, min_size=1, max_size=4)


def test_files_stay_mapped_while_they_are_read_in_random_order(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path / "c", [[[number, 2]] for number in range(200)])
    opened = []
    memmap = np.memmap
    monkeypatch.setattr(np, "memmap", lambda path, **options: opened.append(path) or memmap(path, **options))

    for start in random.Random(0).choices(range(0, 400, 2), k=1000):
        assert corpus.read("train", start, start + 2)[0].tolist() == [start // 2, 2]

    assert len(opened) == len(set(opened)) <= 400
    mapped.cache_clear()  # the descriptors


def test_all_files_of_a_hundred_billion_tokens_stay_mapped_within_the_usual_limit_of_descriptors():
    assert 2 * 100e9 / SHARD_TOKENS < maps_to_keep(1024) <= 512
    assert maps_to_keep(resource.RLIM_INFINITY) == maps_to_keep(10**9) == 2**15


def samples_of(corpus, length, seed=1, epochs=1):
    windows = len(cut([corpus], "packed", "train", length)[0])
    return packed_samples([corpus], [1.0], length, seed, windows * epochs)


def real_tokens(sample):
    """The tokens of a sample without its padding, which is EOS (2 in these corpora) that is not predicted."""
    starts, labels = sample["position_ids"] == 0, sample["labels"]
    length = max(np.flatnonzero(starts | (labels != IGNORED)), default=-1) + 1
    assert (sample["input_ids"][length:] == 2).all()
    return sample["input_ids"][:length].tolist()


def numbered(lengths):
    """Documents whose token ids count up through all of them, so that each token is unique."""
    ids = iter(range(sum(lengths)))
    return [[next(ids) for _ in range(length)] for length in lengths]


@many
@given(shards=shards, length=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
def test_every_token_is_in_exactly_one_window(tmp_path_factory, shards, length, seed):
    tokens = list(chain.from_iterable(chain.from_iterable(shards)))
    lengths = [[len(ids) for ids in documents] for documents in shards]
    unique = iter(range(len(tokens)))
    corpus = make_corpus(
        tmp_path_factory.mktemp("c"), [[[next(unique) for _ in range(n)] for n in shard] for shard in lengths]
    )

    samples = samples_of(corpus, length, seed)
    seen = sorted(chain.from_iterable(real_tokens(samples[i]) for i in range(len(samples))))

    assert seen == list(range(len(tokens)))


@many
@given(shards=shards, length=st.integers(1, 30))
def test_windows_equal_those_of_a_plain_concatenation(tmp_path_factory, shards, length):
    corpus = make_corpus(tmp_path_factory.mktemp("c"), shards)
    flat = [token for ids in chain.from_iterable(shards) for token in ids]
    in_document = [place for ids in chain.from_iterable(shards) for place in range(len(ids))]
    for start in range(0, len(flat) - length + 1):
        ids, positions = corpus.read("train", start, start + length)

        expected = in_document[start : start + length]
        first = next((i for i, place in enumerate(expected) if place == 0), length)
        assert ids.tolist() == flat[start : start + length]
        assert positions.tolist() == list(range(first)) + expected[first:]


def test_the_first_token_of_a_document_is_not_predicted_and_there_is_no_mask(tmp_path):
    corpus = make_corpus(tmp_path / "c", [[[5, 6, 2], [7, 2]], [[8, 9, 2]]])

    sample = samples_of(corpus, 8)[0]

    assert sample.keys() == {"input_ids", "labels", "position_ids"}
    assert sample["labels"].tolist() == [IGNORED, 6, 2, IGNORED, 2, IGNORED, 9, 2]
    assert sample["position_ids"].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert {tensor.dtype for tensor in sample.values()} == {torch.int64}


@many
@given(size=st.integers(1, 3000), key=st.text(max_size=8))
def test_the_permutation_is_a_bijection(size, key):
    permutation = Permutation(size, key)

    assert sorted(map(permutation, range(size))) == list(range(size))


def test_the_permutation_depends_on_its_key_and_leaves_few_items_in_place():
    first, second = Permutation(10_000, "1"), Permutation(10_000, "2")

    fixed = sum(first(i) == i for i in range(10_000))
    agreeing = sum(first(i) == second(i) for i in range(10_000))
    neighbours = sum(abs(first(i) - first(i + 1)) == 1 for i in range(9_999))

    # Each count is Poisson with mean 1 (2 for neighbours) in a random permutation.
    assert max(fixed, agreeing, neighbours) < 12


def test_the_permutation_spreads_evenly():
    size, parts = 2**16 + 3, 16
    permutation = Permutation(size, "key")

    counts = np.zeros((parts, parts))
    for i in range(size):
        counts[i * parts // size, permutation(i) * parts // size] += 1

    expected = size / parts**2
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 330  # 225 degrees of freedom: mean 225, standard deviation 21


def test_each_epoch_has_an_order_of_its_own(tmp_path):
    corpus = make_corpus(tmp_path / "c", [numbered([7] * 30)])
    samples = samples_of(corpus, 5, epochs=3)
    n = len(cut([corpus], "packed", "train", 5)[0])

    epochs = [[samples.locate(e * n + i)[1] for i in range(n)] for e in range(3)]

    assert all(sorted(order) == list(range(n)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3


def test_the_seed_changes_the_order(tmp_path):
    corpus = make_corpus(tmp_path / "c", [numbered([7] * 30)])

    orders = {tuple(samples_of(corpus, 5, seed).locate(i)[1] for i in range(42)) for seed in range(5)}

    assert len(orders) == 5


@many
@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5), start=st.integers(0, 10**9))
def test_a_mixture_keeps_its_proportions_and_deals_each_corpus_in_order(weights, start):
    mixture = Proportions([Fraction(weight) for weight in weights])

    places = [mixture.place(start + i) for i in range(200)]

    for corpus, weight in enumerate(weights):
        turns = [turn for which, turn in places if which == corpus]
        assert turns == list(range(turns[0], turns[0] + len(turns))) if turns else True
        assert abs(len(turns) - 200 * weight / sum(weights)) <= 2 * (corpus + 1)
        assert all(abs(turn - start * weight / sum(weights)) <= 200 + corpus + 1 for turn in turns[:1])


def test_a_mixture_draws_from_all_corpora_and_goes_round_the_small_one(tmp_path):
    small = make_corpus(tmp_path / "small", [numbered([10] * 3)])
    large = make_corpus(tmp_path / "large", [numbered([10] * 90)])
    samples = packed_samples([small, large], [1, 3], 10, 7, 80)

    drawn = [samples.locate(i) for i in range(80)]

    from_small = [start for corpus, start in drawn if corpus == 0]
    assert len(from_small) == 20
    assert all(sorted(from_small[i : i + 3]) == [0, 1, 2] for i in range(0, 18, 3))
    assert len({start for corpus, start in drawn if corpus == 1}) == 60


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_any_world_size_sees_the_same_data(tmp_path, world_size):
    corpora = [make_corpus(tmp_path / name, [numbered([9] * 40)]) for name in ("a", "b")]
    samples = packed_samples(corpora, [2, 1], 6, 3, 48)
    alone = [samples[i]["input_ids"].tolist() for i in range(48)]

    by_rank = [[samples[i]["input_ids"].tolist() for i in range(rank, 48, world_size)] for rank in range(world_size)]

    assert [by_rank[i % world_size][i // world_size] for i in range(48)] == alone


def test_worker_processes_and_pickling_change_nothing(tmp_path):
    corpus = make_corpus(tmp_path / "c", [numbered([9] * 40)])
    samples = samples_of(corpus, 6)
    alone = packed_collator([samples[i] for i in range(60)])

    loader = DataLoader(samples, batch_size=20, num_workers=2, collate_fn=packed_collator)
    loaded = torch.cat([batch["input_ids"] for batch in loader])
    restored = pickle.loads(pickle.dumps(samples))

    assert torch.equal(loaded, alone["input_ids"])
    assert torch.equal(restored[59]["labels"], samples[59]["labels"])
    assert len(pickle.dumps(samples)) < 5_000


def test_wide_vocabularies_are_read_back(tmp_path):
    corpus = make_corpus(tmp_path / "c", [[[128_000, 70_000, 2]]], dtype="uint32")

    assert corpus.read("train", 0, 3)[0].tolist() == [128_000, 70_000, 2]


def test_packed_documents_do_not_see_each_other(tmp_path):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(STORIES, attn_implementation="sdpa").double().eval()
    random = torch.Generator().manual_seed(0)
    texts = [torch.randint(3, 512, (n,), generator=random).tolist() for n in (20, 1, 33, 10)]
    corpus = make_corpus(tmp_path / "c", [texts[:2], texts[2:]])

    sample = samples_of(corpus, 64)[0]
    with torch.no_grad():
        batch = {name: tensor[None] for name, tensor in sample.items()}
        packed = model(**batch, use_cache=False)
        alone = [model(torch.tensor([ids]), use_cache=False).logits[0] for ids in texts]

    predictions = torch.cat([logits[:-1] for logits in alone])
    targets = torch.tensor([token for ids in texts for token in ids[1:]])
    assert torch.allclose(packed.logits[0], torch.cat(alone), atol=1e-9)
    # transformers computes the loss in fp32.
    assert packed.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(predictions, targets).item(), abs=1e-5)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ("7 steps", 7),
        ("400 tokens", 10),
        ("401 tokens", 11),
        ("1 epoch", 11),  # 42 windows in steps of 4
        ("2 epochs", 21),
        ("0.5 epochs", 6),
    ],
)
def test_lengths_become_whole_steps_rounded_up(length, steps):
    batch = Batch(global_batch=BatchSize("4 sequences"), sequence_length=10)

    assert batch.steps(Length(length), Fraction(42)) == steps


def test_a_corpus_without_documents_is_refused(tmp_path):
    with pytest.raises(LauncherError, match=r"has no documents in validation; prepare more text"):
        cut([make_corpus(tmp_path / "c", [[[5, 6, 2]]])], "packed", "validation", 4)


def data_of(**fields):
    return Data.model_validate_json(json.dumps({"corpora": [{"name": "a"}, {"name": "b"}]} | fields))


def shares(data, sizes, steps=1000):
    mixture = mixture_of(data, sizes, steps, sequences=4)
    given = [mixture.place(i) for i in range(steps * 4)]
    return [sum(which == corpus for which, _ in given) / len(given) for corpus in range(len(sizes))]


def test_weights_are_proportions_epochs_or_temper_sizes():
    weighted = [{"name": "a", "weight": 3.0}, {"name": "b"}]

    assert shares(data_of(corpora=weighted), [100, 900]) == pytest.approx([0.75, 0.25], abs=1e-3)
    assert shares(data_of(corpora=weighted, mixture="epochs"), [100, 900]) == pytest.approx([0.25, 0.75], abs=1e-3)
    tempered = data_of(mixture="temperature", temperature=2.0)
    assert shares(tempered, [100, 900]) == pytest.approx([0.25, 0.75], abs=1e-3)  # 10 : 30
    assert shares(data_of(mixture="temperature", temperature=1.0), [100, 900]) == pytest.approx([0.1, 0.9], abs=1e-3)


def test_in_an_epoch_of_epochs_each_corpus_is_read_as_often_as_its_weight_says():
    data = data_of(corpora=[{"name": "a", "weight": 3.0}, {"name": "b", "weight": 0.5}], mixture="epochs")
    sizes = [10, 40]
    samples = int(data.samples_in_epoch(sizes))
    mixture = mixture_of(data, sizes, steps=samples, sequences=1)

    given = [mixture.place(i)[0] for i in range(samples)]

    assert (given.count(0), given.count(1)) == (30, 20)


@many
@given(
    weights=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)).filter(any), min_size=1, max_size=4),
    gaps=st.lists(st.integers(1, 40), min_size=3, max_size=3),
)
def test_stages_change_the_proportions_and_no_corpus_starts_anew(weights, gaps):
    starts = [0, *np.cumsum(gaps).tolist()][: len(weights)]
    stages = [(start, [Fraction(w) for w in pair]) for start, pair in zip(starts, weights, strict=True)]
    mixture = Mixture(stages)

    given = [mixture.place(i) for i in range(160)]

    for corpus in (0, 1):
        turns = [turn for which, turn in given if which == corpus]
        assert turns == list(range(len(turns)))
    for number, (start, pair) in enumerate(stages):
        end = starts[number + 1] if number + 1 < len(starts) else 160
        firsts = sum(which == 0 for which, _ in given[start:end])
        assert abs(firsts - (end - start) * pair[0] / sum(pair)) <= 1


def test_what_a_mixture_will_have_read_is_what_it_deals():
    mixture = Mixture([(0, [Fraction(3), Fraction(1)]), (10, [Fraction(0), Fraction(1)]), (25, [Fraction(1)] * 2)])

    for samples in (1, 9, 10, 11, 25, 40):
        dealt = [mixture.place(index)[0] for index in range(samples)]
        assert mixture.counts(samples) == [dealt.count(0), dealt.count(1)]
    said = describe_mixture(["pubmed", "mimic"], [30, 50], mixture, 40)
    assert said == "mixture: pubmed 35.0% (14 samples, 0.467 epochs), mimic 65.0% (26 samples, 0.52 epochs)"
    assert describe_mixture(["pubmed"], [3], Mixture([(0, [Fraction(1)])]), 40) is None


def test_stages_change_at_the_boundaries_of_steps():
    stages = [{"until": "25%", "weights": {"a": 1.0}}, {"until": "6 steps", "weights": {"b": 1.0}}]
    data = data_of(stages=[*stages, {"weights": {"a": 1.0, "b": 1.0}}])

    mixture = mixture_of(data, [100, 100], steps=8, sequences=4)

    order = [mixture.place(i)[0] for i in range(32)]
    assert (order[:8], order[8:24], sum(order[24:])) == ([0] * 8, [1] * 16, 4)


def test_stages_out_of_order_are_refused_once_the_length_is_known():
    stages = [{"until": "50%", "weights": {"a": 1.0}}, {"until": "3 steps", "weights": {"b": 1.0}}]
    data = data_of(stages=[*stages, {"weights": {"a": 1.0}}])

    with pytest.raises(LauncherError, match="of 8 steps, stage 1 would run from 4 to 3; change `until`"):
        mixture_of(data, [10, 10], steps=8, sequences=4)


def samples_by(packing, corpus, length):
    sequences = cut([corpus], packing, "train", length)
    return sequences, Samples(sequences, Mixture([(0, [Fraction(1)])]), length, 1, len(sequences[0]))


@many
@given(shards=shards, length=st.integers(1, 30))
def test_truncated_and_padded_samples_equal_those_of_a_plain_program(tmp_path_factory, shards, length):
    corpus = make_corpus(tmp_path_factory.mktemp("c"), shards)
    texts = list(chain.from_iterable(shards))
    cut_up = [ids[start : start + length] for ids in texts for start in range(0, len(ids), length)]

    for packing, expected in (("truncate", [ids[:length] for ids in texts]), ("pad", cut_up)):
        _, samples = samples_by(packing, corpus, length)
        items = sorted((samples.locate(i)[1], samples[i]) for i in range(len(samples)))

        assert [sequence for sequence, _ in items] == list(range(len(expected)))
        for (_, item), ids in zip(items, expected, strict=True):
            padding = length - len(ids)
            assert item["input_ids"].tolist() == ids + [2] * padding
            assert item["labels"].tolist() == [IGNORED, *ids[1:]] + [IGNORED] * padding
            assert item["position_ids"].tolist() == list(range(length))


def test_truncation_says_how_much_it_leaves_out(tmp_path):
    corpus = make_corpus(tmp_path / "c", [numbered([10, 2]), numbered([5])])
    sequences, _ = samples_by("truncate", corpus, 4)

    assert describe_loss(data_of(packing="truncate"), sequences) == (
        "truncate: 10 of 17 tokens (59%) are within the first 4 of their document; the rest is not read"
    )
    assert describe_loss(data_of(), sequences) is None


def test_padding_changes_nothing_before_it(tmp_path):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(STORIES, attn_implementation="sdpa").double().eval()
    text = torch.randint(3, 512, (20,), generator=torch.Generator().manual_seed(0))
    _, samples = samples_by("pad", make_corpus(tmp_path / "c", [[text.tolist()]]), 32)

    with torch.no_grad():
        padded = model(**packed_collator([samples[0]]), use_cache=False)
        alone = model(text[None], labels=text[None], use_cache=False)

    assert torch.allclose(padded.logits[0, :20], alone.logits[0], atol=1e-9)
    assert padded.loss.item() == pytest.approx(alone.loss.item(), abs=1e-6)


def test_samples_beyond_the_end_do_not_exist(tmp_path):
    samples = samples_of(make_corpus(tmp_path / "c", [numbered([10])]), 5)

    with pytest.raises(IndexError):
        samples[2]


def test_a_damaged_corpus_is_not_opened(tmp_path):
    folder = make_corpus(tmp_path / "c", [numbered([10])]).folder
    shard = folder / "train" / "00000.ds"
    shard.write_bytes(shard.read_bytes()[:-2])

    with pytest.raises(LauncherError, match=r"00000\.ds: has 18 bytes, not 20; remove the corpus folder"):
        open_corpus(folder)


def test_a_folder_without_manifest_is_not_a_corpus(tmp_path):
    with pytest.raises(LauncherError, match=r"is not a prepared corpus .*; submit the `prepare` recipe"):
        open_corpus(tmp_path)


def test_an_unknown_manifest_says_where(tmp_path):
    folder = make_corpus(tmp_path / "c", [numbered([10])]).folder
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"dtype": "uint16"', '"dtype": "int8"'))

    with pytest.raises(LauncherError, match=r"manifest\.json: dtype: .*remove the folder and prepare the corpus again"):
        open_corpus(folder)
    manifest.write_text("{")
    with pytest.raises(LauncherError, match=r"manifest\.json: Invalid JSON.*; copy it again, or remove the folder and"):
        open_corpus(folder)
