"""Held-out text of a continued pretraining: the numbers are those of a slow computation, and training is unchanged."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from launcher.run.ledger import read_json_lines
from launcher.run.paths import FINISHED, RunDir, published_steps
from tests.support.corpora import make_corpus
from tests.support.training_runs import ASSETS, cpt_recipe, losses, make_run_of, stop_at, stop_in_evaluation, train

pytestmark = pytest.mark.slow

LENGTH = 32
TEXTS = [
    f"Once upon a time patient {number} had {number * 7 % 50} µg/l of naïve protein {'and a fever ' * (number % 9)}."
    for number in range(60)
]
HELD_OUT = {"notes": TEXTS[:9], "papers": TEXTS[9:14]}
KEYS = ("validation_loss", "token_perplexity", "byte_perplexity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of text with held-out documents, and one without."""
    folder = tmp_path_factory.mktemp("cpt")
    tokenizer = (ASSETS / "stories260k" / "tokenizer.json").read_bytes()
    for name, held_out in HELD_OUT.items():
        make_corpus(folder / "corpora" / name, [ids_of(TEXTS[14:])], "uint16", ids_of(held_out), tokenizer)
    make_corpus(folder / "corpora" / "without", [ids_of(TEXTS)], tokenizer=tokenizer)
    return folder


def ids_of(texts: list[str]) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories260k")
    return [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]


def make_run(folder: Path, evaluation: Any, names: tuple[str, ...] = ("notes",), **changes: Any) -> RunDir:
    length = {"length": "8 steps", "warmup": "1 steps"}
    recipe = cpt_recipe(schedule=length, batch={"sequence_length": LENGTH}, **changes)
    recipe["data"] = {"corpora": [{"name": name} for name in names], **changes.get("data", {})}
    return make_run_of(recipe | {"evaluation": evaluation}, folder)


def evaluations(run: RunDir) -> dict[int, dict[str, float]]:
    rows = read_json_lines(run.evaluations)
    return {row["step"]: {key: row[key] for key in row if key.startswith(KEYS)} for row in rows}


def slowly(model: Path, held_out: list[list[str]], packing: str = "packed") -> tuple[float, float, float]:
    """Loss and perplexities, one piece of a document at a time, in float64."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64).eval()
    total, predicted, size = 0.0, 0, 0
    for texts in held_out:
        size += sum(len(text.encode()) for text in texts)
        place = 0
        for ids in ids_of(texts):
            start = 0
            while start < len(ids):
                room = LENGTH - place % LENGTH if packing == "packed" else LENGTH
                piece = torch.tensor(ids[start : start + room])
                start, place = start + len(piece), place + len(piece)
                with torch.no_grad():
                    scores = loaded(input_ids=piece[None]).logits[0, :-1].log_softmax(-1)
                total -= sum(scores[row, token].item() for row, token in enumerate(piece[1:]))
                predicted += len(piece) - 1
    return total / predicted, math.exp(total / predicted), math.exp(total / size)


@pytest.mark.parametrize(("strategy", "packing"), [("ddp", "packed"), ("full_shard", "packed"), ("zero3", "pad")])
def test_numbers_are_those_of_a_slow_loop_before_during_and_after(folder: Path, strategy: str, packing: str) -> None:
    wanted = {"interval": "3 steps", "samples": "all"}
    run = make_run(folder, wanted, parallel={"strategy": strategy}, data={"packing": packing})
    assert train(run, ranks=2).exit_codes == [FINISHED] * 2

    found = evaluations(run)

    assert list(found) == [0, 3, 6, 8]
    for step, model in ((0, ASSETS / "stories260k"), (8, run.outputs / "model")):
        expected = slowly(model, [HELD_OUT["notes"]], packing)
        assert [found[step][key] for key in KEYS] == pytest.approx(expected, rel=1e-5)
    assert found[8]["validation_loss"] < found[0]["validation_loss"] - 0.1


def test_several_corpora_are_told_apart(folder: Path) -> None:
    run = make_run(folder, {"samples": "all"}, ("notes", "without", "papers"))
    attempt = train(run, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()

    last = evaluations(run)[8]

    model = run.outputs / "model"
    assert [last[key] for key in KEYS] == pytest.approx(slowly(model, [*HELD_OUT.values()]), rel=1e-5)
    for name, held_out in HELD_OUT.items():
        assert [last[f"{key}/{name}"] for key in KEYS] == pytest.approx(slowly(model, [held_out]), rel=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "full_shard"])
def test_training_is_the_same_to_the_last_bit_with_evaluations_and_without_and_if_it_resumes(
    folder: Path, strategy: str
) -> None:
    wanted = {"interval": "2 steps", "samples": 5}
    without, often, stopped = (
        make_run(folder, evaluation, parallel={"strategy": strategy}) for evaluation in (None, wanted, wanted)
    )
    assert [train(run, ranks=2).exit_codes for run in (without, often)] == [[FINISHED] * 2] * 2
    stop_at(stopped, 4, ranks=2)
    assert 4 not in evaluations(stopped), "the time left is for saving"

    assert train(stopped, ranks=2, attempt=1).exit_codes == [FINISHED] * 2

    assert losses(without) == losses(often) == losses(stopped)
    assert not without.evaluations.exists()
    assert evaluations(often) == evaluations(stopped)
    assert list(evaluations(stopped)) == [0, 2, 4, 6, 8]


def test_without_held_out_text_there_are_no_evaluations(folder: Path) -> None:
    run = make_run(folder, {}, ("without",))

    attempt = train(run)

    assert attempt.exit_codes == [FINISHED]
    assert "no corpus has held-out text, so there are no evaluations" in attempt.log()
    assert not run.evaluations.exists()


def test_a_stop_leaves_an_evaluation_which_is_made_up_for(folder: Path) -> None:
    wanted = {"interval": "4 steps", "samples": "all"}
    whole, stopped = (make_run(folder, wanted, parallel={"strategy": "full_shard"}) for _ in range(2))
    assert train(whole, ranks=2).exit_codes == [FINISHED] * 2

    at_start = stop_in_evaluation(stopped, step=0, batch=1, ranks=2)
    assert (at_start.steps(), evaluations(stopped)) == ([], {})
    between = stop_in_evaluation(stopped, step=4, batch=1, ranks=2, attempt=1)
    assert (between.steps(), [*evaluations(stopped)]) == ([1, 2, 3, 4], [0])
    at_end = stop_in_evaluation(stopped, step=8, batch=1, ranks=2, attempt=2)
    assert (at_end.steps(), [*evaluations(stopped)]) == ([5, 6, 7, 8], [0, 4])
    assert published_steps(stopped)[-1] == 8
    last = train(stopped, ranks=2, attempt=3)

    assert last.exit_codes == [FINISHED] * 2, last.log()
    assert last.steps() == [], "no step is done again"
    assert losses(stopped) == losses(whole)
    assert evaluations(stopped) == evaluations(whole)
