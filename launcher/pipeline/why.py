"""Why the stages of a pipeline, or the points of one stage, are where they are."""

from collections.abc import Iterator, Mapping, Sequence

from launcher.pipeline.states import StageState

_SHOWN = 5


def explain_stages(states: Mapping[str, StageState], pipeline: str) -> Iterator[str]:
    """Say of each stage that has not finished why, and what to type next.

    Args:
        states: The stages.
        pipeline: Id of the pipeline.
    """
    written = dict.fromkeys(one.stage.sweep or name for name, one in states.items())
    lines = [line for name in written if (line := _explain(name, states))]
    yield from lines or ["all stages have finished"]
    if any(one.may_resume for one in states.values()):
        yield "next:"
        yield f"  launcher why {pipeline} STAGE  # explains one of them"
        yield f"  launcher resume {pipeline}  # takes up what failed or was stopped"


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
