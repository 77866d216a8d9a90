"""From what Slurm's commands print to objects. Pure: text in, objects out."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from launcher.run.batch_process import names_submission
from launcher.run.slurm_text import STATES, JobState, Phase, parse_fields, parse_time, value_of
from launcher.slurm.reasons import explain_reason

_HELD_STATES = ("REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
_HELD = re.compile(r"JobHeld|JobHoldMaxRequeue|(requeued|in) held")

SQUEUE_FORMAT = "%i|%T|%S|%e|%N|%r"
SACCT_FORMAT = "JobID,State,ExitCode,Start,End,NodeList,Reason"

Source: TypeAlias = Literal["squeue", "sacct", "scontrol", "process"]


@dataclass(frozen=True)
class Job:
    """What Slurm says of one job, or of one element of an array."""

    id: str
    """`123`, or `123_4`."""
    state: str
    """Slurm's word, a key of `launcher.run.slurm_text.STATES` unless Slurm is newer than this table."""
    source: Source
    reason: str = ""
    """Why it waits or ended, in Slurm's words."""
    start: float | None = None
    """Unix time; an estimate while it is queued."""
    end: float | None = None
    """Unix time; while it runs that of its time limit."""
    nodes: str = ""
    """Slurm's short form: `gpu[01-04]`."""
    exit_code: str = ""
    """`CODE:SIGNAL`."""
    command: tuple[bytes, ...] = ()
    """Words of the command line of a process; none while it becomes another program."""

    @property
    def phase(self) -> Phase:
        """Tell whether it waits, runs or is over."""
        return self._meaning.phase

    @property
    def explanation(self) -> str:
        """Say in words why it is where it is, and for a held job how to let it go."""
        why = explain_reason(self.reason) if self.state == "PENDING" else self._meaning.explanation
        return f"{why}; `scontrol release {self.id}` lets it go" if self.is_held else why

    def may_carry_out(self, submission: str) -> bool:
        """Tell whether this may be the job of a submission: another program may have the number of its process by now.

        Args:
            submission: Its folder; empty if that is not known.
        """
        return not (submission and self.command) or names_submission(self.command, submission)

    @property
    def is_held(self) -> bool:
        """Whether it stays in the queue until somebody releases it."""
        is_waiting = self.state == "PENDING" and _HELD.search(_spaced(self.reason)) is not None
        return is_waiting or self.state in _HELD_STATES

    @property
    def _meaning(self) -> JobState:
        return STATES.get(self.state, JobState("unknown", f"has the state {self.state}"))


def _spaced(reason: str) -> str:
    return reason.replace("_", " ")


def parse_squeue(text: str) -> list[Job]:
    """Parse `squeue --noheader --format=SQUEUE_FORMAT`."""
    rows = (line.split("|", 5) for line in text.splitlines() if line.count("|") >= 5)
    return [
        Job(job_id, _word(state), "squeue", value_of(reason), parse_time(start), parse_time(end), value_of(nodes))
        for job_ids, state, start, end, nodes, reason in rows
        for job_id in expand_job_ids(job_ids)
    ]


def parse_sacct(text: str) -> list[Job]:
    """Parse `sacct -D -X --parsable2 --noheader --format=SACCT_FORMAT`.

    A job that was requeued has a line for each start, oldest first.
    """
    rows = (line.split("|", 6) for line in text.splitlines() if line.count("|") >= 6)
    return [
        Job(
            job_id, _word(state), "sacct", value_of(why), parse_time(start), parse_time(end), value_of(nodes), exit_code
        )
        for job_ids, state, exit_code, start, end, nodes, why in rows
        for job_id in expand_job_ids(job_ids)
    ]


def parse_scontrol_jobs(text: str) -> list[Job]:
    """Parse `scontrol show job` (several lines a job, blank lines between jobs)."""
    return [job for block in re.split(r"\n\s*\n", text) if "JobId=" in block for job in _parse_scontrol_job(block)]


def _parse_scontrol_job(block: str) -> Iterator[Job]:
    # A job's name may hold anything, `JobState=` too; it is the last entry of the first line.
    head, _, rest = block.strip().partition("\n")
    fields = parse_fields(head.partition(" JobName=")[0]) | parse_fields(rest)
    elements = fields.get("ArrayTaskId", "")
    job_ids = f"{fields['ArrayJobId']}_[{elements}]" if elements else fields["JobId"]
    times = parse_time(fields.get("StartTime", "")), parse_time(fields.get("EndTime", ""))
    for job_id in expand_job_ids(job_ids):
        yield Job(
            *(job_id, _word(fields.get("JobState", "")), "scontrol", value_of(fields.get("Reason", "")), *times),
            nodes=value_of(fields.get("NodeList", "")),
            exit_code=fields.get("ExitCode", ""),
        )


def parse_allocation(text: str) -> str | None:
    """Find the id of the job that salloc announces on stderr, granted or still pending."""
    match = re.search(r"job allocation (\d+)", text)
    return match[1] if match else None


def parse_seconds(text: str) -> int:
    """Parse Slurm's `DAYS-HOURS:MINUTES:SECONDS`; parts may be missing from the left, `MINUTES` alone is minutes."""
    days, mark, clock = text.strip().rpartition("-")
    parts = [int(part) for part in clock.split(":") if part.isdigit()]
    if mark:
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1:
        parts.append(0)
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + part
    return seconds + (int(days) * 86400 if days.isdigit() else 0)


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


def _word(state: str) -> str:
    return re.split(r"[ ,+]", state.strip(), maxsplit=1)[0]
