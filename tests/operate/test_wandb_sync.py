"""What `launcher sync` sends, and what it refuses to."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.wandb_sync import find_unsent, send, unsent_segments, wandb_environment
from launcher.slurm.parse import Job, Source
from launcher.slurm.query import QueryResult
from tests.support.command_line import launcher
from tests.support.run_histories import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    history = History.begin(tmp_path / "runs").submit("7", at=0)
    history.start(0, "7", at=1).end(0, "preempted", "requeue", at=9).start(1, "7", at=20)
    for number in (2, 1):
        folder = history.run.wandb / "wandb" / f"offline-run-2026092{number}_120000-w-abc123"
        folder.mkdir(parents=True)
        (folder / "run-w-abc123.wandb").touch()
    return history


def test_segments_are_sent_oldest_first_and_never_while_they_are_written(history: History) -> None:
    while_running = unsent_segments(history.run, is_running=True)
    history.end(1, "finished", "done", at=99)

    assert [folder.name[:20] for folder in while_running] == ["offline-run-20260921"]
    assert [folder.name[:20] for folder in unsent_segments(history.run, is_running=True)] == [
        "offline-run-20260921", "offline-run-20260922",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("jobs", "answered", "sent"),
    [
        ({"7": Job("7", "RUNNING", "squeue")}, {"squeue"}, ["20260921"]),
        ({"7": Job("7", "PENDING", "squeue")}, {"squeue"}, ["20260921", "20260922"]),
        ({}, {"squeue"}, ["20260921", "20260922"]),
        ({}, set(), ["20260921"]),
    ],
    ids=["running", "requeued", "lost", "not known"],
)
def test_the_newest_segment_waits_while_its_attempt_may_be_alive(
    history: History,
    make_cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    jobs: dict[str, Job],
    answered: set[Source],
    sent: list[str],
) -> None:
    answer = QueryResult(jobs, frozenset(answered), ("squeue is down",))
    monkeypatch.setattr("launcher.monitor.run_state.find_jobs", lambda *_: answer)

    found, notes = find_unsent(make_cluster(), [history.run])

    assert [folder.name.split("-")[2].split("_")[0] for folder in found[history.run]] == sent
    assert notes == ("squeue is down",)


def test_what_was_sent_is_not_sent_again(history: History) -> None:
    history.end(1, "finished", "done", at=99)
    first, second = unsent_segments(history.run, is_running=True)
    (first / "run-w-abc123.wandb.synced").touch()

    assert unsent_segments(history.run, is_running=True) == [second]


@pytest.mark.parametrize(
    ("server", "named"),
    [
        (None, "api.forge.coreweave.com"),
        ("", "api.forge.coreweave.com"),
        ("https://api.forge.coreweave.com", "api.forge.coreweave.com"),
        ("https://forge.coreweave.com/api/wandb", "forge.coreweave.com"),
        ("https://api.wandb.ai", "api.wandb.ai"),
        ("https://emea.wandb.ai/", "emea.wandb.ai"),
        ("API.WANDB.AI", "API.WANDB.AI"),
    ],
)
def test_credentialed_data_never_goes_to_the_public_server(
    history: History,
    make_cluster: Callable[..., Cluster],
    monkeypatch: pytest.MonkeyPatch,
    server: str | None,
    named: str,
) -> None:
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    if server is not None:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    recipe = json.loads(history.run.recipe.read_text()) | {"data_use": "credentialed"}
    history.run.recipe.write_text(json.dumps(recipe))

    with pytest.raises(RunError, match=f"must not go to {re.escape(named)};"):
        send(history.run, make_cluster(), unsent_segments(history.run, is_running=True), print)


def test_the_profiles_server_wins_over_the_environments(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(wandb_base_url="https://wandb.here", environment={"WANDB_BASE_URL": "https://api.wandb.ai"})

    assert wandb_environment(cluster, {"WANDB_BASE_URL": "https://elsewhere"}) == {
        "WANDB_BASE_URL": "https://wandb.here"
    }


def test_what_may_be_sent_is_sent_beside_what_may_not(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "wandb"
    program.write_text('#!/bin/sh\nshift 2\nfor segment; do touch "$segment/run.wandb.synced"; done\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    open_one = History.begin(tmp_path / "runs", "bbb222", name="a").run
    (open_one.wandb / "offline-run-1").mkdir(parents=True)
    secret = json.loads(history.run.recipe.read_text()) | {"data_use": "credentialed"}
    history.run.recipe.write_text(json.dumps(secret))
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")

    sent, refused = launcher("sync", f"--cluster={profile}", code=2)

    assert sent == f"{open_one.root.name}: 1 segment sent\n"
    assert "must not go to api.forge.coreweave.com" in refused
    assert history.run.root.name in refused


@pytest.mark.slow
def test_what_wandb_does_not_take_is_named(
    history: History, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "local-" + "a" * 40)

    first, _ = segments = unsent_segments(history.run, is_running=False)
    (first / "run-w-abc123.wandb").write_bytes(b"something else")

    with pytest.raises(RunError, match=r"W&B refused offline-run-20260921.*, offline-run-20260922"):
        send(history.run, make_cluster(), segments, print)


def test_the_command_goes_online_with_the_settings_of_the_profile(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(environment={"WANDB_BASE_URL": "https://wandb.here", "OTHER": "x"})

    environ = wandb_environment(cluster, {"WANDB_MODE": "offline", "WANDB_API_KEY": "k"})

    assert environ == {"WANDB_BASE_URL": "https://wandb.here", "WANDB_API_KEY": "k"}
