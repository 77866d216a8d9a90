"""Which elements of a search are gone, by what Slurm and the machine say; a clock says nothing."""

import os
from collections.abc import Iterable
from pathlib import Path

from launcher.cluster import Cluster
from launcher.run.trials import Owner
from launcher.slurm.query import find_jobs


def describe_owner(job: str, restarts: int = 0) -> Owner:
    """Say who an element is.

    Args:
        job: Slurm's id, or `local-PID` of a process on this machine.
        restarts: How many times Slurm has put the job back into the queue.
    """
    started = _start_of(job) if job.startswith("local-") else ""
    return Owner(job, restarts, os.uname().nodename, started or "")


def find_absent(owners: Iterable[Owner], me: Owner, site: Cluster) -> set[Owner]:
    """Find the owners that do not work on their trials any more.

    A job that waits in the queue again does not: whatever it finds when it starts is its next trial.

    Args:
        owners: Of trials that are not over.
        me: Who asks, and so works on none.
        site: The site.
    """
    owners = {*owners}
    absent = {one for one in owners if one.job in ("", me.job)}
    local = {one for one in owners - absent if one.job.startswith("local-")}
    absent |= {one for one in local if one.host != me.host or _start_of(one.job) != one.started}
    queued = owners - absent - local
    if not queued:
        return absent
    answer = find_jobs(site, [one.job for one in queued])
    for one in queued:
        job = answer.jobs.get(one.job)
        if answer.is_gone(one.job) or (job and job.phase == "queued"):
            absent.add(one)
    return absent


def _start_of(job: str) -> str | None:
    """When the process of a `local-PID` started; None if there is none, or only what is left of one."""
    try:
        words = Path("/proc", job.removeprefix("local-"), "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else words[19]
