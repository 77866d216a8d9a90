"""How fast a report reads a run of a million steps, beside pandas reading the same file.

Whole processes, CPU seconds, in turns. `launcher report` also sums up each attempt and draws all curves.

    python bench/report.py [--rounds 3] [--rows 1000000] [--json] [--smallest]
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.cpu_seconds import cpu_seconds
from launcher.run.ledger import append_event
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord, Submitted

MOST = 1.0
"""Most times the peer's CPU seconds."""
BEGIN = 1_790_000_000.0
PANDAS = "import sys, pandas; print(len(pandas.read_json(sys.argv[1], lines=True)))"
RUN, TABLE = "launcher report", "pandas.read_json"


def main() -> int:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        run = _write_run(folder, options.rows)
        commands = {
            RUN: [sys.executable, "-m", "launcher", "report", str(run.root), "--html", str(folder / "page.html")],
            TABLE: [sys.executable, "-c", PANDAS, str(run.metrics)],
        }
        environment = {**os.environ, "LAUNCHER_CLUSTER": str(folder / "cluster.yaml")}
        seconds: dict[str, list[float]] = {case: [] for case in commands}
        for _ in range(options.rounds):
            for case, command in commands.items():
                seconds[case].append(cpu_seconds(command, environment))
    medians = {case: statistics.median(values) for case, values in seconds.items()}
    return _report(medians, options)


def _write_run(folder: Path, rows: int) -> RunDir:
    """Write a run of two attempts, the second of which does a tenth of the steps again."""
    roots = {name: str(folder / name) for name in ("runs", "corpora", "models")}
    (folder / "cluster.yaml").write_text(f"name: bench\nexecutor: local\nroots: {json.dumps(roots)}\n")
    run = RunDir(folder / "runs" / "bench-20260921-120000-abc123")
    run.root.mkdir(parents=True)
    submitted = [Submitted("local-1", "/", BEGIN)]
    cluster = {"roots": roots, "gpus": {"type": "a100"}}
    RunRecord(*("abc123", "bench", "cpt", "f", BEGIN, "code", None, "/", "w", cluster, submitted)).write(run.record)
    run.recipe.write_text(json.dumps({"kind": "cpt", "resources": {"nodes": 1, "gpus_per_node": 8}}))
    half = rows // 2
    with run.metrics.open("w", encoding="utf-8") as metrics:
        for attempt, first, last in ((0, 0, half), (1, half - rows // 10, rows - rows // 10)):
            start = BEGIN + first + attempt * rows
            append_event(run.ledger, attempt, job_id="local-1", nodes=["a"], world_size=8, started=start)
            append_event(run.ledger, attempt, began=start, first_step=first, total_steps=rows)
            metrics.writelines(_row(step, attempt, start + step - first) for step in range(first + 1, last + 1))
            reason, action = ("killed", "requeue") if attempt == 0 else ("finished", "done")
            ended = start + last - first
            append_event(run.ledger, attempt, ended=ended, reason=reason, action=action, last_step=last)
    return run


def _row(step: int, attempt: int, time: float) -> str:
    draw = random.random
    row = {"time": time, "step": step, "attempt": attempt, "loss": 2 + draw(), "lr": 1e-4 * draw(), "grad_norm": draw()}
    return json.dumps({**row, "tokens_per_second": 9000 + draw(), "mfu": draw(), "memory_gib": 0.53466415}) + "\n"


def _report(medians: dict[str, float], options: argparse.Namespace) -> int:
    ratio = medians[RUN] / medians[TABLE]
    if options.json:
        print(json.dumps({"date": str(date.today()), "rows": options.rows, "cpu_seconds": medians, "ratio": ratio}))
    else:
        print(f"{date.today()}: {options.rows:,} rows, CPU seconds, medians of {options.rounds} whole processes")
        print("\n".join(f"  {case:<18} {value:6.2f} s" for case, value in medians.items()))
    if options.smallest:
        return 0
    print(f"{'holds' if ratio <= MOST else 'MISSED'}: {ratio:.2f} times pandas, at most {MOST}")
    return int(ratio > MOST)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="once on 1,000 rows, and nothing is judged")
    options = parser.parse_args()
    if options.smallest:
        options.rounds, options.rows = 1, 1000
    return options


if __name__ == "__main__":
    sys.exit(main())
