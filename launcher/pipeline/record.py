"""pipeline.json and the links of a pipeline's folder: its stages, and the runs that carry them out."""

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from launcher.cluster import Cluster
from launcher.recipe import read_recipe
from launcher.run.files import replace_text
from launcher.run.locations import Locations
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord


@dataclass(frozen=True)
class StageRecord:
    """One stage."""

    name: str
    awaits: tuple[str, ...]
    """Stages that must have finished before; ranks look for them, and for what they made, when they start."""
    makes: tuple[str, str] | None
    """Type and name of what it makes."""
    key: str
    """Equal for stages that would come to the same, as far as that can be told before their inputs are there."""
    sweep: str | None = None
    """Of a point of a sweep: the stage as it is written."""
    select: "Selection | None" = None
    """Of a stage that has no run of its own: how it selects one of those that it waits for, or one of its trials."""
    search: str | None = None
    """Of a stage that is a search: the search's name."""


@dataclass(frozen=True)
class Selection:
    """How one of several points is selected."""

    metric: str
    direction: Literal["minimize", "maximize"]
    """Which values are better."""
    allow_failed: int = 0
    """How many points may be over without having finished."""


@dataclass(frozen=True)
class PipelineRecord:
    """What pipeline.json says. It is written once, after everything else."""

    id: str
    name: str
    created: float
    """Unix time."""
    fingerprint: str
    """Of all stages and what is published: equal for pipelines that would come to the same."""
    rehearsal: bool
    rerun: bool
    """Whether nothing that finished before is used."""
    cluster: dict[str, Any]
    stages: tuple[StageRecord, ...]
    """Each after those that it waits for."""
    publish: Mapping[str, str] = field(default_factory=dict)
    """Names at the site, and the stages whose results get them."""

    def write(self, path: Path) -> None:
        """Write pipeline.json."""
        replace_text(path, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "PipelineRecord":
        """Read pipeline.json."""
        found = json.loads(path.read_text(encoding="utf-8"))
        stages = tuple(_read_stage(one) for one in found.pop("stages"))
        return cls(**found, stages=stages)


def _read_stage(found: dict[str, Any]) -> StageRecord:
    makes, select = found["makes"], found.get("select")
    return StageRecord(
        name=found["name"],
        awaits=tuple(found["awaits"]),
        makes=(makes[0], makes[1]) if makes else None,
        key=found["key"],
        sweep=found.get("sweep"),
        select=Selection(**select) if select else None,
        search=found.get("search"),
    )


@dataclass(frozen=True)
class Pipeline:
    """A pipeline that was submitted."""

    folder: PipelineDir

    @cached_property
    def record(self) -> PipelineRecord:
        """What it is."""
        return PipelineRecord.read(self.folder.record)

    @cached_property
    def cluster(self) -> Cluster:
        """The site it was submitted to."""
        return Cluster.model_validate_json(json.dumps(self.record.cluster))

    def run_of(self, stage: str) -> RunDir | None:
        """The run that carries a stage out; None if it was removed."""
        link = self.folder.stage(stage)
        if not os.path.lexists(link):
            return None
        run = RunDir(self.folder.root.parent / Path(os.readlink(link)).name)
        return run if run.record.is_file() else None

    def runs(self) -> dict[str, RunDir]:
        """The runs that carry its stages out; removed ones are missing."""
        found = {stage.name: self.run_of(stage.name) for stage in self.record.stages}
        return {name: run for name, run in found.items() if run is not None}

    def link_stage(self, stage: str, run: RunDir) -> None:
        """Let a run carry a stage out."""
        replace_link(self.folder.stage(stage), f"../../{run.root.name}")

    def link_artifact(self, stage: StageRecord, run: RunDir) -> None:
        """Give what a run of another pipeline, or of none, makes its name among the artifacts of this one."""
        if stage.makes is None:
            return
        place = Locations({}, "", self.folder.artifacts).folder(*stage.makes)
        made = made_for(stage, run)
        if made is not None and made != place:
            replace_link(place, str(made))

    @property
    def is_stopped(self) -> bool:
        """Whether a person stopped or cancelled it: nothing is queued before it is resumed."""
        return self.folder.stop_request.exists()


def made_at(run: RunDir) -> Path | None:
    """Where what a run makes for others lies, or will lie; None if it makes nothing that has a name."""
    made = read_recipe(run.recipe.read_text(encoding="utf-8")).makes
    return RunRecord.read(run.record).locations.folder(made.type, made.name) if made else None


def made_for(stage: StageRecord, run: RunDir) -> Path | None:
    """Where what a stage makes lies, or will lie, if a run carries it out; None if it makes nothing that has a name."""
    if stage.makes is None:
        return None
    if stage.search:  # the trial's own recipe names nothing
        return run.outputs / "model"
    return made_at(run) if stage.select else RunRecord.read(run.record).locations.folder(*stage.makes)


def replace_link(link: Path, target: str) -> None:
    """Make a link, in place of another one."""
    if os.path.lexists(link) and os.path.islink(link) and os.readlink(link) == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    staging = link.with_name(f".{link.name}.{uuid.uuid4().hex}")
    os.symlink(target, staging)
    os.replace(staging, link)
