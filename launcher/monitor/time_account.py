"""Where the time of a run went: from its first submission to its end, each second is of one kind, and none is left out.

Productive time over elapsed time is what Google calls goodput (https://cloud.google.com/blog/products/ai-machine-learning/
goodput-metric-as-measure-of-ml-productivity), and, with the queue, Meta ETTR (https://arxiv.org/abs/2410.21680).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias, get_args

from launcher.monitor.traces import AttemptTrace
from launcher.run.ledger import Attempt
from launcher.run.pauses import Pause
from launcher.run.record import RunRecord

TimeKind: TypeAlias = Literal["queued", "starting", "useful", "redone", "saving", "evaluating", "lost", "idle"]
"""`queued`: before a start; `starting`: until the first step; `useful`: steps that count; `redone`: steps that were
lost and have to be redone; `saving`: checkpoints, export, and what an attempt that ends in order does after its last
step; `lost`: all else, such as a step that was cut short, a hang, an attempt that failed before its first step; `idle`:
stopped or failed, until somebody resumed it."""
TIME_KINDS: tuple[TimeKind, ...] = get_args(TimeKind)

_IN_ORDER = ("finished", "preempted", "time_limit", "stopped", "pruned")
_GOES_ON = ("requeue", "resubmit", "restart")


@dataclass(frozen=True)
class TimeSpan:
    """A stretch of time in which a run did one thing."""

    what: TimeKind
    start: float
    end: float
    attempt: int | None = None
    """None while there is none."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True)
class TimeAccount:
    """All of a run's time, in order and without gaps."""

    spans: tuple[TimeSpan, ...]

    def seconds(self, *kinds: TimeKind) -> float:
        """Sum of some kinds, or of all."""
        return sum(span.seconds for span in self.spans if not kinds or span.what in kinds)

    def by_kind(self) -> dict[TimeKind, float]:
        """Seconds of each kind."""
        return {kind: self.seconds(kind) for kind in TIME_KINDS}

    @property
    def attempt_seconds(self) -> float:
        """Of all attempts, while nodes were occupied."""
        return sum(span.seconds for span in self.spans if span.attempt is not None)

    @property
    def goodput(self) -> float | None:
        """Useful part of the time on nodes."""
        return self._share(self.attempt_seconds)

    @property
    def goodput_with_queue(self) -> float | None:
        """Useful part of the time on nodes and in the queue; time after a stop does not count."""
        return self._share(self.attempt_seconds + self.seconds("queued"))

    def _share(self, whole: float) -> float | None:
        return self.seconds("useful") / whole if whole > 0 else None


def account_for(
    record: RunRecord,
    attempts: Sequence[Attempt],
    traces: Mapping[int, AttemptTrace],
    pauses: Sequence[Pause],
    until: float,
    is_over: bool,
) -> TimeAccount:
    """Divide the time of a run.

    Args:
        record: Says when it was submitted.
        attempts: From the ledger.
        traces: What metrics.jsonl says of them.
        pauses: Of all attempts.
        until: Unix time up to which a run counts that is not over; of an attempt without an end, its last sign of life.
        is_over: Whether the run ended and does not go on by itself; then its time ends with its last attempt.
    """
    submitted = [one.time for one in record.submissions]
    starts = [*submitted[:1], *(one.started for one in attempts[:1])]
    if not starts:
        return TimeAccount(())
    now = min(starts) if not submitted else submitted[0]
    right = _by_right_clocks([now, *(one.started for one in attempts)])[1:]
    spans: list[TimeSpan] = []
    for place, (attempt, is_right) in enumerate(zip(attempts, right, strict=True)):
        trace, of_it = traces.get(attempt.number), [pause for pause in pauses if pause.attempt == attempt.number]
        if not is_right:
            attempt, trace, of_it = _set_back(attempt, trace, of_it, attempt.started - now)  # noqa: PLW2901 - corrected
        begin = max(now, attempt.started)
        spans += _wait(attempts[place - 1] if place else None, submitted, now, begin)
        end = max(begin, _end_of(attempt, trace, until))
        spans += _cut(_divide(attempt, trace, begin, end), of_it)
        now = end
    last = attempts[-1] if attempts else None
    if not is_over and (last is None or last.ended is not None):
        spans += _wait(last, submitted, now, max(now, until))
    return TimeAccount(tuple(span for span in spans if span.seconds > 0))


def _set_back(
    attempt: Attempt, trace: AttemptTrace | None, pauses: Sequence[Pause], seconds: float
) -> tuple[Attempt, AttemptTrace | None, list[Pause]]:
    """Set all times of an attempt back whose node had a wrong clock; how long things took was right."""

    def earlier(time: float | None) -> float | None:
        return None if time is None else time - seconds

    moved = replace(
        attempt, started=attempt.started - seconds, began=earlier(attempt.began), ended=earlier(attempt.ended)
    )
    if trace is not None:
        first, last = trace.first_time - seconds, trace.last_time - seconds
        trace = replace(trace, first_time=first, last_time=last, kept_time=earlier(trace.kept_time))
    return moved, trace, [replace(pause, time=pause.time - seconds) for pause in pauses]


def _by_right_clocks(times: Sequence[float]) -> list[bool]:
    """Tell of times that must be in order which ones are, as many as possible; the others are of wrong clocks."""
    if all(one <= other for one, other in pairwise(times)):
        return [True] * len(times)
    chains: list[list[int]] = []  # the longest that ends with each time
    for place, time in enumerate(times):
        before = [chain for chain in chains if times[chain[-1]] <= time]
        longest = max(before, key=len) if before else []
        chains.append([*longest, place])
    # Of two that are as long: with the submission, and with the newest attempt.
    best = max(chains, key=lambda chain: (len(chain), chain[0] == 0, chain[-1]))
    return [place in best for place in range(len(times))]


def _end_of(attempt: Attempt, trace: AttemptTrace | None, until: float) -> float:
    end = until if attempt.ended is None else attempt.ended
    return max(end, trace.last_time) if trace else end


def _wait(before: Attempt | None, submitted: Sequence[float], start: float, end: float) -> Iterator[TimeSpan]:
    """What is between two attempts: after a stop nothing is queued until somebody submits the run again."""
    queued_at = start
    if before is not None and before.action not in _GOES_ON:
        queued_at = next((time for time in submitted if start <= time <= end), start)
    yield TimeSpan("idle", start, queued_at)
    yield TimeSpan("queued", queued_at, end)


def _divide(attempt: Attempt, trace: AttemptTrace | None, begin: float, end: float) -> Iterator[TimeSpan]:
    """Divide an attempt, as if it had not paused."""
    number, ends_in_order = attempt.number, attempt.ended is None or attempt.reason in _IN_ORDER
    if trace is None:
        began = min(max(attempt.began, begin), end) if attempt.began is not None else None
        if began is None and ends_in_order:
            began = end
        yield TimeSpan("starting", begin, began or begin, number)
        yield TimeSpan("useful" if attempt.ended is None else "lost", began or begin, end, number)
        return
    first = attempt.began if attempt.began is not None else trace.first_time - trace.seconds_per_row
    began = max(begin, min(first, trace.first_time, end))
    last = min(max(trace.last_time, began), end)
    kept = began if trace.kept_time is None else min(max(trace.kept_time, began), last)
    yield TimeSpan("starting", begin, began, number)
    yield TimeSpan("useful", began, kept, number)
    yield TimeSpan("redone", kept, last, number)
    yield TimeSpan(_last_kind(attempt, kept < last), last, end, number)


def _last_kind(attempt: Attempt, lost_steps: bool) -> TimeKind:
    """What comes after the last step that was logged."""
    if attempt.ended is None:
        return "useful"
    return "lost" if lost_steps or attempt.reason not in _IN_ORDER else "saving"


def _cut(spans: Iterator[TimeSpan], pauses: Sequence[Pause]) -> Iterator[TimeSpan]:
    """Put pauses in place of what they interrupted."""
    waiting = sorted(pauses, key=lambda pause: pause.start)
    for span in spans:
        now = span.start
        for pause in waiting:
            start, end = max(now, pause.start), min(span.end, pause.time)
            if start < end:
                yield TimeSpan(span.what, now, start, span.attempt)
                kind: TimeKind = "evaluating" if pause.what == "evaluating" else "saving"
                yield TimeSpan(kind, start, end, span.attempt)
                now = end
        waiting = [pause for pause in waiting if pause.time > span.end]
        yield TimeSpan(span.what, now, span.end, span.attempt)
