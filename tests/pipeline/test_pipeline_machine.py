"""Whatever people and machines do in whatever order: no stage starts early, none succeeds twice, and all end.

A failure prints `@reproduce_failure(...)`; written above the class of the machine, it repeats that history alone.
"""

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.support.fake_scheduler import FakeJob
from tests.support.fake_stages import Spec, StageSpec, World, edit

KINDS = ["sweep", "search"]
"""Of stages that are several runs."""


@st.composite
def specs(draw: st.DrawFn, most: int) -> Spec:
    """Pipelines in which a stage reads what up to three earlier ones make; many have sweeps and searches."""
    stages, sizes, kinds = [], draw(st.sampled_from([[0], [0, 0, 2, 3]])), draw(st.sampled_from([["sweep"], KINDS]))
    for place in range(draw(st.integers(1, most))):
        parents = draw(st.lists(st.integers(0, place - 1), max_size=3, unique=True)) if place else []
        seeds = tuple(range(50 * place + 1000, 50 * place + 1000 + draw(st.sampled_from(sizes))))
        stages.append(StageSpec(tuple(sorted(parents)), place, **{draw(st.sampled_from(kinds)): seeds}))
    return tuple(stages)


class PipelineMachine(RuleBasedStateMachine):
    """People who submit, edit, cancel and resume; jobs that start and end; a Slurm that forgets and goes away."""

    most_stages = 8

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pipelines-"))
        self.world = World(self.folder)
        self.seeds = 100

    @initialize(data=st.data())
    def write(self, data: st.DataObject) -> None:
        self.spec = data.draw(specs(self.most_stages))
        assert self.world.submit(self.spec)

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        self.seeds += 1
        self.spec = edit(self.spec, data.draw(st.integers(0, len(self.spec) - 1)), self.seeds)

    @precondition(lambda self: len(self.world.pipelines) < 4)
    @rule()
    def submit(self) -> None:
        self.world.submit(self.spec)

    @precondition(lambda self: self.world.scheduler.startable())
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.world.start(self._pick(data, self.world.scheduler.startable()))

    @precondition(lambda self: self.world.scheduler.running())
    @rule(
        data=st.data(),
        how=st.sampled_from(["finish", "finish", "finish", "fail", "preempt"]),
        tells=st.booleans(),
        is_checked=st.booleans(),
    )
    def end(self, data: st.DataObject, how: str, tells: bool, is_checked: bool) -> None:
        job = self._pick(data, self.world.scheduler.running())
        {"finish": self.world.finish, "fail": self.world.fail, "preempt": self.world.preempt}[how](job)
        if tells and how != "preempt":  # else its node died before it could
            self.world.advance_after(job, is_checked)

    @rule(data=st.data(), most=st.integers(1, 6), is_checked=st.booleans())
    def let_some_stages_go_well(self, data: st.DataObject, most: int, is_checked: bool) -> None:
        for _ in range(most):
            if startable := self.world.scheduler.startable():
                job = self._pick(data, startable)
                self.world.start(job)
                if job.state == "RUNNING":
                    self.world.finish(job)
                self.world.advance_after(job, is_checked)

    @rule(data=st.data(), twice=st.booleans())
    def advance(self, data: st.DataObject, twice: bool) -> None:
        pipeline = self._pick(data, self.world.pipelines)
        (self.world.advance_twice_at_once if twice else self.world.advance)(pipeline)

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.world.advance(self._pick(data, self.world.pipelines), resume=True)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.world.stop(self._pick(data, self.world.pipelines))

    @rule()
    def forget_ended_jobs(self) -> None:
        self.world.scheduler.forget()

    @rule()
    def restart_the_controller(self) -> None:
        scheduler = self.world.scheduler
        if scheduler.is_down:
            scheduler.restart()
        else:
            self.world.take_down()

    @precondition(lambda self: self.world.scheduler.running())
    @rule(data=st.data())
    def fail_and_be_forgotten_while_another_is_queued(self, data: st.DataObject) -> None:
        job = self._pick(data, self.world.scheduler.running())
        self.world.scheduler.accident = partial(self._fail_and_forget, job)

    def _fail_and_forget(self, job: FakeJob) -> None:
        if job.state == "RUNNING":
            self.world.fail(job)
            self.world.scheduler.forget()

    @rule(limit=st.sampled_from([None, 1, 2, 4]))
    def limit_the_queue(self, limit: int | None) -> None:
        self.world.scheduler.limit = limit

    def _pick(self, data: st.DataObject, among: list[Any]) -> Any:
        return among[data.draw(st.integers(0, len(among) - 1))]

    @invariant()
    def no_content_was_made_twice(self) -> None:
        assert all(count == 1 for count in self.world.made.values())

    def teardown(self) -> None:
        try:
            if self.world.pipelines:
                self._end_everything()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)

    def _end_everything(self) -> None:
        self.world.run_to_the_end()
        left = {state for _, state in self.world.unfinished()}
        assert left <= {"failed", "stopped", "lost", "not submitted", "queued", "waits"}
        for pipeline in self.world.pipelines:
            self.world.advance(pipeline, resume=True)
        self.world.run_to_the_end()
        assert self.world.unfinished() == []


def test_no_stage_starts_early_none_succeeds_twice_and_all_end() -> None:
    run_state_machine_as_test(
        PipelineMachine, settings=settings(max_examples=15, stateful_step_count=25, print_blob=True)
    )


class LargePipelineMachine(PipelineMachine):
    """The same with more stages."""

    most_stages = 30


@pytest.mark.long
def test_large_pipelines_hold_up_as_well() -> None:
    run_state_machine_as_test(
        LargePipelineMachine, settings=settings(max_examples=100, stateful_step_count=60, print_blob=True)
    )
