"""Recipes and a cluster profile in, the text of a batch script out. No clock, network or run directory."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2

from launcher.cluster import Cluster
from launcher.recipe import Recipe
from launcher.recipe.quantities import Duration, Size
from launcher.recipe.sections.common import Resources
from launcher.run.batch_process import BATCH_MODULE
from launcher.run.paths import SubmissionDir, expand
from launcher.run.slurm_text import log_folder
from launcher.slurm.queue import job_comment

_TEMPLATES = Path(__file__).parents[1] / "slurm_templates"
"""A link in a checkout, a folder of its own in an installed package."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Request:
    """Runs that one sbatch call can queue: they want the same of Slurm."""

    recipes: tuple[Recipe, ...]
    max_parallel: int | None = None
    """How many of them may run at once."""
    purpose: str = ""
    """Appended to the job's name, where several jobs carry out one recipe."""
    sweep: str | None = None
    """The sweep that they are points of."""

    @property
    def job_name(self) -> str:
        """The recipe's name, or `first+2` for an array of different ones, without what Slurm cannot carry."""
        if self.sweep:
            return _CONTROL.sub("-", self.sweep)
        first = self.recipes[0].name
        others = "" if all(recipe.name == first for recipe in self.recipes) else f"+{len(self.recipes) - 1}"
        return "-".join(filter(None, [_CONTROL.sub("-", first) + others, self.purpose]))

    @property
    def array(self) -> str | None:
        """Value of `--array`; None for a single run."""
        if len(self.recipes) == 1:
            return None
        limit = f"%{self.max_parallel}" if self.max_parallel else ""
        return f"0-{len(self.recipes) - 1}{limit}"


def slug(name: str) -> str:
    """Turn a recipe's name into a part of a folder's name; nothing is left of one without ASCII letters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")


def group(recipes: Sequence[Recipe], limit: int, apart: Sequence[object] = ()) -> list[list[int]]:
    """Sort recipes into as few sbatch calls as Slurm allows.

    Args:
        recipes: Recipes in the order they were given.
        limit: Most elements of one array.
        apart: Something for each recipe; those with different ones are never together.

    Returns:
        Positions in `recipes`: one list for each call.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for position, recipe in enumerate(recipes):
        wants = recipe.resources
        asked = (wants.nodes, wants.gpus_per_node, wants.cpus_per_task, wants.memory, wants.time, recipe.data_use)
        alike.setdefault((asked, apart[position] if apart else None), []).append(position)
    return [same[start : start + limit] for same in alike.values() for start in range(0, len(same), limit)]


def render(request: Request, cluster: Cluster, submission: SubmissionDir, code: Path, python: str) -> str:
    """Render the batch script.

    Args:
        request: The runs.
        cluster: Where they go.
        submission: Where the script, its manifest and Slurm's own output will lie.
        code: The code snapshot that the nodes execute.
        python: Interpreter on the nodes.

    Returns:
        The script, byte for byte what sbatch gets.
    """
    first = request.recipes[0]
    local = ["--local"] if cluster.executor == "local" else []
    command = [python, "-u", "-m", BATCH_MODULE, str(submission.root), *local]
    job = ScriptedJob(request.job_name, first.resources, first.data_use == "credentialed", submission, request.array)
    return render_job(job, cluster, code, command)


@dataclass(frozen=True)
class ScriptedJob:
    """What a script says besides the site and the command."""

    name: str
    resources: Resources
    is_credentialed: bool
    """Whether nobody else may read what it writes."""
    folder: SubmissionDir
    """Where it starts and where Slurm's own output goes."""
    array: str | None = None
    """Value of `--array`."""


def render_job(job: ScriptedJob, cluster: Cluster, code: Path, command: Sequence[str]) -> str:
    """Render a script that prepares the environment of the site and executes a command.

    Args:
        job: What it wants of Slurm.
        cluster: Where it goes.
        code: The code snapshot.
        command: The words of the command.
    """
    return _template().render(
        cluster=cluster,
        resources=job.resources,
        credentialed=job.is_credentialed,
        job_name=job.name,
        array=job.array,
        submission=job.folder,
        comment=job_comment(job.folder),
        slurm_log=_slurm_log(job.folder, job.array),
        gpu_request=_gpu_request(job.resources, cluster),
        options=_options(job.resources, cluster),
        exports=_exports(cluster),
        code=code,
        command=command,
    )


def _slurm_log(submission: SubmissionDir, array: str | None) -> Path:
    return SubmissionDir(log_folder(submission.root)).slurm_log("%A_%a" if array else "%j")


def _gpu_request(resources: Resources, cluster: Cluster) -> str | None:
    if not resources.gpus_per_node:
        return None
    kind = [cluster.gpus.type] if cluster.gpus.type else []
    if cluster.gpus.style == "gpus-per-node":
        return ":".join([*kind, str(resources.gpus_per_node)])
    others = [str(cluster.slurm.options["gres"])] if "gres" in cluster.slurm.options else []
    return ",".join([":".join(["gpu", *kind, str(resources.gpus_per_node)]), *others])


def _options(resources: Resources, cluster: Cluster) -> list[str]:
    """Write the profile's own options as `name=value`, or `name` alone."""
    said = dict(cluster.slurm.options)
    if resources.memory:  # sbatch takes only one of these and --mem
        said = {name: value for name, value in said.items() if name not in ("mem-per-cpu", "mem-per-gpu")}
    if resources.gpus_per_node and cluster.gpus.style == "gres":  # of several --gres sbatch takes the last
        said.pop("gres", None)
    return [name if value is True else f"{name}={_directive(value)}" for name, value in said.items()]


def _exports(cluster: Cluster) -> dict[str, str]:
    exports = dict(cluster.environment)
    if cluster.slurm.conf:
        exports["SLURM_CONF"] = str(expand(cluster.slurm.conf))
    if cluster.network_interface:
        exports |= dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), cluster.network_interface)
    return exports


def _directive(value: object) -> str:
    """Quote a value for an `#SBATCH` line.

    sbatch reads the quotes of a shell there, but takes a backslash as an escape inside single quotes too
    (`_get_argument` in https://github.com/SchedMD/slurm/blob/master/src/sbatch/opt.c).
    """
    return shlex.quote(_CONTROL.sub(" ", str(value))).replace("\\", "\\\\")


def _mebibytes(size: Size) -> int:
    return -(-size.bytes // 2**20)


def _slurm_time(duration: Duration) -> str:
    minutes, seconds = divmod(duration.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:{seconds:02d}"


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(  # noqa: S701 - the output is a shell script, each value is quoted
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "quote": lambda value: shlex.quote(str(value)),
        "directive": _directive,
        "mebibytes": _mebibytes,
        "slurm_time": _slurm_time,
    }
    return environment.get_template("batch.sh.j2")
