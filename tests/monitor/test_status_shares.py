"""`launcher status` of a `prepare` in several tasks: one run, with a bar for each task."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from launcher.cli.views.status_view import print_run
from launcher.cluster import Cluster
from launcher.monitor.find import find_run
from launcher.monitor.goodput import measure_goodput
from launcher.monitor.status import RunStatus, read_statuses
from launcher.run.ledger import append_event
from launcher.run.paths import list_shares
from launcher.run.record import CorpusShare, RunRecord
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult
from tests.support.command_line import launcher
from tests.support.run_histories import MIDNIGHT, History

MakeCluster = Callable[..., Cluster]
FILES, BYTES = 4, 4_000_000_000


def begin_group(runs: Path, tasks: int = 4) -> tuple[History, list[History]]:
    """A group of which the files are known; nothing has started."""
    last = History.begin(runs, "abc123", "medline")
    last.record.kind, last.record.group = "prepare", "abc123"
    last.run.recipe.write_text('{"kind": "prepare"}')
    files = [[f"{number}.xml", BYTES // FILES] for number in range(tasks * FILES)]
    last.run.plan.write_text(json.dumps({"fingerprint": "f", "files": files}))
    return last.submit("1002", at=0), [begin_share(last, index, tasks) for index in range(tasks)]


def begin_share(last: History, index: int, tasks: int) -> History:
    history = History(last.run.share(index))
    history.run.root.mkdir(parents=True)
    history.run.recipe.write_text('{"kind": "prepare"}')
    fields = (f"abc123_{index}", "medline", "prepare", "f" * 64, MIDNIGHT, "code", None, "/recipes", "w", {})
    history.record = RunRecord(*fields, group="abc123", share=CorpusShare(index, tasks))  # type: ignore[arg-type]
    return history.submit(f"1001_{index}", at=0)


def work(history: History, index: int, seconds: int, rate: int = 10_000_000) -> None:
    """The task starts and reads `rate` bytes a second."""
    history.start(0, f"1001_{index}", at=10, nodes=(f"a{index}",))
    append_event(history.run.ledger, 0, first_step=0, total_steps=FILES)
    rows = [
        {"time": MIDNIGHT + 10 + t, "step": 1, "attempt": 0, "bytes": t * rate, "bytes_total": BYTES}
        for t in range(0, seconds + 1, 5)
    ]
    history.run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))


def start_last(last: History, shares: list[History], reason: str, action: str) -> None:
    """All tasks work and end, and the last run starts."""
    for index, share in enumerate(shares):
        work(share, index, 100)
        share.end(0, reason, action, at=200)
    last.start(0, "1002", at=300)


def told(history: History, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, *jobs: Job) -> RunStatus:
    answer = QueryResult({job.id: job for job in jobs}, frozenset({"squeue"}))
    monkeypatch.setattr("launcher.monitor.run_state.find_jobs", lambda *_: answer)
    [status], _ = read_statuses(make_cluster(), [history.run])
    return status


def test_a_group_is_as_far_as_all_its_tasks(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, shares = begin_group(tmp_path)
    for index in range(3):
        work(shares[index], index, 100)
    shares[2].end(0, "error", "stop", at=120)
    running = [Job(f"1001_{index}", "RUNNING", "squeue") for index in range(2)]
    waiting = [Job(job, "PENDING", "squeue", "Dependency") for job in ("1001_3", "1002")]

    status = told(last, make_cluster, monkeypatch, *running, *waiting)

    assert (status.state, status.why) == ("running", "2 of 4 tasks running, 1 queued, 1 failed")
    assert (status.step, status.total_steps) == (3, 16)
    assert (status.bytes_done, status.bytes_total) == (3_000_000_000, 4 * BYTES)
    assert status.bytes_per_second == pytest.approx(20_000_000)
    assert status.eta_seconds == pytest.approx(13e9 / 20e6)
    assert (status.job_id, status.nodes) == ("1001", ("a0", "a1"))
    assert status.group is not None
    assert [task.state for task in status.group.tasks] == ["running", "running", "failed", "queued"]
    assert status.group.finalise.state == "queued"


def test_a_group_whose_tasks_all_wait_is_queued(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, _ = begin_group(tmp_path, tasks=2)
    last.run.plan.unlink()
    waiting = [Job(job, "PENDING", "squeue", "Priority") for job in ("1001_0", "1001_1", "1002")]

    status = told(last, make_cluster, monkeypatch, *waiting)

    assert (status.state, status.why) == ("queued", "2 of 2 tasks queued")
    assert (status.step, status.total_steps, status.bytes_total) == (None, None, None)


def test_the_last_run_tells_when_the_tasks_are_over(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, shares = begin_group(tmp_path, tasks=2)
    start_last(last, shares, "killed", "stop")
    last.run.metrics.write_text(
        json.dumps({"time": MIDNIGHT + 310, "step": 5, "attempt": 0, "bytes": 5e9, "bytes_total": 2 * BYTES}) + "\n"
    )

    status = told(last, make_cluster, monkeypatch, Job("1002", "RUNNING", "squeue"))

    assert (status.state, status.job_id, status.step, status.bytes_done) == ("running", "1002", 5, 5e9)


def test_what_the_last_run_does_after_the_reading_is_shown(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last, shares = begin_group(tmp_path, tasks=2)
    start_last(last, shares, "finished", "done")
    rows = [{"bytes": size, "bytes_total": 2 * BYTES, "attempt": 0, "step": 8} for size in (BYTES, 2 * BYTES)]
    rows[1] |= {"phase": "near duplicates", "phase_done": 5, "phase_total": 15}
    lines = [json.dumps({"time": MIDNIGHT + 310 + number, **row}) + "\n" for number, row in enumerate(rows)]
    last.run.metrics.write_text("".join(lines))

    status = told(last, make_cluster, monkeypatch, Job("1002", "RUNNING", "squeue"))
    print_run(Console(width=120), status, measure_goodput(last.run), {}, [])

    assert (status.phase, status.phase_done, status.phase_total) == ("near duplicates", 5, 15)
    assert (status.bytes_per_second, status.eta_seconds) == (None, None)
    said = capsys.readouterr().out
    assert "(100% read); near duplicates 5/15" in said


def test_a_group_costs_what_all_its_runs_cost(tmp_path: Path) -> None:
    last, shares = begin_group(tmp_path, tasks=2)
    start_last(last, shares, "finished", "done")
    last.train(0, 2, 8, at=300).end(0, "finished", "done", at=330, last_step=8)

    cost = measure_goodput(last.run)

    assert (cost.useful_steps, cost.redone_steps) == (8, 0)
    assert cost.attempt_seconds == pytest.approx(2 * 190 + 30)
    assert cost.queued_seconds == pytest.approx(2 * 10)  # the last run waited for the tasks


def test_a_run_that_others_finished_has_nothing_left_to_do(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, _ = begin_group(tmp_path, tasks=0)
    row = {"time": MIDNIGHT + 310, "step": 5, "attempt": 0, "bytes": 5e9, "bytes_total": BYTES}
    last.run.metrics.write_text(json.dumps(row) + "\n")
    append_event(last.run.ledger, 0, total_steps=8)
    last.start(0, "1002", at=300).end(0, "finished", "done", at=400, last_step=8)

    status = told(last, make_cluster, monkeypatch)

    assert (status.step, status.bytes_done) == (8, BYTES)


def test_tasks_of_a_finished_group_are_read_only_if_asked_for(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, shares = begin_group(tmp_path, tasks=2)
    last.start(0, "1002", at=300).end(0, "finished", "done", at=400, last_step=8)

    assert told(last, make_cluster, monkeypatch).group is None
    [status], _ = read_statuses(make_cluster(), [last.run], finished_tasks=True)
    assert status.state == "finished"
    assert status.group is not None and len(status.group.tasks) == len(shares)


def test_nothing_is_to_be_done_about_a_lost_task_once_the_corpus_is_made(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last, shares = begin_group(tmp_path, tasks=2)
    start_last(last, shares, "stopped", "stop")

    def shown(*jobs: Job) -> str:
        answer = QueryResult({job.id: job for job in jobs}, frozenset())
        monkeypatch.setattr("launcher.monitor.run_state.find_jobs", lambda *_: answer)
        [status], _ = read_statuses(make_cluster(), [last.run], finished_tasks=True)
        print_run(Console(width=100), status, measure_goodput(last.run), {}, [])
        return capsys.readouterr().out

    assert "  abc123_1: " in shown(Job("1002", "RUNNING", "squeue"))
    last.end(0, "finished", "done", at=400, last_step=8)
    assert "  abc123_1: " not in shown()


def test_a_task_is_found_by_the_id_of_its_group_and_its_index(tmp_path: Path, make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    last, shares = begin_group(Path(cluster.roots.runs), tasks=12)

    assert find_run(cluster, "abc123") == find_run(cluster, "medline") == last.run
    assert find_run(cluster, "abc123_11") == find_run(cluster, "abc_11") == shares[11].run
    assert [share.root.name for share in list_shares(last.run)] == [f"abc123_{index}" for index in range(12)]


def test_without_slurm_tasks_wait_for_their_turn(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, [first, second] = begin_group(tmp_path, tasks=2)
    for history in (last, first, second):
        history.submit("local-7", at=1)
    first.start(0, "local-7", at=10)

    status = told(last, make_cluster, monkeypatch, Job("local-7", "RUNNING", "process"))

    assert (status.state, status.why) == ("running", "1 of 2 tasks running, 1 queued")
    assert status.group is not None
    assert status.group.finalise.why == "waits for its turn"


@pytest.mark.parametrize("columns", [80, 120])
def test_a_group_is_one_line_and_a_table_of_tasks_that_fit_the_terminal(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, shares = begin_group(tmp_path / "runs")
    for index in range(3):
        work(shares[index], index, 200)
    shares[2].end(0, "error", "stop", at=120, message="rank 0 failed")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    rows = [f"1001_{index}|RUNNING|N/A|N/A|a{index}|None" for index in range(2)]
    rows += [f"{job}|PENDING|N/A|N/A||Dependency" for job in ("1001_3", "1002")]
    (bin_folder / "squeue").write_text("#!/bin/sh\ncat <<END\n" + "\n".join(rows) + "\nEND\n")
    (bin_folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"name: here\nroots: {{runs: {tmp_path}/runs, corpora: c, models: m}}\n")
    environ = {"LAUNCHER_CLUSTER": str(profile), "COLUMNS": str(columns)}

    table = launcher("status", environ=environ)[0].splitlines()
    shown = launcher("status", "abc123", environ=environ)[0].splitlines()
    [row] = json.loads(launcher("status", "--json", environ=environ)[0])["runs"]

    assert len(table) == 2
    assert "running 2/4, 1 failed" in table[1]
    assert "38% 3/16" in table[1]
    lines = {line.split()[0]: line.split() for line in shown if line and line.split()[0] != "2:"}
    assert lines["abc123_1"][:3] == ["abc123_1", "running", "a1"]
    assert {"50%", "1/4", "10", "MB/s"} <= set(lines["abc123_1"])
    assert {"38%", "3/16", "20", "MB/s"} <= set(lines["all"])
    assert lines["finalise"] == ["finalise", "queued"]
    assert any("abc123_2: error: rank 0 failed" in line for line in shown)
    paths = {f"  folder   {last.run.root}"}
    assert max(len(line) for line in [*table, *shown] if line not in paths) <= columns
    assert [task["bytes_done"] for task in row["group"]["tasks"]] == [2_000_000_000] * 3 + [None]
