"""`launcher why`: what people are told of a run that waits, failed or was interrupted."""

import ctypes
import json
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path
from typing import get_args

import pytest

from launcher.cluster import Cluster
from launcher.monitor import why
from launcher.monitor.exit_reasons import EXIT_REASONS
from launcher.monitor.tracebacks import find_errors
from launcher.monitor.why import Explanation, explain_run
from launcher.run.contents import Content
from launcher.run.identity import RunIdentity
from launcher.run.ledger import Reason, append_event
from launcher.run.numbers import number_list
from launcher.run.stacks import short_frame
from launcher.run.stragglers import Straggler
from launcher.run.suspects import NodeReport, report_node
from launcher.slurm.parse import Job
from launcher.slurm.query import QueryResult
from launcher.slurm.reasons import find_reason
from tests.support.command_line import launcher
from tests.support.run_histories import History

OF_RANK_3 = (
    "[step 12] loss 2.31",
    "Traceback (most recent call last):",
    '  File "/code/jobs/train/collator.py", line 41, in __call__',
    "    row = self.rows[3]",
    '  File "/venv/torch/functional.py", line 9, in pad',
    "ValueError: row 3 has 812 tokens",
    "more lines that no traceback explains",
)
OF_OTHERS = (
    "Traceback (most recent call last):",
    '  File "/code/jobs/rank/process_group.py", line 17, in reduce',
    "RuntimeError: connection closed by peer 10.0.0.{rank}:4400",
)


@pytest.fixture
def explain(monkeypatch: pytest.MonkeyPatch, make_cluster: Callable[..., Cluster]) -> Callable[..., Explanation]:
    def told(history: History, *jobs: Job) -> Explanation:
        answer = QueryResult({job.id: job for job in jobs}, frozenset({"squeue", "sacct"}))
        monkeypatch.setattr(why, "ask_about", lambda _, runs: (answer, {one.folder.root: one for one in runs}))
        return explain_run(make_cluster(), history.run)

    return told


@pytest.fixture
def failed(tmp_path: Path) -> History:
    history = History.begin(tmp_path / "runs").submit("7", at=0).start(0, "7", at=60)
    history.end(0, "preempted", "requeue", at=100, last_step=10, message="preempted")
    history.start(1, "7", at=120).end(1, "error", "stop", at=200, message="failed (rank 3 failed first, exit code 1)")
    for rank in (0, 1, 2, 4, 5):
        history.log(1, rank, *(line.format(rank=rank) for line in OF_OTHERS))
    history.log(1, 3, *OF_RANK_3)
    return history


def test_the_error_of_the_rank_that_failed_alone_comes_before_what_it_caused_in_the_others(
    explain: Callable[..., Explanation], failed: History
) -> None:
    told = explain(failed)

    assert told.state == "failed"
    first, others = told.errors
    assert (first.ranks, first.error) == ((3,), "ValueError: row 3 has 812 tokens")
    assert first.place == "/venv/torch/functional.py:9 in pad, called by /code/jobs/train/collator.py:41 in __call__"
    assert (others.ranks, others.place) == ((0, 1, 2, 4, 5), "/code/jobs/rank/process_group.py:17 in reduce")
    assert told.evidence == (str(failed.run.rank_log(1, 3)),)
    assert "Attempts before it: 0 preempted." in told.sentences
    assert [command.split("  #")[0] for command in told.commands] == [
        "launcher logs abc123",
        "launcher logs --batch abc123",
        "launcher resume abc123",
    ]


def test_a_recipe_that_cannot_work_is_submitted_anew_not_resumed(
    explain: Callable[..., Explanation], tmp_path: Path
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    append_event(history.run.ledger, 0, fault="data.files.0: `a.jsonl` has no column `text`; it has `body`")
    told = explain(history.end(0, "bad_recipe", "stop", at=70, message="cannot work as it is"))

    assert "A rank said: data.files.0: `a.jsonl` has no column `text`; it has `body`" in told.sentences
    assert told.commands[-1].startswith("launcher submit RECIPE")
    assert not any("resume" in command for command in told.commands)


def test_a_run_that_continues_by_itself_asks_for_nothing(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    history.end(0, "preempted", "requeue", at=100, last_step=10, message="preempted, step 10 is safe")
    told = explain(history, Job("7", "PENDING", "squeue", "BeginTime"))

    assert told.state == "requeued"
    assert "The run continues by itself from its newest checkpoint." in told.sentences
    assert told.commands == ()


def test_a_run_that_counts_items_goes_on_with_those_that_are_missing(
    explain: Callable[..., Explanation], tmp_path: Path
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    history.record.kind = "evaluate"
    history.record.write(history.run.record)
    history.end(0, "time_limit", "requeue", at=100, last_step=10, message="reached the time limit, 10 items are done")

    told = explain(history, Job("7", "PENDING", "squeue", "BeginTime"))

    assert "The run continues by itself with what is not finished yet." in told.sentences


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Priority", "It starts by itself"),
        ("InvalidQOS", "write a `qos` of the site into the profile"),
        ("AssocGrpGRESMinutes", "ask the administrators of the site"),
        ("QOSMaxGRESPerUser", "It starts by itself"),
        ("QOSMaxNodePerJobLimit", "ask for less in `resources`"),
    ],
)
def test_a_job_that_waits_is_told_what_helps(
    explain: Callable[..., Explanation], tmp_path: Path, reason: str, said: str
) -> None:
    told = explain(History.begin(tmp_path).submit("7", at=0), Job("7", "PENDING", "squeue", reason))

    assert told.state == "queued" and f"({reason})" in told.sentences[0]
    assert told.sentences[1].startswith(said)


def test_a_held_job_is_let_go_by_a_command(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    told = explain(History.begin(tmp_path).submit("7", at=0), Job("7", "PENDING", "squeue", "JobHeldAdmin"))

    assert told.commands == ("scontrol release 7  # lets the job go",)


@pytest.mark.parametrize("reason", [*get_args(Reason), None])
def test_every_reason_for_which_an_attempt_can_end_has_its_words(
    explain: Callable[..., Explanation], tmp_path: Path, reason: Reason
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    told = explain(history.end(0, reason, "done" if reason == "finished" else "stop", at=90))

    assert EXIT_REASONS[reason].meaning in " ".join(told.sentences)
    assert bool(told.commands) == (reason != "finished")


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("QOSMaxGRESPerUser", "its QOS has reached its limit of GPUs per user"),
        ("AssocGrpCPURunMinutesLimit", "its account has reached its limit of CPUs, counted in minutes of running jobs"),
        ("MaxGRESPerAccount", "its account has reached its limit of GPUs"),
        ("QOSMinCpuNotSatisfied", "asks for fewer CPUs than its QOS demands"),
        ("AssocMaxSubmitJobLimit", "its account has reached its limit of jobs in the queue"),
        ("QOSMaxWallDurationPerJobLimit", "asks for more running time in one job than its QOS allows"),
        (
            "MaxGRESRunMinsPerUser",
            "its account has reached its limit of GPUs, counted in minutes of running jobs per user",
        ),
        ("launch_failed_requeued_held", "held: its nodes could not start it"),
    ],
)
def test_limits_are_put_into_words(reason: str, meaning: str) -> None:
    found = find_reason(reason)

    assert found is not None and found.meaning == meaning


def test_every_reason_that_slurm_has_is_explained() -> None:
    libraries = glob("/usr/lib*/*/slurm*/libslurmfull.so")
    if not libraries:
        pytest.skip("no Slurm is installed here, whose library would name its reasons")
    library = ctypes.CDLL(libraries[0])
    is_old = hasattr(library, "slurm_job_reason_string")  # until 23.11
    name_of = library.slurm_job_reason_string if is_old else library.slurm_job_state_reason_string
    name_of.restype = ctypes.c_char_p
    nothing = {"InvalidReason", "InvaildReason"}  # numbers without a meaning; a misprint of 24.11
    names = [
        name for number in range(1000) if not (name := name_of(number).decode()).isdecimal() and name not in nothing
    ]

    assert len(names) > 150
    assert [name for name in names if find_reason(name) is None] == []


def test_a_word_that_no_table_has_is_no_reason() -> None:
    assert find_reason("QOSMaxUnicornsPerUser") is None


def test_an_error_within_an_error_and_one_that_was_cut_off(tmp_path: Path) -> None:
    chained = tmp_path / "rank-0.log"
    chained.write_text("\n".join([*OF_RANK_3[1:6], "", "During handling of it:", "", *OF_OTHERS]))
    torn = tmp_path / "rank-1.log"
    torn.write_text("\n".join(OF_RANK_3[:3]))

    [found] = find_errors({0: chained, 1: torn})

    assert (found.ranks, found.error) == ((0,), OF_OTHERS[-1])


CRASH = """\
Fatal Python error: Segmentation fault

Thread 0x00007f30 (most recent call first):
  File "/venv/threading.py", line 324 in wait

Current thread 0x00007f31 (most recent call first):
  File "/venv/torch/functional.py", line 9 in pad
  File "/code/jobs/train/loop.py", line 41 in step
  File "<frozen runpy>", line 88 in _run_code

Extension modules: numpy (total: 1)
"""


def test_a_crash_in_c_code_is_no_lack_of_memory(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    history.log(0, 1, *CRASH.splitlines())
    message = "was killed (rank 1 on a1: Segmentation fault), no step is safe yet"
    told = explain(history.end(0, "killed", "stop", at=90, message=message))

    assert "crashed in C code" in told.sentences[1] and "memory" not in " ".join(told.sentences)
    [error] = told.errors
    assert (error.ranks, error.error) == ((1,), "Fatal Python error: Segmentation fault")
    assert error.place == "/venv/torch/functional.py:9 in pad, called by /code/jobs/train/loop.py:41 in step"


def test_ranks_that_were_asked_too_late_want_more_lead(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    message = "was killed (the time limit came before the tasks had saved)"
    told = explain(history.end(0, "killed", "stop", at=90, message=message))

    assert any("raise `slurm.lead`" in one for one in told.sentences)


STACKS = """\
step 7
Timeout (0:30:00)!
Thread 0x00007f30 (most recent call first):
  File "/venv/torch/functional.py", line 9 in pad
  File "/code/jobs/train/{file}.py", line 41 in step
  File "<frozen runpy>", line 88 in _run_code

Thread 0x00007f32 (most recent call first):
  File "/venv/threading.py", line 324 in wait
"""


def test_a_hang_tells_which_rank_the_others_wait_for(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    for rank in range(4):
        history.log(0, rank, *STACKS.format(file="loop" if rank == 2 else "reduce").splitlines())
    told = explain(history.end(0, "hang", "stop", at=90, message="hung"))

    assert told.errors == ()
    first, others = told.stacks
    assert (first.ranks, others.ranks) == ((2,), (0, 1, 3))
    assert [short_frame(frame) for frame in first.frames[:2]] == [
        "/venv/torch/functional.py:9 in pad",
        "jobs/train/loop.py:41 in step",
    ]


def test_a_run_whose_guardian_gave_up_is_told_so_until_its_attempt_is_over(
    explain: Callable[..., Explanation], tmp_path: Path
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    append_event(history.run.ledger, 0, guardian="it was not queued: squeue did not answer within 60 s")

    said = "The guardian of attempt 0 gave up: it was not queued: squeue did not answer within 60 s."
    for state in ("RUNNING", "NODE_FAIL"):
        assert said in explain(history, Job("7", state, "squeue")).sentences
    history.end(0, "preempted", "requeue", at=100, last_step=10)
    assert "guardian" not in " ".join(explain(history, Job("7", "PENDING", "squeue")).sentences)


def test_a_run_that_was_to_go_on_and_whose_job_is_gone_is_not_said_to_go_on(
    explain: Callable[..., Explanation], tmp_path: Path
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    append_event(history.run.ledger, 0, guardian="it could not queue the run again: Invalid account")
    history.end(0, "preempted", "requeue", at=100, last_step=10)

    for jobs in ([Job("7", "FAILED", "sacct")], []):
        told = explain(history, *jobs)
        assert told.state == ("failed" if jobs else "lost")
        assert "The guardian of attempt 0 gave up: it could not queue the run again: Invalid account." in told.sentences
        assert not any("by itself" in one for one in told.sentences)
        assert told.commands[-1].startswith("launcher resume")


def test_slow_ranks_and_nodes_that_are_remembered_are_told(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    history = History.begin(runs).submit("7", at=0).start(0, "7", at=60)
    Straggler(3, "a2", 40, 0.5, 2.0, 1.0, "computing").append(history.run.stragglers(0))
    for attempt, node in enumerate(("a2", "a2", "elsewhere")):
        report_node(runs, NodeReport(node, "hung", time.time(), "ab12cd", attempt))

    told = explain(history.end(0, "hang", "stop", at=90, message="hung"))

    assert any("rank 3 on a2 is slow" in one for one in told.sentences)
    [said] = [one for one in told.sentences if "remembered" in one]
    assert said.startswith("a2 is remembered (`launcher nodes list`): hung (run ab12cd, attempt 0); hung")
    assert said.endswith("new jobs avoid it.")


def test_inputs_that_changed_meanwhile_are_named(explain: Callable[..., Explanation], failed: History) -> None:
    inputs = "`data.corpora.0.name` changed between two attempts"
    for known in ("before", "after"):
        assert not any(one.startswith(inputs) for one in explain(failed).sentences)
        RunIdentity("ab", (("data.corpora.0.name", Content(known)),)).write(failed.run.identity)

    assert any(one.startswith(inputs) for one in explain(failed).sentences)


def test_what_was_noted_is_told_once(explain: Callable[..., Explanation], failed: History) -> None:
    told = explain(failed)

    assert " ".join(told.sentences).count("rank 3 failed first, exit code 1") == 1
    assert told.sentences[0] == "failed (says run directory)"


def test_a_run_that_had_saved_nothing_starts_again(explain: Callable[..., Explanation], tmp_path: Path) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60).end(0, "preempted", "requeue", at=70)
    told = explain(history, Job("7", "PENDING", "squeue", "BeginTime"))

    assert "The run starts again by itself; nothing had been saved yet." in told.sentences


@pytest.fixture
def requeued(tmp_path: Path) -> History:
    """A run that was preempted once and came back; nobody noted how that attempt ended."""
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    history.log(0, 3, *OF_RANK_3)
    history.end(0, "preempted", "requeue", at=100, last_step=10, message="preempted, step 10 is safe")
    return history.start(1, "7", at=120)


def test_of_a_lost_run_the_newest_attempt_is_told_and_that_nobody_brings_it_back(
    explain: Callable[..., Explanation], requeued: History
) -> None:
    requeued.log(1, 0, *OF_RANK_3)

    told = explain(requeued)

    assert told.state == "lost"
    said = " ".join(told.sentences)
    assert f"Attempt 1 (job 7) ended. {EXIT_REASONS[None].meaning}" in said and "by itself" not in said
    assert [error.ranks for error in told.errors] == [(0,)]
    assert told.evidence == (str(requeued.run.rank_log(1, 0)),)
    assert told.commands[-1].startswith("launcher resume")


def test_an_attempt_that_somebody_cancelled_has_no_fault_to_look_for(
    explain: Callable[..., Explanation], requeued: History
) -> None:
    requeued.log(1, 0, *OF_RANK_3)

    told = explain(requeued, Job("7", "CANCELLED", "sacct"))

    assert (told.state, told.errors) == ("stopped", ())
    assert "Attempt 1 (job 7) ended." in " ".join(told.sentences) and "by itself" not in " ".join(told.sentences)


def test_a_run_that_was_cancelled_while_it_waited_to_come_back_does_not_continue(
    explain: Callable[..., Explanation], tmp_path: Path
) -> None:
    history = History.begin(tmp_path).submit("7", at=0).start(0, "7", at=60)
    history.end(0, "preempted", "requeue", at=100, last_step=10, message="preempted, step 10 is safe")

    told = explain(history, Job("7", "CANCELLED", "sacct"))

    assert told.state == "stopped" and "by itself" not in " ".join(told.sentences)
    assert told.commands == ("launcher resume abc123  # continues it",)


def test_numbers_are_written_as_ranges() -> None:
    assert number_list([0, 1, 2, 5, 7, 8, 9, 10, 11]) == "0-2, 5, 7-11"
    assert number_list([4]) == "4"


def test_the_command_prints_it_and_json(failed: History, tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(
        f"name: here\nexecutor: local\nroots: {{runs: {failed.run.root.parent}, corpora: c, models: m}}\n"
    )

    text, _ = launcher("why", "abc123", "--cluster", str(profile))
    as_json = json.loads(launcher("why", "abc123", "--cluster", str(profile), "--json")[0])

    assert "rank 3: ValueError: row 3 has 812 tokens" in text
    assert "ranks 0-2, 4-5: RuntimeError" in text
    assert "  launcher resume abc123  # continues it" in text
    assert as_json["errors"][0]["ranks"] == [3]
