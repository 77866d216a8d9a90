"""Reading what Slurm prints. The samples were printed by Slurm 22.05.8."""

import pytest

from launcher.run.slurm_text import STATES, expand_nodes, outside_job, parse_fields, parse_time, without_overrides

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
    environ["SLURM_TIME_FORMAT"] = "%s"  # in which `parse_time` would find no time

    assert without_overrides(environ) == {"SLURM_JOB_ID": "5", "SLURM_CONF": "/c", "HOME": "/h"}
    assert outside_job(environ) == {"SLURM_CONF": "/c", "HOME": "/h"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu07", "gpu07"),
        ("gpu[01-03,07]", "gpu01 gpu02 gpu03 gpu07"),
        ("gpu[098-101]", "gpu098 gpu099 gpu100 gpu101"),
        ("n[8-11],head,a-b.c", "n8 n9 n10 n11 head a-b.c"),
        ("rack[1-2]n[01,03]", "rack1n01 rack1n03 rack2n01 rack2n03"),
        ("", ""),
    ],
)
def test_a_list_of_nodes_is_expanded_as_scontrol_show_hostnames_does(text: str, names: str) -> None:
    """The names were printed by `scontrol show hostnames` of Slurm 22.05.8."""
    assert expand_nodes(text) == names.split()


@pytest.mark.parametrize("text", ["gpu[01-", "gpu[]", "gpu[a-c]", "(null)", "gpu01,", "gpu 01"])
def test_what_is_no_list_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no list of nodes"):
        expand_nodes(text)
