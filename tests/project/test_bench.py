"""The speed claims can be measured on any day: each bench works in its smallest form, on what the repository ships."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench import recovery
from bench.support import peers
from bench.support.unmeasured import UnmeasuredError
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.name for path in (ROOT / "bench").glob("*.py")}
REPEATED = (
    *("align.py", "checkpoint.py", "export.py", "grpo.py", "read.py", "recovery.py", "status.py"),
    "step_overhead.py",
)
"""For `make long`: report.py starts the launcher as status.py does, sft.py starts a job and its peer as they do, and
prepare.py reads what read.py does. tests/slurm/test_story.py preempts as recovery.py does, and tests of exports compare
their speed."""


def benches_of_make() -> list[str]:
    """What `make bench` runs: scripts, some of them with options."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")
    listed = re.search(r"^BENCHES := (.+)$", makefile, re.MULTILINE)
    assert listed
    return shlex.split(listed[1])


def test_make_runs_every_bench() -> None:
    assert {bench.split()[0] for bench in benches_of_make()} == SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "bench",
    [
        pytest.param(bench, marks=[pytest.mark.long] * (bench in REPEATED or " " in bench))
        for bench in sorted({*SCRIPTS, *benches_of_make()})
    ],
)
def test_a_bench_works_in_its_smallest_form_and_judges_nothing(bench: str, tmp_path: Path) -> None:
    script, *options = bench.split()

    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / script), *options, "--smallest"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not re.search("MISSED|holds|reached", done.stdout)


CAME_BACK: recovery.Cost = (0, 20.0)


@pytest.mark.parametrize(
    ("ours", "trainer", "exit_code", "last_line"),
    [
        ([CAME_BACK] * 3, [(13, 40.0)] * 3, 0, "0.50 times the fastest, at most 1.5"),
        ([CAME_BACK, None, CAME_BACK], [(13, 40.0)] * 3, 1, "0.50 times the fastest, at most 1.5"),
        ([None] * 3, [None] * 3, 1, "no peer's job came back"),
        ([CAME_BACK] * 3, [None] * 3, 0, "no peer's job came back"),
        ([CAME_BACK, (1, 20.0), CAME_BACK], [None] * 3, 1, "no peer's job came back"),
    ],
)
def test_a_lost_run_misses_the_claim_of_preemptions(
    capsys: pytest.CaptureFixture[str],
    ours: list[recovery.Cost],
    trainer: list[recovery.Cost],
    exit_code: int,
    last_line: str,
) -> None:
    costs = {recovery.OURS: ours, recovery.TRAINER: trainer}

    assert recovery._report(costs, argparse.Namespace(json=False, smallest=False)) == exit_code

    *_, own, peer, last = capsys.readouterr().out.splitlines()
    assert f"lost: {ours.count(None)} of 3" in own
    assert f"lost: {trainer.count(None)} of 3" in peer
    assert last == f"{'MISSED' if exit_code else 'holds'}: no job is lost and no step is done again; {last_line}"


class Installer:
    """Takes the place of venv and pip."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.installed, self.fault = folder, list[list[str]](), ""

    def __call__(self, argv: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        if "venv" in argv:
            (self.folder / "build" / "peer" / "lib" / "python3" / "site-packages").mkdir(parents=True, exist_ok=True)
        else:
            self.installed.append(argv[argv.index("install") + 1 :])
        return subprocess.CompletedProcess(argv, bool(self.fault), "", self.fault)


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    installer = Installer(tmp_path)
    (tmp_path / "setup.cfg").write_text("")
    (tmp_path / "constraints.txt").write_text("URLlib3==2\ntorch==3\n")
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    monkeypatch.setattr("subprocess.run", installer)
    return installer


def test_a_peer_is_installed_again_when_the_pins_change(installer: Installer, tmp_path: Path) -> None:
    def install(*packages: str) -> None:
        peers.peer_environment("peer", packages, unpinned=["urllib3"])

    install("torchx")
    install("torchx")
    assert installer.installed == [["torchx"]]
    assert (tmp_path / "build" / "peer" / "constraints.txt").read_text().split() == ["torch==3"]

    (tmp_path / "constraints.txt").write_text("torch==4\n")
    install("torchx")
    install("torchx", "another")
    assert installer.installed == [["torchx"], ["torchx"], ["torchx", "another"]]


def test_a_peer_that_cannot_be_installed_is_said_in_a_line_and_tried_again(installer: Installer) -> None:
    installer.fault = "WARNING: retrying\nERROR: No matching distribution found for torchx\n"

    for _ in range(2):
        with pytest.raises(UnmeasuredError, match=r"^torchx cannot be installed: ERROR: No matching .* torchx$"):
            peers.peer_environment("peer", ["torchx"])

    assert len(installer.installed) == 2
