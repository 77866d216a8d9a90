"""Measures what only a GPU can show, within eight minutes, and writes gpu-report.json and gpu-report.html.

    python -m bench.gpu [--budget 470] [--only NAME] [--smallest] [--output FOLDER] [--work FOLDER]

Speed and MFU of a 1B and, if it fits, a 7B model against a bare loop of torch and TRL; peak memory against plan and
trace; all-reduce; saves; fp16, flash and flex attention; bitsandbytes; a micro batch that does not fit; the tests that
need a GPU. Nothing is installed or fetched: what this Python lacks is skipped, and the report says so. Each measurement
is a program of its own with a time limit. `--smallest` does the same with tiny stand-ins on CPUs, and judges nothing.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

from bench.gpu.measurement import Measurement, Outcome, Place, measure, reason_to_skip
from bench.gpu.page import page
from bench.gpu.programme import programme

BUDGET = 470
"""Seconds: ten of the eight minutes are left to the report."""
LEAST = 10
"""Seconds with which a measurement is still begun."""


def main() -> int:
    """Measure; 1 if something failed, 0 if all was measured, skipped or left out for want of time."""
    options = _parse()
    began = time.monotonic()
    device, gpus = ("cpu", 0) if options.smallest else _gpus()
    work = Path(options.work or tempfile.mkdtemp(prefix="gpu-kit-"))
    work.mkdir(parents=True, exist_ok=True)
    place = Place(work.resolve(), device, gpus, options.smallest)
    chosen = [
        one for one in programme(gpus) if not options.only or any(fnmatchcase(one.name, name) for name in options.only)
    ]
    try:
        done = carry_out(chosen, place, began + options.budget)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    _write(options.output, done, place, time.monotonic() - began)
    return 1 if any(one.status == "failed" for one in done) else 0


def carry_out(chosen: Sequence[Measurement], place: Place, end: float) -> list[Outcome]:
    """Make measurements one after the other, and say a line about each, until `end` on the monotonic clock."""
    done: dict[str, Outcome] = {}
    for one in chosen:
        left = end - time.monotonic()
        if reason := reason_to_skip(one, place, done):
            outcome = Outcome(one.name, one.group, "skipped", reason)
        elif place.device == "cpu" and not place.smallest:
            outcome = Outcome(one.name, one.group, "skipped", "torch sees no GPU; `--smallest` tries it on CPUs")
        elif left < LEAST:
            outcome = Outcome(one.name, one.group, "out of time", "the time for all was over")
        else:
            outcome = measure(one, place, left)
        done[one.name] = outcome
        print(f"{outcome.seconds:5.0f} s  {outcome.status:11}  {one.name}  {outcome.why}".rstrip(), flush=True)
    return list(done.values())


def _gpus() -> tuple[str, int]:
    if find_spec("torch") is None:
        return "cpu", 0
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ("cuda" if count else "cpu"), count


def _write(folder: Path, done: Sequence[Outcome], place: Place, seconds: float) -> None:
    report = {
        "when": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        "seconds": seconds,
        "device": place.device,
        "gpus": place.gpus,
        "smallest": place.smallest,
        "measurements": [one.as_plain() for one in done],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu-report.json").write_text(json.dumps(report, indent=1))
    (folder / "gpu-report.html").write_text(page(report), encoding="utf-8")
    counts = {
        status: sum(one.status == status for one in done) for status in ("measured", "skipped", "failed", "out of time")
    }
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    print(f"{said} in {seconds:.0f} s: {folder / 'gpu-report.json'}, {folder / 'gpu-report.html'}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all measurements")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="measure only this; `1B cpt*` for several; repeatable"
    )
    parser.add_argument("--smallest", action="store_true", help="tiny stand-ins on CPUs; judge nothing")
    parser.add_argument("--output", type=Path, default=Path("build"), help="folder of the report; build/ if left out")
    parser.add_argument("--work", help="folder for what is written on the way, which is kept then")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
