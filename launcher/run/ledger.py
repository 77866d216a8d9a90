"""The ledger of a run: attempts.jsonl, an append-only record of what each attempt did.

The batch process opens and closes attempts; rank 0 adds what it trained. A killed attempt has
no closing event: the next start writes one for it. Standard library only, because the batch
process runs under whatever Python the node's host has.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from launcher.run.files import replace_text, write_all
from launcher.run.typed import fits, hints_of, made_of

Reason: TypeAlias = Literal[
    "finished", "preempted", "time_limit", "stopped", "node_failure", "killed", "out_of_memory",
    "does_not_fit", "hang", "bad_recipe", "error", "pruned",
]  # fmt: skip
"""Why an attempt ended. `stopped` = a user asked; `killed` = by SIGKILL or power loss; `out_of_memory` = of the node;
`does_not_fit` = a micro batch in a GPU's memory; `hang` = made no progress for `limits.hang`;
`pruned` = a trial of a search that others had left behind."""

Action: TypeAlias = Literal["done", "restart", "requeue", "resubmit", "stop"]
"""What was decided about the run when an attempt ended; `restart` = started again at once, in the same job."""


@dataclass
class Attempt:
    """One start of a run, put together from the ledger's events."""

    number: int
    job_id: str = ""
    """Slurm's id (`123` or `123_4`), or `local-PID`."""
    restart_count: int = 0
    nodes: list[str] = field(default_factory=list)
    world_size: int = 0
    started: float = 0.0
    """Unix time."""
    began: float | None = None
    """Unix time at which rank 0 had loaded everything and began with its first step."""
    first_step: int | None = None
    """The step it resumed from (0 = from scratch)."""
    last_step: int | None = None
    """The last step whose work is safe: an optimizer step that a published checkpoint or the end of training covers, or
    the number of finished files or items, where these are counted."""
    total_steps: int | None = None
    """Steps, files or items of the whole work, as rank 0 worked it out."""
    micro_batch: int | None = None
    """Sequences per forward pass on one rank."""
    max_micro_batch: int | None = None
    """What later attempts may take at most, since this one's did not fit."""
    ended: float | None = None
    reason: Reason | None = None
    source: str = ""
    """What the reason was read from (`exit code 75`, `scontrol`, `STOP`, ...)."""
    exit_code: int | None = None
    action: Action | None = None
    message: str = ""
    fault: str = ""
    """Why a rank could not continue, in one line: recipe, data, a micro batch, a full disk, a killed worker."""
    missing_inputs: bool = False
    """Whether the ranks ended because a stage before theirs had not finished."""
    guardian: str = ""
    """Why the guardian gave up, so that a run whose batch process was killed does not come back by itself."""
    announced: int | None = None
    """The exit code that this rank then left with; srun may report another rank's exit code first."""


def append_event(ledger: Path, attempt: int, **event: object) -> None:
    """Add one event to the ledger, durably.

    Args:
        ledger: attempts.jsonl.
        attempt: Number of the attempt the event belongs to.
        **event: Fields of `Attempt` that the event sets.

    Raises:
        OSError: The disk is full or gone.
    """
    line = (json.dumps({"attempt": attempt, "time": time.time(), **event}) + "\n").encode()
    descriptor = os.open(ledger, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        write_all(descriptor, _missing_line_end(descriptor) + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing_line_end(descriptor: int) -> bytes:
    """Keep an event apart from a line that a power cut or a full disk tore."""
    size = os.fstat(descriptor).st_size
    return b"\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else b""


def read_attempts(ledger: Path) -> list[Attempt]:
    """Read the ledger; a torn last line (power cut) is left out, and so is a value that its field cannot have."""
    attempts: dict[int, Attempt] = {}
    hints = hints_of(Attempt)
    for event in read_json_lines(ledger):
        number = event.pop("attempt", None)
        if not fits(int, number):
            continue
        attempt = attempts.setdefault(number, Attempt(number))
        for key, value in event.items():
            if key in hints and key != "number" and fits(hints[key], value):
                setattr(attempt, key, value)
    return [attempts[number] for number in sorted(attempts)]


def micro_batch_limit(attempts: Sequence[Attempt]) -> int | None:
    """Return the largest micro batch that may be tried after these attempts; None if all of them fitted."""
    return min((attempt.max_micro_batch for attempt in attempts if attempt.max_micro_batch is not None), default=None)


def has_finished(attempts: Sequence[Attempt]) -> bool:
    """Tell whether a run reached its end."""
    return any(attempt.reason == "finished" for attempt in attempts)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl file that may be missing, or end in a torn line."""
    if not path.exists():
        return []
    return list(parse_json_lines(path.read_bytes()))


def parse_json_lines(content: bytes) -> Iterable[dict[str, Any]]:
    """Parse JSON objects, a line each; a torn line is left out."""
    for line in content.splitlines():  # of bytes: those of text end at U+2028 and others, too, which JSON may hold
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


StopReason: TypeAlias = Literal["user", "time_limit", "pruned"]


@dataclass(frozen=True)
class StopRequest:
    """The content of a run's STOP file; an empty file (touched by hand) is a user's request."""

    reason: StopReason = "user"
    attempt: int | None = None
    """The attempt that a time-limit request is meant for; later attempts remove it."""

    def write(self, path: Path) -> None:
        """Put the request in place atomically."""
        replace_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def withdraw(cls, path: Path) -> None:
        """Remove a request, so that the run goes on.

        What a batch process wrote stays: if it was killed before it could say how its attempt ended, the next start
        reads it from that, and removes it.
        """
        request = cls.read(path)
        if request is not None and request.reason != "time_limit":
            path.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> "StopRequest | None":
        """Read the request; None when there is none. A file that we may not read is a user's request."""
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return None
        except PermissionError:
            return cls()
        try:
            return made_of(cls, json.loads(text or "{}"), path)
        except (ValueError, RecursionError):
            return cls()
