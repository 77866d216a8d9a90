"""`python -m jobs.batch.contained_chat`: start the chat program in the cluster's container; runs on the host.

It becomes the program, so that keys and signals reach it.
"""

import json
import os
import sys
from collections.abc import Mapping

from jobs.batch.srun import ContainerError, wrapped
from launcher.run.batch_process import CHAT_MODULE, CHAT_SITE, CHAT_VARIABLE
from launcher.run.slurm_text import without_overrides


def main() -> int:
    """Start the program in place of this one; return an exit code if that is not possible."""
    try:
        words = chat_argv(os.environ)
        os.execvpe(words[0], words, without_overrides(os.environ))  # noqa: S606 - an argument list, no shell
    except ContainerError as error:
        print(error, file=sys.stderr, flush=True)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr, flush=True)
    return 2


def chat_argv(environ: Mapping[str, str]) -> list[str]:
    """Write the command that runs the chat program in the container.

    Args:
        environ: Says what the site has (`launcher.run.batch_process.CHAT_SITE`).

    Raises:
        ContainerError: a folder cannot be mounted.
    """
    site = json.loads(environ[CHAT_SITE])
    cluster = site["cluster"]
    command = [cluster["container"]["python"], "-u", "-m", CHAT_MODULE]
    variables = [CHAT_VARIABLE, "OMP_NUM_THREADS", "PYTHONPATH", "PYTHONSAFEPATH", "TERM", *cluster["environment"]]
    words = wrapped(command, cluster, site["folders"], variables)
    if cluster["container"]["runtime"] == "apptainer":
        return words
    pty = ["--pty"] if site["has_terminal"] else []
    return ["srun", "--overlap", "--nodes=1", "--ntasks=1", *pty, *words]


if __name__ == "__main__":
    sys.exit(main())
