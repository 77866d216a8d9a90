"""Histories of the pipeline machine on a real Slurm: people and accidents in any order, and jobs that are real."""

import os
from pathlib import Path
from typing import ClassVar

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


@seed(20261201)
class RealPipelineMachine(PipelineMachine):
    """The machine, whose jobs start by themselves and whose stages tell their pipelines themselves."""

    most_stages = 6
    devcluster: ClassVar[DevCluster]

    @override
    def make_world(self, folder: Path) -> World:
        return RealWorld(folder, devcluster=self.devcluster)

    @rule(data=st.data(), most=st.integers(1, 6), is_checked=st.booleans())
    @override
    def let_some_stages_go_well(self, data: st.DataObject, most: int, is_checked: bool) -> None:
        for _ in range(most):
            if running := self.world.scheduler.running():
                self.world.finish(self._pick(data, running))


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
