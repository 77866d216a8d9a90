"""The best trial of a search, and the name that its result gets."""

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from launcher.monitor.trials import PastTrial
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from launcher.run.trials import SearchDir
from launcher.submit.search_record import SearchRecord


def find_best(record: SearchRecord, past: Sequence[PastTrial]) -> PastTrial | None:
    """Find the best of the trials that have finished; of equal ones the first."""
    finished = [one for one in past if one.state == "finished" and one.value is not None]
    sign = 1 if record.direction == "minimize" else -1
    return min(finished, key=lambda one: sign * (one.value or 0.0), default=None)


def publish_best(folder: SearchDir, record: SearchRecord, past: Sequence[PastTrial]) -> str | None:
    """Give what the best trial made the name that the recipe says, once nothing is left to try.

    Anybody may do it, at any time; a later call, after more trials, may find a better one.

    Returns:
        What was done; None if there was nothing to do.
    """
    name, best = record.recipe.get("output"), find_best(record, past)
    is_over = len(past) >= record.search.budget and not any(one.state == "open" for one in past)
    if not name or best is None or not is_over:
        return None
    run = RunDir(folder.runs_root / best.trial.run)
    link, target = RunRecord.read(run.record).locations.folder("model", name), run.outputs / "model"
    if os.path.lexists(link) and not _is_of_a_trial(link, past):
        return f"`{link}` exists already, and is not from this search; the best trial is `{best.trial.run}`"
    if os.path.realpath(link) == os.path.realpath(target) or not target.is_dir():
        return None
    link.parent.mkdir(parents=True, exist_ok=True)
    staging = link.with_name(f".{link.name}.{uuid.uuid4().hex}")
    staging.symlink_to(target)
    os.replace(staging, link)
    return f"`{name}` is what trial {best.trial.number} made, the best by {record.search.metric}"


def _is_of_a_trial(link: Path, past: Sequence[PastTrial]) -> bool:
    return link.is_symlink() and link.resolve().parents[1].name in {one.trial.run for one in past}
