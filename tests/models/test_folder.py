"""Folders of models as a whole: who may read them, and what binds what is made of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors.torch import save_file

from jobs.models.folder import let_others_read, loading, local_folder, require_data_use
from jobs.rank.watchdog import WATCHDOG
from launcher.errors import LauncherError
from tests.support.stops import stopped_after


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_weights_have_the_rights_that_the_umask_gives(tmp_path: Path, umask: int) -> None:
    for folder in (tmp_path, tmp_path / "beneath"):
        folder.mkdir(exist_ok=True)
        save_file({"x": torch.zeros(1)}, folder / "model.safetensors")

    let_others_read(tmp_path)

    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.safetensors")} == {0o666 & ~umask}
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"model.safetensors"}


def test_nothing_open_is_made_of_a_credentialed_model(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"data_use": "credentialed"}')

    with pytest.raises(LauncherError, match=f"data_use: `{tmp_path}` was made of credentialed data"):
        require_data_use("open", [Path("org/name"), tmp_path])
    require_data_use("credentialed", [tmp_path])


def test_a_stop_does_not_wait_for_a_model_that_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    is_there = Event()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: is_there.wait())

    with stopped_after(0):
        local_folder("org/name", "model.path")
    is_there.set()


@pytest.mark.parametrize("located", ["org/name", ""])
def test_bytes_count_as_progress_while_a_library_loads_a_model_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, located: str
) -> None:
    counted = []

    @contextmanager
    def counting() -> Iterator[None]:
        counted.append(True)
        yield

    monkeypatch.setattr(WATCHDOG, "counting_transfers", counting)
    (tmp_path / "config.json").write_text("{}")

    with loading(located or tmp_path, "model.path"):
        pass

    assert counted == [True] * bool(located)
