"""A pipeline before it is submitted: the order of its stages, their faults, and what is left to do."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import Fault, RecipeError
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.pipeline.choose import Choice
from launcher.pipeline.faults import awaited_names, find_faults
from launcher.pipeline.order import StageOrder, order_stages
from launcher.pipeline.record import Selection, StageRecord, made_for
from launcher.recipe.identity import look_at_input, recipe_checksum
from launcher.run.locations import Locations
from launcher.run.paths import PipelineDir, RunDir
from launcher.submit.plan_submission import SubmissionPlan, SubmitOptions, plan_submission, runs_root_of
from launcher.submit.render import slug
from launcher.submit.searches import SearchPlan, plan_search
from launcher.submit.snapshot import Snapshot, read_code


@dataclass(frozen=True)
class PlannedStage:
    """One stage, and what is left to do of it."""

    record: StageRecord
    loaded: LoadedRecipe | None
    """None: it has no run of its own, but selects one of those that it waits for."""
    finished: RunDir | None = None
    """A run that did all of it."""
    shared: RunDir | None = None
    """A run of another pipeline that is doing it."""
    plan: SubmissionPlan | None = None
    """Its own run, together with the other points of a sweep that need one; None if it needs none."""
    search: SearchPlan | None = None
    """Of a search that is not over."""


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
        """The stages that get a run of their own, and the searches that are not over."""
        return [stage for stage in self.stages if stage.plan is not None or stage.search is not None]


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
        RecipeError: With all faults of all stages; or stages wait for each other.
    """
    root = runs_root_of(cluster)
    folder = _new_folder(root, loaded.recipe.name)
    awaited = awaited_names(loaded)
    items = {stage.name: replace(stage.loaded, artifacts=folder.artifacts, awaited=awaited) for stage in loaded.stages}
    order = order_stages(loaded)
    if faults := find_faults(loaded, items, cluster):
        raise RecipeError(faults)
    keys = _keys(loaded, items, order, cluster, folder.root.name if rerun else "")
    base = PipelinePlan(loaded, cluster, folder, _checksum([keys, dict(loaded.recipe.publish)]), (), rehearsal, rerun)
    stages = [*_plan_stages(loaded, items, order, keys, base)]
    plan = replace(base, stages=tuple(_with_plans(stages, base, read_code(root))))
    if faults := [*_taken_names(plan)]:
        raise RecipeError(faults)
    return plan


def _plan_stages(
    loaded: LoadedPipeline,
    items: Mapping[str, LoadedRecipe],
    order: StageOrder,
    keys: Mapping[str, str],
    plan: PipelinePlan,
) -> Iterator[PlannedStage]:
    """Find out who carries each stage out; those that need a run of their own have no plan yet."""
    choice = Choice(plan.cluster, plan.folder.root.name)
    sweeps = {stage.name: stage.sweep for stage in loaded.stages}
    choices = {one.name: one for one in loaded.choices}
    bests = {stage.name: stage.best for stage in loaded.stages}
    for name, awaits in order.awaits.items():
        if one := choices.get(name):
            select = Selection(one.metric, one.direction, one.allow_failed)
            record = StageRecord(name, one.points, one.makes, keys[name], select=select)
            yield PlannedStage(record, None, None if plan.rerun else choice.select(record))
            continue
        item, made = items[name], items[name].recipe.makes
        makes = (made.type, made.name) if made else None
        if best := bests.get(name):
            select = Selection(best.metric, best.direction)
            search = f"{loaded.recipe.name}:{name}:{keys[name][:8]}"
            record = StageRecord(name, tuple(sorted(awaits)), makes, keys[name], select=select, search=search)
            yield PlannedStage(record, item, None if plan.rerun else choice.select_trial(record))
            continue
        record = StageRecord(name, tuple(sorted(awaits)), makes, keys[name], sweeps[name])
        run = None if plan.rerun else choice.choose(record, item.recipe, item.folder, record.awaits)
        is_finished = name in choice.finished
        yield PlannedStage(record, item, run if is_finished else None, None if is_finished else run)


def _with_plans(stages: Sequence[PlannedStage], plan: PipelinePlan, snapshot: Snapshot) -> Iterator[PlannedStage]:
    """Plan the runs that stages need; the points of a sweep have one plan together."""
    together: dict[str, list[LoadedRecipe]] = {}
    for stage in stages:
        if _needs_run(stage) and stage.loaded:
            item = replace(stage.loaded, stage=stage.record.name)
            together.setdefault(stage.record.sweep or stage.record.name, []).append(item)
    options = SubmitOptions(rehearsal=plan.rehearsal, pipeline=plan.folder.root, check=False)
    plans = {name: plan_submission(its, plan.cluster, options, snapshot) for name, its in together.items()}
    for stage in stages:
        if stage.record.search and not stage.finished:
            yield replace(stage, search=_plan_search(stage, plan, snapshot))
        else:
            yield replace(stage, plan=plans[stage.record.sweep or stage.record.name]) if _needs_run(stage) else stage


def _needs_run(stage: PlannedStage) -> bool:
    return bool(stage.loaded and not stage.finished and not stage.shared and not stage.record.search)


def _plan_search(stage: PlannedStage, plan: PipelinePlan, snapshot: Snapshot) -> SearchPlan:
    """Plan the search of a stage, whose trials name nothing: the pipeline names the best of them."""
    name, record = stage.record.name, stage.record
    [corners] = [one.corners for one in plan.loaded.stages if one.name == name]
    output = {"output": None} if record.makes else {}
    items = [
        replace(
            one,
            recipe=one.recipe.model_copy(update={"name": record.search, **output}),
            artifacts=plan.folder.artifacts,
            awaited=awaited_names(plan.loaded),
            stage=name,
        )
        for one in corners
    ]
    options = SubmitOptions(rehearsal=plan.rehearsal, pipeline=plan.folder.root, stage=name, check=False)
    return plan_search(plan_submission(items, plan.cluster, options, snapshot), items)


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
        artifact, _ = stage.record.makes
        place = Locations(plan.cluster.roots.model_dump(), "").folder(artifact, name)
        if not os.path.lexists(place):
            continue
        finished = made_for(stage.record, stage.finished) if stage.finished else None
        if finished is None or os.path.realpath(finished) != os.path.realpath(place):
            message = f"`{place}` exists already, and is something else; write another name, or remove it"
            yield plan.loaded.place(f"publish.{name}", message, "name-taken")


def _keys(
    loaded: LoadedPipeline, items: Mapping[str, LoadedRecipe], order: StageOrder, cluster: Cluster, salt: str
) -> dict[str, str]:
    """Give each stage a checksum of its recipe, of what it reads from elsewhere, and of the stages before it."""
    keys: dict[str, str] = {}
    choices = {one.name: one for one in loaded.choices}
    bests = {stage.name: stage.best for stage in loaded.stages}
    for name, reads in order.reads.items():
        if one := choices.get(name):
            how = [one.metric, one.direction, one.allow_failed, one.makes]
            keys[name] = _checksum([salt, how, [keys[point] for point in one.points]])
            continue
        item = items[name]
        locations = Locations(cluster.roots.model_dump(), item.folder)
        parts: list[object] = [salt, recipe_checksum(item.recipe)]
        if (search := item.recipe.search) and (best := bests[name]):
            parts += [search.model_dump(mode="json"), best.metric, best.direction]
        for each in (*item.recipe.inputs(), *item.recipe.optional_inputs()):
            content = None if each.key in reads else look_at_input(each, locations)
            parts.append([each.key, keys[reads[each.key]] if each.key in reads else content and content.as_json()])
        keys[name] = _checksum(parts)
    return keys


def _checksum(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
