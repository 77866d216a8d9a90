"""Checkpoints whose marker and files hold anything: resumed from if intact, else put aside."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from jobs.rank.process_group import RankGroup
from jobs.train.checkpoint import QUARANTINE, CheckpointStore
from launcher.run.paths import COMPLETE, RunDir, published_steps
from tests.support.command_line import launcher_with_any_code
from tests.support.fuzz import damaged_bytes, damaged_json, files_beside, fuzzed
from tests.support.run_histories import History

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)
FILES = {"weights.bin": b"w" * 100, "optimizer_0.bin": b"o" * 10, "deep/state.bin": b"s"}
REQUIRED = ["weights.bin", "optimizer_{rank}.bin"]


def save(run: RunDir, step: int) -> None:
    store = CheckpointStore(run, ALONE, 3, REQUIRED)
    folder = store.open_staging(f"checkpoint-{step}")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    store.publish(folder, step)


def marker() -> dict[str, Any]:
    """The marker of a sound checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        save(run, 4)
        found: dict[str, Any] = json.loads((run.checkpoint(4) / COMPLETE).read_bytes())
        return found


DAMAGES = st.tuples(st.just(COMPLETE), damaged_json(marker())) | st.tuples(
    st.sampled_from([COMPLETE, *FILES]), damaged_bytes(b"w" * 100) | st.none()
)


@fuzzed(st.lists(DAMAGES, min_size=1, max_size=2), gate=12)
def test_a_damaged_checkpoint_is_put_aside(folder: Path, damage: Any) -> None:
    base = folder / "base"
    if not (folder / "sound").exists():  # saving waits for the disk
        sound = History.begin(folder / "sound").run
        save(sound, 2)
        save(sound, 4)
    shutil.rmtree(base, ignore_errors=True)
    shutil.copytree(folder / "sound", base / "runs")
    [run] = map(RunDir, (base / "runs").iterdir())
    for name, content in damage:
        path = run.checkpoint(4) / name
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        path.mkdir() if content is None else path.write_bytes(content)
    profile = base / "cluster.yaml"
    profile.write_text(
        f"name: here\nexecutor: local\nroots: {{runs: {base / 'runs'}, corpora: {base}, models: {base}}}\n"
    )
    before = set(files_beside(base, base / "runs"))

    assert launcher_with_any_code("why", "abc123", environ={"LAUNCHER_CLUSTER": str(profile)}) in (0, 2)
    store = CheckpointStore(run, ALONE, 3, REQUIRED)
    found = store.find_resume()

    assert found in (2, 4)
    assert store.describe(found).startswith(f"resumes from step {found}")
    assert (run.checkpoints / QUARANTINE / "step-00000004").is_dir() is (found == 2)
    save(run, 6)  # what is kept or removed goes by the markers, too
    assert published_steps(run)[-1] == 6
    assert set(files_beside(base, base / "runs")) == before


@pytest.mark.parametrize(
    "change",
    [
        {"world_size": 0}, {"world_size": float("inf")}, {"world_size": 10**18}, {"step": float("nan")},
        {"files": {"/dev/zero": [1, "x"]}}, {"files": {"../../recipe.json": [1, "x"]}}, {"files": []},
    ],
)  # fmt: skip
def test_a_marker_that_cannot_be_is_put_aside(tmp_path: Path, change: dict[str, Any]) -> None:
    run = RunDir(tmp_path)
    for step in (2, 4):
        save(run, step)
    (run.checkpoint(4) / COMPLETE).write_text(json.dumps(marker() | change))

    assert CheckpointStore(run, ALONE, 3, REQUIRED).find_resume() == 2


@pytest.mark.parametrize("best", [[2], "2", float("inf"), {"step": 2}])
def test_what_is_kept_is_found_out_whatever_a_marker_says_of_the_best(tmp_path: Path, best: Any) -> None:
    run = RunDir(tmp_path)
    save(run, 2)
    (run.checkpoint(2) / COMPLETE).write_text(
        json.dumps(json.loads((run.checkpoint(2) / COMPLETE).read_text()) | {"best": best})
    )

    save(run, 4)

    assert published_steps(run) == [2, 4]
