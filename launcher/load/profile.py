"""Finding and reading the cluster profile."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import launcher
from launcher.cluster import Cluster
from launcher.errors import Fault, FaultCode, LauncherError, RecipeError
from launcher.load.compose import Composer
from launcher.load.recipes import name_recipes
from launcher.load.translate import fault_at, validate
from launcher.load.yaml_tree import Origin, YamlNode
from launcher.run.paths import expand

_LOG = logging.getLogger(__name__)
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
        message = f"holds {len(documents)} documents; a cluster profile is a single one"
        composer.refuse(Origin(str(path), None), "structure", message)
    cluster = _check(composer, composer.lay_on_base(documents[0].root, path)[0], path) if documents else None
    if faults := name_recipes((path, fault) for fault in composer.all_faults(path)):
        raise RecipeError(faults)
    assert cluster is not None  # or there was a fault
    return cluster


def find_profile(name: str | None) -> Path:
    """Find the file of a cluster profile.

    Raises:
        LauncherError: There is none; the message names the places searched.
    """
    if name is None:
        places = [Path("cluster.yaml"), CONFIG.expanduser() / "cluster.yaml"]
        wanted = "no cluster profile"
    elif "/" in name or name.endswith((".yaml", ".yml")):
        places, wanted = [Path(name).expanduser()], f"no cluster profile `{name}`"
    else:
        places = [folder / f"{name}.yaml" for folder in profile_folders()]
        wanted = f"no cluster profile `{name}`"
    for place in places:
        if place.is_file():
            _LOG.info("cluster profile: %s", place)
            return place
    raise LauncherError(f"{wanted}: looked for {', '.join(map(str, places))}; {_HINT}, and name it with `--cluster`")


def profile_folders() -> tuple[Path, Path, Path]:
    """The folders with profiles that have a name: of a checkout, of the user, and those that are shipped."""
    shipped = Path(launcher.__file__).parent / "recipes" / "clusters"  # a link in a checkout
    return Path("recipes/clusters"), CONFIG.expanduser() / "clusters", shipped


def _check(composer: Composer, root: YamlNode, path: Path) -> Cluster | None:
    if not isinstance(root.value, dict):
        message = "a cluster profile is made of `key: value` lines; start with `name:`"
        composer.refuse(root.origin, "wrong-type", message)
        return None
    result = validate(Cluster, root)
    if isinstance(result, list):
        composer.faults += result
        return None
    if unset := [*_unset_variables(result, root)]:
        composer.faults += unset
        return None
    cluster = _with_absolute_paths(result, path.parent.absolute())
    if cluster.secrets_file and (wrong := _check_secrets(cluster.secrets_file)):
        composer.faults.append(fault_at(root, ("secrets_file",), *wrong))
    return cluster


def _unset_variables(cluster: Cluster, root: YamlNode) -> Iterator[Fault]:
    """Name the variables in folders that this shell does not set: such a folder would be taken for a relative one."""
    folders: list[tuple[tuple[str, ...], str]] = [(("roots", name), folder) for name, folder in cluster.roots]
    folders += [(("slurm", "conf"), cluster.slurm.conf or ""), (("secrets_file",), cluster.secrets_file or "")]
    for key, folder in folders:
        for name in re.findall(r"\$\{?(\w+)", folder):
            if name not in os.environ:
                message = f"${name} is not set in this shell; export it where you log in, or write the folder itself"
                yield fault_at(root, key, message, "not-found")


def _check_secrets(file: str) -> tuple[str, FaultCode] | None:
    path = expand(file)
    if not path.is_file():
        fix = f"make it with `install -m 600 /dev/null {file}`, or leave the key out"
        return f"there is no file `{file}`; {fix}", "not-found"
    mode = path.stat().st_mode & 0o777
    return (f"others may read `{file}` (mode {mode:04o}); run `chmod 600 {file}`", "secret") if mode & 0o077 else None


def _with_absolute_paths(cluster: Cluster, folder: Path) -> Cluster:
    """Fix relative paths to the profile's own folder: a run outlives the working directory of its submission."""

    def absolute(value: str | None) -> str | None:
        is_relative = value and not value.startswith(("/", "~", "$"))
        return os.path.normpath(folder / value) if value and is_relative else value

    roots = cluster.roots.model_copy(update={name: absolute(value) for name, value in cluster.roots})
    slurm = cluster.slurm.model_copy(update={"conf": absolute(cluster.slurm.conf)})
    return cluster.model_copy(update={"roots": roots, "slurm": slurm, "secrets_file": absolute(cluster.secrets_file)})
