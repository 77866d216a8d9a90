"""Waiting in tests: ask until the answer is true, never sleep for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")
PATIENCE = 600
"""Seconds after which a test gives up. What is awaited comes at once, but how soon is the machine's business."""


def wait_for(predicate: Callable[[], Value], what: str, limit: float = PATIENCE, pause: float = 0.1) -> Value:
    """Return the first true value of `predicate`, which is asked again after each `pause` in seconds.

    Raises:
        TimeoutError: saying what was awaited and what was seen last.
    """
    deadline = time.monotonic() + limit
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {limit:g} s in vain for {what}; last answer: {value!r}")
        time.sleep(pause)
    return value
