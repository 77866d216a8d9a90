"""`python -m jobs.batch.placeholder RUN_DIR ATTEMPT RANK COMMAND...`: become a rank, all but one of them.

`srun --pty` gives the terminal to rank 0 alone. For another rank to have it, that rank runs in a step of its own, and
this process keeps its place among the others: it ends when that rank has ended, and as it did.
"""

import os
import sys
import time
from pathlib import Path

from launcher.run.files import replace_text
from launcher.run.paths import RunDir

_LOOK_SECONDS = 0.5


def end_file(run: RunDir, attempt: int) -> Path:
    """Where the exit code of the rank on the terminal is told."""
    return run.attempt_logs(attempt) / "rank-on-terminal.exit"


def tell_end(run: RunDir, attempt: int, code: int) -> None:
    """Let the placeholder end."""
    replace_text(end_file(run, attempt), str(code))


def main(argv: list[str]) -> int:
    """Replace this process by the command, or wait for the rank on the terminal."""
    run, attempt, rank, command = RunDir(Path(argv[0])), int(argv[1]), int(argv[2]), argv[3:]
    if int(os.environ["SLURM_PROCID"]) != rank:
        os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell
    path = end_file(run, attempt)
    while not path.exists():
        time.sleep(_LOOK_SECONDS)
    return int(path.read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
