"""A rank of a trial that trains nothing: at each of six steps rank 0 reports what a formula says of its values.

It waits before step 3 as long as a file `hold-NUMBER` lies in the folder of all runs, NUMBER being the trial's. What a
sweep of W&B gave is tracked there.
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.rank.ranks import ranks_from
from jobs.rank.stop_flag import STOP
from launcher.run.files import replace_text
from launcher.run.ledger import append_event
from launcher.run.paths import COMPLETE, CONTINUE, FINISHED, RunDir, published_steps
from launcher.run.record import RunRecord

STEPS = 6
STOP.install()


def main() -> int:
    run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[3])
    recipe = json.loads(run.recipe.read_bytes())
    loss = (math.log10(recipe["optim"]["lr"]) + 3) ** 2
    hold = run.root.parent / f"hold-{recipe['name'].rpartition('-')[2]}"
    left = run.root / f"left-{attempt}"
    if ranks_from(os.environ).rank:
        while not left.exists():  # srun ends the others when one has failed
            time.sleep(0.05)
        return int(left.read_text())
    with STOP.heeding(run.stop_request.exists), tracked(run, attempt) as track:
        first = max(published_steps(run), default=0)
        append_event(run.ledger, attempt, first_step=first, total_steps=STEPS)
        for step in range(first + 1, STEPS + 1):
            while step == 3 and hold.exists() and not STOP.is_requested():
                time.sleep(0.05)
            if STOP.is_requested():
                return leave(run, attempt, step - 1, CONTINUE, "stopped")
            row = {"time": time.time(), "step": step, "attempt": attempt, "validation_loss": loss + STEPS - step}
            with run.evaluations.open("a") as file:
                file.write(json.dumps(row) + "\n")
            track(row)
    return leave(run, attempt, STEPS, FINISHED, "finished")


@contextmanager
def tracked(run: RunDir, attempt: int) -> Iterator[Callable[[Any], None]]:
    if RunRecord.read(run.record).wandb_sweep is None:
        yield lambda _: None
        return
    from jobs.rank.context import load_context
    from jobs.train.tracking import open_tracker

    context = load_context(run, attempt, ranks_from(os.environ))
    tracker = open_tracker(context, context.recipe.tracking)
    yield tracker.log_evaluation
    tracker.close(finished=not STOP.is_requested())


def leave(run: RunDir, attempt: int, step: int, code: int, reason: str) -> int:
    run.checkpoint(step).mkdir(parents=True, exist_ok=True)
    (run.checkpoint(step) / COMPLETE).write_text(json.dumps({"step": step, "world_size": 1, "files": {}}))
    append_event(run.ledger, attempt, last_step=step, reason=reason)
    replace_text(run.root / f"left-{attempt}", str(code))
    return code


os._exit(main())
