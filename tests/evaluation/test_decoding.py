"""Choosing tokens: noise that a key decides, penalties that know the prompt, ends, and rows that leave a batch."""

import collections
import math
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    RepetitionPenaltyLogitsProcessor,
)

from jobs.evaluation.decoding import RowEnds, TokenScores, first_stop
from jobs.evaluation.generator import GenerationRequest, Generator
from jobs.evaluation.keyed_noise import gumbel, item_key
from jobs.evaluation.loaded_model import LoadedModel
from launcher.errors import LauncherError
from launcher.recipe.sections.generation import Decoding
from tests.support.merge_runs import BASE

CPU = torch.device("cpu")
WORD = (1 << 64) - 1


def splitmix(seed):
    """SplitMix64 as in its paper: a generator with a state."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) & WORD
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
        yield mixed ^ (mixed >> 31)


def test_noise_is_that_of_splitmix64():
    key, position, size = item_key(7, "an item"), 5, 300
    generator = splitmix(key)
    seed = [next(generator) for _ in range(position + 1)][position]
    uniform = [((number >> 11) + 0.5) / 2**53 for number, _ in zip(splitmix(seed), range(size), strict=False)]

    found = gumbel([key], position, size, CPU)[0]

    assert found.tolist() == pytest.approx([-math.log(-math.log1p(-one)) for one in uniform], rel=1e-5, abs=1e-5)


def test_noise_depends_on_the_key_and_the_position_alone():
    one, other = item_key(1, "a"), item_key(1, "b")
    both = gumbel([other, one], 3, 50, CPU)

    assert torch.equal(both[1], gumbel([one], 3, 50, CPU)[0])
    assert not torch.equal(both[0], both[1])
    assert not torch.equal(gumbel([one], 4, 50, CPU)[0], both[1])
    assert item_key(2, "a") != one


def test_draws_have_the_probabilities_of_the_model():
    """Chi-square over 20,000 items; 99.9 % of right samplers stay below the limit, and these draws never change."""
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5, -3.0])
    keys = [item_key(0, str(number)) for number in range(20_000)]
    drawn = collections.Counter((logits + gumbel(keys, 0, 6, CPU)).argmax(-1).tolist())

    expected = torch.softmax(logits, -1) * len(keys)

    assert sum((drawn[token] - float(count)) ** 2 / float(count) for token, count in enumerate(expected)) < 20.5


def test_all_noise_is_finite():
    found = gumbel(list(range(200)), 0, 5000, CPU)

    assert found.isfinite().all()
    assert abs(float(found.mean()) - 0.5772) < 0.01


def test_the_penalty_is_that_of_transformers_without_padding():
    prompt = [5, 9, 9, 30]
    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(0))
    ours = TokenScores(Decoding(repetition_penalty=1.3), [prompt], [0], len(prompt))
    theirs = RepetitionPenaltyLogitsProcessor(1.3)

    for ids in ([prompt], [[*prompt, 17]], [[*prompt, 17, 3]]):
        found = ours(torch.tensor(ids), logits.clone())
        assert torch.equal(found, theirs(torch.tensor(ids), logits.clone()))


def test_padding_is_not_penalised():
    scores = TokenScores(Decoding(repetition_penalty=2.0), [[5], [5, 6, 7]], [0, 1], 3)

    found = scores(torch.tensor([[0, 0, 5], [5, 6, 7]]), torch.ones(2, 10))

    assert found.tolist()[0] == [1, 1, 1, 1, 1, 0.5, 1, 1, 1, 1]


@pytest.mark.parametrize(("decoding", "allowed"), [({"top_k": 2}, {1, 2}), ({"top_p": 0.5}, {1})])
def test_tokens_outside_of_the_most_likely_ones_are_never_drawn(decoding, allowed):
    logits = torch.log(torch.tensor([0.05, 0.6, 0.2, 0.15])).repeat(500, 1)
    scores = TokenScores(Decoding(temperature=1.0, **decoding), [[0]] * 500, list(range(500)), 1)

    drawn = scores(torch.zeros(500, 1, dtype=torch.long), logits).argmax(-1)

    assert {*drawn.tolist()} == allowed


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_noticed(broken):
    scores = TokenScores(Decoding(), [[0]] * 3, [0] * 3, 1)
    logits = torch.zeros(3, 4)
    logits[1, 2] = broken

    scores(torch.zeros(3, 1, dtype=torch.long), logits)

    assert scores.broken_rows() == [1]


def test_the_first_stop_string_counts():
    assert first_stop("one two three", ["three", "two"]) == 4
    assert first_stop("one", ["two"]) is None


def test_a_stop_string_that_begins_in_the_prompt_is_none():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    prompt = tokenizer.encode("one, two")
    whole = tokenizer.encode("one, two, three")
    ends = RowEnds(frozenset(), ["two, t", ", t"], tokenizer, len(prompt), interrupts=False)

    seen = [bool(ends(torch.tensor([whole[:length]]))[0]) for length in range(len(prompt) + 1, len(whole) + 1)]

    assert True in seen
    assert ends.stopped[0] == 2 + seen.index(True) - 1
    assert tokenizer.decode(whole[len(prompt) : len(prompt) + ends.stopped[0]]).startswith(", t")


@pytest.fixture(scope="module")
def model():
    """The small Llama, for which many tokens end a text."""
    loaded = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    loaded.generation_config.eos_token_id = [2, *range(420, 512, 3)]
    return LoadedModel(loaded, AutoTokenizer.from_pretrained(BASE), CPU, torch.float32, {})


def special(model, token):
    """The model with a tokenizer in which a token is special, so that texts are written without it."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    assert len(tokenizer) == len(model.tokenizer)
    return replace(model, tokenizer=tokenizer)


def first_text(model, **decoding):
    request = GenerationRequest("0", model.tokenizer.encode("We studied"))
    [found] = Generator(model, [request], Decoding(max_new_tokens=20, **decoding), 1, 500).generate([0])
    return found


def test_a_stop_string_that_is_a_special_token_ends_a_text(model):
    whole = first_text(model)
    words = model.tokenizer.convert_ids_to_tokens(whole.ids)
    place, token = next((place, word) for place, word in enumerate(words[1:-1], 1) if word[0] == "\u2581")
    assert token not in words[:place]

    found = first_text(special(model, token), stop=(token,))

    assert (found.finish, found.ids) == ("stop", whole.ids[: place + 1])
    assert found.text == model.tokenizer.decode(whole.ids[:place], clean_up_tokenization_spaces=False)


def test_a_stop_string_that_holds_a_special_token_and_more_is_refused(model):
    with pytest.raises(LauncherError, match=r"decoding\.stop: `</s>\n` holds the special token `</s>`, and texts are"):
        first_text(model, stop=("\n", "</s>\n"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "decoding",
    [{}, {"temperature": 1.0, "top_p": 0.9, "repetition_penalty": 1.2}, {"stop": (",", "the")}],
    ids=["greedy", "sampled", "stop"],
)
def test_rows_that_leave_a_batch_change_no_other(model, decoding):
    starts = ["Once upon a time", "The patient had a", "BACKGROUND:", "We studied"]
    prompts = [f"{starts[number % 4]}{' and' * (number % 5)}" for number in range(12)]
    requests = [GenerationRequest(str(n), model.tokenizer.encode(prompt)) for n, prompt in enumerate(prompts)]

    def texts(tokens_per_batch, shrinks):
        generator = Generator(model, requests, Decoding(max_new_tokens=30, **decoding), 1, tokens_per_batch)
        generator._shrinks = shrinks
        return {
            n: text for batch in generator.batches for n, text in zip(batch, generator.generate(batch), strict=True)
        }

    alone = texts(1, shrinks=False)

    assert texts(10_000, shrinks=True) == texts(10_000, shrinks=False) == alone
    assert len({len(text.ids) for text in alone.values()}) > 4
    assert {text.finish for text in alone.values()} >= {"stop"}
