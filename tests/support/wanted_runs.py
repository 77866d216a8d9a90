"""A sweep, a recipe and a pipeline of small prepares, and what there is of their runs, in Slurm's queue and on disk."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.cluster import Cluster
from launcher.run.ledger import read_json_lines
from launcher.run.paths import SubmissionDir
from launcher.run.record import RunRecord
from tests.support.fake_slurm import FakeSlurm

PREPARE: dict[str, Any] = {
    "kind": "prepare",
    "name": "abstracts",
    "corpus": "abstracts",
    "sources": [{"format": "pile", "files": "abstracts.jsonl"}],
    "tokenizer": "tokenizer",
    "resources": {"cpus_per_task": 2, "time": "10min"},
}
SWEEP = PREPARE | {"sweep": {"grid": {"corpus": ["a", "b", "c"]}}}
STAGES = {
    name: {"recipe": PREPARE | {"name": name, "corpus": name}, "needs": list(before)}
    for name, before in (("a", ""), ("b", "a"), ("c", "ab"))
}
PIPELINE = {"kind": "pipeline", "name": "abc", "stages": STAGES}
WANTED = {"sweep": (SWEEP, 3), "recipe": (PREPARE, 1), "pipeline": (PIPELINE, 3)}
"""What may be submitted, and how many runs it is."""


@dataclass(frozen=True)
class Wanted:
    """Something to be submitted to a site whose Slurm is fake."""

    file: Path
    profile: Path
    runs: Path
    count: int
    """How many runs it is."""
    slurm: FakeSlurm

    @classmethod
    def write(cls, what: str, folder: Path, cluster: Cluster, slurm: FakeSlurm) -> "Wanted":
        """Write the files of one of `WANTED`."""
        content, count = WANTED[what]
        file, profile = folder / f"{what}.yaml", folder / "cluster.yaml"
        file.write_text(json.dumps(content))
        profile.write_text(yaml.safe_dump(cluster.model_dump(mode="json", exclude_defaults=True)))
        return cls(file, profile, Path(cluster.roots.runs), count, slurm)

    @property
    def argv(self) -> list[str]:
        """What to type after `launcher`."""
        return ["submit", str(self.file), "--cluster", str(self.profile), "--yes"]

    def records(self) -> list[RunRecord]:
        """The run.json of all runs that were queued."""
        found = self.runs.iterdir() if self.runs.is_dir() else ()
        records = [RunRecord.read(one / "run.json") for one in found if (one / "run.json").is_file()]
        return [record for record in records if record.submissions]

    def queued_runs(self) -> Counter[str]:
        """Count the jobs of each run in the queue, by the run's folder."""
        found: Counter[str] = Counter()
        for row in (self.slurm.state / "queue").read_text().splitlines():
            job, _, folder = row.split("|")
            index = job.partition("_")[2]
            found[read_json_lines(SubmissionDir(Path(folder)).manifest)[int(index or 0)]["run"]] += 1
        return found

    def check_once(self) -> None:
        """Insist that each run is queued once, and knows its job."""
        records = self.records()
        assert sorted(self.queued_runs().values()) == [1] * self.count
        assert sorted(one.submissions[-1].job_id for one in records) == sorted(self.slurm.queue())
        assert len({one.name for one in records}) == self.count

    def left(self) -> list[Path]:
        """Folders of runs, pipelines and submissions."""
        folders = [path for path in self.runs.iterdir() if not path.name.startswith(".")] if self.runs.is_dir() else []
        submissions = self.runs / ".submissions"
        return [*folders, *(submissions.iterdir() if submissions.is_dir() else ())]
