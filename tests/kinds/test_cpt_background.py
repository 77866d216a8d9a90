"""kind: cpt with `checkpoint.async`, for real: ranks that save in the background, are stopped, killed, and go on."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.checkpoint import FileSystemReader

from launcher.run.ledger import read_json_lines
from launcher.run.paths import COMPLETE, FINISHED, RunDir, published_steps
from tests.support.training_runs import losses, make_run, start, stop_at, train
from tests.support.waiting import PATIENCE, wait_for

pytestmark = pytest.mark.slow

STEPS = 8
RANKS = {"ddp": 2, "full_shard": 2, "hybrid_shard": 4}
KILLS = 50


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


# Not named `strategy`: tests/conftest.py would leave `ddp` to `make long`, and it alone has ranks with nothing to copy.
@pytest.mark.parametrize("shared_as", ["ddp", "full_shard", pytest.param("hybrid_shard", marks=pytest.mark.long)])
def test_files_are_those_of_a_save_that_is_waited_for_and_a_stop_resumes_to_the_last_bit(
    tmp_path: Path, shared_as: str
) -> None:
    strategy = shared_as
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


@pytest.mark.parametrize(
    ("kills", "ranks", "sharing"),
    [
        (3, 1, "ddp"),
        pytest.param(KILLS, 2, "ddp", marks=pytest.mark.long),
        pytest.param(KILLS, 2, "full_shard", marks=pytest.mark.long),
    ],
)
def test_wherever_a_rank_is_killed_the_newest_checkpoint_is_whole_and_goes_on_to_the_last_bit(
    tmp_path: Path, kills: int, ranks: int, sharing: str
) -> None:
    """In runs that are killed ten times each at most, and then trained to their end."""
    rounds = -(-kills // 10)
    schedule = {"length": f"{12 * kills // rounds} steps", "warmup": "2 steps"}
    whole = new_run(tmp_path, sharing, False, checkpoint={"interval": "1000 steps"}, schedule=schedule)
    assert train(whole, ranks).exit_codes == [FINISHED] * ranks
    dice = random.Random()

    for _ in range(rounds):
        run = new_run(tmp_path, sharing, in_background=True, schedule=schedule)
        for attempt in range(kills // rounds):
            kill_while_saving(run, attempt, ranks, dice)
        last = train(run, ranks, attempt=kills // rounds)

        assert last.exit_codes == [FINISHED] * ranks
        assert not (run.checkpoints / "quarantine").exists()
        assert losses(run).keys() == losses(whole).keys()
        assert all(row["loss"] == losses(whole)[row["step"]] for row in read_json_lines(run.metrics))


def kill_while_saving(run: RunDir, attempt: int, ranks: int, dice: random.Random) -> None:
    """Kill all ranks in one of the first three saves of an attempt, which must have begun with the newest before it."""
    newest = max(published_steps(run), default=0)
    number = dice.choice((1, 2, 3))
    seconds = dice.uniform(0, 1.2) * seconds_of_a_save(run)
    began = f"resumes from step {newest}" if newest else "from scratch"
    killed = start(run, ranks, attempt=attempt)
    log = run.rank_log(attempt, 0)
    wait_for(lambda: (log.exists() and began in log.read_text()) or killed.processes[0].poll() is not None, began)
    deadline = time.monotonic() + PATIENCE
    while not saves(run, newest + 3 * number) and killed.processes[0].poll() is None:
        assert time.monotonic() < deadline, killed.log()
        time.sleep(0.002)
    time.sleep(seconds)  # the moment is what matters here
    for process in dice.sample(killed.processes, ranks):
        process.kill()
    killed.wait()

    assert began in killed.log()
    assert max(published_steps(run), default=0) >= newest + 3 * (number - 1)


def saves(run: RunDir, step: int) -> bool:
    """Whether a save of the step, or of a later one, has begun; the one before it is published then."""
    begun = (int(path.name.rpartition("-")[2]) for path in (run.checkpoints / ".staging").glob("checkpoint-*"))
    return any(one >= step for one in begun)


def seconds_of_a_save(run: RunDir) -> float:
    """How long the last save took that an attempt tells of."""
    told = [re.findall(r"published ([\d.]+) s later", log.read_text()) for log in run.root.glob("logs/*/rank-*.log")]
    return float(max(told, key=len, default=[])[-1]) if any(told) else 0.2
