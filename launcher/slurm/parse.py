"""From what Slurm's commands print to objects. Pure: text in, objects out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

Phase: TypeAlias = Literal["queued", "running", "over", "unknown"]
"""What a job's state means to a person who waits for it."""

STATES: dict[str, tuple[Phase, str]] = {
    "PENDING": ("queued", "waits"),
    "REQUEUED": ("queued", "goes back into the queue"),
    "REQUEUE_FED": ("queued", "goes back into the queue of the federation"),
    "REQUEUE_HOLD": ("queued", "is back in the queue and held; `scontrol release` lets it go"),
    "RESV_DEL_HOLD": ("queued", "is held: its reservation was deleted"),
    "SPECIAL_EXIT": ("queued", "is back in the queue and held: it ended with a special exit code"),
    "EXPEDITING": ("queued", "goes back to the front of the queue"),
    "CONFIGURING": ("running", "its nodes are being made ready"),
    "POWER_UP_NODE": ("running", "its nodes are being switched on"),
    "RUNNING": ("running", "runs"),
    "RESIZING": ("running", "changes its size"),
    "SIGNALING": ("running", "is being signalled"),
    "STAGE_OUT": ("running", "its files are being copied out"),
    "STOPPED": ("running", "was halted by SIGSTOP"),
    "SUSPENDED": ("running", "is suspended"),
    "COMPLETING": ("running", "is being cleaned up"),
    "UPDATE_DB": ("running", "is being recorded"),
    "COMPLETED": ("over", "ended with exit code 0"),
    "BOOT_FAIL": ("over", "its nodes did not boot"),
    "CANCELLED": ("over", "was cancelled"),
    "DEADLINE": ("over", "missed its deadline"),
    "FAILED": ("over", "failed"),
    "LAUNCH_FAILED": ("over", "could not be launched"),
    "NODE_FAIL": ("over", "lost a node"),
    "OUT_OF_MEMORY": ("over", "ran out of memory"),
    "PREEMPTED": ("over", "was preempted"),
    "RECONFIG_FAIL": ("over", "its nodes could not be reconfigured"),
    "REVOKED": ("over", "was taken over by another cluster of the federation"),
    "TIMEOUT": ("over", "reached its time limit"),
}
"""All job states of Slurm 22.05 to 25.05 (https://slurm.schedmd.com/job_state_codes.html)."""

REASONS = {
    "BeginTime": "waits until its begin time",
    "BadConstraints": "asks for nodes that do not exist here",
    "Cleaning": "its last start is being cleaned up",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "never starts: the job it waits for did not succeed",
    "JobArrayTaskLimit": "waits for others of its array (`--max-parallel`)",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held; `scontrol release` lets it go",
    "JobHoldMaxRequeue": "held: requeued too often (`MaxBatchRequeue`)",
    "NodeDown": "waits for a node that is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition is not active",
    "PartitionNodeLimit": "asks for more nodes than the partition allows",
    "PartitionTimeLimit": "asks for more time than the partition allows",
    "Priority": "others are before it",
    "ReqNodeNotAvail": "waits for nodes that are down or reserved",
    "Reservation": "waits for its reservation",
    "Resources": "waits for free nodes",
}
"""Why jobs wait, in words; Slurm's own word is shown for the rest."""

SQUEUE_FORMAT = "%i|%T|%S|%N|%r"
SACCT_FORMAT = "JobID,State,ExitCode,Start,End,NodeList,Reason"

Source: TypeAlias = Literal["squeue", "sacct", "scontrol", "process"]


@dataclass(frozen=True)
class Job:
    """What Slurm says of one job, or of one element of an array."""

    id: str
    """`123`, or `123_4`."""
    state: str
    """Slurm's word, a key of `STATES` unless Slurm is newer than this table."""
    source: Source
    reason: str = ""
    """Why it waits or ended, in Slurm's words."""
    start: float | None = None
    """Unix time; an estimate while it is queued."""
    end: float | None = None
    nodes: str = ""
    """Slurm's short form: `gpu[01-04]`."""
    exit_code: str = ""
    """`CODE:SIGNAL`."""

    @property
    def phase(self) -> Phase:
        """Tell whether it waits, runs or is over."""
        return STATES.get(self.state, ("unknown", ""))[0]

    @property
    def explanation(self) -> str:
        """Say in words why it is where it is."""
        if self.phase == "queued" and self.state == "PENDING":
            return explain_reason(self.reason)
        return STATES.get(self.state, ("unknown", f"has the state {self.state}"))[1]


@dataclass(frozen=True)
class Node:
    """What `scontrol show node` says of a node."""

    name: str
    address: str
    state: str
    """E.g. `IDLE` or `DOWN*+DRAIN`."""
    gres: str
    cpus: int
    memory_mib: int
    partitions: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class StartEstimate:
    """What `sbatch --test-only` says."""

    start: float
    """Unix time."""
    nodes: str
    partition: str


def explain_reason(reason: str) -> str:
    """Say why a job waits, with Slurm's word in brackets."""
    word = re.split(r"[,(:\s]", reason, maxsplit=1)[0]
    return f"{REASONS[word]} ({word})" if word in REASONS else reason


def parse_squeue(text: str) -> list[Job]:
    """Parse `squeue --noheader --format=SQUEUE_FORMAT`."""
    return [job for line in text.splitlines() if line.count("|") >= 4 for job in _parse_squeue_line(line)]


def _parse_squeue_line(line: str) -> Iterator[Job]:
    job_ids, state, start, nodes, reason = line.split("|", 4)
    for job_id in expand_job_ids(job_ids):
        yield Job(job_id, _word(state), "squeue", _value(reason), parse_time(start), None, _value(nodes))


def parse_sacct(text: str) -> list[Job]:
    """Parse `sacct -D -X --parsable2 --noheader --format=SACCT_FORMAT`.

    A job that was requeued has a line for each start, oldest first.
    """
    return [job for line in text.splitlines() if line.count("|") >= 6 for job in _parse_sacct_line(line)]


def _parse_sacct_line(line: str) -> Iterator[Job]:
    job_ids, state, exit_code, start, end, nodes, reason = line.split("|", 6)
    times = parse_time(start), parse_time(end)
    for job_id in expand_job_ids(job_ids):
        yield Job(job_id, _word(state), "sacct", _value(reason), *times, _value(nodes), exit_code)


def parse_scontrol_jobs(text: str) -> list[Job]:
    """Parse `scontrol show job` (several lines a job, blank lines between jobs)."""
    return [job for block in re.split(r"\n\s*\n", text) if "JobId=" in block for job in _parse_scontrol_job(block)]


def _parse_scontrol_job(block: str) -> Iterator[Job]:
    # A job's name may hold anything, `JobState=` too; it is the last entry of the first line.
    head, _, rest = block.strip().partition("\n")
    fields = _fields(head.partition(" JobName=")[0]) | _fields(rest)
    elements = fields.get("ArrayTaskId", "")
    job_ids = f"{fields['ArrayJobId']}_[{elements}]" if elements else fields["JobId"]
    times = parse_time(fields.get("StartTime", "")), parse_time(fields.get("EndTime", ""))
    for job_id in expand_job_ids(job_ids):
        yield Job(
            *(job_id, _word(fields.get("JobState", "")), "scontrol", _value(fields.get("Reason", "")), *times),
            nodes=_value(fields.get("NodeList", "")),
            exit_code=fields.get("ExitCode", ""),
        )


def parse_nodes(text: str) -> list[Node]:
    """Parse `scontrol show node` (several lines a node, blank lines between nodes)."""
    return [_parse_node(block) for block in re.split(r"\n\s*\n", text) if "NodeName=" in block]


def _parse_node(block: str) -> Node:
    fields = _fields(block)
    reason = re.search(r"^\s*Reason=(.*)$", block, re.MULTILINE)
    return Node(
        name=fields["NodeName"],
        address=fields.get("NodeAddr", fields["NodeName"]),
        state=fields.get("State", "UNKNOWN"),
        gres=_value(fields.get("Gres", "")),
        cpus=int(fields.get("CPUTot", "0")),
        memory_mib=int(fields.get("RealMemory", "0")),
        partitions=tuple(filter(None, fields.get("Partitions", "").split(","))),
        reason=reason[1].strip() if reason else "",
    )


def parse_test_only(text: str) -> StartEstimate | None:
    """Parse what `sbatch --test-only` prints on stderr; None when it is no estimate."""
    match = re.search(r"to start at (\S+)(?: .*?on nodes? (\S+))?(?: in partition (\S+))?", text)
    start = parse_time(match[1]) if match else None
    return StartEstimate(start, match[2] or "", match[3] or "") if match and start is not None else None


def parse_allocation(text: str) -> str | None:
    """Find the id of the job that salloc announces on stderr, granted or still pending."""
    match = re.search(r"job allocation (\d+)", text)
    return match[1] if match else None


def expand_job_ids(text: str) -> tuple[str, ...]:
    """Expand `123_[0,4-8:2%3]` to one id per element; a list that Slurm cut short loses its last, torn entry."""
    match = re.match(r"^(\d+)_\[([^\]]*)", text)
    if not match:
        return (text,)
    listed = re.sub(r"%\d*$", "", match[2])
    entries = listed.split(",")
    if "..." in listed or not text.endswith("]"):
        entries = entries[:-1]
    return tuple(f"{match[1]}_{element}" for entry in entries for element in _expand_range(entry))


def _expand_range(entry: str) -> range:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", entry.strip())
    if not match:
        return range(0)
    first, last, stride = int(match[1]), int(match[2] or match[1]), int(match[3] or 1)
    return range(first, last + 1, stride)


def parse_time(text: str) -> float | None:
    """Read Slurm's local time as Unix time; None for `N/A`, `Unknown` and the like."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _fields(text: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^|(?<=\s))([A-Za-z][\w/:&.]*)=(\S*)", text))


def _word(state: str) -> str:
    return re.split(r"[ ,+]", state.strip(), maxsplit=1)[0]


def _value(text: str) -> str:
    return "" if text in ("(null)", "None", "N/A", "None assigned", "Unknown") else text
