"""RunDir: the one place that spells the file names of a run directory. Standard library only."""

import os
from dataclasses import dataclass
from pathlib import Path

FINISHED, CONTINUE, DOES_NOT_FIT, NEVER_RESTART = 0, 75, 76, 78
"""Exit codes of a task: finished; checkpointed, continue me (EX_TEMPFAIL); the micro batch is too large for the
GPU's memory, start me with a smaller one; never restart (EX_CONFIG)."""


@dataclass(frozen=True)
class RunDir:
    """The files of one run, over all its attempts."""

    root: Path

    @property
    def recipe_as_written(self) -> Path:
        """The user's YAML file, byte for byte."""
        return self.root / "recipe.yaml"

    @property
    def recipe(self) -> Path:
        """The resolved, frozen recipe: all that a node reads."""
        return self.root / "recipe.json"

    @property
    def record(self) -> Path:
        """Run id, fingerprint, code, cluster profile, W&B id and job ids (`launcher.record.RunRecord`)."""
        return self.root / "run.json"

    @property
    def submission(self) -> Path:
        """What sbatch got."""
        return self.root / "submission.sh"

    @property
    def code(self) -> Path:
        """Link to the read-only snapshot of `launcher/` and `jobs/` that this run executes."""
        return self.root / "code"

    @property
    def ledger(self) -> Path:
        """One JSON line per event of an attempt (`launcher.ledger`)."""
        return self.root / "attempts.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step: loss, lr, tokens/s, MFU, memory, step, attempt."""
        return self.root / "metrics.jsonl"

    @property
    def evaluations(self) -> Path:
        """One JSON line per evaluation: its scores, step, attempt."""
        return self.root / "evaluations.jsonl"

    @property
    def logs(self) -> Path:
        """Logs of all attempts."""
        return self.root / "logs"

    def attempt_logs(self, attempt: int) -> Path:
        """Folder of one attempt's logs."""
        return self.logs / f"attempt-{attempt:03d}"

    def rank_log(self, attempt: int, rank: int) -> Path:
        """What one rank printed in one attempt."""
        return self.attempt_logs(attempt) / f"rank-{rank:05d}.log"

    def batch_log(self, attempt: int) -> Path:
        """What the batch process (start, stop requests, verdict) said in one attempt."""
        return self.attempt_logs(attempt) / "batch.log"

    def preflight(self, attempt: int) -> Path:
        """What rank 0 found wrong with a node before the work: JSON `{"message"}`."""
        return self.attempt_logs(attempt) / "preflight.json"

    def heartbeat(self, attempt: int) -> Path:
        """Touched while one attempt makes progress (`jobs.runtime.watchdog`)."""
        return self.attempt_logs(attempt) / "heartbeat"

    @property
    def checkpoints(self) -> Path:
        """Training states to resume from."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint taken after optimizer step `step`."""
        return self.checkpoints / f"step-{step:08d}"

    @property
    def examples(self) -> Path:
        """Conversations as token ids (`jobs.data.chat.store`), prepared once for all attempts."""
        return self.root / "examples"

    @property
    def outputs(self) -> Path:
        """What the run was for: model or adapter, predictions, scores."""
        return self.root / "outputs"

    @property
    def wandb(self) -> Path:
        """W&B's own files, offline segments among them."""
        return self.root / "wandb"

    @property
    def shares(self) -> Path:
        """Run directories of the tasks that work for this run (`launcher.record.Share`)."""
        return self.root / "shares"

    def share(self, index: int) -> "RunDir":
        """The run of one of these tasks; its id is this run's id with an index, as in Slurm's arrays."""
        return RunDir(self.shares / f"{self.root.name.rpartition('-')[2]}_{index}")

    @property
    def group(self) -> "RunDir":
        """Of a task's run: the run that it works for."""
        return RunDir(self.root.parent.parent)

    @property
    def plan(self) -> Path:
        """The source files that all tasks of a group agreed on (`jobs.data.shares`)."""
        return self.root / "plan.json"

    @property
    def stop_request(self) -> Path:
        """Touch it to stop the run gracefully; see `launcher.ledger.StopRequest`."""
        return self.root / "STOP"

    @property
    def save_request(self) -> Path:
        """Touch it to take a checkpoint and go on; the run removes it."""
        return self.root / "SAVE"


@dataclass(frozen=True)
class SubmissionDir:
    """The files of one sbatch call; an array of runs shares one. Lies in RUNS/.submissions/."""

    root: Path

    @property
    def script(self) -> Path:
        """What sbatch got; every run of the array has a copy."""
        return self.root / "submission.sh"

    @property
    def manifest(self) -> Path:
        """Line i is `{"run": PATH, "fingerprint": HEX}` for array index i; frozen before sbatch."""
        return self.root / "manifest.jsonl"

    def slurm_log(self, pattern: str = "%A_%a") -> Path:
        """Where Slurm itself writes (its `--output`)."""
        return self.root / f"slurm-{pattern}.log"


def list_shares(run: RunDir) -> list[RunDir]:
    """Runs of the tasks that work for a run, in their order; none for a run on its own."""
    folders = sorted(run.shares.glob("*_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    return [share for share in map(RunDir, folders) if share.record.is_file()]


def submissions_root(runs_root: Path) -> Path:
    """Folder of all submissions below the folder of all runs."""
    return runs_root / ".submissions"


def snapshots_root(runs_root: Path) -> Path:
    """Folder of the content-addressed code snapshots."""
    return runs_root / ".code"


def is_checkpoint_complete(folder: Path) -> bool:
    """Tell whether a checkpoint was published; says nothing about bits that rotted since."""
    return (folder / COMPLETE).is_file()


COMPLETE = "COMPLETE"
"""Name of a checkpoint's marker: JSON `{"step", "world_size", "files": {name: [size, sha256]}}`."""


def published_steps(run: RunDir) -> list[int]:
    """Steps of all published checkpoints, oldest first; copies by other names are their owners' business."""
    folders = run.checkpoints.glob("step-*") if run.checkpoints.is_dir() else ()
    steps = {int(digits) for folder in folders if (digits := folder.name.removeprefix("step-")).isdecimal()}
    return sorted(step for step in steps if is_checkpoint_complete(run.checkpoint(step)))


def locate(name: str, root: str, recipe_folder: str) -> str:
    """Find what a recipe names: a model, a tokenizer, a corpus or source files.

    Args:
        name: Value in the recipe.
        root: The cluster profile's folder for such things; `~` and `$VARIABLES` are expanded.
        recipe_folder: Folder of the recipe file (`launcher.record.RunRecord.recipe_folder`).

    Returns:
        An absolute path for `./` and `../` values and for names that exist below the root; the name
        itself otherwise (a Hugging Face id).
    """
    if name.startswith(("./", "../")):
        return os.path.normpath(Path(recipe_folder) / name)
    below = expand(root) / name
    return str(below) if below.exists() else name


def closed_folder(path: str | Path) -> Path | None:
    """Return the folder on the way to a path that this user may not enter and list; None if what is there is open."""
    deepest = next(folder for folder in Path(path).absolute().parents if os.path.isdir(folder))
    return None if os.access(deepest, os.R_OK | os.X_OK, effective_ids=True) else deepest


def expand(folder: str) -> Path:
    """Expand `~` and `$VARIABLES` in a folder of the cluster profile."""
    return Path(os.path.expandvars(folder)).expanduser().absolute()
