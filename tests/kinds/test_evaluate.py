"""kind: evaluate, from files and a real model to scores: stopped, in an array, with adapters."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_eval.tasks.medmcqa import utils_medmcqa
from peft import AdaptionPromptConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.kinds.evaluate import main
from launcher.artifacts.scores import Training
from launcher.artifacts.standard_errors import mean_of
from launcher.errors import LauncherError
from launcher.monitor.goodput import compute_goodput
from launcher.run.ledger import read_attempts, read_json_lines
from launcher.run.record import CorpusShare
from tests.support.evaluation_runs import evaluation, items_of, lm_eval_samples, put_assets, scores_of
from tests.support.prepare_runs import ASSETS, context_of
from tests.support.pretrained_models import smollm2
from tests.support.stops import stopped_after

pytestmark = pytest.mark.slow
MEDMCQA = {"type": "choice", "name": "medmcqa", "format": "medmcqa", "files": "./medmcqa_60.jsonl"}
ANATOMY = {"type": "choice", "name": "anatomy", "format": "mmlu", "files": "./anatomy_test.csv"}
HEADER = "The following are multiple choice questions (with answers) about anatomy.\n\n"
SHOWN = "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"


@pytest.fixture
def files(tmp_path):
    put_assets(tmp_path, "medmcqa_60.jsonl", "anatomy_test.csv", "anatomy_dev.csv")
    return tmp_path


def comparable(context):
    """Scores and items, without the run that made them."""
    return scores_of(context).model_dump() | {"run": ""}, items_of(context)


def test_scores_have_errors_files_and_a_row_for_each_item(files, capsys):
    context = evaluation(files, MEDMCQA)

    main(context)

    task, items = scores_of(context).tasks["medmcqa"], items_of(context)
    acc = task.scores["acc"]
    expected = mean_of([item["acc"] for item in items])
    assert (task.n, len(items), acc.n) == (60, 60, 60)
    assert (acc.value, acc.standard_error) == (expected.value, expected.standard_error)
    assert acc.low == pytest.approx(acc.value - 1.96 * acc.standard_error, abs=1e-5)
    assert [Path(one.path).name for one in task.files] == ["medmcqa_60.jsonl"]
    assert all(re.fullmatch("[0-9a-f]{64}", item["prompt_sha256"]) for item in items)
    assert all(len(item["details"]["log_likelihoods"]) == 4 for item in items)
    assert f"medmcqa: 60 items  acc {acc.value:.4f} ±{acc.standard_error:.4f}" in capsys.readouterr().out
    [attempt] = read_attempts(context.run.ledger)
    assert (attempt.reason, attempt.first_step, attempt.last_step, attempt.total_steps) == ("finished", 0, 60, 60)
    assert read_json_lines(context.run.metrics)[-1]["step"] == 60


def test_a_stopped_evaluation_goes_on_and_ends_with_the_same_scores(files, tmp_path_factory):
    whole = evaluation(files, MEDMCQA, ANATOMY, tokens_per_batch=900)
    main(whole)
    expected = comparable(whole)
    shutil.rmtree(whole.run.outputs)
    made = {path: path.stat().st_mtime_ns for path in whole.run.batches.rglob("*.jsonl")}
    assert len(made) > 10
    shutil.rmtree(whole.run.batches)
    whole.run.ledger.unlink()
    whole.run.metrics.unlink()

    with stopped_after(4):
        main(whole)
    kept = {path: path.stat().st_mtime_ns for path in whole.run.batches.rglob("*.jsonl")}
    main(replace(whole, attempt=1))

    assert 0 < len(kept) < len(made)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert comparable(whole) == expected
    stopped, resumed = read_attempts(whole.run.ledger)
    assert (stopped.reason, resumed.reason) == ("stopped", "finished")
    assert stopped.first_step == 0 < stopped.last_step == resumed.first_step < resumed.last_step == resumed.total_steps
    found = compute_goodput(whole.record, [stopped, resumed], read_json_lines(whole.run.metrics))
    assert (found.useful_steps, found.redone_steps) == (resumed.total_steps, 0)


def test_array_elements_make_the_scores_of_one_run(files):
    alone = evaluation(files, MEDMCQA, tokens_per_batch=900)
    main(alone)
    expected = comparable(alone)
    shutil.rmtree(alone.run.outputs)
    shutil.rmtree(alone.run.batches)

    for index in (2, 0):  # element 1 is lost
        run = alone.run.share(index)
        run.root.mkdir(parents=True)
        record = replace(alone.record, id=run.root.name, group="abc123", share=CorpusShare(index, 3))
        main(replace(alone, run=run, record=record))
        assert not alone.run.outputs.exists()
    main(replace(alone, record=replace(alone.record, group="abc123")))

    assert comparable(alone) == expected


def test_a_finished_evaluation_is_not_made_again(files, capsys):
    context = evaluation(files, MEDMCQA)
    main(context)
    before = (context.run.outputs / "scores.json").stat().st_mtime_ns
    shutil.rmtree(context.run.batches)

    main(replace(context, attempt=1))

    assert (context.run.outputs / "scores.json").stat().st_mtime_ns == before
    assert not context.run.batches.exists()


def test_an_adapter_is_applied(files):
    adapter = {"path": "stories260k", "dtype": "fp64", "adapters": [{"path": "stories260k_lora"}]}
    context = evaluation(files, MEDMCQA | {"limit": 8}, model=adapter)
    main(context)

    base = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float64)
    model = PeftModel.from_pretrained(base, ASSETS / "stories260k_lora").double().eval()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    [first, *_] = items_of(context)
    record = json.loads((files / "medmcqa_60.jsonl").read_text().splitlines()[0])
    prompt = "\n".join(
        [f"Question: {record['question']}", "Choices:"]
        + [f"{letter}. {record[f'op{letter.lower()}']}" for letter in "ABCD"]
        + ["Answer:"]
    )
    for letter, value in zip("ABCD", first["details"]["log_likelihoods"], strict=True):
        ids = tokenizer(f"{prompt} {letter}", return_tensors="pt").input_ids
        start = len(tokenizer(prompt).input_ids)
        with torch.inference_mode():
            logits = torch.log_softmax(model(ids).logits[0], -1)
        expected = sum(float(logits[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))
        assert value == pytest.approx(expected, abs=1e-5)  # merged in fp32
    assert scores_of(context).model["adapters"][0]["path"] == "stories260k_lora"


def test_items_hold_no_options_of_credentialed_data(files):
    texts = ANATOMY | {"options": "texts", "limit": 6}
    rows = {}
    for data_use in ("open", "credentialed"):
        (files / data_use).mkdir()
        context = evaluation(files / data_use, texts | {"files": "../anatomy_test.csv"}, data_use=data_use)
        main(context)
        rows[data_use] = items_of(context)

    with (ASSETS / "anatomy_test.csv").open(newline="") as file:
        options = {f"anatomy_test.csv:{number}": row[1:5] for number, row in enumerate(csv.reader(file), 1)}
    for shown, hidden in zip(rows["open"], rows["credentialed"], strict=True):
        for column in ("prediction", "answer"):
            assert options[shown["id"]]["ABCD".index(hidden[column])] == shown[column]
        assert {**shown, **{column: hidden[column] for column in ("prediction", "answer")}} == hidden


def anatomy(name, longest=10_000):
    with (ASSETS / name).open(newline="") as file:
        return [row for row in csv.reader(file) if sum(map(len, row)) < longest]


@pytest.mark.parametrize(
    ("dtype", "limit", "options", "shots"),
    [
        ("fp64", 1e-9, "letters", 0),
        ("fp64", 1e-9, "texts", 1),
        pytest.param("fp32", 1e-4, "texts", 0, marks=pytest.mark.long),
        pytest.param("fp32", 1e-4, "letters", 1, marks=pytest.mark.long),
    ],
)
def test_log_likelihoods_are_those_of_lm_eval(files, dtype, limit, options, shots):
    chosen, example = anatomy("anatomy_test.csv", longest=180), anatomy("anatomy_dev.csv")[:1]
    assert len(chosen) >= 8
    with (files / "anatomy_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(chosen)
    examples = {"shots": shots, "examples": "./anatomy_dev.csv"} if shots else {}
    context = evaluation(
        files,
        ANATOMY | {"options": options, "order": "first"} | examples,
        model={"path": "stories260k", "dtype": dtype},
    )
    main(context)

    records, solved = (
        [{"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in rows]
        for rows in (chosen, example)
    )
    samples = lm_eval_samples(
        ASSETS / "stories260k",
        dtype,
        records,
        solved[:shots],
        description=HEADER,
        doc_to_text=SHOWN,
        doc_to_choice=[*"ABCD"] if options == "letters" else "{{choices}}",
        doc_to_target="answer",
    )
    ours, cut = items_of(context), scores_of(context).tasks["anatomy"].counts
    assert cut == {}
    for item, sample in zip(ours, samples, strict=True):
        theirs = [response[0] for response in sample["filtered_resps"]][:4]
        found = item["details"]["log_likelihoods"]
        assert found == pytest.approx(theirs, abs=limit)
        close = sorted(theirs)[-1] - sorted(theirs)[-2] < 1e-3
        for metric in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
            assert close or item[metric] == sample[metric], metric


@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
        AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2),
    ],
    ids=["prefix", "prompt", "adaption prompt"],
)
def test_an_adapter_that_cannot_be_merged_is_applied_all_the_same(files, config):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(ASSETS / "stories260k", dtype=torch.float32)
    adapted = get_peft_model(base, config).eval()
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(files / "adapter")
    model = {"path": "stories260k", "dtype": "fp32", "adapters": [{"path": "./adapter", "trained_on": "stories260k"}]}
    context = evaluation(files, MEDMCQA | {"limit": 3}, model=model)

    main(context)

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    with (files / "medmcqa_60.jsonl").open() as file:
        record = json.loads(file.readline())
    prompt = utils_medmcqa.doc_to_text(record)
    start = len(tokenizer(prompt).input_ids)
    [first, *_] = items_of(context)
    for letter, value in zip("ABCD", first["details"]["log_likelihoods"], strict=True):
        ids = tokenizer(f"{prompt} {letter}", return_tensors="pt").input_ids
        with torch.inference_mode():
            logits = torch.log_softmax(adapted(input_ids=ids).logits[0, -ids.shape[1] :], -1)
        expected = sum(float(logits[place - 1, ids[0, place]]) for place in range(start, ids.shape[1]))
        assert value == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("data_use", ["open", "credentialed"])
def test_wandb_gets_scores_and_items_only_of_open_data(files, data_use, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    context = evaluation(files, MEDMCQA | {"limit": 5}, tracking={"mode": "offline"}, data_use=data_use)

    main(replace(context, record=replace(context.record, wandb_id="20261129-abc123")))

    [folder] = context.run.wandb.glob("offline-run-*")
    tables = [*folder.rglob("*.table.json")]
    assert len(tables) == (data_use == "open")
    for table in tables:
        content = json.loads(table.read_text())
        assert len(content["data"]) == 5
        assert {"task", "id", "prediction", "acc"} <= {*content["columns"]}
    recorded = b"".join(path.read_bytes() for path in folder.glob("*.wandb"))
    assert b"evaluate/medmcqa/acc_standard_error" in recorded


@pytest.mark.parametrize("options", ["letters", "texts"])
def test_log_likelihoods_of_a_real_model_with_five_examples_are_those_of_lm_eval(files, tmp_path_factory, options):
    """SmolLM2-135M has a byte-level BPE tokenizer; the model of the other tests a SentencePiece one."""
    model, rows = smollm2(tmp_path_factory.mktemp("smollm2")), anatomy("anatomy_test.csv")[:3]
    (files / "smollm2").symlink_to(model)
    with (files / "anatomy_test.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    task = ANATOMY | {"options": options, "order": "first", "shots": 5, "examples": "./anatomy_dev.csv"}
    context = evaluation(files, task, model={"path": "./smollm2", "dtype": "fp32"})
    main(context)

    records, solved = (
        [{"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in its]
        for its in (rows, anatomy("anatomy_dev.csv"))
    )
    choices = [*"ABCD"] if options == "letters" else "{{choices}}"
    wording = {"description": HEADER, "doc_to_text": SHOWN, "doc_to_choice": choices, "doc_to_target": "answer"}
    samples = lm_eval_samples(model, "fp32", records, solved, **wording)
    for item, sample in zip(items_of(context), samples, strict=True):
        theirs = [response[0] for response in sample["filtered_resps"]][:4]
        assert item["details"]["log_likelihoods"] == pytest.approx(theirs, abs=1e-4)


def test_a_model_of_credentialed_data_makes_credentialed_scores(files):
    model = files / "clinical"
    shutil.copytree(ASSETS / "stories260k", model)
    (model / "manifest.json").write_text('{"data_use": "credentialed"}')
    context = evaluation(files, MEDMCQA, model={"path": "./clinical"})

    with pytest.raises(LauncherError, match=r"data_use: .* was made of credentialed data; write `credentialed`"):
        main(context_of(files, context.recipe))


def test_scores_name_the_trainings_of_what_a_merged_model_was_made_of(files, tmp_path):
    context = evaluation(files, MEDMCQA | {"limit": 2}, model={"path": "./merged", "dtype": "fp32"})
    shutil.copytree(ASSETS / "stories260k", files / "merged")
    made = {"kind": "merge", "base_model": "stories260k", "adapters": [{"path": "./tuned"}]}
    (files / "merged" / "manifest.json").write_text(json.dumps(made))
    (files / "tuned").mkdir()
    (files / "tuned" / "manifest.json").write_text(json.dumps({"kind": "sft", "method": "abc", "seed": 7}))

    main(context)

    assert scores_of(context).trainings == (
        Training(name="stories260k"),
        Training(name="./tuned", method="abc", seed=7),
    )
