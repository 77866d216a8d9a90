"""What Slurm prints and which variables its commands heed, for the launcher and the nodes. Standard library only."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from launcher.run.ledger import Reason

# Variables that carry options for these commands override argv and scripts, and a job must not inherit another job's
# (https://slurm.schedmd.com/sbatch.html, INPUT ENVIRONMENT VARIABLES). With another SLURM_TIME_FORMAT than its own,
# Slurm prints times that `parse_time` does not read.
_OVERRIDES = (
    *("SBATCH_", "SRUN_", "SALLOC_", "SQUEUE_", "SINFO_", "SACCT_", "SCANCEL_", "SCONTROL_"),
    "SLURM_TIME_FORMAT",
)

_RANGES = r"\[\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*\]"
_NODES = rf"(?:[\w.-]|{_RANGES})+"
"""A name of a node, or of several whose numbers stand in brackets."""

Phase: TypeAlias = Literal["queued", "starting", "running", "over", "unknown"]
"""What a job's state means to a person who waits for it."""


class JobState(NamedTuple):
    """What one of Slurm's job states means."""

    phase: Phase
    explanation: str
    exit_reason: Reason | None = None
    """Why the attempt ended, where the state tells."""


STATES: dict[str, JobState] = {
    "PENDING": JobState("queued", "waits"),
    "REQUEUED": JobState("queued", "goes back into the queue"),
    "REQUEUE_FED": JobState("queued", "goes back into the queue of the federation"),
    "REQUEUE_HOLD": JobState("queued", "is back in the queue and held"),
    "RESV_DEL_HOLD": JobState("queued", "is held: its reservation was deleted"),
    "SPECIAL_EXIT": JobState("queued", "is back in the queue and held: it ended with a special exit code"),
    "EXPEDITING": JobState("queued", "goes back to the front of the queue"),
    "CONFIGURING": JobState("starting", "its nodes are being made ready"),
    "POWER_UP_NODE": JobState("starting", "its nodes are being switched on"),
    "RUNNING": JobState("running", "runs"),
    "RESIZING": JobState("running", "changes its size"),
    "SIGNALING": JobState("running", "is being signalled"),
    "STAGE_OUT": JobState("running", "its files are being copied out"),
    "STOPPED": JobState("running", "was halted by SIGSTOP"),
    "SUSPENDED": JobState("running", "is suspended"),
    "COMPLETING": JobState("running", "is being cleaned up"),
    "UPDATE_DB": JobState("running", "is being recorded"),
    "COMPLETED": JobState("over", "ended with exit code 0"),
    "BOOT_FAIL": JobState("over", "its nodes did not boot", "node_failure"),
    "CANCELLED": JobState("over", "was cancelled", "stopped"),
    "DEADLINE": JobState("over", "missed its deadline", "killed"),
    "FAILED": JobState("over", "failed"),
    "LAUNCH_FAILED": JobState("over", "could not be launched"),
    "NODE_FAIL": JobState("over", "lost a node", "node_failure"),
    "OUT_OF_MEMORY": JobState("over", "ran out of memory", "out_of_memory"),
    "PREEMPTED": JobState("over", "was preempted", "preempted"),
    "RECONFIG_FAIL": JobState("over", "its nodes could not be reconfigured"),
    "REVOKED": JobState("over", "was taken over by another cluster of the federation"),
    "TIMEOUT": JobState("over", "reached its time limit", "killed"),
}
"""All job states of Slurm 22.05 to 25.05 (https://slurm.schedmd.com/job_state_codes.html)."""

EXIT_REASONS: dict[str, Reason] = {name: state.exit_reason for name, state in STATES.items() if state.exit_reason}
"""Why an attempt ended, by the state of its job; the other states do not tell."""


def parse_fields(text: str) -> dict[str, str]:
    """Parse scontrol's `Key=Value Key=Value`, on one line or several; values may hold spaces."""
    pairs = re.split(r"(?:^|\s)([A-Za-z][\w/:&.]*)=", text)
    return dict(zip(pairs[1::2], (value.strip() for value in pairs[2::2]), strict=True))


def value_of(text: str) -> str:
    """Read a value as Slurm prints it; empty for the words that it has for none."""
    return "" if text in ("(null)", "None", "N/A", "None assigned", "Unknown") else text


def parse_gres(text: str) -> Sequence[tuple[str | None, int]]:
    """Parse the GPUs of a node's gres: `gpu:a100:4(S:0-1),nvme:1` holds four of type `a100`."""
    without_sockets = re.sub(r"\([^)]*\)", "", text)
    found = [re.fullmatch(r"gpu(?::([^:]*[^:\d][^:]*))?(?::(\d+))?", part) for part in without_sockets.split(",")]
    return [(match[1], int(match[2] or 1)) for match in found if match]


def log_folder(folder: Path) -> Path:
    """Write a folder of `--output`: Slurm replaces `%j` and the like in the whole path, so a `%` is doubled."""
    return Path(str(folder).replace("%", "%%"))


def expand_nodes(text: str) -> list[str]:
    """Name the nodes of a list as Slurm writes it: `gpu[01-03,07],head`, `rack[1-2]n[1-4]`.

    Raises:
        ValueError: It is no such list.
    """
    if not re.fullmatch(rf"{_NODES}(,{_NODES})*|", text):
        raise ValueError(f"`{text}` is no list of nodes")
    found: list[str] = []
    for word in re.findall(_NODES, text):
        parts = [_numbers(part) if part[0] == "[" else [part] for part in re.findall(_RANGES + r"|[^\[]+", word)]
        found += map("".join, product(*parts))
    return found


def _numbers(ranges: str) -> list[str]:
    """Count `[01-03,07]`: with as many digits as Slurm wrote."""
    bounds = [part.partition("-") for part in ranges.strip("[]").split(",")]
    return [f"{n:0{len(first)}}" for first, _, last in bounds for n in range(int(first), int(last or first) + 1)]


def parse_time(text: str) -> float | None:
    """Read Slurm's local time as Unix time; None for `N/A`, `Unknown` and the like."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def without_overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out the variables that carry options for Slurm's commands; what SLURM_* say of the job stays."""
    return {name: value for name, value in environ.items() if not name.startswith(_OVERRIDES)}


def outside_job(environ: Mapping[str, str]) -> dict[str, str]:
    """Leave out the running job's variables as well, so that a new job does not inherit them."""
    kept = without_overrides(environ)
    return {name: value for name, value in kept.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
