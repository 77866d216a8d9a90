"""A disk that fills while runs are queued: nothing is left half done, and once there is room again it goes on."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from launcher.pipeline.find import list_pipelines
from launcher.submit.snapshot import read_code
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster
from tests.support.wanted_runs import Wanted

PAGE = 4096
EVERY = pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 5])
"""Try each size of a disk, or every fifth."""
MakeWanted = Callable[[str], Wanted]


@pytest.fixture
def make_wanted(
    small_disk: Path, tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> MakeWanted:
    """Make an empty site whose runs lie on a small disk, where the code lies already."""
    (tmp_path / "code" / "launcher").mkdir(parents=True)
    (tmp_path / "code" / "launcher" / "one.py").touch()
    runs, source = small_disk / "runs", partial(read_code, source=tmp_path / "code")
    for module in ("submit.plan_submission", "pipeline.plan"):
        monkeypatch.setattr(f"launcher.{module}.read_code", source)
    cluster = make_cluster(roots=make_cluster().roots.model_dump() | {"runs": str(runs)})

    def make(what: str) -> Wanted:
        shutil.rmtree(runs, ignore_errors=True)
        (runs / ".submissions").mkdir(parents=True)
        source(runs).publish()
        (fake_slurm.state / "queue").write_text("")
        return Wanted.write(what, tmp_path, cluster, fake_slurm)

    return make


@contextmanager
def room_for(pages: int, disk: Path) -> Iterator[None]:
    """Fill a disk but for some pages, and make room again afterwards."""
    left, filler = os.statvfs(disk), disk / "filler"
    filler.write_bytes(b"x" * (left.f_bavail * left.f_bsize - pages * PAGE))
    try:
        yield
    finally:
        filler.unlink()


def fits(pages: int, disk: Path, *argv: str) -> bool:
    """Type a command while the disk has room for some pages; tell whether it was enough."""
    with room_for(pages, disk):
        try:
            launcher(*argv)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return False
    return True


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("what", ["sweep", "recipe"])
def test_a_submission_that_does_not_fit_leaves_nothing_and_is_queued_when_it_fits(
    what: str, step: int, make_wanted: MakeWanted, small_disk: Path, fake_slurm: FakeSlurm
) -> None:
    pages = 0
    while not fits(pages, small_disk, *(wanted := make_wanted(what)).argv):
        assert (fake_slurm.queue(), wanted.left()) == ([], [])

        launcher(*wanted.argv)

        wanted.check_once()
        pages += step
    wanted.check_once()
    assert pages > 2


@pytest.mark.slow
@EVERY
def test_a_pipeline_that_does_not_fit_is_queued_once_when_it_fits(
    step: int, make_wanted: MakeWanted, small_disk: Path, fake_slurm: FakeSlurm
) -> None:
    pages = 0
    while not fits(pages, small_disk, *(wanted := make_wanted("pipeline")).argv):
        queued, records = fake_slurm.queue(), wanted.records()
        assert (queued, wanted.left()) == ([], []) or records, "nothing was queued, or it is under way"

        launcher(*wanted.argv)

        wanted.check_once()
        assert len(list_pipelines(wanted.runs)) == 1
        pages += step
    assert pages > 5


@pytest.mark.slow
@EVERY
def test_an_advance_that_does_not_fit_goes_on_when_it_fits(
    step: int, make_wanted: MakeWanted, small_disk: Path, fake_slurm: FakeSlurm
) -> None:
    pages, has_fitted = 0, False
    while not has_fitted:
        wanted = make_wanted("pipeline")
        fake_slurm.limit_jobs(1, "lab")
        launcher(*wanted.argv)
        fake_slurm.limit_jobs(10, "lab")
        [pipeline] = list_pipelines(wanted.runs)
        argv = ("pipeline", "advance", str(pipeline.folder.root))

        has_fitted = fits(pages, small_disk, *argv)

        launcher(*argv)
        wanted.check_once()
        pages += step
    assert pages > 1


def test_a_full_disk_is_one_line(make_wanted: MakeWanted, small_disk: Path) -> None:
    wanted = make_wanted("sweep")

    with room_for(3, small_disk):
        argv = [sys.executable, "-m", "launcher", *wanted.argv]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(str(small_disk))
    assert line.endswith(": No space left on device")
