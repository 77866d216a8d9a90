"""All findings about one site, in the order in which they are printed."""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.cluster import Cluster
from launcher.doctor import limits, machine
from launcher.doctor.finding import Finding, note, ok, problem
from launcher.doctor.preemption import (
    Preemption,
    exit_code_findings,
    preemption_findings,
    preemption_of,
    time_limit_finding,
)
from launcher.errors import LauncherError
from launcher.run.paths import expand
from launcher.site.limits import SlurmReport, ask_slurm
from launcher.slurm.site_query import has_slurm

TRIED_SLURM = ("22.05", "24.11", "26.05")
"""Versions with which the tests on Slurm ran: those of docs/slurm-versions.json."""
_LOCAL_ADDRESSES = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True)
class Examination:
    """What `launcher doctor` found out about one site."""

    cluster: str
    slurm: str | None
    """Version; None: the profile does without Slurm."""
    findings: tuple[Finding, ...]
    preemptions: tuple[Preemption, ...] = ()

    @property
    def problems(self) -> int:
        """How many findings are problems."""
        return sum(finding.level == "problem" for finding in self.findings)


def examine(cluster: Cluster, environ: Mapping[str, str] | None = None) -> Examination:
    """Examine a site; nothing is queued or changed.

    Args:
        cluster: Its profile.
        environ: The person's environment; this process's if left out.

    Raises:
        LauncherError: The profile wants Slurm, and this machine has none.
        SlurmError: Slurm does not answer.
    """
    environ = os.environ if environ is None else environ
    if cluster.executor == "local":
        return Examination(cluster.name, None, (*_local_findings(cluster), *_machine_findings(cluster, environ, False)))
    if not has_slurm():
        raise LauncherError(
            f"cluster profile `{cluster.name}` is for Slurm, and `scontrol` is not on PATH; run this on a login node, "
            "or write `executor: local` in the profile"
        )
    slurm = ask_slurm(cluster)
    preemptions = [preemption_of(slurm, one, cluster) for one in limits.partitions_of(cluster, slurm.site)]
    elsewhere = slurm.node_addresses - _LOCAL_ADDRESSES - {socket.gethostname(), socket.getfqdn()}
    findings = [
        *judge_slurm(slurm, preemptions, cluster),
        *_machine_findings(cluster, environ, bool(elsewhere)),
    ]
    return Examination(cluster.name, slurm.site.version, tuple(findings), tuple(preemptions))


def judge_slurm(slurm: SlurmReport, preemptions: list[Preemption], cluster: Cluster) -> Iterator[Finding]:
    """Judge what Slurm said. Pure."""
    yield version_finding(slurm.site.version)
    yield from limits.partition_findings(cluster, slurm.site)
    yield from limits.access_findings(cluster, slurm)
    yield from limits.gpu_findings(cluster, slurm.site)
    yield time_limit_finding(cluster)
    for preemption in preemptions:
        where = f"`{preemption.partition}`: " if len(preemptions) > 1 else ""
        for finding in preemption_findings(preemption, cluster, slurm):
            yield replace(finding, what=where + finding.what)
    yield from exit_code_findings(cluster, slurm)
    yield from limits.queue_findings(cluster, slurm)


def version_finding(version: str) -> Finding:
    """Say whether the launcher was tried with this version of Slurm. Pure."""
    tried = ", ".join(TRIED_SLURM)
    if version.startswith(tuple(f"{one}." for one in TRIED_SLURM)):
        return ok("Slurm", f"{version}; the launcher is tested with {tried}")
    fix = "`launcher doctor --submit` tries what the launcher needs"
    return note("Slurm", f"{version}; the launcher is tested with {tried}", fix)


def _machine_findings(cluster: Cluster, environ: Mapping[str, str], nodes_are_elsewhere: bool) -> Iterator[Finding]:
    yield from machine.environment_findings(environ)
    mounts = Path("/proc/self/mounts")
    mount_table = mounts.read_text(encoding="utf-8") if mounts.exists() else ""
    yield from machine.folder_findings(machine.look_at(expand(cluster.roots.runs), mount_table), nodes_are_elsewhere)
    yield from machine.other_folder_findings(cluster)
    yield from machine.python_findings(cluster)
    yield from machine.wandb_findings(cluster, environ)


def _local_findings(cluster: Cluster) -> Iterator[Finding]:
    yield ok("runs are", "processes of this machine, all at once: no queue, no arrays, no preemption, no sacct")
    yield ok("time limit", f"{cluster.slurm.lead} before it, the batch process writes STOP, sends USR2 to every task")
    if cluster.slurm.requeue == "never":
        yield note("requeue", "an interrupted run stays stopped: the profile says `slurm.requeue: never`")
    else:
        yield ok("requeue", "the batch process starts the next attempt; after a reboot, `launcher resume RUN` does")
    yield local_gpu_finding(cluster, has=len(list(Path("/dev").glob("nvidia[0-9]*"))))


def local_gpu_finding(cluster: Cluster, has: int) -> Finding:
    """Judge how many GPUs this machine has. Pure."""
    if cluster.gpus.device == "cpu":
        return ok("GPUs", f"{has} here; the profile trains on CPUs")
    if not has:
        return problem("GPUs", "this machine has none", "write `gpus.device: cpu` in the profile")
    if (cluster.gpus.per_node or 0) > has:
        what = f"this machine has {has}, the profile says {cluster.gpus.per_node}"
        return problem("GPUs", what, f"write `gpus.per_node: {has}`")
    return ok("GPUs", f"{has} here")
