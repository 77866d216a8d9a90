"""Why the stages of a pipeline, or the points of one stage, are where they are."""

import shlex
from collections.abc import Iterator, Mapping, Sequence

from launcher.pipeline.states import StageState, find_stalled

_SHOWN = 5


def explain_stages(states: Mapping[str, StageState], pipeline: str, folder: str) -> Iterator[str]:
    """Say of each stage that has not finished why, and what to type next.

    Args:
        states: The stages.
        pipeline: Id of the pipeline.
        folder: Its folder; empty if nothing is to be queued, since a person stopped the pipeline.
    """
    written = dict.fromkeys(one.stage.sweep or name for name, one in states.items())
    lines = [line for name in written if (line := _explain(name, states))]
    yield from lines or ["all stages have finished"]
    if folder and (stalled := find_stalled(states)):
        yield say_stalled(stalled, folder)
    if any(one.may_resume for one in states.values()):
        yield "next:"
        yield f"  launcher why {pipeline} STAGE  # explains one of them"
        yield f"  launcher resume {pipeline}  # takes up what failed or was stopped"


def say_stalled(stages: Sequence[str], folder: str) -> str:
    """Say what to type if nobody queues stages that can be queued, or makes selections that can be made.

    Args:
        stages: Their names.
        folder: Of the pipeline.
    """
    names = ", ".join(f"`{name}`" for name in stages[:_SHOWN])
    more = f" and {len(stages) - _SHOWN} more" if len(stages) > _SHOWN else ""
    return (
        f"{names}{more} can go on, and no job is left that would see to it. If that lasts longer than a minute, the "
        f"job of the last stage was killed before it could: `launcher pipeline advance {shlex.quote(folder)}` does it"
    )


def explain_sweep(name: str, states: Mapping[str, StageState], pipeline: str) -> Iterator[str]:
    """Say what is selected of a sweep or why nothing is, and what became of points that have not finished.

    Args:
        name: The stage as it is written.
        states: The stages.
        pipeline: Id of the pipeline.
    """
    points = _points(name, states)
    if name in states and states[name].is_finished:
        yield f"selected {states[name].verdict.why}"
    elif name in states:
        yield f"nothing is selected: {states[name].verdict.why}"
    else:
        yield f"{sum(point.is_finished for point in points)} of {len(points)} points have finished"
    rest = [point for point in points if not point.is_finished]
    for point in rest[:_SHOWN]:
        status = point.status
        said = f"{status.state}{f': {status.why}' if status.why else ''}" if status else "its run directory is gone"
        yield f"  {point.stage.name}: {said}"
    if len(rest) > _SHOWN:
        yield f"  {len(rest) - _SHOWN} more: `launcher status {pipeline} --all`"
    if any(point.may_resume for point in rest):
        yield "next:"
        yield f"  launcher why {pipeline} {rest[0].stage.name}  # explains this point"
        yield f"  launcher resume {pipeline}  # takes up what failed or was stopped"


def _explain(name: str, states: Mapping[str, StageState]) -> str | None:
    points = _points(name, states)
    if points:
        select = states.get(name)
        if select.is_finished if select else all(point.is_finished for point in points):
            return None
        finished = sum(point.is_finished for point in points)
        return f"{name}: " + (select.verdict.why if select else f"{finished} of {len(points)} points have finished")
    one = states[name]
    if one.is_finished:
        return None
    if one.status is None:
        return f"{name}: its run directory is gone; submit the pipeline again"
    waiting = [f"`{other}`" for other in one.stage.awaits if not states[other].is_finished]
    why = f"waits for {', '.join(waiting[:_SHOWN])}" if waiting else one.status.why
    return f"{name}: {one.status.state}{f': {why}' if why else ''}"


def _points(name: str, states: Mapping[str, StageState]) -> Sequence[StageState]:
    return [one for one in states.values() if one.stage.sweep == name]
