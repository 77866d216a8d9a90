"""What all runs of a folder used: GPU-hours by recipe, by state and by what they were spent on."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.monitor.consumption import gpus_of, nodes_of
from launcher.monitor.elsewhere import hang_seconds_of
from launcher.monitor.ends import with_ends
from launcher.monitor.find import list_runs
from launcher.monitor.observed_state import BLAMELESS
from launcher.monitor.summaries import Summaries
from launcher.monitor.time_account import TimeAccount, TimeKind, account_for
from launcher.monitor.traces import kept_limits, read_traces
from launcher.run.ledger import Attempt, has_finished, read_attempts
from launcher.run.paths import RunDir, expand, list_shares
from launcher.run.pauses import read_pauses
from launcher.run.record import RunRecord
from launcher.run.signs_of_life import last_sign_of_life, seen_lately
from launcher.run.typed import read_resolved

UsageState: TypeAlias = Literal["not started", "going on", "stopped", "pruned", "failed", "finished"]
"""As run directories say it, without asking Slurm; `going on`: queued, running, or lost."""

_FORMAT = 4
"""Of the summaries; another one makes all of them anew."""


@dataclass(frozen=True)
class AttemptUsage:
    """What one attempt did with its time."""

    start: float
    end: float
    seconds: dict[TimeKind, float]
    nodes: int
    gpus: int
    """Of all nodes together."""


@dataclass(frozen=True)
class Spent:
    """What the attempts of a run spent in some time."""

    node_seconds: float
    gpu_seconds: dict[TimeKind, float]


@dataclass(frozen=True)
class RunUsage:
    """What one run used."""

    recipe: str
    """Its name."""
    state: UsageState
    created: float
    price: float | None
    is_open: bool
    """Whether its last attempt has no end yet."""
    attempts: tuple[AttemptUsage, ...]

    def spent(self, since: float) -> Spent:
        """What it spent; an attempt that began before `since` counts with the share of its time after it."""
        node_seconds, gpu_seconds = 0.0, dict[TimeKind, float]()
        for one in self.attempts:
            if one.end <= since:
                continue
            share = 1.0 if one.start >= since else (one.end - since) / (one.end - one.start)
            node_seconds += one.nodes * share * sum(one.seconds.values())
            for kind, value in one.seconds.items() if one.gpus else ():
                gpu_seconds[kind] = gpu_seconds.get(kind, 0.0) + one.gpus * share * value
        return Spent(node_seconds, gpu_seconds)


@dataclass
class UsageTotal:
    """What some runs used together."""

    name: str
    runs: int
    gpu_hours: dict[TimeKind, float]
    node_hours: float
    cost: float | None
    """None if a price is missing."""

    @property
    def all_gpu_hours(self) -> float:
        """GPU-hours of all kinds."""
        return sum(self.gpu_hours.values())

    @property
    def useful_share(self) -> float | None:
        """Part of them that was useful."""
        whole = self.all_gpu_hours
        return self.gpu_hours.get("useful", 0.0) / whole if whole else None


@dataclass(frozen=True)
class Usage:
    """What the runs of a folder used."""

    total: UsageTotal
    recipes: tuple[UsageTotal, ...]
    """The most GPU-hours first."""
    states: tuple[UsageTotal, ...]
    notes: tuple[str, ...]


def measure_usage(cluster: Cluster, since: float = 0.0) -> Usage:
    """Sum up the runs below the profile's `roots.runs`.

    Args:
        cluster: Where they are.
        since: Unix time before which nothing counts.
    """
    root = expand(cluster.roots.runs)
    runs, notes = read_usages(root, list_runs(cluster))
    spent = [(run, run.spent(since)) for run in runs]
    spent = [(run, its) for run, its in spent if its.node_seconds or run.created >= since]
    recipes = _group(spent, lambda run: run.recipe)
    return Usage(
        _total("together", spent),
        tuple(sorted(recipes, key=lambda one: (-one.all_gpu_hours, -one.node_hours, one.name))),
        tuple(_group(spent, lambda run: run.state)),
        tuple(notes),
    )


_RunSpent: TypeAlias = tuple[RunUsage, Spent]


def _group(spent: Sequence[_RunSpent], key: Any) -> list[UsageTotal]:
    groups: dict[str, list[_RunSpent]] = {}
    for one in spent:
        groups.setdefault(key(one[0]), []).append(one)
    return [_total(name, some) for name, some in groups.items()]


def _total(name: str, spent: Sequence[_RunSpent]) -> UsageTotal:
    total = UsageTotal(name, len(spent), {}, 0.0, 0.0)
    for run, its in spent:
        total.node_hours += its.node_seconds / 3600
        for kind, value in its.gpu_seconds.items():
            total.gpu_hours[kind] = total.gpu_hours.get(kind, 0.0) + value / 3600
        if hours := sum(its.gpu_seconds.values()) / 3600:
            is_known = total.cost is not None and run.price is not None
            total.cost = (total.cost or 0) + hours * (run.price or 0) if is_known else None
    return total


def read_usages(root: Path, runs: Iterable[RunDir]) -> tuple[list[RunUsage], list[str]]:
    """Read what runs used, from the kept summaries where these still count.

    Args:
        root: Folder of all runs.
        runs: The runs; those of their tasks are added.

    Returns:
        What they used, and notes about those that cannot be read.
    """
    summaries = Summaries(root, "usage", _FORMAT)
    found, notes = [], []
    for name, run in _named(runs):
        kept = summaries.find(name, run)
        if kept is None:
            try:
                usage = summarise(run)
            except (OSError, ValueError, KeyError, TypeError) as error:
                notes.append(f"`{run.root}` cannot be read ({type(error).__name__}: {error})")
                continue
            if not usage.is_open:
                summaries.keep(name, asdict(usage))
        else:
            usage = _as_usage(kept)
        found.append(usage)
    summaries.save()
    return found, notes


def _named(runs: Iterable[RunDir]) -> Iterator[tuple[str, RunDir]]:
    for run in runs:
        yield run.root.name, run
        if os.path.isdir(run.shares):
            yield from ((f"{run.root.name}/{share.root.name}", share) for share in list_shares(run))


def _as_usage(values: Mapping[str, Any]) -> RunUsage:
    attempts = tuple(AttemptUsage(**one) for one in values["attempts"])
    return RunUsage(**{**values, "attempts": attempts})


def summarise(run: RunDir) -> RunUsage:
    """Work out what a run used, from all of its files.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
    """
    record, attempts = RunRecord.read(run.record), read_attempts(run.ledger)
    recipe = read_resolved(run.recipe)
    traces = read_traces(run.metrics, kept_limits(attempts))
    is_open = bool(attempts) and attempts[-1].ended is None
    hang = hang_seconds_of(recipe)
    is_running = is_open and seen_lately(run, attempts[-1].number, hang) is not None
    until = last_sign_of_life(run) if is_running else 0.0
    ended = with_ends(run, attempts, is_running)
    account = account_for(record, ended, traces, read_pauses(run.pauses), until, is_over=True)
    return RunUsage(
        recipe=record.name,
        state=_state(record, attempts),
        created=record.created,
        price=(record.cluster.get("gpus") or {}).get("price"),
        is_open=is_open,
        attempts=tuple(_by_attempt(account, recipe, {attempt.number: attempt for attempt in attempts})),
    )


def _by_attempt(
    account: TimeAccount, recipe: Mapping[str, Any], attempts: Mapping[int, Attempt]
) -> Iterator[AttemptUsage]:
    numbers = dict.fromkeys(span.attempt for span in account.spans if span.attempt is not None)
    for number in numbers:
        spans = [span for span in account.spans if span.attempt == number]
        seconds: dict[TimeKind, float] = {}
        for span in spans:
            seconds[span.what] = seconds.get(span.what, 0.0) + span.seconds
        held = nodes_of(recipe, attempts[number]), gpus_of(recipe, attempts[number])
        yield AttemptUsage(spans[0].start, spans[-1].end, seconds, *held)


def _state(record: RunRecord, attempts: Sequence[Attempt]) -> UsageState:
    if has_finished(attempts):
        return "finished"
    newest = record.submissions[-1].time if record.submissions else None
    if not attempts:
        return "not started" if newest is None else "going on"
    last = attempts[-1]
    resumed = newest is not None and last.ended is not None and newest > last.ended
    if last.action != "stop" or resumed:
        return "going on"
    if last.reason == "pruned":
        return "pruned"
    return "stopped" if last.reason in BLAMELESS else "failed"
