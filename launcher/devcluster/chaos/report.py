"""What each fault cost, from the run directory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.run.ledger import Attempt
from launcher.run.metrics import Row

Recovery: TypeAlias = Literal["went on", "came back", "was resumed"]
"""Whether the attempt survived; whether the run came back by itself; or whether a person had to resume it."""


@dataclass
class Blow:
    """One fault that struck."""

    fault: str
    phase: str
    what: str
    """What was done, in a few words."""
    time: float
    """Unix time at which it was done."""
    attempt: int
    """Number of the attempt that it struck."""
    step: int
    """The furthest step that had been logged."""
    resumed: int = 0
    """How often a person resumed the run before the next fault struck."""


@dataclass(frozen=True)
class FaultCost:
    """What one fault cost."""

    fault: str
    phase: str
    what: str
    step: int
    attempts: int
    """How many were started until the next fault struck."""
    exit_reason: str
    """Of the attempt that it struck; empty if that went on."""
    redone: int
    """Steps that were computed again."""
    seconds: float | None
    """From the fault to the first step after it that had not been done before; None if the run had no more."""
    recovery: Recovery


@dataclass(frozen=True)
class ChaosReport:
    """What became of a run under faults."""

    seed: int
    steps: int
    attempts: int
    costs: tuple[FaultCost, ...]
    skipped: tuple[tuple[str, str], ...]
    """Faults that could not strike, and why."""
    differing: tuple[int, ...] | None = None
    """Steps at which the losses differ from those of a run that nothing disturbed; None if there is none."""


def costs_of(blows: Sequence[Blow], attempts: Sequence[Attempt], rows: Sequence[Row]) -> list[FaultCost]:
    """Work out what each fault cost; what a step or an attempt cost counts for the fault before it."""
    redone = _redone(blows, rows)
    ends = [*(blow.attempt for blow in blows), float("inf")][1:]
    return [_cost(blow, end, attempts, rows, again) for blow, end, again in zip(blows, ends, redone, strict=True)]


def _cost(blow: Blow, end: float, attempts: Sequence[Attempt], rows: Sequence[Row], redone: int) -> FaultCost:
    # By their numbers: a node's clock may be wrong.
    started = sum(blow.attempt < one.number <= end for one in attempts)
    struck = next((one for one in attempts if one.number == blow.attempt), None)
    is_over = struck is not None and started > 0 and struck.reason is not None
    new = _first_new(rows, blow.attempt) if started else _first_after(rows, blow)
    return FaultCost(
        fault=blow.fault,
        phase=blow.phase,
        what=blow.what,
        step=blow.step,
        attempts=started,
        exit_reason=str(struck.reason) if struck is not None and is_over else "",
        redone=redone,
        seconds=None if new is None else new - blow.time,
        recovery="was resumed" if blow.resumed else "came back" if started else "went on",
    )


def _first_new(rows: Sequence[Row], attempt: int) -> float | None:
    """Time of the first step of later attempts that was not done up to this one."""
    done = max((row["step"] for row in rows if row["attempt"] <= attempt), default=0)
    return next((float(row["time"]) for row in rows if row["attempt"] > attempt and row["step"] > done), None)


def _first_after(rows: Sequence[Row], blow: Blow) -> float | None:
    return next((float(row["time"]) for row in rows if row["step"] > blow.step and row["time"] > blow.time), None)


def _redone(blows: Sequence[Blow], rows: Sequence[Row]) -> list[int]:
    """Count, for each fault, the steps after it that had been logged before."""
    counts, furthest = [0] * len(blows), 0
    for row in rows:
        before = sum(blow.time <= row["time"] for blow in blows)
        if row["step"] <= furthest and before:
            counts[before - 1] += 1
        furthest = max(furthest, int(row["step"]))
    return counts
