"""What Slurm writes about an attempt that it ended: logs, job states, accounting."""

import re
from collections.abc import Sequence
from pathlib import Path

from jobs.batch.evidence import EndReason
from launcher.run.ledger import Attempt, Reason
from launcher.run.slurm_text import EXIT_REASONS, parse_time

CLOCK_SECONDS = 2
"""Slurm's times are whole seconds, and its clock is the controller's."""

REQUEUE = "job requeue"
"""How the detail begins when the job was requeued, perhaps by the batch process itself."""

_MARKER = re.compile(r"\*\*\* (?:JOB|STEP) \S+ ON (\S+) CANCELLED AT (\S+) DUE TO ([A-Z ]+)")
# Without a reason (since Slurm 25.05 with a signal) it was scancel. For a step it was only `--kill-on-bad-exit`.
_CANCELLED = re.compile(r"\*\*\* JOB \S+ ON (\S+) CANCELLED AT (\S+) (?:DUE to SIGNAL [^*\n]+ )?(\*\*\*)")
_FIRST_LINE = re.compile(r"^[\d-]+ [\d:]+ attempt (\d+) of ", re.MULTILINE)
"""How the batch process begins an attempt in Slurm's log, which all attempts of a job share, and in its own."""
_MARKED: dict[str, Reason] = {
    "***": "stopped",
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "preempted",
    "NODE FAILURE": "node_failure",
    "TIME LIMIT": "killed",
}
_SAID_BY_SRUN: tuple[tuple[str, Reason], ...] = (
    (r"srun: error: Node failure on (\S+)", "node_failure"),
    (r"(?:tasks? \S+: Out Of Memory|[Dd]etected \d+ oom[-_]kill event)", "out_of_memory"),
)


def of_state(state: str, source: str) -> EndReason | None:
    """Say what a state of a job means for an attempt; None if it means nothing special."""
    return EndReason(EXIT_REASONS[state], source, f"job state {state}") if state in EXIT_REASONS else None


def search_logs(logs: Sequence[Path], attempt: Attempt) -> EndReason | None:
    """Find why an attempt ended in what Slurm and srun wrote."""
    for path in logs:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:  # missing, or its disk is gone: not a reason to lose the run
            continue
        found = _marked(text, attempt) or (_said_by_srun(text) if path.name == "batch.log" else None)
        if found is not None:
            return found
    return None


def _marked(text: str, attempt: Attempt) -> EndReason | None:
    own = _of_attempt(text, attempt.number)
    for node, when, why in (*_MARKER.findall(own or text), *_CANCELLED.findall(own or text)):
        at = parse_time(when)
        known = next((reason for words, reason in _MARKED.items() if why.startswith(words)), None)
        is_own = at is not None and attempt.started - CLOCK_SECONDS <= at <= (attempt.ended or at)
        if known and (own or is_own):
            said = "scancel" if why == "***" else why.strip().lower()
            return EndReason(known, "Slurm's log", f"{said}, said on {node}")
    return None


def _of_attempt(text: str, number: int) -> str | None:
    """Return the text from an attempt's first line to the next one's; None without that line (full disk).

    The order of lines is the first choice, since slurmd tells the time of its own time zone, and this process that of
    the person who submitted.
    """
    _, *parts = _FIRST_LINE.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True)).get(str(number))


def _said_by_srun(text: str) -> EndReason | None:
    for pattern, reason in _SAID_BY_SRUN:
        match = re.search(pattern, text)
        if match:
            return EndReason(reason, "srun", match[0].removeprefix("srun: error: "))
    return None


def parse_accounting(text: str, attempt: Attempt) -> EndReason | None:
    """Read sacct's lines `Start|State|End`; the attempt began shortly after one of these starts."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    starts = [(start, row[1].split()[0]) for row in rows if (start := parse_time(row[0])) is not None and row[1]]
    before = [entry for entry in starts if entry[0] <= attempt.started + CLOCK_SECONDS]
    return of_state(max(before)[1], "sacct") if before else None
