"""Recipes and a cluster profile in, the text of a batch script out. No clock, network or run directory."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import jinja2

from launcher.cluster import Cluster
from launcher.paths import SubmissionDir, expand
from launcher.recipe import Recipe
from launcher.recipe.sections import Resources
from launcher.recipe.units import Duration, Size

_TEMPLATES = Path(__file__).parent / "slurm_templates"
"""A link in a checkout, a folder of its own in an installed package."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Request:
    """Runs that one sbatch call can queue: they want the same of Slurm."""

    recipes: tuple[Recipe, ...]
    max_parallel: int | None = None
    """How many of them may run at once."""
    purpose: str = ""
    """What tells the job from others of the same recipes."""

    @property
    def job_name(self) -> str:
        """The recipe's name, or `first+2` for an array of different ones, without what Slurm cannot carry."""
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


def group(recipes: Sequence[Recipe], limit: int) -> list[list[int]]:
    """Sort recipes into as few sbatch calls as Slurm allows.

    Args:
        recipes: Recipes in the order they were given.
        limit: Most elements of one array.

    Returns:
        Positions in `recipes`: one list for each call.
    """
    alike: dict[tuple[object, ...], list[int]] = {}
    for position, recipe in enumerate(recipes):
        wants = recipe.resources
        asked = (wants.nodes, wants.gpus_per_node, wants.cpus_per_task, wants.memory, wants.time, recipe.data_use)
        alike.setdefault(asked, []).append(position)
    return [same[start : start + limit] for same in alike.values() for start in range(0, len(same), limit)]


def job_comment(submission: SubmissionDir) -> str:
    """Value of `--comment`, by which Slurm's queue can be searched for a submission."""
    return f"launcher {submission.root.name}"


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
    return _template().render(
        cluster=cluster,
        resources=first.resources,
        credentialed=first.data_use == "credentialed",
        job_name=request.job_name,
        array=request.array,
        submission=submission,
        comment=job_comment(submission),
        slurm_log=_slurm_log(submission, request.array),
        gpu_request=_gpu_request(first.resources, cluster),
        exports=_exports(cluster),
        code=code,
        python=python,
    )


def _slurm_log(submission: SubmissionDir, array: str | None) -> Path:
    # Slurm replaces %j and the like in the whole path, so a `%` of the folder is doubled.
    folder = SubmissionDir(Path(str(submission.root).replace("%", "%%")))
    return folder.slurm_log("%A_%a" if array else "%j")


def _gpu_request(resources: Resources, cluster: Cluster) -> str | None:
    if not resources.gpus_per_node:
        return None
    kind = [cluster.gpus.type] if cluster.gpus.type else []
    name = ["gpu"] if cluster.gpus.style == "gres" else []
    return ":".join([*name, *kind, str(resources.gpus_per_node)])


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
