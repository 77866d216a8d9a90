"""Offline segments that a kill cut off, and W&B's real command that is to send them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.operate.wandb_sync import send, unsent_segments
from launcher.run.ledger import append_event
from launcher.run.paths import CONTINUE, RunDir
from tests.support.submissions import MakeCluster
from tests.support.tracked_attempts import attempt, environment
from tests.support.training_runs import make_run
from tests.support.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slow

HEADER = 7
"""Bytes of a segment in which nothing was written."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A segment with steps 1 to 5."""
    run = make_run(tmp_path_factory.mktemp("tracked"), tracking={"mode": "offline"})
    with wandb_server() as server:
        attempt(run, server, 0, first=1, last=5, finished=False)
    [file] = run.wandb.rglob("*.wandb")
    return file.read_bytes()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as serving:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            monkeypatch.delenv(name)
        for name, value in environment(serving).items():
            monkeypatch.setenv(name, value)
        yield serving


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = make_run(tmp_path, tracking={"mode": "offline"})
    append_event(run.ledger, 0, job_id="1", started=1.0, ended=2.0, reason="killed", action="stop")
    return run


def leave(run: RunDir, day: int, content: bytes) -> Path:
    """Leave a segment of a day."""
    folder = run.wandb / f"offline-run-202609{day}_120000-abc123"
    folder.mkdir(parents=True)
    (folder / "run-abc123.wandb").write_bytes(content)
    return folder


def cut(whole: bytes) -> bytes:
    """A segment that ends within the record of step 4."""
    place = whole.rindex(b"train/global_step", 0, whole.rindex(b"train/global_step"))
    return whole[:place]


def test_segments_that_a_kill_cut_off_are_sent_as_far_as_they_go_and_once(
    run: RunDir, whole: bytes, server: WandbServer, make_cluster: MakeCluster
) -> None:
    leave(run, 21, whole[:HEADER])
    leave(run, 22, cut(whole))
    leave(run, 23, b"")
    leave(run, 24, whole)
    told: list[str] = []

    send(run, make_cluster(), unsent_segments(run, is_running=False), told.append)

    stored = server.runs["abc123"]
    steps = [line["train/global_step"] for line in stored.history if "train/loss" in line]
    assert steps[-5:] == [1, 2, 3, 4, 5] and steps[:-5] == [*range(1, len(steps) - 4)] and len(steps) > 6
    assert stored.exit_codes == [1, CONTINUE]
    assert [said.partition("_120000-abc123 ")[2] for said in told] == [
        "has nothing in it, since its attempt was ended at once",
        "was cut off when its attempt was ended; it is sent as far as it goes",
        "has nothing in it, since its attempt was ended at once",
    ]
    assert unsent_segments(run, is_running=False) == []


def test_a_segment_of_an_attempt_that_could_not_reach_wandb_does_not_say_how_the_run_ended(
    run: RunDir, whole: bytes, server: WandbServer, make_cluster: MakeCluster
) -> None:
    """A later attempt, online, has said that."""
    segment = leave(run, 21, whole)
    (run.wandb / "run-20260922_120000-abc123").mkdir()

    send(run, make_cluster(), [segment], print)

    assert len(server.runs["abc123"].history) == 5
    assert server.runs["abc123"].exit_codes == []


def test_nothing_is_sent_beside_an_attempt_that_tracks_online(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    leave(run, 21, b"")
    leave(run, 22, b"")
    append_event(run.ledger, 0, job_id="1", started=1.0)

    assert unsent_segments(run, is_running=True) == []
    append_event(run.ledger, 0, ended=2.0)
    assert len(unsent_segments(run, is_running=True)) == 2
