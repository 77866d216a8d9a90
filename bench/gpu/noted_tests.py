"""A plugin of pytest that notes as JSON lines which tests there are, and how each one went, as soon as it is known."""

import json
import os
from typing import Any

NOTES = "KIT_TESTS"
"""Variable of the environment: the file of the notes."""


def pytest_collection_finish(session: Any) -> None:
    """Note the tests that are to run."""
    for item in session.items:
        _note(item.nodeid, "begins")


def pytest_runtest_logreport(report: Any) -> None:
    """Note how a test went: its call, and what failed or was skipped before or after that."""
    if report.when == "call" or report.outcome != "passed":
        why = report.longrepr[-1].removeprefix("Skipped: ") if report.skipped else ""
        _note(report.nodeid, report.outcome, why)


def _note(test: str, how: str, why: str = "") -> None:
    with open(os.environ[NOTES], "a", encoding="utf-8") as file:
        file.write(json.dumps([test.partition("::")[2], how, why]) + "\n")
