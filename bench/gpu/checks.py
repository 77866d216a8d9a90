"""The tests that need a GPU (`pytest -m gpu`), one after the other until the time is over."""

import json
import re
import subprocess
import sys
import time

from bench.gpu.measurement import ROOT
from bench.gpu.trainings import options_of_program

_LINE = re.compile(r"^tests/gpu/\S+?::(\S+).* (PASSED|FAILED|ERROR|SKIPPED)\b(?: \((.*)\))?", re.MULTILINE)


def main() -> int:
    """Run them, and answer with those that passed, failed and were skipped, and those that had no time."""
    parser = options_of_program(__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="time for all of them")
    options = parser.parse_args()
    names = _names()
    output = _output(options.seconds)
    seen = {name: (word, why) for name, word, why in _LINE.findall(output)}
    found = {
        "passed": [name for name, (word, _) in seen.items() if word == "PASSED"],
        "failed": [name for name, (word, _) in seen.items() if word in ("FAILED", "ERROR")],
        "not_run": [f"{name}: {why}" for name, (word, why) in seen.items() if word == "SKIPPED"]
        + [f"{name}: no time was left" for name in names if name not in seen],
    }
    print(json.dumps(found))
    return 0


def _names() -> list[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "tests/gpu",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 5):
        raise SystemExit(f"Error: the tests cannot be collected: {done.stdout.strip().splitlines()[-1:]}")
    return [
        line.split("::", 1)[1] for line in done.stdout.splitlines() if line.startswith("tests/gpu") and "::" in line
    ]


def _output(seconds: float) -> str:
    """Return what pytest printed, also if it had to be ended."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-rN", "-p", "no:cacheprovider"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=seconds - (time.monotonic() - began))
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    print(output, file=sys.stderr)
    return output


if __name__ == "__main__":
    sys.exit(main())
