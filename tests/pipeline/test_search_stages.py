"""Stages that are searches: when their trials begin, which of them is selected, and what a person may do meanwhile."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from jobs.batch import main as batch
from jobs.batch.search import NextTrial
from jobs.batch.supervise import Signals
from launcher.cli.pipeline import advance as advance_folder
from launcher.cli.pipeline import stop
from launcher.cli.views.pipeline_view import stages_table
from launcher.errors import RunError, SlurmError
from launcher.monitor.trials import read_past
from launcher.operate.search.ask import ask
from launcher.pipeline.advance import advance
from launcher.pipeline.choose import Choice
from launcher.pipeline.find import find_stage, find_stage_search, pipelines_with
from launcher.pipeline.plan import plan_pipeline
from launcher.pipeline.record import Pipeline
from launcher.pipeline.states import is_over, read_stages
from launcher.pipeline.submit import submit_pipeline
from launcher.recipe import read_recipe
from launcher.run.ledger import append_event, read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.stage_inputs import missing_inputs
from launcher.run.trials import Owner, SearchDir, find_search
from launcher.submit.search_record import SearchRecord
from tests.support.fake_scheduler import FakeJob, write_made
from tests.support.fake_stages import StageSpec, World, load

SPEC = (StageSpec((), 1), StageSpec((0,), 0, search=(7, 5, 6)), StageSpec((1,), 3))
"""A stage, a search of three trials that read it, and a stage that reads what is selected."""


@pytest.fixture
def world(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A site with a Slurm that does what it is told."""
    made = World(tmp_path / "site")
    yield made
    made.close()


@pytest.fixture
def begun(world: World) -> Pipeline:
    """The pipeline, whose search has just been queued."""
    pipeline = world.submit(SPEC)
    assert pipeline
    [first] = world.scheduler.startable()
    world.start(first)
    world.finish(first)
    world.advance_after(first)
    return pipeline


def search_of(pipeline: Pipeline) -> SearchDir:
    found = find_search(pipeline.folder.root.parent, str(pipeline.record.stages[1].search))
    assert found
    return found


def carry_out(
    world: World, search: SearchDir, job: FakeJob, most: int = 100, failing: Sequence[int] = (), advances: bool = True
) -> list[RunDir]:
    """Let an element carry out trials, whose losses are their seeds; the batch process advances after each.

    Unless it was killed before: then it does not, and nobody has noted the end of the trial.
    """
    runs: list[RunDir] = []
    job.state = "RUNNING"
    while len(runs) < most and (trial := ask(search, Owner(job.id), job.submission).trial):
        run, ok = RunDir(search.runs_root / trial.run), trial.values["seed"] not in failing
        number = len(read_attempts(run.ledger))
        append_event(run.ledger, number, job_id=job.id, started=1.0)
        assert missing_inputs(RunRecord.read(run.record)) == []
        run.metrics.write_text(json.dumps({"step": 1, "loss": trial.values["seed"]}) + "\n")
        write_made(run.outputs / "model", run.root.name)
        told = {"reason": "finished", "action": "done"} if ok else {"reason": "error", "action": "stop"}
        append_event(
            run.ledger, 0, **(told if advances else {"reason": told["reason"]}), ended=2.0 if advances else None
        )
        runs.append(run)
        for pipeline in pipelines_with(run) if advances else ():
            world.advance(pipeline)
    job.state = "COMPLETED"
    return runs


def finish_first(world: World, pipeline: Pipeline) -> FakeJob:
    """Let the first stage of a pipeline finish."""
    job = next(job for job in world.scheduler.startable() if job.run == pipeline.run_of("s0"))
    world.start(job)
    world.finish(job)
    return job


def states(world: World, pipeline: Pipeline) -> list[str]:
    found, _ = read_stages(pipeline, world.cluster)
    return [one.status.state for one in found.values() if one.status]


def test_a_search_begins_when_its_inputs_are_there_and_its_best_trial_is_what_the_next_stage_reads(
    world: World, begun: Pipeline
) -> None:
    search, elements = search_of(begun), world.scheduler.startable()
    assert [job.id for job in elements] == ["2_0", "2_1"]
    assert states(world, begun) == ["finished", "queued", "not submitted"]

    runs = carry_out(world, search, elements[0])

    assert len(runs) == 3
    best = next(run for run in runs if json.loads(run.recipe.read_text())["seed"] == 5)
    assert begun.run_of("s1") == best
    assert (begun.folder.artifacts / "models" / "made-1").resolve() == best.outputs / "model"
    assert read_recipe(best.recipe.read_text()).makes is None, "only the pipeline names what a trial makes"
    assert states(world, begun) == ["finished", "finished", "queued"]
    shown = Console(width=200)
    with shown.capture() as captured:
        shown.print(stages_table(read_stages(begun, world.cluster)[0]))
    assert f"selected `{best.root.name}`, loss 5" in " ".join(captured.get().split())


def test_an_edit_behind_a_search_uses_its_trials_again(world: World, begun: Pipeline) -> None:
    carry_out(world, search_of(begun), world.scheduler.startable()[0])
    before = world.scheduler.count

    again = world.submit((*SPEC[:2], replace(SPEC[2], seed=4)))

    assert again
    assert again.folder != begun.folder
    assert again.run_of("s1") == begun.run_of("s1")
    assert world.scheduler.count == before + 1, "the last stage alone is queued"


def test_another_search_begins_anew(world: World, begun: Pipeline) -> None:
    carry_out(world, search_of(begun), world.scheduler.startable()[0])

    again = world.submit((SPEC[0], replace(SPEC[1], search=(7, 5, 6, 8)), SPEC[2]))

    assert again
    assert again.run_of("s1") is None
    assert [job.id.partition("_")[1] for job in world.scheduler.startable()][-2:] == ["_", "_"]


def test_a_trial_that_failed_is_passed_over(world: World, begun: Pipeline) -> None:
    search = search_of(begun)

    carry_out(world, search, world.scheduler.startable()[0], failing=[5])

    best = begun.run_of("s1")
    assert best
    assert json.loads(best.recipe.read_text())["seed"] == 6


def test_a_cancelled_search_goes_on_when_the_pipeline_is_resumed(world: World, begun: Pipeline) -> None:
    search = search_of(begun)
    carry_out(world, search, world.scheduler.startable()[0], most=1)

    stop(begun, world.cluster, at_once=True)

    assert world.scheduler.startable() == []
    assert states(world, begun) == ["finished", "stopped", "not submitted"]
    assert is_over(read_stages(begun, world.cluster)[0])
    world.advance(begun)
    assert world.scheduler.startable() == []

    world.advance(begun, resume=True)
    carry_out(world, search, world.scheduler.startable()[0])

    assert len(read_past(search, "loss")) == 3
    assert states(world, begun) == ["finished", "finished", "queued"]


def test_a_search_that_was_stopped_while_its_last_trial_finished_is_selected_from_when_it_is_resumed(
    world: World, begun: Pipeline
) -> None:
    carry_out(world, search_of(begun), world.scheduler.startable()[0], advances=False)
    stop(begun, world.cluster, at_once=False)
    assert states(world, begun)[1:] == ["stopped", "not submitted"]

    told = advance(begun, world.cluster, resume=True)

    assert states(world, begun)[1:] == ["finished", "queued"]
    assert [line.partition(" as ")[0] for line in told][1:] == ["s2: queued"]
    assert told[0].startswith("s1: selected ")


def test_a_search_whose_jobs_are_gone_is_lost_until_it_is_resumed(world: World, begun: Pipeline) -> None:
    search = search_of(begun)
    for job in world.scheduler.startable():
        carry_out(world, search, job, most=1)

    assert states(world, begun) == ["finished", "lost", "not submitted"]
    world.advance(begun, resume=True)
    assert states(world, begun) == ["finished", "queued", "not submitted"]


def test_a_search_whose_queueing_was_killed_is_queued_by_the_next_advance(world: World, begun: Pipeline) -> None:
    for job in world.scheduler.startable():  # as if sbatch had never been called
        job.state = "CANCELLED"

    world.advance(begun)

    assert len(world.scheduler.startable()) == 2


def test_the_search_of_a_stage_is_found_by_its_name(world: World, begun: Pipeline) -> None:
    assert find_stage_search(world.cluster, "p:s1") == search_of(begun)
    assert find_stage_search(world.cluster, "p:s0") is None
    with pytest.raises(RunError, match="no trial is selected yet"):
        find_stage(world.cluster, "p", "s1")


@pytest.mark.parametrize("has_trials", [True, False])
def test_an_element_without_a_further_trial_lets_the_pipeline_go_on(
    world: World, begun: Pipeline, monkeypatch: pytest.MonkeyPatch, has_trials: bool
) -> None:
    search, job = search_of(begun), world.scheduler.startable()[0]
    carry_out(world, search, job, most=100 if has_trials else 0, advances=False)
    assert states(world, begun)[2] == "not submitted"
    advanced = []

    def run(argv: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert argv[2:5] == ["launcher", "pipeline", "advance"]
        advanced.append(argv[5])
        advance_folder(Path(argv[5]))
        return subprocess.CompletedProcess(argv, 0, "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(batch, "next_trial", lambda *_: NextTrial(None))

    assert batch._carry_out_trials(search.root, job.submission, False, Signals()) == 0

    assert len(advanced) == 1
    assert states(world, begun)[1:] == (["finished", "queued"] if has_trials else ["queued", "not submitted"])


def fail_all(world: World, pipeline: Pipeline) -> list[RunDir]:
    """Let every trial fail."""
    failed = carry_out(world, search_of(pipeline), world.scheduler.startable()[0], failing=SPEC[1].search)
    for job in world.scheduler.startable():
        carry_out(world, search_of(pipeline), job)
    assert states(world, pipeline)[1] == "failed"
    return failed


def test_a_search_whose_submission_was_killed_belongs_to_the_next_pipeline(world: World) -> None:
    killed = world.submit(SPEC)
    assert killed
    killed.folder.record.unlink()  # what is written last

    again = world.submit(SPEC)

    assert again
    world.advance_after(finish_first(world, again))
    assert SearchRecord.read(search_of(again).record).pipeline == str(again.folder.root)
    carry_out(world, search_of(again), world.scheduler.startable()[-1])
    assert states(world, again)[1:] == ["finished", "queued"]


def test_a_search_that_came_to_nothing_is_tried_again_with_the_code_of_the_next_submission(
    world: World, begun: Pipeline
) -> None:
    failed = fail_all(world, begun)
    before = {os.path.realpath(run.code) for run in failed}
    (world.folder / "code" / "launcher" / "one.py").write_text("mended = True\n")

    again = world.submit(SPEC)

    assert again
    assert again != begun
    elements = world.scheduler.startable()
    assert len(elements) == 2
    runs = carry_out(world, search_of(again), elements[0])
    assert {run.root for run in runs} == {run.root for run in failed}
    [code] = {os.path.realpath(run.code) for run in runs}
    assert code not in before
    assert f"PYTHONPATH={code}" in elements[0].submission.script.read_text().replace("'", "")
    assert {RunRecord.read(run.record).pipeline for run in runs} == {str(again.folder.root)}
    assert states(world, again)[1:] == ["finished", "queued"]


def test_a_refused_submission_leaves_the_search_that_it_would_have_taken_up(world: World, begun: Pipeline) -> None:
    failed = fail_all(world, begun)
    world.scheduler.limit = 0

    assert world.submit(SPEC) is None

    world.scheduler.limit = None
    world.advance(begun, resume=True)
    runs = carry_out(world, search_of(begun), world.scheduler.startable()[0])
    assert {run.root for run in runs} == {run.root for run in failed}
    assert {RunRecord.read(run.record).pipeline for run in runs} == {str(begun.folder.root)}
    assert states(world, begun)[1:] == ["finished", "queued"]


def test_a_search_that_another_pipeline_will_queue_stays_its_own(world: World) -> None:
    first = world.submit(SPEC)
    assert first

    second = world.submit((*SPEC[:2], replace(SPEC[2], seed=4)))

    assert second
    assert SearchRecord.read(search_of(second).record).pipeline == str(first.folder.root)


def test_another_pipeline_waits_for_what_follows_a_search_only_while_the_search_goes_on(
    world: World, begun: Pipeline
) -> None:
    last = begun.record.stages[2]
    awaited = Choice(world.cluster)._in_other_pipelines()
    assert awaited[last.key] == begun.run_of("s2")

    fail_all(world, begun)

    assert last.key not in Choice(world.cluster)._in_other_pipelines()


def test_elements_that_another_node_has_just_queued_are_not_queued_again_by_an_old_listing(
    world: World, begun: Pipeline
) -> None:
    for path in search_of(begun).elements.iterdir():
        path.unlink()  # a listing over NFS that is a minute old

    world.advance(begun)

    assert len(world.scheduler.startable()) == 2
    assert states(world, begun)[1] == "queued"


def test_a_cancelled_search_goes_on_when_its_pipeline_is_submitted_again(world: World, begun: Pipeline) -> None:
    [done] = carry_out(world, search_of(begun), world.scheduler.startable()[0], most=1)
    stop(begun, world.cluster, at_once=True)

    again = world.submit(SPEC)

    assert again
    assert again != begun
    runs = carry_out(world, search_of(again), world.scheduler.startable()[0])
    assert len(runs) == 2
    assert done not in runs, "what has finished stays"
    assert states(world, again)[1:] == ["finished", "queued"]


def test_a_search_of_which_all_trials_finished_without_a_number_is_not_tried_again(
    world: World, begun: Pipeline
) -> None:
    for run in carry_out(world, search_of(begun), world.scheduler.startable()[0], advances=False):
        run.metrics.unlink()
    for job in world.scheduler.startable():
        carry_out(world, search_of(begun), job)
    assert states(world, begun)[1] == "failed"

    with pytest.raises(SlurmError, match="none of 3 trials has a number as `loss`"):
        submit_pipeline(plan_pipeline(load(SPEC, world.folder), world.cluster))

    assert len(read_past(search_of(begun), "loss")) == 3


def test_the_input_of_a_search_is_never_taken_for_its_best_trial(world: World, begun: Pipeline) -> None:
    first = begun.run_of("s0")
    assert first
    first.metrics.write_text(json.dumps({"step": 1, "loss": 0.1}) + "\n")

    carry_out(world, search_of(begun), world.scheduler.startable()[0], most=1)

    assert advance(begun, world.cluster) == []
    assert begun.run_of("s1") is None


def test_a_finished_search_of_a_cancelled_pipeline_is_not_about_to_be_selected(world: World, begun: Pipeline) -> None:
    stop(begun, world.cluster, at_once=True)
    again = world.submit(SPEC)
    assert again
    carry_out(world, search_of(again), world.scheduler.startable()[0])

    assert states(world, again)[1] == "finished"
    assert states(world, begun)[1] == "stopped"
    assert is_over(read_stages(begun, world.cluster)[0])
    world.advance(begun, resume=True)
    assert begun.run_of("s1") == again.run_of("s1")


def test_two_pipelines_share_what_waits_for_a_search_and_for_a_run_that_they_share(world: World) -> None:
    spec = (StageSpec((), 1), StageSpec((), 0, search=(7, 5)), StageSpec((0,), 2), StageSpec((0, 1, 2), 3))
    first = world.submit(spec)
    assert first
    world.stop(first)
    world.scheduler.limit = 2
    second = world.submit(spec)
    assert second
    world.advance(first, resume=True)

    world.run_to_the_end()

    assert world.unfinished() == []
    assert first.run_of("s3") == second.run_of("s3")
