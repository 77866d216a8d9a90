"""A pipeline before it is submitted: the order of its stages, their faults, and what is left to do."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import Fault, RecipeError
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.pipeline.choose import Choice
from launcher.pipeline.faults import find_faults
from launcher.pipeline.order import StageOrder, order_stages
from launcher.pipeline.record import StageRecord
from launcher.recipe.identity import look_at_input, recipe_checksum
from launcher.run.locations import Locations
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord
from launcher.submit.plan_submission import SubmissionPlan, SubmitOptions, plan_submission, runs_root_of
from launcher.submit.render import slug
from launcher.submit.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class PlannedStage:
    """One stage, and what is left to do of it."""

    record: StageRecord
    loaded: LoadedRecipe
    finished: RunDir | None = None
    """A run that did all of it."""
    shared: RunDir | None = None
    """A run of another pipeline that is doing it."""
    plan: SubmissionPlan | None = None
    """Its own run; None if it needs none."""


@dataclass(frozen=True)
class PipelinePlan:
    """All that submitting a pipeline will do."""

    loaded: LoadedPipeline
    cluster: Cluster
    folder: PipelineDir
    fingerprint: str
    stages: tuple[PlannedStage, ...]
    """Each after those that it waits for."""
    rehearsal: bool = False
    rerun: bool = False

    @property
    def to_do(self) -> list[PlannedStage]:
        """The stages that get a run of their own."""
        return [stage for stage in self.stages if stage.plan is not None]


def plan_pipeline(
    loaded: LoadedPipeline, cluster: Cluster, rehearsal: bool = False, rerun: bool = False
) -> PipelinePlan:
    """Sort the stages of a pipeline, check them, and find out which are done. Changes nothing.

    Args:
        loaded: The pipeline.
        cluster: Where it goes.
        rehearsal: It was loaded with `--rehearse`.
        rerun: Use nothing that has finished before.

    Raises:
        RecipeError: With all faults of all stages.
        LauncherError: Stages wait for each other.
    """
    root = runs_root_of(cluster)
    folder = _new_folder(root, loaded.recipe.name)
    items = {stage.name: replace(stage.loaded, artifacts=folder.artifacts) for stage in loaded.stages}
    order = order_stages(loaded)
    if faults := find_faults(loaded, items, cluster):
        raise RecipeError(faults)
    keys = _keys(items, order, cluster, folder.root.name if rerun else "")
    base = PipelinePlan(loaded, cluster, folder, _checksum([keys, dict(loaded.recipe.publish)]), (), rehearsal, rerun)
    choice, snapshot = Choice(cluster, folder.root.name), read_code(root)
    stages = []
    for name, awaits in order.awaits.items():
        made = items[name].recipe.makes
        record = StageRecord(name, tuple(sorted(awaits)), (made.type, made.name) if made else None, keys[name])
        stages.append(_plan_stage(PlannedStage(record, items[name]), base, choice, snapshot))
    plan = replace(base, stages=tuple(stages))
    if faults := [*_taken_names(plan)]:
        raise RecipeError(faults)
    return plan


def _plan_stage(stage: PlannedStage, plan: PipelinePlan, choice: Choice, snapshot: Snapshot) -> PlannedStage:
    """Find out who carries a stage out."""
    record, item = stage.record, stage.loaded
    run = None if plan.rerun else choice.choose(record, item.recipe, item.folder, record.awaits)
    if run:
        is_finished = record.name in choice.finished
        return replace(stage, finished=run if is_finished else None, shared=None if is_finished else run)
    options = SubmitOptions(rehearsal=plan.rehearsal, pipeline=plan.folder.root, stage=record.name, check=False)
    return replace(stage, plan=plan_submission([item], plan.cluster, options, snapshot))


def _new_folder(root: Path, name: str) -> PipelineDir:
    taken = {entry.rpartition("-")[2] for entry in (os.listdir(root) if root.is_dir() else ())}
    while (pipeline_id := secrets.token_hex(3)) in taken:
        pass
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return PipelineDir(root / f"{slug(name) or 'pipeline'}-{stamp}-{pipeline_id}")


def _taken_names(plan: PipelinePlan) -> Iterator[Fault]:
    """Refuse names at the site that something else has."""
    stages = {stage.record.name: stage for stage in plan.stages}
    for name, of in {} if plan.rehearsal else plan.loaded.recipe.publish.items():
        stage = stages[of]
        assert stage.record.makes is not None  # `_unpublishable`
        artifact, made = stage.record.makes
        place = Locations(plan.cluster.roots.model_dump(), "").folder(artifact, name)
        if not os.path.lexists(place):
            continue
        finished = _locations_of(stage.finished).folder(artifact, made) if stage.finished else None
        if finished is None or os.path.realpath(finished) != os.path.realpath(place):
            message = f"`{place}` exists already, and is something else; write another name, or remove it"
            yield plan.loaded.place(f"publish.{name}", message, "name-taken")


def _locations_of(run: RunDir) -> Locations:
    return RunRecord.read(run.record).locations


def _keys(items: Mapping[str, LoadedRecipe], order: StageOrder, cluster: Cluster, salt: str) -> dict[str, str]:
    """Give each stage a checksum of its recipe, of what it reads from elsewhere, and of the stages before it."""
    keys: dict[str, str] = {}
    for name, reads in order.reads.items():
        item = items[name]
        locations = Locations(cluster.roots.model_dump(), item.folder)
        parts: list[object] = [salt, recipe_checksum(item.recipe)]
        for one in (*item.recipe.inputs(), *item.recipe.optional_inputs()):
            content = None if one.key in reads else look_at_input(one, locations)
            parts.append([one.key, keys[reads[one.key]] if one.key in reads else content and content.as_json()])
        keys[name] = _checksum(parts)
    return keys


def _checksum(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
