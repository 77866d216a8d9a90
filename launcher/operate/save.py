"""Asking a run for a checkpoint."""

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.run_state import read_state
from launcher.monitor.status import compose
from launcher.operate.owners import naming_the_owner
from launcher.recipe import KINDS
from launcher.run.paths import RunDir
from launcher.slurm.query import find_jobs


def ask_to_save(run: RunDir, cluster: Cluster) -> None:
    """Ask a run to save a checkpoint after the current step, and to continue.

    Raises:
        RunError: Its kind has no checkpoints, it does not run now, or it is somebody else's.
    """
    state, name = read_state(run), run.root.name
    kind = state.record.kind
    if kind in KINDS and not KINDS[kind].trains:
        raise RunError(f"`{name}`: `kind: {kind}` keeps what is done as it goes; only runs that train save checkpoints")
    status = compose(state, find_jobs(cluster, [state.job_id] if not state.is_terminal else []))
    if status.state != "running":
        already = " already" if status.is_over else ""
        raise RunError(f"`{name}`: is {status.state}{already}; nothing to save")
    with naming_the_owner(run):
        run.save_request.touch()
