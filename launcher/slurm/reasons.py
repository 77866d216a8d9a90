"""Why Slurm lets a job wait, or says that it ended, in words, and what helps.

Names: squeue(1), "JOB REASON CODES", and https://slurm.schedmd.com/job_reason_codes.html.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class SlurmReason:
    """What one of Slurm's reasons means."""

    meaning: str
    """A phrase that follows "the job"."""
    advice: str = ""
    """What the user can do; empty = wait, the job starts by itself."""


_ASK = "ask the administrators of the site"
_FEWER = "ask for less in `resources`, or for another partition or QOS in the profile"
_MORE = "ask for more in `resources`"
_RELEASE = "`scontrol release JOBID` lets it go"

PHRASES: dict[str, SlurmReason] = {
    "job requeued in held state": SlurmReason("held: put back into the queue that way (`scontrol requeuehold`)"),
    "launch failed requeued held": SlurmReason("held: its nodes could not start it"),
    "launch failure limit exceeded requeued held": SlurmReason("held: its nodes could not start it, several times"),
    "user env retrieval failed requeued held": SlurmReason("held: its node could not read your login environment"),
}
"""Reasons that Slurm writes as sentences."""

WORDS: dict[str, SlurmReason] = {
    "AccountNotAllowed": SlurmReason(
        "its partition does not admit its account", "write another `account` or `partition` into the profile"
    ),
    "AccountingPolicy": SlurmReason("a limit of its account or QOS holds it back", _FEWER),
    "AssociationJobLimit": SlurmReason("its account runs as many jobs as it may"),
    "AssociationResourceLimit": SlurmReason("its account uses as much as it may"),
    "AssociationTimeLimit": SlurmReason("its account has used up its time", _ASK),
    "BadConstraints": SlurmReason("asks for nodes that do not exist here", "`launcher doctor` compares with the site"),
    "BeginTime": SlurmReason("waits until its begin time"),
    "BlockFreeAction": SlurmReason("waits until a block of nodes is free"),
    "BlockMaxError": SlurmReason("its block of nodes has had too many errors", _ASK),
    "BurstBufferOperation": SlurmReason("its burst buffer failed", _ASK),
    "BurstBufferResources": SlurmReason("waits for room in the burst buffer"),
    "BurstBufferStageIn": SlurmReason("its burst buffer is being filled"),
    "Cleaning": SlurmReason("its last start is being cleaned up"),
    "Constraints": SlurmReason("no free node has the features that it asks for"),
    "DeadLine": SlurmReason("can no longer end before its deadline", "submit it without a deadline"),
    "Dependency": SlurmReason("waits for another job"),
    "DependencyNeverSatisfied": SlurmReason(
        "never starts: the job it waits for did not succeed",
        "in a pipeline, `launcher resume PIPELINE` repairs that; otherwise resume the run it waits for, `launcher "
        "cancel` this one, then `launcher resume` it",
    ),
    "FedJobLock": SlurmReason("waits until the clusters of the federation agree on it"),
    "FrontEndDown": SlurmReason("waits for a front end that is down"),
    "InactiveLimit": SlurmReason("was inactive for too long", _ASK),
    "InvalidAccount": SlurmReason("its account does not exist", "write an `account` of yours into the profile"),
    "InvalidQOS": SlurmReason("its QOS does not exist", "write a `qos` of the site into the profile"),
    "JobArrayTaskLimit": SlurmReason("as many elements of its array run as may (`--max-parallel`)"),
    "JobHeldAdmin": SlurmReason("held by an administrator", _ASK),
    "JobHeldUser": SlurmReason("held by a user", _RELEASE),
    "JobHoldMaxRequeue": SlurmReason("held: requeued too often (`MaxBatchRequeue`)", _RELEASE),
    "JobLaunchFailure": SlurmReason("its nodes could not start it", "`launcher resume` tries again"),
    "Licenses": SlurmReason("waits for a license"),
    "MaxMemPerLimit": SlurmReason("asks for more memory than its partition allows", _FEWER),
    "NodeDown": SlurmReason("waits for a node that is down"),
    "NonZeroExitCode": SlurmReason("ended with an exit code other than 0", "`launcher logs` shows why"),
    "MaxPoweredUpNodes": SlurmReason("waits: the site has as many nodes powered up as it may"),
    "MpiPortsBusy": SlurmReason("waits for free MPI ports on its nodes"),
    "None": SlurmReason("has just been queued, and Slurm has not looked at it yet"),
    "NvidiaImexChannels": SlurmReason("waits for a free IMEX channel of NVIDIA's"),
    "OutOfMemory": SlurmReason("used more memory than it had", "raise `resources.memory` of the recipe"),
    "PartitionConfig": SlurmReason("asks for something that its partition does not allow", _FEWER),
    "PartitionDown": SlurmReason("its partition is down"),
    "PartitionInactive": SlurmReason("its partition is not active"),
    "PartitionNodeLimit": SlurmReason("asks for more nodes than the partition allows", _FEWER),
    "PartitionTimeLimit": SlurmReason("asks for more time than the partition allows", "shorten `resources.time`"),
    "PowerNotAvail": SlurmReason("waits for electric power"),
    "PowerReserved": SlurmReason("waits for electric power that is reserved"),
    "Priority": SlurmReason("other jobs have a higher priority"),
    "Prolog": SlurmReason("the site's prolog runs"),
    "QOSJobLimit": SlurmReason("its QOS runs as many jobs as it may"),
    "QOSNotAllowed": SlurmReason(
        "its account or partition does not admit its QOS", "write another `qos` or `partition` into the profile"
    ),
    "QOSResourceLimit": SlurmReason("its QOS uses as much as it may"),
    "QOSTimeLimit": SlurmReason("its QOS has used up its time", _ASK),
    "QOSUsageThreshold": SlurmReason("its QOS is below its usage threshold", _ASK),
    "RaisedSignal": SlurmReason("was ended by a signal"),
    "ReqNodeNotAvail": SlurmReason("waits for nodes that are down or reserved"),
    "Reservation": SlurmReason("waits for its reservation"),
    "ReservationDeleted": SlurmReason(
        "its reservation was deleted", "take the reservation out of the profile and submit it again"
    ),
    "ReservationInvalid": SlurmReason(
        "its reservation does not admit it", "write another `reservation` into the profile, or none"
    ),
    "Resources": SlurmReason("waits for free nodes"),
    "SchedDefer": SlurmReason("the scheduler looks at it in its next round"),
    "SystemFailure": SlurmReason("something of Slurm itself failed", _ASK),
    "TimeLimit": SlurmReason("reached its time limit", "`launcher resume` continues it"),
}
"""Reasons of one word that follow no rule; the limits of accounts and QOS do (`_LIMIT`)."""

_RESOURCES = {
    "cpu": "CPUs", "mem": "memory", "memory": "memory", "node": "nodes", "energy": "energy", "gres": "GPUs",
    "license": "licenses", "bb": "burst buffer", "billing": "billing units", "unknown": "units of an unnamed resource",
    "jobs": "running jobs", "submitjobs": "jobs in the queue", "submitjob": "jobs in the queue", "wall": "running time",
    "wallduration": "running time",
}  # fmt: skip
_LIMIT = re.compile(
    r"(?P<owner>Assoc|QOS|)(?P<scope>Grp|Max|Min)"
    rf"(?P<resource>{'|'.join(sorted(_RESOURCES, key=len, reverse=True))})"
    r"(?P<minutes>RunMinutes|RunMins|Minutes)?(?P<each>Per(?:Job|Node|User|Account))?(?:Limit|NotSatisfied)?",
    re.IGNORECASE,
)
_OWNERS = {"assoc": "its account", "qos": "its QOS", "": "its account"}
_MINUTES = {"": "", "minutes": ", counted in minutes", "runminutes": ", counted in minutes of running jobs"}
_EACH = {"": "", "perjob": " in one job", "pernode": " on one node", "peruser": " per user", "peraccount": ""}


def find_reason(reason: str) -> SlurmReason | None:
    """Find what a reason means; None if it is a word that this table does not have."""
    phrase = reason.replace("_", " ")  # since Slurm 23.02 phrases are written with underscores
    return PHRASES.get(phrase) or WORDS.get(name_of(reason)) or _explain_limit(name_of(reason))


def explain_reason(reason: str) -> str:
    """Say why a job waits, with Slurm's word in brackets."""
    found = find_reason(reason)
    if found is None:
        return reason
    return found.meaning if reason.replace("_", " ") in PHRASES else f"{found.meaning} ({name_of(reason)})"


def name_of(reason: str) -> str:
    """Cut what Slurm adds to a reason: `ReqNodeNotAvail, UnavailableNodes:gpu01` is `ReqNodeNotAvail`."""
    return re.split(r"[,(:\s]", reason, maxsplit=1)[0]


def _explain_limit(name: str) -> SlurmReason | None:
    match = _LIMIT.fullmatch(name)
    if match is None:
        return None
    owner, scope, resource, minutes, each = ((value or "").lower() for value in match.groups())
    what, owner = _RESOURCES[resource] + _MINUTES[minutes.replace("mins", "minutes")], _OWNERS[owner]
    if scope == "min":
        return SlurmReason(f"asks for {'fewer' if what.endswith('s') else 'less'} {what} than {owner} demands", _MORE)
    if scope == "grp" or each in ("peruser", "peraccount") or resource.startswith(("job", "submit")):
        # Only a limit on time that is used up does not pass by waiting.
        return SlurmReason(
            f"{owner} has reached its limit of {what}{_EACH[each]}", _ASK if minutes == "minutes" else ""
        )
    return SlurmReason(f"asks for more {what}{_EACH[each]} than {owner} allows", _FEWER)
