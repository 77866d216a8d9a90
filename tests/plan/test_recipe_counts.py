"""Parameters that `launcher plan` counts for the recipes that come with the launcher, against the models built."""

from pathlib import Path
from typing import Any

import pytest

from launcher.load import load_recipes
from launcher.plan.memory import estimate_checkpoint, trained_parameters
from launcher.plan.model_shape import read_shape, with_head
from launcher.recipe.kinds.training import TrainingRecipe
from tests.support.model_configs import LLAMA_7B

RECIPES = Path(__file__).parents[2] / "recipes"
LLAMA = LLAMA_7B | {"num_key_value_heads": 32, "tie_word_embeddings": False}
EXPANDED = LLAMA | {"vocab_size": 49953}
QWEN = LLAMA | {"model_type": "qwen2", "vocab_size": 151936}
MODELS: dict[str, dict[str, object]] = {
    "huggyllama/llama-7b": LLAMA,
    "forestai/biomed-llama-7b": LLAMA,
    "llama-7b-medicalgpt": EXPANDED,
    "llama-7b-medicalgpt-sft": EXPANDED,
    "Qwen/Qwen1.5-7B-Chat": QWEN,
    "medcare-7b-taia": QWEN,
    "meta-llama/Meta-Llama-3-8B": LLAMA | {"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8},
}
"""config.json of what the recipes start from, as far as sizes go. Two layers of them are built: torch's modules and
ours know one layer as well as thirty-two."""
LAYERS = 2


def trainings() -> list[Any]:
    """The recipes that train a decoder."""
    found = []
    for path in sorted(RECIPES.glob("*.yaml")):
        for loaded in load_recipes(path):
            recipe = loaded.recipe
            if recipe.trains and recipe.model.path in MODELS:
                found.append(pytest.param(recipe, id=recipe.name))
    return found


def test_all_models_but_encoders_are_covered() -> None:
    recipes = [loaded.recipe for path in sorted(RECIPES.glob("*.yaml")) for loaded in load_recipes(path)]

    left = {one.model.path for one in recipes if one.trains} - set(MODELS)

    assert left == {"bio-clinicalbert"}


@pytest.mark.parametrize("recipe", trainings())
def test_each_recipe_trains_as_many_parameters_as_plan_says(recipe: TrainingRecipe) -> None:
    config = MODELS[recipe.model.path] | {"num_hidden_layers": LAYERS}
    new = 17_953 if recipe.model.tokenizer else 0
    shape = read_shape(config | {"new_tokens": new, "vocab_size": config["vocab_size"] + new})
    assert shape is not None
    shape = with_head(shape, recipe)

    base, trained = built(recipe, config, new)

    assert shape.parameters == base
    assert trained_parameters(recipe, shape) == trained
    zero2 = 2 * trained if recipe.parallel.strategy == "zero2" else 0
    assert estimate_checkpoint(recipe, shape) == 12 * trained + zero2


def built(recipe: TrainingRecipe, config: dict[str, Any], new: int) -> tuple[int, int]:
    """Build a recipe's model and adapter without memory; count the base's parameters and those that are trained."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    from jobs.models.adapters.build import adapted, declared_trainable
    from jobs.models.value_head import add_value_head

    sizes = {key: value for key, value in config.items() if key != "model_type"}
    settings = AutoConfig.for_model(config["model_type"], **sizes, num_labels=recipe.classes or 2)
    heads = recipe.predicts == "labels"
    auto: Any = AutoModelForSequenceClassification if heads else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(settings)
        if new:
            model.resize_token_embeddings(config["vocab_size"] + new, mean_resizing=False)
        base = sum(one.numel() for one in model.parameters())
        if recipe.adapter is not None:
            model = with_adapter(adapted, model, recipe, config["vocab_size"], new)
        if recipe.has_value_head:
            add_value_head(model)
    names = declared_trainable(model)
    return base, sum(one.numel() for name, one in model.named_parameters() if name in names)


def with_adapter(adapted: Any, model: Any, recipe: TrainingRecipe, tokens: int, new: int) -> Any:
    from types import SimpleNamespace as Stand
    from unittest.mock import patch

    from jobs.models.adapters.orthogonal import Start

    expansion: Any = Stand(base=Stand(vocab_size=tokens), expanded=Stand(vocab_size=tokens + new)) if new else None
    task = "SEQ_CLS" if recipe.predicts == "labels" else "CAUSAL_LM"
    start = Start(Path(), getattr(recipe.adapter, "base_rank", 1), 1.0, ("", ""))
    with patch.multiple("jobs.models.adapters.orthogonal", find_start=lambda _: start, load_start=lambda *_: None):
        return adapted(model, recipe.adapter, 1, task, 1000, expansion)
