"""kind: cpt with `checkpoint.async`, for real: ranks that save in the background, are stopped, killed, and go on."""

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import FileSystemReader

from launcher.run.ledger import read_json_lines
from launcher.run.paths import COMPLETE, FINISHED, RunDir, published_steps
from tests.support.training_runs import losses, make_run, start, stop_at, train
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slow

STEPS = 8
RANKS = {"ddp": 2, "full_shard": 2, "hybrid_shard": 4}
STRATEGIES = tuple(RANKS)
KILLS = 50
BLINKS = (0.0, 0.02, 0.05, 0.2)
"""Seconds in which a kill comes after a save began: most take less, as the random moments of a test do."""


def new_run(folder: Path, strategy: str, in_background: bool, **changes: Any) -> RunDir:
    """A run that saves every three steps; always in the same place, which checkpoints name."""
    sections = {
        "parallel": {"strategy": strategy},
        "batch": {"micro_batch": 1},
        "checkpoint": {"interval": "3 steps", "keep": 5, "async": in_background},
        "schedule": {"length": f"{STEPS} steps", "warmup": "2 steps"},
    }
    return make_run(folder, **(sections | changes))


def nodes(strategy: str) -> int:
    return 2 if strategy == "hybrid_shard" else 1


def checksums(run: RunDir, step: int) -> dict[str, list[object]]:
    files: dict[str, list[object]] = json.loads((run.checkpoint(step) / COMPLETE).read_text())["files"]
    return files


def index(folder: Path) -> Any:
    """What torch writes about shards, but for a random number, which is another in each save."""
    found = FileSystemReader(folder).read_metadata()
    assert found.storage_meta is not None
    return found.state_dict_metadata, found.planner_data, found.storage_data, found.storage_meta.checkpoint_id


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_files_are_those_of_a_save_that_is_waited_for_and_a_stop_resumes_to_the_last_bit(
    tmp_path: Path, strategy: str
) -> None:
    run = new_run(tmp_path, strategy, in_background=False)
    assert train(run, RANKS[strategy], nodes(strategy)).exit_codes == [FINISHED] * RANKS[strategy]
    before = RunDir(tmp_path / "before")
    run.root.rename(before.root)

    run = new_run(tmp_path, strategy, in_background=True)
    stopped = stop_at(run, 4, RANKS[strategy], nodes(strategy))
    last = train(run, RANKS[strategy], nodes(strategy), attempt=1)

    assert last.exit_codes == [FINISHED] * RANKS[strategy]
    assert last.steps()[0] == 5
    assert "checkpoint 3: training waited" in stopped.log()
    assert losses(run) == losses(before)
    ours, theirs = checksums(run, 3), checksums(before, 3)
    differing = {name for name in theirs if ours.get(name) != theirs[name]}
    assert ours.keys() == theirs.keys()
    assert {Path(name).name for name in differing} <= {".metadata"}
    for name in differing:
        part = Path(name).parent
        assert index(run.checkpoint(3) / part) == index(before.checkpoint(3) / part)
    assert checksums(run, 6).keys() == theirs.keys()


HOLDS = """
import time
from jobs.train import checkpoint_saver
write = checkpoint_saver.CheckpointSaver._write
def held(self, parts, store, folder, step, best):
    while step == 3 and not (folder.parents[2] / "STOP").exists():
        time.sleep(0.02)
    write(self, parts, store, folder, step, best)
checkpoint_saver.CheckpointSaver._write = held
"""


def test_a_stop_finishes_the_save_under_way_and_saves_once_more(tmp_path: Path) -> None:
    run = new_run(tmp_path, "ddp", in_background=True)

    stopped = stop_at(run, 4, preamble=HOLDS)

    assert published_steps(run) == [3, 4]
    assert "step 4: waits for checkpoint 3, which is still being written; then the last one is saved" in stopped.log()
    assert train(run, attempt=1).steps() == [5, 6, 7, 8]


SHORT_OF_SPACE = """
import resource, sys
import jobs.__main__ as task
resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
sys.exit(task.main())
"""


def test_a_save_that_fails_in_the_background_ends_the_attempt(tmp_path: Path) -> None:
    run = new_run(tmp_path, "ddp", in_background=True)
    assert stop_at(run, 2).steps() == [1, 2]

    attempt = start(run, attempt=1, program=("-c", SHORT_OF_SPACE))

    assert attempt.wait() == [1]
    assert "the checkpoint of step 3 was not saved; older checkpoints are unchanged" in attempt.log()
    assert published_steps(run) == [2]
    assert not (run.checkpoints / ".staging").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("killed")


@pytest.mark.parametrize(("kills", "ranks"), [(3, 1), pytest.param(KILLS, 2, marks=pytest.mark.long)])
def test_wherever_a_rank_is_killed_the_newest_checkpoint_is_whole_and_goes_on_to_the_last_bit(
    folder: Path, kills: int, ranks: int
) -> None:
    sharing = "full_shard" if ranks > 1 else "ddp"
    changes = {"schedule": {"length": f"{8 * kills} steps", "warmup": "2 steps"}}
    whole = new_run(folder, sharing, in_background=False, checkpoint={"interval": "1000 steps"}, **changes)
    assert train(whole, ranks).exit_codes == [FINISHED] * ranks
    run = new_run(folder, sharing, in_background=True, **changes)
    dice = random.Random()

    for attempt in range(kills):
        safe = max(published_steps(run), default=0)
        kill_while_saving(run, attempt, ranks, dice)
        assert max(published_steps(run), default=0) >= safe

    last = train(run, ranks, attempt=kills)
    assert last.exit_codes == [FINISHED] * ranks
    assert not (run.checkpoints / "quarantine").exists()
    expected = losses(whole)
    assert all(row["loss"] == expected[row["step"]] for row in read_json_lines(run.metrics))
    shutil.rmtree(run.root)


def kill_while_saving(run: RunDir, attempt: int, ranks: int, dice: random.Random) -> None:
    """Kill all ranks at a random moment after they have begun to save; they must have begun with the newest."""
    newest = max(published_steps(run), default=0)
    shutil.rmtree(run.checkpoints / ".staging", ignore_errors=True)
    killed = start(run, ranks, attempt=attempt)
    saves = lambda: any((run.checkpoints / ".staging").glob("checkpoint-*/rng_state*"))  # noqa: E731
    wait_for(lambda: saves() or killed.processes[0].poll() is not None, f"a save of attempt {attempt}", limit=600)
    time.sleep(dice.uniform(0, dice.choice(BLINKS)))  # the moment is the matter of the test
    for process in dice.sample(killed.processes, ranks):
        process.kill()
    killed.wait()
    began = f"resumes from step {newest}" if newest else "from scratch"
    assert began in killed.log()
