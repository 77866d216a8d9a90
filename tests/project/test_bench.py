"""The speed claims can be measured on any day: each bench works in its smallest form, on what the repository ships."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
