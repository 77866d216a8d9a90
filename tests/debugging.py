"""A person at a terminal who debugs: a checkout of their own, keys, and what the screen shows."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pexpect

ROOT = Path(__file__).parents[1]

STAND_IN = '''
"""Ranks that do what rank 0 is told, so that a test need not wait for torch."""

import os
import time
from pathlib import Path

from jobs.runtime.rendezvous import ranks_from

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


def copy_checkout(folder: Path, stand_in: bool) -> Path:
    """Copy what `launcher` runs from; with a stand-in for the training if wanted."""
    for name in ("launcher", "jobs", "recipes", "slurm_templates"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if stand_in:
        (folder / "jobs" / "__main__.py").write_text(STAND_IN)
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
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 120),
    )
    try:
        yield terminal
    finally:
        terminal.close(force=True)
