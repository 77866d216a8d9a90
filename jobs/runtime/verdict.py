"""What follows from the end of an attempt: a pure function of what is known about it. Standard library only."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from launcher.ledger import Action, Attempt, Reason, StopRequest, micro_batch_limit
from launcher.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART

RequeuePolicy: TypeAlias = Literal["requeue", "resubmit", "never"]

FREE: frozenset[Reason] = frozenset({"preempted", "time_limit"})
"""Ends that are nobody's fault: they do not count against `limits.max_failures`."""
FAILURES: frozenset[Reason] = frozenset({"node_failure", "killed", "out_of_memory", "hang", "error"})
"""Ends that count against `limits.max_failures`."""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
"""Attempts in a row that failed or used up their time, and of which none got further than the one before, that
stop a run. What strikes three times at the same place is not bad luck; NVIDIA's resiliency launcher gives up
there, too."""


@dataclass(frozen=True)
class Cause:
    """What somebody other than the tasks says about the end: Slurm, its logs, a node's state."""

    reason: Reason
    source: str
    """Where that was read (`scontrol`, `sacct`, `Slurm's log`, ...)."""
    detail: str = ""
    unfit: tuple[str, ...] = ()
    """Nodes that the run should not be given again."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended."""

    exit_code: int | None
    """What decides among the tasks' exit codes; None: the batch process did not live to see it."""
    finished: bool = False
    """Whether rank 0 wrote `finished` into the ledger."""
    stop: StopRequest | None = None
    """The STOP file."""
    cause: Cause | None = None
    detail: str = ""
    """Which task on which node failed, if one did."""


@dataclass(frozen=True)
class Policy:
    """What the recipe and the cluster profile say about coming back."""

    requeue: RequeuePolicy = "requeue"
    max_failures: int = 3
    counts_files: bool = False
    """Progress is finished source files, not steps."""


@dataclass(frozen=True)
class Verdict:
    """Why the attempt ended, and what happens to the run."""

    reason: Reason
    source: str
    action: Action
    message: str
    max_micro_batch: int | None = None
    """What the next attempt may take at most, where this one's micro batch did not fit."""


_ASKED_TOO_EARLY = frozenset(128 + number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
"""Ends of a task that was asked to stop while its Python was starting: it had no handler yet, and nothing to lose."""


def judge(attempts: Sequence[Attempt], ending: Ending, policy: Policy) -> Verdict:
    """Decide what happens to a run.

    Args:
        attempts: All attempts; the last one is the one that ended, its steps filled in.
        ending: How it ended.
        policy: What the recipe and the cluster profile say.
    """
    limit = _halved(attempts, ending)
    reason, source = ("does_not_fit", f"exit code {DOES_NOT_FIT}") if limit else _reason(ending)
    ended = [*attempts[:-1], replace(attempts[-1], reason=reason)]
    said = _describe(ended, ending, reason, policy)
    if reason == "finished":
        return Verdict(reason, source, "done", said)
    why_not = _why_stop(ended, ending, reason, policy)
    if why_not:
        return Verdict(reason, source, "stop", f"{said}; {why_not}", limit)
    if limit and ending.stop is None:
        return Verdict(reason, source, "restart", said, limit)
    return Verdict(reason, source, "resubmit" if policy.requeue == "resubmit" else "requeue", said, limit)


def _halved(attempts: Sequence[Attempt], ending: Ending) -> int | None:
    """Return half of the micro batch that did not fit; None if that is not why the attempt ended.

    Nor is anything halved that ignored an earlier limit: halving must come to an end.
    """
    number, limit = attempts[-1].micro_batch or 0, micro_batch_limit(attempts[:-1])
    if ending.exit_code != DOES_NOT_FIT or ending.cause is not None or ending.finished or number < 2:
        return None
    return number // 2 if limit is None or number <= limit else None


def batch_exit_code(verdict: Verdict, ending: Ending) -> int:
    """Exit code of the batch process: what the tasks said; 0, which starts what waits (`afterok`), if they finished."""
    return FINISHED if verdict.reason == "finished" else ending.exit_code or 1


def _is_wanted_to_stop(ending: Ending) -> bool:
    return ending.stop is not None and ending.stop.reason == "user"


def _reason(ending: Ending) -> tuple[Reason, str]:
    code = f"exit code {ending.exit_code}"
    if ending.finished or ending.exit_code == FINISHED:
        return "finished", "ledger" if ending.finished else code
    if ending.exit_code == NEVER_RESTART:
        return "bad_recipe", code
    if ending.exit_code == CONTINUE:
        return _reason_of_stop(ending)
    return _reason_of_failure(ending)


def _reason_of_failure(ending: Ending) -> tuple[Reason, str]:
    if ending.cause is not None:
        return ending.cause.reason, ending.cause.source
    if ending.exit_code is None:
        return "killed", "no word of its end"
    if ending.exit_code in _ASKED_TOO_EARLY and ending.stop is not None:
        return _reason_of_stop(ending)
    return "killed" if ending.exit_code > 128 else "error", f"exit code {ending.exit_code}"


def _reason_of_stop(ending: Ending) -> tuple[Reason, str]:
    """Who asked the tasks to leave."""
    if _is_wanted_to_stop(ending):
        return "stopped", "STOP"
    if ending.cause is not None and ending.cause.reason in ("preempted", "stopped", "node_failure"):
        return ending.cause.reason, ending.cause.source
    if ending.stop is not None:
        return "time_limit", "STOP"
    return "preempted", f"exit code {CONTINUE}"


def _why_stop(attempts: Sequence[Attempt], ending: Ending, reason: Reason, policy: Policy) -> str | None:
    """Say why the run does not come back; None if it does."""
    if reason == "stopped" or _is_wanted_to_stop(ending):
        return "somebody wants it to stop: `launcher resume` goes on"
    if reason == "bad_recipe":
        return "it would end the same way again: see the logs"
    if reason == "does_not_fit" and ending.stop is None:
        return None  # it goes on in the same job, and with less each time
    if policy.requeue == "never":
        return "the cluster profile says `requeue: never`; `launcher resume` goes on"
    return None if reason in ("preempted", "does_not_fit") else _spent_budget(attempts, policy)


def _spent_budget(attempts: Sequence[Attempt], policy: Policy) -> str | None:
    current = since_last_stop(attempts)
    failures = [attempt for attempt in current if attempt.reason in FAILURES]
    if len(failures) > policy.max_failures:
        return f"{len(failures)} failures are more than limits.max_failures ({policy.max_failures}) allows"
    last = current[-MAX_ATTEMPTS_WITHOUT_PROGRESS:]
    stuck = len(last) == MAX_ATTEMPTS_WITHOUT_PROGRESS and all(
        attempt.reason in FAILURES | {"time_limit"} and not made_progress(attempts, attempt) for attempt in last
    )
    further = "finished no other file" if policy.counts_files else f"got no further than step {reached(attempts)}"
    return f"{len(last)} attempts in a row {further}" if stuck else None


def since_last_stop(attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    """Leave out what came before a person resumed the run: that starts all budgets anew."""
    for position in range(len(attempts) - 2, -1, -1):
        if attempts[position].action == "stop":
            return attempts[position + 1 :]
    return attempts


def reached(attempts: Sequence[Attempt]) -> int:
    """Step that the run would resume from after these attempts."""
    return max((attempt.last_step or 0 for attempt in attempts), default=0)


def made_progress(attempts: Sequence[Attempt], attempt: Attempt) -> bool:
    """Tell whether an attempt got further than all before it."""
    earlier = [other for other in attempts if other.number < attempt.number]
    return (attempt.last_step or 0) > reached(earlier)


_WORDS: dict[Reason, str] = {
    "finished": "finished",
    "preempted": "preempted",
    "time_limit": "reached the time limit",
    "stopped": "stopped on request",
    "node_failure": "lost a node",
    "killed": "was killed",
    "out_of_memory": "ran out of the node's RAM",
    "does_not_fit": "did not fit into a GPU's memory",
    "hang": "hung",
    "bad_recipe": "cannot work as it is",
    "error": "failed",
}


def _describe_progress(count: int, policy: Policy) -> str:
    if policy.counts_files:
        return f"{count:,} file{'s are' if count > 1 else ' is'} done" if count else "no file is done yet"
    return f"step {count} is safe" if count else "no step is safe yet"


def _describe(attempts: Sequence[Attempt], ending: Ending, reason: Reason, policy: Policy) -> str:
    details = [ending.detail if reason in FAILURES else ""]
    if reason in ("bad_recipe", "does_not_fit", "error"):
        details = [attempts[-1].fault or ending.detail]
    details.append(ending.cause.detail if ending.cause and ending.cause.reason == reason else "")
    detail = "; ".join(part for part in details if part)
    words = [_WORDS[reason] + (f" ({detail})" if detail else "")]
    if reason != "finished":
        words.append(_describe_progress(reached(attempts), policy))
    if reason == "does_not_fit":
        words.append(f"at most {(attempts[-1].micro_batch or 0) // 2} from now on, and more accumulation instead")
    if reason in FREE and ending.exit_code != CONTINUE:
        words.append("the tasks were ended before they had saved")
    if reason in FREE and not made_progress(attempts, attempts[-1]):
        words.append("this attempt made no progress")
    if reason == "finished" and ending.exit_code:
        words.append(f"exit code {ending.exit_code} came after the end of the work")
    return ", ".join(words)
