"""What a rank reads of its run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.rank.context import load_context
from jobs.rank.identity import note_identity
from jobs.rank.ranks import Ranks
from launcher.artifacts.corpus_manifest import MANIFEST
from launcher.errors import LauncherError
from launcher.recipe import Recipe
from launcher.run.paths import RunDir
from tests.support.training_runs import context_of, make_run


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


def test_inputs_that_changed_are_told_when_an_attempt_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(make_run(tmp_path))
    for _ in range(2):
        note_identity(context)
        assert capsys.readouterr().err == ""
    manifest = tmp_path / "corpora" / "words" / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"fingerprint": "of other files"}))

    note_identity(context)

    told = "warning: `data.corpora.0.name` changed between two attempts: the result comes from both"
    assert capsys.readouterr().err.startswith(told)
