"""Code snapshots: one copy for the same code, complete or absent, read-only, with the commit it came from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.snapshot import Snapshot, read_code


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
    assert sorted(os.listdir(tmp_path / "runs" / ".code")) == sorted([first.folder.name, changed.folder.name])


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


def test_compiled_files_of_the_nodes_are_no_change(tmp_path: Path, checkout: Path) -> None:
    snapshot = publish(tmp_path / "runs", checkout)
    (snapshot.folder / "jobs" / "__pycache__").mkdir()
    (snapshot.folder / "jobs" / "__pycache__" / "c.cpython-311.pyc").touch()

    publish(tmp_path / "runs", checkout)


def test_calls_at_the_same_time_agree_on_one_copy(tmp_path: Path, checkout: Path) -> None:
    code = "import sys; from pathlib import Path; from launcher.snapshot import read_code\n"
    code += "snapshot = read_code(Path(sys.argv[1]), Path(sys.argv[2])); sys.stdin.read(1); snapshot.publish()"
    argv = [sys.executable, "-c", code, str(tmp_path / "runs"), str(checkout)]
    calls = [subprocess.Popen(argv, stdin=subprocess.PIPE) for _ in range(6)]

    for call in calls:
        assert call.stdin
        call.stdin.close()  # what all of them wait for

    assert [call.wait() for call in calls] == [0] * 6
    assert os.listdir(tmp_path / "runs" / ".code") == [read_code(tmp_path / "runs", checkout).folder.name]
