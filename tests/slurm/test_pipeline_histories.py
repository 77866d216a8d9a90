"""Histories of pipelines on a real Slurm, with what people and machines do in tests/pipeline/test_pipeline_machine.py.

How far Slurm has got is never the same twice. So a history is drawn before it begins, and its steps say which of the
jobs or pipelines that there are by then is meant: the so-manieth, counted around.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from launcher.devcluster import DevCluster
from tests.pipeline.test_pipeline_machine import specs
from tests.support.fake_stages import Spec, edit
from tests.support.real_stages import RealWorld

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.timeout(3 * 3600)]

HISTORIES = int(os.environ.get("HISTORIES", "20"))
MOST_STAGES, MOST_STEPS, MOST_PIPELINES = 6, 10, 4
DEEDS = ("edit", "submit", "finish", "finish", "finish", "fail", "preempt", "advance", "advance_twice", "resume")
DEEDS += ("cancel", "restart_slurmctld", "take_slurmctld_away")
"""Methods of a history."""


class Step(NamedTuple):
    """What somebody does."""

    deed: str
    place: int
    """Which stage, job or pipeline."""
    jobs: int
    """How many jobs finish."""


STEPS = st.lists(
    st.builds(Step, st.sampled_from(DEEDS), st.integers(0, 59), st.integers(1, 6)), min_size=4, max_size=MOST_STEPS
)


class History:
    """A site on which a history takes place."""

    def __init__(self, world: RealWorld, spec: Spec) -> None:
        self.world, self.spec = world, spec
        assert world.submit(spec)

    def take(self, number: int, step: Step) -> None:
        """Take a step; at every other one slurmctld is there again."""
        self.number, self.step = number, step
        if self.world.scheduler.is_down and number % 2 == 0:
            self.world.scheduler.restart()
        getattr(self, step.deed)()

    def edit(self) -> None:
        self.spec = edit(self.spec, self.step.place % len(self.spec), 100 + self.number)

    def submit(self) -> None:
        if len(self.world.pipelines) < MOST_PIPELINES:
            self.world.submit(self.spec)

    def finish(self) -> None:
        for _ in range(self.step.jobs):
            self._end(self.world.finish)

    def fail(self) -> None:
        self._end(self.world.fail)

    def preempt(self) -> None:
        self._end(self.world.preempt)

    def advance(self) -> None:
        self.world.advance(self._one_of(self.world.pipelines))

    def advance_twice(self) -> None:
        self.world.advance_twice_at_once(self._one_of(self.world.pipelines))

    def resume(self) -> None:
        self.world.advance(self._one_of(self.world.pipelines), resume=True)

    def cancel(self) -> None:
        self.world.stop(self._one_of(self.world.pipelines))

    def restart_slurmctld(self) -> None:
        self.world.scheduler.forget()

    def take_slurmctld_away(self) -> None:
        if not self.world.scheduler.is_down:
            self.world.take_down()

    def _end(self, how: Callable[[Any], None]) -> None:
        if job := self._one_of(self.world.scheduler.running()):
            how(job)

    def _one_of(self, among: list[Any]) -> Any:
        return among[self.step.place % len(among)] if among else None

    def end(self) -> None:
        """Let everything end that goes on by itself, then resume what was stopped or failed."""
        self.world.run_to_the_end()
        for pipeline in self.world.pipelines:
            self.world.advance(pipeline, resume=True)
        self.world.run_to_the_end()
        assert self.world.unfinished() == []


def test_no_stage_starts_early_none_succeeds_twice_and_all_end(devcluster: DevCluster) -> None:
    @seed(20261201)
    @settings(
        max_examples=HISTORIES,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
        deadline=None,
        database=None,
    )
    @given(specs(MOST_STAGES), STEPS)
    def take_place(spec: Spec, steps: list[Step]) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pipelines-"))
        world = RealWorld(folder, devcluster=devcluster)
        try:
            history = History(world, spec)
            for number, step in enumerate(steps):
                history.take(number, step)
            history.end()
        finally:
            world.close()
            shutil.rmtree(folder)

    take_place()
