"""What follows from the end of an attempt: a pure function of its end reason and the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from jobs.batch.evidence import EndReason
from launcher.run.ledger import Action, Attempt, Reason
from launcher.run.paths import CONTINUE, FINISHED

RequeuePolicy: TypeAlias = Literal["requeue", "resubmit", "never"]

Unit: TypeAlias = Literal["step", "file", "item"]

FREE: frozenset[Reason] = frozenset({"preempted", "time_limit"})
"""Ends that are nobody's fault: they do not count against `limits.max_failures`."""
FAILURES: frozenset[Reason] = frozenset({"node_failure", "killed", "out_of_memory", "hang", "error"})
"""Ends that count against `limits.max_failures`."""

MAX_ATTEMPTS_WITHOUT_PROGRESS = 3
"""So many attempts in a row that failed or used up their time, and got no further than the one before, stop a run.
What strikes three times at the same place is not bad luck; NVIDIA's resiliency launcher gives up there, too."""


@dataclass(frozen=True)
class Policy:
    """What the recipe and the cluster profile say about restarts."""

    requeue: RequeuePolicy = "requeue"
    max_failures: int = 3
    counted: Unit = "step"
    """What progress is counted in; finished files and items are kept one by one, steps by checkpoints."""
    starts_again: bool = False
    """Whether an attempt that ends early keeps nothing, so that there is no progress to tell of."""


@dataclass(frozen=True)
class RestartDecision:
    """What happens to the run."""

    action: Action
    message: str
    max_micro_batch: int | None = None
    """What the next attempt may take at most, where this one's micro batch did not fit."""


def decide_restart(attempts: Sequence[Attempt], end: EndReason, policy: Policy) -> RestartDecision:
    """Decide what happens to a run.

    Args:
        attempts: All attempts; the last one is the one that ended, its steps filled in.
        end: Why it ended.
        policy: What the recipe and the cluster profile say.
    """
    attempts = [*attempts[:-1], replace(attempts[-1], reason=end.reason)]
    message = _describe(attempts, end, policy)
    if end.reason == "finished":
        return RestartDecision("done", message)
    limit = (attempts[-1].micro_batch or 0) // 2 if end.reason == "does_not_fit" else None
    why_not = _why_stop(attempts, end, policy)
    if why_not:
        return RestartDecision("stop", f"{message}; {why_not}", limit)
    if limit and end.stop is None:
        return RestartDecision("restart", message, limit)
    return RestartDecision("resubmit" if policy.requeue == "resubmit" else "requeue", message, limit)


def batch_exit_code(end: EndReason) -> int:
    """Exit code of the batch process: that of the ranks; 0, which starts what waits (`afterok`), if they finished."""
    return FINISHED if end.reason == "finished" else end.exit_code or 1


def _why_stop(attempts: Sequence[Attempt], end: EndReason, policy: Policy) -> str | None:
    """Say why the run is not restarted; None if it is."""
    if end.reason == "stopped" or (end.stop is not None and end.stop.reason == "user"):
        return "a person asked it to stop; `launcher resume` continues it"
    if end.stop is not None and end.stop.reason == "pruned":
        return "other trials were better at the same step"
    if end.reason == "bad_recipe":
        return "a restart would fail in the same way: see the logs"
    if end.reason == "does_not_fit" and end.stop is None:
        return None  # restarted in the same job, with half the micro batch each time
    if policy.requeue == "never":
        return "the cluster profile says `requeue: never`; `launcher resume` continues it"
    return None if end.reason in ("preempted", "does_not_fit") else _spent_budget(attempts, policy)


def _spent_budget(attempts: Sequence[Attempt], policy: Policy) -> str | None:
    # A person who resumes a run resets all budgets: what came before does not count.
    stops = [position for position, attempt in enumerate(attempts[:-1], 1) if attempt.action == "stop"]
    current = attempts[max(stops, default=0) :]
    failures = sum(attempt.reason in FAILURES for attempt in current)
    if failures > policy.max_failures:
        count = "1 failure is" if failures == 1 else f"{failures} failures are"
        return f"{count} more than limits.max_failures ({policy.max_failures}) allows"
    last = current[-MAX_ATTEMPTS_WITHOUT_PROGRESS:]
    stuck = len(last) == MAX_ATTEMPTS_WITHOUT_PROGRESS and all(
        attempt.reason in FAILURES | {"time_limit"} and not _made_progress(attempts, attempt) for attempt in last
    )
    return f"{len(last)} attempts in a row {_got_no_further(_reached(attempts), policy)}" if stuck else None


def _got_no_further(step: int, policy: Policy) -> str:
    if policy.starts_again:
        return "did not come to the end"
    return f"got no further than step {step}" if policy.counted == "step" else f"finished no other {policy.counted}"


def _reached(attempts: Sequence[Attempt]) -> int:
    """Step that the run would resume from after these attempts.

    One that resumed at an earlier step than was reached before it has lost what lies between: the checkpoints of later
    steps were damaged, or somebody removed them.
    """
    reached = 0
    for attempt in attempts:
        if attempt.first_step is not None:
            reached = min(reached, attempt.first_step)
        reached = max(reached, attempt.last_step or 0)
    return reached


def _made_progress(attempts: Sequence[Attempt], attempt: Attempt) -> bool:
    """Tell whether an attempt got further than the run was.

    One that was thrown back gets further once it has saved a later step than its first. If the next one is thrown back
    as well, it has to get beyond what was reached before: else a run that loses each of its checkpoints never ended.
    """
    earlier = [other for other in attempts if other.number < attempt.number]
    last, reached = attempt.last_step or 0, _reached(earlier)
    if _was_thrown_back(earlier, attempt) and not (earlier and _was_thrown_back(earlier[:-1], earlier[-1])):
        reached = attempt.first_step or 0
    return last > reached


def _was_thrown_back(earlier: Sequence[Attempt], attempt: Attempt) -> bool:
    return attempt.first_step is not None and attempt.first_step < _reached(earlier)


_WORDS: dict[Reason, str] = {
    "preempted": "preempted",
    "time_limit": "reached the time limit",
    "stopped": "stopped on request",
    "pruned": "pruned",
    "node_failure": "lost a node",
    "killed": "was killed",
    "out_of_memory": "ran out of the node's RAM",
    "does_not_fit": "did not fit into a GPU's memory",
    "hang": "hung",
    "bad_recipe": "cannot work as it is",
    "error": "failed",
}


def _describe_progress(count: int, policy: Policy) -> str:
    if policy.counted != "step":
        is_done = f"{count:,} {policy.counted}{'s are' if count > 1 else ' is'} done"
        return is_done if count else f"no {policy.counted} is done yet"
    return f"step {count} is safe" if count else "no step is safe yet"


def _describe(attempts: Sequence[Attempt], end: EndReason, policy: Policy) -> str:
    if end.reason == "finished":
        return f"finished, exit code {end.exit_code} came after the end of the work" if end.exit_code else "finished"
    words = [_WORDS[end.reason] + (f" ({end.detail})" if end.detail else "")]
    if policy.starts_again:
        return words[0]
    words.append(_describe_progress(_reached(attempts), policy))
    if end.reason == "does_not_fit":
        size = (attempts[-1].micro_batch or 0) // 2
        words.append(f"continues with a micro batch of at most {size} and more accumulation steps")
    if end.reason in FREE and end.exit_code != CONTINUE:
        words.append("the ranks were ended before they had saved")
    if end.reason in FREE and not _made_progress(attempts, attempts[-1]):
        words.append("this attempt made no progress")
    return ", ".join(words)
