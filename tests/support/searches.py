"""Searches whose trials are a formula, and processes that carry them out and may be killed anywhere."""

import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import Any

from launcher.cluster import Cluster
from launcher.operate.search.ask import Offer, ask
from launcher.operate.search.owners import describe_owner
from launcher.recipe import Recipe
from launcher.run.ledger import append_event, read_attempts, read_json_lines
from launcher.run.paths import RunDir, SubmissionDir
from launcher.run.record import RunRecord
from launcher.run.trials import SearchDir, Trial, read_trials
from launcher.submit.render import Request, render
from launcher.submit.search_record import SearchRecord

PROJECT = Path(__file__).parents[2]
STEPS = (1, 2, 3)
SPACE = {"optim.lr": {"low": 1e-6, "high": 1e-1, "scale": "log"}, "optim.weight_decay": {"low": 0.0, "high": 1.0}}
_FORK = multiprocessing.get_context("fork")


def objective(recipe: dict[str, Any]) -> float:
    """What a trial of this recipe comes to."""
    return bowl(recipe["optim"]["lr"], recipe["optim"]["weight_decay"])


def bowl(rate: float, decay: float) -> float:
    """0 at a learning rate of 1e-3 and a weight decay of 0.3."""
    return (math.log10(rate) + 3) ** 2 + 4 * (decay - 0.3) ** 2


def section_of(**section: Any) -> dict[str, Any]:
    """The `search` of a recipe, with some keys replaced."""
    defaults = {"method": "random", "space": SPACE, "trials": 8, "metric": "validation_loss", "pruner": None}
    return defaults | section


def make_search(folder: Path, cluster: Cluster, recipe: Recipe, **section: Any) -> tuple[SearchDir, SubmissionDir]:
    """Write what a search leaves when it is submitted."""
    search = SearchDir(folder / "runs" / ".sweeps" / recipe.name)
    submission = SubmissionDir(folder / "runs" / ".submissions" / "1")
    for path in (search.trials, search.staging, search.elements, submission.root):
        path.mkdir(parents=True, exist_ok=True)
    submission.script.write_text("")
    content = json.loads(recipe.model_dump_json())
    SearchRecord(
        name=recipe.name,
        section=section_of(**section),
        direction="minimize",
        recipe=content,
        text="",
        path=str(folder / "recipe.yaml"),
        cluster=cluster.model_dump(mode="json"),
        code=str(folder / "code"),
        commit=None,
        rehearsal=False,
        is_open=True,
    ).write(search.record)
    return search, submission


@dataclass(frozen=True)
class Element:
    """One element of a search: this process."""

    search: SearchDir
    submission: SubmissionDir

    @property
    def job(self) -> str:
        return f"local-{os.getpid()}"

    def ask(self) -> Offer:
        return ask(self.search, describe_owner(self.job), self.submission)

    def run_of(self, trial: Trial) -> RunDir:
        return RunDir(self.search.runs_root / trial.run)

    def carry_out(self, trial: Trial) -> None:
        """Do what a batch process and rank 0 write into a run directory."""
        run = self.run_of(trial)
        recipe, number = json.loads(run.recipe.read_bytes()), len(read_attempts(run.ledger))
        assert not any(one.reason == "finished" for one in read_attempts(run.ledger)), f"{run.root} is done twice"
        append_event(run.ledger, number, job_id=self.job, started=time.time(), nodes=[os.uname().nodename])
        for step in STEPS:
            append_row(run.evaluations, {"step": step, "validation_loss": objective(recipe) + (STEPS[-1] - step)})
        append_event(run.ledger, number, reason="finished")
        append_event(run.ledger, number, ended=time.time(), action="done")

    def work(self) -> None:
        """Carry out trials as long as there are any."""
        while trial := self.ask().trial:
            self.carry_out(trial)


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append a line, on a new one if a kill tore the last."""
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("ab", buffering=0) as file:
        os.write(file.fileno(), b"\n" * torn + json.dumps(row).encode() + b"\n")


def start(element: Element, dies_at: int | None = None) -> ForkProcess:
    """Start an element as a process of its own.

    Args:
        element: Its search.
        dies_at: Kill it at the so-manieth line, counted over what it does with files; a line that writes, writes half.
    """
    process = _FORK.Process(target=_become, args=(element, dies_at))
    process.start()
    return process


def _become(element: Element, dies_at: int | None) -> None:
    if dies_at is not None:
        _die_at(dies_at)
    element.work()
    os._exit(0)


_FILES = (
    "operate/search/ask.py",
    "run/trials.py",
    "run/files.py",
    "run/ledger.py",
    "run/record.py",
    "submit/freeze.py",
)


def _die_at(line: int) -> None:
    """Have this process killed at a line of the modules that claim and write; in a write, after half of it."""
    left, write = [line], os.write

    def half(descriptor: int, content: Any) -> int:
        if left[0] <= 1:
            write(descriptor, bytes(content)[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(descriptor, content)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.endswith((*_FILES, "support/searches.py")):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    os.write = half  # type: ignore[assignment]
    sys.settrace(trace)


def check_whole(search: SearchDir, trials: int) -> dict[int, float]:
    """Insist that no trial is lost, doubled or unreadable, and each finished once; return what they came to."""
    found = {}
    names = sorted(path.name for path in search.trials.glob("[0-9]*.json") if "owner" not in path.name)
    assert names == [f"{number:05d}.json" for number in range(trials)]
    runs = {path.name for path in search.runs_root.iterdir() if not path.name.startswith(".")}
    claimed = [json.loads((search.trials / name).read_bytes()) for name in names]
    assert sorted(one["run"] for one in claimed) == sorted(runs), "a run without a trial, or the other way round"
    for one in claimed:
        run = RunDir(search.runs_root / one["run"])
        recipe, record = json.loads(run.recipe.read_bytes()), RunRecord.read(run.record)
        assert (record.fingerprint, record.point) == (one["fingerprint"], one["values"])
        assert {f"optim.{key}": recipe["optim"][key] for key in ("lr", "weight_decay")} == one["values"]
        assert [attempt.reason for attempt in read_attempts(run.ledger)].count("finished") == 1
        found[one["number"]] = objective(recipe)
    return found


@dataclass(frozen=True)
class StagedSearch:
    """A search whose ranks are a formula (support/searched_jobs), and its submission."""

    search: SearchDir
    submission: SubmissionDir

    def run(self, number: int) -> RunDir:
        return RunDir(self.search.runs_root / read_trials(self.search)[number].run)

    def hold(self, number: int) -> Path:
        """Let a trial wait after its second step, as long as this file exists."""
        path = self.search.runs_root / f"hold-{number}"
        path.touch()
        return path

    def waits(self, number: int) -> bool:
        """Tell whether a trial has come to where it is held."""
        there = len(read_trials(self.search)) > number
        return there and [row["step"] for row in read_json_lines(self.run(number).evaluations)] == [1, 2]


def stage_search(
    folder: Path, cluster: Cluster, recipe: Recipe, rates: Sequence[float], elements: int = 1, **section: Any
) -> StagedSearch:
    """Write a search of a list of learning rates, unless `section` says otherwise, with the script that sbatch gets."""
    grid = {"method": "grid", "space": {"optim.lr": [*rates]}, "trials": len(rates)}
    found = make_search(folder, cluster, recipe, **grid | section)
    staged = StagedSearch(*found)
    (folder / "code").symlink_to(PROJECT / "tests" / "support" / "searched_jobs")
    row = json.dumps({"search": str(staged.search.root)}) + "\n"
    staged.submission.manifest.write_text(row * elements)
    request = Request((recipe,) * elements, sweep=recipe.name)
    staged.submission.script.write_text(render(request, cluster, staged.submission, PROJECT, sys.executable))
    (staged.search.elements / staged.submission.root.name).touch()
    return staged
