"""Array elements of one prepare make sure that all of them mean the same files."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import PurePath

from jobs.data.corpus.file_list import CorpusFileList
from jobs.rank.atomic_files import staging_path
from launcher.errors import LauncherError
from launcher.run.paths import RunDir

_NAMED = 3


def agree(files: CorpusFileList, group: RunDir) -> None:
    """Make sure that all runs of a group prepare the same files with the same settings: the first one decides.

    Raises:
        LauncherError: this run finds others, so it would make another corpus.
    """
    sizes = {str(path): path.stat().st_size for path, _ in files.sources}
    staging = staging_path(group.plan)
    content = {"fingerprint": files.fingerprint, "files": [[path, size] for path, size in sizes.items()]}
    staging.write_text(json.dumps(content) + "\n", encoding="utf-8")
    try:
        os.link(staging, group.plan)  # fails if it is there, and what appears is whole
    except FileExistsError:
        first = json.loads(group.plan.read_text(encoding="utf-8"))
        if first["fingerprint"] != files.fingerprint:
            raise LauncherError(_explain(group, dict(first["files"]), sizes)) from None
    finally:
        staging.unlink()


def changes(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """Describe how files differ from earlier ones, given the sizes of both by path.

    Files are known by their names, so they may have been copied elsewhere; those of one name by their folders, too.
    """
    parts = next(number for number in count(1) if _are_told_apart(before, number) and _are_told_apart(now, number))
    before, now = ({_end_of(path, parts): size for path, size in files.items()} for files in (before, now))
    found = {
        "new": sorted(now.keys() - before.keys()),
        "gone": sorted(before.keys() - now.keys()),
        "of another size": sorted(path for path in before.keys() & now.keys() if before[path] != now[path]),
    }
    return [f"{kind}: {_some(paths)}" for kind, paths in found.items() if paths]


def _are_told_apart(paths: Collection[str], parts: int) -> bool:
    return len({_end_of(path, parts) for path in paths}) == len(paths)


def _end_of(path: str, parts: int) -> str:
    return str(PurePath(*PurePath(path).parts[-parts:]))


def _explain(group: RunDir, before: dict[str, int], now: dict[str, int]) -> str:
    what = "; ".join(changes(before, now))
    same = "the files are the same, but the tokenizer or an evaluation set is another"
    kept = ", which keeps what was made of unchanged files" if what else ""
    return (
        f"sources: not what the first task of this group found ({what or same}); restore them and run "
        f"`launcher resume {group.root.name}`, or submit the recipe again{kept}"
    )


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(f"`{path}`" for path in paths[:_NAMED]) + more
