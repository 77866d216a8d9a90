"""Pipelines as people meet them: files, faults, what is queued, what is reused, and what failures leave."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cli.pipeline import stop as stop_pipeline
from launcher.cli.views.pipeline_view import stages_table
from launcher.errors import LauncherError, RecipeError, SlurmError
from launcher.load.pipeline import is_pipeline, load_pipeline
from launcher.pipeline.find import find_pipeline, find_stage
from launcher.pipeline.record import Pipeline
from launcher.pipeline.states import read_stages
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.command_line import launcher
from tests.support.evaluations import answered, choice_report, write_evaluation
from tests.support.fake_scheduler import read_made
from tests.support.fake_stages import StageSpec, World, edit
from tests.support.recipe_files import summarise

CHAIN = (StageSpec((), 1), StageSpec((0,), 2), StageSpec((1,), 3))
STAGE = "{kind: merge, name: one, base_model: base, adapters: [{path: lora}], output: made, resources: {time: 1h}}"


@pytest.fixture
def world(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A site with a Slurm that does what it is told."""
    made = World(tmp_path / "site")
    yield made
    made.close()


def write(folder: Path, text: str) -> Path:
    (folder / "one.yaml").write_text(STAGE)
    path = folder / "pipeline.yaml"
    path.write_text(f"kind: pipeline\nname: p\n{text}")
    return path


def states(world: World, place: int = -1) -> dict[str, str]:
    found, _ = read_stages(world.pipelines[place], world.cluster)
    return {name: one.status.state for name, one in found.items() if one.status}


def run_next(world: World, ok: bool = True) -> None:
    [job] = world.scheduler.startable()
    world.start(job)
    (world.finish if ok else world.fail)(job)
    world.advance_after(job)


def test_a_stage_is_a_file_or_a_recipe_and_the_pipeline_has_the_last_word(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "set: {tolerance: 0.5}\nstages:\n  first: one.yaml\n"
        f"  second: {{recipe: {STAGE}, set: {{base_model: made, output: other, tolerance: 0.25}}, needs: [first]}}\n",
    )

    first, second = load_pipeline(path, ["seed=7"]).stages

    assert is_pipeline(path)
    assert not is_pipeline(tmp_path / "one.yaml")
    assert (first.loaded.recipe.seed, second.needs) == (7, ("first",))
    dumped = [json.loads(stage.loaded.recipe.model_dump_json()) for stage in (first, second)]
    assert [one["tolerance"] for one in dumped] == [0.5, 0.25]
    assert (dumped[1]["base_model"], dumped[1]["output"]) == ("made", "other")
    typed = load_pipeline(path, ["tolerance=0.125"]).stages
    assert [json.loads(stage.loaded.recipe.model_dump_json())["tolerance"] for stage in typed] == [0.125, 0.125]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stages: {first: two.yaml}", ["pipeline.yaml:3 not-found stages.first.recipe"]),
        ("stages: {first: {recipe: one.yaml, needs: [zero]}}", ["pipeline.yaml:3 conflict stages.first.needs"]),
        ("stages: {first: one.yaml}\npublish: {x: zero}", ["pipeline.yaml:4 conflict publish.x"]),
        ("set: {optim.lr: 1.0}\nstages: {first: one.yaml}", ["pipeline.yaml:3 unknown-key set.optim.lr"]),
        (
            "stages: {first: {recipe: one.yaml, set: {basemodel: x}}}",
            ["pipeline.yaml:3 unknown-key stages.first.set.basemodel"],
        ),
        ("stages: {}", ["pipeline.yaml:3 out-of-range stages"]),
    ],
)
def test_the_faults_of_a_pipeline_have_their_places(tmp_path: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_pipeline(write(tmp_path, text))

    assert summarise(caught.value.faults) == expected


def test_everything_is_queued_at_once_and_submitting_again_queues_nothing(world: World) -> None:
    assert world.submit(CHAIN)
    assert [job.conditions for job in world.scheduler.jobs.values()] == [[], ["afterok:1"], ["afterok:2"]]
    assert world.submit(CHAIN) is None, "it is under way"

    for _ in CHAIN:
        run_next(world)
    assert world.submit(CHAIN)

    assert len(world.scheduler.jobs) == 3
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")
    artifact = world.pipelines[-1].folder.artifacts / "models" / "made-2"
    assert read_made(artifact) == read_made(world.pipelines[0].folder.artifacts / "models" / "made-2")


def test_an_edit_queues_what_it_changes(world: World) -> None:
    world.submit(CHAIN)
    world.run_to_the_end()

    world.submit(edit(CHAIN, 1, 9))

    assert states(world) == {"s0": "finished", "s1": "queued", "s2": "queued"}
    assert [job.conditions for job in world.scheduler.jobs.values() if not job.is_over] == [[], ["afterok:4"]]
    world.run_to_the_end()
    assert sorted(world.made.values()) == [1] * 5


def test_two_pipelines_share_the_stages_they_have_in_common(world: World) -> None:
    world.submit(CHAIN)
    world.submit(edit(CHAIN, 2, 9))

    first, second = world.pipelines
    assert first.run_of("s1") == second.run_of("s1")
    assert first.run_of("s2") != second.run_of("s2")
    world.run_to_the_end()

    assert world.unfinished() == []
    assert sorted(world.made.values()) == [1] * 4


def test_a_failure_keeps_what_is_behind_it_waiting_until_it_is_resumed(world: World) -> None:
    world.submit(CHAIN)
    run_next(world, ok=False)
    assert [job.never for job in world.scheduler.jobs.values()] == [False, True, False]

    world.advance(world.pipelines[0])
    assert len(world.scheduler.jobs) == 3, "nobody resumed it"
    world.advance(world.pipelines[0], resume=True)

    assert world.scheduler.jobs["2"].conditions == ["afterok:4"]
    world.run_to_the_end()
    assert world.unfinished() == []
    assert len(world.scheduler.jobs) == 4


def test_a_stage_that_slurm_starts_too_early_ends_and_is_queued_again_when_its_input_is_there(world: World) -> None:
    world.submit(CHAIN)
    run_next(world, ok=False)
    world.scheduler.restart()  # it forgets the failed job, and so lets the second go
    [job] = world.scheduler.startable()

    world.start(job)

    assert read_attempts(job.run.ledger)[-1].missing_inputs
    assert states(world) == {"s0": "failed", "s1": "failed", "s2": "queued"}
    world.advance(world.pipelines[0], resume=True)
    world.run_to_the_end()
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")


def test_what_a_full_queue_holds_back_is_queued_later_and_a_full_one_at_the_start_is_an_error(world: World) -> None:
    world.scheduler.limit = 1
    assert world.submit(CHAIN)
    assert states(world) == {"s0": "queued", "s1": "not submitted", "s2": "not submitted"}

    for _ in CHAIN:
        run_next(world)
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")

    world.scheduler.limit = 0
    before = sorted(Path(world.cluster.roots.runs).iterdir())
    assert world.submit(edit(CHAIN, 0, 9)) is None
    assert sorted(Path(world.cluster.roots.runs).iterdir()) == before


def test_a_stage_that_has_all_it_needs_and_no_job_says_that_it_is_queued_later(world: World) -> None:
    world.scheduler.limit = 1
    pipeline = world.submit((StageSpec((), 1), StageSpec((), 2)))
    assert pipeline

    shown = Console(width=100)
    with shown.capture() as captured:
        shown.print(stages_table(read_stages(pipeline, world.cluster)[0]))

    [line] = [line for line in captured.get().splitlines() if line.startswith("s1")]
    assert "waits" in line and "is queued when a stage ends" in line


def test_a_result_gets_its_name_at_the_site_when_it_is_there(world: World) -> None:
    models = Path(world.cluster.roots.models)
    pipeline = world.submit(CHAIN, final="s2")
    assert pipeline
    run_next(world)
    run_next(world)
    assert not (models / "final").exists()

    run_next(world)

    assert (models / "final").resolve() == (pipeline.folder.artifacts / "models" / "made-2").resolve()
    world.submit(edit(CHAIN, 2, 2))
    with pytest.raises(RecipeError, match=r"publish.final: `.*` exists already, and is something else"):
        world.submit(edit(CHAIN, 2, 9), final="s2")
    assert world.submit(CHAIN, final="s2"), "it is the same thing"


def test_a_cancelled_pipeline_queues_nothing_until_it_is_resumed(world: World) -> None:
    pipeline = world.submit(CHAIN)
    assert pipeline
    run_next(world)

    world.stop(pipeline)

    assert [job.state for job in world.scheduler.jobs.values()] == ["COMPLETED", "CANCELLED", "CANCELLED"]
    world.advance(pipeline)
    assert len(world.scheduler.jobs) == 3
    world.advance(pipeline, resume=True)
    world.run_to_the_end()
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")
    assert list(world.made.values()) == [1, 1, 1]


def cancelled_while_slurm_is_away(world: World) -> Pipeline:
    pipeline = world.submit(CHAIN)
    assert pipeline
    world.scheduler.is_down = True
    with pytest.raises(SlurmError):
        stop_pipeline(pipeline, world.cluster, at_once=True)
    world.scheduler.restart()
    return pipeline


def test_what_is_cancelled_while_slurm_does_not_answer_does_nothing_when_it_starts(world: World) -> None:
    pipeline = cancelled_while_slurm_is_away(world)

    [job] = world.scheduler.startable()
    world.start(job)

    assert not world.scheduler.running()
    world.advance(pipeline, resume=True)
    world.run_to_the_end()
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")
    assert list(world.made.values()) == [1, 1, 1]


def test_resuming_at_once_takes_back_what_cancelling_asked_for(world: World) -> None:
    pipeline = cancelled_while_slurm_is_away(world)

    world.advance(pipeline, resume=True)

    for _ in CHAIN:
        run_next(world)
    assert states(world) == dict.fromkeys(["s0", "s1", "s2"], "finished")


def test_a_changed_input_is_noticed(world: World) -> None:
    world.submit(CHAIN)
    run_next(world)
    (world.pipelines[0].folder.artifacts / "models" / "made-0" / "manifest.json").write_text('{"inputs": "other"}')
    [job] = world.scheduler.startable()

    world.start(job)

    assert read_attempts(job.run.ledger)[-1].missing_inputs
    world.advance(world.pipelines[0])
    assert job.is_over
    assert not world.scheduler.startable(), "it would only fail again"


def test_stages_that_wait_for_each_other_are_named(world: World) -> None:
    with pytest.raises(LauncherError, match="s0 -> s1 -> s0: these stages wait for each other"):
        world.submit((StageSpec((1,)), StageSpec((0,))))


def test_pipelines_and_stages_are_found_by_their_names(world: World) -> None:
    pipeline = world.submit(CHAIN)
    assert pipeline

    for name in ("p", pipeline.record.id, str(pipeline.folder.root), pipeline.folder.root.name):
        found = find_pipeline(world.cluster, name)
        assert found
        assert found.folder == pipeline.folder
    run = find_stage(world.cluster, "p", "s1")
    assert RunRecord.read(run.record).stage == "s1"
    assert run == RunDir(run.root.parent / pipeline.folder.stage("s1").resolve().name)
    with pytest.raises(LauncherError, match="has no stage `s9`; its stages are `s0`, `s1`, `s2`"):
        find_stage(world.cluster, "p", "s9")


def test_the_scores_of_its_stages_are_one_table(world: World, tmp_path: Path) -> None:
    pipeline = world.submit(CHAIN)
    assert pipeline
    evaluated, classified = (pipeline.runs()[name].outputs for name in ("s0", "s1"))
    write_evaluation(evaluated, {"medqa": choice_report(answered([True, False, True, True]))}, "base", "abc123")
    auroc = {"value": 0.7512, "low": 0.7, "high": None}
    split = {"notes": 120, "scores": {"auroc": auroc, "accuracy": {"value": 0.6}}}
    classified.mkdir(exist_ok=True)
    (classified / "scores.json").write_text(json.dumps({"splits": {"train": split, "test": split}}))
    profile = tmp_path / "cluster.yaml"
    profile.write_text(json.dumps({"name": "test", "roots": world.cluster.roots.model_dump()}))

    shown, _ = launcher("compare", "p", "--cluster", str(profile), "--published", "medcare")
    found = json.loads(launcher("compare", "p", "--cluster", str(profile), "--json")[0])

    rows = [line.split() for line in shown.splitlines() if line.startswith(("s0", "s1"))]
    assert [row[:4] for row in rows] == [["s0", "medqa", "acc", "0.7500"], ["s1", "test", "auroc", "0.7512"]]
    assert "published by MedCare" in shown
    assert found["scores"][1] == {"stage": "s1", "point": "", "task": "test", "metric": "auroc", "n": 120} | auroc
    assert found["published"] is None, "no system has the name of this pipeline"


def test_notes_of_tasks_are_shown_with_the_scores_of_a_pipeline(world: World, tmp_path: Path) -> None:
    pipeline = world.submit(CHAIN)
    assert pipeline
    task = choice_report(answered([True, False]), notes=("2 of 1273 questions",))
    write_evaluation(pipeline.runs()["s0"].outputs, {"medqa": task}, "base", "abc123")
    profile = tmp_path / "cluster.yaml"
    profile.write_text(json.dumps({"name": "test", "roots": world.cluster.roots.model_dump()}))

    shown, _ = launcher("compare", "p", "--cluster", str(profile))

    assert "note: s0: `medqa`: 2 of 1273 questions" in shown.splitlines()


def test_a_pipeline_without_scores_is_told(world: World, tmp_path: Path) -> None:
    assert world.submit(CHAIN)
    profile = tmp_path / "cluster.yaml"
    profile.write_text(json.dumps({"name": "test", "roots": world.cluster.roots.model_dump()}))

    _, said = launcher("compare", "p", "--cluster", str(profile), code=2)

    assert "`p`: no stage has finished with scores" in said


def test_the_end_of_a_stage_leaves_nothing_to_do_while_all_stages_are_queued(world: World) -> None:
    world.submit(CHAIN)

    run_next(world)
    run_next(world)

    assert world.spared == 2


def test_a_stage_that_was_queued_once_more_lets_those_behind_it_go(world: World) -> None:
    pipeline = world.submit(CHAIN)
    assert pipeline
    run_next(world, ok=False)
    world.advance(pipeline, resume=True)

    run_next(world)

    assert world.spared == 0
    assert len(world.scheduler.startable()) == 1


def test_a_published_result_gets_its_name_though_the_batch_process_was_killed(world: World) -> None:
    world.submit(CHAIN, best="s0")
    [job] = world.scheduler.startable()
    world.start(job)
    world.finish(job)  # and its batch process is killed

    run_next(world)

    assert (world.folder / "models" / "best").is_symlink()
