"""Recipes of kind sft: what they refuse before anything runs, and the published values of those that are shipped."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.load import load_cluster, load_recipes
from launcher.plan import check
from launcher.recipe import SftRecipe
from tests.support.recipe_files import write
from tests.support.training_runs import cpt_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
ALPACA = {"name": "a", "files": "a.json", "format": "alpaca"}
PROFILE = "name: site\nroots: {runs: r, data: d, corpora: c, models: m}\ngpus: {device: cpu}\nslurm: {lead: 60s}\n"


def recipe_of(sources: list[dict[str, Any]], schedule: str = "3 epochs", **data: Any) -> SftRecipe:
    recipe = cpt_recipe(kind="sft", schedule={"length": schedule}) | {"data": {"sources": sources, **data}}
    return SftRecipe.model_validate_json(json.dumps(recipe))


def shipped(name: str, rehearse: bool = False) -> SftRecipe:
    (loaded,) = load_recipes(FOLDER / f"{name}.yaml", rehearse=rehearse)
    assert isinstance(loaded.recipe, SftRecipe)
    return loaded.recipe


@pytest.mark.parametrize(
    ("sources", "options", "fault"),
    [
        ([], {}, "at least 1 item"),
        ([ALPACA | {"format": "csv"}], {}, "does not match any of the expected tags"),
        ([ALPACA | {"files": "/data/a.json"}], {}, "write a name below the cluster profile's roots"),
        ([ALPACA | {"name": "a/b"}], {}, "cannot name a folder"),
        ([ALPACA, ALPACA], {}, "sources.1.name: `a` is used twice"),
        ([ALPACA | {"format": "medmcqa"}], {}, "cop_base\n  Field required"),
        ([ALPACA | {"format": "medmcqa", "cop_base": 2}], {}, "Input should be 0 or 1"),
        (
            [ALPACA | {"format": "pubmedqa", "exclude": "/data/a.json"}],
            {},
            "write a name below the cluster profile's roots",
        ),
        ([ALPACA], {"draws": "independent"}, "`draws: independent` draws single examples; write `pad`"),
        ([ALPACA], {"validation": 1.0}, "leaves nothing to train on"),
        ([ALPACA], {"schedule": "1M tokens"}, "`1M tokens` depends on padding; write epochs or steps"),
    ],
)
def test_what_cannot_be_meant_is_refused(sources: list[dict[str, Any]], options: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError) as error:
        recipe_of(sources, **options)

    assert fault in str(error.value)


def test_files_that_are_not_there_are_told_before_submission(tmp_path: Path) -> None:
    cluster = load_cluster(str(write(tmp_path, PROFILE.replace("data: d", f"data: {tmp_path}"), "profile.yaml")))
    (tmp_path / "there.json").write_text("[]")
    source = {"name": "q", "files": "there.json", "format": "pubmedqa", "exclude": "./gone.json"}
    recipe = recipe_of([source, ALPACA])

    faults = {fault.key: fault.message for fault in check(recipe, cluster, str(tmp_path))}

    assert f"no file matches `{tmp_path}/gone.json`; check the pattern" in faults["data.sources.0.exclude"]
    assert f"no file matches `{tmp_path}/a.json`; check the pattern" in faults["data.sources.1.files"]
    assert "data.sources.0.files" not in faults


def test_an_epoch_is_as_long_as_the_weights_say() -> None:
    sources = [ALPACA | {"weight": 3.0}, ALPACA | {"name": "b", "weight": 0.2}]

    assert recipe_of(sources).samples_in_epoch([10, 100]) == 50
    assert recipe_of(sources, mixture="proportions").samples_in_epoch([10, 100]) == 110


def test_biomed_llamas_mixture_is_the_published_one() -> None:
    """Sizes and shares of the table in its README."""
    recipe = shipped("biomed_llama_instruct")
    sizes = {"usmle-and-cot": 10178 + 19 + 19 + 282 + 3, "medmcqa": 182822, "pubmedqa": 211269}
    sizes |= {"alpaca": 51760 + 54412, "medpalm": 14, "medpalm-open": 10}
    published = {"usmle-and-cot": 21.45 + 0.04 + 0.04 + 0.6 + 0.006, "medmcqa": 25.69, "pubmedqa": 14.84}
    published |= {"alpaca": 18.18 + 19.11}

    shares = recipe.data.shares([sizes[source.name] for source in recipe.data.sources])

    percent = {
        source.name: 100 * float(share / sum(shares)) for source, share in zip(recipe.data.sources, shares, strict=True)
    }
    assert {name: percent[name] for name in published} == pytest.approx(published, abs=0.02)
    subsets = [subset for source in recipe.data.sources for subset in source.subsets]  # type: ignore[union-attr]
    assert len(subsets) == len(set(subsets)) == 20


@pytest.mark.parametrize("name", ["biomed_llama_instruct", "medicalgpt_sft", "pubmedqa_qlora"])
def test_rehearsals_keep_what_they_rehearse(name: str) -> None:
    recipe, rehearsal = shipped(name), shipped(name, rehearse=True)

    assert rehearsal.parallel == recipe.parallel
    assert rehearsal.adapter == recipe.adapter
    assert rehearsal.model.quantization == recipe.model.quantization
    for key in ("packing", "draws", "mixture", "too_long", "validation"):
        assert getattr(rehearsal.data, key) == getattr(recipe.data, key)
