"""What a check of a site measured: written by a run of `kind: site_check`, kept beside the runs, read by `plan`."""

from pathlib import Path

from pydantic import ValidationError

from launcher.artifacts.corpus_manifest import ManifestPart
from launcher.run.paths import RunDir

MEASUREMENTS = "site_check.json"
"""In the run's outputs, and in the site's folder beside the runs."""


class Rate(ManifestPart):
    """Bytes a second for one size."""

    bytes: int
    """Of a message or a file."""
    per_second: float


class SiteMeasurements(ManifestPart):
    """What the ranks of one check measured."""

    time: float
    """Unix time."""
    run: str
    """Name of the run's folder."""
    device: str
    """`cuda` or `cpu`."""
    nodes: tuple[str, ...]
    ranks_per_node: int
    rendezvous_seconds: float
    """From the start of the batch process until all ranks were in the process group."""
    clock_skew_seconds: float
    """Largest difference between the clocks of two nodes, with the time that a message takes."""
    inside: tuple[Rate, ...]
    """What a rank sends in an all-reduce of the ranks of a node, by size of the message."""
    between: tuple[Rate, ...]
    """What a node sends when its ranks all-reduce with those of other nodes, by size of the message."""
    write: Rate | None
    """All nodes together, each a file of its own in the run directory, with fsync; None: the disk had no room."""
    read: Rate | None
    """All nodes together, each the file of the next node."""
    small_files_per_second: float
    """Created, written and removed again by one rank."""

    @property
    def network(self) -> float | None:
        """Bytes a second that a node sends to others in large messages; None if there was one node."""
        return self.between[-1].per_second if self.between else None

    @property
    def link(self) -> float | None:
        """Bytes a second that a rank sends to others of its node in large messages; None if it was alone."""
        return self.inside[-1].per_second if self.inside else None


def read_measurements(folder: Path) -> SiteMeasurements | None:
    """Read what a check left in a folder; None if there is nothing, or nothing that this version understands."""
    try:
        return SiteMeasurements.model_validate_json((folder / MEASUREMENTS).read_bytes())
    except (OSError, ValidationError):
        return None


def measurements_of_run(run: RunDir) -> SiteMeasurements | None:
    """Read what a run of `kind: site_check` measured; None as long as it has not."""
    return read_measurements(run.outputs)


def measurements_of_site(runs_root: Path) -> SiteMeasurements | None:
    """Read what the newest check of a site measured; None if there was none."""
    return read_measurements(site_folder(runs_root))


def site_folder(runs_root: Path) -> Path:
    """Folder of what is known about a site, beside its runs."""
    return runs_root / ".site"
