"""`launcher watch` as a person at a terminal uses it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import yaml

from tests.support.checkouts import ROOT, typing
from tests.support.fake_slurm import FakeSlurm
from tests.support.run_histories import History


@pytest.fixture
def site(tmp_path: Path, fake_slurm: FakeSlurm) -> Iterator[Path]:
    """A site with two queued runs."""
    for number, name in (("7", "a"), ("8", "b")):
        History.begin(tmp_path / "runs", f"{name * 3}111", name).submit(number, at=0)
    (fake_slurm.state / "queue").write_text("7||\n8||\n")
    roots = {name: str(tmp_path / name) for name in ("runs", "data", "corpora", "models")}
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"name": "site", "roots": roots}))
    yield path


@pytest.mark.slow
def test_keys_choose_show_ask_and_stop(site: Path, fake_slurm: FakeSlurm) -> None:
    with typing(ROOT, os.environ, "watch", "aaa111", "bbb111", "--cluster", str(site)) as terminal:
        terminal.expect_exact("2 queued")
        terminal.expect(r"> .*aaa111")
        terminal.send("j")
        terminal.expect(r"> .*bbb111")
        terminal.send("s")
        terminal.expect_exact("save and stop b (bbb111)? y/n")
        terminal.send("n")
        terminal.expect_exact("choose")
        assert fake_slurm.queue() == ["7", "8"]
        terminal.send("sy")
        terminal.expect_exact("removed from the queue")
        terminal.expect_exact("1 queued, 1 stopped")
        assert fake_slurm.queue() == ["7"]
        terminal.send("\x1b[Ary")  # what runs or waits cannot be resumed
        terminal.expect_exact("is queued as job 7; nothing to resume")
        terminal.send("q")
        terminal.expect_exact("\x1b[?25h\x1b[?1049l")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0


@pytest.mark.slow
def test_ctrl_c_gives_the_terminal_back(site: Path) -> None:
    with typing(ROOT, os.environ, "watch", "--cluster", str(site)) as terminal:
        terminal.expect_exact("q quit")
        terminal.sendintr()
        terminal.expect_exact("\x1b[?25h\x1b[?1049l")
        terminal.expect(pexpect.EOF)
        terminal.wait()

        assert terminal.exitstatus == 0
