"""Listing runs, and finding the one that a user names."""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.run.home import expand_home
from launcher.run.paths import RunDir, expand
from launcher.run.record import RunRecord

FOLDER = re.compile(r"^(?P<slug>.+)-(?P<created>\d{8}-\d{6})-(?P<id>[0-9a-f]{6,})$")
"""`<slug of the recipe's name>-<time>-<id>`, as `launcher submit` names run directories."""
SHORTEST = 3
"""Characters of an id or a folder that are enough to name it, if no other one begins like that."""


def list_runs(cluster: Cluster) -> list[RunDir]:
    """List the runs below the profile's `roots.runs`, newest first; reads no file."""
    root = expand(cluster.roots.runs)
    if not root.is_dir():
        return []
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if FOLDER.match(entry.name) and entry.is_dir()]
    found = (RunDir(root / name) for name in sorted(names, key=_age, reverse=True))
    return [run for run in found if os.path.isfile(run.record)]  # pathlib raises where others may not look


def find_run(cluster: Cluster, text: str) -> RunDir:
    """Find the run that a user names.

    Args:
        cluster: Where to look.
        text: A path, a run directory's name or the start of it, a run id or the start of it (at least 3 characters),
            or a recipe's name, which means the newest run of that recipe. `abc123_4` is task 4 of run abc123.

    Raises:
        RunError: Nothing fits, or several runs do.
    """
    if not text.strip():  # every run begins like that
        raise RunError(f"`{text}`: is empty; write the id or the name of a run; `launcher status` lists the runs")
    if "/" in text or os.path.isfile(Path(text) / "run.json"):
        return _run_at(expand_home(text).absolute())
    runs = list_runs(cluster)
    if newest := _newest_named(runs, text):
        return newest
    matches = [run for run in runs if run_id(run).startswith(text)]
    matches = matches or [run for run in runs if run.root.name.startswith(text)]
    if len(matches) == 1 and len(text) < SHORTEST:
        raise RunError(f"`{text}`: is too short to name a run; write at least {SHORTEST} characters of its id")
    if len(matches) == 1:
        return matches[0]
    if not matches and (share := _share_named(runs, text)):
        return share
    raise RunError(_explain(text, matches, runs, expand(cluster.roots.runs)))


def run_id(run: RunDir) -> str:
    """The run's id, from the name of its folder."""
    return run.root.name.rsplit("-", 1)[-1]


def _age(folder: str) -> tuple[str, str]:
    match = FOLDER.match(folder)
    return (match["created"] if match else "", folder)


def _slug(run: RunDir) -> str:
    match = FOLDER.match(run.root.name)
    return match["slug"] if match else run.root.name


def _run_at(path: Path) -> RunDir:
    run = RunDir(path)
    if not os.path.isfile(run.record):
        raise RunError(f"`{path}`: not a run directory (no run.json); `launcher status` lists the runs")
    return run


def _newest_named(runs: Sequence[RunDir], text: str) -> RunDir | None:
    """A recipe's name may hold what a folder's name may not, so it is also looked up in run.json."""
    by_folder = next((run for run in runs if text in (run.root.name, _slug(run))), None)
    if by_folder or re.fullmatch(r"[A-Za-z0-9._-]+", text):
        return by_folder
    return next((run for run in runs if RunRecord.read(run.record).name == text), None)


def _share_named(runs: Sequence[RunDir], text: str) -> RunDir | None:
    match = re.fullmatch(r"(?P<id>[0-9a-f]{3,})_(?P<index>\d+)", text)
    shares = [run.share(int(match["index"])) for run in runs if run_id(run).startswith(match["id"])] if match else []
    found = [share for share in shares if share.record.is_file()]
    return found[0] if len(found) == 1 else None


def _explain(text: str, matches: Sequence[RunDir], runs: Sequence[RunDir], root: Path) -> str:
    if matches:
        some = ", ".join(f"`{run.root.name}`" for run in matches[:5])
        more = f" and {len(matches) - 5} more" if len(matches) > 5 else ""
        return f"`{text}`: {len(matches)} runs match: {some}{more}; write more of the id"
    known = [*{_slug(run) for run in runs}, *(run_id(run) for run in runs)]
    near = difflib.get_close_matches(text, known, n=1)
    hint = f"; did you mean `{near[0]}`?" if near else "; `launcher status` lists the runs"
    return f"`{text}`: no run below `{root}` has this id, folder or recipe name{hint}"
