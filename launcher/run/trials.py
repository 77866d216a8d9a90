"""The files of a search: which trials there are, and which job carries out each. Standard library only.

A trial's number is claimed by a file that appears whole or not at all, and that only one process can make. Who works on
a trial is said in the same way, so that two never take up the same one. What a trial came to is in its run directory.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from launcher.run.files import write_all
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.sweep_points import SweptRun, sweep_dir
from launcher.run.typed import made_of, read_object


@dataclass(frozen=True)
class Owner:
    """Who works on a trial."""

    job: str
    """Slurm's id (`123` or `123_4`), or `local-PID`; empty after `launcher resume`: nobody yet."""
    restarts: int = 0
    """How many times Slurm has put this job back into the queue."""
    host: str = ""
    started: str = ""
    """When the process of a `local-PID` started, as its host counts; another process may get its number."""
    stops: int = 0
    """How many of the run's attempts had been its last one, until a person resumed it."""


@dataclass(frozen=True)
class Trial:
    """One combination of values, and its run."""

    number: int
    """Counted from 0."""
    run: str
    """Name of the run's folder."""
    values: Mapping[str, Any]
    """By the dotted keys."""
    fingerprint: str
    """SHA-256 of the trial's resolved recipe."""
    owner: Owner
    """Who made it, and worked on it first."""
    wandb_id: str | None = None
    """The run that a sweep of W&B gave; None for values that were chosen here."""


@dataclass(frozen=True)
class SearchDir:
    """The files of one search; its trials are runs with folders of their own."""

    root: Path

    @property
    def record(self) -> Path:
        """What is searched: the recipe, the section, the cluster (`launcher.submit.search_record`)."""
        return self.root / "search.json"

    @property
    def trials(self) -> Path:
        """A file for each trial (`Trial`), and for each further owner of one."""
        return self.root / "trials"

    def trial(self, number: int) -> Path:
        """The file of a trial."""
        return self.trials / f"{number:05d}.json"

    def owner(self, number: int, turn: int) -> Path:
        """The file of who took a trial up again for the `turn`-th time, counted from 1."""
        return self.trials / f"{number:05d}.owner-{turn:04d}.json"

    @property
    def staging(self) -> Path:
        """Run directories on their way."""
        return self.root / "staging"

    @property
    def elements(self) -> Path:
        """A file for each submission of elements, which has the submission's name."""
        return self.root / "elements"

    @property
    def prepared(self) -> Path:
        """A link to a submission of elements, if it was written before it could be queued."""
        return self.root / "prepared"

    @property
    def is_prepared(self) -> bool:
        """Whether a submission of elements was written that was never queued."""
        return self.prepared.is_symlink() and not (self.elements / Path(os.readlink(self.prepared)).name).exists()

    @property
    def stop_request(self) -> Path:
        """There while no trial is to be started."""
        return self.root / "STOP"

    @property
    def runs_root(self) -> Path:
        """Folder of all runs."""
        return self.root.parent.parent

    def submissions(self) -> list[SubmissionDir]:
        """Submissions of elements, oldest first; first of all one that was prepared and is not listed.

        Over NFS a listing may be old for a minute, in which a node has queued what was prepared.
        """
        paths = sorted(self.elements.iterdir(), key=lambda path: path.stat().st_mtime) if self.elements.is_dir() else []
        names = [path.name for path in paths]
        prepared = [Path(os.readlink(self.prepared)).name] if self.prepared.is_symlink() else []
        names = [*(name for name in prepared if name not in names), *names]
        return [SubmissionDir(self.runs_root / ".submissions" / name) for name in names]


def find_search(runs_root: Path, name: str) -> SearchDir | None:
    """Find a search by its name; None if there is none."""
    folder = SearchDir(sweep_dir(runs_root, name).root)
    return folder if folder.record.is_file() else None


def search_of(run: RunDir, sweep: str | None) -> SearchDir | None:
    """Find the search that a run is a trial of; None if it is not one.

    Args:
        run: The run.
        sweep: What its run.json says.
    """
    return find_search(run.root.parent, sweep) if sweep else None


def read_trials(folder: SearchDir) -> list[Trial]:
    """Read the trials of a search, in their order."""
    try:
        names = sorted(os.listdir(folder.trials))
    except FileNotFoundError:
        return []
    return [_read_trial(folder.trials / name) for name in names if name[:-5].isdecimal() and name.endswith(".json")]


def _read_trial(path: Path) -> Trial:
    trial = made_of(Trial, read_object(path), path)
    return replace(trial, owner=made_of(Owner, trial.owner, path))


def claim(folder: SearchDir, trial: Trial) -> bool:
    """Make a trial; False if another process was quicker."""
    return publish_once(folder.trial(trial.number), asdict(trial))


def newest_owner(folder: SearchDir, trial: Trial) -> tuple[int, Owner]:
    """Tell who took a trial up last, and how many did so before."""
    turn, owner = 0, trial.owner
    while True:
        try:
            path = folder.owner(trial.number, turn + 1)
            found = read_object(path)
        except FileNotFoundError:
            return turn, owner
        turn, owner = turn + 1, made_of(Owner, found, path)


def take_up(folder: SearchDir, trial: Trial, turn: int, owner: Owner) -> bool:
    """Become the owner of a trial after the `turn`-th one; False if another process was quicker."""
    return publish_once(folder.owner(trial.number, turn + 1), asdict(owner))


def publish_once(path: Path, content: Mapping[str, Any]) -> bool:
    """Write a file that appears whole, and only if there is none; False if there is one.

    Over NFS the answer to a link may get lost and the second try say that it exists; the number of links tells.
    """
    staging = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    descriptor = os.open(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(descriptor, (json.dumps(content) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.link(staging, path)
        is_ours = True
    except FileExistsError:
        is_ours = os.stat(staging).st_nlink == 2
    os.unlink(staging)
    return is_ours


def swept_runs(folder: SearchDir, name: str) -> Iterator[SweptRun]:
    """Give the trials as points of a sweep."""
    for trial in read_trials(folder):
        yield SweptRun(name, trial.values, trial.run, trial.fingerprint)
