"""stragglers.jsonl of an attempt: ranks that were much slower than the others. Standard library only."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.run.ledger import read_json_lines


@dataclass(frozen=True)
class Straggler:
    """A rank whose own part of a step takes much longer than that of the others, who wait for it."""

    rank: int
    node: str
    step: int
    """When it was noticed."""
    speed: float
    """The median of all ranks divided by its own seconds: 1 is as fast as the others, 0.5 half as fast."""
    seconds: float
    """Its own part of a step."""
    median: float
    """That of the ranks."""
    cause: str
    """What it spends more time with: `computing` or `loading data`."""

    def append(self, path: Path) -> None:
        """Write it down.

        Raises:
            OSError: the disk is full or gone.
        """
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(self)) + "\n")

    def __str__(self) -> str:
        return (
            f"rank {self.rank} on {self.node} is slow: {self.cause} and the rest of its own part of a step take "
            f"{self.seconds:.2f} s, but {self.median:.2f} s on the median rank (seen at step {self.step})"
        )


def read_stragglers(path: Path) -> list[Straggler]:
    """Read them; none where there is no file."""
    names = Straggler.__dataclass_fields__
    return [Straggler(**{name: row[name] for name in names}) for row in read_json_lines(path) if row.keys() >= {*names}]
