"""Writing and reading the files of a dev cluster's folder."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from launcher.devcluster import config
from launcher.devcluster.config import Settings
from launcher.devcluster.layout import SHORT_FOLDER, Layout
from launcher.errors import LauncherError

_UNREADABLE_IN_SLURM_CONF = re.compile(r"""[\s#"'%\x00-\x1f]""")
"""slurm.conf ends values at spaces, starts comments at `#`, and replaces `%n` and the like in paths."""
_ANOTHER_FOLDER = f"give another --dir, such as {SHORT_FOLDER}"


def read_settings(layout: Layout) -> Settings | None:
    """Return the settings of the cluster in this folder, or None when there is none.

    Raises:
        LauncherError: The folder cannot be entered, or its settings.json is not one that this version wrote.
    """
    try:
        return Settings.from_dict(json.loads(layout.settings.read_bytes()))
    except FileNotFoundError:
        return None
    except PermissionError:
        raise LauncherError(f"--dir: `{layout.folder}` is another user's; {_ANOTHER_FOLDER}") from None
    except (ValueError, KeyError, TypeError, IsADirectoryError):
        raise LauncherError(
            f"--dir: `{layout.settings}` is not from this version of `launcher devcluster`; {_ANOTHER_FOLDER}, or use "
            "the version that made it"
        ) from None


def write_files(settings: Settings, layout: Layout) -> None:
    """Make all folders and configuration files of a cluster; keep keys, states and logs that are there already."""
    _make_folders(settings, layout)
    if not layout.munge_key.exists():
        _write(layout.munge_key, os.urandom(128), mode=0o600)
    for number in range(settings.shape.gpus):
        # Slurm hands out CUDA_VISIBLE_DEVICES only for GPUs that are device files; a link to one is enough.
        _point(layout.devices / f"gpu{number}", Path(os.devnull))
    texts = {
        layout.slurm_conf: config.slurm_conf(settings, layout),
        layout.folder / "gres.conf": config.gres_conf(settings, layout),
        layout.folder / "cgroup.conf": config.cgroup_conf(settings),
        layout.profile: config.cluster_profile(settings, layout),
        layout.settings: json.dumps(asdict(settings), indent=2) + "\n",
    }
    for path, text in texts.items():
        _write(path, text.encode())
    _write(layout.task_prolog, config.task_prolog(layout).encode(), mode=0o755)
    # slurmdbd refuses a file that others may read.
    _write(layout.folder / "slurmdbd.conf", config.slurmdbd_conf(settings, layout).encode(), mode=0o600)


def check_folder(layout: Layout) -> None:
    """Refuse a folder that holds something else than a dev cluster of this user, or whose path Slurm cannot read.

    Raises:
        LauncherError: There are other files, or another user's, or the path holds a space, `#`, `"`, `%` or a control
            character.
    """
    unreadable = sorted(set(_UNREADABLE_IN_SLURM_CONF.findall(str(layout.folder))))
    if unreadable:
        raise LauncherError(
            f"--dir: `{layout.folder}` holds {', '.join(map(repr, unreadable))}, which paths in slurm.conf cannot hold;"
            f" give a folder without them, such as --dir {SHORT_FOLDER}"
        )
    _refuse_foreign(layout)
    if read_settings(layout) is not None or not layout.folder.exists():
        return
    if any(path.name != layout.lock.name for path in layout.folder.iterdir()):
        raise LauncherError(
            f"--dir: `{layout.folder}` holds other files; give an empty folder or one that does not exist yet"
        )


@contextlib.contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Keep two commands from starting or ending the same cluster at once.

    Raises:
        LauncherError: The folder is another user's.
    """
    _make_folder(layout)
    with open(layout.lock, "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_folder(layout: Layout) -> None:
    """Make the folder; an ordinary user's is closed to others, whose jobs would run as that user.

    Only a slurmd of root starts jobs as those who submitted them. Root's folder stays open for that.
    """
    if not os.geteuid():
        layout.folder.mkdir(parents=True, exist_ok=True)
        return
    layout.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_foreign(layout)  # somebody may have been quicker
    layout.folder.chmod(0o700)


def _refuse_foreign(layout: Layout) -> None:
    """Refuse what another user has put there: whoever knows the munge key can be anybody in the cluster."""
    for path in (layout.folder, layout.settings, layout.munge_key.parent, layout.munge_key):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid != os.geteuid():
                raise LauncherError(f"--dir: `{path}` is another user's; {_ANOTHER_FOLDER}")


def _make_folders(settings: Settings, layout: Layout) -> None:
    folders = [
        layout.munge_key.parent,
        layout.database_socket.parent,
        layout.logs,
        layout.processes,
        layout.node_environments,
    ]
    folders += [layout.state, layout.devices, *layout.user_folders]
    folders += [layout.spool / name for name in settings.node_names]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.replace(path)


def _point(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
