"""A `launcher submit` that is killed anywhere: the next one, or an advance, queues what is missing, once."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from launcher.pipeline.find import list_pipelines
from launcher.submit.snapshot import read_code
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.kill_at_point import Killed
from tests.support.submissions import MakeCluster
from tests.support.wanted_runs import Wanted

MakeWanted = Callable[[str], Wanted]


@pytest.fixture
def make_wanted(
    tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> MakeWanted:
    """Make a site with nothing in its queue and no runs, whose arrays have two elements at most."""
    (tmp_path / "code" / "launcher").mkdir(parents=True)
    (tmp_path / "code" / "launcher" / "one.py").touch()
    for module in ("submit.plan_submission", "pipeline.plan"):
        monkeypatch.setattr(f"launcher.{module}.read_code", partial(read_code, source=tmp_path / "code"))
    fake_slurm.limit_arrays(2)
    made: list[Path] = []

    def make(what: str) -> Wanted:
        made.append(tmp_path / f"runs-{len(made)}")
        (fake_slurm.state / "queue").write_text("")
        roots = make_cluster().roots.model_dump() | {"runs": str(made[-1])}
        return Wanted.write(what, tmp_path, make_cluster(roots=roots), fake_slurm)

    return make


def submit_again(wanted: Wanted) -> None:
    """Submit once more; a pipeline of which nothing was missing is under way."""
    code = 0 if len(wanted.records()) < wanted.count or "pipeline" not in wanted.file.name else 2
    launcher(*wanted.argv, code=code)


def advance(wanted: Wanted) -> None:
    """Advance the pipeline that there is; one that never became a pipeline is submitted again."""
    pipelines = list_pipelines(wanted.runs)
    if not pipelines:
        launcher(*wanted.argv)
    for pipeline in pipelines:
        launcher("pipeline", "advance", str(pipeline.folder.root))


@pytest.mark.slow
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.long), 7])
@pytest.mark.parametrize(
    ("what", "repair"),
    [("sweep", submit_again), ("recipe", submit_again), ("pipeline", submit_again), ("pipeline", advance)],
)
def test_wherever_a_submission_is_killed_what_is_missing_is_queued_once(
    what: str, repair: Callable[[Wanted], None], step: int, make_wanted: MakeWanted
) -> None:
    point, ended = 1, False
    while not ended:
        wanted = make_wanted(what)
        ended = Killed(partial(launcher, *wanted.argv), point).came_to_its_end

        repair(wanted)

        wanted.check_once()
        point += step
    assert point > 10
