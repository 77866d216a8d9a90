"""Histories of the pipeline machine on a real Slurm: people and accidents in any order, and jobs that are real."""

import os
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test
from typing_extensions import override

from launcher.devcluster import DevCluster
from tests.pipeline.test_pipeline_machine import PipelineMachine
from tests.support.fake_stages import World
from tests.support.real_stages import RealWorld

pytestmark = [pytest.mark.slurm, pytest.mark.long]

HISTORIES, STEPS = int(os.environ.get("HISTORIES", "20")), 12
PLACES = st.integers(0, 59)
MOST_PIPELINES = 4


@seed(20261201)
class RealPipelineMachine(PipelineMachine):
    """The machine, whose jobs start by themselves and whose stages tell their pipelines themselves."""

    most_stages = 6
    devcluster: ClassVar[DevCluster]

    @override
    def make_world(self, folder: Path) -> World:
        return RealWorld(folder, devcluster=self.devcluster)

    # How far Slurm has got is never the same twice, but Hypothesis wants equal histories to draw equal numbers. So each
    # rule below draws all its numbers whatever there is to choose from, and none has a condition.
    @override
    def _pick(self, data: st.DataObject, among: list[Any]) -> Any:
        place = data.draw(PLACES)
        return among[place % len(among)] if among else None

    @rule()
    @override
    def submit(self) -> None:
        if len(self.world.pipelines) < MOST_PIPELINES:
            self.world.submit(self.spec)

    @rule(
        data=st.data(),
        how=st.sampled_from(["finish", "finish", "fail", "preempt"]),
        tells=st.none(),
        is_checked=st.none(),
    )
    @override
    def end(self, data: st.DataObject, how: str, tells: None, is_checked: None) -> None:
        job = self._pick(data, self.world.scheduler.running())
        if job:
            {"finish": self.world.finish, "fail": self.world.fail, "preempt": self.world.preempt}[how](job)

    @rule(data=st.data(), most=st.integers(1, 6), is_checked=st.none())
    @override
    def let_some_stages_go_well(self, data: st.DataObject, most: int, is_checked: None) -> None:
        for place in data.draw(st.lists(PLACES, min_size=most, max_size=most)):
            if running := self.world.scheduler.running():
                self.world.finish(running[place % len(running)])

    @override
    def fail_and_be_forgotten_while_another_is_queued(self, data: st.DataObject) -> None:
        """Not a rule here: nothing can be put between a look at the queue and sbatch."""

    @override
    def limit_the_queue(self, limit: int | None) -> None:
        """Not a rule here: a limit needs accounting."""

    @override
    def start(self, data: st.DataObject) -> None:
        """Not a rule here: what can start does so by itself."""


@pytest.mark.timeout(2 * 3600)
def test_twenty_histories_end_as_they_do_on_the_fake_slurm(devcluster: DevCluster) -> None:
    RealPipelineMachine.devcluster = devcluster
    how = settings(
        max_examples=HISTORIES,
        stateful_step_count=STEPS,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
        deadline=None,
        database=None,
        print_blob=True,
    )
    run_state_machine_as_test(RealPipelineMachine, settings=how)
