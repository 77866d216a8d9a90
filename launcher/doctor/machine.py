"""What the nodes will find besides Slurm: folders, Python, W&B, and what travels in the shell's environment."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import Cluster
from launcher.doctor.finding import Finding, note, ok, problem
from launcher.errors import how_to_install
from launcher.plan.wandb_login import netrc_with, wandb_host
from launcher.run.paths import expand
from launcher.slurm.command import find_overrides

LOW_BYTES = 100 * 10**9
"""One checkpoint of 7 B parameters: 12 bytes each for fp32 weights and Adam's two moments."""
LOW_INODES = 10_000

# A disk of one machine, or its memory; everything else (nfs, lustre, gpfs, beegfs, ...) is shared by several.
LOCAL_FILESYSTEMS = frozenset({"ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "ramfs", "overlay", "f2fs"})

TRAVELLERS = ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "WANDB_MODE", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")
TRAVELLING_PREFIXES = ("NCCL_", "TORCH_")
"""What a shell may hold that changes training; jobs get the whole environment (`--export=ALL`)."""

NEEDED = ("torch", "transformers", "accelerate", "pydantic")
PYTHON_TIMEOUT_SECONDS = 30

_LOOK = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps([sys.version_info[:2], [n for n in sys.argv[1:] if u.find_spec(n) is None]]))"
)


@dataclass(frozen=True)
class Folder:
    """A folder of the profile as this machine sees it."""

    path: Path
    exists: bool
    is_writable: bool
    """The folder, or where it is missing the nearest one above it."""
    free_bytes: int
    free_inodes: int | None
    """None: the file system does not count them."""
    filesystem: str


def look_at(path: Path, mounts: str) -> Folder:
    """Look at a folder, or at the nearest one above it.

    Args:
        path: The folder.
        mounts: Linux's /proc/self/mounts.
    """
    # os.path: pathlib raises where a folder above may not be entered
    there = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    room = os.statvfs(there)
    return Folder(
        path=path,
        exists=os.path.isdir(path),
        is_writable=there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        free_bytes=room.f_bavail * room.f_frsize,
        free_inodes=room.f_favail if room.f_files else None,
        filesystem=filesystem_of(there.resolve(), mounts),
    )


def filesystem_of(path: Path, mounts: str) -> str:
    """Find the type of the file system that holds a path."""
    rows = [line.split(" ") for line in mounts.split("\n")]
    points = {Path(row[1].replace("\\040", " ")): row[2] for row in rows if len(row) > 2}  # the last mount covers
    return next((points[folder] for folder in (path, *path.parents) if folder in points), "unknown")


def folder_findings(runs: Folder, nodes_are_elsewhere: bool) -> Iterator[Finding]:
    """Say whether runs can be kept in a folder, and whether a STOP file there reaches them. Pure.

    Args:
        runs: The profile's `roots.runs`.
        nodes_are_elsewhere: The nodes are other machines than this one.
    """
    if not runs.is_writable:
        yield problem("runs", f"`{runs.path}` cannot be written", "write another `roots.runs` in the profile")
        return
    if nodes_are_elsewhere and runs.filesystem in LOCAL_FILESYSTEMS:
        what = f"`{runs.path}` is on a disk of this machine ({runs.filesystem}), which the nodes may not see"
        yield note("STOP file", what, "unless they do, write a shared `roots.runs`: checkpoints and logs go there, too")
    else:
        yield ok("STOP file", "rank 0 looks for RUN/STOP at every step: `launcher stop`, or a colleague's `touch`")
    yield _room_finding(runs)


def _room_finding(runs: Folder) -> Finding:
    files = "" if runs.free_inodes is None else f", room for {runs.free_inodes:,} files"
    made = "" if runs.exists else ", made by the first submit"
    what = f"`{runs.path}`{made}: {runs.free_bytes / 1e9:,.0f} GB free{files} ({runs.filesystem})"
    if runs.free_inodes is not None and runs.free_inodes < LOW_INODES:
        return note("runs", what, "make room: a run keeps a log for each rank and some dozen files a checkpoint")
    if runs.free_bytes < LOW_BYTES:
        return note("runs", what, "a checkpoint of 7 B parameters takes 84 GB: make room, or lower `checkpoint.keep`")
    return ok("runs", f"{what}; a quota may leave you less")


def other_folder_findings(cluster: Cluster) -> Iterator[Finding]:
    """Name the folders besides `runs` that are not there."""
    roots = {"data": cluster.roots.data, "corpora": cluster.roots.corpora, "models": cluster.roots.models}
    missing = [f"`{name}` ({folder})" for name, folder in roots.items() if not os.path.isdir(expand(folder))]
    if missing:
        fix = "make them where recipes need them, or correct `roots` in the profile"
        yield note("folders", f"not there: {', '.join(missing)}", fix)


def python_findings(cluster: Cluster) -> Iterator[Finding]:
    """Say whether the nodes' Python can train, as far as this machine can tell."""
    python = cluster.python or sys.executable
    try:
        done = subprocess.run(
            [python, "-c", _LOOK, *NEEDED], capture_output=True, text=True, timeout=PYTHON_TIMEOUT_SECONDS, check=True
        )
        version, missing = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        fix = "check `python` in the profile; on a node: `srun PYTHON -V`"
        yield note("python", f"`{python}` does not run on this machine; the nodes may have it", fix)
        return
    yield python_finding(python, (version[0], version[1]), missing, cluster)


def python_finding(python: str, version: tuple[int, int], missing: list[str], cluster: Cluster) -> Finding:
    """Judge an interpreter by its version and the packages it lacks. Pure."""
    what = f"{version[0]}.{version[1]}, `{python}`"
    if version < (3, 11):
        return problem("python", f"{what} is too old", "write `python` in the profile: 3.11 or later")
    if cluster.container:
        return ok("python", f"{what} for the batch process; tasks use `{cluster.container.python}` of the image")
    if missing and cluster.modules:
        return note("python", f"{what} lacks {', '.join(missing)}", "fine if the profile's `modules` provide them")
    if missing:
        fix = f"install them there with {how_to_install('train')}; or write another `python` in the profile"
        return problem("python", f"{what} lacks {', '.join(missing)}", fix)
    return ok("python", what)


def environment_findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Name the variables of the shell that would change jobs, or will. Pure."""
    overrides = find_overrides(environ)
    if overrides:
        what = "`launcher` leaves out what would change jobs; `sbatch` typed by hand obeys it"
        yield note("environment", f"{what}: {_some(overrides)}")
    else:
        yield ok("environment", "no SBATCH_*, SLURM_*, SRUN_* variables that would change jobs")
    along = sorted(name for name in environ if name in TRAVELLERS or name.startswith(TRAVELLING_PREFIXES))
    if along:
        yield note("exported", f"goes into every job: {_some(along)}", "unset what jobs should not get")


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def wandb_findings(cluster: Cluster, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Say where W&B's key is found; never what it is."""
    host = wandb_host(cluster, environ)
    if environ.get("WANDB_API_KEY"):
        yield ok("W&B", f"WANDB_API_KEY is in this environment ({host})")
    elif cluster.secrets_file and "WANDB_API_KEY" in _names_in(expand(cluster.secrets_file)):
        yield ok("W&B", f"WANDB_API_KEY is in `{cluster.secrets_file}`; recipes list it under `secrets` ({host})")
    elif (path := netrc_with(host, environ)) is not None:
        yield ok("W&B", f"`{path}` knows {host}")
    else:
        yield note(
            "W&B",
            f"no key for {host} here: `tracking.mode: online` would track nothing; metrics.jsonl is always written",
            "`wandb login`, or `tracking: {mode: offline}` in the recipe and `launcher sync` later",
        )


def _names_in(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").split("\n")
    return {line.partition("=")[0].strip().removeprefix("export ").strip() for line in lines if "=" in line}
