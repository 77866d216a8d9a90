"""How long `launcher` takes to start, check and submit, beside submitit, torchx and plain sbatch.

Whole processes, from typing to prompt, taking turns in the same minutes and in the same virtual environment, against a
real Slurm (a dev cluster of drained nodes: jobs queue and never start). Each submission by `launcher` also checks the
recipe, freezes code and recipe into a run directory, and leaves what `launcher status` reads.

    python bench/submit.py [--rounds 7] [--fake] [--dir FOLDER] [--json] [--cpu] [--smallest]

With `--fake`, Slurm's commands do nothing, which leaves the launchers' own time. Run directories lie in memory unless
`--dir` says otherwise: ext4 is up to thirty times slower for seconds after files were deleted, by whomever. All
programs find their modules compiled, as pip leaves those it installs. `--cpu` counts CPU seconds of each process and
the commands that it calls, for a machine that others use as well.
`--smallest` is with Slurm's commands that do nothing, and without torchx, which it would have to install.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.peers import peer_environment
from bench.support.unmeasured import UnmeasuredError, not_measured
from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.machine import missing_programs

ROOT = Path(__file__).parents[1]
ARRAY, SMALLEST_ARRAY = 1000, 2
TORCHX = "torchx run -s slurm"
RECIPE = ROOT / "recipes" / "prepare_pile_pubmed.yaml"
MEMORY = Path("/dev/shm")
FAKES = {
    "sbatch": 'case " $* " in *" --parsable "*) echo 42;; *) echo Submitted batch job 42;; esac',
    "scontrol": "echo MaxArraySize = 1001",
    "sacct": 'printf "JobID|JobName|State\\n42|x|PENDING\\n"',
    "squeue": ":",
    "scancel": ":",
    "sinfo": "echo slurm 22.05.8",
    "srun": ":",
}
SUBMITIT = """
import submitit
executor = submitit.AutoExecutor(folder={folder!r}, cluster="slurm")
executor.update_parameters(timeout_min=10)
{call}
"""


@dataclass(frozen=True)
class Case:
    """One command line, and what it must not exceed."""

    name: str
    argv: list[str]
    peer: str | None = None
    most: float | None = None
    """Most times the peer's median."""
    leaves_runs: bool = False
    """Its jobs and runs are removed after it, untimed: the next one must not find the name of its corpus taken."""


def main() -> int:
    options = _parse()
    try:
        python = _environment(options)
    except UnmeasuredError as error:
        return not_measured(error)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as name, _slurm(options.fake) as slurm:
        folder = Path(name)
        cases = _cases(folder, python, options.array)
        if options.smallest:
            cases = [replace(case, peer=None, most=None) for case in cases if case.name != TORCHX]
        environment = {**os.environ, **slurm, "LAUNCHER_CLUSTER": str(_profile(folder, slurm))}
        environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        seconds = _measure(cases, environment, options, folder)
    return _report(cases, seconds, options)


def _environment(options: argparse.Namespace) -> Path:
    """Python of an environment with the launcher's core and torchx; that of this process where nothing is judged."""
    if not options.fake and (missing := missing_programs(accounting=False)):
        raise UnmeasuredError(f"a dev cluster needs {', '.join(missing)}")
    if options.smallest:
        return Path(sys.executable)
    return peer_environment("bench-submit", ["-e", str(ROOT), "torchx==0.7.0"], unpinned=["urllib3"]) / "python"


@contextmanager
def _slurm(fake: bool) -> Iterator[dict[str, str]]:
    """What to add to the environment so that Slurm's commands work."""
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    try:
        if fake:
            yield _fake_slurm(folder)
            return
        cluster = DevCluster(folder)
        try:
            cluster.up(Shape(nodes=2, gpus=4, accounting=not missing_programs(accounting=True)))
            cluster.slurm("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=bench")
            yield {"SLURM_CONF": str(cluster.slurm_conf)}
        finally:
            cluster.down()
    finally:
        shutil.rmtree(folder)


def _fake_slurm(folder: Path) -> dict[str, str]:
    for name, body in FAKES.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _profile(folder: Path, slurm: dict[str, str]) -> Path:
    profile = folder / "cluster.yaml"
    conf = f"slurm: {{conf: {slurm['SLURM_CONF']}}}\n" if "SLURM_CONF" in slurm else ""
    roots = ", ".join(f"{name}: {folder}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: bench\nroots: {{{roots}}}\n{conf}")
    return profile


def _cases(folder: Path, python: Path, size: int) -> list[Case]:
    launcher, torchx = str(python.with_name("launcher")), str(python.with_name("torchx"))
    one, many = folder / "one.sh", folder / "sweep"
    one.write_text("#!/bin/sh\n#SBATCH --time=10\ntrue\n")
    (folder / "train.py").write_text("print()\n")
    many.mkdir()
    for index in range(size):
        (many / f"{index:04d}.yaml").write_text(f"base: {RECIPE}\nname: sweep-{index:04d}\nseed: {index}\n")
    files = [str(path) for path in sorted(many.iterdir())]
    single = _script(folder, "submit_one", "executor.submit(print, 1)")
    array = _script(folder, "submit_array", f"executor.map_array(print, range({size}))")
    ddp = ["run", "-s", "slurm", "-cfg", "time=10", "dist.ddp", "-j", "1x1", "--script", "train.py"]
    return [
        Case("sbatch one.sh", ["sbatch", str(one)]),
        Case("submitit: submit", [str(python), single]),
        Case(TORCHX, [torchx, *ddp]),
        Case("launcher --help", [launcher, "--help"], "submitit: submit", 1.5),
        Case("launcher validate", [launcher, "validate", "--rehearse", str(RECIPE)], "submitit: submit"),
        Case("launcher submit", [launcher, "submit", "--rehearse", str(RECIPE)], TORCHX, 1.0, leaves_runs=True),
        Case(f"submitit: map_array, {size}", [str(python), array]),
        Case(
            f"launcher submit, {size}",
            [launcher, "submit", "--rehearse", *files],
            f"submitit: map_array, {size}",
            5.0,
            leaves_runs=True,
        ),
    ]


def _script(folder: Path, name: str, call: str) -> str:
    path = folder / f"{name}.py"
    path.write_text(SUBMITIT.format(folder=str(folder / "submitit"), call=call))
    return str(path)


def _measure(
    cases: list[Case], environment: dict[str, str], options: argparse.Namespace, folder: Path
) -> dict[str, list[float]]:
    """Time all commands in turns; the first turn, which fills caches, does not count."""
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    clock = _cpu_seconds if options.cpu else time.perf_counter
    for turn in range(options.rounds + 1):
        for case in cases:
            started = clock()
            done = subprocess.run(case.argv, env=environment, cwd=folder, capture_output=True, text=True, check=False)
            if turn:
                seconds[case.name].append(clock() - started)
            # Without accounting, torchx fails after it has submitted: it asks sacct for the state.
            if done.returncode and case.name != TORCHX:
                raise SystemExit(f"{' '.join(case.argv[:5])}: {done.stderr[-2000:]}")
            if case.leaves_runs:
                subprocess.run(["scancel", f"--user={os.getuid()}"], env=environment, capture_output=True, check=False)
                _forget_runs(folder / "runs")
    return seconds


def _forget_runs(runs: Path) -> None:
    """Remove what was submitted, which `launcher` would find again, but for the copy of the code."""
    for path in runs.iterdir():
        if path.name != ".code":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _cpu_seconds() -> float:
    """CPU seconds of all processes that this one has started and awaited, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _report(cases: list[Case], seconds: dict[str, list[float]], options: argparse.Namespace) -> int:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    rows = []
    for case in cases:
        ratio = medians[case.name] / medians[case.peer] if case.peer else None
        holds = None if case.most is None or ratio is None else ratio <= case.most
        rows.append(
            {
                "case": case.name,
                "seconds": medians[case.name],
                "ratio": ratio,
                "peer": case.peer,
                "most": case.most,
                "holds": holds,
            }
        )
    if options.json:
        machine = {"processors": os.cpu_count(), "python": platform.python_version(), "date": str(date.today())}
        said = {"rounds": options.rounds, "fake": options.fake, "cpu": options.cpu, "rows": rows}
        print(json.dumps({**machine, **said}, indent=1))
    else:
        _print_table(rows, options)
    return 0 if all(row["holds"] is not False for row in rows) else 1


def _print_table(rows: list[dict[str, object]], options: argparse.Namespace) -> None:
    slurm = "commands that do nothing" if options.fake else "a dev cluster"
    what = "CPU seconds, medians" if options.cpu else "medians"
    print(f"{what} of {options.rounds} whole processes, {os.cpu_count()} CPUs, Slurm: {slurm}, {date.today()}")
    for row in rows:
        line = f"{row['case']:28s} {row['seconds']:7.3f} s"
        if row["ratio"] is not None:
            line += f"   {row['ratio']:5.2f} x {row['peer']}"
        if row["most"] is not None:
            line += f"   {'holds' if row['holds'] else 'MISSED'}: at most {row['most']} x"
        print(line)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--fake", action="store_true", help="Slurm commands that do nothing")
    parser.add_argument("--dir", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cpu", action="store_true", help="CPU seconds, on a machine that others use")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    options = parser.parse_args()
    options.array = SMALLEST_ARRAY if options.smallest else ARRAY
    if options.smallest:
        options.rounds, options.fake = 1, True
    return options


if __name__ == "__main__":
    sys.exit(main())
