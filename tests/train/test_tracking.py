"""One W&B run over all attempts: the real client against a server on this machine, and offline."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.train.metrics import Row
from jobs.train.tracking import DELETED, _settings, open_tracker
from launcher.errors import LauncherError
from launcher.recipe.quantities import Duration
from launcher.run.paths import CONTINUE, FINISHED, RunDir
from launcher.run.record import RunRecord
from tests.support.training_runs import context_of, make_run
from tests.support.waiting import PATIENCE
from tests.support.wandb_server import StoredRun, WandbServer, wandb_server

pytestmark = pytest.mark.slow

ATTEMPT = """
import json, sys
from pathlib import Path
from jobs.rank.context import load_context
from jobs.rank.ranks import Ranks
from jobs.train.tracking import open_tracker
from launcher.run.paths import RunDir

number, first, last, finished = json.loads(sys.argv[2])
alone = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, node_rank=0)
context = load_context(RunDir(Path(sys.argv[1])), number, alone)
tracker = open_tracker(context, context.recipe.tracking)
for step in range(first, last + 1):
    tracker.log({"time": 0.0, "step": step, "attempt": number, "loss": 10.0 - step, "mfu": None})
tracker.close(finished)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with wandb_server() as serving:
        yield serving


def environment(server: WandbServer) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    return kept | {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "local-" + "k" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "WANDB_INIT_TIMEOUT": f"{PATIENCE}",
        "NO_PROXY": "127.0.0.1",
    }


def attempt(
    run: RunDir, server: WandbServer, number: int, first: int, last: int, finished: bool, **environ: str
) -> str:
    """Log some steps in a process of its own, as an attempt does."""
    arguments = [sys.executable, "-c", ATTEMPT, str(run.root), json.dumps([number, first, last, finished])]
    environ = environment(server) | environ
    done = subprocess.run(arguments, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


def send(run: RunDir, server: WandbServer) -> int:
    """Send the offline segments in the order of their names; return their number."""
    segments = sorted(str(folder) for folder in run.wandb.glob("offline-run-*"))
    wandb = Path(sys.executable).with_name("wandb")
    subprocess.run(
        [wandb, "sync", *segments], env=environment(server), capture_output=True, timeout=PATIENCE, check=True
    )
    return len(segments)


def points(stored: StoredRun) -> list[tuple[int, int, float]]:
    return [(line["train/global_step"], line["train/attempt"], line["train/loss"]) for line in stored.history]


def test_attempts_become_one_run_and_redone_steps_are_added_again(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online", "project": "tests", "tags": ["tiny"]})
    replace(RunRecord.read(run.record), sweep="rates").write(run.record)

    attempt(run, server, 0, first=1, last=4, finished=False)
    attempt(run, server, 1, first=3, last=6, finished=True)  # steps 3 and 4 had not been saved

    stored = server.runs["abc123"]
    redone = [(step, 0, 10.0 - step) for step in range(1, 5)] + [(step, 1, 10.0 - step) for step in range(3, 7)]
    assert points(stored) == redone
    assert stored.exit_codes == [CONTINUE, FINISHED]
    assert stored.preempting
    config = json.loads(stored.config)
    assert config["attempt"]["value"] == 1
    assert config["recipe"]["value"]["schedule"]["length"] == "20 steps"
    assert (stored.project, stored.group) == ("tests", "rates")


def test_a_run_that_a_sweep_gave_is_the_sweeps_with_its_values_and_is_given_to_no_other_agent(
    tmp_path: Path, server: WandbServer
) -> None:
    run = make_run(tmp_path, tracking={"mode": "online", "project": "tests"})
    record = replace(RunRecord.read(run.record), wandb_sweep="x1y2", point={"optim.lr": 0.5})
    record.write(run.record)
    server.runs.clear()

    attempt(run, server, 0, first=1, last=2, finished=False)

    stored = server.runs["abc123"]
    assert (stored.sweep, json.loads(stored.config)["optim.lr"]["value"]) == ("x1y2", 0.5)
    assert (stored.exit_codes, stored.preempting) == ([CONTINUE], False)


def test_the_last_points_of_an_attempt_are_sent_again_by_the_next(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    server.runs.clear()
    attempt(run, server, 0, first=1, last=2, finished=False)
    lost = [{"time": 0.0, "step": step, "attempt": 0, "loss": 10.0 - step} for step in range(1, 4)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in lost), encoding="utf-8")

    attempt(run, server, 1, first=4, last=5, finished=True)

    assert set(points(server.runs["abc123"])) == {(s, 0 if s < 4 else 1, 10.0 - s) for s in range(1, 6)}


def test_items_done_are_no_points_of_a_training(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    server.runs.clear()
    rows = [{"time": 0.0, "step": 1, "attempt": 0, "loss": 9.0}]
    rows += [{"time": 0.0, "step": items, "attempt": 0, "items_per_second": 3.0} for items in range(2, 20)]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    attempt(run, server, 1, first=2, last=2, finished=True)

    assert points(server.runs["abc123"]) == [(1, 0, 9.0), (2, 1, 8.0)]


def test_only_every_nth_step_is_sent_and_the_last(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online", "log_interval": 5})
    server.runs.clear()

    attempt(run, server, 0, first=1, last=12, finished=True)

    assert [step for step, _, _ in points(server.runs["abc123"])] == [5, 10, 12]


def test_offline_segments_sent_in_order_become_one_run(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "offline"})
    server.runs.clear()
    attempt(run, server, 0, first=1, last=3, finished=False)
    attempt(run, server, 1, first=4, last=6, finished=True)
    assert server.runs == {}

    assert send(run, server) == 2
    assert [step for step, _, _ in points(server.runs["abc123"])] == list(range(1, 7))


def test_numbers_are_sent_and_no_code_console_or_key(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    server.received.clear()

    attempt(run, server, 0, first=1, last=2, finished=True)

    sent = b"".join(server.received)
    assert b"train/loss" in sent
    for kept in (b"k" * 40, b"requirements.txt", b"output.log", b'"git"', b"diff.patch", b"open_tracker"):
        assert kept not in sent


def test_credentialed_data_keeps_the_machine_to_itself(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "offline"}, data_use="credentialed")
    attempt(run, server, 0, first=1, last=2, finished=True)
    server.received.clear()

    send(run, server)

    sent = b"".join(server.received)
    assert b"train/loss" in sent
    assert str(run.root).encode() not in sent
    assert f'"host":"{os.uname().nodename}"'.encode() not in sent.replace(b" ", b"")


def run_at(folder: Path, url: str | None) -> RunDir:
    run = make_run(folder, tracking={"mode": "online"}, data_use="credentialed")
    record = RunRecord.read(run.record)
    record.cluster["wandb_base_url"] = url
    record.write(run.record)
    return run


def test_credentialed_data_goes_to_the_profiles_server_whatever_the_environment_says(
    tmp_path: Path, server: WandbServer
) -> None:
    run = run_at(tmp_path, server.url)
    server.runs.clear()
    server.received.clear()

    with wandb_server() as public:
        attempt(run, public, 0, first=1, last=3, finished=True)

        assert [step for step, _, _ in points(server.runs["abc123"])] == [1, 2, 3]
        assert (public.runs, public.received) == ({}, [])
    sent = b"".join(server.received)
    assert str(run.root).encode() not in sent
    assert f'"host":"{os.uname().nodename}"'.encode() not in sent.replace(b" ", b"")


def test_credentialed_data_goes_nowhere_without_a_server_of_the_site(tmp_path: Path) -> None:
    context = context_of(run_at(tmp_path, None))

    with pytest.raises(LauncherError, match=r"must not be tracked at wandb\.ai"):
        open_tracker(context, context.recipe.tracking)


def test_a_server_that_is_not_there_costs_a_warning(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})

    with wandb_server() as gone:
        pass
    said = attempt(run, gone, 0, first=1, last=2, finished=True, WANDB_INIT_TIMEOUT="5")

    assert "W&B:" in said
    assert "continues without it" in said


def test_a_run_that_was_deleted_is_told_at_once_by_all_attempts_but_the_first(
    tmp_path: Path, server: WandbServer
) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"}, limits={"hang": "20s"})
    with wandb_server() as own:
        attempt(run, own, 0, first=1, last=2, finished=False)
        own.runs["abc123"].deleted = True
        patient = {"WANDB_INIT_TIMEOUT": "5"}
        first = attempt(run, own, 1, first=3, last=4, finished=False, **patient)
        asked = len(own.operations)
        again = attempt(run, own, 2, first=5, last=6, finished=True, **patient)

    told = "W&B: run abc123 was deleted there, and W&B gives no id out again; training continues without it"
    assert told in first and told in again
    assert str(run.wandb / DELETED) in first
    assert len(own.operations) == asked


def test_w_and_b_gives_up_before_the_watchdog_does() -> None:
    settings = _settings(False, None, Duration("30s"))

    assert (settings.init_timeout, settings.finish_timeout) == (15, 15)
    settings = _settings(False, None, Duration("30min"))
    assert (settings.init_timeout, settings.finish_timeout) == (90, 30)


def test_switched_off_it_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"mode": "disabled"})
    row: Row = {"step": 1, "loss": 1.0}

    context = context_of(run)
    tracker = open_tracker(context, context.recipe.tracking)
    tracker.log(row)
    tracker.close(finished=True)

    assert not run.wandb.exists()
