"""Training runs for tests: a run directory, and the ranks of an attempt as plain processes."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.batch.rendezvous import choose_port
from jobs.rank.context import Context, load_context
from jobs.rank.ranks import Ranks
from launcher.run.ledger import read_json_lines
from launcher.run.paths import CONTINUE, FINISHED, RunDir
from launcher.run.record import RunRecord, fingerprint
from tests.support.corpora import make_corpus
from tests.support.forked_ranks import Forked
from tests.support.pytest_worker import own_ports
from tests.support.waiting import PATIENCE, wait_for

ASSETS = Path(__file__).parents[2] / "recipes" / "assets"


def cpt_recipe(**changes: Any) -> dict[str, Any]:
    """A small `cpt` recipe for CPUs; keywords replace its sections' keys."""
    sections: dict[str, Any] = {
        "kind": "cpt",
        "name": "tiny",
        "model": {"path": "stories260k"},
        "data": {"corpora": [{"name": "words"}]},
        "batch": {"global_batch": "8 sequences", "micro_batch": 2, "sequence_length": 32},
        "optim": {"lr": 1e-3},
        "schedule": {"length": "20 steps", "warmup": "2 steps"},
        "precision": {"dtype": "fp32"},
        "parallel": {"strategy": "ddp"},
        "checkpoint": {"interval": "5 steps"},
        "tracking": {"mode": "disabled"},
        "resources": {"nodes": 1, "cpus_per_task": 1, "time": "10min"},
    }
    for name, value in changes.items():
        sections[name] = {**sections[name], **value} if isinstance(sections.get(name), dict) else value
    return sections


def make_run(folder: Path, device: str = "cpu", **changes: Any) -> RunDir:
    """Make the run directory of a `cpt` recipe, and the corpus it reads."""
    if not (folder / "corpora").exists():
        make_corpus(folder / "corpora" / "words", [words(400)])
    return make_run_of(cpt_recipe(**changes), folder, device)


def make_run_of(recipe: dict[str, Any], folder: Path, device: str = "cpu") -> RunDir:
    """Make the run directory of a recipe; its data and corpora are below `folder`."""
    run = RunDir(folder / f"run-{len(list(folder.glob('run-*')))}")
    run.root.mkdir()
    run.recipe.write_text(json.dumps(recipe))
    roots = {"runs": str(folder), "corpora": str(folder / "corpora"), "models": str(ASSETS), "data": str(folder)}
    cluster = {"name": "test", "roots": roots, "gpus": {"device": device}}
    RunRecord(
        id="abc123",
        name=recipe["name"],
        kind=recipe["kind"],
        fingerprint=fingerprint(recipe),
        created=0.0,
        code_hash="0",
        code_commit=None,
        recipe_folder=str(folder),
        wandb_id="abc123",
        cluster=cluster,
    ).write(run.record)
    return run


def context_of(run: RunDir) -> Context:
    """What the only rank of the run's first attempt knows."""
    return load_context(run, 0, Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, node_rank=0))


def words(documents: int) -> list[list[int]]:
    """Documents of token ids with something to learn: each counts up from its own start."""
    return [[3 + (start * 7 + place) % 500 for place in range(5 + start % 60)] + [2] for start in range(documents)]


@dataclass
class Attempt:
    """The ranks of one attempt.

    `failure` is the exit code of the rank that failed first. Others may have been ended for it before they
    failed themselves, so tests of several ranks look at it, not at `exit_codes`.
    """

    run: RunDir
    number: int
    processes: list[Forked] = field(default_factory=list)
    failure: int | None = None

    def wait(self) -> list[int | None]:
        """Wait for all ranks; when one fails the others are ended, as srun does it."""
        deadline = time.monotonic() + PATIENCE
        while alive := [process for process in self.processes if process.poll() is None]:
            self._note_failure()
            if self.failure is not None or time.monotonic() > deadline:
                self.kill()
            alive[0].wait(0.05)
        self._note_failure()
        return self.exit_codes

    def _note_failure(self) -> None:
        if self.failure is None:
            failures = (process.poll() for process in self.processes)
            self.failure = next((code for code in failures if code not in (None, FINISHED, CONTINUE)), None)

    @property
    def exit_codes(self) -> list[int | None]:
        """How the ranks ended."""
        return [process.returncode for process in self.processes]

    def kill(self) -> None:
        """End all ranks without a chance to say anything."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()

    def log(self, rank: int = 0) -> str:
        """What a rank printed."""
        return self.run.rank_log(self.number, rank).read_text(errors="replace")

    def wait_for_step(self, step: int) -> None:
        """Wait until a step of this attempt is in metrics.jsonl."""
        what = f"step {step} of attempt {self.number}"
        wait_for(lambda: max(self.steps(), default=0) >= step or self.processes[0].poll() is not None, what)
        assert max(self.steps(), default=0) >= step, self.log()

    def steps(self) -> list[int]:
        """Steps that this attempt logged."""
        return [row["step"] for row in read_json_lines(self.run.metrics) if row["attempt"] == self.number]


def start(
    run: RunDir, ranks: int = 1, nodes: int = 1, attempt: int = 0, program: Sequence[str] = ("-m", "jobs")
) -> Attempt:
    """Start the ranks of an attempt.

    Args:
        run: The run.
        ranks: World size.
        nodes: Over how many nodes the ranks believe to be spread.
        attempt: Its number.
        program: What `python` is told to carry out.
    """
    port, arguments = free_port(), [str(run.root), "--attempt", str(attempt)]
    run.attempt_logs(attempt).mkdir(parents=True, exist_ok=True)
    started = Attempt(run, attempt)
    for rank in range(ranks):
        environ, log = rank_environment(rank, ranks, nodes, port), run.rank_log(attempt, rank)
        started.processes.append(Forked([*program, *arguments], environ, log))
    return started


def train(run: RunDir, ranks: int = 1, nodes: int = 1, attempt: int = 0) -> Attempt:
    """Run an attempt to its end."""
    started = start(run, ranks, nodes, attempt)
    started.wait()
    return started


HELD_AT = """
import runpy, time
from jobs.train import stop_callback as control
agree = control.StepControl.on_step_end
def hold(self, args, state, control, **others):
    while state.global_step >= min({step}, state.max_steps) and (self._run.root / "held").exists():
        time.sleep(0.02)
    agree(self, args, state, control, **others)
control.StepControl.on_step_end = hold
runpy.run_module("jobs", run_name="__main__", alter_sys=True)
"""


@contextmanager
def held_at(run: RunDir, step: int, ranks: int, attempt: int = 0) -> Iterator[Attempt]:
    """Start an attempt that goes no further than to the end of a step until this test has done what it does."""
    (run.root / "held").touch()
    yield start(run, ranks, attempt=attempt, program=("-c", HELD_AT.format(step=step)))
    (run.root / "held").unlink()


STOPS_AT = """
import sys
import jobs.__main__ as task
from jobs.train import stop_callback as control
agree = control.StepControl.on_step_end
def stop(self, args, state, control, **others):
    if state.global_step == {step}:
        self._run.stop_request.touch()
    agree(self, args, state, control, **others)
control.StepControl.on_step_end = stop
sys.exit(task.main())
"""


def stop_at(run: RunDir, step: int, ranks: int = 1, nodes: int = 1, attempt: int = 0, preamble: str = "") -> Attempt:
    """Have an attempt stopped by a STOP file that is there at the end of a step."""
    stopped = start(run, ranks, nodes, attempt, program=("-c", preamble + STOPS_AT.format(step=step)))
    assert stopped.wait() == [CONTINUE] * ranks, stopped.log()
    run.stop_request.unlink()
    return stopped


STOPS_IN_EVALUATION = """
import os, signal, sys
import jobs.__main__ as task
from jobs.rank.stop_flag import STOP
from jobs.train import stop_callback as control
STOP.install()
agree = control.StepControl.on_prediction_step
def stop(self, args, state, control, **others):
    if state.global_step == {step}:
        batches.append(1)
        print("batch", len(batches), "of the evaluation", flush=True)
        if len(batches) == {batch} and self._group.rank == {rank}:
            os.kill(os.getpid(), signal.SIGUSR2)
    agree(self, args, state, control, **others)
batches = []
control.StepControl.on_prediction_step = stop
sys.exit(task.main())
"""


def stop_in_evaluation(run: RunDir, step: int, batch: int, ranks: int = 1, attempt: int = 0) -> Attempt:
    """Have the last rank alone asked to stop in the middle of the evaluation at a step, which is left after a batch."""
    program = STOPS_IN_EVALUATION.format(step=step, batch=batch, rank=ranks - 1)
    stopped = start(run, ranks, attempt=attempt, program=("-c", program))
    assert stopped.wait() == [CONTINUE] * ranks, stopped.log()
    assert stopped.log().count("of the evaluation") == batch, "the time left is for saving"
    return stopped


def preempted_once(run: RunDir, ranks: int = 1, nodes: int = 1, step: int = 4) -> None:
    """Train a run to its end in two attempts, the first of which is stopped at a step."""
    stop_at(run, step, ranks, nodes)
    last = train(run, ranks, nodes, attempt=1)
    assert last.exit_codes == [FINISHED] * ranks
    assert last.steps()[0] == step + 1


def preempt_at(run: RunDir, step: int, ranks: int, rank: int) -> Attempt:
    """Let one rank alone of the first attempt hear of a preemption, at a step or up to two later."""
    with held_at(run, step + 2, ranks) as preempted:
        preempted.wait_for_step(step)
        preempted.processes[rank].send_signal(signal.SIGUSR2)
    assert preempted.wait() == [CONTINUE] * ranks
    return preempted


def kill_at(run: RunDir, step: int, ranks: int = 1, attempt: int = 0) -> Attempt:
    """Kill all ranks of an attempt, at a step or up to two later."""
    with held_at(run, step + 2, ranks, attempt) as killed:
        killed.wait_for_step(step)
        killed.kill()
    assert killed.wait() == [-signal.SIGKILL] * ranks
    return killed


def losses(run: RunDir) -> dict[int, float]:
    """Loss by step, the last attempt's word where steps were done again."""
    return {row["step"]: row["loss"] for row in read_json_lines(run.metrics)}


def free_port() -> int:
    """A port that nothing listens on now, below those that the kernel gives to connections."""
    ports = own_ports(range(10_000, 20_000))
    return choose_port(random.SystemRandom().choice(ports[::2]), (ports[0], ports[-1]))


def rank_environment(rank: int, ranks: int, nodes: int, port: int) -> dict[str, str]:
    """Environment of a rank, its place in torchrun's words."""
    per_node = ranks // nodes
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "WANDB_"))},
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank % per_node),
        "LOCAL_WORLD_SIZE": str(per_node),
        "NODE_RANK": str(rank // per_node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ASSETS.parents[1]),
    }
