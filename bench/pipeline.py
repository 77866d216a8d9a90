"""How soon a stage of a pipeline follows the one before it, and how long 20 stages take to submit.

On a dev cluster, in turns. The ranks of both sides note when they begin and end, and sleep meanwhile; everything else
is what a real pipeline does: the batch process, its ledger, the index of results.

1. From the end of a stage's rank to the begin of the next one's, beside scripts that a person chained by
   `sbatch --dependency=afterok`, and that start the same rank by srun. Slurm looks for jobs to start now and then, on
   the dev cluster every second. So the stages sleep for different parts of a second, equal on both sides, and the
   mean counts: ranks that end at once would all wait for the same look.
2. From typing to the prompt with 20 stages, each of which waits for the one before it, on drained nodes. Beside it
   snakemake's Slurm executor, from typing to its 20th sbatch, with 20 jobs that wait for nothing: it submits a job when
   the one before it has ended. It is installed into an environment of its own.

    python bench/pipeline.py [--rounds 5] [--json] [--smallest]

`--smallest` submits two stages to Slurm's commands that do nothing, without peers.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.support.peers import peer_environment
from bench.support.unmeasured import UnmeasuredError, not_measured
from launcher.devcluster import DevCluster, Shape
from launcher.devcluster.machine import missing_programs

ROOT = Path(__file__).parents[1]
PEER_PACKAGES = ("snakemake==9.27.1", "snakemake-executor-plugin-slurm==2.8.0")
RECIPE = ROOT / "recipes" / "prepare_pile_pubmed.yaml"
STAGES, SMALLEST_STAGES = 20, 2
CHAIN = 6
MOST_SECONDS, MOST_TIMES, MOST_MORE = 1.5, 1.1, 0.25
RANK = """\
import os, time

with open(os.environ["BENCH_STAMPS"], "a+") as file:
    begin = time.time()
    file.seek(0)
    time.sleep(len(file.readlines()) // 2 * 0.37 % 1)
    file.write(f"{begin} begins\\n{time.time()} ends\\n")
"""
JOB = """\
#!/bin/sh
#SBATCH --output=/dev/null
export BENCH_STAMPS={stamps}
srun {python} {rank}
"""
RULES = """\
rule all:
    input: expand("out/{{n}}", n=range({count}))
rule one:
    output: "out/{{n}}"
    shell: "touch {{output}}"
"""
FAKES = {"sbatch": "echo 42", "squeue": ":", "scontrol": "echo MaxArraySize = 1001", "sinfo": "echo slurm 22.05.8"}
OURS, BY_HAND = "from a stage to the next", "sbatch --dependency, by hand"
SUBMIT, SNAKEMAKE = "launcher submit", "snakemake --executor slurm"


@dataclass(frozen=True)
class Bench:
    """The folder of one run of this bench, and the Slurm that it talks to."""

    folder: Path
    stages: int
    environment: dict[str, str]
    cluster: DevCluster | None
    snakemake: Path

    @property
    def stamps(self) -> Path:
        """A line when a rank begins, and one when it ends."""
        return self.folder / "stamps"

    @property
    def calls(self) -> Path:
        """A line for each sbatch that has returned."""
        return self.folder / "calls"

    def slurm(self, *argv: str) -> str:
        """Run a command of Slurm."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()


def main() -> int:
    options = _parse()
    try:
        snakemake = Path() if options.smallest else _peer()
    except UnmeasuredError as error:
        return not_measured(error)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, _slurm(options.smallest) as (slurm, cluster):
        folder = Path(name)
        environment = {**os.environ, **slurm, "LAUNCHER_CLUSTER": str(folder / "cluster.yaml"), "HF_HUB_OFFLINE": "1"}
        environment |= {"PYTHONPATH": str(folder / "code"), "PYTHONDONTWRITEBYTECODE": ""}
        bench = Bench(folder, SMALLEST_STAGES if options.smallest else STAGES, environment, cluster, snakemake)
        _write(bench, slurm)
        cases: dict[str, Callable[[Bench, int], list[float]]] = {SUBMIT: _submit}
        if cluster:
            cases |= {SNAKEMAKE: _snakemake, OURS: _pipeline, BY_HAND: _by_hand}
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for turn in range(options.rounds + 1):  # the first one fills caches
            for case, measure in cases.items():
                found = measure(bench, turn)
                seconds[case] += found if turn or options.smallest else []
    means = {case: (statistics.mean if case in (OURS, BY_HAND) else statistics.median) for case in seconds}
    return _report({case: means[case](values) for case, values in seconds.items()}, options)


@contextmanager
def _slurm(fake: bool) -> Iterator[tuple[dict[str, str], DevCluster | None]]:
    """What to add to the environment so that Slurm's commands work, and the dev cluster."""
    folder = Path(tempfile.mkdtemp(prefix="dc-"))
    cluster = DevCluster(folder)
    try:
        for name, body in FAKES.items() if fake else ():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        if fake:
            yield {"PATH": f"{folder}:{os.environ['PATH']}"}, None
            return
        cluster.up(Shape(nodes=2, gpus=4, accounting=not missing_programs(accounting=True)))
        yield {"SLURM_CONF": str(cluster.slurm_conf)}, cluster
    finally:
        cluster.down()
        shutil.rmtree(folder)


def _write(bench: Bench, slurm: dict[str, str]) -> None:
    """Write the site, the rank of both sides, and an sbatch that counts."""
    folder = bench.folder
    for package in ("launcher", "jobs"):
        shutil.copytree(ROOT / package, folder / "code" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("slurm_templates", "recipes"):
        if (ROOT / name).is_dir():
            (folder / "code" / name).symlink_to(ROOT / name)
    (folder / "code" / "jobs" / "__main__.py").write_text(RANK)
    conf = f"slurm: {{conf: {slurm['SLURM_CONF']}}}\n" if "SLURM_CONF" in slurm else ""
    roots = ", ".join(f"{name}: {folder}/{name}" for name in ("runs", "data", "corpora", "models"))
    stamps = f"environment: {{BENCH_STAMPS: {bench.stamps}}}\n"
    (folder / "cluster.yaml").write_text(f"name: bench\nroots: {{{roots}}}\n{conf}{stamps}")
    if bench.cluster:
        (folder / "bin").mkdir()
        program = folder / "bin" / "sbatch"
        program.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" && echo >>{bench.calls}\n')
        program.chmod(0o755)
        bench.environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"


def _submit(bench: Bench, turn: int) -> list[float]:
    with _drained(bench):
        started = time.perf_counter()
        _launch(bench, f"submit-{turn}", bench.stages)
        return [time.perf_counter() - started]


def _launch(bench: Bench, name: str, count: int) -> None:
    """Submit a pipeline whose stages wait for each other; each turn has its own, since none is carried out twice."""
    stages = {}
    for place in range(count):
        made = f"{name}-{place}"
        needs = [f"stage-{place - 1}"] if place else []
        stages[f"stage-{place}"] = {"recipe": str(RECIPE), "set": {"corpus": made, "name": made}, "needs": needs}
    path = bench.folder / f"{name}.yaml"
    path.write_text(json.dumps({"kind": "pipeline", "name": name, "stages": stages}))
    argv = [sys.executable, "-m", "launcher", "submit", "--rehearse", "--yes", str(path)]
    done = subprocess.run(argv, env=bench.environment, cwd=bench.folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])


def _snakemake(bench: Bench, turn: int) -> list[float]:
    """Submit jobs that wait for nothing, and end snakemake when it has called sbatch for the last one."""
    folder = bench.folder / f"snakemake-{turn}"
    folder.mkdir()
    (folder / "Snakefile").write_text(RULES.format(count=bench.stages))
    bench.calls.unlink(missing_ok=True)
    argv = [str(bench.snakemake), "--executor", "slurm", "--jobs", str(bench.stages), "--slurm-no-account"]
    argv += ["--default-resources", "runtime=10", "mem_mb=100", "slurm_partition=preempt"]
    environment = {key: value for key, value in bench.environment.items() if key != "PYTHONPATH"}
    with _drained(bench), (folder / "log").open("wb") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            argv, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while not bench.calls.exists() or bench.calls.stat().st_size < bench.stages:
                if process.poll() is not None:
                    raise SystemExit((folder / "log").read_text()[-2000:])
                time.sleep(0.01)
            return [time.perf_counter() - started]
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _peer() -> Path:
    """Install snakemake, once."""
    if missing := missing_programs(accounting=False):
        raise UnmeasuredError(f"a dev cluster needs {', '.join(missing)}")
    return peer_environment("bench-pipeline", PEER_PACKAGES, unpinned=["packaging", "sqlalchemy"]) / "snakemake"


@contextmanager
def _drained(bench: Bench) -> Iterator[None]:
    """Let no job start, and cancel them in the end."""
    if bench.cluster is None:
        yield
        return
    bench.slurm("scontrol", "update", "NodeName=ALL", "State=DRAIN", "Reason=bench")
    try:
        yield
    finally:
        bench.slurm("scancel", f"--user={os.getuid()}")
        _wait_for_empty_queue(bench)
        bench.slurm("scontrol", "update", "NodeName=ALL", "State=RESUME")


def _pipeline(bench: Bench, turn: int) -> list[float]:
    bench.stamps.unlink(missing_ok=True)
    _launch(bench, f"chain-{turn}", CHAIN)
    return _gaps(bench)


def _by_hand(bench: Bench, _: int) -> list[float]:
    bench.stamps.unlink(missing_ok=True)
    rank, script = bench.folder / "code" / "jobs" / "__main__.py", bench.folder / "job.sh"
    script.write_text(JOB.format(stamps=bench.stamps, python=sys.executable, rank=rank))
    job = ""
    for _ in range(CHAIN):
        after = [f"--dependency=afterok:{job}"] if job else []
        job = bench.slurm("sbatch", "--parsable", *after, str(script))
    return _gaps(bench)


def _gaps(bench: Bench) -> list[float]:
    """Wait until all have run; give the seconds between the end of one and the begin of the next."""
    _wait_for_empty_queue(bench)
    times = [float(line.split()[0]) for line in bench.stamps.read_text().splitlines()]
    if len(times) != 2 * CHAIN:
        raise SystemExit(f"{len(times) // 2} of {CHAIN} ranks ran")
    return [begin - end for end, begin in zip(times[1::2], times[2::2], strict=False)]


def _wait_for_empty_queue(bench: Bench) -> None:
    while bench.slurm("squeue", "--noheader"):
        time.sleep(0.2)


def _report(medians: dict[str, float], options: argparse.Namespace) -> int:
    holds = {}
    if not options.smallest:
        most = MOST_TIMES * medians[BY_HAND] + MOST_MORE
        holds[OURS] = medians[OURS] <= most
        holds[SUBMIT] = medians[SUBMIT] <= min(MOST_SECONDS, medians[SNAKEMAKE])
    rows = [{"case": case, "seconds": value, "holds": holds.get(case)} for case, value in medians.items()]
    if options.json:
        machine = {"processors": os.cpu_count(), "python": platform.python_version(), "date": str(date.today())}
        print(json.dumps({**machine, "load": os.getloadavg()[0], "rounds": options.rounds, "rows": rows}, indent=1))
        return 0 if all(holds.values()) else 1
    load = f"a load of {os.getloadavg()[0]:.1f}"
    print(f"means of gaps and medians of {options.rounds} rounds, {os.cpu_count()} CPUs, {load}, {date.today()}")
    for row in rows:
        judged = "" if row["holds"] is None else "   holds" if row["holds"] else "   MISSED"
        print(f"{row['case']:30s} {row['seconds']:7.3f} s{judged}")
    if holds:
        print(f"limits: {MOST_TIMES} x by hand + {MOST_MORE} s = {most:.3f} s; {MOST_SECONDS} s, and snakemake")
    return 0 if all(holds.values()) else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--smallest", action="store_true", help="see that it works, in seconds; judge nothing")
    options = parser.parse_args()
    if options.smallest:
        options.rounds = 0
    return options


if __name__ == "__main__":
    sys.exit(main())
