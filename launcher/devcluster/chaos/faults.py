"""All faults, by name."""

from collections.abc import Sequence

from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.file_faults import FillDisk, FlipCheckpoint, ForbidWriting, TearCheckpoint, TearLedger
from launcher.devcluster.chaos.process_faults import FreezeRank, HangRank, KillBatchProcess, KillNode, KillRank
from launcher.devcluster.chaos.slow_faults import SkewClock, SlowDisk
from launcher.devcluster.chaos.slurm_faults import (
    FreezeController,
    Hold,
    KillRankUnheard,
    Preempt,
    ReachTimeLimit,
    Requeue,
    RestartController,
)
from launcher.devcluster.chaos.tracking_faults import DeleteWandbRun
from launcher.errors import LauncherError

FAULTS: tuple[type[ChaosFault], ...] = (
    *(Preempt, ReachTimeLimit, KillRank, KillBatchProcess, KillNode, FreezeRank, HangRank),
    *(FillDisk, ForbidWriting, TearCheckpoint, FlipCheckpoint, TearLedger),
    *(RestartController, FreezeController, KillRankUnheard, Requeue, Hold),
    *(SlowDisk, SkewClock, DeleteWandbRun),
)


def choose_faults(names: Sequence[str]) -> tuple[type[ChaosFault], ...]:
    """Return the faults of these names; all if there are none.

    Raises:
        LauncherError: No fault has such a name.
    """
    known = {fault.name: fault for fault in FAULTS}
    for name in names:
        if name not in known:
            raise LauncherError(f"--only: no fault `{name}`; write some of {', '.join(known)}")
    return tuple(known[name] for name in names) or FAULTS
