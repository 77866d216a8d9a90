"""What people are told about a run, from its run directory and from Slurm."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from launcher.cli import graph
from launcher.cli.views.plot import plot
from launcher.cli.views.wording import clock, duration, node_list, quantity
from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.monitor.goodput import measure_goodput
from launcher.monitor.run_report import NamedRun, read_reports
from launcher.monitor.run_state import read_state
from launcher.monitor.status import RunStatus, attempts_with_ends, compose, read_statuses
from launcher.pipeline.record import Pipeline
from launcher.run.ledger import StopRequest
from launcher.run.metrics import read_joined_rows, read_newest_rows
from launcher.run.paths import PipelineDir
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult
from tests.support.command_line import launcher
from tests.support.run_histories import MIDNIGHT, History

ASKED = frozenset({"squeue", "sacct"})
SILENCE = QueryResult({}, frozenset(), ("squeue: did not answer",))
"""Nobody could be asked."""


def told(history: History, *jobs: Job, answered: frozenset[str] = ASKED) -> RunStatus:
    return compose(read_state(history.run), QueryResult({job.id: job for job in jobs}, answered))  # type: ignore[arg-type]


@pytest.fixture
def begun(tmp_path: Path) -> History:
    return History.begin(tmp_path / "runs")


@pytest.fixture
def queued(begun: History) -> History:
    return begun.submit("7", at=0)


@pytest.fixture
def running(queued: History) -> History:
    return queued.start(0, "7", at=60).train(0, 0, 30, at=70)


@pytest.fixture
def preempted(running: History) -> History:
    return running.end(0, "preempted", "requeue", at=140, last_step=30, message="preempted, step 30 is safe")


def test_a_run_that_no_sbatch_took_is_not_submitted(begun: History) -> None:
    status = told(begun)

    assert (status.state, status.source, status.job_id) == ("not submitted", "run directory", "")


def test_a_queued_run_tells_why_it_waits_and_when_it_may_start(queued: History) -> None:
    status = told(queued, Job("7", "PENDING", "squeue", "Priority", start=MIDNIGHT + 3600))

    assert (status.state, status.source) == ("queued", "squeue")
    assert status.why == "other jobs have a higher priority (Priority)"
    assert status.start_estimate == MIDNIGHT + 3600
    assert status.total_steps == 100


def test_a_running_run_tells_step_loss_speed_and_time_left(running: History) -> None:
    status = told(running, Job("7", "RUNNING", "squeue", nodes="a[1-2]"))

    assert (status.state, status.why) == ("running", "")
    assert (status.step, status.total_steps, status.loss) == (30, 100, 2.0)
    assert status.tokens_per_second == 512.0
    assert status.eta_seconds == pytest.approx(140)
    assert status.nodes == ("a[1-2]",)


def test_a_job_that_has_just_started_is_running_and_starting(queued: History) -> None:
    status = told(queued, Job("7", "RUNNING", "squeue"))

    assert (status.state, status.why) == ("running", "is starting")


def test_a_stop_request_shows_while_the_run_still_runs(running: History) -> None:
    StopRequest().write(running.run.stop_request)

    status = told(running, Job("7", "RUNNING", "squeue"))

    assert (status.state, status.why, status.stop_requested) == ("running", "asked to stop", True)


def test_a_stop_that_slurm_asked_for_is_not_a_persons(running: History) -> None:
    StopRequest("time_limit", 0).write(running.run.stop_request)

    runs, held = Job("7", "RUNNING", "squeue"), Job("7", "PENDING", "squeue", "job requeued in held state")
    failed = Job("7", "FAILED", "squeue", exit_code="1:0")

    assert told(running, runs).why == "asked to save: Slurm is about to end its job"
    assert not told(running, runs).stop_requested
    assert "`scontrol release 7`" in told(running, held).why
    assert told(running, failed).state == "failed"


def test_a_preempted_run_in_the_queue_is_requeued(preempted: History) -> None:
    status = told(preempted, Job("7", "PENDING", "squeue", "Resources"))

    assert (status.state, status.why) == ("requeued", "waits for free nodes (Resources)")
    assert status.step == 30
    assert status.tokens_per_second is None


def test_a_preempted_run_whose_job_is_still_being_cleaned_up_is_requeued(preempted: History) -> None:
    status = told(preempted, Job("7", "COMPLETING", "squeue"))

    assert (status.state, status.why) == ("requeued", "preempted: preempted, step 30 is safe")


def test_a_finished_run_needs_no_slurm(running: History) -> None:
    running.train(0, 30, 100, at=140).end(0, "finished", "done", at=300, last_step=100)

    status = compose(read_state(running.run), SILENCE)

    assert (status.state, status.source, status.step) == ("finished", "run directory", 100)
    assert status.is_over


@pytest.mark.parametrize(
    ("reason", "state"),
    [("error", "failed"), ("out_of_memory", "failed"), ("stopped", "stopped"), ("time_limit", "stopped")],
)
def test_a_run_that_does_not_come_back_is_failed_or_stopped(running: History, reason: str, state: str) -> None:
    running.end(0, reason, "stop", at=200, message="3 failures are too many")  # type: ignore[arg-type]

    status = told(running)

    assert status.state == state
    assert "3 failures are too many" in status.why


def test_a_run_on_a_node_whose_clock_is_behind_has_started(tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=10).start(0, "7", at=8)

    assert told(history, Job("7", "RUNNING", "squeue")).why == ""
    assert told(history.end(0, "error", "stop", at=20)).source == "run directory"
    assert told(history.submit("8", at=30), Job("8", "PENDING", "squeue")).state == "queued"


def test_a_damaged_run_does_not_hide_the_others(
    queued: History, tmp_path: Path, make_cluster: Callable[..., Cluster]
) -> None:
    torn = History.begin(tmp_path / "more", "def456").run
    torn.record.write_text("")  # a power cut after the rename

    statuses, notes = read_statuses(make_cluster(executor="local"), [torn, queued.run])

    assert [status.id for status in statuses] == [queued.record.id]
    assert str(torn.root) in notes[0]
    with pytest.raises(RunError, match="cannot be read"):
        read_statuses(make_cluster(executor="local"), [torn])


def test_a_resumed_run_is_queued_whatever_its_past(running: History) -> None:
    running.end(0, "error", "stop", at=200).submit("8", at=1000)

    status = told(running, Job("8", "PENDING", "squeue", "Priority"))

    assert (status.state, status.job_id) == ("queued", "8")


def test_a_run_whose_job_vanished_without_a_word_is_lost(running: History) -> None:
    status = told(running)

    assert status.state == "lost"
    assert "job 7 is gone" in status.why


def test_a_run_is_not_lost_because_slurm_does_not_answer(running: History, tmp_path: Path) -> None:
    waiting = History.begin(tmp_path / "more", "def456").submit("9", at=0)

    assert compose(read_state(running.run), SILENCE).state == "running"
    assert compose(read_state(waiting.run), SILENCE).state == "queued"
    assert "did not answer" in compose(read_state(running.run), SILENCE).why


@pytest.mark.parametrize(
    ("slurm", "state", "why"),
    [
        (Job("7", "CANCELLED", "sacct"), "stopped", "job 7 was cancelled"),
        (Job("7", "TIMEOUT", "sacct"), "failed", "job 7 reached its time limit"),
        (Job("7", "NODE_FAIL", "scontrol"), "failed", "job 7 lost a node"),
        (Job("7", "FAILED", "squeue", exit_code="127:0"), "failed", "job 7 failed (exit code 127:0)"),
    ],
)
def test_where_the_ledger_is_silent_slurm_tells_the_end(queued: History, slurm: Job, state: str, why: str) -> None:
    status = told(queued, slurm)

    assert (status.state, status.source) == (state, slurm.source)
    assert status.why.startswith(why)


def test_a_queued_run_that_was_stopped_is_stopped(queued: History) -> None:
    StopRequest().write(queued.run.stop_request)

    assert told(queued).state == "stopped"


def test_an_epoch_long_run_learns_its_length_from_rank_0(tmp_path: Path) -> None:
    from launcher.run.ledger import append_event

    history = History.begin(tmp_path, length="1 epoch").submit("7", at=0)
    assert told(history).total_steps is None

    history.start(0, "7", at=1)
    append_event(history.run.ledger, 0, total_steps=4321)

    assert told(history).total_steps == 4321


def test_tokens_are_counted_in_steps(tmp_path: Path) -> None:
    history = History.begin(tmp_path, length="1M tokens")

    assert told(history).total_steps == 1_000_000 // (8 * 128)


def test_runs_over_for_good_are_not_asked_about(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "squeue").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (bin_folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))
    over = History.begin(tmp_path / "runs", "aaa111").submit("5", at=0).start(0, "5", at=1)
    over.end(0, "finished", "done", at=2)
    alive = History.begin(tmp_path / "runs", "bbb222").submit("6", at=0)

    statuses, notes = read_statuses(make_cluster(), [over.run, alive.run])

    assert [status.state for status in statuses] == ["finished", "lost"]
    assert "--jobs=6\n" in (tmp_path / "asked").read_text()
    assert len(notes) == 2  # sacct and scontrol are missing


@pytest.mark.parametrize("goes_on", [False, True], ids=["finished", "submitted anew"])
def test_a_run_that_ends_while_slurm_is_asked_is_not_lost(
    tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    history = History.begin(tmp_path / "runs").submit("6", at=0).start(0, "6", at=1)
    shutil.copytree(history.run.root, tmp_path / "before")
    if goes_on:
        history.end(0, "preempted", "resubmit", at=2).submit("7", at=2)
    else:
        history.end(0, "finished", "done", at=2)
    history.run.root.rename(tmp_path / "after")
    (tmp_path / "before").rename(history.run.root)
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        f"#!/bin/sh\n/bin/cp {tmp_path}/after/*.json* {history.run.root}\n"
        """case "$*" in *--jobs=7*) echo '7|PENDING|N/A|N/A||Resources' ;; esac\n"""
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent))

    [status], _ = read_statuses(make_cluster(), [history.run])

    assert status.state == ("queued" if goes_on else "finished")


def test_goodput_counts_useful_and_redone_steps_queue_and_running_time(preempted: History) -> None:
    preempted.start(1, "7", at=200).train(1, 30, 50, at=210).end(1, "killed", "requeue", at=260, last_step=40)
    preempted.start(2, "7", at=300).train(2, 40, 60, at=310).end(2, "finished", "done", at=360, last_step=60)

    goodput = measure_goodput(preempted.run)

    assert (goodput.useful_steps, goodput.redone_steps) == (60, 10)
    assert goodput.useful_fraction == pytest.approx(60 / 70)
    assert goodput.queued_seconds == pytest.approx(60 + 60 + 40)
    assert goodput.attempt_seconds == pytest.approx(80 + 60 + 60)


def test_steps_that_were_lost_and_not_trained_again_are_not_useful(queued: History) -> None:
    queued.start(0, "7", at=60).train(0, 0, 90, at=70).end(0, "killed", "stop", at=260, last_step=10)
    failed = measure_goodput(queued.run)
    queued.start(1, "7", at=300).train(1, 10, 40, at=310)
    resumed = measure_goodput(queued.run)

    assert (failed.useful_steps, failed.redone_steps) == (10, 80)
    assert (resumed.useful_steps, resumed.redone_steps) == (40, 80)


def test_an_attempt_that_was_cut_off_counts_up_to_its_newest_step(running: History) -> None:
    assert measure_goodput(running.run).attempt_seconds == pytest.approx(10 + 2 * 30)


def last_wrote(history: History, at: float) -> History:
    """Set when the run last wrote anything."""
    for path in (history.run.ledger, history.run.metrics, *history.run.logs.glob("attempt-*/*")):
        os.utime(path, (MIDNIGHT + at, MIDNIGHT + at))
    return history


@pytest.mark.parametrize("job", [Job("7", "PENDING", "squeue", "BeginTime"), Job("7", "NODE_FAIL", "sacct")])
def test_an_attempt_whose_batch_process_was_killed_ended_when_the_run_last_wrote_something(
    running: History, job: Job
) -> None:
    [dead] = attempts_with_ends(told(last_wrote(running, at=145), job))

    assert dead.ended == MIDNIGHT + 145


def test_an_attempt_that_runs_has_no_end_and_one_whose_job_was_replaced_has(running: History) -> None:
    last_wrote(running, at=145)
    [alive] = attempts_with_ends(told(running, Job("7", "RUNNING", "squeue")))
    [dead] = attempts_with_ends(told(running.submit("8", at=900), Job("8", "RUNNING", "squeue")))

    assert (alive.ended, dead.ended) == (None, MIDNIGHT + 145)


def test_hours_in_the_queue_after_a_kill_are_not_counted_as_work(
    running: History, tmp_path: Path, make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '7|PENDING|N/A|N/A||Resources'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(squeue.parent))
    monkeypatch.setattr(time, "time", lambda: MIDNIGHT + 145 + 3 * 3600)
    last_wrote(running, at=145)

    [report], _ = read_reports(make_cluster(), [NamedRun(running.run, "it")])

    assert report.status.state == "requeued"
    assert {kind: seconds for kind, seconds in report.account.by_kind().items() if seconds} == {
        "queued": 60 + 3 * 3600,
        "starting": 10,
        "useful": 60,
        "lost": 15,
    }
    assert graph._detail(Pipeline(PipelineDir(tmp_path / "pipeline")), report.status) == duration(85)


def test_the_joined_curve_has_the_newest_row_of_each_step(preempted: History) -> None:
    preempted.start(1, "7", at=200).train(1, 25, 35, at=210, loss=1.5)

    rows = read_joined_rows(preempted.run.metrics)

    assert [row["step"] for row in rows] == [*range(1, 36)]
    assert [row["loss"] for row in rows if row["step"] in (25, 26)] == [2.0, 1.5]


def test_the_newest_rows_are_read_without_reading_a_huge_file(running: History) -> None:
    with running.run.metrics.open("a", encoding="utf-8") as metrics:
        metrics.writelines(json.dumps({"step": step, "attempt": 0}) + "\n" for step in range(31, 50_000))
        metrics.write('{"step": 50000, "att')

    rows = read_newest_rows(running.run.metrics)

    assert rows[-1]["step"] == 49_999
    assert len(rows) < 1000


def test_the_newest_rows_may_hold_any_text(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "note": "a\u2029b\x85c"}\n', encoding="utf-8")

    assert read_newest_rows(path) == [{"step": 1, "note": "a\u2029b\x85c"}]


def shown_by(cluster_file: Path, *arguments: str, columns: int = 80) -> str:
    return launcher(*arguments, environ={"LAUNCHER_CLUSTER": str(cluster_file), "COLUMNS": str(columns)})[0]


@pytest.fixture
def cluster_file(tmp_path: Path, preempted: History) -> Path:
    preempted.start(1, "7", at=200).train(1, 30, 100, at=210).end(1, "finished", "done", at=400, last_step=100)
    path = tmp_path / "cluster.yaml"
    path.write_text(f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")
    return path


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_the_terminal(cluster_file: Path, columns: int) -> None:
    lines = shown_by(cluster_file, "status", columns=columns).splitlines()

    assert lines[0].split()[:2] == ["id", "name"]
    assert lines[1].split()[:4] == ["abc123", "tiny", "cpt", "cpt" if columns == 120 else "finished"]
    assert "100/100" in lines[1]
    assert max(map(len, lines)) <= columns


def test_one_run_is_shown_with_attempts_goodput_and_plot(cluster_file: Path) -> None:
    shown = shown_by(cluster_file, "status", "abc123", "--plot")

    assert "100 useful steps, 0 redone (goodput 100.0%)" in shown
    assert "preempted, step 30 is safe" in shown
    assert "loss by step (┬ a new attempt)" in shown


def test_json_has_everything(cluster_file: Path, preempted: History) -> None:
    one = json.loads(shown_by(cluster_file, "status", "abc123", "--json"))
    several = json.loads(shown_by(cluster_file, "status", "--json"))

    expected = json.loads(json.dumps(asdict(told(preempted))))
    read_besides = ("schema_version", "type", "goodput", "evaluations", "scores", "notes")
    assert {key: value for key, value in one.items() if key not in read_besides} == expected
    assert several == {"schema_version": 1, "type": "runs", "runs": [expected], "notes": []}
    assert one["goodput"]["redone_steps"] == 0


def test_the_newest_evaluation_is_shown_and_json_has_all(cluster_file: Path, preempted: History) -> None:
    rows = [
        {"time": 1.5, "step": step, "attempt": 0, "validation_loss": loss, "token_perplexity": None}
        for step, loss in ((0, 4.5), (30, 2.25))
    ]
    preempted.run.evaluations.write_text("".join(json.dumps(row) + "\n" for row in rows))

    shown = shown_by(cluster_file, "status", "abc123", "--no-plot")
    told_all = json.loads(shown_by(cluster_file, "status", "abc123", "--json"))["evaluations"]

    assert "scores   step 30: validation_loss 2.2500\n" in shown
    assert told_all == rows


def test_a_curve_falls_from_the_upper_left_to_the_lower_right() -> None:
    lines = plot([(float(step), 10.0 - step) for step in range(11)], marks=[5.0], width=40, height=10)

    assert len(lines) == 10
    assert lines[0].split("┤")[0].strip() == "10"
    assert lines[7].split("┤")[0].strip() == "0"
    curves = [line.split("┤")[1] for line in lines[:8]]
    starts = [len(curve) - len(curve.lstrip("\u2800")) for curve in curves]
    assert starts == sorted(starts) and starts[0] == 0
    assert len(curves[7]) > len(curves[0])
    assert lines[8].split("└")[1].index("┬") == pytest.approx(17, abs=1)
    assert lines[9].split() == ["0", "10"]
    assert max(map(len, lines)) <= 40


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, float("nan")), (2.0, float("inf"))]])
def test_too_few_points_make_no_plot(points: list[tuple[float, float]]) -> None:
    assert plot(points, [], 40, 10) == []


def test_durations_have_two_units_at_most() -> None:
    assert [duration(seconds) for seconds in (None, 4.4, 90, 3_900, 300_000)] == [
        "", "4 s", "2 min", "1 h 05 min", "3 d 11 h",
    ]  # fmt: skip


def test_moments_are_as_short_as_they_are_near() -> None:
    from datetime import datetime, timedelta

    now = datetime(2026, 9, 21, 12, 0)
    moments = [now, now + timedelta(days=2), now - timedelta(days=30)]

    shown = [clock(moment.timestamp(), now) for moment in moments]

    assert shown == ["12:00", "Wed 12:00", "2026-08-22 12:00"]
    assert clock(None) == ""


def test_numbers_have_three_digits() -> None:
    assert [quantity(value) for value in (None, 7.0, 950.0, 12_345.0, 4.56e6)] == ["", "7", "950", "12.3k", "4.56M"]


def test_nodes_are_written_as_slurm_does() -> None:
    assert node_list(["gpu03", "gpu01", "gpu02", "gpu07", "login"]) == "gpu[01-03,07],login"
    assert node_list(["a[01-02]"]) == "a[01-02]"
    assert node_list([]) == ""
