"""A shell or a command beside a rank of a running run: on its node, with its variables, in its container."""

import subprocess
import sys
from collections.abc import Sequence

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.running import find_running
from launcher.run.batch_process import ATTACHED_MODULE, BATCH_MODULE
from launcher.run.paths import RunDir
from launcher.slurm.allocation import inside_argv
from launcher.slurm.command import slurm_environment
from launcher.slurm.query import plain_id

_BATCH, _ATTACHED = f"-m {BATCH_MODULE} ", f"-m {ATTACHED_MODULE} "


def attach(run: RunDir, cluster: Cluster, rank: int, command: Sequence[str]) -> int:
    """Run something beside a rank, on this terminal; return its exit code.

    Args:
        run: The run.
        cluster: Where it is.
        rank: The rank.
        command: Its words; a shell if there are none.

    Raises:
        RunError: The run does not run, has no such rank, or was submitted by a launcher that could not do this.
    """
    running = find_running(run, cluster)
    node = running.node_of(rank)
    if not (run.code / f"{ATTACHED_MODULE.replace('.', '/')}.py").is_file():
        raise RunError(f"`{run.root.name}`: was submitted by an older launcher, whose runs cannot be attached to")
    words = ["--run", str(run.root), "--attempt", str(running.number), "--rank", str(rank), "--", *command]
    argv = attaching_argv(run.submission.read_text(encoding="utf-8"), words)
    if running.is_local:
        running.require_this_machine()
        return subprocess.run(argv, check=False).returncode
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = inside_argv(plain_id(running.job_id, cluster), argv, has_terminal, node=node)
    return subprocess.run(argv, env=slurm_environment(cluster), check=False).returncode


def attaching_argv(script: str, words: Sequence[str]) -> list[str]:
    """Make a batch script prepare its environment for something else than the batch process.

    Args:
        script: What sbatch got.
        words: Arguments of that.
    """
    first, _, _ = script.partition("\n")
    head, _, last = script.rstrip("\n").rpartition("\n")
    assert _BATCH in last  # the template's last line
    text = f'{head}\n{last.replace(_BATCH, _ATTACHED)} "$@"\n'
    login = ["-l"] if first.endswith(" -l") else []
    return ["bash", *login, "-c", text, "attach", *words]
