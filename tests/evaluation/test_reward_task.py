"""Rewards of pairs are those of each conversation by itself; a head that is missing is refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from jobs.evaluation.loaded_model import load_model
from jobs.evaluation.report import TaskReport
from jobs.evaluation.reward import prepare_reward
from jobs.models.adapters.build import adapted
from jobs.models.adapters.save import write_adapter
from jobs.models.classifier import reward_head
from jobs.rank.context import Context
from jobs.rank.process_group import RankGroup
from jobs.train.adapter_checkpoint import gather_adapter
from launcher.errors import LauncherError
from launcher.recipe import read_recipe
from launcher.recipe.kinds.evaluate import EvaluateRecipe
from launcher.recipe.sections.adapter import PrefixTuning
from launcher.recipe.sections.reward_task import RewardTask
from launcher.run.paths import FINISHED
from tests.support.preference_runs import make_preference_run, separable_pairs, write_pairs
from tests.support.training_runs import ASSETS, context_of, make_run_of, train

MODEL = ASSETS / "stories260k"
ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:\n{}"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A reward model with a random head, and pairs."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1, pad_token_id=2)
    model.save_pretrained(tmp_path / "judge")
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(tmp_path / "judge")
    write_pairs(tmp_path, 12)
    return tmp_path


def recipe_of(model: dict[str, Any], **section: Any) -> dict[str, Any]:
    task = {
        "type": "reward",
        "name": "pairs",
        "files": "pairs.jsonl",
        "format": "question",
        "chat_template": "alpaca",
        **section,
    }
    return {
        "kind": "evaluate",
        "name": "scores",
        "model": {"dtype": "fp32", **model},
        "tasks": [task],
        "tokens_per_batch": 900,
        "tracking": {"mode": "disabled"},
        "resources": {"time": "5min"},
    }


def score(folder: Path, **section: Any) -> TaskReport:
    context = context_of(make_run_of(recipe_of({"path": "./judge"}, **section), folder))
    recipe, model = _loaded(context)
    task = recipe.tasks[0]
    assert isinstance(task, RewardTask)
    prepared = prepare_reward(context, recipe, task, "tasks.0", model)
    rows = [row for batch in prepared.batches.members for row in prepared.batches.work(batch)]
    return prepared.report(sorted(rows, key=lambda row: row["item"]))


def _loaded(context: Context) -> tuple[EvaluateRecipe, Any]:
    recipe = context.recipe
    assert isinstance(recipe, EvaluateRecipe) and recipe.model
    group = RankGroup(0, 1, True, torch.device("cpu"), None)
    return recipe, load_model(context, recipe.model, group, recipe.rewards)


def test_rewards_are_those_of_each_conversation_by_itself(folder: Path) -> None:
    report = score(folder)

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "judge").eval()
    margins = []
    for pair, item in zip(separable_pairs(12), report.items, strict=True):
        rewards = []
        for answer in (pair["response_chosen"], pair["response_rejected"]):
            ids = tokenizer(ALPACA.format(pair["question"], answer), return_tensors="pt")["input_ids"]
            with torch.no_grad():
                rewards.append(float(model(input_ids=ids).logits))
        assert list(item["details"].values()) == pytest.approx(rewards, abs=1e-5)
        margins.append(rewards[0] - rewards[1])
    scores = report.scores.scores
    assert scores["accuracy"].value == np.mean([margin > 0 for margin in margins])
    assert scores["margin"].value == pytest.approx(np.mean(margins), abs=1e-5)
    assert scores["log_loss"].value == pytest.approx(np.mean([math.log1p(math.exp(-one)) for one in margins]), abs=1e-5)
    assert scores["margin"].standard_error == pytest.approx(np.std(margins, ddof=1) / 12**0.5, rel=1e-3)


def test_pairs_that_are_too_long_or_no_pairs_are_counted(folder: Path) -> None:
    pairs = separable_pairs(4)
    pairs[1]["question"] += " really" * 200
    pairs[2]["response_rejected"] = pairs[2]["response_chosen"]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    with pytest.raises(LauncherError, match=r"1 of 4 records cannot be read(.|\n)*jsonl:3: its two answers are equal"):
        score(folder)
    pairs.pop(2)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    dropped = score(folder, length=250)
    assert (dropped.scores.n, dropped.scores.counts) == (2, {"pairs left out: too long": 1})


def test_pairs_have_ids_of_their_own(folder: Path) -> None:
    """Files of one name in several folders, as HH-RLHF's, and several pairs of one id."""
    pairs = separable_pairs(4)
    (folder / "pairs.jsonl").unlink()
    for place in ("base", "online"):
        (folder / place).mkdir()
        rows = [*pairs[:2], pairs[2] | {"id": "q"}]
        (folder / place / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in rows))

    both = [item["id"] for item in score(folder, files="*/pairs.jsonl").items]
    alone = [item["id"] for item in score(folder, files="base/pairs.jsonl").items]

    assert both == [
        "base/pairs.jsonl:1",
        "base/pairs.jsonl:2",
        "q",
        "online/pairs.jsonl:1",
        "online/pairs.jsonl:2",
        "q#2",
    ]
    assert alone == ["pairs.jsonl:1", "pairs.jsonl:2", "q"]


def test_another_template_than_the_models_own_is_noted(folder: Path) -> None:
    assert score(folder, limit=4).scores.notes == ("4 of 12 pairs",)
    tokenizer = AutoTokenizer.from_pretrained(folder / "judge")
    tokenizer.chat_template = "{{ messages[-1]['content'] + eos_token }}"
    tokenizer.save_pretrained(folder / "judge")

    (note,) = score(folder).scores.notes

    assert note == "with `chat_template: alpaca`, which is not the template that the model was saved with"


def test_a_model_without_a_head_is_refused(folder: Path) -> None:
    context = context_of(make_run_of(recipe_of({"path": "stories260k"}), folder))
    with pytest.raises(LauncherError, match=r"model\.path: the files hold no `score\.weight`"):
        _loaded(context)


def test_a_prefix_rewards_as_in_its_training(folder: Path) -> None:
    torch.manual_seed(5)
    base = AutoModelForSequenceClassification.from_pretrained(MODEL, dtype=torch.float32, **reward_head(2))
    trained = adapted(base, PrefixTuning(method="prefix", virtual_tokens=4), 0, "SEQ_CLS", steps=100).eval()
    for parameter in trained.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    write_adapter(trained, gather_adapter(trained), "stories260k", folder / "adapter")

    model = {"path": "stories260k", "adapters": [{"path": "./adapter"}]}
    _, found = _loaded(context_of(make_run_of(recipe_of(model), folder)))

    inputs = {"input_ids": torch.tensor([[1, 5, 6, 7]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    with torch.no_grad():
        torch.testing.assert_close(found.model(**inputs).logits, trained(**inputs).logits, atol=1e-5, rtol=1e-5)


def test_a_reward_model_does_nothing_else() -> None:
    recipe = recipe_of({"path": "./judge"})
    recipe["tasks"].append({"type": "choice", "name": "q", "format": "choice", "files": "a"})
    with pytest.raises(
        ValueError, match=r"tasks\.1\.type: `\w+` needs a language model, and another task a reward model; write two"
    ):
        read_recipe(json.dumps(recipe))


@pytest.mark.slow
def test_rewards_of_a_trained_adapter_are_those_of_its_training(tmp_path: Path) -> None:
    run = make_preference_run(tmp_path, "reward", adapter={"method": "lora", "r": 4})
    attempt = train(run)
    assert attempt.exit_codes == [FINISHED], attempt.log()
    adapter = {"path": f"./{run.root.name}/outputs/model"}
    recipe = recipe_of({"path": "stories260k", "adapters": [adapter]}, chat_template="tokenizer")
    evaluated = make_run_of(recipe, tmp_path)
    attempt = train(evaluated, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()

    held_out = parquet.read_table(run.outputs / "predictions" / "validation.parquet").to_pylist()
    details = parquet.read_table(evaluated.outputs / "items.parquet")["details"].to_pylist()
    found = np.array([[*json.loads(one).values()] for one in details])
    assert len(found) == 20
    for row in held_out:
        distances = np.abs(found - [row["chosen"], row["rejected"]]).max(axis=1)
        assert distances.min() < 1e-4
