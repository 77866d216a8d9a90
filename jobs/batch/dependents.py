"""Jobs that wait for others: which there are, and how they come to wait for the job that goes on."""

import re
from collections.abc import Callable
from typing import NamedTuple

from jobs.batch import slurm

GUARDIAN = "guardian-"
"""How the names of guardians' jobs begin (`jobs.batch.guardian`); the rest is the run's id."""


class WaitingJob(NamedTuple):
    """A job that has not started."""

    conditions: str
    """What it waits for, as squeue prints it: `afterok:12(unfulfilled),afterany:13_*(unfulfilled)`."""
    name: str


def waiting_jobs() -> dict[str, WaitingJob] | None:
    """This user's jobs that have not started, by their ids; None when squeue does not tell."""
    answer = slurm.patiently(ask_waiting)
    return parse_waiting(answer.text) if answer.ok else None


def ask_waiting() -> slurm.CommandResult:
    """Ask once for this user's jobs that have not started."""
    return slurm.ask("squeue", "--me", "--all", "--noheader", "--states=PENDING", "--format=%i|%E|%j")


def parse_waiting(text: str) -> dict[str, WaitingJob]:
    """Parse what `ask_waiting` was told.

    The elements of an array that have not started are one job, under the array's id.
    """
    rows = [[*line.strip().split("|", 2), "", ""] for line in text.split("\n")]
    return {row[0].partition("_[")[0]: WaitingJob(row[1], row[2]) for row in rows if row[0]}


def replace_awaited(conditions: str, old: str, new: str) -> str | None:
    """Put the replacement job in place of the one that ends, in what another job waits for.

    Args:
        conditions: As squeue prints them.
        old: The job that ends. What waits for the end of its whole array also waits for the replacement.
        new: The replacement.

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


def repoint_dependents(old: str, new: str, say: Callable[[str], object]) -> None:
    """Re-point dependents to the replacement job: the end of the old one says nothing of the run.

    Guardians stay as they are: the replacement queues its own.
    """
    waiting = waiting_jobs()
    if waiting is None:
        say(f"squeue does not tell which jobs depend on job {old}; they will not wait for its replacement {new}")
        return
    replacement = new.partition("_")[0]  # it waits for the old job itself
    for job, its in waiting.items():
        wanted = replace_awaited(its.conditions, old, new)
        is_own = job.partition("_")[0] == replacement or its.name.startswith(GUARDIAN)
        if wanted is not None and not is_own:
            answer = slurm.update_job(job, "Dependency", wanted)
            say(f"scontrol update Dependency={wanted} of job {job}: {answer.text or 'done'}")
