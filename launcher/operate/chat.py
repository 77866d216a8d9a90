"""Starting the chat program: in an allocation of its own, in the one that this shell is in, or on this machine.

What the program is to do travels in the environment, which other users cannot read. Nothing is written but the snapshot
of the code.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

import launcher
from launcher.cluster import Cluster
from launcher.recipe.sections.chat import ChatRequest
from launcher.recipe.sections.common import Resources
from launcher.run.batch_process import CHAT_MODULE, CHAT_SITE, CHAT_VARIABLE, CONTAINED_CHAT_MODULE
from launcher.run.paths import SubmissionDir, expand, submissions_root
from launcher.site.suspect_nodes import Avoided, choose_avoided
from launcher.slurm.allocation import hold_allocation, inside_argv
from launcher.slurm.command import slurm_environment
from launcher.slurm.parse import Job
from launcher.submit.render import ScriptedJob, render_job
from launcher.submit.snapshot import read_code

_SCRIPT = "LAUNCHER_CHAT_SCRIPT"


@dataclass(frozen=True)
class ChatPlan:
    """What is to be started."""

    request: ChatRequest
    resources: Resources
    here: bool
    """On this machine, even if the profile is that of a cluster."""
    patience: float = 600
    """Seconds to wait for an allocation."""
    avoided: Avoided = field(default_factory=Avoided)
    """Nodes that the allocation is not to have."""


def choose_nodes(plan: ChatPlan, cluster: Cluster) -> ChatPlan:
    """Keep a new allocation away from nodes that gave trouble lately."""
    if plan.here or os.environ.get("SLURM_JOB_ID"):
        return plan
    return replace(plan, avoided=choose_avoided(cluster, plan.resources))


def chat(plan: ChatPlan, cluster: Cluster, on_start: Callable[[str], None], on_wait: Callable[[Job], None]) -> int:
    """Run the chat program until it ends; return its exit code. On this machine the process becomes that program.

    Args:
        plan: What to start.
        cluster: Where.
        on_start: Called with the job id once there is an allocation.
        on_wait: Called with the job while it waits.

    Raises:
        SlurmError: there is no allocation.
    """
    if plan.here or cluster.executor == "local":
        script = _script(plan, cluster.model_copy(update={"executor": "local"}), Path(launcher.__file__).parents[1])
        _become(_shell(cluster), _environment(plan, cluster, script))
    snapshot = read_code(expand(cluster.roots.runs))
    submissions_root(expand(cluster.roots.runs)).mkdir(parents=True, exist_ok=True)
    snapshot.publish()
    script = _script(plan, cluster, snapshot.folder)
    with _allocation(script, cluster, plan, on_wait) as job_id:
        on_start(job_id)
        argv = inside_argv(job_id, _shell(cluster), _has_terminal(), plan.resources.cpus_per_task)
        with _interrupts_for_the_program():
            return subprocess.run(argv, env=_environment(plan, cluster, script), check=False).returncode


def _script(plan: ChatPlan, cluster: Cluster, code: Path) -> str:
    """Write what prepares the environment, and whose `#SBATCH` lines ask for the node."""
    is_local = cluster.executor == "local"
    folder = SubmissionDir(Path.cwd() if is_local else submissions_root(expand(cluster.roots.runs)) / "chat")
    job = ScriptedJob("chat", plan.resources, plan.request.data_use == "credentialed", folder)
    python = sys.executable if plan.here else cluster.python or sys.executable
    module = CONTAINED_CHAT_MODULE if cluster.container and not plan.here else CHAT_MODULE
    return render_job(job, cluster, code, [python, "-u", "-m", module])


def _shell(cluster: Cluster) -> list[str]:
    """Write the command that carries out the script: words of a command line are no place for an environment."""
    return ["bash", *(["-l"] if cluster.modules else []), "-c", f'eval "${_SCRIPT}"']


@contextmanager
def _allocation(script: str, cluster: Cluster, plan: ChatPlan, on_wait: Callable[[Job], None]) -> Iterator[str]:
    inside = os.environ.get("SLURM_JOB_ID")
    if inside:
        yield inside
        return
    with hold_allocation(script, cluster, plan.patience, on_wait, plan.avoided.options) as job_id:
        yield job_id


def _environment(plan: ChatPlan, cluster: Cluster, script: str) -> dict[str, str]:
    request = plan.request
    read = [folder for one in request.subjects for folder in (one.base, *sum(one.adapters.values(), ()))]
    folders = sorted({str(Path(folder).resolve()) for folder in read if os.path.isabs(folder)})
    site = {"cluster": cluster.model_dump(mode="json"), "folders": folders, "has_terminal": _has_terminal()}
    return {
        **slurm_environment(cluster),
        _SCRIPT: script,
        CHAT_SITE: json.dumps(site),
        CHAT_VARIABLE: request.model_dump_json(),
        "OMP_NUM_THREADS": str(plan.resources.cpus_per_task),
        "PYTHONSAFEPATH": "1",  # a folder `jobs` in the working directory is not ours
    }


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _become(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Go on as another program, so that keys and signals reach it, and it ends when this one is ended."""
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - an argument list, no shell


@contextmanager
def _interrupts_for_the_program() -> Iterator[None]:
    """Let Ctrl-C end answers, and not this process, which would end the program."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def login_host(here: bool, cluster: Cluster) -> str | None:
    """Return the machine through which a node is reached; None if there is no other node."""
    return None if here or cluster.executor == "local" else socket.getfqdn()
