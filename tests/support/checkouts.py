"""A checkout of one's own, with stand-ins for the training, and typing `launcher ...` there on a terminal."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pexpect

from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]

LISTENING = '''
"""Ranks that do what rank 0 is told, so that a test need not wait for torch."""

import os
import time
from pathlib import Path

from jobs.rank.ranks import ranks_from

place = ranks_from(os.environ)
done = Path("done")
print(f"rank {place.rank} of {place.world_size}, node {place.node_rank}, meets at {os.environ['MASTER_ADDR']}")
if place.rank == 0:
    done.unlink(missing_ok=True)
while place.rank == 0:
    try:
        if (said := input("what? ")) == "leave":
            done.touch()
            break
        print("heard", said.upper())
    except KeyboardInterrupt:
        print("INTERRUPTED")
while not done.exists():
    time.sleep(0.1)
'''

MEETING = '''
"""Ranks that wait for rank 1, without torch."""

import os
import time
from pathlib import Path

from jobs.rank.ranks import ranks_from

place = ranks_from(os.environ)
print(f"rank {place.rank} of {place.world_size}", flush=True)
if place.rank == 1:
    answer = 21 * place.world_size
    Path("done").touch()
    if Path("fails").exists():
        raise ValueError("planted")
while not Path("done").exists():
    time.sleep(0.1)
'''

COUNTING = '''
"""A single rank that counts and logs up to the recipe's seed; it saves at the end and when it is asked to stop.

It does not take its last step while there is a file `brake` beside the recipe.
"""

import json
import sys
import time
from pathlib import Path

from jobs.rank.stacks import answer_requests
from jobs.rank.stop_flag import StopFlag
from launcher.run.ledger import append_event
from launcher.run.paths import COMPLETE, CONTINUE, FINISHED, RunDir, published_steps

stop = StopFlag()
stop.install()
answer_requests()
run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[3])
total = json.loads(run.recipe.read_text())["seed"]
brake = Path(json.loads(run.record.read_text())["recipe_folder"]) / "brake"
step = max(published_steps(run), default=0)
append_event(run.ledger, attempt, first_step=step, total_steps=total)
while step < total and not (stop.is_requested() or run.stop_request.exists()):
    time.sleep(0.1)
    if step + 1 == total and brake.exists():
        continue
    step += 1
    print(f"step {step}", flush=True)
    row = {"time": time.time(), "step": step, "attempt": attempt, "loss": 10 / step, "tokens_per_second": 1280.0}
    with run.metrics.open("a") as metrics:
        metrics.write(json.dumps(row) + "\\n")
run.checkpoint(step).mkdir(parents=True, exist_ok=True)
(run.checkpoint(step) / COMPLETE).write_text(json.dumps({"step": step, "world_size": 1, "files": {}}))
append_event(run.ledger, attempt, last_step=step, reason="finished" if step == total else "stopped")
sys.exit(FINISHED if step == total else CONTINUE)
'''


def copy_checkout(folder: Path, stand_in: str | None = None) -> Path:
    """Copy what `launcher` runs from; a stand-in replaces the training."""
    for name in ("launcher", "jobs", "recipes", "slurm_templates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if stand_in:
        (folder / "jobs" / "__main__.py").write_text(stand_in)
    return folder


@contextmanager
def typing(checkout: Path, environ: Mapping[str, str], *arguments: str) -> Iterator["pexpect.spawn[str]"]:
    """Type `launcher ARGUMENTS` in a checkout, on a terminal of 40 lines of 120 characters."""
    environment = {**os.environ, **environ, "TERM": "xterm", "SHELL": "/bin/bash", "PS1": "$ "}
    environment.pop("COLUMNS", None)
    terminal = pexpect.spawn(
        *(sys.executable, ["-m", "launcher", *arguments]),
        cwd=str(checkout),
        env=environment,
        use_poll=True,  # `select` takes no descriptor above 1,023, and tests before may have many files open
        encoding="utf-8",
        timeout=PATIENCE,
        dimensions=(40, 120),
    )
    try:
        yield terminal
    finally:
        terminal.close(force=True)


def interrupt(terminal: "pexpect.spawn[str]", heard: str | type[pexpect.EOF]) -> None:
    """Press Ctrl-C, and again until it is heard: Python overlooks one that comes just before it waits for a line."""
    for _ in range(50):
        terminal.sendintr()
        if terminal.expect([heard, pexpect.TIMEOUT], timeout=6) == 0:
            return
    raise TimeoutError(f"no interrupt led to {heard}; the terminal shows {terminal.buffer}")
