"""Names of trained models: links that are made once, and never take another's place."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from jobs.rank.context import Context, load_context
from jobs.rank.ranks import Ranks
from jobs.train.output_link import publish_name, refuse_taken
from launcher.errors import LauncherError
from launcher.load import load_recipes
from launcher.plan import check_all
from launcher.recipe import CptRecipe
from launcher.run.record import RunRecord
from tests.plan.test_plan import PROFILE, site
from tests.support.recipe_files import RECIPE, profile, write
from tests.support.training_runs import make_run


def context(folder: Path, name: str, rehearsal: bool = False) -> tuple[Context, CptRecipe]:
    """Of a run that has trained a model."""
    folder.mkdir(exist_ok=True)
    run = make_run(folder, output=name)
    record = RunRecord.read(run.record)
    record.cluster["roots"]["models"] = str(folder / "models")
    record.rehearsal = rehearsal
    record.write(run.record)
    (run.outputs / "model").mkdir(parents=True)
    found = load_context(run, 0, Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, node_rank=0))
    assert isinstance(found.recipe, CptRecipe)
    return found, found.recipe


def test_a_trained_model_is_found_by_its_name(tmp_path: Path) -> None:
    run, recipe = context(tmp_path, "mine")
    refuse_taken(run, recipe)

    publish_name(run, recipe)
    publish_name(run, recipe)

    assert run.model_path("mine") == str(tmp_path / "models" / "mine")
    assert (tmp_path / "models" / "mine").resolve() == (run.run.outputs / "model").resolve()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["mine"]
    refuse_taken(run, recipe)


def test_a_name_is_not_taken_from_another(tmp_path: Path) -> None:
    first, second = context(tmp_path, "mine"), context(tmp_path, "mine")
    publish_name(*first)

    with pytest.raises(
        LauncherError, match=r"output: .*/mine exists already, and not from this run; write another name"
    ):
        refuse_taken(*second)
    with pytest.raises(LauncherError, match="exists already"):
        publish_name(*second)

    assert (tmp_path / "models" / "mine").resolve() == (first[0].run.outputs / "model").resolve()


def test_the_name_of_a_run_that_was_removed_is_free(tmp_path: Path) -> None:
    first, second = context(tmp_path, "mine"), context(tmp_path, "mine")
    publish_name(*first)
    shutil.rmtree(first[0].run.root)

    refuse_taken(*second)
    publish_name(*second)

    assert (tmp_path / "models" / "mine").resolve() == (second[0].run.outputs / "model").resolve()


def complaints(folder: Path, text: str, pending: tuple[str, ...] = ()) -> list[str]:
    loaded = load_recipes(write(folder, text))
    awaited = dict.fromkeys(pending, "open")
    return [str(fault).replace(f"{folder}/", "") for fault in check_all(loaded, profile(folder, PROFILE), awaited)]


def test_a_name_that_is_taken_is_told_before_the_queue(tmp_path: Path) -> None:
    site(tmp_path)

    (found,) = complaints(tmp_path, RECIPE + "output: org\n")

    assert "output: there is a model `org` already; write another name, or remove it" in found
    assert not complaints(tmp_path, RECIPE + "output: mine\n")


def test_what_a_training_starts_from_has_to_be_there_or_to_be_made_before(tmp_path: Path) -> None:
    site(tmp_path)
    text = RECIPE + "adapter: {method: orthogonal, start_from: stage1}\n"
    waiting = text.replace("{path: org/model}", "{path: taia}")

    (start,) = complaints(tmp_path, text)
    missing = complaints(tmp_path, waiting)

    assert "adapter.start_from: `stage1` is not below `models`; put it there" in start
    assert len(missing) == 2
    assert not complaints(tmp_path, waiting, ("taia", "stage1"))


def test_what_was_made_of_credentialed_data_asks_for_a_credentialed_recipe(tmp_path: Path) -> None:
    site(tmp_path)
    for name in ("stage1", "org/model"):
        write(tmp_path, '{"data_use": "credentialed"}', f"models/{name}/manifest.json")

    found = complaints(tmp_path, RECIPE + "adapter: {method: orthogonal, start_from: stage1}\n")

    assert "model.path: `org/model` was made of credentialed data; write `data_use: credentialed`" in found[0]
    assert any("adapter.start_from: `stage1` was made of credentialed data" in one for one in found)


@pytest.mark.parametrize("is_rehearsed_again", [True, False])
def test_the_name_that_a_rehearsal_left_is_free(tmp_path: Path, is_rehearsed_again: bool) -> None:
    first, recipe = context(tmp_path, "mine", rehearsal=True)
    second, _ = context(tmp_path, "mine", rehearsal=is_rehearsed_again)
    publish_name(first, recipe)

    refuse_taken(second, recipe)
    publish_name(second, recipe)

    assert (tmp_path / "models" / "mine").resolve() == (second.run.outputs / "model").resolve()


def test_a_rehearsal_does_not_take_the_name_of_a_run(tmp_path: Path) -> None:
    publish_name(*context(tmp_path, "mine"))

    with pytest.raises(LauncherError, match="exists already"):
        refuse_taken(*context(tmp_path, "mine", rehearsal=True))


def test_a_name_that_may_not_be_given_is_told_before_the_training(stranger: Path) -> None:
    run, recipe = context(stranger / "site", "mine")
    (stranger / "site" / "models").mkdir(mode=0o555)

    with pytest.raises(
        LauncherError, match=r"/models: permission denied; ask its owner, or set a `roots\.models` of your own in the"
    ):
        refuse_taken(run, recipe)

    (stranger / "site" / "models").chmod(0o755)
    publish_name(run, recipe)
    (stranger / "site" / "models").chmod(0o555)
    publish_name(run, recipe)  # an attempt that comes again has nothing left to do


def test_so_it_is_below_a_folder_that_is_not_there_yet(stranger: Path) -> None:
    run, recipe = context(stranger / "site", "mine")
    run.record.cluster["roots"]["models"] = str(stranger / "lab" / "our" / "models")
    (stranger / "lab").mkdir(mode=0o555)

    with pytest.raises(LauncherError, match=r"/lab: permission denied"):
        refuse_taken(run, recipe)


@pytest.mark.parametrize(
    ("number", "why"), [(errno.EACCES, "permission denied"), (errno.EROFS, "the file system is read-only")]
)
def test_a_name_that_may_not_be_given_any_more_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, why: str
) -> None:
    run, recipe = context(tmp_path, "mine")

    def fail(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "symlink_to", fail)

    with pytest.raises(LauncherError, match=rf"\.mine\.abc123: {why}; ask its owner"):
        publish_name(run, recipe)


def test_a_folder_of_models_that_may_not_be_written_is_told_before_the_queue(stranger: Path) -> None:
    site(stranger)
    (stranger / "models").chmod(0o555)

    (found,) = complaints(stranger, RECIPE + "output: mine\n")

    assert "output: permission denied for `models`, where the model gets this name: ask its owner" in found
    assert not complaints(stranger, RECIPE)
