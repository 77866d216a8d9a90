"""run.json: everything about a run's identity besides its recipe. Standard library only."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher.run.files import replace_text
from launcher.run.locations import Locations
from launcher.run.paths import PipelineDir
from launcher.run.typed import made_of, read_object

_encode = json.JSONEncoder().encode  # half the time of json.dumps


@dataclass
class Submitted:
    """One queueing of a run."""

    job_id: str
    """Slurm's id with the array index (`123_4`), plain `123` for a single run, `local-PID` otherwise."""
    folder: str
    """The submission's folder (`launcher.run.paths.SubmissionDir`)."""
    time: float


@dataclass(frozen=True)
class CorpusShare:
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
    """Id of the run that completes the corpus, for runs that make one together; None for a run on its own."""
    share: CorpusShare | None = None
    """Its part of the group's work; None for the run that completes the corpus."""
    micro_batch: int | None = None
    """What `micro_batch: auto` starts with; None if the recipe gives a number."""
    checkpoint_bytes: int | None = None
    """Estimated size of a checkpoint; None where it is not known before the first one."""
    pipeline: str | None = None
    """Folder of the pipeline that the run is a stage of; None for a run on its own."""
    stage: str | None = None
    """Name of the stage."""
    sweep: str | None = None
    """Name of the sweep that the run is a point of, also of the group at W&B; None for a run on its own."""
    point: dict[str, Any] | None = None
    """Values of the swept keys."""
    wandb_sweep: str | None = None
    """Id of the sweep at W&B that gave the values, and `wandb_id`."""
    frozen_for: str | None = None
    """The submission's folder that it was made for; it is queued later."""

    @property
    def locations(self) -> Locations:
        """Where names in the recipe lead."""
        artifacts = PipelineDir(Path(self.pipeline)).artifacts if self.pipeline else None
        return Locations(self.cluster["roots"], self.recipe_folder, artifacts)

    def submission_of(self, job_id: str) -> str:
        """Folder of the submission that a job of this run carries out; empty if that is not known."""
        known = [entry.folder for entry in self.submissions if entry.job_id == job_id]
        return known[-1] if known else self.frozen_for or ""

    def write(self, path: Path) -> None:
        """Write run.json atomically, one line a field."""
        values = vars(self) | {"submissions": [vars(entry) for entry in self.submissions]}
        values["share"] = vars(self.share) if self.share else None
        # Half of the values are None, and an array of 1,000 runs writes 54,000 values.
        lines = ",\n".join(
            [f' "{name}": {"null" if value is None else _encode(value)}' for name, value in values.items()]
        )
        replace_text(path, f"{{\n{lines}\n}}\n")

    @classmethod
    def read(cls, path: Path) -> "RunRecord":
        """Read run.json; a launcher that is newer than the run's own code may have added fields.

        Raises:
            DamagedFileError: It holds something else.
            OSError: It cannot be read.
        """
        found = read_object(path)
        record = made_of(cls, found, path)
        record.submissions = [made_of(Submitted, entry, path) for entry in found.get("submissions", ())]
        record.share = made_of(CorpusShare, record.share, path) if record.share else None
        return record


def was_rehearsed(link: Path) -> bool:
    """Tell whether a name below `roots.models` belongs to a rehearsal, so that another run may take it."""
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
