"""What each reason for which an attempt can end means, and what helps."""

import re
from dataclasses import dataclass

from launcher.run.ledger import Attempt, Reason


@dataclass(frozen=True)
class ExitReason:
    """A reason why attempts end, in words."""

    short: str
    """For a table."""
    meaning: str
    advice: str = ""
    """What the user can do; empty = nothing."""


EXIT_REASONS: dict[Reason | None, ExitReason] = {
    "finished": ExitReason("", "The run reached its end."),
    "preempted": ExitReason(
        "preempted", "Slurm took the nodes away: for another job, a reboot, or because somebody requeued the job."
    ),
    "time_limit": ExitReason(
        "time limit",
        "The job reached its time limit before the run reached its end.",
        "If no attempt gets as far as a checkpoint, submit the recipe anew with more `resources.time`, or let it save "
        "more often.",
    ),
    "stopped": ExitReason("stopped by a user", "Somebody asked the run to stop, or cancelled its job."),
    "node_failure": ExitReason(
        "node failure",
        "A node was lost, or failed the check before the start.",
        "If it is always the same node, tell the administrators; `launcher nodes list` says which ones new jobs avoid.",
    ),
    "killed": ExitReason(
        "killed, no reason given",
        "Something killed the ranks or the batch process, and nobody says what: often the kernel, for lack of RAM.",
        "If it happens again, request more `resources.memory`.",
    ),
    "out_of_memory": ExitReason(
        "out of RAM",
        "The ranks of a node used more RAM than the job had requested.",
        "Request more `resources.memory`, or use fewer data loader workers.",
    ),
    "does_not_fit": ExitReason(
        "micro batch too large",
        "A micro batch did not fit into a GPU's memory; the next attempt takes half of it, if there is a half.",
        "Use `model.activation_checkpointing: full`, a strategy that shards more, or shorter sequences.",
    ),
    "hang": ExitReason(
        "hung",
        "The ranks made no progress for `limits.hang`, or for much longer than such a step, save or evaluation had "
        "taken before.",
        "Where each rank was is at the end of its log: `launcher logs RUN --all-ranks`.",
    ),
    "bad_recipe": ExitReason(
        "bad recipe or data",
        "The run cannot work as it is, so it was not started again.",
        "Mend the recipe, its data or its model, and submit the recipe anew: a run keeps the recipe it began with.",
    ),
    "pruned": ExitReason("pruned", "Other trials of its search were better at the same step, so it was not continued."),
    "error": ExitReason("error", "A rank failed with an error."),
    None: ExitReason("no reason recorded", "The batch process had no time to write down why: it was killed."),
}

_CRASHES = re.compile(r"Segmentation fault|Bus error|Illegal instruction|Floating point exception|Aborted")
"""What srun says of a rank that ended itself, or made the kernel do so; it counts as killed."""
_CRASH = ExitReason(
    "crashed",
    "A rank crashed in C code: a fault in a library or in a kernel, or NCCL gave up on a collective.",
    "Where its Python was is at the end of its log, below `Fatal Python error`.",
)

_TOO_LATE = ExitReason(
    "killed at the time limit",
    "The job reached its time limit before the ranks had saved.",
    "They need to be asked earlier: raise `slurm.lead` in the cluster profile above the longest step and a save.",
)


def meaning_of(attempt: Attempt) -> ExitReason:
    """Find the words for the end of an attempt; what was noted of it may tell more than its reason."""
    if attempt.reason == "killed" and _CRASHES.search(attempt.message):
        return _CRASH
    if attempt.reason == "killed" and "the time limit came before" in attempt.message:
        return _TOO_LATE
    return EXIT_REASONS.get(attempt.reason, ExitReason("", f"The reason is `{attempt.reason}`."))


def explain(attempt: Attempt) -> str:
    """Say why an attempt ended, in a few words and with what is known of it."""
    words = EXIT_REASONS[attempt.reason].short if attempt.reason in EXIT_REASONS else str(attempt.reason)
    return f"{words}: {attempt.message}" if attempt.message and words else words or attempt.message
