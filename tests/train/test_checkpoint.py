"""Checkpoints are complete or absent, and what is damaged is never resumed from. Files only: no training."""

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.rank.process_group import RankGroup
from jobs.train.checkpoint import CheckpointStore
from jobs.train.checkpoint_files import first_absent, required_files
from jobs.train.checkpoint_manifest import CheckpointFault, UnreadableCheckpointError, try_manifest
from launcher.run.paths import COMPLETE, RunDir, published_steps

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)
REQUIRED = ["weights.bin", "optimizer_{rank}.bin"]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def store_of(run: RunDir, keep: int = 3) -> CheckpointStore:
    return CheckpointStore(run, ALONE, keep, REQUIRED)


def save(store: CheckpointStore, step: int, **files: bytes) -> None:
    folder = store.open_staging(f"checkpoint-{step}")
    contents = {"weights.bin": b"w" * 1000, "optimizer_0.bin": b"o" * 10, "deep/er/state.bin": b"s"} | files
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    store.publish(folder, step)


def test_newest_checkpoint_is_resumed_from(run: RunDir) -> None:
    store = store_of(run)
    save(store, 5)
    save(store, 10)

    assert store_of(run).find_resume() == 10
    assert published_steps(run) == [5, 10]


def test_copies_that_a_person_made_are_no_checkpoints_and_in_nobodys_way(run: RunDir) -> None:
    save(store_of(run), 10)
    for name in ("step-00000010-keep", "step-20"):
        shutil.copytree(run.checkpoint(10), run.checkpoints / name)

    assert published_steps(run) == [10]
    assert store_of(run).find_resume() == 10
    assert (run.checkpoints / "step-00000010-keep").is_dir()


def test_a_run_without_checkpoints_starts_from_scratch(run: RunDir) -> None:
    assert store_of(run).find_resume() is None


def test_manifest_names_every_file_with_size_and_checksum(run: RunDir) -> None:
    save(store_of(run), 5, **{"weights.bin": b""})

    manifest = json.loads((run.checkpoint(5) / COMPLETE).read_text())

    assert manifest["step"] == 5
    assert manifest["world_size"] == 1
    assert sorted(manifest["files"]) == ["deep/er/state.bin", "optimizer_0.bin", "weights.bin"]
    # SHA-256 of nothing, as every reference implementation gives it
    assert manifest["files"]["weights.bin"] == [0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]


def test_only_the_newest_checkpoints_are_kept(run: RunDir) -> None:
    store = store_of(run, keep=2)

    for step in (5, 10, 15, 20):
        save(store, step)

    assert published_steps(run) == [15, 20]
    assert sorted(path.name for path in run.checkpoints.iterdir()) == [".staging", "step-00000015", "step-00000020"]


def test_an_old_checkpoint_whose_manifest_rotted_does_not_end_the_training(run: RunDir) -> None:
    store = store_of(run)
    save(store, 10)
    save(store, 20)
    tear_marker(run.checkpoint(10))

    save(store, 30)

    assert store.find_resume() == 30


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "weights.bin").read_bytes())
    content[500] ^= 1
    (folder / "weights.bin").write_bytes(content)


def cut_short(folder: Path) -> None:
    os.truncate(folder / "weights.bin", 999)


def lose_optimizer(folder: Path) -> None:
    (folder / "optimizer_0.bin").unlink()


def forget_optimizer(folder: Path) -> None:
    """Neither there nor in the manifest: as if it had never been saved."""
    manifest = json.loads((folder / COMPLETE).read_text())
    del manifest["files"]["optimizer_0.bin"]
    (folder / COMPLETE).write_text(json.dumps(manifest))
    lose_optimizer(folder)


def tear_marker(folder: Path) -> None:
    (folder / COMPLETE).write_text('{"step": 10, "fi')


def lose_marker(folder: Path) -> None:
    (folder / COMPLETE).unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip_a_byte, "weights.bin has changed since it was saved"),
        (cut_short, "weights.bin has 999 bytes, not 1000"),
        (lose_optimizer, "optimizer_0.bin cannot be read (No such file or directory)"),
        (forget_optimizer, "optimizer_0.bin is missing"),
        (tear_marker, "COMPLETE is unreadable"),
        (lose_marker, "COMPLETE is missing"),
    ],
)
def test_a_damaged_checkpoint_is_quarantined_by_name_and_the_one_before_is_used(
    run: RunDir, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], told: str
) -> None:
    store = store_of(run)
    save(store, 5)
    save(store, 10)
    damage(run.checkpoint(10))

    resumed = store_of(run).find_resume()

    assert resumed == 5
    assert not run.checkpoint(10).exists()
    assert (run.checkpoints / "quarantine" / "step-00000010").is_dir()
    said = capsys.readouterr().out
    assert "step-00000010" in said
    assert told in said


@pytest.mark.parametrize("name", ["weights.bin", COMPLETE])
def test_a_file_system_that_fails_leaves_a_checkpoint_where_it_is(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for step in (5, 10):
        save(store_of(run), step)

    with monkeypatch.context() as patched, pytest.raises(UnreadableCheckpointError) as found:
        failing_reads(patched, run.checkpoint(10) / name, errno.ESTALE)
        store_of(run).find_resume()

    assert f"{name} " in str(found.value)
    assert "Stale file handle" in str(found.value)
    assert f"move {run.checkpoint(10)} into {run.checkpoints / 'quarantine'}" in str(found.value)
    assert published_steps(run) == [5, 10]
    assert store_of(run).find_resume() == 10, "what passed costs nothing"


def test_a_marker_that_cannot_be_looked_at_is_not_taken_for_missing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store_of(run), 10)
    look = os.stat

    def fail(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path) == str(run.checkpoint(10) / COMPLETE):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return look(path, *arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(UnreadableCheckpointError, match="COMPLETE cannot be looked"):
        patched.setattr("os.stat", fail)
        store_of(run).find_resume()

    assert store_of(run).find_resume() == 10


def test_what_is_damaged_for_certain_is_put_aside_though_the_file_system_fails_too(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (5, 10):
        save(store_of(run), step)
    lose_optimizer(run.checkpoint(10))
    failing_reads(monkeypatch, run.checkpoint(10) / "weights.bin", errno.EMFILE)

    assert store_of(run).find_resume() == 5


def test_other_ranks_hear_from_the_one_that_cannot_read(run: RunDir) -> None:
    """No rank is left waiting for one that raised alone."""
    save(store_of(run), 10)
    said_by_rank_0: list[Any] = [None, 10, try_manifest(run.checkpoint(10), 10)]
    found_by_rank_0 = [CheckpointFault("weights.bin cannot be read (Stale file handle)", may_pass=True)]

    class SecondRank(RankGroup):
        def from_main(self, _: Any) -> Any:
            return said_by_rank_0.pop(0)

        def collect(self, value: Any) -> list[Any]:
            return [found_by_rank_0, value]

    second = SecondRank(rank=1, world_size=2, leads_node=False, device=torch.device("cpu"), control=None)

    with pytest.raises(UnreadableCheckpointError, match=r"weights\.bin cannot be read"):
        CheckpointStore(run, second, 3, ["weights.bin"]).find_resume()


def test_the_best_checkpoint_stays_while_nobody_can_tell_which_it_is(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(run, keep=1)
    save(store, 5)
    folder = store.open_staging("checkpoint-10")
    for name in ("weights.bin", "optimizer_0.bin"):
        (folder / name).write_bytes(b"w")
    failing_reads(monkeypatch, run.checkpoint(10) / COMPLETE, errno.ESTALE)

    store.publish(folder, 10, best=5)

    assert published_steps(run) == [5, 10]


def failing_reads(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Have the file system fail for one file whenever it is opened."""
    opened = Path.open

    def fail(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise OSError(number, os.strerror(number), str(self))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)


def test_when_all_checkpoints_are_damaged_the_run_starts_from_scratch(run: RunDir) -> None:
    store = store_of(run)
    for step in (5, 10):
        save(store, step)
        flip_a_byte(run.checkpoint(step))

    assert store_of(run).find_resume() is None
    assert len(list((run.checkpoints / "quarantine").iterdir())) == 2


def test_two_damaged_checkpoints_of_one_step_are_both_kept_for_inspection(run: RunDir) -> None:
    for _ in range(2):
        save(store_of(run), 5)
        flip_a_byte(run.checkpoint(5))
        assert store_of(run).find_resume() is None

    names = sorted(path.name for path in (run.checkpoints / "quarantine").iterdir())
    assert names == ["step-00000005", "step-00000005.1"]


def test_leavings_of_a_killed_save_are_swept(run: RunDir) -> None:
    store = store_of(run)
    save(store, 5)
    (store.open_staging("checkpoint-10") / "weights.bin").write_bytes(b"half")

    assert store_of(run).find_resume() == 5
    assert not store.staging.exists()


def test_a_save_without_its_optimizer_is_not_published(run: RunDir) -> None:
    store = store_of(run)
    folder = store.open_staging("checkpoint-5")
    (folder / "weights.bin").write_bytes(b"w")

    with pytest.raises(FileNotFoundError, match=r"optimizer_0\.bin was not saved"):
        store.publish(folder, 5)
    assert published_steps(run) == []


@pytest.fixture
def short_of_space() -> Iterator[None]:
    """The kernel lets this process write no file beyond 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_when_a_save_fails_older_checkpoints_are_as_they_were(run: RunDir, request: pytest.FixtureRequest) -> None:
    store = store_of(run)
    save(store, 5)
    before = contents_of(run.checkpoint(5))

    request.getfixturevalue("short_of_space")
    with pytest.raises(OSError, match="File too large"):
        save(store, 10, **{"weights.bin": b"w"})

    assert published_steps(run) == [5]
    assert store_of(run).find_resume() == 5
    assert contents_of(run.checkpoint(5)) == before


def contents_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMON = {"trainer_state.json", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth"}
DDP = COMMON | {"model.safetensors", "optimizer.pt", "config.json"}
FSDP = COMMON | {
    f"{part}/{name}"
    for part in ("pytorch_model_fsdp_0", "optimizer_0")
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp")
}
ZERO2 = COMMON | {"latest", "global_step5/mp_rank_00_model_states.pt"} | {
    f"global_step5/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)
}  # fmt: skip
ZERO3 = (ZERO2 - {"global_step5/mp_rank_00_model_states.pt"}) | {
    f"global_step5/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in (0, 1)
}


@pytest.mark.parametrize(
    ("files", "required", "optimizer"),
    [
        (DDP, required_files(uses_fsdp=False, zero_stage=None, scales_loss=False), "optimizer.pt"),
        (FSDP, required_files(uses_fsdp=True, zero_stage=None, scales_loss=False), "optimizer_0/.metadata"),
        (ZERO2, required_files(False, 2, False), "global_step5/zero_pp_rank_1_mp_rank_00_optim_states.pt"),
        (ZERO3, required_files(False, 3, False), "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
    ],
)
def test_no_strategy_resumes_without_its_optimizer(files: set[str], required: list[str], optimizer: str) -> None:
    assert first_absent(files, required, world_size=2) is None

    absent = first_absent(files - {optimizer}, required, world_size=2)

    assert absent is not None
    assert fnmatch(optimizer, absent)


@pytest.mark.parametrize("name", ["trainer_state.json", "scheduler.pt", "rng_state_1.pth"])
def test_position_schedule_and_random_state_of_every_rank_are_required_too(name: str) -> None:
    required = required_files(uses_fsdp=True, zero_stage=None, scales_loss=False)

    assert first_absent(FSDP - {name}, required, world_size=2) == name


def test_a_scaled_loss_needs_its_scale() -> None:
    assert "scaler.pt" in required_files(uses_fsdp=True, zero_stage=None, scales_loss=True)
