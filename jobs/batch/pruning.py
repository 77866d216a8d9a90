"""Ending a trial of a search that others have left behind.

Whether it is one is decided by the launcher, as a program of its own, whenever the trial has reported something new.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable

from launcher.run.paths import RunDir
from launcher.run.slurm_text import outside_job
from launcher.run.typed import last_object

LOOK_SECONDS = 1.0
"""Between two looks at whether there is something new."""
TIMEOUT_SECONDS = 300
_SHOWN = 500
"""How much of what is no answer is put into the log."""


class PruningMonitor:
    """Watches what one attempt of a trial reports."""

    def __init__(self, run: RunDir, metric: str, say: Callable[[str], None]) -> None:
        self._run = run
        self._reports = run.metrics if metric == "loss" else run.evaluations
        self._say = say
        self._looked = 0.0
        self._size = 0
        self._judged = -1
        self._asked: subprocess.Popen[str] | None = None
        self._since = 0.0
        self._is_decided = False

    def decides(self) -> bool:
        """Tell, once, that the trial is to end; never waits."""
        if self._is_decided:
            return False
        if self._asked is not None:
            self._is_decided = self._hears(self._asked)
        elif time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looked = time.monotonic()
            size = _size(self._reports)
            if size != self._size:
                self._size = size
                self._ask()
        return self._is_decided

    def _ask(self) -> None:
        argv = [sys.executable, "-m", "launcher", "search", "judge", str(self._run.root), "--after", str(self._judged)]
        self._since = time.monotonic()
        try:
            self._asked = subprocess.Popen(
                argv,
                env=outside_job(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except OSError as error:
            self._say(f"search judge: {error}")

    def _hears(self, asked: "subprocess.Popen[str]") -> bool:
        """Tell whether the answer is there and says that the trial is to end."""
        if asked.poll() is None:
            if time.monotonic() - self._since > TIMEOUT_SECONDS:
                asked.kill()
            return False
        said, complaint = asked.communicate()
        self._asked = None
        if asked.returncode:
            why = complaint.strip() or said.strip() or f"exit code {asked.returncode}"
            self._say(f"search judge: {why}; the trial goes on")
            return False
        try:
            answer = last_object(said)
            judged, hopeless_at = int(answer["judged"]), answer["hopeless_at"]
        except (ValueError, KeyError, TypeError):
            self._say(f"search judge: no answer but `{said.strip()[-_SHOWN:]}`; the trial goes on")
            return False
        self._judged = max(self._judged, judged)
        if hopeless_at is not None:
            self._say(f"other trials were better at step {hopeless_at}: this one is pruned")
        return hopeless_at is not None


def _size(path: "os.PathLike[str]") -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
