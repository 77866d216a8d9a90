"""What a person at a site does, as the tests need it: type `launcher ...`, look at run directories, cause trouble."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.rendezvous import choose_port
from launcher.devcluster import DevCluster
from launcher.run.ledger import Attempt, read_attempts, read_json_lines
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.pytest_worker import own_ports
from tests.support.waiting import wait_for

RECIPES = Path(__file__).parents[2] / "recipes"
LAUNCHER = (sys.executable, "-m", "launcher")
# A rank imports for some seconds before it does anything, so a test has no more ranks than what it shows needs.
ONE_RANK_A_NODE = ("resources.gpus_per_node=1", "parallel.strategy=full_shard")
"""Settings of a rehearsal of 2 ranks on 2 nodes."""
ONE_RANK = ("resources.nodes=1", "resources.gpus_per_node=1", "parallel.strategy=full_shard")
"""Settings of a rehearsal of 1 rank."""
FEW_STEPS = 4
ALONE = ("resources.nodes=1", "resources.gpus_per_node=1")
SMALL = (
    *ALONE,
    *("batch.global_batch=4 sequences", f"schedule.length={FEW_STEPS} steps", "checkpoint.interval=2 steps"),
)
"""Settings of a rehearsal that tries whether a recipe's model, data and exports fit together."""


class Site:
    """One dev cluster and the person using it."""

    def __init__(self, cluster: DevCluster, secrets: dict[str, str] | None = None) -> None:
        self.cluster = cluster
        self.environment = {**os.environ, "LAUNCHER_CLUSTER": str(cluster.profile), "HF_HUB_OFFLINE": "1"}
        self.environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120", **(secrets or {})}

    def launcher(self, *arguments: str | Path, exit_code: int = 0) -> str:
        """Type `launcher ARGUMENTS` and return what it printed."""
        done = subprocess.run(
            [*LAUNCHER, *map(str, arguments)], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == exit_code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, *arguments: str | Path) -> list[RunDir]:
        """Submit, whatever has finished before, and return the run directories, in the order of the recipes."""
        rows = json.loads(self.launcher("submit", *arguments, "--yes", "--json", "--rerun"))
        return [RunDir(Path(row["folder"])) for row in rows["runs"]]

    def prepare_corpus(self) -> None:
        """Make the rehearsal corpus, once per cluster."""
        if not (self.cluster.layout.folder / "corpora" / "pubmed-rehearsal" / "manifest.json").exists():
            [run] = self.submit(RECIPES / "prepare_pile_pubmed.yaml", "--rehearse")
            self.wait_until_finished(run)

    def submit_rehearsal(self, *settings: str) -> RunDir:
        """Submit the BioMed-LLaMA rehearsal with `--set` overrides."""
        overrides = [word for setting in settings for word in ("--set", setting)]
        [run] = self.submit(RECIPES / "biomed_llama_cpt.yaml", "--rehearse", *overrides)
        return run

    def preempt(self, run: RunDir, step: int) -> None:
        """Preempt a run, at a step or soon after.

        It could finish before Slurm has even heard of the preemptor, so its ranks are held until then: SIGCONT is the
        first that Slurm sends to what it preempts.
        """
        self.wait_for_step(run, step)
        for process in rank_processes(run).values():
            os.kill(process, signal.SIGSTOP)
        self.cluster.preempt(record(run).submissions[-1].job_id)

    def stop(self, run: RunDir, step: int) -> None:
        """Stop a run with `launcher stop`, at a step or soon after."""
        self.wait_for_step(run, step)
        with paused(run):
            self.launcher("stop", run.root)

    def slurm(self, *argv: str) -> str:
        """Run one of Slurm's commands."""
        return self.cluster.slurm(*argv)

    def wait_for_step(self, run: RunDir, step: int, timeout: float = 600) -> None:
        """Wait until the run has logged `step`."""
        wait_for(lambda: last_step(run) >= step or self._refuse_dead(run), f"step {step} of {run.root}", timeout)

    def wait_for_attempt(self, run: RunDir, number: int, timeout: float = 600) -> None:
        """Wait until the run has started for the `number`-th time, counted from 0."""

        def started() -> bool:
            attempts = read_attempts(run.ledger)
            return bool(attempts) and attempts[-1].number >= number

        wait_for(started, f"attempt {number} of {run.root}, whose ledger is {ledger_text(run)}", timeout)

    def wait_until_ended(self, run: RunDir, timeout: float = 600) -> Attempt:
        """Wait until the run is over for good; return its last attempt."""
        return wait_for(lambda: ended(run), f"the end of {run.root}, whose ledger is {ledger_text(run)}", timeout)

    def wait_until_finished(self, run: RunDir, timeout: float = 600) -> list[Attempt]:
        """Wait until the run is over, insist that it finished, and return all attempts."""
        last = self.wait_until_ended(run, timeout)
        assert last.reason == "finished", f"{last}\n{logs_text(run)}"
        return read_attempts(run.ledger)

    def _refuse_dead(self, run: RunDir) -> bool:
        last = ended(run)
        assert last is None, f"{run.root} ended too early:\n{ledger_text(run)}\n{logs_text(run)}"
        return False


def ended(run: RunDir) -> Attempt | None:
    """Return the last attempt of a run that will not go on by itself, else None."""
    attempts = read_attempts(run.ledger)
    return attempts[-1] if attempts and attempts[-1].action in ("done", "stop") else None


def last_step(run: RunDir) -> int:
    """Return the last step that the run logged."""
    return max((row["step"] for row in read_json_lines(run.metrics)), default=0)


def joined_losses(run: RunDir) -> dict[int, float]:
    """Return step -> loss over all attempts, as `launcher status` plots it; redone steps must agree."""
    losses: dict[int, float] = {}
    for row in read_json_lines(run.metrics):
        previous = losses.setdefault(row["step"], row["loss"])
        assert previous == row["loss"], f"step {row['step']} was redone with another loss"
    return losses


def recorded_losses(name: str) -> list[float]:
    """Return what a rehearsal's losses were when they were recorded, for comparison.

    losses.json was written on 2026-11-29 at version 0.1.0, on 2 cores (AMD EPYC) without GPU.
    The tolerance is for other CPUs, whose kernels sum in another order; on the same machine they are equal.
    """
    recorded = json.loads((Path(__file__).parent / "losses.json").read_text(encoding="utf-8"))
    return pytest.approx(recorded[name], rel=1e-3)  # type: ignore[no-any-return]


def steps_by_attempt(run: RunDir) -> dict[int, list[int]]:
    """Return the logged steps of each attempt."""
    found: dict[int, list[int]] = {}
    for row in read_json_lines(run.metrics):
        found.setdefault(row["attempt"], []).append(row["step"])
    return found


def rank_processes(run: RunDir) -> dict[int, int]:
    """Return rank -> pid of the run's tasks on this machine, by their command line."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            words, environment = _read(folder / "cmdline"), dict(_read_pairs(folder / "environ"))
            if str(run.root) in words and "jobs" in words and "python" in words[0] and "SLURM_PROCID" in environment:
                found[int(environment["SLURM_PROCID"])] = int(folder.name)
    return found


@contextmanager
def paused(run: RunDir) -> Iterator[None]:
    """Keep ranks from their work while others do theirs, so that the run is where it was however long that takes."""
    ranks = rank_processes(run).values()
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    try:
        yield
    finally:
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGCONT)


def _read(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return [""]


def _read_pairs(path: Path) -> list[tuple[str, str]]:
    return [(name, value) for name, mark, value in (entry.partition("=") for entry in _read(path)) if mark]


def ledger_text(run: RunDir) -> str:
    """Return the ledger for an error message."""
    return run.ledger.read_text() if run.ledger.exists() else "not there"


def logs_text(run: RunDir, characters: int = 3000) -> str:
    """Return the ends of all logs for an error message."""
    return "\n".join(
        f"--- {path}\n{path.read_text(errors='replace')[-characters:]}" for path in sorted(run.logs.rglob("*.log"))
    )


def record(run: RunDir) -> RunRecord:
    """Read run.json."""
    return RunRecord.read(run.record)


def manifest(folder: Path) -> Any:
    """Read a corpus's manifest."""
    return json.loads((folder / "manifest.json").read_text())


@contextmanager
def preempt_mode(devcluster: DevCluster, mode: str, grace: int) -> Iterator[None]:
    """Let the site do with preempted jobs what another one would."""

    def switch(mode: str, grace: int) -> None:
        devcluster.slurm("scontrol", "update", "PartitionName=preempt", f"PreemptMode={mode}", f"GraceTime={grace}")

    switch(mode, grace)
    try:
        yield
    finally:
        switch("REQUEUE", 10)


@contextmanager
def no_new_starts(devcluster: DevCluster) -> Iterator[None]:
    """Leave jobs where they are: those that run go on, and what is queued or requeued waits."""
    devcluster.slurm("scontrol", "update", "PartitionName=preempt", "State=DOWN")
    try:
        yield
    finally:
        devcluster.slurm("scontrol", "update", "PartitionName=preempt", "State=UP")


def free_ports(count: int) -> int:
    """Find the first of some ports in a row that nobody uses, neither another worker nor a job of the dev cluster."""
    ports = own_ports(range(15000, 20000))
    start = ports[0]
    while any(choose_port(start + extra, (ports[0], ports[-1])) != start + extra for extra in range(0, count, 2)):
        start += count
    return start
