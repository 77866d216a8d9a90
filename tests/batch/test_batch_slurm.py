"""How the batch process understands Slurm's commands where they fail, hang or are missing."""

from pathlib import Path

import pytest

from jobs.batch import slurm
from jobs.batch.dependents import replace_awaited, waiting_jobs


class Commands:
    """Shell scripts with the names of Slurm's commands, alone on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, name: str, script: str) -> None:
        """Make a command; its own PATH is the machine's."""
        path = self.folder / name
        path.write_text(f"#!/bin/bash\nPATH=/usr/bin:/bin\n{script}\n", encoding="utf-8")
        path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Commands(tmp_path)


def scontrol(commands: Commands, refusal: str, job: str) -> None:
    commands.say("scontrol", f'if [ "$1" = requeue ]; then echo "{refusal}" >&2; exit 1; fi; echo "{job}"')


def test_a_missing_command_is_an_answer(commands: Commands) -> None:
    answer = slurm.ask("squeue")

    assert (answer.ok, answer.text) == (False, "squeue: No such file or directory")
    assert slurm.show_job("5") == {}
    assert slurm.show_nodes(["a"]) == []
    assert slurm.is_running("5") is None


def test_nodes_and_partitions_that_a_site_hides_are_seen(commands: Commands) -> None:
    """Without `--all`, scontrol says that there are none."""
    commands.say(
        "scontrol",
        'case "$*" in "show partition"*--all*) echo "PartitionName=p Hidden=YES Nodes=n[1-3]" ;;\n'
        '"show node"*--all*) echo "NodeName=n1 NodeAddr=10.0.0.1 State=IDLE"; echo "NodeName=n2 State=DOWN*" ;;\n'
        '*) echo "Partition p not found" >&2; exit 1 ;; esac',
    )

    assert slurm.partition_nodes("p") == ["n1", "n3"]
    assert slurm.node_address("n1") == "10.0.0.1"


def test_times_are_asked_for_in_the_form_that_is_read(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%H:%M")
    commands.say("scontrol", 'echo "JobId=5 StartTime=${SLURM_TIME_FORMAT-standard}"')

    assert slurm.show_job("5")["StartTime"] == "standard"


def test_a_hanging_command_is_an_answer(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0)
    commands.say("scontrol", "exec sleep 60")

    answer = slurm.requeue("5", 0)

    assert (answer.ok, answer.text) == (False, "scontrol did not answer within 0.2 s")


@pytest.mark.parametrize(
    ("job", "ok"),
    [
        ("JobId=5 JobState=PENDING Restarts=1", True),
        ("JobId=5 JobState=COMPLETING Restarts=1", True),
        ("JobId=5 JobState=RUNNING Restarts=0", False),
        ("JobId=5 JobState=CANCELLED Restarts=0", False),
    ],
)
def test_a_job_that_slurm_has_requeued_by_itself_counts_as_requeued(commands: Commands, job: str, ok: bool) -> None:
    scontrol(commands, "Requested operation is presently disabled for job 5", job)

    assert slurm.requeue("5", restart_count=0).ok == ok


def test_an_element_of_an_array_is_never_named_by_the_id_that_it_shares_with_the_array() -> None:
    element = {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}

    assert slurm.own_id(element) == "5_3"
    assert slurm.own_id({"SLURM_JOB_ID": "5"}) == "5"


AWAY_TWICE = """
count={folder}/count
case "$*" in
  *ping) [ "$(wc -l <$count)" -ge 3 ] && echo "Slurmctld(primary) at c1 is UP" \\
    || {{ echo "Slurmctld(primary) at c1 is DOWN"; exit 1; }} ;;
  *) echo >>$count
     [ "$(wc -l <$count)" -ge 3 ] || {{ echo "Unable to contact slurm controller (connect failure)" >&2; exit 1; }}
     {answer} ;;
esac
"""


def test_a_job_is_brought_back_when_a_slurmctld_that_was_restarted_is_there_again(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0)
    commands.say("scontrol", AWAY_TWICE.format(folder=tmp_path, answer="true"))
    assert slurm.requeue("5", 0) == slurm.CommandResult(True, "requeued")

    (tmp_path / "count").unlink()
    commands.say("sbatch", AWAY_TWICE.format(folder=tmp_path, answer="echo 6"))
    assert slurm.resubmit("submission.sh", None, "5") == slurm.CommandResult(True, "6")


BUSY_ONCE = """
case "$1" in ping) echo "Slurmctld(primary) at c1 is UP"; exit ;; esac
[ -e {folder}/asked ] && {{ {answer}; exit; }}
echo >{folder}/asked; echo "error: Socket timed out on send/recv operation" >&2; exit 1
"""


def test_a_slurmctld_that_has_too_much_to_do_is_asked_again(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0)
    commands.say("scontrol", BUSY_ONCE.format(folder=tmp_path, answer="true"))
    assert slurm.requeue("5", 0) == slurm.CommandResult(True, "requeued")

    (tmp_path / "asked").unlink()
    commands.say("sbatch", BUSY_ONCE.format(folder=tmp_path, answer="echo 6"))
    assert slurm.resubmit("submission.sh", None, "5") == slurm.CommandResult(True, "6")

    (tmp_path / "asked").unlink()
    commands.say("squeue", BUSY_ONCE.format(folder=tmp_path, answer="echo RUNNING"))
    assert slurm.is_running("5")


def test_a_job_that_a_busy_slurmctld_took_without_an_answer_is_not_queued_twice(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0)
    commands.say("sbatch", BUSY_ONCE.format(folder=tmp_path, answer="echo 9"))
    others = "6|afterany:5_3(unfulfilled)|/runs/other.sh\n7|afterok:5_3(unfulfilled)|/runs/submission.sh\n"
    commands.say("squeue", f"printf '{others}8|afterany:5_3(unfulfilled)|/runs/submission.sh\n'")
    assert slurm.resubmit("/runs/submission.sh", "3", "5_3") == slurm.CommandResult(True, "8_3")

    (tmp_path / "asked").unlink()
    commands.say("squeue", f"printf '{others}'")
    assert slurm.resubmit("/runs/submission.sh", "3", "5_3") == slurm.CommandResult(True, "9_3")


def test_a_script_in_a_folder_of_any_name_is_recognised_in_the_queue(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0)
    script = "/runs\u2029of\x85mine/submission.sh"
    commands.say("sbatch", BUSY_ONCE.format(folder=tmp_path, answer="echo 9"))
    commands.say("squeue", f"echo '8|afterany:5(unfulfilled)|{script}'")

    assert slurm.resubmit(script, None, "5") == slurm.CommandResult(True, "8")


def test_what_people_write_into_jobs_and_nodes_does_not_end_a_line(commands: Commands) -> None:
    commands.say("scontrol", "echo 'JobId=5 JobName=a\u2029b\x85c JobState=PENDING Restarts=1'; echo 'JobId=6'")
    assert slurm.show_job("5")["JobState"] == "PENDING"

    commands.say("scontrol", "echo 'NodeName=n1 Reason=a\u2029b\x85c State=DOWN'; echo 'NodeName=n2 State=IDLE'")
    assert [(node["NodeName"], node["State"]) for node in slurm.show_nodes(["n[1-2]"])] == [
        ("n1", "DOWN"), ("n2", "IDLE"),
    ]  # fmt: skip


def test_patience_with_an_absent_slurmctld_has_an_end(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(slurm, "PAUSE_SECONDS", 0.1)
    commands.say("scontrol", 'echo "Slurmctld(primary) at c1 is DOWN"; exit 1')

    assert not slurm.requeue("5", 0).ok


def test_the_id_of_a_new_job_is_found_among_a_sites_banners(commands: Commands) -> None:
    commands.say("sbatch", 'echo "project has 17 hours left"; echo "4711;cluster"')

    assert slurm.resubmit("submission.sh", None, "5") == slurm.CommandResult(True, "4711")
    assert slurm.resubmit("submission.sh", "3", "5_3") == slurm.CommandResult(True, "4711_3")


def test_a_new_job_is_for_this_element_alone_waits_for_the_old_one_and_inherits_nothing(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    monkeypatch.setenv("SBATCH_QOS", "urgent")
    commands.say("sbatch", f'echo "$@" > {tmp_path}/argv; env > {tmp_path}/env; echo 6')

    slurm.resubmit("submission.sh", "3", "5_3", nodes=4)

    argv = (tmp_path / "argv").read_text()
    assert argv == "--parsable --array=3 --dependency=afterany:5_3 --nodes=4 submission.sh\n"
    assert not [line for line in (tmp_path / "env").read_text().splitlines() if line.startswith(("SLURM_", "SBATCH_"))]


@pytest.mark.parametrize(
    ("conditions", "old", "wanted"),
    [
        ("afterok:5(unfulfilled)", "5", "afterok:6"),
        ("afterok:4(fulfilled),afterok:5(unfulfilled),afterany:7_*(unfulfilled)", "5", "afterok:6,afterany:7"),
        ("afterok:5(unfulfilled)?afterok:7(unfulfilled)", "5", "afterok:6?afterok:7"),
        ("afterok:5(unfulfilled):7(unfulfilled),singleton(unfulfilled)", "5", "afterok:6:7,singleton"),
        ("afterok:5_3(unfulfilled)", "5_3", "afterok:6"),
        ("afterany:5_*(unfulfilled)", "5_3", "afterany:5,afterany:6"),
        ("afterok:5_30(unfulfilled),afterok:15_3(unfulfilled)", "5_3", None),
        ("afterok:5_*(unfulfilled)", "5_3", None),
        ("afterok:55(unfulfilled),afterany:55_5(unfulfilled)", "5", None),
        ("(null)", "5", None),
        ("", "5", None),
    ],
)
def test_what_waits_for_a_job_is_made_to_wait_for_the_one_that_goes_on(
    conditions: str, old: str, wanted: str | None
) -> None:
    assert replace_awaited(conditions, old, "6") == wanted


def test_an_array_that_waits_is_one_job(commands: Commands) -> None:
    commands.say("squeue", "echo '  7_[0-3%2]|afterok:5(unfulfilled)|a|b'; echo '8_1|(null)|c'; echo '9||d'")

    assert waiting_jobs() == {"7": ("afterok:5(unfulfilled)", "a|b"), "8_1": ("(null)", "c"), "9": ("", "d")}

    commands.say("squeue", "")
    assert waiting_jobs() == {}


def test_the_search_path_does_not_grow_with_every_new_job(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/runs/code:/runs/code:/site")
    commands.say("sbatch", f'echo "$PYTHONPATH" > {tmp_path}/path; echo 6')

    slurm.resubmit("submission.sh", None, "5")

    assert (tmp_path / "path").read_text() == "/runs/code:/site\n"


@pytest.mark.parametrize(
    ("script", "running"),
    [("echo RUNNING", True), ("echo COMPLETING", True), ("echo SIGNALING", True), ("echo PENDING", False),
     ("true", False),
     ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
     ("echo 'Unable to contact slurm controller' >&2; exit 1", None)],
)  # fmt: skip
def test_squeue_tells_whether_a_job_is_alive(
    commands: Commands, script: str, running: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE_SECONDS", 0)
    commands.say("squeue", script)

    assert slurm.is_running("5") is running
