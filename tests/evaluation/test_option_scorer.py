"""Log-likelihoods of options: the same whether options share a row with their prompt or not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from jobs.evaluation.encode import OptionRequest, PairEncoder
from jobs.evaluation.loaded_model import LoadedModel
from jobs.evaluation.option_scorer import OptionScorer, takes_masks
from jobs.evaluation.token_scorer import has_plain_head
from launcher.errors import LauncherError
from tests.support.prepare_runs import ASSETS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llama():
    folder = ASSETS / "stories260k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return LoadedModel(model, AutoTokenizer.from_pretrained(folder), CPU, torch.float64)


def plain(model, context, option):
    """One forward pass of the whole text, in float64."""
    ids = torch.tensor([[*context, *option]])
    with torch.inference_mode():
        values = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
    return sum(float(values[len(context) + place - 1, token]) for place, token in enumerate(option))


def scored(model, requests, capacity=600, **options):
    scorer = OptionScorer(model, requests, capacity, **options)
    found = {}
    for batch in scorer.batches:
        found |= dict(zip(batch, scorer.score(batch), strict=True))
    return [found[number] for number in range(len(requests))]


ids = st.lists(st.integers(3, 500), min_size=1, max_size=12).map(tuple)


@settings(max_examples=25)
@given(
    header=st.sampled_from([(), tuple(range(3, 33))]),
    texts=st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=5)), min_size=1, max_size=5),
)
def test_scores_are_those_of_each_text_by_itself(llama, header, texts):
    requests = [OptionRequest(n, header + context, tuple(options)) for n, (context, options) in enumerate(texts)]

    found = scored(llama, requests)

    for request, values in zip(requests, found, strict=True):
        expected = [plain(llama.model, request.context, option) for option in request.options]
        assert values == pytest.approx(expected, abs=1e-9)


def test_a_row_for_each_option_gives_the_same(llama):
    requests = [OptionRequest(n, tuple(range(3, 20 + n)), ((5, 6), (7,), (8, 9, 10))) for n in range(4)]

    shared, apart = scored(llama, requests, shared=True), scored(llama, requests, shared=False)

    assert [value for row in shared for value in row] == pytest.approx([v for row in apart for v in row], abs=1e-9)


def test_what_all_prompts_begin_with_is_computed_once(llama, monkeypatch):
    requests = [OptionRequest(n, (*range(3, 103), 200 + n, 7), ((5,), (6,))) for n in range(6)]
    computed = []
    plain_forward = llama.model.model.forward
    monkeypatch.setattr(
        llama.model.model,
        "forward",
        lambda **given: computed.append(given["input_ids"].numel()) or plain_forward(**given),
    )

    scored(llama, requests, shared=True)

    assert computed == [100, 6 * 2]


def tiny(model):
    return LoadedModel(model.eval(), AutoTokenizer.from_pretrained(ASSETS / "stories260k"), CPU, torch.float32)


def test_models_that_cannot_take_masks_are_found_out_and_scored_all_the_same(capsys):
    torch.manual_seed(0)
    bloom = tiny(BloomForCausalLM(BloomConfig(vocab_size=512, hidden_size=32, n_layer=2, n_head=4)))
    gpt2 = tiny(GPT2LMHeadModel(GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=128)))
    requests = [OptionRequest(n, tuple(range(3, 20 + n)), ((5, 6), (7,), (8, 9, 10))) for n in range(4)]

    assert (takes_masks(bloom), takes_masks(gpt2)) == (False, True)
    assert capsys.readouterr().out.count("each option gets a row of its own") == 1
    for one in (bloom, gpt2):
        for request, values in zip(requests, scored(one, requests), strict=True):
            expected = [plain(one.model, request.context, option) for option in request.options]
            assert values == pytest.approx(expected, abs=1e-4)


LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_attention_is_given_a_mask_that_it_can_add(dtype):
    """It adds what it is given to its scores: of true and false that hides nothing."""
    torch.manual_seed(0)
    how = {"attn_implementation": "eager", "initializer_range": 0.1}
    config = LlamaConfig(vocab_size=512, max_position_embeddings=128, **how, **LLAMA)
    eager = replace(tiny(LlamaForCausalLM(config).to(dtype)), dtype=dtype)
    requests = [OptionRequest(n, (*range(3, 33), 40 + n), ((5, 6), (7,), (8, 9, 10))) for n in range(4)]

    assert takes_masks(eager)
    shared, apart = scored(eager, requests, shared=True), scored(eager, requests, shared=False)

    limit = 1e-4 if dtype == torch.float32 else 0.02
    assert [value for row in shared for value in row] == pytest.approx([v for row in apart for v in row], abs=limit)


def nearly_uniform():
    """A model in 16 bits for which all tokens are almost equally likely, whatever it sees."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=4, n_positions=128)
    return replace(tiny(GPT2LMHeadModel(config).to(torch.bfloat16)), dtype=torch.bfloat16)


def test_a_model_that_forgets_masks_is_found_out_though_that_makes_little_difference(monkeypatch):
    model = nearly_uniform()
    assert takes_masks(replace(model, probed={}))

    heeds = model.body.forward
    monkeypatch.setattr(model.body, "forward", lambda *ids, **given: heeds(*ids, **(given | {"attention_mask": None})))

    assert not takes_masks(model)


def test_a_model_that_a_probe_has_no_memory_for_is_not_taken_for_one_that_takes_no_masks(monkeypatch):
    model = nearly_uniform()

    def no_memory(**_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(model.body, "forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        takes_masks(model)
    with pytest.raises(torch.OutOfMemoryError):
        has_plain_head(model)


@pytest.mark.parametrize("found", [True, False])
def test_all_ranks_do_what_the_first_one_has_found_out(llama, monkeypatch, found):
    """Batches would differ otherwise, and ranks would wait for one another without end."""
    told = []
    group = SimpleNamespace(is_main=False, from_main=lambda own: told.append(own) or found)
    monkeypatch.setattr("jobs.evaluation.option_scorer._gives_the_same", lambda _: 1 / 0)
    requests = [OptionRequest(0, (4, 5), ((6,), (7,)))]

    scorer = OptionScorer(replace(llama, group=group, probed={}), requests, 600)

    assert (scorer.is_shared, told) == (found, [False])


def test_a_sliding_window_is_heeded():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=512, num_key_value_heads=2, sliding_window=16, max_position_embeddings=128, **LLAMA
    )
    mistral = tiny(MistralForCausalLM(config))
    requests = [OptionRequest(n, tuple(range(3, 40 + n)), ((5, 6), (7,), (8, 9, 10))) for n in range(3)]

    for request, values in zip(requests, scored(mistral, requests), strict=True):
        expected = [plain(mistral.model, request.context, option) for option in request.options]
        assert values == pytest.approx(expected, abs=1e-4)


def test_logits_that_are_not_numbers_are_refused(llama):
    broken = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))

    with pytest.raises(LauncherError, match="logits are not numbers for item 3"):
        scored(replace(llama, model=broken), [OptionRequest(3, (4, 5), ((6,), (7,)))], shared=True)


@pytest.fixture(scope="module")
def encoder(llama):
    return PairEncoder(llama.tokenizer, 64)


@pytest.mark.parametrize("option", [" yes", " ja\u0308", " 糖尿病", "\u0301", " a", " \u00e9\u200d"])
@pytest.mark.parametrize("context", ["Answer:", "Answer: ", "e", "a\u0061"])
def test_prompt_and_option_together_are_the_encoded_text(llama, encoder, context, option):
    request = encoder.encode(0, context, [option])

    whole = llama.tokenizer.encode(context + option)
    assert request.joined or [*request.context, *request.options[0]] == whole
    assert [*request.options[0]] == whole[len(llama.tokenizer.encode(context.rstrip())) :]


def test_an_option_that_becomes_part_of_the_prompts_last_token_is_counted_or_refused(llama, encoder):
    tokens = [token for token in llama.tokenizer.get_vocab() if token.isalpha() and token.isascii() and len(token) > 2]
    joining = [(token[:-1], token[-1]) for token in sorted(tokens)]

    outcomes = []
    for context, option in joining[:50]:
        try:
            outcomes.append(encoder.encode(0, context, [option]).joined)
        except ValueError as error:
            assert str(error) == "option A has no tokens of its own after the prompt"
            outcomes.append(True)

    assert any(outcomes)


def test_a_prompt_that_is_too_long_loses_its_start_and_that_is_told(encoder):
    request = encoder.encode(0, "word " * 100, [" yes", " no"])

    assert request.cut_tokens > 0
    assert len(request.context) + max(map(len, request.options)) - 1 == 64


def test_an_option_longer_than_the_model_is_refused(encoder):
    with pytest.raises(ValueError, match=r"an option has .* tokens, more than the model's 64 positions"):
        encoder.encode(0, "Q:", [" word" * 100])


def test_an_empty_prompt_begins_with_the_start_token(llama, encoder):
    assert encoder.encode(0, "", [" yes"]).context == (llama.tokenizer.bos_token_id,)
