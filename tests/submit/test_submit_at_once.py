"""Several people submit the same at the same moment: one queues it, the others are told, whoever is killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm
from tests.support.submissions import MakeCluster
from tests.support.waiting import wait_for
from tests.support.wanted_runs import WANTED, Wanted

TOLD = {"sweep": "of 3 points 3 queued or running, 0 new", "recipe": "is queued or running as", "pipeline": "under way"}
"""What is said to whoever comes second."""

Start = Callable[[Wanted], "Person"]


class Person:
    """A `launcher submit` in a process group of its own."""

    def __init__(self, wanted: Wanted, log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            argv = [sys.executable, "-m", "launcher", *wanted.argv]
            self.process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    @property
    def was_told(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait(self) -> int:
        return self.process.wait()

    def kill(self) -> None:
        """Kill it, and the sbatch that it waits for."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(params=WANTED)
def what(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def wanted(what: str, tmp_path: Path, make_cluster: MakeCluster, fake_slurm: FakeSlurm) -> Wanted:
    return Wanted.write(what, tmp_path, make_cluster(), fake_slurm)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    people: list[Person] = []

    def begin(wanted: Wanted) -> Person:
        people.append(Person(wanted, tmp_path / f"person-{len(people)}.log"))
        return people[-1]

    yield begin
    for person in people:
        if person.process.poll() is None:
            person.kill()


def test_whoever_comes_while_another_queues_waits_and_queues_nothing_twice(
    what: str, wanted: Wanted, start: Start, fake_slurm: FakeSlurm
) -> None:
    held = fake_slurm.hold("sbatch", 1)
    first = start(wanted)
    wait_for(lambda: fake_slurm.was_called("sbatch", 1), "the first one's sbatch")
    second = start(wanted)
    wait_for(lambda: "another process is queueing runs" in second.was_told, "the second one's turn")

    held.unlink()

    assert first.wait() == 0, first.was_told
    assert second.wait() == (2 if what == "pipeline" else 0), second.was_told
    assert TOLD[what] in second.was_told
    wanted.check_once()


def test_whoever_waits_for_one_that_is_killed_queues_it_instead(
    wanted: Wanted, start: Start, fake_slurm: FakeSlurm
) -> None:
    fake_slurm.hold("sbatch", 1)
    first = start(wanted)
    wait_for(lambda: fake_slurm.was_called("sbatch", 1), "the first one's sbatch")
    second = start(wanted)
    wait_for(lambda: "another process is queueing runs" in second.was_told, "the second one's turn")

    first.kill()

    assert second.wait() == 0, second.was_told
    wanted.check_once()


def test_several_that_are_started_together_come_to_one_result(wanted: Wanted, start: Start) -> None:
    people = [start(wanted) for _ in range(3)]

    codes = sorted(person.wait() for person in people)

    assert codes in ([0, 0, 0], [0, 2, 2]), [person.was_told for person in people]
    wanted.check_once()


@pytest.mark.parametrize("what", ["recipe"])
def test_rerun_queues_what_is_queued_already(wanted: Wanted) -> None:
    for _ in range(2):
        launcher(*wanted.argv)
    launcher(*wanted.argv, "--rerun")

    assert len(wanted.queued_runs()) == 2


@pytest.mark.parametrize("what", ["recipe"])
def test_a_recipe_whose_run_has_left_the_queue_is_queued_anew(wanted: Wanted, fake_slurm: FakeSlurm) -> None:
    launcher(*wanted.argv)
    fake_slurm.forget("1001")

    launcher(*wanted.argv)

    assert fake_slurm.queue() == ["1002"]
