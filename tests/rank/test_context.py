"""What a rank reads of its run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.rank.context import load_context
from jobs.rank.ranks import Ranks
from launcher.errors import LauncherError
from launcher.recipe import Recipe
from launcher.run.paths import RunDir


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"schedule": {"length": "2 steps", "warmup": "2 steps"}}, "schedule.warmup: `2 steps` is all of the length"),
        ({"seed": "many"}, "seed: Input should be a valid integer"),
    ],
)
def test_a_frozen_recipe_that_is_not_valid_names_file_and_key(
    tmp_path: Path, make_cpt: Callable[..., Recipe], section: dict[str, object], fault: str
) -> None:
    run = RunDir(tmp_path)
    run.recipe.write_text(json.dumps(make_cpt().model_dump(mode="json") | section))

    with pytest.raises(LauncherError) as caught:
        load_context(run, 0, Ranks(0, 1, 0, 1, 0))

    assert str(caught.value).startswith(f"{run.recipe}: {fault}")
    assert str(caught.value).endswith("; correct the recipe and submit it again")
