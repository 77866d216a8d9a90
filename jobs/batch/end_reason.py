"""Why an attempt ended: the first of `PROBES` that knows says it.

Sites differ in what they let a job ask (sacct is often off or for administrators), so several sources are asked, and
the one that answered is named.
"""

import re
import signal
from collections.abc import Callable
from dataclasses import replace

from jobs.batch import slurm
from jobs.batch.evidence import END_SIGNALS, EndReason, Evidence
from jobs.batch.slurm_traces import CLOCK_SECONDS, REQUEUE, of_state, parse_accounting, search_logs
from launcher.run.ledger import Reason, StopReason, micro_batch_limit
from launcher.run.paths import CONTINUE, DOES_NOT_FIT, FINISHED, NEVER_RESTART
from launcher.run.slurm_text import parse_time

_DOWN = re.compile(r"^(DOWN|FAIL|ERROR)|NOT_RESPONDING|\*")
_CODES_BEFORE_HANDLERS = frozenset(128 + number for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2))
"""Exit codes of a rank that was asked to stop before Python had installed its handlers; it had nothing to save yet."""


def find_end_reason(evidence: Evidence) -> EndReason:
    """Say why an attempt ended, and what its ranks said of that."""
    found = next(answer for probe in PROBES if (answer := probe(evidence)) is not None)
    detail = "; ".join(part for part in (_said_by_ranks(evidence, found.reason), found.detail) if part)
    return replace(found, detail=detail, exit_code=evidence.exit_code, stop=evidence.stop)


def _said_by_ranks(evidence: Evidence, reason: Reason) -> str:
    if reason in ("finished", "preempted", "time_limit", "stopped", "pruned"):
        return ""
    fault = evidence.attempt.fault if reason in ("bad_recipe", "does_not_fit", "error") else ""
    return fault or evidence.failed_rank


def _finished(evidence: Evidence) -> EndReason | None:
    if evidence.attempt.reason == "finished":
        return EndReason("finished", "ledger")
    return EndReason("finished", f"exit code {FINISHED}") if evidence.exit_code == FINISHED else None


def _bad_recipe(evidence: Evidence) -> EndReason | None:
    return EndReason("bad_recipe", f"exit code {NEVER_RESTART}") if evidence.exit_code == NEVER_RESTART else None


def _stopped_for_good(evidence: Evidence) -> EndReason | None:
    is_wanted = evidence.stop is not None and evidence.stop.reason in ("user", "pruned")
    return _of_request(evidence) if is_wanted and evidence.exit_code == CONTINUE else None


def _seen_by_batch_process(evidence: Evidence) -> EndReason | None:
    return evidence.seen


def _failed_preflight(evidence: Evidence) -> EndReason | None:
    found = evidence.preflight
    return EndReason("node_failure", "preflight", found["message"], tuple(found["unfit"])) if found else None


def _job_state(evidence: Evidence) -> EndReason | None:
    job = evidence.job
    preempted = parse_time(job.get("PreemptTime", ""))
    if preempted is not None and preempted >= evidence.attempt.started - CLOCK_SECONDS:
        return EndReason("preempted", "scontrol", f"PreemptTime {job['PreemptTime']}")
    return _unless_saved(evidence, of_state(job.get("JobState", ""), "scontrol"))


def _slurm_log(evidence: Evidence) -> EndReason | None:
    found = None if evidence.is_local else search_logs(evidence.logs, evidence.attempt)
    was_asked = evidence.stop is not None and evidence.stop.attempt in (evidence.attempt.number, None)
    if found and found.detail.startswith(REQUEUE) and not evidence.witnessed and not was_asked:
        # Nobody had told the batch process to stop, so this requeue was its own work: on a full disk it could not tell
        # the end, and an end that counts as nobody's failure would be requeued forever.
        return None
    return _unless_saved(evidence, found)


def _accounting(evidence: Evidence) -> EndReason | None:
    if evidence.witnessed or evidence.is_local:
        return None
    columns, only = "--format=Start,State,End", f"--jobs={evidence.attempt.job_id}"
    answer = slurm.ask("sacct", "--duplicates", "--parsable2", "--noheader", "-X", columns, only)
    return _unless_saved(evidence, parse_accounting(answer.text, evidence.attempt)) if answer.ok else None


def _lost_node(evidence: Evidence) -> EndReason | None:
    for node in [] if evidence.is_local else slurm.show_nodes(evidence.attempt.nodes):
        name, state = node.get("NodeName", ""), node.get("State", "")
        if _DOWN.search(state):
            return EndReason("node_failure", "scontrol show node", f"{name} is {state}")
        booted = parse_time(node.get("BootTime", ""))
        if booted is not None and booted > evidence.attempt.started:
            return EndReason("node_failure", "scontrol show node", f"{name} was booted at {node['BootTime']}")
    return None


def _requeued_by_slurm(evidence: Evidence) -> EndReason | None:
    if int(evidence.job.get("Restarts", 0)) <= evidence.attempt.restart_count:
        return None
    return EndReason("preempted", "scontrol", "Slurm has put the job back into the queue by itself")


def _ended_by_signal(evidence: Evidence) -> EndReason | None:
    if not any(name in END_SIGNALS for name in evidence.signals):
        return None
    name = evidence.signals[-1]
    # A Slurm that did not answer gets a second chance: a job taken for cancelled does not come back.
    job = evidence.job or ({} if evidence.is_local else slurm.show_job(evidence.attempt.job_id))
    if job.get("JobState") == "RUNNING":
        return EndReason("preempted", name, f"{name} without a Slurm event: node reboot or reclaimed spot machine")
    return EndReason("stopped", name)  # by a person


def _hang(evidence: Evidence) -> EndReason | None:
    is_explained = evidence.exit_code in (CONTINUE, DOES_NOT_FIT)
    return EndReason("hang", "watchdog", evidence.hang) if evidence.hang and not is_explained else None


def _micro_batch_too_large(evidence: Evidence) -> EndReason | None:
    # A size that ignored an earlier limit is not halved again: halving must come to an end.
    size, limit = evidence.attempt.micro_batch or 0, micro_batch_limit(evidence.attempts[:-1])
    if evidence.exit_code != DOES_NOT_FIT or size < 2 or (limit is not None and size > limit):
        return None
    return EndReason("does_not_fit", f"exit code {DOES_NOT_FIT}")


def _asked_to_stop(evidence: Evidence) -> EndReason | None:
    has_saved = evidence.exit_code == CONTINUE
    was_early = evidence.exit_code in _CODES_BEFORE_HANDLERS and evidence.stop is not None
    return _of_request(evidence) if has_saved or was_early else None


def _exit_code(evidence: Evidence) -> EndReason | None:
    if evidence.exit_code is None:
        return EndReason("killed", "no word of its end")
    return EndReason("killed" if evidence.exit_code > 128 else "error", f"exit code {evidence.exit_code}")


PROBES: tuple[Callable[[Evidence], EndReason | None], ...] = (
    # Only the ranks know that the work is done (rank 0 wrote so, or all left with 0), or that this recipe can never
    # work (78): what happens to the job afterwards changes neither.
    _finished,
    _bad_recipe,
    # Once all ranks have saved (75) because of a STOP that holds for good, it does not matter that Slurm took the job
    # as well.
    _stopped_for_good,
    # First-hand knowledge of ranks that could not be started or had not saved in time. At the time limit Slurm is about
    # to kill this process, which leaves no time for questions.
    _seen_by_batch_process,
    # Names the unfit node, where Slurm sees a plain failure.
    _failed_preflight,
    # Slurm's current record of the job is exact, where it answers.
    _job_state,
    # Slurm's log can be read without the controller, and only there does srun name lost nodes and missing RAM.
    _slurm_log,
    # sacct replaces the record once the job is over; after the log, because many sites have no accounting.
    _accounting,
    # A node that is down now, or was booted since: later than srun's words, because Slurm may need minutes to notice.
    _lost_node,
    # One more restart than this process knows tells that Slurm ended the job, and not why: the probes above do.
    _requeued_by_slurm,
    # A signal that nothing above explains: a person's scancel or Ctrl-C, unless the job is still running.
    _ended_by_signal,
    # After everything that ends ranks from outside, because they give no heartbeat then either.
    _hang,
    # Exit code 76, where nothing above explains it: the kernel may have killed a rank for its RAM.
    _micro_batch_too_large,
    # Ranks that left on request. Slurm's reasons for the request come first: they say whether it counts as a failure.
    _asked_to_stop,
    # What a shell would make of the exit code is all that is left.
    _exit_code,
)


def _of_request(evidence: Evidence) -> EndReason:
    if evidence.stop is None:
        return EndReason("preempted", f"exit code {CONTINUE}")
    reasons: dict[StopReason, Reason] = {"user": "stopped", "time_limit": "time_limit", "pruned": "pruned"}
    return EndReason(reasons[evidence.stop.reason], "STOP")


def _unless_saved(evidence: Evidence, found: EndReason | None) -> EndReason | None:
    """If all ranks had saved before Slurm killed them, the request to stop is the reason, not the kill."""
    is_too_late = found is not None and found.reason in ("killed", "out_of_memory") and evidence.exit_code == CONTINUE
    return _of_request(evidence) if is_too_late else found
