"""`launcher chat` in an allocation of a real Slurm."""

import os
import signal
import subprocess
import sys

import pexpect
import pytest

from launcher.devcluster import DevCluster
from tests.slurm.site import Site
from tests.support.checkouts import ROOT, interrupt, typing
from tests.support.waiting import wait_for

pytestmark = pytest.mark.slurm


@pytest.fixture
def site(devcluster: DevCluster) -> Site:
    return Site(devcluster)


def queue(site: Site) -> list[str]:
    return site.slurm("squeue", "--noheader", "--name=chat", "--format=%i").split()


def test_a_model_answers_on_a_node_until_the_user_leaves_or_is_killed(site: Site) -> None:
    model = str(ROOT / "recipes" / "assets" / "stories260k")
    with typing(ROOT, site.environment, "chat", model, "--length", "400", "--cpus", "1", "--gpus", "0") as terminal:
        terminal.expect(r"allocation \d+")
        terminal.expect("you> ")
        assert len(queue(site)) == 1
        terminal.sendline("Once upon a time")
        terminal.expect(r"stories260k> .*\w{2,} \w{2,} \w{2,}")
        interrupt(terminal, r"\(\d+ tokens, \d+ a second; stopped\)")  # the answer, not srun
        terminal.sendline("/leave")
        terminal.expect("allocation released")
        terminal.expect(pexpect.EOF)
    wait_for(lambda: queue(site) == [], "the end of the allocation")

    argv = [sys.executable, "-m", "launcher", "chat", model, "--cpus", "1", "--gpus", "0"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, env=site.environment, text=True, **pipes) as program:  # type: ignore[call-overload]
        while "Ctrl-C stops" not in program.stdout.readline():
            pass
        os.kill(program.pid, signal.SIGKILL)
    wait_for(lambda: queue(site) == [], "the end of an allocation whose launcher was killed")
