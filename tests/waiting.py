"""Waiting in tests: ask until the answer is true, never sleep for a guessed time."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(predicate: Callable[[], Value], timeout: float, what: str) -> Value:
    """Return the first true value of `predicate`.

    Raises:
        TimeoutError: saying what was awaited and what was seen last.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain for {what}; last answer: {value!r}")
        time.sleep(0.1)
    return value
