"""How a search is doing: its trials, by the metric that it is about."""

import json
from collections.abc import Sequence
from dataclasses import replace

from launcher.cluster import Cluster
from launcher.monitor.sweep import SweepStatus, read_sweep, select
from launcher.run.paths import RunDir
from launcher.run.trials import SearchDir, swept_runs


def read_search(
    folder: SearchDir, cluster: Cluster, conditions: Sequence[str] = (), metric: str | None = None
) -> SweepStatus:
    """Read how the trials of a search are doing.

    Args:
        folder: The search.
        cluster: The site.
        conditions: `--where KEY=VALUE`, all of which must hold.
        metric: What to compare them by, if not what the search is about.

    Raises:
        RunError: No trial has the metric or the values.
    """
    record = json.loads(folder.record.read_bytes())
    name, section = record["name"], record["section"]
    points = [one for one in swept_runs(folder, name) if RunDir(folder.runs_root / one.run).record.is_file()]
    chosen = select(points, conditions) if points else []
    found = read_sweep(cluster, name, chosen, metric) if chosen else SweepStatus(name, (), None, False)
    if metric in (None, section["metric"]):
        found = replace(found, metric=section["metric"], lower_is_better=record["direction"] == "minimize")
    return replace(found, trials=section["trials"])
