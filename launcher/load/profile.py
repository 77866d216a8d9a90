"""Finding and reading the cluster profile."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import launcher
from launcher.cluster import Cluster, Container
from launcher.errors import Fault, FaultCode, LauncherError, RecipeError
from launcher.load.compose import Composer
from launcher.load.recipes import name_recipes
from launcher.load.translate import fault_at, validate
from launcher.load.yaml_tree import Origin, YamlNode
from launcher.run.home import NoHomeError, expand_home
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
        NoHomeError: The file is below a home folder that there is not.
        RecipeError: The profile breaks the schema.
    """
    path = find_profile(os.environ.get("LAUNCHER_CLUSTER") or None if name is None else name)
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
    if name is not None and not name.strip():
        raise LauncherError("--cluster: is empty; write the name or the file of a profile, or leave it out")
    if name is None:
        places = [Path("cluster.yaml"), *(folder / "cluster.yaml" for folder in _own_folder())]
        wanted = "no cluster profile"
    elif "/" in name or name.endswith((".yaml", ".yml")):
        places, wanted = [expand_home(name)], f"no cluster profile `{name}`"
    else:
        places = [folder / f"{name}.yaml" for folder in profile_folders()]
        wanted = f"no cluster profile `{name}`"
    for place in places:
        if os.path.isfile(place):  # pathlib raises an error for a name that is too long
            _LOG.info("cluster profile: %s", place)
            return place
    raise LauncherError(f"{wanted}: looked for {', '.join(map(str, places))}; {_HINT}, and name it with `--cluster`")


def profile_folders() -> list[Path]:
    """The folders with profiles that have a name: of a checkout, of the user, and those that are shipped."""
    shipped = Path(launcher.__file__).parent / "recipes" / "clusters"  # a link in a checkout
    return [Path("recipes/clusters"), *(folder / "clusters" for folder in _own_folder()), shipped]


def _own_folder() -> Iterator[Path]:
    """Give the user's own folder of profiles, if the user has a home."""
    with contextlib.suppress(NoHomeError):
        yield expand_home(CONFIG)


def _check(composer: Composer, root: YamlNode, path: Path) -> Cluster | None:
    if not isinstance(root.value, dict):
        message = "a cluster profile is made of `key: value` lines; start with `name:`"
        composer.refuse(root.origin, "wrong-type", message)
        return None
    result = validate(Cluster, root)
    if isinstance(result, list):
        composer.faults += result
        return None
    if faults := [*_find_unexpandable(result, root)]:
        composer.faults += faults
        return None
    cluster = _with_absolute_paths(result, path.parent.absolute())
    if cluster.secrets_file and (wrong := _check_secrets(cluster.secrets_file)):
        composer.faults.append(fault_at(root, ("secrets_file",), *wrong))
    return cluster


def _find_unexpandable(cluster: Cluster, root: YamlNode) -> Iterator[Fault]:
    """Name the homes in paths that there are not, and the variables that this shell does not set.

    Such a path would be taken for a relative one.
    """
    paths: list[tuple[tuple[str | int, ...], str | None]] = [
        (("roots", name), folder) for name, folder in cluster.roots
    ]
    paths += [(("slurm", "conf"), cluster.slurm.conf), (("secrets_file",), cluster.secrets_file)]
    paths += [(("python",), cluster.python), *((("engines", name), its) for name, its in cluster.engines.items())]
    if container := cluster.container:
        paths += [(("container", "image"), container.image), (("container", "python"), container.python)]
        paths += [(("container", "mounts", position), folder) for position, folder in enumerate(container.mounts)]
    for key, path in paths:
        for name in re.findall(r"\$\{?(\w+)", path or ""):
            if name not in os.environ:
                message = f"${name} is not set in this shell; export it where you log in, or write the folder itself"
                yield fault_at(root, key, message, "not-found")
        try:
            expand(path or "")
        except NoHomeError as error:
            yield fault_at(root, key, str(error), "not-found")


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
    changes: dict[str, object] = {"roots": roots, "slurm": slurm, "secrets_file": absolute(cluster.secrets_file)}
    if cluster.python:
        changes["python"] = _program(cluster.python)
    if container := cluster.container:
        image, mounts = _image(container, folder), tuple(absolute(mount) or "" for mount in container.mounts)
        update = {"image": image, "mounts": mounts, "python": _program(container.python)}
        changes["container"] = container.model_copy(update=update)
    return cluster.model_copy(update=changes)


def _program(word: str) -> str:
    """Expand `~` and variables: a script quotes its words, so no shell does. `python3` is looked for on the PATH."""
    return str(expand(word)) if word[0] in "~$" else word


def _image(container: Container, folder: Path) -> str:
    """Write the whole path of an image that is a file; for pyxis a name without a path is one of a registry."""
    image = os.path.expandvars(container.image)
    is_file = image.startswith(("/", "~", ".")) or (container.runtime == "apptainer" and "://" not in image)
    return os.path.normpath(folder / expand_home(image)) if is_file else image
