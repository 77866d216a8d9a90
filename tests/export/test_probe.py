"""What an export is tried on, and when it is refused; nothing here makes one."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.export.inputs import ExportPlan
from jobs.export.judge import bar_of, judge
from jobs.export.latency import compare_latency
from jobs.export.probe import STEPS, Answers, TorchProbed, answers, difference, make_probe
from jobs.models.merge.logit_check import LogitDifference
from launcher.errors import LauncherError
from tests.support.export_runs import LLAMA, export_recipe


@pytest.fixture(scope="module")
def llama():
    return AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(LLAMA)


def test_batches_are_padded_on_both_sides_and_are_followed_by_steps(tokenizer):
    probe = make_probe(tokenizer, "language model", 512, 512)

    padded = [batch for batch in probe if not batch.mask.all()]
    assert {bool(batch.mask[:, 0].all()) for batch in padded} == {True, False}
    assert {len(batch.ids) for batch in probe} == {1, 2, 5}
    assert [batch.steps for batch in probe if batch.steps] == [STEPS, STEPS]
    assert all(batch.mask[:, -1].all() for batch in probe if batch.steps)
    assert 511 in probe[0].ids  # the last token of the vocabulary


def test_short_models_get_short_texts(tokenizer):
    probe = make_probe(tokenizer, "language model", 512, 48)

    assert max(batch.ids.shape[1] + batch.steps for batch in probe) == 48


def test_texts_of_a_classifier_are_padded_on_the_right(tokenizer):
    probe = make_probe(tokenizer, "classifier", 512, 512)

    assert all(batch.mask[:, 0].all() and batch.steps == 0 for batch in probe)
    assert not all(batch.mask.all() for batch in probe)


def test_a_model_agrees_with_itself_and_continues_as_generate_does(llama, tokenizer):
    probe = make_probe(tokenizer, "language model", 512, 512)
    said = answers(TorchProbed(llama, "language model"), probe)

    again = answers(TorchProbed(llama, "language model"), probe, said)

    assert difference(said, again).largest < 1e-5
    batch = probe[0]
    options = {"do_sample": False, "max_new_tokens": STEPS, "min_new_tokens": STEPS, "pad_token_id": 0}
    generated = llama.generate(batch.ids, attention_mask=batch.mask, **options)
    assert torch.equal(said.continuations[0][:, :STEPS], generated[:, batch.ids.shape[1] :])


def test_a_model_that_does_not_see_padding_is_told_apart(llama, tokenizer):
    probe = make_probe(tokenizer, "language model", 512, 512)
    good = TorchProbed(llama, "language model")

    def blind(batch, last, cache):
        from dataclasses import replace

        unseen = replace(batch, mask=torch.ones_like(batch.mask))
        return good(unseen, last, cache)

    said = answers(good, probe)
    found = difference(said, answers(blind, probe, said))
    assert found.largest > 1
    assert found.same_choice < 0.95


def test_a_reward_model_must_keep_the_order_of_texts():
    one = Answers([torch.tensor([[1.0], [2.0], [3.0]])], [])
    other = Answers([torch.tensor([[1.0], [2.5], [2.2]])], [])

    assert difference(one, one).same_choice == 1
    assert difference(one, other).same_choice == pytest.approx(2 / 3)


def plan(tmp_path, dtype=torch.float32, **changes):
    return ExportPlan(export_recipe(**changes), tmp_path, (), "language model", tmp_path, dtype, ())


@pytest.mark.parametrize(
    ("changes", "dtype", "difference", "agreement"),
    [
        ({"format": "onnx"}, torch.float32, 1e-4, 0.999),
        ({}, torch.float32, 1e-4, 0.999),
        ({}, torch.bfloat16, 1e-4 + 16 * 2**-7 * 20, 0.95),
        ({"format": "bnb8"}, torch.bfloat16, 5, 0.85),
        ({"format": "bnb4"}, torch.float32, 15, 0.6),
        ({"format": "onnx", "tolerance": 0.5, "agreement": 0.9}, torch.float32, 0.5, 0.9),
    ],
)
def test_each_format_has_its_bars(tmp_path, changes, dtype, difference, agreement):
    found = bar_of(plan(tmp_path, dtype, **changes), 20)

    assert found == pytest.approx((difference, agreement))


@pytest.mark.parametrize(
    ("largest", "same", "message"),
    [
        (2e-4, 1.0, r"differs by 0\.0002 in a logit, more than 0\.0001; nothing was published"),
        (1e-5, 0.998, r"same choice in 99\.80% of places, less than 99\.90%"),
    ],
)
def test_an_export_beyond_a_bar_is_refused(tmp_path, largest, same, message):
    judge(plan(tmp_path, format="onnx"), LogitDifference(1e-4, 20, 0.999))
    with pytest.raises(LauncherError, match=message):
        judge(plan(tmp_path, format="onnx"), LogitDifference(largest, 20, same))


@pytest.mark.parametrize(
    ("original", "made", "message"),
    [
        (1.0, float("nan"), "format: as `onnx` the model computes logits that are not numbers.*write another `format`"),
        (1.0, float("inf"), "format: as `onnx` the model computes logits that are not numbers.*write another `format`"),
        (float("nan"), 1.0, r"model\.path: the original computes logits that are not numbers.*check its weights"),
        (float("-inf"), float("-inf"), r"model\.path: the original computes logits that are not numbers"),
    ],
)
def test_no_tolerance_is_proposed_for_logits_that_are_no_numbers(tmp_path, original, made, message):
    one, other = (Answers([torch.tensor([[3.0, 2.0], [0.5, logit]])], []) for logit in (original, made))

    with pytest.raises(LauncherError, match=message) as refused:
        judge(plan(tmp_path, format="onnx"), difference(one, other))
    assert "tolerance" not in str(refused.value)


def test_seconds_are_measured_in_turns_and_without_the_first():
    ticks, calls = iter(range(1000)), []

    def model(name):
        return lambda batch, last, cache: (calls.append((name, batch.ids.shape[1], last)), cache or name)

    models = {"one": model("one"), "other": model("other")}
    found = compare_latency(models, [8], 100, True, rounds=3, clock=lambda: float(next(ticks)))

    assert [name for name, _, last in calls if last == 8] == ["one", "other", "other", "one"] * 2
    assert [length for _, length, last in calls if last == 1] == [9, 9, 10, 10, 11, 11, 12, 12]
    assert found == {
        "8": {kind: {name: {"p50": 1000, "p95": 1000} for name in models} for kind in ("prefill", "decode")}
    }
