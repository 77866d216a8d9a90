"""Tasks evaluated while a model is trained: scores are those of the exported model, and training is unchanged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs.kinds import evaluate
from launcher.recipe import read_recipe
from launcher.run.metrics import read_joined_rows
from launcher.run.paths import FINISHED, RunDir
from tests.support.evaluation_runs import evaluation, scores_of
from tests.support.training_runs import ASSETS, cpt_recipe, losses, make_run_of, start, stop_at, train

TASKS: list[dict[str, Any]] = [
    {
        "type": "perplexity",
        "name": "abstracts",
        "source": {"format": "pile", "files": "abstracts.jsonl"},
        "length": 64,
        "limit": 6,
    },
    {"type": "choice", "name": "medqa", "format": "medqa", "files": "medqa_40.jsonl", "limit": 3},
]
WRITTEN = {
    "type": "generate",
    "name": "written",
    "format": "medqa",
    "files": "medqa_40.jsonl",
    "limit": 3,
    "decoding": {"max_new_tokens": 6},
    "answer": {"forced": "The answer is "},
}
DURING = {"interval": "3 steps", "tasks": TASKS, "tokens_per_batch": 700}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.kinds.test_cpt_evaluation import TEXTS, ids_of
    from tests.support.corpora import make_corpus

    folder = tmp_path_factory.mktemp("during")
    shutil.copy(ASSETS / "medqa_40.jsonl", folder)
    (folder / "abstracts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    tokenizer = (ASSETS / "stories260k" / "tokenizer.json").read_bytes()
    make_corpus(folder / "corpora" / "notes", [ids_of(TEXTS[14:])], "uint16", ids_of(TEXTS[:9]), tokenizer)
    return folder


def make_training(folder: Path, during: Any, **changes: Any) -> RunDir:
    schedule = {"length": "8 steps", "warmup": "1 steps"}
    recipe = cpt_recipe(schedule=schedule, data={"corpora": [{"name": "notes"}]}, **changes)
    return make_run_of(recipe | {"during": during}, folder)


def rows_of(run: RunDir) -> dict[int, dict[str, Any]]:
    """Scores by step, whoever measured them."""
    rows = read_joined_rows(run.evaluations)
    return {row["step"]: {key: row[key] for key in row if key not in ("time", "attempt")} for row in rows}


def scores_by_kind_evaluate(folder: Path, tasks: list[dict[str, Any]], model: dict[str, Any]) -> dict[str, Any]:
    """Scores that `kind: evaluate` gives a model, as a training names them."""
    shutil.rmtree(folder / "run", ignore_errors=True)  # that of another test
    context = evaluation(folder, *tasks, model={"dtype": "fp32", **model})
    evaluate.main(context)
    found = scores_of(context).tasks
    return {f"{task}/{name}": one.value for task, its in found.items() for name, one in its.scores.items()}


@pytest.mark.slow
def test_training_is_the_same_to_the_last_bit_and_the_last_scores_are_those_of_the_export(folder: Path) -> None:
    held_out = {"interval": "4 steps", "samples": 5}
    tasks = [*TASKS, WRITTEN]
    during = DURING | {"tasks": tasks}
    without, often, stopped = (make_training(folder, one, evaluation=held_out) for one in (None, during, during))
    for run in (without, often):
        attempt = train(run, ranks=2)
        assert attempt.exit_codes == [FINISHED] * 2, attempt.log()
    stop_at(stopped, 3, ranks=2)
    assert "abstracts/token_perplexity" not in rows_of(stopped).get(3, {}), "the time left is for saving"
    assert train(stopped, ranks=2, attempt=1).exit_codes == [FINISHED] * 2

    assert losses(without) == losses(often) == losses(stopped)
    found = rows_of(often)
    assert found == rows_of(stopped)
    assert {step: "medqa/acc" in row for step, row in found.items()} == {0: True, 3: True, 4: False, 6: True, 8: True}
    assert {step: "validation_loss" in row for step, row in found.items()} == {
        0: True, 3: False, 4: True, 6: False, 8: True,
    }  # fmt: skip
    assert found[8]["abstracts/token_perplexity"] < found[0]["abstracts/token_perplexity"]

    expected = scores_by_kind_evaluate(folder, tasks, {"path": f"./{often.root.name}/outputs/model"})
    assert {"written/acc", "written/acc_read"} <= expected.keys()
    assert {name: found[8][name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_an_adapter_on_conversations_is_evaluated_with_its_base(folder: Path) -> None:
    shutil.copy(ASSETS / "medquad_80.json.gz", folder)
    source = {"name": "medquad", "files": "medquad_80.json.gz", "format": "alpaca"}
    recipe = cpt_recipe(
        kind="sft", batch={"sequence_length": 512}, schedule={"length": "2 steps", "warmup": "1 steps"}
    ) | {
        "data": {"sources": [source], "chat_template": "alpaca", "too_long": "truncate"},
        "adapter": {"method": "lora", "r": 4, "dropout": 0.1},
        "optim": {"lr": 0.05},
        "during": DURING | {"interval": "2 steps"},
    }
    run = make_run_of(recipe, folder)
    attempt = train(run, ranks=2)
    assert attempt.exit_codes == [FINISHED] * 2, attempt.log()

    adapter = {"path": f"./{run.root.name}/outputs/model"}
    expected = scores_by_kind_evaluate(folder, TASKS, {"path": "stories260k", "adapters": [adapter]})

    before, after = rows_of(run)[0], rows_of(run)[2]
    assert {name: after[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert after["abstracts/token_perplexity"] != pytest.approx(before["abstracts/token_perplexity"], rel=0.01)


STOPS_IN_EVALUATION = """
import os, signal, sys
import jobs.__main__ as task
from jobs.kinds import during
from jobs.rank.stop_flag import STOP
STOP.install()
carry_out = during._carry_out
def stop(group, batches, stops, in_step):
    calls.append(1)
    if len(calls) == {call} and group.rank == 1:
        os.kill(os.getpid(), signal.SIGUSR2)
    return carry_out(group, batches, stops, in_step)
calls = []
during._carry_out = stop
sys.exit(task.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("call", "at"), [(1, 0), (2, 3), (4, 8)])
def test_a_stop_during_an_evaluation_puts_it_off(folder: Path, call: int, at: int) -> None:
    run = make_training(folder, DURING | {"tasks": TASKS[:1]}, evaluation=None)
    stopped = start(run, ranks=2, program=("-c", STOPS_IN_EVALUATION.format(call=call)))
    assert stopped.wait() == [75, 75], stopped.log()
    assert at not in rows_of(run)
    assert max(stopped.steps(), default=0) == at

    again = train(run, ranks=2, attempt=1)

    assert again.exit_codes == [FINISHED] * 2, again.log()
    assert list(rows_of(run)) == [0, 3, 6, 8]
    assert again.steps() == [*range(at + 1, 9)]


@pytest.mark.slow
def test_files_that_are_not_there_end_the_run_before_the_first_step(folder: Path) -> None:
    task = TASKS[0] | {"source": {"format": "pile", "files": "abstrcats.jsonl"}}
    run = make_training(folder, {"tasks": [task]}, evaluation=None)

    attempt = train(run)

    assert attempt.exit_codes == [78]
    assert "during.tasks.0.source.files: `abstrcats.jsonl` matches no file" in attempt.log()
    assert not run.metrics.exists()


def validated(**changes: Any) -> Any:
    return read_recipe(json.dumps(cpt_recipe(**changes)))


@pytest.mark.parametrize("strategy", ["full_shard", "hybrid_shard", "zero3"])
def test_texts_are_refused_where_ranks_hold_a_part_of_the_weights(strategy: str) -> None:
    with pytest.raises(ValueError, match=rf"during\.tasks\.2\.type: with `{strategy}` each rank holds a part of the"):
        validated(during=DURING | {"tasks": [*TASKS, WRITTEN]}, parallel={"strategy": strategy})
    validated(during=DURING, parallel={"strategy": strategy})


SHARDED = [
    pytest.param("full_shard", 2, marks=pytest.mark.slow),
    pytest.param("zero3", 2, marks=pytest.mark.long),
    pytest.param("hybrid_shard", 4, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("strategy", "ranks"), SHARDED)
def test_perplexity_and_choice_are_measured_where_weights_are_sharded(folder: Path, strategy: str, ranks: int) -> None:
    during = {"interval": "4 steps", "tasks": TASKS, "tokens_per_batch": 300}
    shard = {"shard": 2} if strategy == "hybrid_shard" else {}
    resources = {"gpus_per_node": 0, "nodes": ranks}
    parallel = {"strategy": strategy, **shard}
    without, often = (
        make_training(folder, one, evaluation=None, parallel=parallel, resources=resources) for one in (None, during)
    )
    for run in (without, often):
        attempt = train(run, ranks=ranks, nodes=ranks)
        assert attempt.exit_codes == [FINISHED] * ranks, attempt.log()

    expected = scores_by_kind_evaluate(folder, TASKS, {"path": f"./{often.root.name}/outputs/model"})

    assert losses(without) == losses(often)
    found = rows_of(often)
    assert [*found] == [0, 4, 8]
    assert {name: found[8][name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_names_and_tasks_without_a_model_are_refused() -> None:
    with pytest.raises(ValueError, match=r"during\.tasks\.1\.name: `abstracts` is used twice"):
        validated(during={"tasks": [TASKS[0], TASKS[0]]})
    saved = {"type": "classification", "name": "saved", "files": "a.csv", "labels": "binary"}
    with pytest.raises(ValueError, match=r"tasks\.0\.type: `classification` does not depend on the model"):
        validated(during={"tasks": [saved]})


def test_a_training_asks_for_what_its_tasks_read() -> None:
    recipe = validated(during=DURING)

    keys = {one.key for one in recipe.inputs()}
    assert {"during.tasks.0.source.files", "during.tasks.1.files"} <= keys
    assert "eval" in recipe.required_extras()
    assert recipe.may_quote_text
    assert not validated().may_quote_text
