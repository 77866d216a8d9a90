"""`python -m jobs.batch.rank_log RUN_DIR ATTEMPT COMMAND...`: become a rank whose output goes to its rank's log.

For `srun --pty`, which gives rank 0 the terminal and drops what the others print.
"""

import os
import sys
from pathlib import Path

from launcher.run.paths import RunDir


def main(argv: list[str]) -> None:
    """Redirect every rank but 0, then replace this process, so that signals reach the command itself."""
    run, attempt, command = RunDir(Path(argv[0])), int(argv[1]), argv[2:]
    rank = int(os.environ["SLURM_PROCID"])
    if rank:
        # O_SYNC: a person watches, so lines must not sit in the cache of this node's file system client.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_SYNC
        log = os.open(run.rank_log(attempt, rank), flags, 0o644)
        os.dup2(log, sys.stdout.fileno())
        os.dup2(log, sys.stderr.fileno())
    os.execvp(command[0], command)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
