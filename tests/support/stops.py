"""Requests to stop, made in the process that a test runs a kind in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from jobs.rank.stop_flag import STOP, StopRequested
from launcher.run.paths import RunDir


@contextmanager
def stopped_after(looks: int) -> Iterator[None]:
    """Ask for a stop that is seen after so many looks; it has to be heeded."""
    numbers = count()
    with pytest.raises(StopRequested), STOP.heeding(lambda: next(numbers) >= looks):
        yield


@contextmanager
def stopped_by_file(run: RunDir) -> Iterator[None]:
    """Heed the STOP file of a run, as `jobs.__main__` does; it has to be heeded."""
    with pytest.raises(StopRequested), STOP.heeding(lambda: os.path.exists(run.stop_request)):
        yield
