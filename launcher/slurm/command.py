"""Running Slurm's commands: argv lists, the right slurm.conf, none of the calling shell's overrides."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from launcher.cluster import Cluster
from launcher.errors import SlurmError
from launcher.run.paths import expand
from launcher.run.slurm_text import outside_job

TIMEOUT_SECONDS = 15
"""A question that takes longer counts as not answered; slurmctld's own MessageTimeout is 10 s."""


def slurm_environment(cluster: Cluster, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Make the environment for a Slurm command.

    Args:
        cluster: Its `slurm.conf`, if it names one, becomes SLURM_CONF.
        environ: What to start from; this process's environment if left out.
    """
    conf = {"SLURM_CONF": str(expand(cluster.slurm.conf))} if cluster.slurm.conf else {}
    return outside_job(os.environ if environ is None else environ) | conf


def find_overrides(environ: Mapping[str, str]) -> list[str]:
    """Name the variables of an environment that `slurm_environment` leaves out."""
    return sorted(environ.keys() - outside_job(environ).keys())


def run_slurm(argv: Sequence[str], cluster: Cluster, timeout_seconds: float = 60) -> str:
    """Run a Slurm command and return what it printed on stdout.

    Raises:
        SlurmError: The command cannot be started, hangs, or fails; with what it printed on stderr.
    """
    return call_slurm(argv, cluster, timeout_seconds).stdout


def call_slurm(
    argv: Sequence[str], cluster: Cluster, timeout_seconds: float = 60, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command, with a text on stdin if it reads one.

    Raises:
        SlurmError: The command cannot be started, hangs, or fails; with what it printed on stderr.
    """
    try:
        done = subprocess.run(
            list(argv),
            env=slurm_environment(cluster),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            check=False,
        )
    except OSError as error:
        raise not_started(argv[0], error) from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"`{' '.join(argv)}` did not answer within {timeout_seconds:.0f} s") from None
    if done.returncode:
        raise SlurmError(f"`{' '.join(argv)}` failed ({done.returncode}): {done.stderr.strip() or done.stdout.strip()}")
    return done


def not_started(command: str, error: OSError) -> SlurmError:
    """Say why a command of Slurm could not be started."""
    if isinstance(error, FileNotFoundError):
        return SlurmError(f"`{command}` is not on PATH; run this where Slurm's commands are installed")
    return SlurmError(f"`{command}` cannot be started: {error.strerror or error}")


def complaint(error: SlurmError) -> str:
    """Say in one line why a command failed, without its name and its arguments."""
    return re.sub(r"^`.*?` (failed \(\d+\): )?", "", str(error).splitlines()[0])
