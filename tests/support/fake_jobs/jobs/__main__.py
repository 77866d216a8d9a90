"""One task that trains nothing: it counts steps, checkpoints the counter, stops when asked, and ends as told.

What it does in each attempt stands in recipe.json under `play`, by number of the attempt:
`{"steps": 20, "seconds": 0.1, "acts": {"0": {"rank": 1, "at_step": 3, "exit_code": 1}}}`.
"""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jobs.rank.ranks import ranks_from
from jobs.rank.stacks import answer_requests
from jobs.rank.stop_flag import STOP
from jobs.rank.watchdog import WATCHDOG
from launcher.run.ledger import append_event
from launcher.run.paths import COMPLETE, CONTINUE, FINISHED, RunDir, published_steps

BLOCK = 4096
STOP.install()
answer_requests()
WATCHDOG.start(os.environ)
RANKS = ranks_from(os.environ)


def main() -> int:
    run, attempt = RunDir(Path(sys.argv[1])), int(sys.argv[3])
    play = json.loads(run.recipe.read_text())["play"]
    act = play["acts"].get(str(attempt), {})
    if RANKS.rank == 0:
        WATCHDOG.set_heartbeat_file(run.heartbeat(attempt))
    if act.get("deaf"):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    (run.root / f"seen-{attempt}-{RANKS.rank}.json").write_text(json.dumps(what_is_seen()))
    with STOP.heeding(lambda: not act.get("deaf") and os.path.exists(run.stop_request)):
        meet(run, attempt)
        return count(run, attempt, play, act)


def meet(run: RunDir, attempt: int) -> None:
    """Wait for all ranks, as real ones do: on a busy machine some start seconds later than others."""
    others = [run.root / f"seen-{attempt}-{rank}.json" for rank in range(RANKS.world_size)]
    while not all(other.exists() for other in others) and not STOP.is_requested():
        WATCHDOG.heartbeat()
        time.sleep(0.02)


def what_is_seen() -> dict[str, Any]:
    return {
        "environ": dict(os.environ),
        "argv": sys.orig_argv,
        "ranks": list(RANKS),
        "cwd": os.getcwd(),
        "pid": os.getpid(),
    }


def count(run: RunDir, attempt: int, play: dict[str, Any], act: dict[str, Any]) -> int:
    step, held = max(published_steps(run), default=0), "at_step" in act or "stays" in act
    tell(run, attempt, first_step=step, **({"micro_batch": act["micro_batch"]} if "micro_batch" in act else {}))
    while step < play["steps"]:
        time.sleep(play["seconds"])
        WATCHDOG.heartbeat()
        counts = not held or step + 1 < play["steps"]
        step += counts
        if counts:
            print(f"step {step}", flush=True)  # noqa: T201 - its rank log
        if is_due(run, step, act):
            end_as_told(run, attempt, act)
        if STOP.is_requested():
            return leave(run, attempt, step, CONTINUE, "stopped")
        if counts and step % play.get("save_every", 1000) == 0 and RANKS.rank == 0:
            save(run, step)
    return leave(run, attempt, step, FINISHED, "finished")


def is_due(run: RunDir, step: int, act: dict[str, Any]) -> bool:
    is_told = "once" not in act or (run.root / act["once"]).exists()
    return is_told and RANKS.rank == act.get("rank", 0) and step >= act.get("at_step", step + 1)


def end_as_told(run: RunDir, attempt: int, act: dict[str, Any]) -> None:
    if "unfit" in act:
        node = os.environ.get("SLURMD_NODENAME", os.uname().nodename)
        run.preflight(attempt).write_text(json.dumps({"message": f"{node}: {act['unfit']}", "unfit": [node]}))
    if "announces" in act:
        fault = f"rank {RANKS.rank} on {os.uname().nodename}: cannot work"
        append_event(run.ledger, attempt, announced=act["announces"], fault=fault)
    if "block" in act:
        stuck()
    if "fill" in act:
        fill_disk(run)
    if "remove" in act:
        shutil.rmtree(run.root)
    if "signal" in act:
        os.kill(os.getpid(), act["signal"])
    os._exit(act["exit_code"])


def stuck() -> None:
    """Wait inside C code, forever, and let no other thread of this process run."""
    ctypes.PyDLL(None).sleep(10**6)


def fill_disk(run: RunDir) -> None:
    with run.ledger.open("ab") as ledger:  # what is left of its last block
        ledger.write(b"\n" * (-ledger.tell() % BLOCK))
    with suppress(OSError), (run.root / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(BLOCK))


def leave(run: RunDir, attempt: int, step: int, code: int, reason: str) -> int:
    """Save on rank 0; the others wait for that, since srun ends all tasks when the first one leaves with a failure."""
    left = run.root / f"left-{attempt}"
    if RANKS.rank == 0:
        save(run, step)
        tell(run, attempt, last_step=step, reason=reason)
        left.touch()
    while not left.exists() and lives(run, attempt, rank=0):
        WATCHDOG.heartbeat()
        time.sleep(0.05)
    return code


def lives(run: RunDir, attempt: int, rank: int) -> bool:
    """Tell whether a rank is at work; all of them are processes of this machine."""
    with suppress(OSError, ValueError):
        pid = json.loads((run.root / f"seen-{attempt}-{rank}.json").read_text())["pid"]
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def save(run: RunDir, step: int) -> None:
    run.checkpoint(step).mkdir(parents=True, exist_ok=True)
    (run.checkpoint(step) / COMPLETE).write_text(json.dumps({"step": step, "world_size": 1, "files": {}}))


def tell(run: RunDir, attempt: int, **event: object) -> None:
    if RANKS.rank == 0:
        append_event(run.ledger, attempt, **event)


# As real ones do: while Python is taken apart it handles no signal any more, and one that still comes would kill it.
os._exit(main())
