"""Some completions of a rollout, for people to look at."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.train.rollouts.rewards import Completion


@dataclass(frozen=True)
class Sampled:
    """A completion and what it was worth."""

    prompt: str
    """The last question."""
    completion: str
    reference: str
    reward: float
    rewards: dict[str, float]
    """Each by itself, without weights."""
    kl: float | None = None
    """To the reference, in nats; None if the algorithm has none of a completion."""

    @classmethod
    def of(cls, one: Completion, reward: float, rewards: dict[str, float], kl: float | None = None) -> "Sampled":
        """Make one of a completion."""
        return cls(one.messages[-1]["content"], one.text, one.reference, reward, rewards, kl)


def write_samples(path: Path, step: int, attempt: int, samples: Sequence[Sampled]) -> None:
    """Append samples to a file of JSON lines. An attempt that repeats steps appends them again."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for one in samples:
            file.write(json.dumps({"step": step, "attempt": attempt, **asdict(one)}, ensure_ascii=False) + "\n")
