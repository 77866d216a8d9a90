"""Why a run waits, or ended as it did: what is known of it, in sentences, and what to type next."""

from collections.abc import Iterator
from dataclasses import dataclass

from launcher.cluster import Cluster
from launcher.monitor.exit_reasons import EXIT_REASONS, meaning_of
from launcher.monitor.find import run_id
from launcher.monitor.logs import find_failure, rank_logs, scheduler_log
from launcher.monitor.observed_state import ObservedState, State, decide_state
from launcher.monitor.run_state import RunState, ask_about, read_state
from launcher.monitor.tracebacks import RankError, find_errors, find_stacks
from launcher.recipe import KINDS
from launcher.run.identity import RunIdentity, describe_changed
from launcher.run.ledger import Attempt
from launcher.run.paths import RunDir, expand
from launcher.run.stacks import SharedStack
from launcher.run.stragglers import read_stragglers
from launcher.run.suspects import find_suspects
from launcher.slurm.parse import Job
from launcher.slurm.reasons import find_reason

_EXPECTED = ("finished", "preempted", "time_limit", "stopped", "pruned")
"""Reasons that are no fault of the run, so that its logs say nothing about them."""
_RESTARTS = ("requeue", "resubmit", "restart")
"""Actions after which a run goes on by itself, unless its job is gone."""
_GOING_ON = ("queued", "requeued", "running")
"""States of a run whose job is there."""


@dataclass(frozen=True)
class Explanation:
    """Why a run is where it is."""

    id: str
    state: State
    sentences: tuple[str, ...]
    """What happened and what it means, the most important first."""
    errors: tuple[RankError, ...]
    """What the ranks of the newest attempt that ended failed with."""
    stacks: tuple[SharedStack, ...]
    """If it hung: where its ranks were, those at the same place together."""
    evidence: tuple[str, ...]
    """Files that say more."""
    commands: tuple[str, ...]
    """What to type next, with what it does behind `#`; empty if the run continues by itself or is finished."""


def explain_run(cluster: Cluster, run: RunDir) -> Explanation:
    """Explain why a run waits or how it ended; asks Slurm once."""
    state = read_state(run)
    answer, now = ask_about(cluster, [state])
    state = now[run.root]
    observed, job = decide_state(state, answer), answer.find(state.job_id, state.submission)
    ended = _find_ended(state, observed)
    is_a_fault = ended is not None and _is_a_fault(ended, observed)
    logs = rank_logs(run, ended.number) if ended and is_a_fault else {}
    stacks = find_stacks(logs) if ended and ended.reason == "hang" else ()
    return Explanation(
        id=run_id(run),
        state=observed.state,
        sentences=(
            *_explain_state(observed, job, ended),
            *(_explain_attempts(state, ended, observed.state not in _GOING_ON) if ended else ()),
            *_explain_inputs(state),
            *_explain_guardian(state, observed.state not in _GOING_ON),
            *_explain_nodes(state, cluster),
        ),
        errors=tuple(error for error in find_errors(logs) if not (stacks and error.is_a_hang)),
        stacks=stacks,
        evidence=tuple(_find_evidence(state, ended, is_a_fault)),
        commands=tuple(_next_commands(observed, job, ended, run_id(run))),
    )


def _find_ended(state: RunState, observed: ObservedState) -> Attempt | None:
    """Find the newest attempt that ended, also if nobody was left to note that."""
    if observed.state not in _GOING_ON:
        return state.last
    return next((attempt for attempt in reversed(state.attempts) if attempt.ended or attempt.reason), None)


def _is_a_fault(ended: Attempt, observed: ObservedState) -> bool:
    is_cancelled = ended.reason is None and observed.state == "stopped"
    return ended.reason not in _EXPECTED and not is_cancelled


def _explain_state(observed: ObservedState, job: Job | None, ended: Attempt | None) -> Iterator[str]:
    # What was noted of the attempt comes below.
    is_told = ended is not None and ended.message and ended.message in observed.why
    why = f": {observed.why}" if observed.why and not is_told else ""
    yield f"{observed.state}{why} (says {observed.source})"
    reason = find_reason(job.reason) if job is not None and job.phase == "queued" else None
    if reason is not None and not job.is_held:  # type: ignore[union-attr]  # a job with a reason is one
        yield reason.advice or "It starts by itself as soon as it can; there is nothing to do."


def _explain_attempts(state: RunState, ended: Attempt, is_over: bool) -> Iterator[str]:
    meaning = meaning_of(ended)
    said = f" It was noted: {ended.message}." if ended.message else ""
    yield f"Attempt {ended.number} (job {ended.job_id}) ended. {meaning.meaning}{said}"
    if ended.action in _RESTARTS and not is_over:
        if ended.last_step and getattr(KINDS.get(state.record.kind), "progress", "steps") != "steps":
            yield "The run continues by itself with what is not finished yet."
        elif ended.last_step:
            yield "The run continues by itself from its newest checkpoint."
        else:
            yield "The run starts again by itself; nothing had been saved yet."
    elif meaning.advice:
        yield meaning.advice
    if ended.fault and ended.fault not in ended.message:
        yield f"A rank said: {ended.fault}"
    earlier = [one for one in state.attempts if one.number < ended.number]
    if earlier:
        told = ", ".join(f"{one.number} {EXIT_REASONS[one.reason].short or one.reason}" for one in earlier)
        yield f"Attempts before it: {told}."


def _explain_inputs(state: RunState) -> Iterator[str]:
    """Say which inputs changed while the run was under way."""
    noted = RunIdentity.read(state.folder.identity)
    if noted is not None and noted.is_mixed:
        yield f"{describe_changed(noted.changed)}."


def _explain_guardian(state: RunState, is_over: bool) -> Iterator[str]:
    """Say why the newest attempt has no guardian that would bring it back, if it may still need one."""
    last = state.last
    if last is None or not last.guardian or (last.ended is not None and not (is_over and last.action in _RESTARTS)):
        return
    yield f"The guardian of attempt {last.number} gave up: {last.guardian}."
    if not is_over and last.reason != "finished":
        yield "If the batch process is killed, the run does not come back by itself."


def _explain_nodes(state: RunState, cluster: Cluster) -> Iterator[str]:
    """Say which ranks of the newest attempt were slow, and what is remembered of its nodes."""
    if state.last is None:
        return
    yield from (f"{straggler}." for straggler in read_stragglers(state.folder.stragglers(state.last.number)))
    if cluster.slurm.remember is None:
        return
    for one in find_suspects(expand(cluster.roots.runs), cluster.slurm.remember.seconds):
        if one.node in state.last.nodes:
            told = "; ".join(map(str, one.reports))
            avoided = "new jobs avoid it" if one.is_avoided else "once more, and new jobs avoid it"
            yield f"{one.node} is remembered (`launcher nodes list`): {told}; {avoided}."


def _find_evidence(state: RunState, ended: Attempt | None, is_a_fault: bool) -> Iterator[str]:
    if ended is None:
        log = scheduler_log(state.folder)
        if log is not None:
            yield str(log)
        return
    failure = find_failure(state.folder, ended.number) if is_a_fault else None
    for path in (*([failure.log] if failure else ()), state.folder.batch_log(ended.number)):
        if path.is_file():
            yield str(path)


def _next_commands(observed: ObservedState, job: Job | None, ended: Attempt | None, run: str) -> Iterator[str]:
    if job is not None and job.is_held:
        yield f"scontrol release {job.id}  # lets the job go"
    if observed.state == "running":
        yield f"launcher logs -f {run}  # follows its log"
    if observed.state == "pruned":
        yield f"launcher status {run}  # shows what it had reported"
    if observed.state in ("failed", "lost"):
        yield f"launcher logs {run}  # shows the rank that failed first"
        yield f"launcher logs --batch {run}  # shows what the batch process noted"
    if ended is not None and ended.reason == "bad_recipe" and observed.state == "failed":
        yield "launcher submit RECIPE  # a new run, once the recipe or its data is mended"
    elif observed.state in ("failed", "lost", "stopped", "not submitted"):
        yield f"launcher resume {run}  # continues it"
