"""From sources to prepared pairs and batches: against TRL's collator, and what is counted, held out and refused."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from jobs.data.chat.render import Example
from jobs.data.chat.tokenised_source import finished_source
from jobs.data.preferences.pairs import make_pairs
from jobs.data.preferences.samples import all_pairs, answer_collator, reward_collator, shuffled_pairs
from jobs.data.preferences.store import AnswerPair, Pairs, open_pairs
from jobs.rank.context import Context
from launcher.errors import LauncherError
from tests.support.preference_runs import preference_recipe, separable_pairs
from tests.support.training_runs import ASSETS, context_of, make_run_of

SINGLE = {"name": "pairs", "files": "pairs.jsonl", "format": "unpaired"}


def make(
    folder: Path, records: list[dict[str, Any]], length: int = 64, loss: str = "sigmoid", **data: Any
) -> tuple[Context, list[Pairs]]:
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    changes: Any = {"data": {"validation": 0.0, **data}, "batch": {"sequence_length": length}, "loss": loss}
    context = context_of(make_run_of(preference_recipe("dpo", **changes), folder))
    for _ in make_pairs(context, context.recipe, context.run.examples):  # type: ignore[arg-type]
        pass
    return context, opened(context, "train")


def opened(context: Context, split: Any) -> list[Pairs]:
    source = finished_source(context.run.examples, "pairs")
    assert source is not None
    return open_pairs(context.run.examples, [source], split)


def tally(context: Context) -> Any:
    source = finished_source(context.run.examples, "pairs")
    assert source is not None
    return source.tally


def test_both_sides_hold_the_conversation_and_mark_its_answer(tmp_path: Path) -> None:
    records = [{"question": "Why?", "response_chosen": "So.", "response_rejected": "No idea."}]
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")

    _, [pairs] = make(tmp_path, records)

    pair = pairs.read(0)
    for side, answer in ((pair.chosen, "So."), (pair.rejected, "No idea.")):
        ids = tokenizer(f"Why? {answer}</s>")["input_ids"]
        assert side.ids.tolist() == ids
        assert tokenizer.decode(side.ids[side.is_answer]).strip() == f"{answer}</s>"
        assert not side.is_answer[: len(tokenizer("Why?")["input_ids"])].any()
    assert pairs.tokens == len(pair.chosen.ids) + len(pair.rejected.ids)


def test_pairs_and_margins_survive_the_disk(tmp_path: Path) -> None:
    records = [record | {"gap": number / 7} for number, record in enumerate(separable_pairs(9))]
    source = {"name": "pairs", "files": "pairs.jsonl", "format": "question", "margin": "gap"}
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    context = context_of(make_run_of(preference_recipe("reward", data={"sources": [source]}), tmp_path))
    for _ in make_pairs(context, context.recipe, context.run.examples):  # type: ignore[arg-type]
        pass

    found = [pairs.read(item) for split in ("train", "validation") for pairs in opened(context, split)
             for item in range(len(pairs))]  # fmt: skip

    assert sorted(pair.margin for pair in found) == pytest.approx([number / 7 for number in range(9)])


def test_batches_are_those_of_trls_collator() -> None:
    lengths = [(3, 4, 2), (1, 2, 6), (5, 1, 1)]
    draw = np.random.default_rng(0)
    samples, examples = [], []
    for place, (asked, good, bad) in enumerate(lengths):
        prompt, chosen, rejected = (draw.integers(3, 500, size) for size in (asked, good, bad))
        sides = [
            Example(np.concatenate((prompt, answer)).astype(np.uint32), np.arange(asked + len(answer)) >= asked)
            for answer in (chosen, rejected)
        ]
        samples.append({"chosen": sides[0], "rejected": sides[1], "margin": place / 2, "place": 10 + place})
        examples.append(
            {"prompt_ids": prompt.tolist(), "chosen_ids": chosen.tolist(), "rejected_ids": rejected.tolist()}
        )

    ours, theirs = answer_collator(7)(samples), DataCollatorForPreference(pad_token_id=7)(examples)
    rewards = reward_collator(7, with_margin=True)(samples)

    assert ours.pop("place").tolist() == [10, 11, 12]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert rewards.pop("margin").tolist() == [0.0, 0.5, 1.0]
    assert all(torch.equal(rewards[name], theirs[name]) for name in rewards)
    assert "margin" not in reward_collator(7, with_margin=False)(samples)


def test_pairs_of_one_question_are_on_one_side_of_the_split(tmp_path: Path) -> None:
    pairs = separable_pairs(40)
    records = [pairs[number // 2] | {"response_rejected": f"{number}"} for number in range(80)]

    context, [train] = make(tmp_path, records, validation=0.3)
    [held_out] = opened(context, "validation")

    assert len(train) + len(held_out) == 80
    assert len(train) % 2 == len(held_out) % 2 == 0
    asked = [{bytes(side.read(item).chosen.ids[:12]) for item in range(len(side))} for side in (train, held_out)]
    assert not asked[0] & asked[1]


def test_bad_pairs_are_counted_with_their_place(tmp_path: Path) -> None:
    good = separable_pairs(3)
    records = [
        good[0],
        good[1] | {"response_rejected": good[1]["response_chosen"]},
        good[1] | {"response_chosen": ""},
        good[2] | {"question": "Why? " * 30},
        {"question": "a b", "response_chosen": "c " * 70 + "d", "response_rejected": "c " * 70 + "e"},
        {"question": "a b", "response_chosen": "c " * 70, "response_rejected": "e"},
    ]

    context, [pairs] = make(tmp_path, records, too_long="truncate", max_bad_fraction=1.0)

    counted = tally(context)
    assert (len(pairs), counted.bad_records, counted.truncated) == (2, 4, 1)
    source = finished_source(context.run.examples, "pairs")
    assert source is not None
    said = [line.removeprefix(f"{tmp_path}/pairs.jsonl:") for line in source.first_bad]
    assert sorted(said) == [
        "2: its two answers are equal",
        "3: its chosen answer is empty",
        "4: its chosen answer is cut away, since it begins after 64 tokens",
        "5: its two answers are equal up to 64 tokens, where they are cut",
    ]
    assert max(pair.longest for pair in map(pairs.read, range(2))) == 64


def test_answers_without_partners_survive_the_disk(tmp_path: Path) -> None:
    records = [{"prompt": f"{n}?", "completion": f"{n} cats.", "label": n % 3 > 0} for n in range(9)]
    records.append({"prompt": "a b", "completion": "c", "label": True} | {"prompt": "Why? " * 30})

    context, [answers] = make(
        tmp_path, records, too_long="truncate", max_bad_fraction=0.5, sources=[SINGLE], loss="kto"
    )

    found = [list(answers.read(item).sides) for item in range(len(answers))]
    assert found == [["chosen"] if n % 3 else ["rejected"] for n in range(9)]
    assert all(answers.read(item).margin == 0 and answers.read(item).longest > 3 for item in range(9))
    source = finished_source(context.run.examples, "pairs")
    assert source is not None
    [said] = source.first_bad
    assert said.endswith("pairs.jsonl:10: its answer is cut away, since it begins after 64 tokens")


def test_the_sample_before_is_of_the_same_global_batch(tmp_path: Path) -> None:
    _, [train] = make(tmp_path, separable_pairs(10))
    samples = shuffled_pairs((train,), [Fraction(1)], seed=3, count=8, cycle=4)

    places = [samples[index]["place"] for index in range(8)]

    assert [samples[index]["before"]["place"] for index in range(8)] == [
        *(places[3], *places[:3]),
        *(places[7], *places[4:7]),
    ]
    assert "before" not in shuffled_pairs((train,), [Fraction(1)], seed=3, count=8)[0]


def test_too_many_bad_pairs_are_refused(tmp_path: Path) -> None:
    records = [*separable_pairs(9), {"question": "q", "response_chosen": "a", "response_rejected": "a"}]

    with pytest.raises(LauncherError, match=r"pairs.jsonl:10: its two answers are equal") as raised:
        make(tmp_path, records, max_bad_fraction=0.05)

    assert "1 of 10 records cannot be read" in str(raised.value)


def test_long_pairs_are_dropped_and_counted(tmp_path: Path) -> None:
    long = {"question": "q", "response_chosen": "c " * 80, "response_rejected": "d"}

    context, [pairs] = make(tmp_path, [*separable_pairs(2), long])

    assert (len(pairs), tally(context).dropped) == (2, {"too_long": 1})


def test_each_pair_has_a_place_of_its_own_whatever_the_order(tmp_path: Path) -> None:
    context, [train] = make(tmp_path, separable_pairs(30), validation=0.3)
    held_out = opened(context, "validation")
    everything = all_pairs((train, *held_out))
    shuffled = shuffled_pairs((train,), [Fraction(1)], seed=3, count=2 * len(train))

    assert [everything[place]["place"] for place in range(30)] == list(range(30))
    assert sorted(shuffled[index]["place"] for index in range(len(train))) == list(range(len(train)))
    for samples in (shuffled, all_pairs(held_out, first=len(train))):
        one = samples[len(samples) - 1]
        assert is_same(one, everything[one["place"]])


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[side].ids, other[side].ids) for side in ("chosen", "rejected"))


def test_a_pair_of_equal_tokens_is_found() -> None:
    side = Example(np.arange(4, dtype=np.uint32), np.arange(4) > 1)

    assert AnswerPair(side, Example(side.ids.copy(), side.is_answer)).is_equal
    assert not AnswerPair(side, side.truncated(3)).is_equal
