"""The stages of a pipeline as a table."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from launcher.pipeline.states import StageState

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow", "waits": "dim"}
_WORST_FIRST = ("failed", "lost", "stopped", "running", "queued", "waits", "finished")


def stages_table(states: Mapping[str, StageState], everything: bool = False) -> Table:
    """Make a table of stages: how each is doing, and why.

    Args:
        states: The stages.
        everything: Whether each point of a sweep has a line of its own.
    """
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("STAGE", "KIND", "STATE", "RUN", "JOB", "PROGRESS", "WHY"):
        table.add_column(name, overflow="fold", no_wrap=name in ("STAGE", "STATE", "RUN"))
    for name, its in by_stage(states).items():
        points = [one for one in its if one.stage.sweep]
        if points:
            _add(table, _sweep_row(name, points, next((one for one in its if one.stage.select), None), states))
        for one in its if everything or not points else ():
            if not one.stage.select or one.stage.search:
                _add(table, _row(one, states))
    return table


def by_stage(states: Mapping[str, StageState]) -> dict[str, list[StageState]]:
    """Give the stages as they are written; of a sweep its points, and what selects one of them."""
    found: dict[str, list[StageState]] = {}
    for name, one in states.items():
        found.setdefault(one.stage.sweep or name, []).append(one)
    return found


def stage_as_json(one: StageState) -> dict[str, Any]:
    """Write a stage, or a point of one, as JSON."""
    stage = one.stage
    told: dict[str, Any] = {"stage": stage.name, "awaits": stage.awaits, "sweep": stage.sweep}
    told |= {"select": stage.select and asdict(stage.select), "verdict": one.verdict.why if stage.select else None}
    return told | (asdict(one.status) if one.status else {"state": "waits" if stage.select else "removed"})


def _add(table: Table, row: Sequence[str]) -> None:
    name, kind, state, *rest = row
    table.add_row(name, kind, Text(state, style=STYLES.get(state, "")), *rest)


def _row(one: StageState, states: Mapping[str, StageState]) -> tuple[str, ...]:
    name = one.stage.name
    if one.status is None:
        return name, "", "removed", "", "", "", "its run directory is gone; submit the pipeline again"
    state, why = _state(one, states)
    if one.stage.search and one.is_finished:
        why = f"selected {one.verdict.why}"
    steps = f"{one.status.step}/{one.status.total_steps}" if one.status.total_steps and one.status.step else ""
    return name, one.status.kind, state, one.status.id, one.status.job_id, steps, why


def sweep_state(points: Sequence[StageState], select: StageState | None, states: Mapping[str, StageState]) -> str:
    """Say in one word how a sweep is doing: the state of the points that asks most for attention."""
    if select is not None and select.is_finished:
        return "finished"
    found = {_row(point, states)[2] for point in points}
    if select is not None and found == {"finished"}:
        return "waits" if select.may_advance else "failed"
    return next((one for one in _WORST_FIRST if one in found), next(iter(found)))


def _sweep_row(
    name: str, points: Sequence[StageState], select: StageState | None, states: Mapping[str, StageState]
) -> tuple[str, ...]:
    """Write a sweep as one line, with how many points are in which state, or which one is selected."""
    counts = Counter(_row(point, states)[2] for point in points)
    alive = (point.status.job_id for point in points if point.status and point.is_alive)
    jobs = ", ".join(dict.fromkeys(job.partition("_")[0] for job in alive))
    kind = next((point.status.kind for point in points if point.status), "")
    state, progress = sweep_state(points, select, states), f"{counts['finished']}/{len(points)}"
    if select is not None and select.is_finished and select.status:
        return name, kind, state, select.status.id, jobs, progress, f"selected {select.verdict.why}"
    counted = ", ".join(f"{count} {one}" for one, count in counts.items())
    is_idle = select is not None and not select.verdict.is_open and not select.may_advance
    why = f"; nothing is selected: {select.verdict.why}" if select is not None and is_idle else ""
    return name, kind, state, "", jobs, progress, f"points: {counted}{why}"


def _state(one: StageState, states: Mapping[str, StageState]) -> tuple[str, str]:
    """Say of a stage that waits what it waits for."""
    assert one.status is not None
    waiting = [name for name in one.stage.awaits if not states[name].is_finished]
    if one.status.state == "not submitted" and not waiting and any(other.is_alive for other in states.values()):
        return "waits", "is queued when a stage ends"
    if one.status.state not in ("queued", "not submitted") or not waiting:
        return one.status.state, one.status.why
    dead = [name for name in waiting if not states[name].is_alive and not states[name].may_advance]
    names = ", ".join(_names(dead or waiting))
    return "waits", f"for {names}, which ended without a result" if dead else f"for {names}"


def _names(stages: Sequence[str]) -> Iterator[str]:
    yield from (f"`{name}`" for name in stages[:3])
    if len(stages) > 3:
        yield f"{len(stages) - 3} more"
