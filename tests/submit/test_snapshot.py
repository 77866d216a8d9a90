"""Code snapshots: one copy for the same code, complete or absent, read-only, with the commit it came from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.submit import snapshot as snapshots
from launcher.submit.snapshot import Snapshot, read_code


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git work tree with two small packages."""
    root = tmp_path / "checkout"
    for name, text in (("launcher/a.py", "A = 1\n"), ("launcher/deep/b.py", "B = 1\n"), ("jobs/c.py", "C = 1\n")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "launcher" / "notes.txt").write_text("not code")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message=one")
    return root


def git(root: Path, *arguments: str) -> str:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}  # which may want to sign
    argv = ["git", "-C", str(root), *arguments]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout.strip()


def publish(runs: Path, checkout: Path) -> Snapshot:
    snapshot = read_code(runs, checkout)
    snapshot.publish()
    return snapshot


def copies(runs: Path) -> list[str]:
    return sorted(path.name for path in (runs / ".code").glob("[!.]*"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as unchanged at once, not after a minute."""
    monkeypatch.setattr(snapshots, "_SETTLED_SECONDS", 0)


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose files were read."""
    folders, read = [], snapshots._read

    def note(folder: Path) -> dict[str, bytes]:
        folders.append(folder)
        return read(folder)

    monkeypatch.setattr(snapshots, "_read", note)
    return folders


def test_a_snapshot_holds_the_python_files_and_nothing_else(tmp_path: Path, checkout: Path) -> None:
    snapshot = publish(tmp_path / "runs", checkout)

    found = sorted(str(path.relative_to(snapshot.folder)) for path in snapshot.folder.rglob("*") if path.is_file())
    assert found == ["jobs/c.py", "launcher/a.py", "launcher/deep/b.py"]
    assert (snapshot.folder / "jobs" / "c.py").read_text() == "C = 1\n"
    assert {path.stat().st_mode & 0o222 for path in snapshot.folder.rglob("*.py")} == {0}


def test_the_same_code_is_copied_once_and_other_code_elsewhere(tmp_path: Path, checkout: Path) -> None:
    first = publish(tmp_path / "runs", checkout)
    again = publish(tmp_path / "runs", checkout)
    (checkout / "jobs" / "c.py").write_text("C = 2\n")

    changed = publish(tmp_path / "runs", checkout)

    assert first.folder == again.folder != changed.folder
    assert (first.folder / "jobs" / "c.py").read_text() == "C = 1\n"
    assert copies(tmp_path / "runs") == sorted([first.folder.name, changed.folder.name])


def test_moving_code_between_files_changes_the_hash(tmp_path: Path, checkout: Path) -> None:
    before = read_code(tmp_path, checkout).folder
    (checkout / "launcher" / "a.py").write_text("A = ")
    (checkout / "launcher" / "b.py").write_text("1\n")

    assert read_code(tmp_path, checkout).folder != before


def test_reading_the_code_writes_nothing(tmp_path: Path, checkout: Path) -> None:
    read_code(tmp_path / "runs", checkout)

    assert not (tmp_path / "runs").exists()


def test_the_commit_says_whether_there_were_changes(tmp_path: Path, checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert read_code(tmp_path, checkout).commit == commit

    (checkout / "jobs" / "new.py").write_text("")

    assert read_code(tmp_path, checkout).commit == f"{commit}+changes"


def test_changes_elsewhere_in_the_checkout_do_not_count(tmp_path: Path, checkout: Path) -> None:
    (checkout / "README.md").write_text("words")

    assert read_code(tmp_path, checkout).commit == git(checkout, "rev-parse", "HEAD")


def test_an_installed_package_has_no_commit(tmp_path: Path, checkout: Path) -> None:
    site_packages = checkout / "venv" / "site-packages"
    (site_packages / "launcher").mkdir(parents=True)

    assert read_code(tmp_path, site_packages).commit is None


def test_a_changed_copy_is_refused(tmp_path: Path, checkout: Path) -> None:
    snapshot = publish(tmp_path / "runs", checkout)
    (snapshot.folder / "jobs" / "c.py").chmod(0o644)
    (snapshot.folder / "jobs" / "c.py").write_text("C = 666\n")

    with pytest.raises(LauncherError, match="files of this code snapshot were changed"):
        publish(tmp_path / "runs", checkout)


def test_code_that_has_not_changed_is_not_read_again(
    tmp_path: Path, checkout: Path, settled: None, readings: list[Path]
) -> None:
    first = publish(tmp_path / "runs", checkout)
    again = publish(tmp_path / "runs", checkout)

    assert (again.folder, again.commit) == (first.folder, first.commit)
    assert readings == [checkout]


def test_code_that_changed_just_now_is_read_again(tmp_path: Path, checkout: Path, readings: list[Path]) -> None:
    publish(tmp_path / "runs", checkout)
    publish(tmp_path / "runs", checkout)

    assert readings == [checkout, checkout]


def test_a_change_is_seen_whatever_size_and_time_say(tmp_path: Path, checkout: Path, settled: None) -> None:
    first, file = publish(tmp_path / "runs", checkout), checkout / "jobs" / "c.py"
    times = file.stat()
    file.write_text("C = 2\n")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    changed = publish(tmp_path / "runs", checkout)

    assert changed.folder != first.folder
    assert (changed.folder / "jobs" / "c.py").read_text() == "C = 2\n"


def test_a_new_and_a_removed_file_are_seen(tmp_path: Path, checkout: Path, settled: None) -> None:
    first = publish(tmp_path / "runs", checkout)
    (checkout / "jobs" / "d.py").touch()
    second = publish(tmp_path / "runs", checkout)
    (checkout / "jobs" / "d.py").unlink()

    assert publish(tmp_path / "runs", checkout).folder == first.folder != second.folder


def test_a_removed_copy_is_written_again(tmp_path: Path, checkout: Path, settled: None) -> None:
    snapshot = publish(tmp_path / "runs", checkout)
    shutil.rmtree(snapshot.folder)

    assert publish(tmp_path / "runs", checkout).folder == snapshot.folder
    assert (snapshot.folder / "jobs" / "c.py").read_text() == "C = 1\n"


def test_a_copy_that_is_removed_before_it_is_used_is_missed(tmp_path: Path, checkout: Path, settled: None) -> None:
    publish(tmp_path / "runs", checkout)
    planned = read_code(tmp_path / "runs", checkout)
    shutil.rmtree(planned.folder)

    with pytest.raises(LauncherError, match="has just been removed; submit once more"):
        planned.publish()


def test_code_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, edits = snapshots._read, [b"A = 22\n", b"A = 333\n"]

    def read_and_edit(folder: Path) -> dict[str, bytes]:
        files = read(folder)
        if edits:
            (folder / "launcher" / "a.py").write_bytes(edits[0])
            (folder / "jobs" / "c.py").write_bytes(edits.pop(0))
        return files

    monkeypatch.setattr(snapshots, "_read", read_and_edit)
    snapshot = publish(tmp_path / "runs", checkout)

    assert (snapshot.folder / "launcher" / "a.py").read_bytes() == b"A = 333\n"
    assert (snapshot.folder / "jobs" / "c.py").read_bytes() == b"A = 333\n"


def test_code_that_changes_all_the_time_is_refused(
    tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = snapshots._read

    def read_and_edit(folder: Path) -> dict[str, bytes]:
        files = read(folder)
        (folder / "jobs" / "c.py").write_bytes(files["jobs/c.py"] + b"\n")
        return files

    monkeypatch.setattr(snapshots, "_read", read_and_edit)
    with pytest.raises(LauncherError, match="change all the time"):
        read_code(tmp_path, checkout)


def test_compiled_files_of_the_nodes_are_no_change(tmp_path: Path, checkout: Path) -> None:
    snapshot = publish(tmp_path / "runs", checkout)
    (snapshot.folder / "jobs" / "__pycache__").mkdir()
    (snapshot.folder / "jobs" / "__pycache__" / "c.cpython-311.pyc").touch()

    publish(tmp_path / "runs", checkout)


def test_calls_at_the_same_time_agree_on_one_copy(tmp_path: Path, checkout: Path) -> None:
    code = "import sys; from pathlib import Path; from launcher.submit.snapshot import read_code\n"
    code += "snapshot = read_code(Path(sys.argv[1]), Path(sys.argv[2])); sys.stdin.read(1); snapshot.publish()"
    argv = [sys.executable, "-c", code, str(tmp_path / "runs"), str(checkout)]
    calls = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(6)]

    for call in calls:
        assert call.stdin
        call.stdin.close()  # what all of them wait for

    assert [call.wait() for call in calls] == [0] * 6
    assert copies(tmp_path / "runs") == [read_code(tmp_path / "runs", checkout).folder.name]
