"""A batch process was killed between the end of its stage and `pipeline advance`: who notices, and who goes on."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from launcher.cli import pipeline as commands
from launcher.pipeline.record import Pipeline
from launcher.pipeline.states import find_stalled, read_stages
from launcher.pipeline.why import explain_stages
from tests.support.fake_stages import StageSpec, World

CHAIN = (StageSpec((), 1), StageSpec((0,), 2), StageSpec((1,), 3))
SWEEP = (StageSpec((), sweep=(1, 2)), StageSpec((0,), 3))


@pytest.fixture
def world(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A site with a Slurm that does what it is told."""
    made = World(tmp_path / "site")
    yield made
    made.close()


def end_all(world: World, ok: bool = True) -> None:
    """Let all jobs start that can, and end; each batch process is killed before it advances the pipeline."""
    for job in world.scheduler.startable():
        world.start(job)
        (world.finish if ok else world.fail)(job)


def stalled(world: World) -> list[str]:
    return find_stalled(read_stages(world.pipelines[0], world.cluster)[0])


def shown(world: World, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    commands.show(world.pipelines[0], world.cluster, as_json=False)
    return " ".join(capsys.readouterr().out.split())


def queue_one_at_a_time(world: World) -> Pipeline:
    world.scheduler.limit = 1
    made = world.submit(CHAIN)
    assert made is not None
    return made


def test_a_stage_that_nobody_queues_is_named_with_what_to_type(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    made = queue_one_at_a_time(world)
    assert stalled(world) == []
    assert "pipeline advance" not in shown(world, capsys)

    end_all(world)

    why = "`s1` can go on, and no job is left that would see to it. If that lasts longer than a minute, the job of the "
    fix = f"{why}last stage was killed before it could: `launcher pipeline advance {made.folder.root}` does it"
    assert f"note: {fix}" in shown(world, capsys)
    states, _ = read_stages(made, world.cluster)
    assert fix in [*explain_stages(states, "abc", str(made.folder.root))]
    made.folder.stop_request.touch()
    assert "pipeline advance" not in shown(world, capsys), "a person stopped it"
    made.folder.stop_request.unlink()
    world.advance(made)
    assert stalled(world) == []


def test_so_is_a_selection_that_nobody_makes_also_if_the_last_point_failed(world: World) -> None:
    world.submit(SWEEP, allow_failed=1)
    first, last = world.scheduler.startable()
    for job in (first, last):
        world.start(job)
    world.finish(first)
    assert stalled(world) == [], "a point is running, whose end selects"

    world.fail(last)

    assert stalled(world) == ["s0"]
    world.advance(world.pipelines[0])
    assert stalled(world) == []
    end_all(world)
    assert stalled(world) == []


def test_so_is_a_stage_that_waits_for_the_job_of_a_finished_one_that_was_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit(CHAIN)
    end = world._end
    monkeypatch.setattr(world, "_end", lambda job, reason, action, _: end(job, reason, action, "FAILED"))

    end_all(world)

    assert [job.state for job in world.scheduler.jobs.values()] == ["FAILED", "PENDING", "PENDING"]
    assert world.scheduler.startable() == []
    assert stalled(world) == ["s1"]
    world.advance(world.pipelines[0])
    assert stalled(world) == []
    assert [job.id for job in world.scheduler.startable()] == ["2"]


def test_a_stage_behind_one_that_failed_waits_for_a_person(world: World) -> None:
    queue_one_at_a_time(world)

    end_all(world, ok=False)

    assert stalled(world) == []


def test_whoever_waits_for_a_pipeline_goes_on_in_place_of_batch_processes_that_were_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = queue_one_at_a_time(world)
    told: list[str] = []
    monkeypatch.setattr(commands, "tell", told.append)
    monkeypatch.setattr(commands, "POLL_SECONDS", (20, 20))
    looks = iter(range(40))

    def pass_time(_: float) -> None:
        next(looks)  # or it would wait for ever
        end_all(world)

    monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=pass_time))

    assert commands.all_finish(made, world.cluster)

    assert [line for line in told if "queued as job" in line] == ["s1: queued as job 2", "s2: queued as job 3"]
    assert sorted(world.made.values()) == [1] * 3


def test_slurm_may_refuse_that_and_is_not_asked_at_each_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    made = queue_one_at_a_time(world)
    told: list[str] = []
    monkeypatch.setattr(commands, "tell", told.append)
    monkeypatch.setattr(commands, "POLL_SECONDS", (20, 20))
    end_all(world)
    world.scheduler.limit = 0
    looks = iter(range(9))

    def pass_time(_: float) -> None:
        if next(looks, None) is None:
            raise TimeoutError

    monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=pass_time))

    with pytest.raises(TimeoutError):
        commands.all_finish(made, world.cluster)

    assert len([line for line in told if "s1: is queued later" in line]) == 1
