"""Finding and reading the cluster profile."""

import os
from pathlib import Path

import launcher
from launcher.cluster import Cluster
from launcher.errors import Fault, LauncherError
from launcher.load.compose import Composer
from launcher.load.faults import fault_at, validate
from launcher.load.nodes import Node
from launcher.load.recipes import raise_faults
from launcher.paths import expand

CONFIG = Path("~/.config/launcher")
_HINT = "write one with `launcher init`, or start a Slurm on this machine with `launcher devcluster up`"


def load_cluster(name: str | None) -> Cluster:
    """Find, read and check a cluster profile.

    Args:
        name: A file, or the name of a profile; None: $LAUNCHER_CLUSTER, else `cluster.yaml` here, else in
            ~/.config/launcher.

    Raises:
        LauncherError: There is no such profile.
        RecipeError: The profile breaks the schema.
    """
    path = find_profile(name or os.environ.get("LAUNCHER_CLUSTER") or None)
    composer = Composer()
    documents = composer.read(path)
    if len(documents) > 1:
        composer.faults.append(Fault(str(path), None, "", f"holds {len(documents)} documents; a profile is one"))
    cluster = _check(composer, composer.lay_on_base(documents[0].root, path), path) if documents else None
    raise_faults(composer, str(path))
    assert cluster is not None  # or there was a fault
    return cluster


def find_profile(name: str | None) -> Path:
    """Find the file of a cluster profile.

    Raises:
        LauncherError: There is none; with the places that were looked at.
    """
    if name is None:
        places = [Path("cluster.yaml"), CONFIG.expanduser() / "cluster.yaml"]
        wanted = "no cluster profile"
    elif "/" in name or name.endswith((".yaml", ".yml")):
        places, wanted = [Path(name).expanduser()], f"no cluster profile `{name}`"
    else:
        shipped = Path(launcher.__file__).parent / "profiles"  # a link to recipes/clusters in a checkout
        folders = (Path("recipes/clusters"), CONFIG.expanduser() / "clusters", shipped)
        places, wanted = [folder / f"{name}.yaml" for folder in folders], f"no cluster profile `{name}`"
    for place in places:
        if place.is_file():
            return place
    raise LauncherError(f"{wanted}: looked for {', '.join(map(str, places))}; {_HINT}, and name it with `--cluster`")


def _check(composer: Composer, root: Node, path: Path) -> Cluster | None:
    if not isinstance(root.value, dict):
        message = "a cluster profile is made of `key: value` lines; start with `name:`"
        composer.faults.append(Fault(root.origin.file, root.origin.line, "", message))
        return None
    result = validate(Cluster, root)
    if isinstance(result, list):
        composer.faults += result
        return None
    cluster = _with_absolute_paths(result, path.parent.absolute())
    if cluster.secrets_file and (complaint := _complaint_about_secrets(cluster.secrets_file)):
        composer.faults.append(fault_at(root, ("secrets_file",), complaint))
    return cluster


def _complaint_about_secrets(file: str) -> str | None:
    path = expand(file)
    if not path.is_file():
        return f"there is no file `{file}`; make it with `install -m 600 /dev/null {file}`, or leave the key out"
    mode = path.stat().st_mode & 0o777
    return f"others may read `{file}` (mode {mode:04o}); run `chmod 600 {file}`" if mode & 0o077 else None


def _with_absolute_paths(cluster: Cluster, folder: Path) -> Cluster:
    """Fix relative paths to the profile's own folder: a run outlives the working directory of its submission."""

    def absolute(value: str | None) -> str | None:
        is_relative = value and not value.startswith(("/", "~", "$"))
        return os.path.normpath(folder / value) if value and is_relative else value

    roots = cluster.roots.model_copy(update={name: absolute(value) for name, value in cluster.roots})
    slurm = cluster.slurm.model_copy(update={"conf": absolute(cluster.slurm.conf)})
    return cluster.model_copy(update={"roots": roots, "slurm": slurm, "secrets_file": absolute(cluster.secrets_file)})
