"""How fast `launcher status` and `launcher usage` are with 10,000 runs, beside a loop that only parses their files.

Whole processes, CPU seconds, in turns, after a first turn that makes summaries of the runs that are over. 500 runs are
running; Slurm's commands are stand-ins that answer at once and are counted: one query for all runs.

    python bench/status.py [--rounds 5] [--runs 10000] [--json] [--smallest]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.cpu_seconds import cpu_seconds

MOST = 0.65
"""Most times the peer's CPU seconds."""
BEGIN = 1_790_000_000
STEPS = 100
PARSE = """
import json, pathlib, sys
for run in pathlib.Path(sys.argv[1]).iterdir():
    if run.name.startswith("recipe"):
        json.loads((run / "run.json").read_text())
        for name in ("attempts.jsonl", "metrics.jsonl"):
            [json.loads(line) for line in (run / name).read_bytes().splitlines()]
"""
STATUS, USAGE, LOOP = "launcher status", "launcher usage", "json.loads of all files"


def main() -> int:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        _write_runs(folder, options.runs, running := options.runs // 20)
        environment = {**os.environ, **_stand_ins(folder, options.runs, running)}
        launcher = [sys.executable, "-m", "launcher"]
        commands = {
            STATUS: [*launcher, "status"],
            USAGE: [*launcher, "usage"],
            LOOP: [sys.executable, "-c", PARSE, str(folder / "runs")],
        }
        seconds: dict[str, list[float]] = {case: [] for case in commands}
        for turn in range(options.rounds + 1):
            (folder / "calls").write_text("")
            for case, command in commands.items():
                used = cpu_seconds(command, environment)
                if turn:
                    seconds[case].append(used)
        calls = (folder / "calls").read_text().split()
    return _report({case: statistics.median(values) for case, values in seconds.items()}, calls, options)


def _write_runs(folder: Path, count: int, running: int) -> None:
    roots = {name: str(folder / name) for name in ("runs", "corpora", "models")}
    (folder / "cluster.yaml").write_text(f"name: bench\nroots: {json.dumps(roots)}\n")
    for place in range(count):
        at, run_id = BEGIN + place, f"{place:06x}"
        run = folder / "runs" / f"recipe-{place % 40}-20260921-120000-{run_id}"
        run.mkdir(parents=True)
        record = {
            **{"id": run_id, "name": f"recipe-{place % 40}", "kind": "cpt", "fingerprint": "f" * 64, "created": at},
            **{"code_hash": "c", "code_commit": None, "recipe_folder": "/", "wandb_id": run_id},
            "cluster": {"roots": roots, "gpus": {"price": 2.0}},
            "submissions": [{"job_id": str(place + 1), "folder": "/", "time": at}],
        }
        recipe = {"kind": "cpt", "data_use": "open", "resources": {"nodes": 1, "gpus_per_node": 4}}
        (run / "run.json").write_text(json.dumps(record))
        (run / "recipe.json").write_text(json.dumps(recipe))
        (run / "attempts.jsonl").write_text("".join(_events(place, at, is_over=place < count - running)))
        (run / "metrics.jsonl").write_text("".join(_row(step, at + 20 + 2 * step) for step in range(1, STEPS + 1)))


def _events(place: int, at: int, is_over: bool) -> list[str]:
    begun = {"job_id": str(place + 1), "nodes": ["a"], "world_size": 4, "started": at + 10}
    events = [begun, {"began": at + 20, "first_step": 0, "total_steps": STEPS}]
    if is_over:
        events.append({"reason": "finished", "action": "done", "ended": at + 250, "last_step": STEPS, "exit_code": 0})
    return [json.dumps({"attempt": 0, "time": at, **event}) + "\n" for event in events]


def _row(step: int, time: int) -> str:
    row = {"time": time, "step": step, "attempt": 0, "loss": 2.0, "lr": 1e-4, "grad_norm": 1.0}
    return json.dumps({**row, "tokens_per_second": 9000.0, "mfu": None, "memory_gib": 0.5}) + "\n"


def _stand_ins(folder: Path, count: int, running: int) -> dict[str, str]:
    """Return an environment in which Slurm's commands answer at once."""
    jobs = range(count - running + 1, count + 1)
    (folder / "jobs").write_text("".join(f"{job}|RUNNING|2026-09-21T12:00:00|N/A|a|None\n" for job in jobs))
    (folder / "bin").mkdir()
    for name in ("squeue", "sacct", "scontrol"):
        program = folder / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} >> {folder}/calls\ncat {folder}/jobs\n")
        program.chmod(0o755)
    return {"PATH": f"{folder}/bin:{os.environ['PATH']}", "LAUNCHER_CLUSTER": str(folder / "cluster.yaml")}


def _report(medians: dict[str, float], calls: list[str], options: argparse.Namespace) -> int:
    if options.json:
        print(json.dumps({"date": str(date.today()), "runs": options.runs, "cpu_seconds": medians, "calls": calls}))
    else:
        print(f"{date.today()}: {options.runs:,} runs, CPU seconds, medians of {options.rounds} whole processes")
        print("\n".join(f"  {case:<24} {value:6.2f} s" for case, value in medians.items()))
        print(f"  Slurm was asked: {', '.join(calls)}")
    if options.smallest:
        return 0
    worst = max(medians[STATUS], medians[USAGE]) / medians[LOOP]
    is_held = worst <= MOST and calls == ["squeue"]
    print(f"{'holds' if is_held else 'MISSED'}: {worst:.2f} times the loop, at most {MOST}, with one query")
    return int(not is_held)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="once with 40 runs, and nothing is judged")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.runs = 1, 40
    return options


if __name__ == "__main__":
    sys.exit(main())
