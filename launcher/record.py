"""run.json: what a run is, apart from its recipe. Standard library only."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


@dataclass
class Submitted:
    """One queueing of a run."""

    job_id: str
    """Slurm's id with the array index (`123_4`), plain `123` for a single run, `local-PID` otherwise."""
    folder: str
    """The submission's folder (`launcher.paths.SubmissionDir`)."""
    time: float


@dataclass(frozen=True)
class Share:
    """Which of the source files of a `prepare` in several tasks a run takes care of."""

    index: int
    """Counted from 0."""
    count: int


@dataclass
class RunRecord:
    """Identity of a run and where it was queued."""

    id: str
    name: str
    kind: str
    fingerprint: str
    """SHA-256 of the resolved recipe; each rank checks it."""
    created: float
    """Unix time."""
    code_hash: str
    """Name of the code snapshot."""
    code_commit: str | None
    """Git commit the code came from, with `+changes` if the tree was not clean."""
    recipe_folder: str
    """Folder of the recipe file; `./` values of the recipe are relative to it."""
    wandb_id: str
    """One W&B run over all attempts."""
    cluster: dict[str, Any]
    """The resolved cluster profile (`launcher.cluster.Cluster` as JSON)."""
    submissions: list[Submitted] = field(default_factory=list)
    rehearsal: bool = False
    group: str | None = None
    """Runs that work for one result carry the id of the one that completes it; None for a run on its own."""
    share: Share | None = None
    """What this run does for its group; None for the run that completes it."""
    micro_batch: int | None = None
    """What `micro_batch: auto` starts with; None for a micro batch that the recipe says."""
    checkpoint_bytes: int | None = None
    """About how large a checkpoint will be; None where nobody knows before there is one."""

    def write(self, path: Path) -> None:
        """Write run.json atomically, one line a field: an array of 1,000 runs writes 2,000 of them."""
        values = vars(self) | {"submissions": [vars(entry) for entry in self.submissions]}
        values["share"] = vars(self.share) if self.share else None
        lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in values.items())
        content = f"{{\n{lines}\n}}\n".encode()
        staging = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            while content:  # a disk that is nearly full takes a part without an error
                content = content[os.write(descriptor, content) :]
        finally:
            os.close(descriptor)
        os.replace(staging, path)

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read run.json; a launcher that is newer than the run's own code may have added fields."""
        found = json.loads(path.read_text(encoding="utf-8"))
        found["submissions"] = [Submitted(**entry) for entry in found["submissions"]]
        if found.get("share"):
            found["share"] = Share(**found["share"])
        return cls(**{known.name: found[known.name] for known in fields(cls) if known.name in found})


def was_rehearsed(link: Path) -> bool:
    """Tell whether a name below `roots.models` is of what a rehearsal trained, so that another one may take it."""
    folder = link.resolve().parents[1]
    return link.is_symlink() and (folder / "run.json").is_file() and RunRecord.read(folder / "run.json").rehearsal


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Hash a resolved recipe, whatever the layout of the file it was read from.

    Args:
        recipe: The content of recipe.json.

    Returns:
        SHA-256 of its canonical JSON (sorted keys, no spaces), in hex.
    """
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
