"""Starting the tasks with srun: one task per GPU, each a direct child of slurmstepd, so that signals reach it.

Standard library only.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from jobs.runtime import slurm
from jobs.runtime.tasks import Launch, Outcome, TaskEnd, decide
from launcher.paths import expand

WAIT_SECONDS = 600
"""How long tasks may run after the first one has left with code 0; covers the last upload of rank 0."""

# The submitting shell may itself have been a task: what would change the shape of our step must go. What the
# job sets for itself (SLURM_JOB_*, SLURM_MEM_*, SLURM_NNODES) stays; the rest is restated on the command line.
# torchrun's words for a task's place would win over Slurm's own (`jobs.runtime.rendezvous.ranks_from`).
_LEFTOVERS = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK"} | {
    f"SLURM_{name}"
    for name in (
        *("GPUS_PER_TASK", "GPU_BIND", "CPU_BIND", "HINT", "NTASKS_PER_GPU", "TRES_PER_TASK", "EXCLUSIVE", "RELATIVE"),
        *("HOSTFILE", "PROLOG", "EPILOG", "TASK_PROLOG", "TASK_EPILOG", "INPUT", "ERROR", "LABELIO"),
    )
}

_TASK_END = re.compile(r"srun: error: (\S+): tasks? ([\d,\-]+): (.+)")
_EXIT_CODE = re.compile(r"Exited with exit code (\d+)")


class ContainerError(ValueError):
    """The container's options cannot be said on a command line."""


def srun_argv(launch: Launch) -> list[str]:
    """Write the srun command.

    There is no `--gpu-bind`: without it each task sees all GPUs that the job has on its node. With `none`
    Slurm 22.05 exports no CUDA_VISIBLE_DEVICES at all, and tasks would see other jobs' GPUs, too.
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
    """Wrap the tasks' command into the cluster's container, if it has one."""
    container = launch.cluster.get("container")
    if container is None:
        return launch.command
    folders = _visible_folders(launch)
    if container["runtime"] == "pyxis":
        mounts = ",".join(f"{folder}:{folder}" for folder in folders)
        names = ",".join(sorted(launch.exports))
        options = [f"--container-image={container['image']}", f"--container-mounts={mounts}"]
        return [*options, f"--container-env={names}", *launch.command]
    binds = [f"--bind={folder}" for folder in folders]
    gpus = ["--nv"] if launch.cluster["gpus"]["device"] == "cuda" else []
    return ["apptainer", "exec", *gpus, *binds, container["image"], *launch.command]


def _visible_folders(launch: Launch) -> list[str]:
    """Folders of the host that tasks in a container need: the roots, the recipe's own folder, further mounts."""
    named = [*launch.cluster["roots"].values(), launch.recipe_folder, *launch.cluster["container"]["mounts"]]
    folders = [str(expand(folder)) for folder in named if folder]
    for folder in folders:
        if re.search(r"[,:]", folder):
            raise ContainerError(f"{folder}: container mounts cannot hold `,` or `:`; rename the folder")
    return list(dict.fromkeys(folder for folder in folders if Path(folder).exists()))


def srun_environment(launch: Launch, environ: Mapping[str, str]) -> dict[str, str]:
    """Make srun's environment: the job's, without leftovers that would change the step."""
    kept = {name: value for name, value in slurm.without_overrides(environ).items() if name not in _LEFTOVERS}
    return {**kept, **launch.exports, "SRUN_CPUS_PER_TASK": str(launch.cpus_per_task)}


class SrunTasks:
    """Tasks under one srun."""

    def __init__(self, launch: Launch, say: Callable[[str], None]) -> None:
        self._job_id = slurm.own_id(os.environ)
        self._say = say
        self._ends: list[TaskEnd] = []
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
        """Tell how the tasks ended; None while srun runs."""
        code = self._srun.poll()
        if code is None:
            return None
        self._reader.join(timeout=10)
        return decide(self._ends, Outcome(128 - code if code < 0 else code, self._last_line))

    def ask_to_stop(self) -> str:
        """Send USR2 to every task of the job."""
        answer = slurm.signal_steps(self._job_id, "USR2")
        return "USR2 sent to all tasks" if answer.ok else f"USR2 was not sent: {answer.text}"

    def kill(self, at_once: bool = False) -> None:  # noqa: ARG002
        """End srun, which kills its tasks; Slurm ends what remains with the job."""
        self._srun.send_signal(signal.SIGTERM)

    def _read(self) -> None:
        assert self._srun.stderr is not None
        for line in self._srun.stderr:
            self._last_line = line.rstrip()
            self._say(self._last_line)
            end = parse_task_end(line)
            if end is not None:
                self._ends.append(end)


def parse_task_end(line: str) -> TaskEnd | None:
    """Parse what srun says when tasks fail; None for its other lines.

    Every node's failures are one line: `srun: error: gpu01: tasks 0-1: Exited with exit code 1`.
    """
    match = _TASK_END.match(line)
    if match is None:
        return None
    node, tasks, said = match[1], match[2], match[3].strip()
    code = _EXIT_CODE.search(said)
    return TaskEnd(tasks, node, int(code[1]) if code else _signal_code(said), said)


def _signal_code(said: str) -> int:
    """Exit code, as a shell counts, of `Killed`, `Terminated`, `Segmentation fault (core dumped)`, ..."""
    names = {signal.strsignal(number): number for number in signal.valid_signals()}
    for name, number in names.items():
        if name and said.startswith(name):
            return 128 + int(number)
    return 128 + signal.SIGKILL if said.startswith("Out Of Memory") else 1
