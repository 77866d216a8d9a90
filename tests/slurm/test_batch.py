"""The batch process on a real Slurm, with tasks that only count."""

import itertools
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import Cluster
from launcher.devcluster import DevCluster
from launcher.load import load_cluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, SubmissionDir, published_steps
from launcher.run.record import RunRecord
from launcher.run.slurm_text import parse_fields
from launcher.slurm.local_queue import LocalQueue
from tests.slurm.site import free_ports, no_new_starts, preempt_mode
from tests.support.counting_runs import Play, last_attempt, seen, stage, summary
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

LONG = 100_000
"""Steps that no test waits for."""

folders = itertools.count()


class Stage:
    """Puts plays on a dev cluster."""

    def __init__(self, devcluster: DevCluster, folder: Path) -> None:
        self.devcluster = devcluster
        self.folder = folder

    def play(self, *plays: Play, options: tuple[str, ...] = (), **slurm: Any) -> tuple[str, list[RunDir]]:
        """Submit runs as one job; keywords replace keys of the profile's `slurm` section."""
        profile = load_cluster(str(self.devcluster.profile))
        cluster = Cluster.model_validate_json(
            profile.model_copy(update={"slurm": profile.slurm.model_copy(update=slurm)}).model_dump_json()
        )
        submission, runs = stage(self.folder / str(next(folders)), cluster, plays)
        array = [f"--array=0-{len(plays) - 1}"] if len(plays) > 1 else []
        return self.devcluster.slurm("sbatch", "--parsable", *array, *options, str(submission.script)), runs

    def job(self, job_id: str) -> dict[str, str]:
        """What Slurm says of a job."""
        return parse_fields(self.devcluster.slurm("scontrol", "show", "job", "--oneliner", job_id))

    def wait_until_counting(self, run: RunDir, attempt: int = 0, ranks: int = 4) -> None:
        """Wait until all ranks of an attempt count."""
        logs = [run.rank_log(attempt, rank) for rank in range(ranks)]
        what = f"attempt {attempt} of {run.root}"
        wait_for(lambda: all(log.exists() and log.stat().st_size for log in logs), what)

    def wait_for_end(self, run: RunDir) -> list[tuple[str | None, str | None]]:
        """Wait until a run will not go on by itself; return reason and action of all attempts."""
        wait_for(lambda: summary(run) and summary(run)[-1][1] in ("done", "stop"), f"the end of {run.root}")
        return summary(run)


@pytest.fixture
def on_stage(devcluster: DevCluster, tmp_path: Path) -> Iterator[Stage]:
    """The dev cluster with nothing else on it."""
    wait_for(lambda: not devcluster.slurm("squeue", "--noheader"), "an empty queue")
    yield Stage(devcluster, tmp_path)
    for job in devcluster.slurm("squeue", "--noheader", "--format=%A").split():
        devcluster.slurm("scancel", job)


def test_a_run_on_two_nodes_whose_names_do_not_resolve_finishes(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(nodes=2))

    assert on_stage.wait_for_end(run) == [("finished", "done")]
    attempt = last_attempt(run)
    assert (attempt.job_id, len(attempt.nodes), attempt.world_size, attempt.last_step) == (job, 2, 4, 4)
    assert [seen(run, 0, rank)["ranks"] for rank in range(4)] == [[r, 4, r % 2, 2, r // 2] for r in range(4)]
    environ = seen(run, 0, 3)["environ"]
    assert environ["SLURMD_NODENAME"] == attempt.nodes[1]
    assert (
        environ["MASTER_ADDR"]
        == on_stage.devcluster.slurm("scontrol", "show", "node", attempt.nodes[0]).split("NodeAddr=")[1].split()[0]
    )
    assert environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert environ["OMP_NUM_THREADS"] == environ["SLURM_CPUS_PER_TASK"] == "1"


def test_an_array_carries_out_each_run_under_its_own_id(on_stage: Stage) -> None:
    job, runs = on_stage.play(Play(steps=2), Play(steps=3))

    assert [on_stage.wait_for_end(run) for run in runs] == [[("finished", "done")]] * 2
    assert [(last_attempt(run).job_id, last_attempt(run).last_step) for run in runs] == [
        (f"{job}_0", 2),
        (f"{job}_1", 3),
    ]


def test_an_element_that_shares_the_arrays_id_comes_back_alone(on_stage: Stage) -> None:
    """Slurm gives the last element that starts the array's own id: commands about it would mean all elements."""
    acts = {"1": {"at_step": 1, "exit_code": 78}}
    job, runs = on_stage.play(Play(steps=LONG, acts=acts), Play(steps=LONG, acts=acts))
    for run in runs:
        on_stage.wait_until_counting(run, ranks=2)
    [shared] = [run for run in runs if seen(run, 0, 0)["environ"]["SLURM_JOB_ID"] == job]
    [other] = [run for run in runs if run != shared]

    os.kill(seen(shared, 0, 0)["pid"], signal.SIGKILL)

    assert on_stage.wait_for_end(shared) == [("killed", "requeue"), ("bad_recipe", "stop")]
    assert summary(other) == [(None, None)]
    assert not other.stop_request.exists()
    other.stop_request.touch()
    assert on_stage.wait_for_end(other) == [("stopped", "stop")]


def test_a_hostile_folder_name_does_no_harm(devcluster: DevCluster, tmp_path: Path, on_stage: Stage) -> None:
    folder = tmp_path / 'it\'s a "path" %j; $(touch pwned) [x]'
    folder.mkdir()

    _, [run] = Stage(devcluster, folder).play(Play(nodes=2))

    assert on_stage.wait_for_end(run) == [("finished", "done")]
    assert run.rank_log(0, 3).read_text().splitlines()[-1] == "step 4"


def test_a_finished_run_that_is_requeued_does_nothing_and_exits_0(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play())
    on_stage.wait_for_end(run)
    wait_for(lambda: on_stage.job(job)["JobState"] == "COMPLETED", "the end of the job")
    before = run.ledger.read_bytes()

    on_stage.devcluster.slurm("scontrol", "requeue", job)

    wait_for(lambda: on_stage.job(job)["Restarts"] == "1" and on_stage.job(job)["JobState"] == "COMPLETED", "its end")
    assert on_stage.job(job)["ExitCode"] == "0:0"
    assert run.ledger.read_bytes() == before


def test_a_recipe_that_cannot_work_is_not_requeued(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(nodes=2, steps=LONG, acts={"0": {"rank": 3, "at_step": 2, "exit_code": 78}}))

    assert on_stage.wait_for_end(run) == [("bad_recipe", "stop")]
    wait_for(lambda: on_stage.job(job)["JobState"] == "FAILED", "the end of the job")
    assert (on_stage.job(job)["ExitCode"], on_stage.job(job)["Restarts"]) == ("78:0", "0")


def test_a_run_that_was_given_up_is_not_started_by_a_site_that_requeues_its_job(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(acts={"0": {"at_step": 1, "exit_code": 78}}))
    on_stage.wait_for_end(run)
    wait_for(lambda: on_stage.job(job)["JobState"] == "FAILED", "the end of the job")

    on_stage.devcluster.slurm("scontrol", "requeue", job)

    wait_for(lambda: on_stage.job(job)["Restarts"] == "1" and on_stage.job(job)["JobState"] == "FAILED", "its end")
    assert len(read_attempts(run.ledger)) == 1


def test_three_failures_without_progress_stop_the_run(on_stage: Stage) -> None:
    crash = {"at_step": 1, "exit_code": 3}
    job, [run] = on_stage.play(Play(acts={str(n): crash for n in range(9)}, max_failures=9))

    assert on_stage.wait_for_end(run) == [("error", "requeue"), ("error", "requeue"), ("error", "stop")]
    wait_for(lambda: on_stage.job(job)["JobState"] == "FAILED", "the end of the job")
    assert (on_stage.job(job)["ExitCode"], on_stage.job(job)["Restarts"]) == ("3:0", "2")
    assert [attempt.restart_count for attempt in read_attempts(run.ledger)] == [0, 1, 2]


def test_ten_preemptions_do_not_stop_a_run_on_a_site_where_it_is_submitted_anew(on_stage: Stage) -> None:
    """Slurm sends SIGTERM to the tasks; each new job starts without the wait of a requeue."""
    _, [run] = on_stage.play(Play(steps=LONG, acts={"10": {"at_step": 1, "exit_code": 78}}), requeue="resubmit")

    for attempt in range(10):
        on_stage.wait_until_counting(run, attempt, ranks=2)
        on_stage.devcluster.slurm("scancel", "--signal=TERM", last_attempt(run).job_id)

    assert on_stage.wait_for_end(run) == [("preempted", "resubmit")] * 10 + [("bad_recipe", "stop")]
    jobs = [attempt.job_id for attempt in read_attempts(run.ledger)]
    assert len(set(jobs)) == 11
    assert [entry.job_id for entry in RunRecord.read(run.record).submissions] == jobs[1:]


def test_an_element_of_an_array_is_submitted_anew_alone(on_stage: Stage) -> None:
    crash = {"0": {"at_step": 1, "exit_code": 1}}
    _, [first, second] = on_stage.play(Play(steps=2), Play(acts=crash), requeue="resubmit")

    assert on_stage.wait_for_end(first) == [("finished", "done")]
    assert on_stage.wait_for_end(second) == [("error", "resubmit"), ("finished", "done")]
    assert last_attempt(second).job_id.endswith("_1")


def test_what_waits_for_a_run_waits_for_the_job_that_goes_on(on_stage: Stage) -> None:
    """An element of an array, submitted anew; what waits for it, for all of the array, and for another run besides."""
    _, [other] = on_stage.play(Play(steps=LONG))
    base, [brief, run] = on_stage.play(Play(steps=2), Play(acts={"0": {"stays": True}}), requeue="resubmit")
    other_job = last_job(on_stage, other)
    goes = (f"--dependency=afterok:{base}_1", "--kill-on-invalid-dep=yes")
    _, followers = on_stage.play(Play(steps=2), Play(steps=2), options=goes)
    both = f"--dependency=afterok:{base}_1,afterok:{other_job},afterany:{base}"
    patient_job, [patient] = on_stage.play(Play(steps=2), options=(both, "--kill-on-invalid-dep=yes"))
    on_stage.wait_for_end(brief)
    on_stage.wait_until_counting(run, ranks=2)

    on_stage.devcluster.slurm("scancel", "--signal=TERM", last_attempt(run).job_id)

    assert on_stage.wait_for_end(run) == [("preempted", "resubmit"), ("finished", "done")]
    for follower in followers:
        assert on_stage.wait_for_end(follower) == [("finished", "done")]
        assert last_attempt(follower).started > (last_attempt(run).ended or 0)
    assert not patient.ledger.exists()
    assert on_stage.job(patient_job)["Dependency"] == f"afterok:{other_job}(unfulfilled)"
    other.stop_request.touch()
    wait_for(lambda: on_stage.job(patient_job)["JobState"] == "CANCELLED", "what waits for a run that was stopped")
    assert on_stage.job(other_job)["ExitCode"] == "75:0"
    assert not patient.ledger.exists()


def last_job(on_stage: Stage, run: RunDir) -> str:
    on_stage.wait_until_counting(run, ranks=2)
    return last_attempt(run).job_id


def test_a_run_that_was_stopped_is_not_started_by_a_site_that_requeues_its_job(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(steps=LONG))
    on_stage.wait_until_counting(run, ranks=2)
    run.stop_request.touch()
    on_stage.wait_for_end(run)
    wait_for(lambda: on_stage.job(job)["ExitCode"] == "75:0", "the end of the job")

    on_stage.devcluster.slurm("scontrol", "requeue", job)

    wait_for(lambda: on_stage.job(job)["ExitCode"] == "1:0", "its end")
    assert summary(run) == [("stopped", "stop")]


def test_a_job_that_is_submitted_anew_has_as_many_nodes_as_the_one_before(on_stage: Stage) -> None:
    """`launcher resume --nodes` says how many, which the script does not know."""
    crash = {"0": {"at_step": 1, "exit_code": 1}}
    _, [run] = on_stage.play(Play(nodes=2, acts=crash), options=("--nodes=1",), requeue="resubmit")

    assert on_stage.wait_for_end(run) == [("error", "resubmit"), ("finished", "done")]
    assert [len(attempt.nodes) for attempt in read_attempts(run.ledger)] == [1, 1]


@pytest.mark.parametrize(("mode", "grace"), [("REQUEUE", 10), ("CANCEL", 10), ("CANCEL", 0)])
def test_a_preempted_run_goes_on_where_it_was(on_stage: Stage, mode: str, grace: int) -> None:
    with preempt_mode(on_stage.devcluster, mode, grace):
        job, [run] = on_stage.play(Play(nodes=2, acts={"0": {"stays": True}}))
        on_stage.wait_until_counting(run)
        on_stage.devcluster.preempt(job)

        assert on_stage.wait_for_end(run) == [("preempted", "requeue"), ("finished", "done")]

    preempted, resumed = read_attempts(run.ledger)
    assert preempted.source in ("scontrol", "Slurm's log")
    assert resumed.first_step == preempted.last_step == published_steps(run)[0]
    assert resumed.job_id == job
    assert seen(run, 0, 0)["environ"]["MASTER_PORT"] != seen(run, 1, 0)["environ"]["MASTER_PORT"]


def test_tasks_that_do_not_listen_are_preempted_all_the_same_and_it_is_said_afterwards(on_stage: Stage) -> None:
    with preempt_mode(on_stage.devcluster, "REQUEUE", 1):
        job, [run] = on_stage.play(Play(steps=LONG, acts={"0": {"deaf": True}, "1": {"at_step": 1, "exit_code": 78}}))
        on_stage.wait_until_counting(run, ranks=2)
        on_stage.devcluster.preempt(job)

        assert on_stage.wait_for_end(run) == [("preempted", "requeue"), ("bad_recipe", "stop")]

    assert "this attempt made no progress" in read_attempts(run.ledger)[0].message


def test_a_cancelled_run_stays_cancelled_and_keeps_what_it_has(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(nodes=2, steps=LONG))
    on_stage.wait_until_counting(run)

    on_stage.devcluster.slurm("scancel", job)

    assert on_stage.wait_for_end(run) == [("stopped", "stop")]
    assert last_attempt(run).last_step == published_steps(run)[-1]
    wait_for(lambda: on_stage.job(job)["JobState"] == "CANCELLED", "the end of the job")


def test_a_run_whose_node_ends_its_processes_comes_back(on_stage: Stage) -> None:
    """As when a cloud takes a machine back: SIGTERM from init, and Slurm knows of nothing."""
    play = Play(steps=LONG, acts={"1": {"at_step": 1, "exit_code": 78}})
    _, [run] = on_stage.play(play, requeue="resubmit")
    on_stage.wait_until_counting(run, ranks=2)
    here = LocalQueue(load_cluster(str(on_stage.devcluster.profile)))
    [batch] = here.jobs_of(SubmissionDir(run.root.parent / ".submissions" / "1"))

    for pid in (int(batch.removeprefix("local-")), *(seen(run, 0, rank)["pid"] for rank in range(2))):
        os.kill(pid, signal.SIGTERM)

    assert on_stage.wait_for_end(run) == [("preempted", "resubmit"), ("bad_recipe", "stop")]
    assert read_attempts(run.ledger)[0].source == "SIGTERM"


@pytest.fixture(scope="module")
def limited(devcluster: DevCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, RunDir]:
    """Two runs that met their time limits at once, which takes a minute: one that saves, and one that is deaf."""
    stage = Stage(devcluster, tmp_path_factory.mktemp("limited"))
    end = {"1": {"at_step": 1, "exit_code": 78}}
    # Slurm looks every 30 s and may be as much early: a longer lead would fall into the start of the tasks.
    _, [saving] = stage.play(Play(nodes=2, steps=LONG, time="1min", acts=end), options=("--signal=B:USR1@5",))
    deaf_play = Play(steps=LONG, time="1min", acts={"0": {"deaf": True}, **end})
    _, [deaf] = stage.play(deaf_play, options=("--signal=B:USR1@1",))
    for run in (saving, deaf):
        stage.wait_for_end(run)
    return saving, deaf


def test_a_time_limit_is_met_with_a_save_and_another_attempt(limited: tuple[RunDir, RunDir]) -> None:
    run, _ = limited

    assert summary(run) == [("time_limit", "requeue"), ("bad_recipe", "stop")]
    first, second = read_attempts(run.ledger)
    assert (first.exit_code, first.source) == (75, "STOP")
    assert second.first_step == first.last_step
    assert "SIGUSR1: STOP asks the tasks to save and leave" in run.batch_log(0).read_text()


def test_a_run_that_saves_longer_than_its_lead_is_not_lost(limited: tuple[RunDir, RunDir]) -> None:
    _, run = limited

    assert summary(run) == [("killed", "requeue"), ("bad_recipe", "stop")]
    assert "the time limit came before the tasks had saved" in read_attempts(run.ledger)[0].message


def test_runs_whose_first_or_other_node_is_lost_go_on_on_others(on_stage: Stage) -> None:
    play = Play(nodes=2, steps=LONG, acts={"1": {"at_step": 1, "exit_code": 78}})
    runs = [on_stage.play(play, options=("--exclusive",))[1][0] for _ in range(2)]
    for run in runs:
        on_stage.wait_until_counting(run)
    lost = [last_attempt(run).nodes[place] for place, run in enumerate(runs)]

    for node in lost:
        on_stage.devcluster.kill_node(node)
    try:
        ends = [on_stage.wait_for_end(run) for run in runs]
    finally:
        for node in lost:
            on_stage.devcluster.revive_node(node)

    assert ends == [[("node_failure", "requeue"), ("bad_recipe", "stop")]] * 2
    for run in runs:
        failed, resumed = read_attempts(run.ledger)
        assert failed.job_id == resumed.job_id
        assert not set(lost) & set(resumed.nodes)


def test_accounting_tells_what_a_batch_process_that_died_with_its_node_could_not(
    accounting_cluster: DevCluster, tmp_path: Path
) -> None:
    stage = Stage(accounting_cluster, tmp_path)
    _, [run] = stage.play(Play(steps=LONG, acts={"1": {"at_step": 1, "exit_code": 78}}))
    stage.wait_until_counting(run, ranks=2)
    [node] = last_attempt(run).nodes

    accounting_cluster.kill_node(node)
    try:
        assert stage.wait_for_end(run) == [("node_failure", "requeue"), ("bad_recipe", "stop")]
    finally:
        accounting_cluster.revive_node(node)

    assert read_attempts(run.ledger)[0].source == "sacct"


def test_a_killed_rank_costs_one_attempt(on_stage: Stage) -> None:
    _, [run] = on_stage.play(Play(nodes=2, acts={"0": {"stays": True}}))
    on_stage.wait_until_counting(run)

    os.kill(seen(run, 0, 3)["pid"], signal.SIGKILL)

    assert on_stage.wait_for_end(run) == [("killed", "requeue"), ("finished", "done")]
    failed = read_attempts(run.ledger)[0]
    assert f"rank 3 on {failed.nodes[1]}: Killed" in failed.message


def test_tasks_that_hang_are_killed_and_leave_their_stacks(on_stage: Stage) -> None:
    """Nothing but the batch process ends them: they wait for no collective, and listen to no signal."""
    act = {"rank": 0, "at_step": 3, "block": True}
    job, [run] = on_stage.play(Play(nodes=2, steps=4, save_every=2, hang="10s", acts={"0": act}))

    assert on_stage.wait_for_end(run) == [("hang", "requeue"), ("finished", "done")]
    hung, resumed = read_attempts(run.ledger)
    assert (hung.source, hung.job_id, resumed.job_id, resumed.first_step) == ("watchdog", job, job, 2)
    assert " in stuck\n" in run.rank_log(0, 0).read_text()
    assert "rank-*.log, but none of rank 1 on" in run.batch_log(0).read_text()


@pytest.mark.parametrize("requeue", ["requeue", "resubmit"])
def test_a_node_that_the_preflight_found_unfit_is_not_given_to_the_run_again(on_stage: Stage, requeue: str) -> None:
    unfit = {"0": {"at_step": 1, "exit_code": 1, "unfit": "3 of 4 GPUs are visible"}}
    _, [run] = on_stage.play(Play(acts=unfit), requeue=requeue, exclude="a100-04")

    assert on_stage.wait_for_end(run) == [("node_failure", requeue), ("finished", "done")]
    failed, resumed = read_attempts(run.ledger)
    [node] = failed.nodes
    excluded = on_stage.job(resumed.job_id)["ExcNodeList"]
    assert set(on_stage.devcluster.slurm("scontrol", "show", "hostnames", excluded).split()) == {"a100-04", node}
    assert node not in resumed.nodes
    assert failed.message.endswith(f"{node}: 3 of 4 GPUs are visible), no step is safe yet; not on {node} again")


@pytest.mark.parametrize("requeue", ["requeue", "resubmit"])
def test_a_run_comes_back_although_the_full_disk_could_not_take_its_end(
    on_stage: Stage, small_disk: Path, requeue: str
) -> None:
    play = Play(acts={"0": {"at_step": 2, "once": "go", "fill": True, "exit_code": 1}})
    job, [run] = Stage(on_stage.devcluster, small_disk).play(play, requeue=requeue)
    on_stage.wait_until_counting(run, ranks=2)

    with no_new_starts(on_stage.devcluster):
        (run.root / "go").touch()
        wait_for(lambda: on_stage.devcluster.slurm("squeue", "--noheader", "--format=%T") == "PENDING", "a requeue")
        log = next(run.root.parent.glob(f".submissions/*/slurm-{job}.log")).read_text()
        (run.root / "filler").unlink()

    assert on_stage.wait_for_end(run) == [("killed", requeue), ("finished", "done")]
    assert "the ledger cannot take the end of attempt 0: [Errno 28] No space left on device" in log
    assert "Traceback" not in log
    wait_for(lambda: not on_stage.devcluster.slurm("squeue", "--noheader"), "the job to let go of the disk")


def test_two_runs_on_one_node_at_once_have_gpus_and_ports_of_their_own(on_stage: Stage) -> None:
    options = ("--nodelist=a100-01",)
    plays = [on_stage.play(Play(steps=LONG), options=options)[1][0] for _ in range(2)]

    for run in plays:
        on_stage.wait_until_counting(run, ranks=2)

    one, other = (seen(run, 0, 0)["environ"] for run in plays)
    assert one["SLURMD_NODENAME"] == other["SLURMD_NODENAME"] == "a100-01"
    assert one["MASTER_PORT"] != other["MASTER_PORT"]
    assert {one["CUDA_VISIBLE_DEVICES"], other["CUDA_VISIBLE_DEVICES"]} == {"0,1", "2,3"}


def test_an_occupied_port_is_passed_over(on_stage: Stage) -> None:
    start = free_ports(6)
    with ExitStack() as servers:
        for port in (start + 1, start + 2):
            servers.enter_context(socket.create_server(("127.0.0.1", port)))
        _, [run] = on_stage.play(Play(), port_range=(start, start + 5))
        on_stage.wait_for_end(run)

    assert seen(run, 0, 0)["environ"]["MASTER_PORT"] == str(start + 4)


def test_a_job_whose_run_is_alive_in_another_job_leaves_it_alone(on_stage: Stage) -> None:
    job, [run] = on_stage.play(Play(steps=LONG))
    on_stage.wait_until_counting(run, ranks=2)
    script = next(run.root.parent.glob(".submissions/*/submission.sh"))

    twin = on_stage.devcluster.slurm("sbatch", "--parsable", str(script))

    wait_for(lambda: on_stage.job(twin)["JobState"] == "FAILED", "the end of the second job")
    assert f"attempt 0 is running as job {job}" in (script.parent / f"slurm-{twin}.log").read_text()
    assert len(read_attempts(run.ledger)) == 1
