"""kind: classify for real: processes, gloo, FSDP2 on CPUs, a real tiny Llama and a tiny BERT with dropout."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DistilBertConfig, DistilBertModel

from jobs.train.lr_schedule import lr_factor
from launcher.recipe import ClassifyRecipe
from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, NEVER_RESTART, RunDir, published_steps
from tests.support.export_runs import exported_by, make_export
from tests.support.labelled_runs import (
    CODES,
    SIZES,
    classify_recipe,
    invented_notes,
    make_classify_run,
    make_encoder,
    write_table,
)
from tests.support.training_runs import (
    ASSETS,
    context_of,
    kill_at,
    losses,
    make_run_of,
    stop_at,
    stop_in_evaluation,
    train,
)

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classify")


@pytest.fixture(scope="module")
def alone(folder: Path) -> RunDir:
    """A finished run of one process."""
    run = make_classify_run(folder)
    assert train(run).exit_codes == [FINISHED]
    return run


@pytest.fixture(scope="module")
def encoder(folder: Path) -> str:
    return make_encoder(folder)


def scores(run: RunDir) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.outputs / "scores.json").read_text())
    return content


def evaluations(run: RunDir) -> dict[int, dict[str, float]]:
    """Scores by step, the last attempt's word where a step was evaluated again."""
    keys = ("time", "attempt")
    rows = read_json_lines(run.evaluations)
    return {row["step"]: {key: value for key, value in row.items() if key not in keys} for row in rows}


def predicted(run: RunDir, split: str = "test") -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = parquet.read_table(run.outputs / "predictions" / f"{split}.parquet").to_pydict()
    return columns


def probabilities(run: RunDir, split: str = "test") -> np.ndarray[Any, Any]:
    columns = predicted(run, split)
    return np.column_stack([columns[name] for name in columns if name.startswith("p_")])


def test_the_model_is_evaluated_when_it_should_be_and_the_best_checkpoint_stays(alone: RunDir) -> None:
    found = evaluations(alone)

    assert list(found) == [4, 8, STEPS]
    best = max(found, key=lambda step: found[step]["auroc"])
    assert best < STEPS, "nothing is proven if the best is the last"
    assert published_steps(alone) == [best, STEPS], "keep: 1, and the best"
    assert (scores(alone)["best_step"], scores(alone)["data_use"]) == (best, "open")
    assert scores(alone)["splits"]["test"]["resampled"] == {"column": "id", "units": SIZES["test"]}
    validation = scores(alone)["splits"]["validation"]["scores"]
    assert {name: validation[name]["value"] for name in validation} == pytest.approx(
        {name: value for name, value in found[best].items() if name != "step"}, abs=1e-9
    )


def test_the_export_predicts_in_plain_transformers_what_the_run_predicted(alone: RunDir) -> None:
    export = alone.outputs / "model"
    model = AutoModelForSequenceClassification.from_pretrained(export)
    tokenizer = AutoTokenizer.from_pretrained(export)
    texts = [text for _, text, _ in invented_notes("binary", SIZES["test"], "test")]
    with torch.no_grad():
        logits = [
            model(**tokenizer(text, truncation=True, max_length=32, return_tensors="pt")).logits for text in texts
        ]

    assert probabilities(alone) == pytest.approx(torch.softmax(torch.cat(logits), dim=1).numpy(), abs=1e-5)
    assert predicted(alone)["id"] == [str(1000 + number) for number in range(SIZES["test"])]
    assert model.config.id2label == {0: "0", 1: "1"}
    assert tokenizer.pad_token is not None
    assert json.loads((export / "manifest.json").read_text())["steps"] == scores(alone)["best_step"]


def test_an_adapter_says_its_class_names_and_its_export_has_them(folder: Path) -> None:
    adapter = {"method": "lora", "r": 2, "targets": ["q_proj", "v_proj"]}
    (folder / "adapter").mkdir()
    run = make_classify_run(folder / "adapter", "multiclass", adapter=adapter, schedule={"length": "4 steps"})
    assert train(run).exit_codes == [FINISHED]
    made = run.outputs / "model"
    assert json.loads((made / "manifest.json").read_text())["head"] == {
        "labels": ["0", "1", "2"],
        "problem_type": "single_label_classification",
    }
    models = folder / "adapter" / "models"
    models.mkdir()
    (models / "adapter").symlink_to(made)
    applied = {"path": "adapter", "trained_on": "stories260k"}

    export = exported_by(make_export(folder / "adapter", model={"path": "model", "adapters": [applied]}))

    config = AutoModelForSequenceClassification.from_pretrained(export).config
    assert config.id2label == {0: "0", 1: "1", 2: "2"}
    assert config.problem_type == "single_label_classification"


def test_nothing_that_the_run_leaves_holds_text(alone: RunDir) -> None:
    left = [path for path in alone.root.rglob("*") if path.is_file()]

    assert left
    assert not [path for path in left if b"little girl" in path.read_bytes()]


def bare_losses(folder: Path, run: RunDir) -> list[float]:
    """Losses of the first steps in a loop of torch alone, with class weights."""
    recipe = context_of(run).recipe
    assert isinstance(recipe, ClassifyRecipe)
    from jobs.data.labelled.notes import read_notes
    from jobs.data.labelled.samples import TrainingSamples
    from jobs.models.classifier import build_classifier, head_settings

    notes = read_notes(context_of(run), recipe)
    samples = TrainingSamples(notes.windows["train"], recipe.seed, STEPS * 8)
    head = head_settings(notes.classes, "multiclass", notes.tokenizer)
    model = build_classifier(recipe.model, str(ASSETS / "stories260k"), recipe.seed, torch.float32, head)
    truth = notes.tables["train"].labels
    weights = {label: len(truth) / (3 * (truth == label).sum()) for label in range(3)}
    decayed = [p for p in model.parameters() if p.dim() > 1]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.95), eps=1e-8)
    model.eval()
    expected = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * lr_factor(step, recipe.schedule, STEPS)
        total = torch.zeros(())
        for index in range(step * 8, step * 8 + 8):
            sample = samples[index]
            logits = model(input_ids=torch.tensor(sample["input_ids"], dtype=torch.long)[None]).logits
            label = int(sample["labels"])
            total = total + weights[label] * functional.cross_entropy(logits, torch.tensor([label])) / 8
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(total.item())
    return expected


def test_weighted_losses_are_those_of_a_bare_torch_loop(folder: Path) -> None:
    run = make_classify_run(folder, "multiclass", class_weights="balanced")

    assert train(run).exit_codes == [FINISHED]

    assert [losses(run)[step] for step in range(1, 7)] == pytest.approx(bare_losses(folder, run), abs=1e-5)


@pytest.mark.parametrize(("strategy", "ranks", "nodes"), [("ddp", 2, 1), ("full_shard", 2, 1), ("hybrid_shard", 4, 2)])
def test_ranks_train_and_predict_as_one_process(
    folder: Path, alone: RunDir, strategy: str, ranks: int, nodes: int
) -> None:
    run = make_classify_run(folder, parallel={"strategy": strategy})

    attempt = train(run, ranks, nodes)

    assert attempt.exit_codes == [FINISHED] * ranks
    assert ("DTensor" in attempt.log()) == (strategy != "ddp")
    assert losses(run) == pytest.approx(losses(alone), abs=1e-5)
    for split in ("validation", "test"):
        assert predicted(run, split)["id"] == predicted(alone, split)["id"]
        assert probabilities(run, split) == pytest.approx(probabilities(alone, split), abs=1e-4)
    assert scores(run)["best_step"] == scores(alone)["best_step"]


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 1), ("full_shard", 2)])
def test_a_preempted_run_has_losses_best_and_predictions_of_an_uninterrupted_one_to_the_last_bit(
    folder: Path, encoder: str, strategy: str, ranks: int
) -> None:
    changes: dict[str, Any] = {"model": {"path": encoder}, "parallel": {"strategy": strategy}}
    whole, run = (make_classify_run(folder, **changes) for _ in range(2))
    assert train(whole, ranks).exit_codes == [FINISHED] * ranks

    at_an_evaluation = stop_at(run, 4, ranks)
    between = stop_at(run, 6, ranks, attempt=1)
    last = train(run, ranks, attempt=2)

    assert last.exit_codes == [FINISHED] * ranks
    assert "evaluation at step 4" not in at_an_evaluation.log(), "the time left is for saving"
    assert "evaluation at step 4" in between.log(), "it was made up for"
    assert losses(run) == losses(whole)
    assert evaluations(run) == evaluations(whole)
    for split in ("validation", "test"):
        assert predicted(run, split) == predicted(whole, split)
    assert scores(run) == scores(whole)


def test_a_stop_in_an_evaluation_changes_neither_scores_nor_the_best_checkpoint(folder: Path, alone: RunDir) -> None:
    run, best = make_classify_run(folder), scores(alone)["best_step"]
    left = stop_in_evaluation(run, best, batch=2)
    assert max(left.steps()) == best
    assert best not in evaluations(run)

    last = train(run, attempt=1)

    assert last.exit_codes == [FINISHED], last.log()
    assert losses(run) == losses(alone)
    assert evaluations(run) == evaluations(alone)
    assert scores(run) == scores(alone)
    assert predicted(run) == predicted(alone)


def test_the_best_checkpoint_outlives_a_kill_and_newer_checkpoints(folder: Path, alone: RunDir) -> None:
    run = make_classify_run(folder, checkpoint={"interval": "1 steps"})
    kill_at(run, STEPS - 1)
    shutil.rmtree(run.outputs, ignore_errors=True)

    assert train(run, attempt=1).exit_codes == [FINISHED]

    assert scores(run) == scores(alone)
    assert scores(run)["best_step"] in published_steps(run)
    assert len(published_steps(run)) == 2


def test_a_finished_training_without_its_export_is_exported_and_not_trained_further(
    folder: Path, alone: RunDir
) -> None:
    run = RunDir(folder / "run-again")
    shutil.copytree(alone.root, run.root)
    shutil.rmtree(run.outputs)

    assert train(run, attempt=1).exit_codes == [FINISHED]

    assert read_json_lines(run.metrics) == read_json_lines(alone.metrics)
    assert evaluations(run) == evaluations(alone)
    assert scores(run) == scores(alone)
    assert predicted(run) == predicted(alone)


def test_a_stop_in_the_evaluation_after_the_last_step_costs_no_step(folder: Path, alone: RunDir) -> None:
    run = make_classify_run(folder)
    left = stop_in_evaluation(run, STEPS, batch=1)
    assert max(left.steps()) == published_steps(run)[-1] == STEPS
    assert STEPS not in evaluations(run)

    last = train(run, attempt=1)

    assert (last.exit_codes, last.steps()) == ([FINISHED], []), last.log()
    assert evaluations(run) == evaluations(alone)
    assert scores(run) == scores(alone)
    assert predicted(run) == predicted(alone)


def test_a_damaged_best_checkpoint_costs_no_training(folder: Path, alone: RunDir) -> None:
    best = scores(alone)["best_step"]
    run = RunDir(folder / "run-damaged")
    shutil.copytree(alone.root, run.root)
    shutil.rmtree(run.outputs)
    [weights] = run.checkpoint(best).glob("*.safetensors")
    weights.write_bytes(b"x" * weights.stat().st_size)

    attempt = train(run, attempt=1)

    assert (attempt.exit_codes, attempt.steps()) == ([FINISHED], []), attempt.log()
    assert scores(run)["best_step"] not in (None, best)
    assert f"step {best} was the best, but its checkpoint is damaged" in attempt.log()


def test_a_note_of_several_labels_has_a_probability_for_each(folder: Path, encoder: str) -> None:
    run = make_classify_run(folder, "multilabel", model={"path": encoder})

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED]
    columns = predicted(run)
    truth = [[code for code in label.split(",") if code] for _, _, label in invented_notes("multilabel", 13, "test")]
    assert columns["label"] == truth
    assert list(columns)[2:] == [f"p_{code}" for code in CODES]
    assert not np.allclose(probabilities(run).sum(axis=1), 1)
    config = json.loads((run.outputs / "model" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"


def test_an_encoder_that_knows_no_cache_is_exported(folder: Path) -> None:
    config = DistilBertConfig(vocab_size=512, dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    DistilBertModel(config).save_pretrained(folder / "distilbert")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ASSETS / "stories260k" / name, folder / "distilbert")
    run = make_classify_run(folder, model={"path": "./distilbert"}, schedule={"length": "4 steps"})

    assert train(run).exit_codes == [FINISHED]

    model = AutoModelForSequenceClassification.from_pretrained(run.outputs / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.outputs / "model")
    texts = [text for _, text, _ in invented_notes("binary", SIZES["test"], "test")]
    tokens = tokenizer(texts, truncation=True, max_length=32, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(tokens.input_ids, tokens.attention_mask).logits.softmax(dim=1)
    assert probabilities(run) == pytest.approx(expected.numpy(), abs=1e-5)


def test_all_chunks_of_a_note_make_one_prediction(folder: Path) -> None:
    run = make_classify_run(folder, data={"long_notes": "chunks", "pooling": "max"}, schedule={"length": "1 epoch"})

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED]
    notes = invented_notes("binary", SIZES["test"], "test")
    assert predicted(run)["id"] == [note for note, _, _ in notes]
    tokenizer = AutoTokenizer.from_pretrained(run.outputs / "model")
    model = AutoModelForSequenceClassification.from_pretrained(run.outputs / "model")
    expected = []
    for _, text, _ in notes:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        chunks = [[tokenizer.bos_token_id, *ids[start : start + 31]] for start in range(0, len(ids), 31)]
        with torch.no_grad():
            expected.append(torch.stack([model(torch.tensor([chunk])).logits[0] for chunk in chunks]).amax(dim=0))
    assert probabilities(run) == pytest.approx(torch.stack(expected).softmax(dim=1).numpy(), abs=1e-5)
    assert max(len(tokenizer(text).input_ids) for _, text, _ in notes) > 62, "nothing is proven without long notes"


def test_rows_that_cannot_be_used_end_the_run_for_good_and_are_named(folder: Path) -> None:
    rows = [*invented_notes("binary", 10, "train"), ("7", "a secret sentence", "2"), ("8", "  ", "1")]
    write_table(folder / "bad.csv", rows)
    recipe = classify_recipe(data={"train": "bad.csv"})
    first = 2 + sum(row[1].count("\n") + 1 for row in rows[:10])

    attempt = train(make_run_of(recipe, folder))

    assert attempt.exit_codes == [NEVER_RESTART]
    assert f"{folder}/bad.csv:{first}: its `label` is none of the 2 classes" in attempt.log()
    assert f"{folder}/bad.csv:{first + 1}: its text is empty" in attempt.log()
    assert "secret" not in attempt.log()


def test_a_class_without_training_notes_is_reported(folder: Path) -> None:
    rows = [row for row in invented_notes("multiclass", 60, "train") if row[2] != "2"]
    write_table(folder / "two.csv", rows)
    write_table(folder / "multiclass-validation.csv", invented_notes("multiclass", 21, "validation"))
    run = make_run_of(
        classify_recipe("multiclass", data={"train": "two.csv", "test": None}, schedule={"length": "2 steps"}), folder
    )

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED]
    assert "1 of 3 classes never occur in training: 2" in attempt.log()
    assert scores(run)["absent_in_training"] == ["2"]
    assert list(scores(run)["splits"]) == ["validation"]
