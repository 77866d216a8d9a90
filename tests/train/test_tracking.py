"""One W&B run over all attempts: the real client against a server on this machine, and offline."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.train.metrics import Row
from jobs.train.tracking import open_tracker
from jobs.train.wandb_run import DELETED, FLUSH_SECONDS, STOPPED, settings_of
from launcher.errors import LauncherError
from launcher.recipe.quantities import Duration
from launcher.run.ledger import StopRequest
from launcher.run.paths import CONTINUE, FINISHED, RunDir
from launcher.run.record import RunRecord
from launcher.run.wandb_server import DEFAULT_SERVER, is_public_wandb
from tests.support.tracked_attempts import attempt, points, send
from tests.support.training_runs import context_of, make_run
from tests.support.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    with wandb_server() as serving:
        yield serving


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

    with pytest.raises(LauncherError, match="must not be tracked at W&B's public server"):
        open_tracker(context, context.recipe.tracking)


def test_an_attempt_whose_server_is_not_there_is_tracked_offline(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    server.runs.clear()

    with wandb_server() as gone:
        pass
    said = attempt(run, gone, 0, first=1, last=2, finished=True, WANDB_INIT_TIMEOUT="2")

    assert "; this attempt is tracked offline, and `launcher sync` sends that" in said
    assert send(run, server) == 1
    assert points(server.runs["abc123"]) == [(1, 0, 9.0), (2, 0, 8.0)]
    assert server.runs["abc123"].exit_codes == [FINISHED]


def test_a_trial_of_a_sweep_at_wandb_is_not_tracked_offline(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    replace(RunRecord.read(run.record), wandb_sweep="x1y2", point={}).write(run.record)

    with wandb_server() as gone:
        pass
    said = attempt(run, gone, 0, first=1, last=2, finished=True, WANDB_INIT_TIMEOUT="1")

    assert "training continues without it" in said
    assert not [*run.wandb.glob("offline-run-*")]


def test_a_stop_on_the_page_of_wandb_is_a_persons_stop(tmp_path: Path, server: WandbServer) -> None:
    run = make_run(tmp_path, tracking={"mode": "online"})
    server.runs.clear()
    attempt(run, server, 0, first=1, last=1, finished=False)
    server.runs["abc123"].stopped = True

    said = attempt(run, server, 1, first=2, last=3, finished=False, waits=True)

    assert "W&B: somebody stopped the run there; STOP asks all ranks to save and leave\n" in said
    assert StopRequest.read(run.stop_request) == StopRequest("user")
    assert (run.wandb / STOPPED).exists()
    assert [step for step, _, _ in points(server.runs["abc123"])] == [1, 2, 3]


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
    settings = settings_of(False, None, Duration("30s"))

    assert (settings.init_timeout, settings.finish_timeout) == (15, 15)
    settings = settings_of(False, None, Duration("30min"))
    assert (settings.init_timeout, settings.finish_timeout) == (90, 30)


def test_what_is_tracked_offline_is_written_every_other_second() -> None:
    assert settings_of(False, None, None).x_transaction_log_flush_interval == FLUSH_SECONDS <= 2


def test_the_server_that_messages_name_is_the_one_that_the_client_uses() -> None:
    from wandb.sdk.lib import urls

    assert urls.DEFAULT_BASE_URL == DEFAULT_SERVER
    known = {host for forge, api in urls.FORGE_HOSTS.items() for host in (forge, f"api.{forge}", api)}
    assert len(known) >= 3 and all(map(is_public_wandb, known))


def test_switched_off_it_leaves_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path, tracking={"mode": "disabled"})
    row: Row = {"step": 1, "loss": 1.0}

    context = context_of(run)
    tracker = open_tracker(context, context.recipe.tracking)
    tracker.log(row)
    tracker.close(finished=True)

    assert not run.wandb.exists()
