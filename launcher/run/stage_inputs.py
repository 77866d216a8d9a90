"""Whether the stages that a run waits for have finished, and whether what they made is there. Standard library only.

Slurm forgets jobs some minutes after their end, and starts what waits for a job that it has forgotten
(https://slurm.schedmd.com/sbatch.html, `afterok`; `MinJobAge`). So each stage looks for itself when it starts.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from launcher.run.contents import look_at
from launcher.run.identity import RunIdentity
from launcher.run.ledger import has_finished, read_attempts
from launcher.run.locations import Locations
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord


def missing_inputs(record: RunRecord) -> list[str]:
    """Say which stages before a run have not finished, or lost what they made; nothing for a run on its own."""
    if record.pipeline is None:
        return []
    folder = PipelineDir(Path(record.pipeline))
    try:
        return [*_find_missing(folder, record.stage)]
    except (OSError, ValueError, LookupError) as error:
        return [f"{folder.root}: cannot be read ({error}); submit the pipeline again"]


def _find_missing(folder: PipelineDir, stage: str | None) -> Iterator[str]:
    stages = {one["name"]: one for one in json.loads(folder.record.read_text(encoding="utf-8"))["stages"]}
    for name in stages[stage]["awaits"]:
        if stages[name].get("select") and not os.path.lexists(folder.stage(name)):
            what = "trial" if stages[name].get("search") else "point"
            yield f"no {what} of stage `{name}` is selected yet; `launcher status {folder.root.name}` shows why"
            continue
        run = RunDir(folder.root.parent / Path(os.readlink(folder.stage(name))).name)
        if not has_finished(read_attempts(run.ledger)):
            yield f"stage `{name}` has not finished; `launcher resume {folder.root.name}` takes it up"
        elif stages[name]["makes"] and not _is_there(folder, run, *stages[name]["makes"]):
            yield f"what stage `{name}` made is not there any more; submit the pipeline again"


def _is_there(folder: PipelineDir, run: RunDir, artifact: str, name: str) -> bool:
    """Tell whether a name among the artifacts leads to what a run made, complete and unchanged."""
    place = Locations({}, "", folder.artifacts).folder(artifact, name)
    noted = RunIdentity.read(run.identity)
    if noted is None or noted.makes is None or noted.makes.content is None:
        return look_at(artifact, place) is not None
    return noted.makes.is_there() and os.path.realpath(place) == os.path.realpath(noted.makes.path)
