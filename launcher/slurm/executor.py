"""Queueing a rendered script through submitit: its executor, without its script, its pickles and its throttle.

submitit's array path builds a plain SlurmExecutor and so bypasses subclasses, and its sbatch call inherits every
`SBATCH_*` of the calling shell. Here one script serves a single run and an array alike, and what a task needs lies in
the run directory. The hooks are private: `tests/submit/test_submitit_contract.py` fails when one of them moves.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import DelayedSubmission
from typing_extensions import override

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.paths import SubmissionDir
from launcher.slurm.command import run_slurm

_JOB_ID = re.compile(r"^(\d+)(;\S+)?$", re.MULTILINE)


class RecipeExecutor(submitit.SlurmExecutor):
    """Queues the script of one submission with sbatch.

    Args:
        submission: Holds the script, written before.
        cluster: Says which Slurm.
        options: Further options of sbatch, for what the script cannot know (`--dependency`, `--array`).
    """

    def __init__(self, submission: SubmissionDir, cluster: Cluster, options: Sequence[str] = ()) -> None:
        if self.affinity() < 0:
            raise SlurmError("`sbatch` is not on PATH; run this where Slurm's commands are installed")
        super().__init__(submission.root)
        self.submission, self.cluster, self.options = submission, cluster, tuple(options)

    @classmethod
    @override
    def affinity(cls) -> int:
        """Submitting needs sbatch alone: srun may be missing on a login node."""
        return 2 if shutil.which("sbatch") else -1

    def queue(self) -> str:
        """Call sbatch and return the job id."""
        return self._submit_command(self._submitit_command_str).job_id

    @override
    # submitit 1.5 leaves temporary files here, passes on every SBATCH_* variable and waits without a limit.
    def _submit_command(self, command: str) -> submitit.SlurmJob[Any]:
        printed = run_slurm(self._make_submission_command(self.submission.script), self.cluster)
        return self.job_class(self.folder, self._get_job_id_from_submission_command(printed))

    @override
    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return ["sbatch", "--parsable", *self.options, str(submission_file_path)]

    @staticmethod
    @override
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        """Find the id on the last line that holds nothing else: site wrappers print banners around it."""
        text = string.decode() if isinstance(string, bytes) else string
        found = _JOB_ID.findall(text)
        if not found:
            raise SlurmError(f"sbatch printed no job id but `{text.strip()}`; see `squeue --me` for what was queued")
        return str(found[-1][0])

    @override
    def _internal_process_submissions(
        self, delayed_submissions: list[DelayedSubmission]
    ) -> list[submitit.core.core.Job[Any]]:
        raise TypeError("this executor queues recipes, not Python functions")
