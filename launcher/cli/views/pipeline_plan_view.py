"""What submitting a pipeline would do or has done, a line or a row for each stage."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from typing_extensions import override

from launcher.load.pipeline import LoadedPipeline
from launcher.pipeline.order import sort_loaded
from launcher.pipeline.plan import PipelinePlan, PlannedStage
from launcher.pipeline.record import Pipeline
from launcher.run.record import RunRecord


class StageToBe(NamedTuple):
    """What submitting a pipeline does about a stage; of a sweep, about its points together."""

    stage: str
    awaits: list[str]
    what: str | None
    """In words; None where there is no cluster profile to ask."""

    @override
    def __str__(self) -> str:
        after = f", after {', '.join(self.awaits)}" if self.awaits and " new" in f" {self.what}" else ""
        return f"{self.stage}: {self.what}{after}"


def list_stages(loaded: LoadedPipeline) -> Iterator[StageToBe]:
    """Name the stages as they are written, without asking a site."""
    yield from (StageToBe(name, sorted(awaits), None) for name, awaits in sort_loaded(loaded).items())


def describe_plan(plan: PipelinePlan) -> Iterator[StageToBe]:
    """Say of each stage what will be done; of a sweep, of its points together."""
    written = {stage.record.name: stage.record.sweep or stage.record.name for stage in plan.stages}
    for name, its in _by_stage(plan.stages).items():
        own = {one for one in written if written[one] == name}
        awaits = dict.fromkeys(written[one] for stage in its for one in stage.record.awaits if one not in own)
        points = [stage for stage in its if stage.loaded]
        select = next((stage for stage in its if not stage.loaded), None)
        if select is None and points[0].record.sweep is None:
            yield StageToBe(name, [*awaits], _what(points[0]))
            continue
        counts = Counter(
            "finished" if one.finished else "of another pipeline" if one.shared else "new" for one in points
        )
        counted = ", ".join(f"{count} {state}" for state, count in counts.items())
        selected = f"; selected: {select.finished.root.name}" if select and select.finished else ""
        yield StageToBe(name, [*awaits], f"{len(points)} point{'s' * (len(points) > 1)}: {counted}{selected}")


def _what(stage: PlannedStage) -> str:
    if stage.search:
        search, is_new = stage.search.record.search, stage.search.is_new
        trials = f"{search.budget} trials, {search.parallel} at once, by {search.metric}"
        return f"a new search: {trials}" if is_new else f"a search that has begun: {trials}"
    if stage.finished:
        return f"finished as {stage.finished.root.name}"
    if stage.shared:
        return f"carried out by {stage.shared.root.name} of another pipeline"
    return "a new run"


def _by_stage(stages: Sequence[PlannedStage]) -> dict[str, list[PlannedStage]]:
    found: dict[str, list[PlannedStage]] = {}
    for stage in stages:
        found.setdefault(stage.record.sweep or stage.record.name, []).append(stage)
    return found


def report_rows(pipeline: Pipeline, plan: PipelinePlan) -> list[dict[str, Any]]:
    """Give a row for each stage and each point: its run, its job, and whether it had finished before."""
    rows = []
    for stage in plan.stages:
        run = pipeline.run_of(stage.record.name)
        record = RunRecord.read(run.record) if run else None
        job = record.submissions[-1].job_id if record and record.submissions and not stage.finished else ""
        where = {"id": record.id if record else "", "job": job, "folder": str(run.root) if run else ""}
        of = {"sweep": stage.record.sweep, "selects": stage.record.select is not None}
        of |= {"search": stage.record.search} if stage.record.search else {}
        rows.append({"stage": stage.record.name, **where, "reused": stage.finished is not None, **of})
    return rows


def report_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write these rows, those of a sweep's points as one line."""
    selecting = {row["stage"] for row in rows if row["selects"] and "search" not in row}
    points: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["sweep"]:
            points.setdefault(row["sweep"], []).append(row)
    lines = {row["stage"]: (str(row["id"]), _of_run(row)) for row in rows if not row["sweep"]}
    lines = {row["sweep"] or row["stage"]: ("", "") for row in rows} | lines
    lines |= {name: ("", _of_points(its, name in selecting)) for name, its in points.items()}
    width = max(map(len, lines))
    digits = max(len(shown) for shown, _ in lines.values())
    for name, (shown, what) in lines.items():
        yield f"{name.ljust(width)}  {shown.ljust(digits)}  {what}"


def _of_run(row: Mapping[str, Any]) -> str:
    if row["reused"]:
        return "finished already, with the same recipe and inputs"
    if "search" in row:
        return f"a search: `launcher status '{row['search']}'`"
    return f"job {row['job']}" if row["job"] else "is queued later"


def _of_points(rows: Sequence[Mapping[str, Any]], is_selected: bool) -> str:
    reused = sum(bool(row["reused"]) for row in rows)
    queued = [str(row["job"]) for row in rows if row["job"]]
    later = len(rows) - reused - len(queued)
    jobs = ", ".join(dict.fromkeys(job.partition("_")[0] for job in queued))
    parts = [f"{len(queued)} in job {jobs}"] if queued else []
    parts += [f"{later} queued later"] if later else []
    parts += [f"{reused} finished already"] if reused else []
    best = "; one is selected when all have ended" if is_selected and reused < len(rows) else ""
    return f"{len(rows)} point{'s' * (len(rows) > 1)}: {', '.join(parts)}{best}"
