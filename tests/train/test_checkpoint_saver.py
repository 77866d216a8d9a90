"""Checkpoints in the background: copied at once, published as ever, waited for where that is due. No training."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from jobs.rank.process_group import RankGroup
from jobs.train import checkpoint_saver
from jobs.train.checkpoint import CheckpointStore
from jobs.train.checkpoint_saver import SPARE, CheckpointSaver, size_of
from launcher.run.paths import RunDir, published_steps
from tests.support.kill_at_point import Killed
from tests.support.waiting import PATIENCE

ALONE = RankGroup(rank=0, world_size=1, leads_node=True, device=torch.device("cpu"), control=None)
ARGUMENTS = TrainingArguments(use_cpu=True, report_to="none")
SIZE = 1000


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def saver(run: RunDir) -> CheckpointSaver:
    return saver_of(run)


def saver_of(run: RunDir, in_background: bool = True) -> CheckpointSaver:
    return CheckpointSaver(CheckpointStore(run, ALONE, 2, ["weights.pt"]), in_background)


def save(
    saver: CheckpointSaver, step: int, weights: torch.Tensor, goes_on: bool = True, held: Event | None = None
) -> None:
    """Save weights; `held` keeps them from being written until it is set."""
    with saver.saving(step, None, goes_on) as folder:

        def write(state: dict[str, torch.Tensor]) -> None:
            if held:
                held.wait()
            torch.save(state, folder / "weights.pt")

        saver.put({"weights": weights}, write)


def saved(run: RunDir, step: int) -> torch.Tensor:
    weights: torch.Tensor = torch.load(run.checkpoint(step) / "weights.pt", weights_only=True)["weights"]
    return weights


def end_step(saver: CheckpointSaver) -> None:
    saver.on_step_end(ARGUMENTS, TrainerState(), TrainerControl())


def test_what_is_saved_is_the_state_of_its_step_whatever_training_does_meanwhile(
    run: RunDir, saver: CheckpointSaver
) -> None:
    weights, held = torch.arange(SIZE), Event()

    save(saver, 1, weights, held=held)
    weights.zero_()
    assert published_steps(run) == []
    held.set()
    saver.finish()

    assert published_steps(run) == [1]
    assert torch.equal(saved(run, 1), torch.arange(SIZE))


def test_memory_of_a_copy_is_used_again_and_the_next_copy_is_as_good(run: RunDir, saver: CheckpointSaver) -> None:
    weights = torch.zeros(SIZE)
    for step in (1, 2, 3):
        weights += 1
        save(saver, step, weights)
    saver.finish()

    assert published_steps(run) == [2, 3]
    assert [saved(run, step)[0] for step in (2, 3)] == [2, 3]


def test_without_it_everything_is_written_at_once(run: RunDir) -> None:
    save(saver_of(run, in_background=False), 1, torch.ones(SIZE))

    assert published_steps(run) == [1]


def test_a_save_waits_for_the_one_before_it_and_says_so(
    run: RunDir, saver: CheckpointSaver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held, finish = Event(), saver.finish
    save(saver, 1, torch.ones(SIZE), held=held)
    monkeypatch.setattr(saver, "finish", lambda: (held.set(), finish()))

    with saver.saving(2, None, goes_on=True) as folder:
        assert published_steps(run) == [1]
        torch.save({}, folder / "weights.pt")
    saver.finish()

    assert "step 2: waits for checkpoint 1, which is still being written" in capsys.readouterr().out
    assert published_steps(run) == [1, 2]


def test_the_last_save_comes_after_the_one_under_way_and_is_published_when_it_returns(
    run: RunDir, saver: CheckpointSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, finish = Event(), saver.finish
    save(saver, 1, torch.ones(SIZE), held=held)
    monkeypatch.setattr(saver, "finish", lambda: (held.set(), finish()))

    save(saver, 2, torch.zeros(SIZE), goes_on=False)

    assert published_steps(run) == [1, 2]


def test_the_end_of_training_waits_for_what_is_under_way(run: RunDir, saver: CheckpointSaver) -> None:
    save(saver, 1, torch.ones(SIZE))

    saver.on_train_end(ARGUMENTS, TrainerState(), TrainerControl())

    assert published_steps(run) == [1]


def test_a_failure_in_the_background_ends_training_at_the_end_of_a_step(run: RunDir, saver: CheckpointSaver) -> None:
    save(saver, 1, torch.ones(SIZE))
    saver.finish()
    with saver.saving(2, None, goes_on=True):
        saver.put({}, fail)
    flight = saver._flight
    assert flight is not None
    assert flight.has_ended(patience=300)

    with pytest.raises(OSError, match="no space left") as raised:
        end_step(saver)

    assert raised.value.__notes__ == ["the checkpoint of step 2 was not saved; older checkpoints are unchanged"]
    assert published_steps(run) == [1]
    assert not saver.store.staging.exists()
    end_step(saver)


def fail(_: Any) -> None:
    raise OSError("no space left")


def test_a_step_that_ends_while_a_save_is_under_way_is_not_held_up(run: RunDir, saver: CheckpointSaver) -> None:
    held = Event()
    save(saver, 1, torch.ones(SIZE), held=held)

    end_step(saver)

    assert published_steps(run) == []
    held.set()
    saver.finish()


@pytest.mark.parametrize(("left", "waits"), [(SPARE + 4 * SIZE - 1, True), (SPARE + 4 * SIZE, False)])
def test_a_copy_for_which_a_node_has_no_room_is_not_made(
    run: RunDir,
    saver: CheckpointSaver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    left: int,
    waits: bool,
) -> None:
    monkeypatch.setattr(checkpoint_saver, "available_memory", lambda: left)
    held = Event()
    if waits:
        held.set()

    save(saver, 1, torch.ones(SIZE), held=held)

    assert (published_steps(run) == [1]) == waits
    assert ("so training waits while it is written" in capsys.readouterr().out) == waits
    held.set()
    saver.finish()


def test_room_is_asked_for_once_for_memory_that_is_used_again(
    run: RunDir, saver: CheckpointSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, held = torch.ones(SIZE), Event()
    save(saver, 1, weights)
    saver.finish()
    monkeypatch.setattr(checkpoint_saver, "available_memory", lambda: 0)

    save(saver, 2, weights, held=held)

    assert published_steps(run) == [1]
    held.set()
    saver.finish()
    assert published_steps(run) == [1, 2]


def test_a_copied_optimizer_is_written_in_the_same_bytes(saver: CheckpointSaver, tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(torch.randn(7, 3)) for _ in range(4)]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, fused=True)
    sum(one.square().sum() for one in parameters).backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    expected = (tmp_path / "optimizer.pt").read_bytes()
    written: list[bytes] = []

    def write(state: dict[str, Any]) -> None:
        torch.save(state, tmp_path / "optimizer.pt")
        written.append((tmp_path / "optimizer.pt").read_bytes())

    with saver.saving(1, None, goes_on=True) as folder:
        torch.save({}, folder / "weights.pt")
        saver.put(optimizer.state_dict(), write)
    saver.finish()

    assert written == [expected]


class Meeting:
    """Where ranks that are threads of this process meet. If they come to different collectives, both fail."""

    def __init__(self, ranks: int) -> None:
        self._all_here = Barrier(ranks, timeout=PATIENCE)
        self._said: list[tuple[str, Any]] = [("", None)] * ranks

    def hold(self, rank: int, collective: str, value: Any) -> list[Any]:
        self._said[rank] = (collective, value)
        self._all_here.wait()
        said = [*self._said]
        self._all_here.wait()
        assert len({name for name, _ in said}) == 1, f"ranks wait in different collectives: {said}"
        return [value for _, value in said]


@dataclass(frozen=True)
class ThreadGroup(RankGroup):
    """The ranks of a test in one process, and a second meeting place for what they do in the background."""

    meeting: Meeting = field(default_factory=lambda: Meeting(2))
    in_background: Meeting = field(default_factory=lambda: Meeting(2))

    def collect(self, value: Any) -> list[Any]:
        return self.meeting.hold(self.rank, "collect", value)

    def barrier(self) -> None:
        self.meeting.hold(self.rank, "barrier", None)

    def for_another_thread(self, progress: Callable[[], None]) -> RankGroup:
        return replace(self, meeting=self.in_background, progress=progress)


@pytest.mark.parametrize("putting", [(0,), (1,), (0, 1), ()], ids=["ddp", "rank 1", "shards", "nobody"])
def test_whoever_has_something_to_save_all_ranks_save_in_the_background(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, putting: tuple[int, ...]
) -> None:
    publish, held = CheckpointStore.publish, Event()
    monkeypatch.setattr(CheckpointStore, "publish", lambda *of: (held.wait(PATIENCE), publish(*of)))
    main = ThreadGroup(rank=0, world_size=2, leads_node=True, device=torch.device("cpu"), control=None)
    savers = [
        CheckpointSaver(CheckpointStore(run, replace(main, rank=rank), 2, ["*.pt"]), in_background=True)
        for rank in (0, 1)
    ]

    def save_own_part(rank: int) -> bool:
        with savers[rank].saving(1, None, goes_on=True) as folder:
            torch.save({}, folder / f"random-{rank}.pt")
            if rank in putting:
                savers[rank].put({"weights": torch.ones(SIZE)}, lambda state: torch.save(state, folder / f"{rank}.pt"))
        return not published_steps(run)

    with ThreadPoolExecutor(2) as ranks:
        goes_on = [*ranks.map(save_own_part, (0, 1))]
        held.set()
        [*ranks.map(CheckpointSaver.finish, savers)]

    assert goes_on == [True, True]
    assert published_steps(run) == [1]
    assert {path.name for path in run.checkpoint(1).glob("[0-9].pt")} == {f"{rank}.pt" for rank in putting}


def test_shared_memory_is_counted_once() -> None:
    weights = torch.ones(10, 10)
    tied = {"embedding": weights, "head": weights, "row": weights[3], "rest": [torch.ones(5, dtype=torch.int64)]}

    assert size_of(tied) == 400 + 40


def killed_at(point: int, make: Callable[[], RunDir]) -> tuple[RunDir, Killed]:
    run = make()

    def work() -> None:
        saver = saver_of(run)
        for step in (1, 2, 3, 4):
            save(saver, step, torch.full((SIZE,), float(step)))
        saver.finish()

    return run, Killed(work, point)


def test_wherever_the_writing_thread_is_killed_the_newest_checkpoint_is_whole(tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def make() -> RunDir:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        return RunDir(folder)

    _, undisturbed = killed_at(0, make)
    newest_of = []
    for point in range(1, undisturbed.points + 1):
        run, killed = killed_at(point, make)
        assert not killed.came_to_its_end
        promised = published_steps(run)
        assert CheckpointStore(run, ALONE, 2, ["weights.pt"]).find_resume() == max(promised, default=None)
        assert all(torch.equal(saved(run, step), torch.full((SIZE,), float(step))) for step in promised)
        assert not (run.checkpoints / "quarantine").exists()
        newest_of.append(max(promised, default=0))

    assert undisturbed.came_to_its_end
    assert newest_of == sorted(newest_of) and {*newest_of} == {0, 1, 2, 3, 4}


def test_a_saver_can_be_made_where_another_was_killed(run: RunDir) -> None:
    killed_at(20, lambda: run)
    assert published_steps(run)

    saver = saver_of(run)
    resumed = saver.store.find_resume()
    assert resumed is not None
    save(saver, resumed + 1, torch.ones(SIZE))
    saver.finish()

    assert published_steps(run)[-1] == resumed + 1
    assert os.listdir(saver.store.staging) == []
