"""Two users of one machine and one folder of runs: what the other one cannot read, change or lead astray.

This process is root, who owns the runs, and becomes the other user where `as_other` says so.
"""

import codecs
import contextlib
import importlib
import os
import pkgutil
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import launcher
from launcher.cli import run as run_command
from launcher.run.files import open_lock, replace_text
from launcher.run.index import make_shared
from launcher.run.lock import one_at_a_time
from launcher.run.paths import index_root
from tests.support.other_users import as_user
from tests.support.run_histories import History

OTHER = 65534

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs two users: run it as root")


def as_other() -> AbstractContextManager[None]:
    """Be the other user, who is in no group of ours."""
    return as_user(OTHER)


@pytest.fixture
def shared(stranger: Path) -> Iterator[Path]:
    """A folder of runs that everybody may write into."""
    me = os.geteuid()
    os.seteuid(0)
    runs = stranger / "runs"
    runs.mkdir()
    runs.chmod(0o1777)
    yield runs
    os.seteuid(me)


@pytest.fixture
def secret(stranger: Path, shared: Path) -> Path:
    """A file of ours that the other user would like to read or to destroy."""
    path = stranger / "secret"
    path.write_text("key")
    path.chmod(0o600)
    return path


def is_untouched(secret: Path) -> bool:
    found = secret.stat()
    return secret.read_text() == "key" and found.st_mode & 0o777 == 0o600 and found.st_uid == 0


@pytest.fixture(scope="module", autouse=True)
def all_is_imported() -> None:
    """The other user may be unable to read this checkout and its Python."""
    for found in pkgutil.walk_packages(launcher.__path__, "launcher."):
        if found.name != "launcher.__main__":
            importlib.import_module(found.name)
    for name in ("utf-8-sig", "idna", "latin-1"):
        codecs.lookup(name)


def typed(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["launcher", *words])
    return run_command()


def test_a_lock_that_leads_elsewhere_is_not_followed(shared: Path, secret: Path) -> None:
    with as_other():
        index_root(shared).mkdir()
        index_root(shared).chmod(0o777)
        (index_root(shared) / ".lock").symlink_to(secret)

    with one_at_a_time(shared):
        pass

    assert is_untouched(secret)


def test_a_lock_that_is_a_second_name_of_a_file_does_not_open_it_to_others(shared: Path, secret: Path) -> None:
    index_root(shared).mkdir()
    os.link(secret, index_root(shared) / ".lock")  # kernels that protect no hard links let anybody do this

    with one_at_a_time(shared):
        pass

    assert is_untouched(secret)


@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing to be found"])
def test_whatever_is_in_the_place_of_a_lock_stops_nobody(shared: Path, kind: str) -> None:
    with as_other():
        index_root(shared).mkdir()
        path = index_root(shared) / ".lock"
        if kind == "folder":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(shared / "nothing")

    with one_at_a_time(shared):
        pass

    assert open_lock(path) is None
    assert not (shared / "nothing").exists()


def test_a_file_is_never_written_through_a_link_of_somebody_else(shared: Path, secret: Path) -> None:
    with as_other():
        (shared / f".points.{os.getpid()}.{threading.get_ident()}").symlink_to(secret)
        (shared / "points").symlink_to(secret)

    with contextlib.suppress(PermissionError):  # where the folder is sticky, the link cannot be replaced either
        replace_text(shared / "points", "new")

    assert is_untouched(secret)


def test_a_folder_of_the_index_that_is_a_link_keeps_its_mode(shared: Path, stranger: Path) -> None:
    target = stranger / "private"
    target.mkdir(0o700)
    with as_other():
        index_root(shared).symlink_to(target)

    make_shared(index_root(shared) / "one", shared)

    assert target.stat().st_mode & 0o777 == 0o700


def test_a_credentialed_run_is_for_its_owner_alone(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = History.begin(shared, "abc123", "mimic notes").submit("local-1", at=0).start(0, "local-1", at=1).run
    run.root.chmod(0o700)
    profile = shared.parent / "cluster.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {{runs: {shared}, corpora: {shared}, models: {shared}}}\n")
    profile.chmod(0o644)
    place = f"--cluster={profile}"
    assert typed(monkeypatch, "status", "abc123", place) == 0
    assert "mimic notes" in capsys.readouterr().out

    with as_other():
        assert typed(monkeypatch, "status", place) == 0
        for command in ("status", "why", "logs", "stop", "report"):
            assert typed(monkeypatch, command, "abc123", place) == 2
            assert typed(monkeypatch, command, str(run.root), place) == 2

    said = capsys.readouterr()
    assert "mimic notes" not in said.out + said.err and "Traceback" not in said.err


def test_another_user_cannot_stop_or_change_a_run_that_they_may_read(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History.begin(shared, "abc123").submit("local-1", at=0).start(0, "local-1", at=1)
    run = history.run
    run.root.chmod(0o755)
    profile = shared.parent / "cluster.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {{runs: {shared}, corpora: {shared}, models: {shared}}}\n")
    profile.chmod(0o644)
    assert typed(monkeypatch, "status", "abc123", f"--cluster={profile}") == 0
    before = {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}

    with as_other():
        assert typed(monkeypatch, "status", "abc123", f"--cluster={profile}") == 0
        for command in ("stop", "cancel", "resume", "save"):
            assert typed(monkeypatch, command, "abc123", f"--cluster={profile}") != 0

    assert {path: path.read_bytes() for path in run.root.rglob("*") if path.is_file()} == before
    assert "Traceback" not in capsys.readouterr().err
