"""Killing what is under test, and all its workers, at a chosen point of its work on files."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

POINTS = ("replace", "link", "fsync", "rename", "unlink", "rmdir", "mkdir")
"""Functions of `os` that bring files to disk, put them in place, or remove them."""


class Killed:
    """A process that did some work, until it came to a point.

    Args:
        work: What to do.
        point: Which call of one of POINTS is not carried out: the process and its workers are killed there.
    """

    def __init__(self, work: Callable[[], object], point: int) -> None:
        context = multiprocessing.get_context("fork")
        self._counter = context.Value("i", 0)
        process = context.Process(target=self._carry_out, args=(work, point))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
        self.came_to_its_end = process.exitcode == 0

    @property
    def points(self) -> int:
        """How many calls there were."""
        return int(self._counter.value)

    def _carry_out(self, work: Callable[[], object], point: int) -> None:
        os.setpgid(0, 0)
        for name in POINTS:
            setattr(os, name, self._watched(getattr(os, name), point))
        work()
        os._exit(0)

    def _watched(self, function: Callable[..., Any], point: int) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            with self._counter.get_lock():
                self._counter.value += 1
                if self._counter.value == point:
                    os.killpg(0, signal.SIGKILL)
            return function(*arguments, **options)

        return count
