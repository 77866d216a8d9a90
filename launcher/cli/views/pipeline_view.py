"""The stages of a pipeline as a table."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from launcher.pipeline.states import StageState

STYLES = {"finished": "green", "running": "cyan", "failed": "red", "lost": "red", "stopped": "yellow", "waits": "dim"}


def stages_table(states: Mapping[str, StageState]) -> Table:
    """Make a table of stages: how each is doing, and why."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("STAGE", "KIND", "STATE", "RUN", "JOB", "PROGRESS", "WHY"):
        table.add_column(name, overflow="fold", no_wrap=name in ("STAGE", "STATE", "RUN"))
    for name, one in states.items():
        if one.status is None:
            table.add_row(name, "", "removed", "", "", "", "its run directory is gone; submit the pipeline again")
            continue
        state, why = _state(one, states)
        steps = f"{one.status.step}/{one.status.total_steps}" if one.status.total_steps and one.status.step else ""
        shown = Text(state, style=STYLES.get(state, ""))
        table.add_row(name, one.status.kind, shown, one.status.id, one.status.job_id, steps, why)
    return table


def _state(one: StageState, states: Mapping[str, StageState]) -> tuple[str, str]:
    """Say of a stage that waits what it waits for."""
    assert one.status is not None
    waiting = [name for name in one.stage.awaits if not states[name].is_finished]
    if one.status.state == "not submitted" and not waiting and any(other.is_alive for other in states.values()):
        return "waits", "is queued when a stage ends"
    if one.status.state not in ("queued", "not submitted") or not waiting:
        return one.status.state, one.status.why
    dead = [name for name in waiting if not states[name].is_alive and not states[name].may_advance]
    names = ", ".join(f"`{name}`" for name in dead or waiting)
    return "waits", f"for {names}, which ended without a result" if dead else f"for {names}"
