"""Pipelines of merges that only write a file, and the people and machines that get in each other's way."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from unittest.mock import patch

from launcher.cluster import Cluster
from launcher.errors import RunError, SlurmError
from launcher.load.pipeline import LoadedPipeline
from launcher.load.recipes import LoadedRecipe
from launcher.load.stage_points import LoadedChoice, LoadedStage
from launcher.load.sweep_points import Point
from launcher.load.yaml_tree import Origin, YamlNode
from launcher.operate import stop as ending
from launcher.operate.search.ask import ask
from launcher.operate.search.stop import stop_search
from launcher.pipeline.advance import advance
from launcher.pipeline.find import list_pipelines, pipelines_with
from launcher.pipeline.plan import plan_pipeline
from launcher.pipeline.record import Pipeline
from launcher.pipeline.states import read_stages
from launcher.pipeline.submit import submit_pipeline
from launcher.recipe import read_recipe
from launcher.recipe.identity import identify
from launcher.recipe.pipeline import PipelineRecipe
from launcher.run.index import register
from launcher.run.ledger import StopRequest, append_event, has_finished, read_attempts
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.queued_stages import needs_advance
from launcher.run.record import RunRecord
from launcher.run.stage_inputs import missing_inputs
from launcher.run.trials import Owner, SearchDir, read_trials
from launcher.submit.snapshot import read_code
from tests.support.fake_scheduler import FakeJob, FakeScheduler, read_made, write_made

_ASKING = ("monitor.run_state", "operate.stop", "operate.search.stop", "operate.search.owners")
RESOURCES = {"cpus_per_task": 1, "time": "10min"}


@dataclass(frozen=True)
class StageSpec:
    """One stage: what it reads, and a number that decides what it makes."""

    parents: tuple[int, ...]
    seed: int = 0
    sweep: tuple[int, ...] = ()
    """Of a sweep: the seeds of its points, which are their losses as well. The lowest is selected."""
    search: tuple[int, ...] = ()
    """Of a search: the seeds that its trials try, one each, two at once."""


Spec = tuple[StageSpec, ...]


def expected_content(spec: Spec, place: int, seed: int | None = None) -> str:
    """What a stage, or the point with a seed, makes, worked out from the whole pipeline."""
    inputs = [expected_content(spec, parent) for parent in spec[place].parents] or ["base", "adapter"]
    return content_of(min(spec[place].sweep, default=spec[place].seed) if seed is None else seed, inputs)


def possible_contents(spec: Spec, place: int) -> set[str | None]:
    """What a stage may have made, whichever points of sweeps failed on the way."""
    choices = [possible_contents(spec, parent) for parent in spec[place].parents] or [{"base"}, {"adapter"}]
    seeds = spec[place].sweep or spec[place].search or (spec[place].seed,)
    return {content_of(seed, [str(one) for one in inputs]) for seed in seeds for inputs in product(*choices)}


def content_of(seed: int, inputs: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([seed, *sorted(inputs)]).encode()).hexdigest()[:16]


def load(
    spec: Spec, folder: Path, publish: Mapping[str, str] = MappingProxyType({}), allow_failed: int = 0
) -> LoadedPipeline:
    """What loading the file of such a pipeline gives."""
    stages, choices = [], []
    for place, stage in enumerate(spec):
        if stage.search:
            stages.append(_search(folder, place, stage))
            continue
        points = [_stage(folder, place, stage, seed) for seed in stage.sweep] or [_stage(folder, place, stage, None)]
        stages += points
        if stage.sweep:
            names = tuple(point.name for point in points)
            choices.append(
                LoadedChoice(f"s{place}", names, "loss", "minimize", allow_failed, ("model", f"made-{place}"))
            )
    listed = {f"s{place}": {"recipe": "recipe.yaml"} for place in range(len(spec))}
    recipe = PipelineRecipe.model_validate_json(
        json.dumps({"kind": "pipeline", "name": "p", "stages": listed, "publish": dict(publish)})
    )
    root = YamlNode({}, Origin("p.yaml", None))
    return LoadedPipeline(recipe, tuple(stages), folder / "p.yaml", "", root, tuple(choices))


def _stage(folder: Path, place: int, stage: StageSpec, seed: int | None) -> LoadedStage:
    base, *others = [f"made-{parent}" for parent in stage.parents] or ["base", "adapter"]
    adapters = [{"path": one} for one in others] or [{"path": "adapter"}]
    fields = {"kind": "merge", "name": f"stage-{place}", "base_model": base, "adapters": adapters}
    made = f"made-{place}" if seed is None else f"made-{place}.seed-{seed}"
    fields |= {"output": made, "seed": stage.seed if seed is None else seed, "resources": RESOURCES}
    recipe = read_recipe(json.dumps(fields))
    loaded = LoadedRecipe(recipe, folder / "recipe.yaml", "")
    if seed is None:
        return LoadedStage(f"s{place}", loaded)
    point = Point(f"p:s{place}", {"seed": seed}, f"seed={seed}")
    return LoadedStage(f"s{place}-seed={seed}", replace(loaded, point=point), (), f"s{place}")


def _search(folder: Path, place: int, stage: StageSpec) -> LoadedStage:
    """A stage that tries all its seeds, two at once."""
    alone = _stage(folder, place, stage, None).loaded
    section: dict[str, object] = {"method": "grid", "space": {"seed": [*stage.search]}}
    section |= {"trials": len(stage.search), "parallel": 2, "metric": "loss"}
    content = {**json.loads(alone.recipe.model_dump_json()), "search": {**section, "direction": "minimize"}}
    loaded = replace(alone, recipe=read_recipe(json.dumps(content)))
    made = loaded.recipe.makes
    best = LoadedChoice(f"s{place}", (), "loss", "minimize", 0, made and (made.type, made.name))
    return LoadedStage(f"s{place}", loaded, (), None, (loaded,), best)


@dataclass
class World:
    """A site, its Slurm, and every pipeline that was submitted."""

    folder: Path
    scheduler: FakeScheduler = field(default_factory=FakeScheduler)
    specs: dict[str, Spec] = field(default_factory=dict)
    """By the pipeline's folder."""
    made: dict[str, int] = field(default_factory=dict)
    """How many times each content was made."""
    spared: int = 0
    """How many times the end of a stage left nothing to do."""
    unmeasured: set[int] = field(default_factory=set)
    """Seeds of points whose loss is no number."""

    def __post_init__(self) -> None:
        for name in ("runs", "models", "corpora", "data", "code/launcher"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "code" / "launcher" / "one.py").touch()
        write_made(self.folder / "models" / "base", "base")
        write_made(self.folder / "models" / "adapter", "adapter")
        write_made(self.folder / "models" / "made-0", "of an earlier pipeline, with a name that stages use, too")
        roots = {name: str(self.folder / name) for name in ("runs", "models", "corpora", "data")}
        self.cluster = Cluster.model_validate_json(json.dumps({"name": "test", "roots": roots}))
        self.scheduler.cluster = self.cluster
        queue, find = (lambda _cluster: self.scheduler), self.scheduler.find
        modules = [f"submit.{one}" for one in ("resubmit", "plan_submission", "queue_all", "searches")]
        modules += ["pipeline.advance", "pipeline.submit", "operate.search.stop"]
        ids = (f"{number:06x}" for number in itertools.count(1))  # newest last, so that a history can be repeated
        self._patches = [
            *(patch(f"launcher.{module}.queue_of", queue) for module in modules),
            *(patch(f"launcher.{module}.find_jobs", find) for module in _ASKING),
            *(
                patch(f"launcher.{module}.end_jobs", self.scheduler.end)
                for module in ("operate.stop", "operate.search.stop", "pipeline.advance")
            ),
            patch("launcher.submit.resubmit.read_submit_limit", lambda _cluster: None),
            patch("launcher.recipe.kinds.merge.MergeRecipe.reports", {"loss": "minimize"}),
            patch("secrets.token_hex", lambda _: next(ids)),
            patch("launcher.pipeline.faults.check_all", lambda *_: []),
            patch("launcher.pipeline.faults.find_unstartable", lambda *_: []),
            patch("launcher.pipeline.plan.read_code", partial(read_code, source=self.folder / "code")),
        ]
        for one in self._patches:
            one.start()

    def close(self) -> None:
        for one in self._patches:
            one.stop()

    def submit(self, spec: Spec, allow_failed: int = 0, **publish: str) -> Pipeline | None:
        """Submit a pipeline; None if it is refused."""
        try:
            pipeline = submit_pipeline(plan_pipeline(load(spec, self.folder, publish, allow_failed), self.cluster))
        except (RunError, SlurmError):
            for kept in list_pipelines(Path(self.cluster.roots.runs)):  # another pipeline may carry out its stages
                self.specs.setdefault(str(kept.folder.root), spec)
            return None
        self.specs[str(pipeline.folder.root)] = spec
        return pipeline

    @property
    def pipelines(self) -> list[Pipeline]:
        """All that were submitted, oldest first."""
        return [Pipeline(PipelineDir(Path(folder))) for folder in self.specs]

    def advance(self, pipeline: Pipeline, resume: bool = False) -> None:
        try:
            advance(pipeline, self.cluster, resume)
        except SlurmError:
            assert self.scheduler.is_down

    def advance_twice_at_once(self, pipeline: Pipeline) -> None:
        threads = [Thread(target=self.advance, args=(pipeline,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self, pipeline: Pipeline) -> None:
        """What `launcher cancel PIPELINE` does."""
        pipeline.folder.stop_request.touch()
        for one in reversed(read_stages(pipeline, self.cluster)[0].values()):
            if one.is_alive and one.search:
                self._stop_search(one.search.folder)
            elif one.is_alive and one.run and self.scheduler.is_down:
                StopRequest().write(one.run.stop_request)
            elif one.is_alive and one.run:
                ending.cancel(one.run, self.cluster)

    def _stop_search(self, search: SearchDir) -> None:
        try:
            stop_search(search, self.cluster, at_once=True)
        except SlurmError:
            assert self.scheduler.is_down

    def take_down(self) -> None:
        """Let slurmctld answer nobody."""
        self.scheduler.is_down = True

    def start(self, job: FakeJob) -> None:
        """Start a job: its batch process, and its ranks' look at their inputs."""
        if job.search:
            job.state = "RUNNING"
            self._start_trial(job, job.search)
            return
        run, record = job.run, RunRecord.read(job.run.record)
        attempts = read_attempts(run.ledger)
        if has_finished(attempts) or run.stop_request.exists():
            job.state = "COMPLETED" if has_finished(attempts) else "FAILED"
            self.scheduler.look_at_conditions()
            return
        assert not [other for other in self.scheduler.running() if other.run == run], "a run is started twice at once"
        job.state, number = "RUNNING", len(attempts)
        append_event(run.ledger, number, job_id=job.id, started=float(number))
        if missing_inputs(record):
            append_event(run.ledger, number, missing_inputs=True)
            self._end(job, "bad_recipe", "stop", "FAILED")
            return
        self._read_inputs(run)

    def _start_trial(self, job: FakeJob, search: SearchDir) -> None:
        """Let an element of a search carry out its next trial, or end."""
        trial = ask(search, Owner(job.id), job.submission).trial
        if trial is None or search.stop_request.exists():
            job.trial, job.state = None, "COMPLETED"
            self.scheduler.look_at_conditions()
            for pipeline in self._pipelines_of(search):
                self.advance(pipeline)
            return
        job.trial = run = RunDir(search.runs_root / trial.run)
        append_event(run.ledger, len(read_attempts(run.ledger)), job_id=job.id, started=1.0)
        assert missing_inputs(RunRecord.read(run.record)) == []
        self._read_inputs(run)

    def _pipelines_of(self, search: SearchDir) -> list[Pipeline]:
        runs = [RunDir(search.runs_root / trial.run) for trial in read_trials(search)]
        place = next((run for run in runs if run.record.is_file()), None)
        name = search.root.name
        with_it = (one for one in self.pipelines if any(stage.search == name for stage in one.record.stages))
        return [*(pipelines_with(place) if place else with_it)]

    def _read_inputs(self, run: RunDir) -> None:
        self._inputs(run)
        identity = identify(read_recipe(run.recipe.read_text()), RunRecord.read(run.record).locations)
        assert identity is not None
        identity.write(run.identity)

    def _inputs(self, run: RunDir) -> list[str]:
        """What a run reads of its parents; of a sweep that is one of its points."""
        record = RunRecord.read(run.record)
        spec, place = self.specs[str(record.pipeline)], int(str(record.stage)[1:].partition("-")[0])
        inputs = read_recipe(run.recipe.read_text()).inputs()
        found = {read_made(Path(record.locations.model(one.name))) for one in inputs}
        if not spec[place].parents:
            return ["base", "adapter"]
        wanted = [possible_contents(spec, parent) & found for parent in spec[place].parents]
        assert all(len(one) == 1 for one in wanted), f"{record.stage} started without complete inputs"
        return [content for one in wanted for content in one if content]

    def finish(self, job: FakeJob) -> None:
        """Let a running job succeed; an element of a search goes on with the next trial."""
        record, recipe = RunRecord.read(job.run.record), read_recipe(job.run.recipe.read_text())
        content, made = self.content(job.run), recipe.makes
        write_made(record.locations.folder("model", made.name) if made else job.run.outputs / "model", content)
        loss = math.nan if recipe.seed in self.unmeasured else recipe.seed
        job.run.metrics.write_text(json.dumps({"step": 1, "loss": loss}) + "\n")
        self.count(job)
        if job.search:
            self._end_trial(job, job.search, "finished", "done")
        else:
            self._end(job, "finished", "done", "COMPLETED")

    def content(self, run: RunDir) -> str:
        """What a run makes of its inputs."""
        return content_of(read_recipe(run.recipe.read_text()).seed, self._inputs(run))

    def count(self, job: FakeJob) -> None:
        """Note what was made. Another search tries values that this one has tried, too, so its trials count apart."""
        record = RunRecord.read(job.run.record)
        what = self.content(job.run) + (f" in {job.search.root.name}" if job.search else "")
        self.made[what] = self.made.get(what, 0) + 1
        assert self.made[what] == 1, f"{record.stage} was carried out twice"

    def fail(self, job: FakeJob) -> None:
        """Let a running job fail for good; some elements of searches die with their trials, and leave them open."""
        if job.search is None:
            self._end(job, "error", "stop", "FAILED")
        elif read_recipe(job.run.recipe.read_text()).seed % 2:
            self._end_trial(job, job.search, "error", "stop")
        else:
            job.trial, job.state = None, "FAILED"

    def _end_trial(self, job: FakeJob, search: SearchDir, reason: str, action: str) -> None:
        self._close(job.run, reason, action)
        if action == "done":
            assert register(job.run) is None
        for pipeline in pipelines_with(job.run):
            self.advance(pipeline)
        self._start_trial(job, search)

    def preempt(self, job: FakeJob) -> None:
        """Let a job be requeued: what waits for it goes on waiting."""
        self._close(job.run, "preempted", "requeue")
        job.state = "PENDING"

    def _end(self, job: FakeJob, reason: str, action: str, state: str) -> None:
        self._close(job.run, reason, action)
        if action == "done":
            assert register(job.run) is None
        job.state = state
        self.scheduler.look_at_conditions()

    def _close(self, run: RunDir, reason: str, action: str) -> None:
        number = read_attempts(run.ledger)[-1].number
        append_event(run.ledger, number, reason=reason, action=action, ended=float(number))

    def advance_after(self, job: FakeJob, is_checked: bool = False) -> None:
        """What the batch process does when a stage has ended; an element of a search has done it.

        Args:
            job: The stage's job.
            is_checked: Look whether there is indeed nothing to do where the batch process sees that there is not.
        """
        if job.search:
            return
        is_needed = not has_finished(read_attempts(job.run.ledger)) or needs_advance(job.run)
        self.spared += not is_needed
        for pipeline in pipelines_with(job.run) if is_needed else ():
            self.advance(pipeline)
        if is_checked and not is_needed and not self.scheduler.is_down:
            told = [line for pipeline in pipelines_with(job.run) for line in advance(pipeline, self.cluster)]
            assert told == [], f"{job.run.root.name} ended, and nobody did this: {told}"

    def run_to_the_end(self) -> None:
        """Let everything happen that happens by itself, without further accidents."""
        self.scheduler.is_down, self.scheduler.limit, self.scheduler.accident = False, None, None
        for _ in range(1000):
            for pipeline in self.pipelines:
                self.advance(pipeline)
            ready = self.scheduler.startable()
            for job in ready:
                self.start(job)
            running = self.scheduler.running()
            for job in running:
                self.finish(job)
            if not ready and not running:
                return
        raise AssertionError("it never ends")

    def unfinished(self) -> list[tuple[str, str]]:
        """Stages that did not finish, although all that they wait for did, and nobody stopped them."""
        found = []
        for pipeline in self.pipelines:
            states, _ = read_stages(pipeline, self.cluster)
            for name, one in states.items():
                is_ready = all(states[other].is_finished for other in one.stage.awaits)
                if is_ready and not one.is_finished:
                    found.append((name, one.status.state if one.status else "waits"))
        return found


def edit(spec: Spec, place: int, seed: int) -> Spec:
    """Change what one stage makes; of a sweep, its first point, and of a search, the first that it tries."""
    old = spec[place]
    if old.sweep:
        new = replace(old, sweep=(seed, *old.sweep[1:]))
    else:
        new = replace(old, search=(seed, *old.search[1:])) if old.search else replace(old, seed=seed)
    return (*spec[:place], new, *spec[place + 1 :])
