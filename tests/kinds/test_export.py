"""kind: export, from models as they are published to files that plain onnxruntime and plain transformers run."""

import json
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.exporters import ExportedModel

from jobs.export import trace
from jobs.kinds import export
from jobs.kinds.export import main
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError
from tests.support.export_runs import LLAMA, encoder_classifier, exported_by, make_export, one_layer
from tests.support.prepare_runs import ASSETS
from tests.support.pretrained_models import smollm2

pytestmark = [
    pytest.mark.slow,
    # of peft, about embeddings that are tied
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning"),
    # bitsandbytes 0.50 computes in 16 bits on CPUs
    pytest.mark.filterwarnings("ignore:MatMul8bitLt:UserWarning"),
]

TEXTS = ["Once upon a time", "The cat sat on the mat and looked at the little girl. Then"]


def sessions(folder, *names):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    return [onnxruntime.InferenceSession(f"{folder}/{name}.onnx", options, providers=providers) for name in names]


def padded(folder, side):
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer(TEXTS, padding=True, return_tensors="np")


def generated(folder, batch, tokens):
    """The loop of docs/export.md: greedy, with a cache."""
    prefill, decode = sessions(folder, "prefill", "decode")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    session, new, cache = prefill, ids, {}
    for _ in range(tokens):
        positions = (mask.cumsum(1) - 1).clip(0)[:, -new.shape[1] :]
        feeds = {"input_ids": new, "attention_mask": mask, "position_ids": positions, **cache}
        names = [output.name for output in session.get_outputs()]
        logits, *layers = session.run(names, feeds)
        cache = {"input." + name.removeprefix("output."): array for name, array in zip(names[1:], layers, strict=True)}
        new = logits[:, -1:].argmax(-1)
        ids, mask, session = np.hstack([ids, new]), np.hstack([mask, np.ones_like(new)]), decode
    return ids


def by_transformers(model, batch, tokens):
    given = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")}
    options = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens, "pad_token_id": 0}
    return model.generate(**given, **options).numpy()


def test_the_shipped_model_with_a_merged_adapter_writes_the_same_texts_in_plain_onnxruntime(tmp_path):
    adapter = tmp_path / "models" / "lora"
    adapter.parent.mkdir()
    adapter.symlink_to(ASSETS / "stories260k_lora")
    applied = {"path": "lora", "trained_on": "stories260k"}
    model = {"path": "model", "adapters": [applied]}
    context = make_export(tmp_path, format="onnx", model=model, latency=[16, 32])

    folder = exported_by(context)

    report = json.loads(context.run.export_report.read_text())
    assert report["verification"]["largest"] < 1e-4
    assert report["verification"]["same_choice"] == 1
    assert report["verification"]["places"] > 500
    assert set(report["latency_ms"]) == {"16", "32"}
    assert set(report["latency_ms"]["16"]["decode"]) == {"torch", "onnxruntime"}
    original = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(LLAMA), adapter).eval()
    batch = padded(folder, "left")
    assert not batch["attention_mask"].all()
    assert np.array_equal(generated(folder, batch, 24), by_transformers(original, batch, 24))
    assert (folder / "decode.onnx.data").stat().st_size == 0  # both graphs read one file of weights
    for name in ("prefill", "decode"):
        onnx.load(folder / f"{name}.onnx")
    assert set(ExportedModel.from_pretrained(folder).runners) == {"prefill", "decode"}


def test_a_graph_that_was_traced_without_padding_is_refused(tmp_path, monkeypatch):
    one_layer(tmp_path)
    sample = trace.padded_sample(512)
    unpadded = sample | {"attention_mask": torch.ones_like(sample["attention_mask"])}
    monkeypatch.setattr(trace, "padded_sample", lambda _: unpadded)
    inputs, judge = [], export.judge

    def look_and_judge(plan, found):
        (graph,) = sessions(next((tmp_path / "models").glob(".made.*")), "prefill")
        inputs.extend(one.name for one in graph.get_inputs())
        return judge(plan, found)

    monkeypatch.setattr(export, "judge", look_and_judge)

    with pytest.raises(LauncherError, match=r"differs by \d\S* in a logit, more than 0\.0001; nothing was published"):
        main(make_export(tmp_path, format="onnx"))

    assert {path.name for path in (tmp_path / "models").iterdir()} == {"model"}
    assert "input_ids" in inputs
    assert "attention_mask" not in inputs


def test_a_classifier_says_the_same_in_plain_onnxruntime(tmp_path):
    source = encoder_classifier(tmp_path)

    folder = exported_by(make_export(tmp_path, format="onnx", latency=[16]))

    batch = padded(source, "right")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    (graph,) = sessions(folder, "model")
    (logits,) = graph.run(["logits"], given)
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    with torch.inference_mode():
        expected = model(**{name: torch.tensor(array) for name, array in given.items()}).logits.numpy()
    assert not given["attention_mask"].all()
    assert np.abs(logits - expected).max() < 1e-5
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["latency_ms"]["16"]) == {"prefill"}
    assert AutoModelForSequenceClassification.from_pretrained(source).config.num_labels == logits.shape[1] == 3


def reward_adapter(folder, base):
    """A LoRA with the head of a reward model, as `kind: reward` exports it."""
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=2)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(model, config)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("wanted", ["safetensors", pytest.param("onnx", marks=pytest.mark.long)])
def test_a_reward_model_of_an_adapter_is_exported_with_its_head(tmp_path, wanted):
    base = one_layer(tmp_path)
    original = reward_adapter(tmp_path / "models" / "reward", base)

    folder = exported_by(
        make_export(tmp_path, format=wanted, model={"path": "model", "adapters": [{"path": "reward"}]})
    )

    batch = padded(base, "right")
    given = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")}
    given["input_ids"][given["attention_mask"] == 0] = 2
    with torch.inference_mode():
        expected = original(**given).logits
    if wanted == "onnx":
        (graph,) = sessions(folder, "model")
        (found,) = graph.run(["logits"], {name: tensor.numpy() for name, tensor in given.items()})
    else:
        with torch.inference_mode():
            found = AutoModelForSequenceClassification.from_pretrained(folder).eval()(**given).logits.numpy()
    assert expected.std() > 0.01
    assert np.abs(found - expected.numpy()).max() < 1e-4


NAMES = ("in hospital", "30 days", "later")


def assert_it_has_class_names(folder, kind):
    """Whoever loads it, graphs included, finds the names, their numbers and the type of the problem."""
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: number for number, name in enumerate(NAMES)}
    assert (config.num_labels, config.problem_type) == (len(NAMES), kind)
    if (folder / "model.onnx").exists():
        (graph,) = sessions(folder, "model")
        assert [output.shape[-1] for output in graph.get_outputs()] == [len(NAMES)]
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        assert model.config.id2label == dict(enumerate(NAMES))


def classifying_adapter(folder, base, head):
    """A LoRA with a head of three classes, as `kind: classify` exports it; plain peft's where there is no `head`."""
    options = {"num_labels": len(NAMES), "pad_token_id": 2}
    model = AutoModelForSequenceClassification.from_pretrained(base, **options)
    config = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    manifest = {"data_use": "open", "base_model": "model", **({"head": head} if head else {})}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("wanted", ["safetensors", pytest.param("onnx", marks=pytest.mark.long)])
def test_the_class_names_of_an_adapter_survive_and_survive_again(tmp_path, wanted):
    base = one_layer(tmp_path)
    head = {"labels": NAMES, "problem_type": "multi_label_classification"}
    classifying_adapter(tmp_path / "models" / "classes", base, head)

    folder = exported_by(
        make_export(tmp_path, format=wanted, model={"path": "model", "adapters": [{"path": "classes"}]})
    )

    assert_it_has_class_names(folder, "multi_label_classification")
    if wanted == "safetensors":
        again = make_export(tmp_path, format="safetensors", model={"path": "made"}, output="again", dtype="bf16")
        main(again)
        assert_it_has_class_names(tmp_path / "models" / "again", "multi_label_classification")


@pytest.mark.parametrize("wanted", ["onnx", pytest.param("int8-onnx", marks=pytest.mark.long), "bnb8"])
def test_the_class_names_of_a_whole_model_survive(tmp_path, wanted):
    if wanted == "bnb8":
        pytest.importorskip("bitsandbytes")
    kind = "single_label_classification"
    encoder_classifier(tmp_path, names=NAMES, problem_type=kind)

    assert_it_has_class_names(exported_by(make_export(tmp_path, format=wanted, agreement=0.5)), kind)


def test_a_head_with_other_names_than_its_manifest_says_is_refused(tmp_path):
    base = one_layer(tmp_path)
    classifying_adapter(tmp_path / "models" / "classes", base, {"labels": NAMES[:2], "problem_type": None})

    with pytest.raises(LauncherError, match=r"`classes`: `head` .* \(it names 2 classes, its head has 3\); copy it"):
        main(make_export(tmp_path, model={"path": "model", "adapters": [{"path": "classes"}]}))


def test_the_head_of_an_adapter_without_names_has_numbers(tmp_path):
    base = one_layer(tmp_path)
    classifying_adapter(tmp_path / "models" / "classes", base, None)

    folder = exported_by(make_export(tmp_path, model={"path": "model", "adapters": [{"path": "classes"}]}))

    assert AutoConfig.from_pretrained(folder).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize("wanted", ["safetensors", "onnx"])
def test_what_libraries_compute_counts_as_progress_while_they_write(tmp_path, monkeypatch, wanted):
    one_layer(tmp_path)
    is_counting = []

    @contextmanager
    def counting():
        is_counting.append(True)
        yield
        is_counting.pop()

    def stop(*_):
        raise LauncherError(f"counting: {bool(is_counting)}")

    monkeypatch.setattr(WATCHDOG, "counting_work", counting)
    monkeypatch.setattr(trace, "trace", stop)
    monkeypatch.setattr(export, "write_weights", stop)

    with pytest.raises(LauncherError, match="counting: True"):
        main(make_export(tmp_path, format=wanted))


@pytest.mark.parametrize(("wanted", "bits"), [("bnb8", 8), ("bnb4", 4)])
def test_few_bits_load_in_plain_transformers_and_are_near_the_original(tmp_path, wanted, bits):
    pytest.importorskip("bitsandbytes")

    folder = exported_by(make_export(tmp_path, format=wanted))

    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config[f"load_in_{bits}bit"] is True
    assert (folder / "model.safetensors").stat().st_size < 0.5 * (LLAMA / "model.safetensors").stat().st_size
    manifest = json.loads((folder / "manifest.json").read_text())
    assert 0 < manifest["verification"]["largest"] < manifest["verification"]["limits"]["difference"]
    assert not (folder / "whole").exists()


@pytest.mark.long
def test_int8_graphs_are_smaller_and_near_the_original(tmp_path):
    source = one_layer(tmp_path)

    folder = exported_by(make_export(tmp_path, format="int8-onnx"))

    manifest = json.loads((folder / "manifest.json").read_text())
    assert 1e-3 < manifest["verification"]["largest"] < manifest["verification"]["limits"]["difference"]
    assert (folder / "prefill.onnx.data").stat().st_size < 0.9 * (source / "model.safetensors").stat().st_size
    batch = padded(folder, "left")
    assert generated(folder, batch, 8).shape == (2, batch["input_ids"].shape[1] + 8)


@pytest.mark.long
def test_smollm2_writes_the_same_text_in_plain_onnxruntime(tmp_path):
    """30 layers, grouped queries, a byte-level BPE; real weights."""
    (tmp_path / "models").mkdir()
    smollm2(tmp_path / "models" / "model")

    folder = exported_by(make_export(tmp_path, format="onnx", latency=[32]))

    batch = padded(folder, "left")
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "models" / "model", dtype=torch.float32).eval()
    assert np.array_equal(generated(folder, batch, 16), by_transformers(original, batch, 16))


def test_a_model_without_a_head_is_refused(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model").symlink_to(ASSETS / "random_bert")

    with pytest.raises(LauncherError, match=r"model\.path: its config\.json says BertModel; only causal language"):
        main(make_export(tmp_path, format="onnx"))


def test_prompts_beyond_the_models_positions_are_refused_before_anything_is_traced(tmp_path):
    with pytest.raises(LauncherError, match=r"latency: 521 tokens are more than the model's 512 positions"):
        main(make_export(tmp_path, format="onnx", latency=[500]))
