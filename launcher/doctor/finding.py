"""What `launcher doctor` finds: one judgement about one thing."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "note", "problem"]
"""`note`: it works, but not as one might think. `problem`: runs will not work, or will be lost."""


@dataclass(frozen=True)
class Finding:
    """One judgement about one thing."""

    topic: str
    """What it is about, in a word or two."""
    level: Level
    what: str
    """What is so, in plain words."""
    fix: str = ""
    """What to do about it."""


def ok(topic: str, what: str) -> Finding:
    """Something is as it should be."""
    return Finding(topic, "ok", what)


def note(topic: str, what: str, fix: str = "") -> Finding:
    """Something works, but not as one might think."""
    return Finding(topic, "note", what, fix)


def problem(topic: str, what: str, fix: str) -> Finding:
    """Something does not work."""
    return Finding(topic, "problem", what, fix)
