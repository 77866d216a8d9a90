"""Stages that are sweeps: their points, which of them is selected, and what waits for that."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cli.views.pipeline_view import stages_table
from launcher.pipeline.states import is_over, read_stages
from launcher.run.ledger import read_attempts
from launcher.run.sweep_points import read_points
from tests.support.command_line import launcher
from tests.support.fake_scheduler import FakeJob, read_made
from tests.support.fake_stages import StageSpec, World, expected_content

GRID = (StageSpec((), 1), StageSpec((0,), 0, (7, 5, 6)), StageSpec((1,), 3))
"""A stage, a sweep of three points that read it, and a stage that reads what is selected."""


@pytest.fixture
def world(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A site with a Slurm that does what it is told."""
    made = World(tmp_path / "site")
    yield made
    made.close()


def states(world: World, place: int = -1) -> dict[str, str]:
    found, _ = read_stages(world.pipelines[place], world.cluster)
    return {name: one.status.state for name, one in found.items() if one.status}


def run(world: World, job: FakeJob, ok: bool = True) -> None:
    world.start(job)
    (world.finish if ok else world.fail)(job)
    world.advance_after(job)


def run_points(world: World, *failing: int) -> None:
    for place, job in enumerate(world.scheduler.startable()):
        run(world, job, ok=place not in failing)


def line_of(world: World, stage: str) -> str:
    shown = Console(width=200)
    with shown.capture() as captured:
        shown.print(stages_table(read_stages(world.pipelines[-1], world.cluster)[0]))
    [line] = [line for line in captured.get().splitlines() if line.startswith(stage)]
    return " ".join(line.split())


def test_points_are_one_array_and_the_best_one_is_what_the_next_stage_reads(world: World) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    jobs = world.scheduler.jobs
    assert {name: job.conditions for name, job in jobs.items()} == {
        **{"1": []},
        **{f"2_{index}": ["afterok:1"] for index in range(3)},
    }
    assert line_of(world, "s1") == "s1 merge waits 2 0/3 points: 3 waits"
    assert line_of(world, "s2") == f"s2 merge waits {pipeline.runs()['s2'].root.name[-6:]} for `s1`"

    run(world, jobs["1"])
    for index in (0, 1):
        run(world, jobs[f"2_{index}"])
    assert "s1" not in pipeline.runs(), "a point is still to come"
    run(world, jobs["2_2"])

    assert pipeline.runs()["s1"] == pipeline.runs()["s1-seed=5"]
    assert jobs["3"].conditions == []
    assert read_made(pipeline.folder.artifacts / "models" / "made-1") == expected_content(GRID, 1, 5)
    assert "finished" in line_of(world, "s1") and "selected `s1-seed=5` of 3 points, loss 5" in line_of(world, "s1")
    run(world, jobs["3"])
    assert set(states(world).values()) == {"finished"}
    assert [point.values for point in read_points(Path(world.cluster.roots.runs), "p:s1")] == [
        {"seed": seed} for seed in (7, 5, 6)
    ]


def test_submitting_again_starts_nothing(world: World) -> None:
    first = world.submit(GRID)
    world.run_to_the_end()
    count = world.scheduler.count

    again = world.submit(GRID)

    assert first and again
    assert again.folder == first.folder
    assert world.scheduler.count == count


def test_new_points_alone_are_queued_and_what_depends_on_the_selection_only_if_it_changes(world: World) -> None:
    world.submit(GRID)
    world.run_to_the_end()
    made = dict(world.made)

    wider = (GRID[0], replace(GRID[1], sweep=(7, 8, 5, 6)), GRID[2])
    world.submit(wider)
    assert [one for one, state in states(world).items() if state != "finished"] == ["s1-seed=8", "s2"]
    world.run_to_the_end()
    assert world.made.keys() - made.keys() == {expected_content(wider, 1, 8)}, "5 is still the best"
    assert set(states(world).values()) == {"finished"}

    better = (GRID[0], replace(GRID[1], sweep=(7, 5, 6, 4)), GRID[2])
    made = dict(world.made)
    world.submit(better)
    world.run_to_the_end()
    assert world.made.keys() - made.keys() == {expected_content(better, 1, 4), expected_content(better, 2)}


def test_an_edit_before_a_sweep_repeats_all_points_and_one_behind_it_none(world: World) -> None:
    world.submit(GRID)
    world.run_to_the_end()

    world.submit((*GRID[:2], replace(GRID[2], seed=9)))
    assert [one for one, state in states(world).items() if state != "finished"] == ["s2"]
    world.run_to_the_end()
    world.submit((replace(GRID[0], seed=9), *GRID[1:]))

    assert "finished" not in states(world).values()
    world.run_to_the_end()
    assert len(world.made) == 5 + 1 + 5
    assert sorted(world.made.values()) == [1] * 11


def test_a_failed_point_holds_the_selection_back_until_it_is_resumed(world: World) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    run_points(world)
    run_points(world, 1)

    assert "nothing is selected: `s1-seed=5` ended without a result" in line_of(world, "s1")
    assert "for `s1`, which ended without a result" in line_of(world, "s2")
    assert is_over(read_stages(pipeline, world.cluster)[0])
    assert "nothing is selected: `s1-seed=5`" in pipeline.folder.log.read_text()
    world.advance(pipeline)
    assert not world.scheduler.startable(), "nobody resumed it"

    world.advance(pipeline, resume=True)

    assert [job.id for job in world.scheduler.startable()] == ["3_1"]
    world.run_to_the_end()
    assert set(states(world).values()) == {"finished"}
    assert sorted(world.made.values()) == [1] * 5


def test_as_many_points_may_fail_as_the_selection_allows(world: World) -> None:
    pipeline = world.submit(GRID, allow_failed=1)
    assert pipeline
    run_points(world)
    run_points(world, 1)

    assert pipeline.runs()["s1"] == pipeline.runs()["s1-seed=6"]
    assert states(world)["s2"] == "queued"
    world.advance(pipeline, resume=True)
    run_points(world)
    assert pipeline.runs()["s1"] == pipeline.runs()["s1-seed=6"], "a selection that was made stays"


def test_points_without_a_number_are_passed_over_and_told(world: World) -> None:
    world.unmeasured = {5}
    pipeline = world.submit(GRID)
    world.run_to_the_end()

    assert pipeline
    assert pipeline.runs()["s1"] == pipeline.runs()["s1-seed=6"]
    assert "passed over without a number: `s1-seed=5`" in pipeline.folder.log.read_text()


def test_without_any_number_nothing_is_selected(world: World) -> None:
    world.unmeasured = {5, 6, 7}
    pipeline = world.submit(GRID)
    run_points(world)
    run_points(world)

    assert pipeline
    assert "none of 3 points has a number as `loss`" in line_of(world, "s1")
    assert is_over(read_stages(pipeline, world.cluster)[0])


def test_of_equal_points_the_first_one_is_selected(world: World) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    run_points(world)
    for job in world.scheduler.startable():
        world.start(job)
        world.finish(job)
        job.run.metrics.write_text('{"step": 1, "loss": 2.5}\n')
    world.advance(pipeline)

    assert pipeline.runs()["s1"] == pipeline.runs()["s1-seed=7"]


def test_two_pipelines_share_points_that_are_under_way_and_what_follows(world: World) -> None:
    world.submit(GRID)
    world.submit((*GRID, StageSpec((2,), 9)))

    first, second = world.pipelines
    assert [first.runs()[name] == second.runs()[name] for name in first.runs()] == [True] * 5
    world.run_to_the_end()
    assert sorted(world.made.values()) == [1] * 6
    assert set(states(world).values()) == {"finished"}


def test_points_that_the_queue_has_no_room_for_are_queued_later(world: World) -> None:
    world.scheduler.limit = 2
    assert world.submit(GRID)
    run_points(world)
    assert sorted(states(world).values()) == ["finished", "not submitted", "not submitted", "queued", "queued"]

    world.scheduler.limit = 2
    for _ in range(4):
        run_points(world)

    assert set(states(world).values()) == {"finished"}


def test_a_stage_that_starts_before_anything_is_selected_ends(world: World) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    run_points(world)
    run_points(world)
    [job] = world.scheduler.startable()
    pipeline.folder.stage("s1").unlink()

    world.start(job)

    assert read_attempts(job.run.ledger)[-1].missing_inputs


def test_what_is_selected_gets_the_published_name(world: World) -> None:
    assert world.submit(GRID, final="s1")
    world.run_to_the_end()

    assert read_made(Path(world.cluster.roots.models) / "final") == expected_content(GRID, 1, 5)


def test_a_cancelled_sweep_is_resumed(world: World) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    run_points(world)

    world.stop(pipeline)

    assert {job.state for job in world.scheduler.jobs.values()} == {"COMPLETED", "CANCELLED"}
    world.advance(pipeline)
    assert not world.scheduler.startable()
    world.advance(pipeline, resume=True)
    world.run_to_the_end()
    assert set(states(world).values()) == {"finished"}
    assert list(world.made.values()) == [1] * 5


def test_why_names_the_points_that_hold_a_selection_back(world: World, tmp_path: Path) -> None:
    pipeline = world.submit(GRID)
    assert pipeline
    run_points(world)
    run_points(world, 1)
    profile = tmp_path / "cluster.yaml"
    profile.write_text(json.dumps({"name": "test", "roots": world.cluster.roots.model_dump()}))
    site, name = f"--cluster={profile}", pipeline.record.id

    assert launcher("why", "p", site)[0].splitlines() == [
        "s1: `s1-seed=5` ended without a result",
        "s2: not submitted: waits for `s1`",
        "next:",
        f"  launcher why {name} STAGE  # explains one of them",
        f"  launcher resume {name}  # takes up what failed or was stopped",
    ]
    told = launcher("why", "p", "s1", site)[0].splitlines()
    assert told[0] == "nothing is selected: `s1-seed=5` ended without a result"
    assert told[1].startswith("  s1-seed=5: failed")
    assert told[-2:] == [
        f"  launcher why {name} s1-seed=5  # explains this point",
        f"  launcher resume {name}  # takes up what failed or was stopped",
    ]
    assert "is failed" in launcher("why", "p", "s1-seed=5", site)[0]
    assert (
        "nothing is selected yet; name one of its points: `s1-seed=7`" in launcher("logs", "p", "s1", site, code=2)[1]
    )
    assert "its stages are `s0`, `s1`, `s2`" in launcher("logs", "p", "s9", site, code=2)[1]

    world.advance(pipeline, resume=True)
    world.run_to_the_end()

    assert launcher("why", "p", site)[0] == "all stages have finished\n"
    assert launcher("why", "p", "s1", site)[0] == "selected `s1-seed=5` of 3 points, loss 5\n"


def test_a_sweep_all_of_whose_points_finished_elsewhere_is_selected_from_at_once(world: World) -> None:
    spec = (StageSpec((), 0, (7, 8)), StageSpec((0,), 0, (3, 4)), StageSpec((1,), 5))
    first = world.submit(spec)
    assert first
    world.run_to_the_end()

    again = world.submit((replace(spec[0], sweep=(7, 8, 9)), spec[1], replace(spec[2], seed=6)))
    assert again
    [new] = world.scheduler.startable()
    world.start(new)
    world.finish(new)
    world.advance_after(new)

    assert again.run_of("s1") == first.run_of("s1")
    [last] = world.scheduler.startable()
    assert last.run == again.run_of("s2")
    world.run_to_the_end()
    assert world.unfinished() == []
