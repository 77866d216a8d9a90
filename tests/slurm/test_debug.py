"""`launcher debug` as a person at a terminal uses it, on two nodes of a real Slurm."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from tests.slurm.site import LAUNCHER, RECIPES, Site
from tests.support.checkouts import LISTENING, MEETING, copy_checkout, interrupt, typing
from tests.support.editor import Editor
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm

TWO_NODES = (
    *("debug", str(RECIPES / "biomed_llama_cpt.yaml"), "--rehearse", "--nodes", "2"),
    *(
        "--set",
        "resources.gpus_per_node=1",
        "--set",
        "parallel.strategy=full_shard",
        "--set",
        "schedule.length=3 steps",
    ),
)


@pytest.fixture(scope="module")
def site(devcluster: DevCluster) -> Site:
    site = Site(devcluster)
    site.prepare_corpus()
    return site


@pytest.fixture
def clean(site: Site) -> Iterator[Site]:
    """A cluster that is empty, and must be so again afterwards."""
    wait_for(lambda: queue(site) == [], "the end of earlier jobs")
    yield site
    wait_for(lambda: queue(site) == [], "the end of all jobs")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("checkout"), LISTENING)


def queue(site: Site) -> list[str]:
    return site.slurm("squeue", "--noheader", "--format=%i").split()


def debug_run(terminal: "pexpect.spawn[str]") -> RunDir:
    terminal.expect(r"run directory: (\S+)")
    assert terminal.match is not None and not isinstance(terminal.match, type)
    return RunDir(Path(terminal.match.group(1)))


def test_two_ranks_on_two_nodes_reach_a_breakpoint_on_rank_0(clean: Site, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path)
    entry = checkout / "jobs" / "train" / "run.py"
    lines = ("everybody = group.collect(group.rank)", "group.is_main and breakpoint()", "here = everybody")
    marked = entry.read_text().replace("as group:\n", "\n        ".join(["as group:", *lines]) + "\n")
    assert marked != entry.read_text()
    entry.write_text(marked)

    with typing(checkout, clean.environment, *TWO_NODES) as terminal:
        run = debug_run(terminal)
        terminal.expect(r"\(Pdb\) ")
        assert len(queue(clean)) == 1
        terminal.sendline("p everybody")
        terminal.expect(r"\[rank 0\] \[0, 1\]")
        terminal.sendline("from jobs.rank.watchdog import WATCHDOG")
        terminal.sendline("p WATCHDOG.limit")  # who sits and thinks does not hang
        terminal.expect(r"\[rank 0\] 0\.0")
        terminal.sendline("n")
        terminal.expect(r"-> exported = ")
        terminal.sendline("q")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)

    wait_for(lambda: queue(clean) == [], "the end of the allocation")
    [attempt] = read_attempts(run.ledger)
    assert (len(attempt.nodes), attempt.world_size) == (2, 2)
    assert (attempt.reason, attempt.action, attempt.source) == ("stopped", "stop", "launcher debug")


def test_every_line_is_labelled_and_only_rank_0_is_interrupted(clean: Site, checkout: Path) -> None:
    with typing(checkout, clean.environment, *TWO_NODES) as terminal:
        terminal.expect(r"\[rank 0\] rank 0 of 2, node 0")
        terminal.expect(r"\[rank 1\] rank 1 of 2, node 1")
        terminal.sendline("hello")
        terminal.expect(r"\[rank 0\] heard HELLO\s+(?=\[rank 0\] .*what\? )")
        interrupt(terminal, r"\[rank 0\] .*INTERRUPTED")
        terminal.sendline("leave")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0


@pytest.fixture(scope="module")
def meeting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("meeting"), MEETING)


def test_another_rank_than_0_runs_under_pdb_while_the_others_wait_for_it(clean: Site, meeting: Path) -> None:
    line = 1 + MEETING.splitlines().index('    Path("done").touch()')

    with typing(meeting, clean.environment, *TWO_NODES, "--pdb", "1") as terminal:
        run = debug_run(terminal)
        terminal.expect(r"\[rank 1\] before the first line")
        terminal.expect(r"\(Pdb\) ")
        terminal.sendline(f"b jobs/__main__.py:{line}")
        terminal.expect(r"Breakpoint 1 at ")
        terminal.sendline("c")
        terminal.expect(r"\[rank 1\] rank 1 of 2")
        terminal.expect(r"\(Pdb\) ")
        terminal.sendline("p answer, place.node_rank, os.environ['SLURMD_NODENAME']")
        terminal.expect(r"\[rank 1\] \(42, 1, '(\S+)'\)")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        node = terminal.match.group(1)
        terminal.sendline("c")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0
    [attempt] = read_attempts(run.ledger)
    assert attempt.nodes[1] == node
    assert "rank 0 of 2" in run.rank_log(0, 0).read_text()


def test_an_editor_is_attached_to_a_rank(clean: Site, meeting: Path) -> None:
    line = 1 + MEETING.splitlines().index('    Path("done").touch()')

    with typing(meeting, clean.environment, *TWO_NODES, "--debugpy", "1") as terminal:
        run = debug_run(terminal)
        terminal.expect(r"\[rank 1\] waits for an editor at port (\d+) of ")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        with Editor(int(terminal.match.group(1))) as editor:
            editor.attach(f"{run.code.resolve()}/jobs/__main__.py", line)
            frame = editor.wait_for_stop()
            assert editor.evaluate("(answer, place.node_rank)", frame) == "(42, 1)"
            editor.go_on()
            terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0


def test_pdb_opens_again_where_an_exception_ends_the_rank(clean: Site, meeting: Path) -> None:
    with typing(meeting, clean.environment, *TWO_NODES, "--pdb", "1") as terminal:
        run = debug_run(terminal)
        (run.root / "fails").touch()
        terminal.expect(r"\(Pdb\) ")
        terminal.sendline("c")
        terminal.expect("ValueError: planted")
        terminal.expect(r"\(Pdb\) ")
        terminal.sendline("p answer")
        terminal.expect(r"\[rank 1\] 42")
        terminal.sendline("q")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 1


def test_a_killed_launcher_leaves_no_allocation(clean: Site, checkout: Path) -> None:
    with typing(checkout, clean.environment, *TWO_NODES) as terminal:
        terminal.expect("what\\?")
        assert len(queue(clean)) == 1
        os.kill(terminal.pid, signal.SIGKILL)

        wait_for(lambda: queue(clean) == [], "the end of the allocation")


def test_a_shell_has_everything_exported_and_starts_the_ranks_with_one_line(clean: Site, checkout: Path) -> None:
    with typing(checkout, clean.environment, *TWO_NODES, "--shell") as terminal:
        run = debug_run(terminal)
        terminal.expect(r"start the ranks:  (\S.*\S)\s*\r\n")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        line = terminal.match.group(1)
        terminal.sendline("echo on $MASTER_ADDR:$MASTER_PORT with $PYTHONPATH")
        terminal.expect(rf"on [\w.]+:\d+ with {run.code}")
        terminal.sendline(line)
        terminal.expect(r"\[rank 1\] rank 1 of 2, node 1")
        terminal.sendline("leave")
        terminal.expect(r"[#$] ")
        terminal.sendline("exit")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)


@pytest.fixture
def own_allocation(clean: Site) -> Iterator[str]:
    argv = ["salloc", "--no-shell", "--nodes=3", "--exclusive", "--time=10"]
    subprocess.run(argv, env=clean.cluster.environment(), check=True, capture_output=True)
    [job_id] = queue(clean)
    yield job_id
    clean.slurm("scancel", job_id)


def test_the_allocation_one_is_in_is_used_and_stays(site: Site, checkout: Path, own_allocation: str) -> None:
    environment = {**site.environment, "SLURM_JOB_ID": own_allocation, "SLURM_JOB_NUM_NODES": "3"}

    with typing(checkout, environment, *TWO_NODES) as terminal:
        run = debug_run(terminal)
        terminal.expect(rf"allocation {own_allocation}\b")
        terminal.expect(r"\[rank 1\] rank 1 of 2, node 1")
        terminal.sendline("leave")
        terminal.expect(pexpect.EOF)

    assert queue(site) == [own_allocation]
    assert len(read_attempts(run.ledger)[0].nodes) == 2


def test_without_free_nodes_the_reason_is_told_and_nothing_stays_queued(site: Site, checkout: Path) -> None:
    blocker = site.slurm("sbatch", "--parsable", "--nodes=4", "--exclusive", "--time=5", "--output=/dev/null",
                         "--chdir=/", "--wrap=sleep 300")  # fmt: skip
    wait_for(lambda: "RUNNING" in site.slurm("squeue", "--noheader", "--format=%T"), "the blocker")

    with typing(checkout, site.environment, *TWO_NODES, "--patience", "0.2") as terminal:
        run = debug_run(terminal)
        terminal.expect(r"waits for free nodes \(Resources\)")
        terminal.expect(r"no allocation within 12 s; .* removed from the queue")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 1
    wait_for(lambda: queue(site) == [blocker], "the end of the request")
    assert not run.root.exists()
    site.slurm("scancel", blocker)
    wait_for(lambda: queue(site) == [], "the end of the blocker")


def test_without_a_terminal_all_ranks_are_printed_with_labels(clean: Site, tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path, LISTENING)
    entry = checkout / "jobs" / "__main__.py"
    entry.write_text(entry.read_text().partition("if place.rank == 0:")[0])
    argv = [*LAUNCHER, *TWO_NODES]

    done = subprocess.run(argv, cwd=checkout, env=clean.environment, capture_output=True, text=True, check=True)

    assert {"[rank 0] rank 0 of 2", "[rank 1] rank 1 of 2"} <= {line.split(",")[0] for line in done.stdout.splitlines()}
