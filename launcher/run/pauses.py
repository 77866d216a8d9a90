"""pauses.jsonl: when training stood still, and for what. Standard library only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from launcher.run.ledger import read_json_lines
from launcher.run.typed import fits, hints_of

PauseKind: TypeAlias = Literal["saving", "evaluating", "exporting"]


@dataclass(frozen=True)
class Pause:
    """One pause of the training, as rank 0 measured it."""

    attempt: int
    step: int
    what: PauseKind
    time: float
    """Unix time of its end."""
    seconds: float

    @property
    def start(self) -> float:
        """Unix time of its begin."""
        return self.time - self.seconds

    def append(self, path: Path) -> None:
        """Write it down; a kill may tear the line, which is then left out."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(self)) + "\n")


def read_pauses(path: Path) -> list[Pause]:
    """Read all pauses in their order; none of runs of earlier versions, which did not note them."""
    hints = hints_of(Pause)
    rows = [row for row in read_json_lines(path) if all(fits(hint, row.get(name)) for name, hint in hints.items())]
    return [Pause(**{name: row[name] for name in hints}) for row in rows]
