"""Starting the ranks with srun: one per GPU, each a direct child of slurmstepd, so that signals reach it."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

from jobs.batch import slurm
from jobs.batch.launch import Launch, Outcome, RankEnd, deciding_outcome
from launcher.run.paths import expand
from launcher.run.slurm_text import without_overrides

WAIT_SECONDS = 600
"""How long ranks may run after the first one has left with code 0; covers the last upload of rank 0."""

# The submitting shell may itself have been in a step; variables that would change the shape of ours are removed. What
# the job sets for itself (SLURM_JOB_*, SLURM_MEM_*, SLURM_NNODES) stays; the rest is restated on the command line.
# torchrun's words for a rank's place would win over Slurm's own (`jobs.rank.ranks.ranks_from`).
_LEFTOVERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"} | {
    f"SLURM_{name}"
    for name in (
        *("GPUS_PER_TASK", "GPU_BIND", "CPU_BIND", "HINT", "NTASKS_PER_GPU", "TRES_PER_TASK", "EXCLUSIVE", "RELATIVE"),
        *("HOSTFILE", "PROLOG", "EPILOG", "TASK_PROLOG", "TASK_EPILOG", "INPUT", "ERROR", "LABELIO"),
    )
}

_RANK_END = re.compile(r"srun: error: (\S+): tasks? ([\d,\-]+): (.+)")


class ContainerError(ValueError):
    """The container's options cannot be written on a command line."""


def srun_argv(launch: Launch) -> list[str]:
    """Write the srun command.

    There is no `--gpu-bind`: without it each rank sees all GPUs that the job has on its node. With `none`
    Slurm 22.05 exports no CUDA_VISIBLE_DEVICES at all, and ranks would see other jobs' GPUs, too.
    """
    logs = launch.run.attempt_logs(launch.attempt).relative_to(launch.run.root)
    return [
        "srun",
        f"--nodes={launch.nodes}",
        f"--ntasks={launch.world_size}",
        f"--ntasks-per-node={launch.ranks_per_node}",
        # 22.05 to 23.02 do not pass it on from the job (https://slurm.schedmd.com/srun.html, --cpus-per-task).
        f"--cpus-per-task={launch.cpus_per_task}",
        "--distribution=block",
        "--mpi=none",
        "--export=ALL",
        "--kill-on-bad-exit=1",
        f"--wait={WAIT_SECONDS}",
        "--unbuffered",
        # Relative: `%` and backslashes of the run directory's name would mean something in a pattern.
        f"--chdir={launch.run.root}",
        f"--output={logs}/rank-%5t.log",
        "--open-mode=append",
        *contained(launch),
    ]


def contained(launch: Launch) -> list[str]:
    """Wrap the ranks' command into the cluster's container, if it has one."""
    return wrapped(launch.command, launch.cluster, [launch.recipe_folder], launch.exports)


def wrapped(
    command: list[str], cluster: Mapping[str, Any], folders: Iterable[str], variables: Iterable[str]
) -> list[str]:
    """Wrap a command into the cluster's container, if it has one.

    Args:
        command: Its words.
        cluster: The resolved profile.
        folders: That it needs besides the roots and the profile's mounts.
        variables: Names of those that pyxis is to hand on.

    Returns:
        Words for a shell; with pyxis, the last words of an srun command.

    Raises:
        ContainerError: a folder cannot be mounted.
    """
    container = cluster.get("container")
    if container is None:
        return command
    visible = _visible_folders(cluster, folders)
    if container["runtime"] == "pyxis":
        mounts = ",".join(f"{folder}:{folder}" for folder in visible)
        names = ",".join(sorted(variables))
        options = [f"--container-image={container['image']}", f"--container-mounts={mounts}"]
        return [*options, f"--container-env={names}", *command]
    binds = [f"--bind={folder}" for folder in visible]
    gpus = ["--nv"] if cluster["gpus"]["device"] == "cuda" else []
    return ["apptainer", "exec", *gpus, *binds, container["image"], *command]


def _visible_folders(cluster: Mapping[str, Any], further: Iterable[str]) -> list[str]:
    """Folders of the host that a program in a container needs: the roots, some more, the profile's mounts."""
    named = [*cluster["roots"].values(), *further, *cluster["container"]["mounts"]]
    folders = [str(expand(folder)) for folder in named if folder]
    for folder in folders:
        if re.search(r"[,:]", folder):
            raise ContainerError(f"{folder}: container mounts cannot hold `,` or `:`; rename the folder")
    return list(dict.fromkeys(folder for folder in folders if Path(folder).exists()))


def srun_environment(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """Make srun's environment: the job's, without leftovers that would change the step."""
    kept = {name: value for name, value in without_overrides(environ).items() if name not in _LEFTOVERS}
    return {**kept, **launch.exports, "SRUN_CPUS_PER_TASK": str(launch.cpus_per_task)}


class SrunRanks:
    """Ranks under one srun."""

    def __init__(self, launch: Launch, say: Callable[[str], None]) -> None:
        self._job_id = slurm.own_id(os.environ)
        self._say = say
        self._ends: list[RankEnd] = []
        self._last_line = ""
        self._srun = subprocess.Popen(
            srun_argv(launch),
            env=srun_environment(launch, os.environ),
            cwd=launch.run.root,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def poll(self) -> Outcome | None:
        """Tell how the ranks ended; None while srun runs."""
        code = self._srun.poll()
        if code is None:
            return None
        self._reader.join(timeout=10)
        return deciding_outcome(self._ends, Outcome(128 - code if code < 0 else code, self._last_line))

    def wait(self, seconds: float) -> None:
        """Wait until srun ends, which closes its stderr first, but no longer than this."""
        self._reader.join(timeout=seconds)
        if not self._reader.is_alive():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._srun.wait(timeout=seconds)

    def ask_to_stop(self) -> str:
        """Send USR2 to every rank of the job."""
        answer = slurm.signal_steps(self._job_id, "USR2")
        return "USR2 sent to all ranks" if answer.ok else f"USR2 was not sent: {answer.text}"

    def kill(self, at_once: bool = False) -> None:  # noqa: ARG002 - local ranks use it
        """End srun, which kills its ranks; Slurm ends what remains with the job."""
        self._srun.send_signal(signal.SIGTERM)

    def _read(self) -> None:
        assert self._srun.stderr is not None
        for line in self._srun.stderr:
            self._last_line = line.rstrip()
            self._say(self._last_line)
            end = parse_rank_end(line)
            if end is not None:
                self._ends.append(end)


def parse_rank_end(line: str) -> RankEnd | None:
    """Parse what srun says when ranks fail; None for its other lines.

    Every node's failures are one line: `srun: error: gpu01: tasks 0-1: Exited with exit code 1`.
    """
    match = _RANK_END.match(line)
    if match is None:
        return None
    return RankEnd(match[2], match[1], _code(match[3].strip()), match[3].strip())


def _code(said: str) -> int:
    """Exit code, as a shell counts, of `Exited with exit code 1`, `Killed`, `Segmentation fault (core dumped)`, ..."""
    exited = re.search(r"Exited with exit code (\d+)", said)
    if exited:
        return int(exited[1])
    for number in signal.valid_signals():
        name = signal.strsignal(number)
        if name and said.startswith(name):
            return 128 + number
    return 128 + signal.SIGKILL if said.startswith("Out Of Memory") else 1
