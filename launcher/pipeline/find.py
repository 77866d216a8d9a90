"""Listing pipelines, and finding the one that a user names."""

import os
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.find import FOLDER
from launcher.pipeline.record import Pipeline
from launcher.run.home import expand_home
from launcher.run.paths import PipelineDir, RunDir, expand
from launcher.run.record import RunRecord
from launcher.run.trials import SearchDir, find_search

_SHOWN = 10


def list_pipelines(runs_root: Path) -> list[Pipeline]:
    """List the pipelines below a folder of runs, newest first."""
    if not runs_root.is_dir():
        return []
    matches = [match for name in os.listdir(runs_root) if (match := FOLDER.match(name))]
    newest = sorted(matches, key=lambda match: (match["created"], match.string), reverse=True)
    found = [Pipeline(PipelineDir(runs_root / match.string)) for match in newest]
    # Path.is_file would raise an error for a run of somebody else that is closed to this user.
    return [one for one in found if os.path.isfile(one.folder.record)]


def find_pipeline(cluster: Cluster, text: str) -> Pipeline | None:
    """Find the pipeline that a user names: its folder, its id, or a name, of which the newest counts."""
    if "/" in text:
        named = Pipeline(PipelineDir(expand_home(text).absolute()))
        return named if os.path.isfile(named.folder.record) else None
    pipelines = list_pipelines(expand(cluster.roots.runs))
    for one in pipelines:
        if text in (one.folder.root.name, one.record.name, one.record.id):
            return one
    starting = [one for one in pipelines if len(text) > 2 and one.record.id.startswith(text)]
    return starting[0] if len(starting) == 1 else None


def require_pipeline(cluster: Cluster, text: str) -> Pipeline:
    """Find the pipeline that a user names.

    Raises:
        RunError: There is none.
    """
    found = find_pipeline(cluster, text)
    if found is None:
        raise RunError(f"`{text}`: no pipeline has this id, folder or name; `launcher status` lists them")
    return found


def find_stage(cluster: Cluster, pipeline: str, stage: str) -> RunDir:
    """Find the run that carries out a stage.

    Raises:
        RunError: There is no such pipeline, no such stage, or its run was removed.
    """
    found = require_pipeline(cluster, pipeline)
    its = {one.name: one for one in found.record.stages}
    points = [one.name for one in found.record.stages if one.sweep == stage]
    if stage not in its and not points:
        written = dict.fromkeys(one.sweep or one.name for one in found.record.stages)
        listed = ", ".join(f"`{name}`" for name in written)
        raise RunError(f"`{found.record.name}`: has no stage `{stage}`; its stages are {listed}")
    run = found.run_of(stage)
    if run is None and points:
        said = "nothing is selected yet" if stage in its else "it is a sweep"
        listed = ", ".join(f"`{name}`" for name in points[:_SHOWN]) + (" ..." if len(points) > _SHOWN else "")
        raise RunError(f"`{found.record.name}`: stage `{stage}`: {said}; name one of its points: {listed}")
    if run is None and its[stage].search:
        raise RunError(
            f"`{found.record.name}`: stage `{stage}` is a search of which no trial is selected yet; name a trial, "
            f"which `launcher status {pipeline}:{stage}` lists"
        )
    if run is None:
        raise RunError(f"`{found.record.name}`: the run of stage `{stage}` was removed; submit the pipeline again")
    return run


def find_stage_search(cluster: Cluster, text: str) -> SearchDir | None:
    """Find the search that `PIPELINE:STAGE` names; None if it names none."""
    name, _, stage = text.rpartition(":")
    found = find_pipeline(cluster, name) if name else None
    searches = [one.search for one in found.record.stages if one.name == stage and one.search] if found else []
    return find_search(expand(cluster.roots.runs), searches[0]) if searches else None


def pipelines_with(run: RunDir) -> list[Pipeline]:
    """List the pipelines that have a stage which this run carries out, or of which it is a trial."""
    sweep = RunRecord.read(run.record).sweep if run.record.is_file() else None
    return [
        one
        for one in list_pipelines(run.root.parent)
        if run in one.runs().values() or (sweep and any(stage.search == sweep for stage in one.record.stages))
    ]
