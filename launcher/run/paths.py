"""File names of run directories and submissions, defined here alone. Standard library only."""

import os
from dataclasses import dataclass
from pathlib import Path

from launcher.run.home import expand_home

FINISHED, CONTINUE, DOES_NOT_FIT, NEVER_RESTART = 0, 75, 76, 78
"""Exit codes of a rank: finished; saved, continue (EX_TEMPFAIL); the micro batch is too large for the GPU's memory,
restart with a smaller one; never restart (EX_CONFIG)."""


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
        """Run id, fingerprint, code, cluster profile, W&B id and job ids (`launcher.run.record.RunRecord`)."""
        return self.root / "run.json"

    @property
    def identity(self) -> Path:
        """What the run is and reads, noted when an attempt starts (`launcher.run.identity`)."""
        return self.root / "identity.json"

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
        """One JSON line per event of an attempt (`launcher.run.ledger`)."""
        return self.root / "attempts.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON line per logged step: loss, lr, tokens/s, MFU, memory, step, attempt."""
        return self.root / "metrics.jsonl"

    @property
    def pauses(self) -> Path:
        """One JSON line per checkpoint, evaluation and export: how long training waited (`launcher.run.pauses`)."""
        return self.root / "pauses.jsonl"

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
        """What the batch process logged in one attempt: start, stop requests, exit reason."""
        return self.attempt_logs(attempt) / "batch.log"

    def preflight(self, attempt: int) -> Path:
        """What rank 0 found wrong with a node before the work: JSON `{"message"}`."""
        return self.attempt_logs(attempt) / "preflight.json"

    def heartbeat(self, attempt: int) -> Path:
        """Renewed while one attempt makes progress (`jobs.rank.watchdog`)."""
        return self.attempt_logs(attempt) / "heartbeat"

    def stragglers(self, attempt: int) -> Path:
        """One JSON line per rank that was much slower than the others (`launcher.run.stragglers`)."""
        return self.attempt_logs(attempt) / "stragglers.jsonl"

    def collectives(self, attempt: int) -> Path:
        """Folder of what ranks that hung had recorded of collectives (`launcher.run.collectives`)."""
        return self.attempt_logs(attempt) / "collectives"

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
    def batches(self) -> Path:
        """Finished batches of an evaluation or a generation (`jobs.evaluation.batches`)."""
        return self.root / "batches"

    @property
    def outputs(self) -> Path:
        """What the run was for: model or adapter, predictions, scores."""
        return self.root / "outputs"

    @property
    def samples(self) -> Path:
        """One JSON line per completion that an `rl` run kept to look at: its prompt, rewards, step, attempt."""
        return self.outputs / "samples.jsonl"

    @property
    def export_report(self) -> Path:
        """What an `export` made: its folder, how far it is from the original, seconds of both."""
        return self.outputs / "export.json"

    @property
    def wandb(self) -> Path:
        """W&B's own files, offline segments among them."""
        return self.root / "wandb"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, one for each attempt."""
        return self.root / "tensorboard"

    @property
    def shares(self) -> Path:
        """Run directories of the tasks that work for this run (`launcher.run.record.CorpusShare`)."""
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
        """The source files that all tasks of a group agreed on (`jobs.data.corpus.task_split`)."""
        return self.root / "plan.json"

    @property
    def stop_request(self) -> Path:
        """Touch it to stop the run gracefully; see `launcher.run.ledger.StopRequest`."""
        return self.root / "STOP"

    @property
    def save_request(self) -> Path:
        """Touch it to take a checkpoint and continue; the run removes it."""
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


@dataclass(frozen=True)
class PipelineDir:
    """The files of one pipeline; its stages are runs with folders of their own, beside it."""

    root: Path

    @property
    def record(self) -> Path:
        """What the pipeline is: its stages, their order, what they make (`launcher.pipeline.record`)."""
        return self.root / "pipeline.json"

    @property
    def recipe_as_written(self) -> Path:
        """The user's YAML file, byte for byte."""
        return self.root / "pipeline.yaml"

    @property
    def stages(self) -> Path:
        """A link for each stage that has a run, to that run."""
        return self.root / "stages"

    def stage(self, name: str) -> Path:
        """The link of one stage."""
        return self.stages / name

    @property
    def artifacts(self) -> Path:
        """What the stages make, by name, below `models`, `corpora` and `data`."""
        return self.root / "artifacts"

    @property
    def stop_request(self) -> Path:
        """There while a person wants nothing more to be queued."""
        return self.root / "STOP"

    @property
    def log(self) -> Path:
        """What was queued, and why."""
        return self.root / "advance.log"


def list_shares(run: RunDir) -> list[RunDir]:
    """Runs of the tasks that work for a run, in their order; none for a run on its own."""
    folders = sorted(run.shares.glob("*_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    return [share for share in map(RunDir, folders) if share.record.is_file()]


def submissions_root(runs_root: Path) -> Path:
    """Folder of all submissions below the folder of all runs."""
    return runs_root / ".submissions"


def index_root(runs_root: Path) -> Path:
    """Folder of the index of finished runs (`launcher.run.index`)."""
    return runs_root / ".index"


def reports_root(runs_root: Path) -> Path:
    """Folder of what was reported of nodes (`launcher.run.suspects`)."""
    return runs_root / ".nodes"


def snapshots_root(runs_root: Path) -> Path:
    """Folder of the content-addressed code snapshots."""
    return runs_root / ".code"


def is_checkpoint_complete(folder: Path) -> bool:
    """Tell whether a checkpoint was published; its checksums are not compared."""
    return (folder / COMPLETE).is_file()


COMPLETE, SCORES, GENERATIONS = "COMPLETE", "scores.json", "generations.json"
"""A checkpoint's marker: `{"step", "world_size", "files": {name: [size, sha256]}}`; in `outputs`, scores and texts."""


def published_steps(run: RunDir) -> list[int]:
    """Steps of all published checkpoints, oldest first; folders with other names are ignored."""
    folders = run.checkpoints.glob("step-*") if run.checkpoints.is_dir() else ()
    steps = {int(digits) for folder in folders if (digits := folder.name.removeprefix("step-")).isdecimal()}
    return sorted(step for step in steps if is_checkpoint_complete(run.checkpoint(step)))


def locate(name: str, root: str, recipe_folder: str) -> str:
    """Find what a recipe names: a model, a tokenizer, a corpus or source files.

    Args:
        name: Value in the recipe.
        root: The cluster profile's folder for such things; `~` and `$VARIABLES` are expanded.
        recipe_folder: Folder of the recipe file (`launcher.run.record.RunRecord.recipe_folder`).

    Returns:
        An absolute path for `./` and `../` values and for names below the root; else the name (a Hugging Face id).
    """
    if name.startswith(("./", "../")):
        return os.path.normpath(Path(recipe_folder) / name)
    below = str(expand(root) / name)
    return below if os.path.exists(below) else name


def expand(folder: str) -> Path:
    """Expand `~` and `$VARIABLES` in a folder of the cluster profile."""
    return expand_home(os.path.expandvars(folder)).absolute()
