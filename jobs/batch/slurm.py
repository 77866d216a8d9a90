"""The few questions the batch process asks Slurm. A missing answer is never an error.

Sites differ in which commands work on a node, and each of them can hang when slurmctld is busy:
so every call has a time limit, and every caller has something to do without the answer.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from launcher.run.slurm_text import STATES, expand_nodes, outside_job, parse_fields, value_of, without_overrides

RESUBMITTED_BY = "LAUNCHER_RESUBMITTED_BY"
"""Variable that names the job which queued this one: unlike a person, a job does not reset the budgets."""

TIMEOUT_SECONDS = 60
"""Slurm's own MessageTimeout is 10 s by default and sites raise it (https://slurm.schedmd.com/slurm.conf.html)."""

PATIENCE_SECONDS = 300
"""How long to try again while slurmctld is away or too busy: a restart or a takeover by the backup takes minutes, and
without a second try all runs that end meanwhile would be lost."""

PAUSE_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""

LONGEST_PAUSE_SECONDS = 30.0

_BUSY = re.compile(r"timed out|did not answer|[Uu]nable to contact|temporarily unable|Zero Bytes")
"""What Slurm's commands say when slurmctld is too busy (https://slurm.schedmd.com/high_throughput.html)."""

_BROKEN = re.compile(r"\bDOWN\b|DRAIN|FAIL|FUTURE|INVAL|UNKNOWN|NOT_RESPONDING|\*")
"""Words in the state of a node that takes no job until somebody mends it: `IDLE+DRAIN`, `DOWN*`. `POWERED_DOWN` is none
of them: such a node is switched on when it is wanted."""


@dataclass(frozen=True)
class CommandResult:
    """What a Slurm command said."""

    ok: bool
    text: str
    """Its stdout if it succeeded, else the error."""


def own_id(environ: Mapping[str, str]) -> str:
    """Id of the job that this process belongs to, as every command about it must name it.

    The element of an array that starts last has the array's own id as its SLURM_JOB_ID, and commands take that for
    all elements (https://slurm.schedmd.com/job_array.html).
    """
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]


def ask(*argv: str, environ: Mapping[str, str] | None = None) -> CommandResult:
    """Run a Slurm command; a missing or hanging one is an answer that is not `ok`."""
    environ = without_overrides(os.environ) if environ is None else environ
    try:
        done = subprocess.run(
            argv,
            env=dict(environ),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except OSError as error:
        return CommandResult(False, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return CommandResult(False, f"{argv[0]} did not answer within {TIMEOUT_SECONDS} s")
    said = done.stdout.strip()
    if done.returncode:
        return CommandResult(False, done.stderr.strip() or said or f"{argv[0]}: exit code {done.returncode}")
    return CommandResult(True, said)


def show_job(job_id: str) -> dict[str, str]:
    """Fields of `scontrol show job` that have a value; empty when Slurm does not tell."""
    answer = ask("scontrol", "show", "job", "--oneliner", job_id)
    return fields_of(answer.text.partition("\n")[0]) if answer.ok and answer.text else {}


def excluded_nodes(job_id: str) -> str | None:
    """Nodes that a job is not given, as sbatch takes them; None if there are none, or when Slurm does not tell.

    The profile's own are among them, those that were suspects when it was queued, and the unfit ones of its attempts.
    """
    return show_job(job_id).get("ExcNodeList")


def fields_of(line: str) -> dict[str, str]:
    """Parse a line of scontrol without the fields that have no value: `PreemptTime=None`."""
    return {name: value for name, value in parse_fields(line).items() if value_of(value)}


def show_nodes(names: Sequence[str]) -> list[dict[str, str]]:
    """Fields of `scontrol show node` that have a value, for each node; nothing when Slurm does not tell."""
    # --all: nodes of hidden partitions, too
    answer = ask("scontrol", "show", "node", "--oneliner", "--all", ",".join(names))
    return [fields_of(line) for line in answer.text.split("\n")] if answer.text and answer.ok and names else []


def partition_nodes(name: str) -> list[str]:
    """Names of a partition's nodes that take jobs; empty when Slurm does not tell."""
    answer = ask("scontrol", "show", "partition", "--oneliner", "--all", name)
    names = hostnames(fields_of(answer.text).get("Nodes", "")) if answer.ok and name else []
    broken = {node.get("NodeName") for node in show_nodes(names) if _BROKEN.search(node.get("State", ""))}
    return [one for one in names if one not in broken] or names


def node_address(name: str) -> str | None:
    """NodeAddr of a node; None when Slurm does not tell."""
    return next((node.get("NodeAddr") for node in show_nodes([name])), None)


def hostnames(nodelist: str) -> list[str]:
    """Expand `gpu[01-04]`; Slurm is asked only about what it writes in another way."""
    try:
        return expand_nodes(nodelist)
    except ValueError:
        answer = ask("scontrol", "show", "hostnames", nodelist)
        return answer.text.split() if answer.ok else []


def is_running(job_id: str) -> bool | None:
    """Tell whether squeue knows the job as started and not over; None when squeue does not tell."""
    answer = ask_states(job_id)
    return is_running_state(answer.text) if answer.ok else None


def ask_states(job_id: str, patience: float | None = None) -> CommandResult:
    """Ask for the states of a job, or of the elements of an array; none if Slurm has forgotten it.

    Args:
        job_id: The job.
        patience: Seconds after which an absent slurmctld is asked no more; `PATIENCE_SECONDS` if left out.
    """
    question = partial(ask, "squeue", "--noheader", "--jobs", job_id, "--states=all", "--format=%T")
    answer = patiently(question, patience)
    return CommandResult(True, "") if "Invalid job id" in answer.text else answer


def ask_last_state(job_id: str) -> str:
    """Ask accounting how the last start of a job ended; empty if it does not tell."""
    options = ("--allocations", "--duplicates", "--noheader", "--parsable2", "--format=State")
    answer = ask("sacct", *options, f"--jobs={job_id}")
    return answer.text.rpartition("\n")[2] if answer.ok else ""


def is_running_state(states: str) -> bool:
    """Tell whether one of these states, with spaces between them, is of a job that has started and is not over."""
    return any(state in STATES and STATES[state].phase == "running" for state in states.split())


def is_alive_state(states: str) -> bool:
    """Tell whether one of these states, with spaces between them, is of a job that waits, starts or runs."""
    return any(state in STATES and STATES[state].phase != "over" for state in states.split())


def find_replacement(script: str, job_id: str) -> str | None:
    """Find the job that was queued in place of one that is over; None if there is none, or squeue does not tell.

    Args:
        script: The submission's script, which both have.
        job_id: The job that is over, or the element of an array.
    """
    answer = patiently(partial(ask, "squeue", "--me", "--all", "--array", "--noheader", "--format=%i|%o"))
    rows = [line.strip().partition("|") for line in answer.text.split("\n")] if answer.ok else []
    index = job_id.partition("_")[2]
    return next(
        (job for job, _, command in rows if command == script and job != job_id and job.partition("_")[2] == index),
        None,
    )


def signal_steps(job_id: str, name: str) -> CommandResult:
    """Send a signal to all ranks of a job; the batch process itself gets nothing."""
    return ask("scancel", f"--signal={name}", job_id)


def patiently(command: Callable[[], CommandResult], patience: float | None = None) -> CommandResult:
    """Repeat a command that the run depends on while slurmctld is away or too busy.

    Args:
        command: What to ask.
        patience: Seconds after which it is asked no more; `PATIENCE_SECONDS` if left out.
    """
    deadline = time.monotonic() + (PATIENCE_SECONDS if patience is None else patience)
    pause, answer = PAUSE_SECONDS, command()
    while not answer.ok and time.monotonic() < deadline and (_BUSY.search(answer.text) or _is_controller_away()):
        time.sleep(pause)
        pause, answer = min(2 * pause, LONGEST_PAUSE_SECONDS), command()
    return answer


def _is_controller_away() -> bool:
    text = ask("scontrol", "ping").text
    return " is DOWN" in text and " is UP" not in text


def requeue(job_id: str, restart_count: int) -> CommandResult:
    """Put the job back into the queue; one that Slurm has put back by itself is a success.

    Slurm 22.05 leaves a job that ends within its grace time alone, newer versions requeue it
    themselves (https://slurm.schedmd.com/preempt.html).

    Args:
        job_id: The job, or this element of an array.
        restart_count: How many times it was requeued when this process started.
    """
    return patiently(partial(_requeue_once, job_id, restart_count))


def _requeue_once(job_id: str, restart_count: int) -> CommandResult:
    answer = ask("scontrol", "requeue", job_id)
    if answer.ok:
        return CommandResult(True, "requeued")
    job = show_job(job_id)
    if job.get("JobState") == "PENDING" or int(job.get("Restarts", 0)) > restart_count:
        return CommandResult(True, f"Slurm had put the job back into the queue already ({job.get('JobState')})")
    return answer


def update_job(job_id: str, field: str, value: str) -> CommandResult:
    """Set a field of a job that has not started."""
    return ask("scontrol", "update", f"JobId={job_id}", f"{field}={value}")


def resubmit(
    script: str,
    array_index: str | None,
    job_id: str,
    nodes: int | None = None,
    exclude: str | None = None,
    patience: float | None = None,
) -> CommandResult:
    """Queue the same script as a new job; the text of the answer is its id.

    Args:
        script: The submission's script.
        array_index: The element to queue, if the script is an array's.
        job_id: This job, as the ledger names it.
        nodes: How many nodes it gets; as many as the script says if left out or 0.
        exclude: Nodes that the new job is not given; those of the script if left out.
        patience: Seconds after which an absent slurmctld is asked no more; `PATIENCE_SECONDS` if left out.
    """
    only = [f"--array={array_index}"] if array_index is not None else []
    size = [f"--nodes={nodes}"] if nodes else []  # 0: nobody could tell
    without = [f"--exclude={exclude}"] if exclude else []
    # The batch process of the old job has not ended yet: the new one waits until it has.
    argv = ["sbatch", "--parsable", *only, f"--dependency=afterany:{job_id}", *size, *without, script]
    environ = outside_job(os.environ) | {RESUBMITTED_BY: job_id}
    if "PYTHONPATH" in environ:  # each submission puts the code in front once more
        environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(environ["PYTHONPATH"].split(os.pathsep)))
    answer = patiently(partial(_resubmit_once, argv, environ, job_id), patience)
    if not answer.ok:
        return answer
    found = re.findall(r"^(\d+)(?:;\S+)?$", answer.text, re.MULTILINE)
    if not found:
        return CommandResult(False, f"sbatch printed no job id but `{answer.text}`")
    return CommandResult(True, found[-1] if array_index is None else f"{found[-1]}_{array_index}")


def _resubmit_once(argv: Sequence[str], environ: Mapping[str, str], job_id: str) -> CommandResult:
    answer = ask(*argv, environ=environ)
    if answer.ok or not _BUSY.search(answer.text):
        return answer
    # A busy slurmctld may have queued the job without an answer: a second one would be one too many.
    queued = ask("squeue", "--me", "--all", "--noheader", "--states=PENDING", "--format=%F|%E|%o")
    rows = [line.strip().split("|", 2) for line in queued.text.split("\n")] if queued.ok else []
    heard = [row[0] for row in rows if row[1:] == [f"afterany:{job_id}(unfulfilled)", argv[-1]]]
    return CommandResult(True, heard[0]) if heard else answer
