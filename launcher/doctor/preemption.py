"""Who may preempt a run, how long it has to save then, and how it comes back. Pure: Slurm's words in, findings out.

What Slurm does is in https://slurm.schedmd.com/preempt.html; times were measured on the dev cluster (Slurm 22.05.8):
without a grace time tasks and batch process get SIGTERM at once and SIGKILL after KillWait.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.cluster import Cluster
from launcher.doctor.finding import Finding, note, ok, problem
from launcher.run.paths import CONTINUE
from launcher.site.limits import SlurmReport
from launcher.site.partitions import Partition
from launcher.slurm.parse import parse_seconds

SHORT_SECONDS = 60
"""Less is a note: a checkpoint of 84 GB (7 B parameters) takes 42 s at 2 GB/s, and the current step ends first."""

DEFAULT_CRED_EXPIRE = 120
"""A requeued job waits that long and a second (`AuthInfo` in https://slurm.schedmd.com/slurm.conf.html)."""

Mode: TypeAlias = Literal["OFF", "REQUEUE", "CANCEL", "SUSPEND"]


@dataclass(frozen=True)
class Preemption:
    """How jobs of one partition are preempted."""

    partition: str
    mode: Mode
    grace_seconds: int
    kill_wait_seconds: int
    sends_user_signal: bool
    """The batch process gets USR1 then; else each task gets SIGTERM."""
    exempt_seconds: int
    """A job that has not run for so long is left alone."""
    because: str
    """Where the mode and the grace time stand."""

    @property
    def seconds_to_save(self) -> int:
        """What a run has at least between the first signal and SIGKILL."""
        return self.grace_seconds + self.kill_wait_seconds


def preemption_of(slurm: SlurmReport, partition: Partition, cluster: Cluster) -> Preemption:
    """Put together how Slurm preempts the jobs that this profile makes in a partition."""
    settings = slurm.site.settings
    mode, grace, because = _mode_and_grace(slurm, partition, cluster)
    if mode == "REQUEUE" and cluster.slurm.requeue != "requeue":
        because = f"{because}; `--no-requeue` of `slurm.requeue: {cluster.slurm.requeue}` makes it a cancellation"
        mode = "CANCEL"
    words = f"{settings.get('PreemptParameters', '')},{settings.get('SlurmctldParameters', '')}"
    return Preemption(
        partition=partition.name,
        mode=mode,
        grace_seconds=grace,
        kill_wait_seconds=slurm.site.kill_wait_seconds,
        sends_user_signal="send_user_signal" in words,
        exempt_seconds=parse_seconds(settings.get("PreemptExemptTime", "")),
        because=because,
    )


def _mode_and_grace(slurm: SlurmReport, partition: Partition, cluster: Cluster) -> tuple[Mode, int, str]:
    kind = slurm.site.settings.get("PreemptType", "").removeprefix("preempt/")
    if kind == "qos":
        return _by_qos(slurm, cluster)
    if kind != "partition_prio":
        return "OFF", 0, "the site preempts no jobs"
    if all(other.priority_tier <= partition.priority_tier for other in slurm.site.partitions):
        return "OFF", 0, f"no partition has a higher PriorityTier than `{partition.name}`"
    mode = _mode(partition.preempt_mode)
    return mode, partition.grace_seconds, f"PreemptMode={mode} of partition `{partition.name}`"


def _by_qos(slurm: SlurmReport, cluster: Cluster) -> tuple[Mode, int, str]:
    name = slurm.qos_of(cluster)
    found = next((qos for qos in slurm.qos or () if qos.name == name), None)
    of_site = _mode(slurm.site.settings.get("PreemptMode", "OFF"))
    if found is None:
        return of_site, 0, f"PreemptMode={of_site} of the site; the grace time of QOS `{name}` is not known"
    if not any(name in other.preempts for other in slurm.qos or ()):
        return "OFF", 0, f"no QOS preempts `{name}`"
    mode = of_site if found.preempt_mode == "cluster" else _mode(found.preempt_mode)
    return mode, found.grace_seconds, f"PreemptMode={mode} of QOS `{name}`"


def _mode(words: str) -> Mode:
    """Read `REQUEUE`, `SUSPEND,GANG`, `cancel,within`, ...; gang scheduling alone preempts nobody."""
    found = set(words.upper().split(","))
    modes: tuple[Mode, ...] = ("SUSPEND", "REQUEUE", "CANCEL")
    return next((mode for mode in modes if mode in found), "OFF")


def time_limit_finding(cluster: Cluster) -> Finding:
    """Say how a run is asked to stop before its time limit."""
    what = f"{cluster.slurm.lead} before it, USR1 reaches the batch process: it writes STOP, sends USR2 to every task"
    return ok("time limit", what)


def preemption_findings(preemption: Preemption, cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    """Say how a preempted run learns of it, how long it has then, and how it comes back."""
    if preemption.mode == "OFF":
        yield ok("preemption", f"none: {preemption.because}")
    elif preemption.mode == "SUSPEND":
        what = (
            f"runs are halted in memory and continue later ({preemption.because}); nothing is saved then, and a run of "
            "several ranks that is halted for longer than `limits.hang` fails and starts again from its checkpoint"
        )
        yield note("preemption", what, "write a longer `limits.hang`, and a `checkpoint.interval` that you can lose")
    else:
        yield _time_to_save(preemption, slurm)
    yield _way_back(preemption, cluster, slurm)


def _time_to_save(preemption: Preemption, slurm: SlurmReport) -> Finding:
    wait = f"{preemption.kill_wait_seconds} s (KillWait)"
    if preemption.grace_seconds:
        time = f"at least {preemption.grace_seconds} s (GraceTime) + {wait} to save"
    else:
        time = f"no grace time (GraceTime=0), {wait} to save"
    exempt = f"; not in its first {preemption.exempt_seconds} s" if preemption.exempt_seconds else ""
    what = f"{_signal(preemption, slurm)}: {time}{exempt}"
    if preemption.seconds_to_save >= SHORT_SECONDS:
        return ok("preemption", what)
    return note(
        "preemption",
        what,
        f"{preemption.seconds_to_save} s may be short for a large model: lower `checkpoint.interval`, which bounds "
        "what is lost, or use a partition or QOS with a longer GraceTime",
    )


def _signal(preemption: Preemption, slurm: SlurmReport) -> str:
    """Say who gets which signal first; a site that sends the user's own does so only if there is a grace time."""
    if preemption.sends_user_signal and preemption.grace_seconds:
        return "USR1 reaches the batch process, USR2 then every task"
    tracker = slurm.site.settings.get("ProctrackType", "").removeprefix("proctrack/")
    reaches_trees = tracker in ("linuxproc", "pgid") or slurm.site.settings.get("SignalChildrenProcesses") == "yes"
    return "SIGTERM reaches every task" + (" and its helpers, W&B's too" if reaches_trees else "")


def exit_code_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    """Say whether the site holds jobs that end with the exit code for `continue`."""
    held = slurm.site.settings.get("RequeueExitHold", "")
    if _holds(held, CONTINUE) and cluster.slurm.requeue == "requeue":
        what = f"the site holds jobs that end with exit code {CONTINUE} (RequeueExitHold={held}), as our runs do"
        yield problem("exit codes", what, "write `slurm.requeue: resubmit` in the profile")


def _way_back(preemption: Preemption, cluster: Cluster, slurm: SlurmReport) -> Finding:
    policy = cluster.slurm.requeue
    if policy == "never":
        what = "an interrupted run stays stopped: the profile says `slurm.requeue: never`"
        return note("requeue", what, "write `requeue: requeue` there, or use `launcher resume RUN`")
    expiry = re.search(r"cred_expire=(\d+)", slurm.site.settings.get("AuthInfo", ""))
    seconds = (int(expiry[1]) if expiry else DEFAULT_CRED_EXPIRE) + 1
    ours = "we requeue it" if policy == "requeue" else "we queue a new job for it"
    wait = f", {seconds} s later at the earliest" if policy == "requeue" else ""
    if preemption.mode == "OFF":
        return ok("requeue", f"a run that reached its time limit comes back{wait}: {ours}")
    if preemption.mode == "SUSPEND":
        return ok("requeue", f"Slurm continues a halted run; at the time limit {ours}")
    if preemption.mode == "REQUEUE":
        return ok("requeue", f"a preempted run comes back{wait}: {ours} once it has saved; if it has not, Slurm does")
    return note(
        "requeue",
        f"a preempted run that has saved in time comes back{wait}: {ours}; one that has not is over "
        f"({preemption.because})",
        _fix_of_cancel(preemption, cluster),
    )


def _fix_of_cancel(preemption: Preemption, cluster: Cluster) -> str:
    if cluster.slurm.requeue != "requeue" and "--no-requeue" in preemption.because:
        return "if the site allows `scontrol requeue`, write `slurm.requeue: requeue`; else `launcher resume RUN`"
    return "`launcher resume RUN` brings such a run back from its newest checkpoint"


def _holds(ranges: str, code: int) -> bool:
    """Tell whether `1-9,18` holds a number."""
    bounds = [part.partition("-") for part in ranges.split(",") if re.fullmatch(r"\d+(-\d+)?", part)]
    return any(int(first) <= code <= int(last or first) for first, _, last in bounds)
