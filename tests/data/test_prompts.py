"""Prompts for reinforcement learning: questions as fine-tuning has them, without the answer, and their order."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from jobs.data.chat.prompts import PromptOrder, make_prompts, open_prompts
from jobs.data.chat.store import open_sequences
from jobs.data.chat.tokenised_source import finished_source, make_examples
from launcher.errors import LauncherError
from launcher.recipe import RlRecipe, SftRecipe
from tests.support.rl_runs import rl_recipe
from tests.support.training_runs import ASSETS, context_of, cpt_recipe, make_run_of

SECRET = "because of the pollen"
RECORDS = [
    {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": SECRET}]},
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is asthma?"},
            {"role": "assistant", "content": "A disease."},
            {"role": "user", "content": "Of what?"},
            {"role": "assistant", "content": " the lungs "},
        ]
    },
    {"messages": [{"role": "user", "content": "long " * 200}, {"role": "assistant", "content": "yes"}]},
]
SOURCE = {"name": "asked", "files": "asked.jsonl", "format": "messages"}


def prepare(folder: Path, records: list[dict[str, Any]] = RECORDS, **data: Any) -> tuple[RlRecipe, list[Any]]:
    """Prepare prompts; return the recipe, and the rows of each source."""
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, records)))
    recipe = rl_recipe({"name": "rloo"}, batch={"sequence_length": 264}) | {
        "data": {"sources": [SOURCE], "chat_template": "alpaca", **data}
    }
    run = make_run_of(recipe, folder)
    context = context_of(run)
    assert isinstance(context.recipe, RlRecipe)
    for _ in make_prompts(context, context.recipe, run.examples):
        pass
    return context.recipe, open_prompts(run.examples, ["asked"])


def test_a_prompt_ends_where_the_answer_begins(tmp_path: Path) -> None:
    _, [rows] = prepare(tmp_path)

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    texts = [tokenizer.decode(row["prompt"]) for row in rows]
    assert texts[0].endswith("### Instruction:\nWhy?\n\n### Response:\n") and SECRET not in texts[0]
    assert texts[1].startswith("<s> Be brief.") and texts[1].endswith("Of what?\n\n### Response:\n")
    assert "A disease." in texts[1], "earlier answers are context"
    assert [row["reference"] for row in rows] == [SECRET, "the lungs"]
    assert [turn["role"] for turn in rows[1]["messages"]] == ["system", "user", "assistant", "user"]


def test_prompts_have_the_tokens_of_fine_tuning(tmp_path: Path) -> None:
    _, [rows] = prepare(tmp_path)
    data = {"sources": [SOURCE], "chat_template": "alpaca", "train_on": "last", "packing": "pad"}
    run = make_run_of(cpt_recipe(kind="sft", batch={"sequence_length": 512}) | {"data": data}, tmp_path)
    context = context_of(run)
    assert isinstance(context.recipe, SftRecipe)
    for _ in make_examples(context, context.recipe, run.examples):
        pass
    source = finished_source(run.examples, "asked")
    assert source is not None
    [sequences] = open_sequences(run.examples, [source], "train")

    for number, row in enumerate(rows):
        [example] = sequences.read(number)
        assert row["prompt"] == example.ids[: int(example.is_answer.argmax())].tolist()


def test_long_prompts_are_left_out_or_lose_their_beginning(tmp_path: Path) -> None:
    recipe, [kept] = prepare(tmp_path)
    limit = recipe.batch.sequence_length - recipe.generation.max_new_tokens

    assert len(kept) == 2
    _, [cut] = prepare(tmp_path, too_long="truncate")
    assert len(cut) == 3 and len(cut[2]["prompt"]) == limit


def test_a_source_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match=r"data\.sources\.0: nothing is left to train on .* dropped 1 \(too_long\)"):
        prepare(tmp_path, RECORDS[2:])


def test_bad_records_are_counted_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match=r"asked\.jsonl:2: has no `messages`"):
        prepare(tmp_path, [RECORDS[0], {"text": "?"}])


def test_every_prompt_is_asked_once_before_one_is_asked_again(tmp_path: Path) -> None:
    records = [
        {"messages": [{"role": "user", "content": f"Q{n}?"}, {"role": "assistant", "content": "a"}]} for n in range(10)
    ]
    order = PromptOrder(*prepare(tmp_path, records))

    epochs = [[number for rollout in range(5 * e, 5 * e + 5) for number in order.numbers(rollout, 2)] for e in range(3)]

    assert all(sorted(epoch) == [*range(10)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert order.numbers(3, 2) == epochs[0][6:8], "a function of the number alone"


def test_held_out_prompts_are_not_trained_on(tmp_path: Path) -> None:
    records = [
        {"messages": [{"role": "user", "content": f"Q{n // 2}?"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(40)
    ]
    recipe, [train] = prepare(tmp_path, records, validation=0.3)
    [run] = tmp_path.glob("run-*")
    [held_out] = open_prompts(run / "examples", ["asked"], "validation")

    asked = [{row["messages"][-1]["content"] for row in rows} for rows in (train, held_out)]
    assert not asked[0] & asked[1] and len(asked[1]) > 2
    assert sorted(row["reference"] for rows in (train, held_out) for row in rows) == sorted(f"a{n}" for n in range(40))
    assert [*PromptOrder(recipe, [train]).rows["reference"]] == [row["reference"] for row in train]
