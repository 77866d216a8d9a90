"""Tests that need a GPU (`pytest -m gpu`), one after the other until the time is over: the first of them, or others."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.measurement import ROOT, SECONDS
from bench.gpu.noted_tests import NOTES
from bench.gpu.trainings import options_of_program

FILE = "tests/gpu/test_gpu.py"
FIRST = (
    "test_the_preflight_counts_and_tries_the_gpus",
    "test_bf16_and_tf32_learn_as_fp32_on_a_cpu_does[ddp]",
    "test_the_scale_of_an_fp16_loss_is_resumed_to_the_last_bit",
    "test_an_adapter_beside_nf4_weights_learns",
)
"""Those that say most in little time."""
SPARE = 5
"""Seconds before its end in which this program answers."""


def main() -> int:
    """Run them, and answer with those that passed, failed and were skipped, and those that had no time."""
    began = time.monotonic()
    parser = options_of_program(__doc__)
    parser.add_argument("which", choices=["first", "others"])
    parser.add_argument("--file", default=FILE, help="the tests")
    options = parser.parse_args()
    notes = options.work / f"tests-{options.which}.jsonl"
    notes.write_text("")
    limit = float(os.environ[SECONDS]) - SPARE
    code = _run(chosen(options.which, options.file), notes, limit - (time.monotonic() - began))
    found = answer([json.loads(line) for line in notes.read_bytes().splitlines()], code)
    print(json.dumps(found))
    return 1 if "why" in found else 0


def chosen(which: str, file: str = FILE) -> list[str]:
    """Return pytest's arguments for the first tests, or for all others."""
    names = [f"{file}::{name}" for name in FIRST]
    return names if which == "first" else [file, *(f"--deselect={name}" for name in names)]


def answer(notes: Sequence[Sequence[str]], code: int | None) -> dict[str, Any]:
    """Sum up what was noted; `why` is there if something is wrong.

    Args:
        notes: Of each test its name, how it went, and the reason for which it was skipped.
        code: pytest's exit code; None if it was ended because the time was over.
    """
    went = {name: (how, why) for name, how, why in notes if how != "begins"}
    for name, how, why in notes:  # one that fails after its call has failed
        if how == "failed":
            went[name] = (how, why)
    missing = "no time was left" if code is None else f"pytest ended with {code} before it"
    found: dict[str, Any] = {
        "passed": [name for name, (how, _) in went.items() if how == "passed"],
        "failed": [name for name, (how, _) in went.items() if how == "failed"],
        "not_run": [f"{name}: {why}" for name, (how, why) in went.items() if how == "skipped"]
        + [f"{name}: {missing}" for name, how, _ in notes if how == "begins" and name not in went],
    }
    if found["failed"]:
        found["why"] = f"failed: {', '.join(found['failed'])}"
    elif code:
        found["why"] = f"pytest ended with {code}"
    return found


def _run(arguments: Sequence[str], notes: Path, seconds: float) -> int | None:
    """Run pytest, and return its exit code; None if it had to be ended.

    What it says goes into the log: a pipe would stay open as long as any process that a test started.
    """
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-v",
        "-p",
        "no:cacheprovider",
        "-p",
        "bench.gpu.noted_tests",
    ]
    environ = os.environ | {NOTES: str(notes)}
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, env=environ, stdout=sys.stderr)
    try:
        return process.wait(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


if __name__ == "__main__":
    sys.exit(main())
