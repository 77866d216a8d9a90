"""Reading what Slurm prints. The samples were printed by Slurm 22.05.8."""

import pytest

from launcher.run.slurm_text import STATES, outside_job, parse_fields, parse_time, without_overrides

JOB = """\
JobId=20 ArrayJobId=20 ArrayTaskId=1-2%1 JobName=x
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   JobState=PENDING Reason=JobArrayTaskLimit Dependency=(null)
   NodeList=
   TRES=cpu=4,mem=16000M,node=1,billing=4
   Socks/Node=* NtasksPerN:B:S:C=2:0:*:* CoreSpec=*
   Comment=launcher a=b c
   Command=/tmp/x y/submission.sh
   Power=
"""


@pytest.mark.parametrize("text", [JOB, " ".join(JOB.split())], ids=["lines", "oneliner"])
def test_fields_are_read_from_one_line_or_several_with_spaces_in_values(text: str) -> None:
    fields = parse_fields(text)

    assert (fields["ArrayTaskId"], fields["JobState"], fields["Dependency"]) == ("1-2%1", "PENDING", "(null)")
    assert (fields["TRES"], fields["NtasksPerN:B:S:C"]) == ("cpu=4,mem=16000M,node=1,billing=4", "2:0:*:*")
    assert (fields["NodeList"], fields["Power"]) == ("", "")
    assert fields["Command"] == "/tmp/x y/submission.sh"


@pytest.mark.parametrize("text", ["N/A", "Unknown", "None", "", "(null)"])
def test_a_time_that_slurm_does_not_know_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_every_state_of_slurm_22_05_has_a_meaning() -> None:
    documented = """
        BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING PREEMPTED
        RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT STAGE_OUT
        STOPPED SUSPENDED TIMEOUT
    """

    assert [state for state in documented.split() if state not in STATES] == []


def test_variables_with_options_for_slurm_are_left_out_and_outside_a_job_its_own_as_well() -> None:
    environ = {"SLURM_JOB_ID": "5", "SRUN_DEBUG": "3", "SBATCH_QOS": "x", "SLURM_CONF": "/c", "HOME": "/h"}

    assert without_overrides(environ) == {"SLURM_JOB_ID": "5", "SLURM_CONF": "/c", "HOME": "/h"}
    assert outside_job(environ) == {"SLURM_CONF": "/c", "HOME": "/h"}
