"""What each command prints with `--json`: the keys of its answer, and their types."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from launcher.cli.json_schemas import Fields, fields_of, object_of


def _status() -> Mapping[str, Fields]:
    from launcher.artifacts.scores import EvaluationScores
    from launcher.monitor.goodput import Goodput
    from launcher.monitor.status import RunStatus
    from launcher.pipeline.record import Selection

    point = object_of("SweepPoint", RunStatus, values=dict[str, Any], metrics=dict[str, float])
    compared: Fields = {"metric": str | None, "lower_is_better": bool, "best": str | None, "points": list[point]}  # type: ignore[valid-type]
    measured = {"goodput": Goodput, "evaluations": list[dict[str, Any]], "scores": EvaluationScores | None}
    named = {"stage": str, "awaits": list[str], "sweep": str | None, "select": Selection | None, "verdict": str | None}
    stage = object_of("StageRun", RunStatus, **named)
    removed = object_of("StageWithoutRun", **named, state=Literal["removed", "waits"])
    stages = list[stage | removed]  # type: ignore[valid-type]
    notes = {"notes": list[str]}
    return {
        "runs": {"runs": list[RunStatus], **notes},
        "run": {**fields_of(RunStatus), **measured, **notes},
        "sweep": {"sweep": str, **compared, **notes},
        "search": {"search": str, "trials": int, **compared, **notes},
        "pipeline": {"pipeline": str, "stages": stages, **notes},
    }


def _watch() -> Mapping[str, Fields]:
    from launcher.monitor.goodput import Goodput
    from launcher.monitor.status import RunStatus

    watched = object_of("RunAtOneLook", RunStatus, goodput=Goodput, lines=list[str])
    return {"": {"time": float, "runs": list[watched], "notes": list[str]}}  # type: ignore[valid-type]


def _why() -> Mapping[str, Fields]:
    from launcher.monitor.why import Explanation

    return {"run": fields_of(Explanation), "pipeline": {"pipeline": str, "sentences": list[str]}}


def _usage() -> Mapping[str, Fields]:
    from launcher.monitor.usage import UsageTotal

    total: Any = object_of("UsageSum", UsageTotal, all_gpu_hours=float, useful_share=float | None)
    return {"": {"since": float, "total": total, "recipes": list[total], "states": list[total], "notes": list[str]}}


def _report() -> Mapping[str, Fields]:
    from launcher.artifacts.scores import EvaluationScores
    from launcher.monitor.checkpoint_interval import CheckpointAdvice
    from launcher.monitor.observed_state import State
    from launcher.monitor.provenance import InputOfRun
    from launcher.monitor.time_account import TimeKind, TimeSpan

    names = dict.fromkeys(("label", "id", "name", "kind"), str)
    seconds = {"seconds": dict[TimeKind, float], "wall_clock_seconds": float}
    shares = {"goodput": float | None, "goodput_with_queue": float | None, "spans": list[TimeSpan]}
    used = {"gpus": int, "gpu_hours": float, "gpu_hours_by_kind": dict[TimeKind, float], "cost": float | None}
    energy = {"kwh_at_most": float | None, "kwh_assumption": str}
    advice = object_of("IntervalAdvice", CheckpointAdvice, seconds=float | None)
    curves = {"curves": dict[str, list[tuple[float, float, float, float]]]}
    scores = {"evaluations": dict[str, list[tuple[int, float]]], "scores": EvaluationScores | None}
    read = {"inputs": list[InputOfRun], "recipe": dict[str, Any]}
    run: Any = object_of(
        "ReportedRun", **names, state=State, **seconds, **shares, **used, **energy, checkpoint_interval=advice,
        **curves, **scores, **read,
    )  # fmt: skip
    return {"": {"runs": list[run], "notes": list[str]}}


def _compare() -> Mapping[str, Fields]:
    from launcher.artifacts.scores import Score
    from launcher.monitor.sweep import SeedMean
    from launcher.pipeline.scores import StageScore
    from launcher.scores.comparison import ComparedScore
    from launcher.scores.differences import PairedDifference
    from launcher.scores.published import PublishedTable
    from launcher.scores.seeds import GroupedScore

    texts = dict.fromkeys(("label", "folder", "run", "name", "data_use"), str)
    model: Any = object_of("ComparedModel", **texts, model=dict[str, Any], versions=dict[str, str])
    row: Any = object_of(
        "ComparedRow", ComparedScore, score=Score, difference=PairedDifference | None, significant=bool
    )
    group: Any = object_of("ComparedGroup", label=str, runs=list[str], seeds=list[int])
    mean: Any = object_of("GroupedRow", GroupedScore, significant=bool)
    sweep: Any = object_of("MetricOfSweep", metric=str | None, groups=list[SeedMean])
    tested, quoted = {"tests": int, "notes": list[str]}, {"published": PublishedTable | None}
    return {
        "models": {"baseline": str, "models": list[model], "rows": list[row], **tested, **quoted},
        "groups": {"baseline": str, "groups": list[group], "rows": list[mean], **tested},
        "sweep": {"sweep": str, "metrics": list[sweep]},
        "pipeline": {"pipeline": str, "scores": list[StageScore], "notes": list[str], **quoted},
    }


def _validate() -> Mapping[str, Fields]:
    from launcher.errors import Fault
    from launcher.plan.forecast import Forecast

    names = dict.fromkeys(("file", "name", "kind"), str)
    estimated: Any = object_of("EstimatedRecipe", Forecast, **names)
    checked: Any = object_of("CheckedRecipe", **names, world_size=int)
    stage: Any = object_of("CheckedStage", stage=str, awaits=list[str], what=str | None)
    return {
        "recipes": {"recipes": list[estimated | checked], "faults": list[Fault]},
        "pipeline": {"file": str, "stages": list[stage], "faults": list[Fault]},
    }


def _plan() -> Mapping[str, Fields]:
    from launcher.artifacts.trace import Trace
    from launcher.pipeline.forecast import PipelineForecast
    from launcher.plan.alternatives import Alternative
    from launcher.plan.details import TrainingDetails

    found = {"details": TrainingDetails | None, "trace": Trace | None, "fits": list[Alternative]}
    recipe: Any = object_of("PlannedRecipeFile", file=str, name=str, **found)
    pipeline: Any = object_of("PlannedPipelineFile", PipelineForecast, file=str)
    return {"": {"recipes": list[recipe], "pipelines": list[pipeline]}}


def _submit() -> Mapping[str, Fields]:
    where = dict.fromkeys(("id", "name", "job", "folder"), str)
    run: Any = object_of("QueuedRun", **where, reused=bool)
    task: Any = object_of("QueuedTask", **where)
    shared: Any = object_of("QueuedInTasks", **where, reused=bool, tasks=list[task])
    known: Any = object_of("KnownRun", **where, reused=bool, resumed=bool)
    texts = dict.fromkeys(("stage", "id", "job", "folder"), str)
    stage: Any = object_of("QueuedStage", **texts, reused=bool, sweep=str | None, selects=bool)
    planned: Any = object_of("PlannedJob", runs=list[str], folder=str, script=str, start=str | None)
    to_be: Any = object_of("PlannedStageOfPipeline", stage=str, awaits=list[str], what=str | None)
    return {
        "planned": {"submissions": list[planned], "stages": list[to_be]},
        "runs": {"runs": list[run | shared | known]},
        "search": {"search": str, "folder": str, "jobs": list[str], "elements": int, "left": int},
        "pipeline": {"pipeline": str, "stages": list[stage]},
    }


def _doctor() -> Mapping[str, Fields]:
    from launcher.doctor import Examination
    from launcher.doctor.preemption import Preemption

    preemption: Any = object_of("PreemptionOfPartition", Preemption, seconds_to_save=float | None)
    return {"": {**fields_of(Examination), "preemptions": list[preemption], "problems": int}}


def _stacks() -> Mapping[str, Fields]:
    from launcher.operate.stacks import StackReport

    return {"": fields_of(StackReport)}


def _graph() -> Mapping[str, Fields]:
    from launcher.cli.views.graph_view import GraphNode

    return {"": {"stages": list[GraphNode], "is_over": bool}}


def _nodes_list() -> Mapping[str, Fields]:
    from launcher.run.suspects import SuspectNode

    return {"": {"nodes": list[SuspectNode]}}


def _recipes() -> Mapping[str, Fields]:
    listed: Any = object_of("ShippedRecipe", recipe=str, kind=str, description=str)
    return {"": {"recipes": list[listed]}}


def _devcluster_chaos() -> Mapping[str, Fields]:
    from launcher.devcluster.chaos.report import ChaosReport

    return {"": fields_of(ChaosReport)}


def _devcluster_status() -> Mapping[str, Fields]:
    from launcher.devcluster import ClusterStatus

    return {"": fields_of(ClusterStatus)}


def _corpus_show() -> Mapping[str, Fields]:
    from launcher.artifacts.corpus_manifest import Manifest, Split
    from launcher.corpora.lengths import Packing

    numbers = {"mean": float, "median": int, "percentile_90": int, "longest": int}
    measured: Any = object_of("DocumentTokens", **numbers, sequences=dict[str, Packing] | None)
    tokens: Any = dict[Split, measured]
    corpus: Any = object_of("ShownCorpus", folder=str, bytes=int, document_tokens=tokens, manifest=Manifest)
    return {"": {"corpora": list[corpus]}}


def _corpus_verify() -> Mapping[str, Fields]:
    from launcher.corpora.verify import Flaw

    corpus: Any = object_of("VerifiedCorpus", folder=str, files=int, bytes=int, flaws=list[Flaw])
    return {"": {"corpora": list[corpus]}}


def _corpus_sample() -> Mapping[str, Fields]:
    from launcher.corpora.changes import TermChange
    from launcher.corpora.sample import DecodedDocument

    changed: Any = object_of("ChangedDocument", DecodedDocument, changes=list[TermChange])
    return {"": {"split": Literal["train", "validation"], "documents": list[DecodedDocument | changed]}}


def _corpus_diff() -> Mapping[str, Fields]:
    from launcher.corpora.difference import Difference

    difference: Any = object_of("CountedDifference", Difference, matters=bool)
    return {"": {"different": bool, "differences": list[difference]}}


OUTPUTS: Mapping[str, Callable[[], Mapping[str, Fields]]] = {
    "compare": _compare,
    "corpus diff": _corpus_diff,
    "corpus sample": _corpus_sample,
    "corpus show": _corpus_show,
    "corpus verify": _corpus_verify,
    "devcluster chaos": _devcluster_chaos,
    "devcluster status": _devcluster_status,
    "doctor": _doctor,
    "graph": _graph,
    "nodes list": _nodes_list,
    "plan": _plan,
    "recipes": _recipes,
    "report": _report,
    "stacks": _stacks,
    "status": _status,
    "submit": _submit,
    "usage": _usage,
    "validate": _validate,
    "watch": _watch,
    "why": _why,
}
"""Forms of answers by command: the keys of each. Types are imported when somebody asks, not at each start."""
