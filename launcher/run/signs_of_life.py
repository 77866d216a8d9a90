"""When a run last wrote something, for those who cannot see its processes: they ended, or are on another machine.

Standard library only.
"""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from launcher.run.heartbeat import Bound
from launcher.run.paths import RunDir

END_SECONDS = 180
"""How long the end of a hung attempt takes: SIGKILL, dead file systems, the last lines of logs. A machine's clock and
that of the file server may also differ by a part of it."""
UNWATCHED_SECONDS = 3600
"""How long an attempt may write nothing if nobody watches its heartbeat (`limits.hang: null`); an assumption."""
_GRACE = 0.1
"""Share of `limits.hang` that ranks get to write their stacks (`jobs.batch.hang_monitor`)."""


def last_sign_of_life(run: RunDir) -> float:
    """Unix time at which something last wrote into a run's logs or metrics; 0 if nothing has."""
    return _newest((run.ledger, run.metrics, run.pauses, *run.logs.glob("attempt-*/*")))


def attempt_wrote(run: RunDir, attempt: int) -> float:
    """Unix time at which something last wrote into the logs of an attempt; 0 if nothing has."""
    return _newest(run.attempt_logs(attempt).glob("*"))


def seen_lately(
    run: RunDir, attempt: int | None, hang_seconds: float | None, claim: Path | None = None
) -> float | None:
    """Tell how many seconds ago an attempt last wrote something.

    Args:
        run: The run.
        attempt: Number of the attempt; None if the run has just been made for its first one.
        hang_seconds: `limits.hang` of the recipe; None if nobody watches.
        claim: A file that its process wrote before everything else.

    Returns:
        None if it has been silent for so long that its batch process would have ended it.
    """
    folder = run.root if attempt is None else run.attempt_logs(attempt)
    claims = [] if claim is None else [claim]
    silence = max(0.0, time.time() - _newest((folder, *folder.glob("*"), *claims)))
    if hang_seconds is None:
        longest: float = UNWATCHED_SECONDS
    else:
        bound = Bound.read(folder / run.heartbeat(0).name, hang_seconds)
        longest = bound.seconds + _GRACE * hang_seconds + END_SECONDS
    return silence if silence <= longest else None


def _newest(paths: Iterable[Path]) -> float:
    times = []
    for path in paths:
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
