"""When attempts ended whose batch process was killed before it could say so."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from launcher.run.ledger import Attempt
from launcher.run.paths import RunDir
from launcher.run.signs_of_life import attempt_wrote, last_sign_of_life


def with_ends(run: RunDir, attempts: Sequence[Attempt], is_running: bool) -> tuple[Attempt, ...]:
    """Give the attempts of a run, each with its end, except the last one while it runs.

    A batch process that was killed notes no end; the next start does, which may be days later. Until then an attempt
    counts as ended when it last wrote something, and before the next one starts.

    Args:
        run: The run.
        attempts: All of them, from the ledger.
        is_running: Whether the last one runs, if it has no end.
    """
    found = [_ended(one, min(attempt_wrote(run, one.number), after.started)) for one, after in pairwise(attempts)]
    if attempts:
        found.append(attempts[-1] if is_running else _ended(attempts[-1], last_sign_of_life(run)))
    return tuple(found)


def _ended(attempt: Attempt, last_sign: float) -> Attempt:
    return attempt if attempt.ended is not None else replace(attempt, ended=max(attempt.started, last_sign))
