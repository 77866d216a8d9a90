"""The index of finished runs: what leads to a run, and what does not any more."""

import json
import os
import shutil
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest

from launcher.run.contents import Content, FileStamp, file_checksum, look_at
from launcher.run.identity import MadeArtifact, RunIdentity
from launcher.run.index import find_finished, may_be_finished, register
from launcher.run.ledger import append_event
from launcher.run.lock import one_at_a_time
from launcher.run.paths import RunDir, index_root

RECIPE = "ab" * 32


def finished_run(root: Path, name: str, identity: RunIdentity, reason: str = "finished") -> RunDir:
    run = RunDir(root / name)
    run.root.mkdir(parents=True)
    run.record.write_text("{}")
    append_event(run.ledger, 0, reason=reason)
    identity.write(run.identity)
    return run


def made(folder: Path, text: str = "one") -> MadeArtifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"run": text}))
    return MadeArtifact("model", str(folder))


@pytest.fixture
def identity(tmp_path: Path) -> RunIdentity:
    """Of a run that reads one file and makes a model."""
    source = tmp_path / "source.txt"
    source.write_text("text")
    read = Content(files=(FileStamp.of(str(source)),))
    return RunIdentity(RECIPE, (("data", read),), made(tmp_path / "models" / "made"))


def test_a_registered_run_is_found_by_what_it_is(tmp_path: Path, identity: RunIdentity) -> None:
    root = tmp_path / "runs"
    assert not may_be_finished(root, RECIPE)
    run = finished_run(root, "train-20260101-000000-abcdef", identity)

    assert register(run) is None

    assert find_finished(root, identity) == run
    assert find_finished(root, RunIdentity("cd" * 32, identity.inputs)) is None
    assert find_finished(root, RunIdentity(RECIPE, (("data", Content("other")),))) is None


def test_of_several_the_newest_counts_and_a_removed_one_does_not(tmp_path: Path, identity: RunIdentity) -> None:
    root = tmp_path / "runs"
    names = ["b-20260101-000000-aaaaaa", "a-20260301-000000-bbbbbb", "c-20260201-000000-cccccc"]
    old, newest, middle = (finished_run(root, name, identity) for name in names)
    assert [register(run) for run in (old, newest, middle)] == [None] * 3

    assert find_finished(root, identity) == newest
    shutil.rmtree(newest.root)
    assert find_finished(root, identity) == middle
    middle.ledger.unlink()
    assert find_finished(root, identity) == old
    shutil.rmtree(old.root)
    assert find_finished(root, identity) is None


def test_what_was_made_must_still_be_there(tmp_path: Path, identity: RunIdentity) -> None:
    root = tmp_path / "runs"
    assert register(finished_run(root, "train-20260101-000000-abcdef", identity)) is None
    folder = tmp_path / "models" / "made"

    made(folder, "of another run")
    assert find_finished(root, identity) is None
    made(folder)
    assert find_finished(root, identity) is not None
    shutil.rmtree(folder)
    assert find_finished(root, identity) is None


def test_a_run_whose_inputs_changed_has_no_place_in_the_index(tmp_path: Path, identity: RunIdentity) -> None:
    root, source = tmp_path / "runs", tmp_path / "source.txt"
    run = finished_run(root, "train-20260101-000000-abcdef", identity)
    source.write_text("longer text")

    assert register(run) == "its inputs changed while it ran"
    RunIdentity(RECIPE, (("data", Content(files=(FileStamp.of(str(source)),))),), identity.makes).write(run.identity)

    assert register(run) == "its inputs changed while it ran", "the attempts read different files"
    assert not index_root(root).exists() or not may_be_finished(root, RECIPE)


def test_inputs_that_change_between_attempts_are_named_once_and_remembered(tmp_path: Path) -> None:
    path, model = tmp_path / "identity.json", ("model.path", Content("model"))

    def noted(data: str) -> tuple[str, ...]:
        return RunIdentity(RECIPE, (("data", Content(data)), model)).write(path)

    assert [noted(data) for data in ("one", "one", "two", "two")] == [(), (), ("data",), ()]
    found = RunIdentity.read(path)
    assert found is not None
    assert (found.is_mixed, found.changed) == (True, ("data",))


def test_what_an_older_launcher_noted_is_read(tmp_path: Path) -> None:
    path = tmp_path / "identity.json"
    path.write_text('{"recipe": "ab", "inputs": [], "makes": null, "is_mixed": true}')

    assert RunIdentity.read(path) == RunIdentity("ab", (), is_mixed=True)


def test_many_may_register_at_once(tmp_path: Path, identity: RunIdentity) -> None:
    root = tmp_path / "runs"
    runs = [finished_run(root, f"train-20260101-0000{place:02}-abcdef", identity) for place in range(8)]

    with ThreadPool(8) as pool:
        assert pool.map(register, runs * 3) == [None] * 24

    [folder] = [entry for entry in index_root(root).iterdir() if not entry.name.startswith(".")]
    assert len(list(folder.iterdir())) == 8


def test_a_checksum_is_computed_once_for_each_state_of_a_file(tmp_path: Path) -> None:
    source, cache = tmp_path / "large", tmp_path / "cache"
    source.write_text("one")
    first = file_checksum(FileStamp.of(str(source)), cache)
    [entry] = cache.iterdir()

    entry.write_text(entry.read_text().replace(first, "known"))
    assert file_checksum(FileStamp.of(str(source)), cache) == "known"
    os.utime(source, ns=(5, 5))

    assert file_checksum(FileStamp.of(str(source)), cache) == first


def test_an_unfinished_corpus_or_model_has_no_content(tmp_path: Path) -> None:
    assert look_at("corpus", tmp_path) is None
    assert look_at("model", tmp_path / "missing") is None
    assert look_at("tokenizer", tmp_path) is None


def test_two_users_share_an_index_that_a_credentialed_run_made(stranger: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs two users: run it as root")
    me, runs, source = os.geteuid(), stranger / "runs", stranger / "source.txt"
    os.seteuid(0)
    runs.mkdir()
    runs.chmod(0o2777)
    source.write_text("text")
    identity = RunIdentity(RECIPE, (("data", Content(files=(FileStamp.of(str(source)),))),))
    before = os.umask(0o077)  # as in a batch job
    try:
        theirs = finished_run(runs, "notes-20260101-000000-aaaaaa", identity)
        assert register(theirs) is None
    finally:
        os.umask(before)
        source.chmod(0o644)
        os.seteuid(me)

    assert may_be_finished(runs, RECIPE)
    assert find_finished(runs, identity) is None
    mine = finished_run(runs, "notes-20260102-000000-bbbbbb", identity)
    assert register(mine) is None
    assert find_finished(runs, identity) == mine


def test_a_lock_that_is_somebody_elses_stops_nobody(stranger: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs two users: run it as root")
    me, runs = os.geteuid(), stranger / "runs"
    os.seteuid(0)
    runs.mkdir()
    runs.chmod(0o2777)
    before = os.umask(0o077)
    with one_at_a_time(runs):
        assert (index_root(runs) / ".lock").stat().st_mode & 0o777 == 0o666
    os.umask(before)
    os.seteuid(me)

    with one_at_a_time(runs):
        pass
    os.seteuid(0)
    (index_root(runs) / ".lock").chmod(0o600)
    os.seteuid(me)
    with one_at_a_time(runs):
        pass
