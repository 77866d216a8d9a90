"""Recipes of the kinds reward and dpo: what they refuse before anything runs."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.recipe import KINDS
from launcher.recipe.kinds.preference import PreferenceRecipe
from tests.support.preference_runs import preference_recipe

LORA = {"method": "lora"}
PAIR = {"method": "orthogonal", "start_from": "stage1"}
_ONE = {"name": "one", "files": "one.jsonl", "format": "unpaired"}
SINGLE = {"sources": [_ONE]}
MIXED = {"sources": [{"name": "two", "files": "two.jsonl", "format": "question"}, _ONE]}
PRECOMPUTED = {"reference": {"precompute": True}}


def recipe_of(kind: str, **changes: Any) -> PreferenceRecipe:
    recipe = KINDS[kind].model_validate_json(json.dumps(preference_recipe(kind, **changes)))
    assert isinstance(recipe, PreferenceRecipe)
    return recipe


@pytest.mark.parametrize(
    ("kind", "changes", "fault"),
    [
        ("reward", {"data": {"validation": 0.0}}, "data.validation: held-out pairs choose the best checkpoint"),
        ("reward", {"evaluation": {"metric": "acuracy"}}, "is not a score of pairs; write one of `accuracy`"),
        ("reward", {"adapter": {"method": "prompt"}}, "adapter.method: `prompt` does not work here: peft passes"),
        ("reward", {"evaluation": {"interval": "1M tokens"}}, "evaluation.interval: `1M tokens` depends on padding"),
        ("reward", {"adapter": LORA | {"dropout": 0.1}}, "adapter.dropout: has no effect with `dropout: false`"),
        ("dpo", {"schedule": {"length": "1M tokens"}}, "schedule.length: `1M tokens` depends on padding"),
        ("dpo", {"loss": "aot"}, "Input should be 'sigmoid', 'hinge', 'ipo'"),
        ("dpo", {"loss": "kto", **PRECOMPUTED}, "reference.precompute: `kto` also needs the reference of answers to"),
        ("dpo", {"loss": "kto", "batch": {"global_batch": "1 sequences"}}, "batch.global_batch: `kto` compares with"),
        ("dpo", {"desirable_weight": 1.3}, "desirable_weight: belongs to `kto`, not to `sigmoid`"),
        ("dpo", {"loss": "kto", "adapter": LORA | {"init": "pissa"}}, "training; name it in `reference.model`"),
        ("dpo", {"loss": "orpo", **PRECOMPUTED}, "reference: `orpo` compares with none"),
        ("dpo", {"data": SINGLE}, "loss: `sigmoid` compares two answers, and those of `data.sources` have no partner"),
        ("dpo", {"loss": "kto", "data": MIXED}, "sources.1.format: pairs and answers without a partner are not mixed"),
        ("reward", {"data": SINGLE}, "data.sources: `reward` compares two answers; write sources of pairs"),
        ("dpo", {"loss": "exo_pair"}, "label_smoothing: `exo_pair` needs more than 0"),
        ("dpo", {"label_smoothing": 0.1}, "label_smoothing: belongs to `robust` and `exo_pair`, not to `sigmoid`"),
        ("dpo", {"model": {"tokenizer": "x"}}, "model.tokenizer: `dpo` adds no tokens to a model"),
        ("dpo", {"adapter": {"method": "adaption_prompt"}}, "adapter.method: `adaption_prompt` does not work here"),
        ("dpo", {"adapter": LORA | {"embeddings": "all"}}, "adapter.embeddings: log-probabilities are computed from"),
        (
            "dpo",
            {"adapter": LORA | {"init": "pissa"}},
            "adapter.init: `pissa` changes the frozen weights, so the model",
        ),
        ("dpo", {"adapter": LORA | {"bias": "all"}}, "adapter.bias: biases of the model itself are trained, so the"),
        ("dpo", {"adapter": LORA, "reference": {"sync": {}}}, "reference.sync: moves whole models"),
        ("dpo", {"reference": {"sync": {}, "precompute": True}}, "precompute: what is computed beforehand does not"),
        ("dpo", {"reference": {"sync": {}, "model": "m"}}, "sync: moves the model before training, not another one"),
        (
            "dpo",
            {"adapter": LORA, "model": {"adapters": [{"path": "a", "trainable": True}]}},
            "model.adapters.0.trainable: it is trained further, so the model without its adapter is not",
        ),
        (
            "dpo",
            {"adapter": PAIR},
            "adapter.base_trains: the one from `start_from` is trained further, so the model without its adapter is "
            "not the one before training; write `reference.precompute: true`, or `base_trains: false`",
        ),
        ("dpo", {"loss": "kto", "adapter": PAIR}, "name it in `reference.model`, or `base_trains: false`"),
        (
            "dpo",
            {"data": {"sources": [{"name": "p", "files": "p.jsonl", "format": "question", "margin": "gap"}]}},
            "data.sources.0.margin: `dpo` has no use for it",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(kind: str, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as error:
        recipe_of(kind, **changes)

    assert fault in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter": LORA | {"init": "pissa"}, **PRECOMPUTED},
        {"adapter": LORA | {"init": "pissa"}, "reference": {"model": "m"}},
        {"adapter": LORA | {"dropout": 0.1}, "dropout": True},
        {"reference": {"sync": {"steps": 10, "share": 1.0}}},
        {"loss": "robust", "label_smoothing": 0.1},
        {"loss": "kto", "data": SINGLE, "desirable_weight": 1.3, "reference": {"sync": {}}},
        {"loss": "orpo", "adapter": LORA | {"init": "pissa"}},
        {"adapter": PAIR | {"base_trains": False}},
        {"adapter": PAIR, **PRECOMPUTED},
        {"loss": "kto", "adapter": PAIR, "reference": {"model": "m"}},
        {"loss": "orpo", "adapter": PAIR},
    ],
)
def test_what_can_be_meant_is_accepted(changes: dict[str, Any]) -> None:
    assert recipe_of("dpo", **changes).kind == "dpo"


def test_answers_without_a_partner_are_sequences_by_themselves() -> None:
    assert [recipe_of("dpo", loss="kto", data=data).sequences_per_sample for data in ({}, SINGLE)] == [2, 1]


def test_a_loss_without_a_reference_holds_no_copy() -> None:
    assert [recipe_of("dpo", loss=loss).has_frozen_copy for loss in ("sigmoid", "kto", "orpo")] == [True, True, False]


def test_what_the_nodes_need_is_named() -> None:
    recipe = recipe_of("dpo", parallel={"strategy": "zero3"}, reference={"model": "./m"})

    assert recipe.required_extras() == ("data", "train", "eval", "align", "deepspeed")
    assert ("reference.model", "./m") in {(one.key, one.name) for one in recipe.inputs()}
    assert "data.sources.0.files" in {one.key for one in recipe.inputs()}
