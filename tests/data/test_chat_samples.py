"""Samples for fine-tuning: isolation, labels, padding, and the order of several sources."""

import itertools
import pickle
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from jobs.data.chat.render import Example
from jobs.data.chat.samples import ChatSamples, padding_collator
from jobs.data.chat.store import ExamplesTally, ExampleWriter, PreparedSource, open_sequences
from jobs.data.sampling.dataset import flattening_collator
from jobs.data.sampling.mixture import Mixture
from jobs.data.sampling.order import IndependentDraws, Order
from jobs.models.labels import IGNORED
from launcher.recipe.sections.chat_sources import ChatData
from tests.support.chat_examples import STORIES


def example(*tokens):
    """Negative tokens are answers."""
    return Example(np.abs(np.array(tokens)).astype(np.uint32), np.array(tokens) < 0)


def sequences(folder, examples, capacity=None, name="a"):
    writer = ExampleWriter(folder, name)
    for one in examples:
        writer.write("train", one)
    stored = writer.close(capacity)
    tally = ExamplesTally()
    source = PreparedSource(
        name=name, files=(), first_bad=(), tally=tally, examples=stored.examples, packs=stored.packs
    )
    return open_sequences(folder, [source], "train")


def in_order(sources, count):
    return ChatSamples(sources, Order(Mixture([(0, [Fraction(1)])]), [len(sources[0])], ["a"], 1), count)


def random_examples(count, longest):
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        ids = random.integers(3, 512, random.integers(4, longest))
        made.append(Example(ids.astype(np.uint32), np.arange(len(ids)) >= len(ids) // 2))
    return made


def test_what_is_written_is_read(tmp_path):
    written = [example(1, 2, -3, -2), example(511, -2), example(2**31 - 1, -7)]

    (source,) = sequences(tmp_path, written)

    assert [(one.ids.tolist(), one.is_answer.tolist()) for i in range(3) for one in source.read(i)] == [
        (one.ids.tolist(), one.is_answer.tolist()) for one in written
    ]
    assert source.tokens == 8
    assert len(pickle.dumps(source)) < 2000


def test_labels_are_the_answers(tmp_path):
    samples = in_order(sequences(tmp_path, [example(5, 6, -7, 8, -2)]), 1)

    assert {name: tensor.tolist() for name, tensor in samples[0].items()} == {
        "input_ids": [5, 6, 7, 8, 2],
        "labels": [IGNORED, IGNORED, 7, IGNORED, 2],
        "position_ids": [0, 1, 2, 3, 4],
    }
    with pytest.raises(IndexError):
        samples[1]


def test_packed_examples_keep_positions_of_their_own_and_there_is_no_mask(tmp_path):
    samples = in_order(sequences(tmp_path, [example(5, -6), example(7, 8, -9), example(3, -4)], capacity=5), 2)

    by_length = sorted((samples[i] for i in range(2)), key=lambda sample: len(sample["input_ids"]))

    assert by_length[1]["input_ids"].tolist() == [7, 8, 9, 5, 6]
    assert by_length[1]["position_ids"].tolist() == [0, 1, 2, 0, 1]
    assert by_length[1]["labels"].tolist() == [IGNORED, IGNORED, 9, IGNORED, 6]
    assert by_length[0].keys() == {"input_ids", "labels", "position_ids"}


@pytest.mark.parametrize(("attention", "rounding"), [("sdpa", 1e-9), ("eager", 1e-5)])  # eager's softmax is in fp32
def test_packed_and_padded_examples_are_isolated_exactly(tmp_path, attention, rounding):
    model = LlamaForCausalLM.from_pretrained(STORIES, attn_implementation=attention).double().eval()
    examples = random_examples(12, 40)
    samples = in_order(sequences(tmp_path, examples, capacity=64), 4)
    batch = padding_collator(0)([samples[i] for i in range(4)])
    assert batch.keys() == {"input_ids", "labels", "position_ids"}

    with torch.no_grad():
        packed = model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits
        compared = 0
        for row in range(4):
            starts = [*torch.nonzero(batch["position_ids"][row] == 0)[:, 0].tolist(), len(samples[row]["input_ids"])]
            for start, end in itertools.pairwise(starts):
                alone = model(batch["input_ids"][row, start:end][None], use_cache=False).logits[0]
                assert torch.allclose(packed[row, start:end], alone, atol=rounding)
                compared += 1
    assert compared >= 8


def test_rows_can_be_padded_to_one_length_for_all_batches(tmp_path):
    samples = in_order(sequences(tmp_path, random_examples(6, 20), capacity=32), 3)

    batch = padding_collator(7, least=48)([samples[0], samples[1]])

    for row, sample in enumerate((samples[0], samples[1])):
        length = len(sample["input_ids"])
        assert batch["input_ids"][row, length:].tolist() == [7] * (48 - length)
        assert batch["labels"][row, length:].tolist() == [IGNORED] * (48 - length)
        last = sample["position_ids"][-1].item()
        assert batch["position_ids"][row, length:].tolist() == list(range(last + 1, last + 1 + 48 - length))


def test_a_mask_of_ones_would_end_the_isolation(tmp_path):
    """Why no collator here makes an `attention_mask`: with one, transformers 5.23 ignores where positions restart."""
    model = LlamaForCausalLM.from_pretrained(STORIES, attn_implementation="sdpa").double().eval()
    samples = in_order(sequences(tmp_path, random_examples(6, 40), capacity=64), 2)
    batch = padding_collator(0)([samples[0]])
    del batch["labels"]

    with torch.no_grad():
        isolated = model(**batch, use_cache=False).logits
        masked = model(**batch, attention_mask=torch.ones_like(batch["input_ids"]), use_cache=False).logits

    assert (isolated - masked).abs().max() > 0.1


def test_the_loss_of_a_batch_is_the_mean_over_its_answers(tmp_path):
    model = LlamaForCausalLM.from_pretrained(STORIES).double().eval()
    examples = random_examples(9, 30)
    packs = in_order(sequences(tmp_path / "packs", examples, capacity=64), 3)
    pads = in_order(sequences(tmp_path / "pads", examples), 9)
    with torch.no_grad():
        alone = [
            model(input_ids=s["input_ids"][None], labels=s["labels"][None]).loss * (s["labels"] >= 0).sum()
            for s in (pads[i] for i in range(9))
        ]
        expected = sum(alone) / sum(int(one.is_answer.sum()) for one in examples)

        for batch in (
            padding_collator(2)([packs[i] for i in range(len(packs))]),
            padding_collator(2)([pads[i] for i in range(9)]),
            flattening_collator([pads[i] for i in range(9)]),
        ):
            assert model(**batch, use_cache=False).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def data_of(weights, **options):
    sources = [
        {"name": f"s{i}", "files": "x", "format": "alpaca", "weight": weight} for i, weight in enumerate(weights)
    ]
    return ChatData.model_validate({"sources": tuple(sources), "packing": "pad", **options})


def test_the_published_instruction_mix_is_drawn_in_proportion_to_size_times_epochs():
    """BioMed-LLaMA: P(source) ~ n x epochs, 150,000 draws with replacement."""
    sizes = [10_178, 182_822, 211_269, 52_002, 54_412, 216]
    epochs = [3, 0.2, 0.1, 0.5, 0.5, 5]
    shares = data_of(epochs).shares(sizes)
    draws = IndependentDraws(shares, sizes, seed=42)

    drawn = [draws.locate(index) for index in range(150_000)]

    counts, total = Counter(source for source, _ in drawn), float(sum(shares))
    for source, share in enumerate(shares):
        expected = 150_000 * float(share) / total
        assert abs(counts[source] - expected) < 5 * expected**0.5
    items = Counter(item for source, item in drawn if source == 0)
    assert set(items) <= set(range(sizes[0]))
    assert max(items.values()) > 1, "with replacement"
    expected = sizes[0] * (1 - np.exp(-counts[0] / sizes[0]))  # different items among so many uniform draws
    assert len(items) == pytest.approx(expected, rel=0.02)


def test_draws_depend_on_seed_and_index_alone():
    draws = IndependentDraws([Fraction(1), Fraction(2)], [7, 5], seed=3)
    later = [draws.locate(index) for index in range(500, 600)]

    assert later == [IndependentDraws([Fraction(2), Fraction(4)], [7, 5], seed=3).locate(i) for i in range(500, 600)]
    assert later != [IndependentDraws([Fraction(1), Fraction(2)], [7, 5], seed=4).locate(i) for i in range(500, 600)]


def test_permuted_sources_are_read_as_often_as_their_weights_say():
    shares = data_of([3, 0.5]).shares([10, 40])
    order = Order(Mixture([(0, shares)]), [10, 40], ["a", "b"], 1)

    given = Counter(order.locate(index) for index in range(50))

    assert Counter(source for source, _ in given.elements()) == {0: 30, 1: 20}
    assert all(given[0, item] == 3 for item in range(10))
    assert max(given[1, item] for item in range(40)) == 1


def test_proportions_are_shares_of_the_sequences():
    shares = data_of([3, 1], mixture="proportions").shares([10, 1000])
    order = Order(Mixture([(0, shares)]), [10, 1000], ["a", "b"], 1)

    assert Counter(order.locate(index)[0] for index in range(100)) == {0: 75, 1: 25}
