"""Several runs make the parts of one corpus: which run makes which, and that all of them mean the same files."""

import heapq
import json
import os
from collections.abc import Sequence
from pathlib import Path

from jobs.data.plan import Plan
from jobs.runtime.durable import staging_path
from launcher.errors import LauncherError
from launcher.paths import RunDir

_NAMED = 3


def deal(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Deal files out so that all shares have about the same to read.

    The largest file goes first, each to the share that has least (Graham 1969,
    https://doi.org/10.1137/0117039): the largest share is at most 4/3 of what is possible. Every run works it
    out for itself, so it depends on nothing but the sizes.

    Args:
        sizes: Of all files.
        count: How many shares.

    Returns:
        Numbers of files, the largest first, for each share; none for some if there are fewer files.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, 0, index) for index in range(count)]
    for number in sorted(range(len(sizes)), key=lambda number: (-sizes[number], number)):
        load, files, index = loads[0]
        shares[index].append(number)
        heapq.heapreplace(loads, (load + sizes[number], files + 1, index))
    return shares


def agree(plan: Plan, group: RunDir) -> None:
    """Make sure that all runs of a group prepare the same files with the same settings: the first one decides.

    Raises:
        LauncherError: this run finds others, so that it would start the corpus anew.
    """
    ours = {"fingerprint": plan.fingerprint, "files": [[str(path), path.stat().st_size] for path, _ in plan.files]}
    staging = staging_path(group.plan)
    staging.write_text(json.dumps(ours) + "\n", encoding="utf-8")
    try:
        os.link(staging, group.plan)  # fails if it is there, and what appears is whole
    except FileExistsError:
        theirs = json.loads(group.plan.read_text(encoding="utf-8"))
        if theirs["fingerprint"] != plan.fingerprint:
            raise LauncherError(_explain(group, dict(theirs["files"]), dict(ours["files"]))) from None
    finally:
        staging.unlink()


def changes(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Say how files differ from those that were there before, by their names and sizes."""
    found = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "of another size": sorted(path for path in before.keys() & now.keys() if before[path] != now[path]),
    }
    return [f"{kind}: {_some(paths)}" for kind, paths in found.items() if paths]


def _explain(group: RunDir, before: dict[str, int], now: dict[str, int]) -> str:
    what = "; ".join(changes(before, now))
    same = "files are the same, the tokenizer or an evaluation set is not"
    again = "submit the recipe again: what was made of other files is kept" if what else "submit the recipe again"
    return (
        f"sources: not what the first task of this group found ({what or same}); "
        f"put things back and `launcher resume {group.root.name}`, or {again}"
    )


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(f"`{Path(path).name}`" for path in paths[:_NAMED]) + more
