"""The srun command line, its environment, and what srun says when ranks fail."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.launch import Launch, Outcome, RankEnd, deciding_outcome
from jobs.batch.srun import ContainerError, parse_rank_end, srun_argv, srun_environment
from launcher.cluster import Cluster
from launcher.run.paths import RunDir

MakeLaunch = Callable[..., Launch]


@pytest.fixture
def make_launch(make_cluster: Callable[..., Cluster], tmp_path: Path) -> MakeLaunch:
    def make(root: Path = tmp_path, **profile: Any) -> Launch:
        cluster = make_cluster(**profile).model_dump(mode="json")
        return Launch(RunDir(root), 2, 2, 4, 8, "gpu01", 10000, cluster, str(tmp_path))

    return make


def test_every_rank_runs_the_snapshot_with_all_gpus_of_its_node_in_view(
    make_launch: MakeLaunch, tmp_path: Path
) -> None:
    argv = srun_argv(make_launch())

    assert argv[:5] == ["srun", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--cpus-per-task=8"]
    assert argv[-7:] == [sys.executable, "-u", "-m", "jobs", str(tmp_path), "--attempt", "2"]
    assert {"--kill-on-bad-exit=1", "--open-mode=append", "--unbuffered"} < set(argv)
    assert not any(word.startswith(("--gpu", "--gres")) for word in argv)


def test_a_hostile_run_directory_stays_out_of_slurms_file_name_pattern(
    make_launch: MakeLaunch, hostile_path: Path
) -> None:
    argv = srun_argv(make_launch(hostile_path))

    assert f"--chdir={hostile_path}" in argv
    assert "--output=logs/attempt-002/rank-%5t.log" in argv


def test_ranks_get_their_meeting_point_and_the_profiles_variables(make_launch: MakeLaunch) -> None:
    launch = make_launch(environment={"NCCL_DEBUG": "INFO", "OMP_NUM_THREADS": "2"})

    environ = srun_environment(launch, {"PATH": "/bin", "SLURM_JOB_ID": "5"})

    assert (environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("gpu01", "10000")
    assert (environ["LAUNCHER_ATTEMPT"], environ["NCCL_DEBUG"], environ["OMP_NUM_THREADS"]) == ("2", "INFO", "2")
    assert (environ["PATH"], environ["SLURM_JOB_ID"], environ["SRUN_CPUS_PER_TASK"]) == ("/bin", "5", "8")


def test_options_that_another_shell_left_behind_do_not_reach_the_step(make_launch: MakeLaunch) -> None:
    leftovers = ("SBATCH_PARTITION", "SRUN_DEBUG", "SLURM_GPU_BIND", "SLURM_GPUS_PER_TASK", "SLURM_EXCLUSIVE")

    environ = srun_environment(make_launch(), dict.fromkeys(leftovers, "1"))

    assert not set(leftovers) & environ.keys()


def test_a_place_that_another_launcher_left_behind_is_nobodys_place(make_launch: MakeLaunch) -> None:
    leftovers = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")

    environ = srun_environment(make_launch(), dict.fromkeys(leftovers, "0"))

    assert not set(leftovers) & environ.keys()


def test_apptainer_wraps_the_ranks_and_sees_the_roots(make_launch: MakeLaunch, tmp_path: Path) -> None:
    container = {"runtime": "apptainer", "image": "/images/train.sif", "mounts": [str(tmp_path / "missing"), "/usr"]}
    roots = {"runs": str(tmp_path), "models": "/opt", "corpora": "/srv", "data": "/mnt"}

    argv = srun_argv(make_launch(container=container, roots=roots))
    wrapped = argv[argv.index("apptainer") :]

    assert wrapped[:3] == ["apptainer", "exec", "--nv"]
    assert {word for word in wrapped if word.startswith("--bind")} == {
        f"--bind={folder}" for folder in (tmp_path, "/opt", "/srv", "/mnt", "/usr")
    }
    assert wrapped[wrapped.index("/images/train.sif") + 1] == "python3"


def test_apptainer_leaves_gpus_out_where_there_are_none(make_launch: MakeLaunch) -> None:
    container = {"runtime": "apptainer", "image": "x.sif"}

    assert "--nv" not in srun_argv(make_launch(container=container, gpus={"device": "cpu"}))


def test_pyxis_gets_the_image_as_an_option_of_srun(make_launch: MakeLaunch, tmp_path: Path) -> None:
    launch = make_launch(
        container={"runtime": "pyxis", "image": "nvcr.io#nvidia/pytorch:25.08-py3", "python": "python"}
    )

    argv = srun_argv(launch)

    assert "--container-image=nvcr.io#nvidia/pytorch:25.08-py3" in argv
    mounts = next(word for word in argv if word.startswith("--container-mounts="))
    assert f"{tmp_path}:{tmp_path}" in mounts.partition("=")[2].split(",")
    names = next(word for word in argv if word.startswith("--container-env=")).partition("=")[2].split(",")
    assert {"MASTER_ADDR", "MASTER_PORT", "LAUNCHER_ATTEMPT", "PYTHONPATH"} <= set(names)
    assert argv[-7] == "python"


def test_a_mount_that_cannot_be_written_down_is_refused(make_launch: MakeLaunch, tmp_path: Path) -> None:
    container = {"runtime": "apptainer", "image": "x.sif", "mounts": [f"{tmp_path}/a,b"]}

    with pytest.raises(ContainerError, match="a,b: container mounts cannot hold `,` or `:`; rename the folder"):
        srun_argv(make_launch(container=container))


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("srun: error: a100-01: task 0: Exited with exit code 78",
         RankEnd("0", "a100-01", 78, "Exited with exit code 78")),
        ("srun: error: a100-02: tasks 2-3,5: Exited with exit code 75",
         RankEnd("2-3,5", "a100-02", 75, "Exited with exit code 75")),
        ("srun: error: a100-02: task 3: Killed", RankEnd("3", "a100-02", 137, "Killed")),
        ("srun: error: a100-02: task 3: Terminated", RankEnd("3", "a100-02", 143, "Terminated")),
        ("srun: error: a100-02: task 3: Segmentation fault (core dumped)",
         RankEnd("3", "a100-02", 139, "Segmentation fault (core dumped)")),
        ("srun: error: a100-02: task 3: Out Of Memory", RankEnd("3", "a100-02", 137, "Out Of Memory")),
        ("srun: launch/slurm: _step_signal: Terminating StepId=8.0", None),
        ("srun: error: Node failure on a100-02", None),
    ],
)  # fmt: skip
def test_what_srun_says_of_failed_ranks_is_understood(line: str, end: RankEnd | None) -> None:
    assert parse_rank_end(line) == end


def test_the_first_failure_decides_since_the_others_were_ended_because_of_it() -> None:
    ends = [RankEnd("2", "gpu02", 1, "Exited with exit code 1"), RankEnd("0-1", "gpu01", 137, "Killed")]

    assert deciding_outcome(ends, Outcome(137)) == Outcome(1, "rank 2 on gpu02: Exited with exit code 1")


def test_a_rank_that_says_never_restart_is_believed_whenever_it_speaks() -> None:
    ends = [RankEnd("2", "gpu02", 1, "Exited with exit code 1"), RankEnd("0", "gpu01", 78, "Exited with exit code 78")]

    assert deciding_outcome(ends, Outcome(137)).exit_code == 78


def test_a_rank_whose_micro_batch_does_not_fit_is_believed_though_others_fail_first() -> None:
    ends = [RankEnd("0", "n1", 1, "Exited with exit code 1"), RankEnd("3", "n2", 76, "Exited with exit code 76")]

    assert deciding_outcome(ends, Outcome(1)) == Outcome(76, "rank 3 on n2: Exited with exit code 76")
    assert deciding_outcome([*ends, RankEnd("1", "n1", 78, "...")], Outcome(1)).exit_code == 78


def test_without_a_word_about_ranks_the_code_of_srun_counts() -> None:
    assert deciding_outcome([], Outcome(143, "srun: said")) == Outcome(143, "srun: said")
