"""The few questions the batch process asks Slurm. Standard library only; no answer is never an error.

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

RESUBMITTED_BY = "LAUNCHER_RESUBMITTED_BY"
"""Variable by which a job knows the one that queued it: unlike a person, that one starts no budget anew."""

TIMEOUT_SECONDS = 60
"""Slurm's own MessageTimeout is 10 s by default and sites raise it (https://slurm.schedmd.com/slurm.conf.html)."""

PATIENCE_SECONDS = 300
"""How long to try again while no slurmctld is there, or it has no time: a restart or a takeover by the backup takes
minutes, and who gave up at once would lose all runs that end meanwhile."""

PAUSE_SECONDS = 10

_STARTED = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"})
"""States of jobs that have started and are not over."""

_BUSY = re.compile(r"timed out|did not answer|[Uu]nable to contact|temporarily unable")
"""What is said where a slurmctld has too much to do (https://slurm.schedmd.com/high_throughput.html)."""

# Options in variables override argv for some of these commands, and a job must not inherit another job's.
_OVERRIDES = ("SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_")


@dataclass(frozen=True)
class Answer:
    """What a Slurm command said."""

    ok: bool
    text: str
    """Its stdout if it went well, else why it did not."""


def own_id(environ: Mapping[str, str]) -> str:
    """Id of the job that this process belongs to, as every command about it must name it.

    The element of an array that starts last has the array's own id as its SLURM_JOB_ID, and commands take that for
    all elements (https://slurm.schedmd.com/job_array.html).
    """
    array = environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{environ['SLURM_ARRAY_TASK_ID']}" if array else environ["SLURM_JOB_ID"]


def ask(*argv: str, environ: Mapping[str, str] | None = None) -> Answer:
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
        return Answer(False, f"{argv[0]}: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Answer(False, f"{argv[0]} did not answer within {TIMEOUT_SECONDS} s")
    if done.returncode:
        return Answer(False, done.stderr.strip() or done.stdout.strip() or f"{argv[0]}: exit code {done.returncode}")
    return Answer(True, done.stdout.strip())


def without_overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out the variables that carry options for Slurm's commands; the job's own SLURM_* stay."""
    return {name: value for name, value in environ.items() if not name.startswith(_OVERRIDES)}


def outside_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out everything of the running job, so that a new one does not inherit it."""
    kept = {name: value for name, value in without_overrides(environ).items() if not name.startswith("SLURM_")}
    return kept | {name: environ[name] for name in ("SLURM_CONF",) if name in environ}


def parse_fields(text: str) -> dict[str, str]:
    """Parse `Key=Value Key=Value` as scontrol prints it with `--oneliner`; values may hold spaces."""
    pairs = re.split(r"(?:^|\s)([A-Za-z][A-Za-z0-9:/_]*)=", text)
    return dict(zip(pairs[1::2], (value.strip() for value in pairs[2::2]), strict=True))


def show_job(job_id: str) -> dict[str, str]:
    """Fields of `scontrol show job`; empty when Slurm does not tell."""
    answer = ask("scontrol", "show", "job", "--oneliner", job_id)
    return parse_fields(answer.text.splitlines()[0]) if answer.ok and answer.text else {}


def show_nodes(names: Sequence[str]) -> list[dict[str, str]]:
    """Fields of `scontrol show node` for each of the nodes; nothing when Slurm does not tell."""
    answer = ask("scontrol", "show", "node", "--oneliner", ",".join(names))
    return [parse_fields(line) for line in answer.text.splitlines()] if answer.ok and names else []


def partition_nodes(name: str) -> list[str]:
    """Names of a partition's nodes; empty when Slurm does not tell."""
    answer = ask("scontrol", "show", "partition", "--oneliner", name)
    return hostnames(parse_fields(answer.text).get("Nodes", "")) if answer.ok and name else []


def node_address(name: str) -> str | None:
    """NodeAddr of a node; None when Slurm does not tell."""
    return next((node.get("NodeAddr") for node in show_nodes([name])), None)


def hostnames(nodelist: str) -> list[str]:
    """Expand `gpu[01-04]`; the text itself when Slurm does not tell and there is nothing to expand."""
    answer = ask("scontrol", "show", "hostnames", nodelist)
    if answer.ok and answer.text:
        return answer.text.split()
    return [] if "[" in nodelist else [name for name in nodelist.split(",") if name]


def is_running(job_id: str) -> bool | None:
    """Tell whether squeue knows the job as started and not over; None when squeue does not tell."""
    answer = _patiently(partial(ask, "squeue", "--noheader", "--jobs", job_id, "--states=all", "--format=%T"))
    if not answer.ok:
        return False if "Invalid job id" in answer.text else None
    return any(state in _STARTED for state in answer.text.split())


def signal_steps(job_id: str, name: str) -> Answer:
    """Send a signal to all tasks of a job; the batch process itself gets nothing."""
    return ask("scancel", f"--signal={name}", job_id)


def _patiently(command: Callable[[], Answer]) -> Answer:
    """Run a command on which the run depends again as long as no slurmctld is there, or has time, to take it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    answer = command()
    while not answer.ok and time.monotonic() < deadline and (_BUSY.search(answer.text) or _is_controller_away()):
        time.sleep(PAUSE_SECONDS)
        answer = command()
    return answer


def _is_controller_away() -> bool:
    text = ask("scontrol", "ping").text
    return " is DOWN" in text and " is UP" not in text


def requeue(job_id: str, restart_count: int) -> Answer:
    """Put the job back into the queue; one that Slurm has put back by itself is a success.

    Slurm 22.05 leaves a job that ends within its grace time alone, newer versions requeue it
    themselves (https://slurm.schedmd.com/preempt.html).

    Args:
        job_id: The job, or this element of an array.
        restart_count: How many times it was requeued when this process started.
    """
    return _patiently(partial(_requeue_once, job_id, restart_count))


def _requeue_once(job_id: str, restart_count: int) -> Answer:
    answer = ask("scontrol", "requeue", job_id)
    if answer.ok:
        return Answer(True, "requeued")
    job = show_job(job_id)
    if job.get("JobState") == "PENDING" or int(job.get("Restarts", 0)) > restart_count:
        return Answer(True, f"Slurm had put the job back into the queue already ({job.get('JobState')})")
    return answer


def exclude(job_id: str, nodes: str) -> Answer:
    """Set the nodes that a waiting job is not given; replaces those that were set before."""
    answer = ask("scontrol", "update", f"JobId={job_id}", f"ExcNodeList={nodes}")
    return Answer(True, "done") if answer.ok else answer


def waiting_jobs() -> dict[str, str] | None:
    """This user's jobs that have not started, and what they wait for; None when squeue does not tell.

    The elements of an array that have not started are one job, under the array's id.
    """
    answer = ask("squeue", "--me", "--all", "--noheader", "--states=PENDING", "--format=%i|%E")
    if not answer.ok:
        return None
    rows = [line.strip().partition("|") for line in answer.text.splitlines()]
    return {job.partition("_[")[0]: conditions for job, _, conditions in rows}


def replace_awaited(conditions: str, old: str, new: str) -> str | None:
    """Name the job that goes on in place of the one that ends, in what another job waits for.

    Args:
        conditions: As squeue prints them: `afterok:12(unfulfilled),afterany:13_*(unfulfilled)`.
        old: The job that ends. What waits for the end of its whole array waits for the new job besides.
        new: The job that goes on.

    Returns:
        All conditions that are not fulfilled yet, as scontrol takes them; None if the old job is not among them.
    """
    separator = "?" if "?" in conditions else ","  # any one of them is enough, or all are needed
    kept = [one for one in conditions.split(separator) if not one.endswith("(fulfilled)")]
    named = [re.sub(r"\(\w+\)|_\*", "", one) for one in kept]
    replaced = [re.sub(rf":{old}(?=:|$)", f":{new}", one) for one in named]
    array, is_element, _ = old.partition("_")
    if is_element and f"afterany:{array}" in named and separator == ",":
        replaced.append(f"afterany:{new}")
    return separator.join(replaced) if replaced != named else None


def wait_for(job_id: str, conditions: str) -> Answer:
    """Set what a job that has not started waits for."""
    return ask("scontrol", "update", f"JobId={job_id}", f"Dependency={conditions}")


def resubmit(
    script: str, array_index: str | None, job_id: str, nodes: int | None = None, exclude: str | None = None
) -> Answer:
    """Queue the same script as a new job; the text of the answer is its id.

    Args:
        script: The submission's script.
        array_index: The element to queue, if the script is an array's.
        job_id: This job, as the ledger names it.
        nodes: How many nodes it gets; as many as the script says if left out.
        exclude: Nodes that the new job is not given; those of the script if left out.
    """
    only = [f"--array={array_index}"] if array_index is not None else []
    # The batch process of the old job has not ended yet: the new one waits until it has.
    after = [f"--dependency=afterany:{job_id}"]
    size = [f"--nodes={nodes}"] if nodes is not None else []
    without = [f"--exclude={exclude}"] if exclude else []
    argv = ["sbatch", "--parsable", *only, *after, *size, *without, script]
    environ = outside_job(os.environ) | {RESUBMITTED_BY: job_id}
    if "PYTHONPATH" in environ:  # the script puts the code in front once more, each time
        environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(environ["PYTHONPATH"].split(os.pathsep)))
    answer = _patiently(partial(_resubmit_once, argv, environ, job_id))
    if not answer.ok:
        return answer
    found = re.findall(r"^(\d+)(?:;\S+)?$", answer.text, re.MULTILINE)
    if not found:
        return Answer(False, f"sbatch printed no job id but `{answer.text}`")
    return Answer(True, found[-1] if array_index is None else f"{found[-1]}_{array_index}")


def _resubmit_once(argv: Sequence[str], environ: Mapping[str, str], job_id: str) -> Answer:
    answer = ask(*argv, environ=environ)
    if answer.ok or not _BUSY.search(answer.text):
        return answer
    # A slurmctld may have heard what it had no time to answer: a second job would be one too many.
    queued = ask("squeue", "--me", "--all", "--noheader", "--states=PENDING", "--format=%F|%E|%o")
    rows = [line.strip().split("|", 2) for line in queued.text.splitlines()] if queued.ok else []
    heard = [row[0] for row in rows if row[1:] == [f"afterany:{job_id}(unfulfilled)", argv[-1]]]
    return Answer(True, heard[0]) if heard else answer
