"""What else a model's folder may hold: links to files of somebody else, and an adapter that nobody asked for."""

import shutil
from pathlib import Path

import pytest

from jobs.models import folder as folders
from jobs.models.build import build_causal_lm
from jobs.models.folder import copy_generation_config, copy_tokenizer
from jobs.models.tokenizer import load_tokenizer
from launcher.artifacts.model_folder import require_files
from launcher.errors import LauncherError
from launcher.recipe.sections.common import Model
from tests.support.training_runs import ASSETS

STORIES = ASSETS / "stories260k"
TEMPLATE = "additional_chat_templates/x.jinja"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORIES, tmp_path / "model"))


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "secrets"
    path.write_text("KEY=topsecret")
    path.chmod(0o600)
    return path


def put(link: Path, target: Path | str) -> Path:
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("name", ["x.model", "merges.txt", "generation_config.json", TEMPLATE])
def test_a_link_to_a_file_outside_of_the_folder_is_refused_and_never_copied(
    tmp_path: Path, model: Path, private: Path, name: str
) -> None:
    link, target = put(model / name, private), tmp_path / "out"
    target.mkdir()

    for act in (
        lambda: require_files(model, weights=False),
        lambda: load_tokenizer(str(model), "tiny"),
        lambda: copy_tokenizer(model, model, target),
        lambda: copy_generation_config([model], target),
    ):
        with pytest.raises(LauncherError, match=f"{link}: is a link to `{private}`, outside of the folder") as told:
            act()
        assert "topsecret" not in str(told.value)
    assert list(target.iterdir()) == []


def test_a_subfolder_that_leads_elsewhere_is_refused(tmp_path: Path, model: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.jinja").write_text("topsecret")
    put(model / "additional_chat_templates", tmp_path / "elsewhere")

    with pytest.raises(LauncherError, match="outside of the folder"):
        require_files(model, weights=False)


def test_links_in_circles_and_into_the_folder_are_as_good_as_their_files(tmp_path: Path, model: Path) -> None:
    put(model / "vocab.json", "tokenizer.json")
    put(model / "added.txt", "added.txt")
    put(tmp_path / "name", model)
    (tmp_path / "out").mkdir()

    require_files(tmp_path / "name", weights=True)
    copy_tokenizer(tmp_path / "name", tmp_path / "name", tmp_path / "out")

    assert (tmp_path / "out" / "vocab.json").read_bytes() == (STORIES / "tokenizer.json").read_bytes()


def cached(root: Path) -> Path:
    """A model in the cache of the Hugging Face Hub: links to blobs, named by what is in them."""
    snapshot = root / "models--org--name" / "snapshots" / "0a1b"
    (root / "models--org--name" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for path in STORIES.iterdir():
        shutil.copy(path, root / "models--org--name" / "blobs" / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    return snapshot


def test_the_cache_of_the_hub_consists_of_links_to_its_blobs(tmp_path: Path, private: Path) -> None:
    snapshot, blobs = cached(tmp_path), tmp_path / "models--org--name" / "blobs"
    require_files(snapshot, weights=True)

    put(snapshot / "x.model", private)
    with pytest.raises(LauncherError, match="outside of the folder"):
        require_files(snapshot, weights=True)

    put(snapshot / "x.model", "../../blobs/secrets")
    shutil.rmtree(blobs)
    blobs.symlink_to(private.parent)
    with pytest.raises(LauncherError, match="outside of the folder"):
        require_files(snapshot, weights=True)


def with_adapter(model: Path) -> Path:
    for path in (ASSETS / "stories260k_lora").glob("adapter_*"):
        shutil.copy(path, model)
    return model


def test_an_adapter_in_the_folder_of_a_model_is_refused_where_weights_are_read(model: Path) -> None:
    require_files(with_adapter(model), weights=False)

    with pytest.raises(LauncherError, match=r"adapter_config\.json: transformers would add .*`model\.adapters`"):
        require_files(model, weights=True)


def test_a_model_that_got_an_adapter_while_it_was_loaded_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "require_files", lambda *_: None)  # as for a model of the hub, which is no folder yet

    with pytest.raises(LauncherError, match=r"model\.path: .* comes with an adapter"):
        build_causal_lm(Model.model_validate({"path": "tiny"}), str(with_adapter(model)), seed=1)
