"""What `make test` and `make long` are made of: how long a test may take, and what becomes of one that fails."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from tests.conftest import pytest_collection_modifyitems
from tests.support.checkouts import ROOT
from tests.support.hub_server import hub_server

TESTS = Path(__file__).parents[1]
SLURM = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")

ALWAYS = """
def test_that_always_fails():
    assert False
"""
ONCE = """
from pathlib import Path

def test_that_fails_once():
    if not Path("seen").exists():
        Path("seen").touch()
        assert False

def test_that_passes():
    assert not Path("passed").exists()  # it is not run again
    Path("passed").touch()
"""
CRASHES_ONCE = """
import os
from pathlib import Path

def test_that_takes_its_worker_along():
    if not Path("crashed").exists():
        Path("crashed").touch()
        os._exit(9)
"""
CRASHES = """
import os

def test_that_always_takes_its_worker_along():
    os._exit(9)
"""


def collected(request: pytest.FixtureRequest, name: str) -> list[pytest.Item]:
    """The tests of a file as they are when they start."""
    module = pytest.Module.from_parent(request.session, path=TESTS / name)
    items = [item for item in module.collect() if isinstance(item, pytest.Item)]
    pytest_collection_modifyitems(items)
    return items


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("slurm/test_chaos.py", 3 * 3600),
        ("slurm/test_chaos_faults.py", 1800),
        ("slurm/test_pipeline_histories.py", 3 * 3600),
        ("slurm/test_reproduce.py", 0),
    ],
)
def test_a_long_test_has_the_limit_that_it_names_or_else_none(
    request: pytest.FixtureRequest, name: str, seconds: int
) -> None:
    limits = [item.get_closest_marker("timeout") for item in collected(request, name)]

    assert limits
    assert {limit and limit.args[0] for limit in limits} == {seconds}


def run_script(folder: Path, *argv: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a script of a checkout, with both of its outputs in one."""
    # The pytest that runs this one tells its workers who they are, in variables.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAKE", "MFLAGS"))}
    return subprocess.run(
        [str(shutil.which("bash")), *argv],
        cwd=folder,
        env={**environ, "PATH": path or environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def run_tests(folder: Path, *files: str, dist: str = "loadfile") -> "subprocess.CompletedProcess[str]":
    """Run files of tests as `make test` does."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for number, text in enumerate(files):
        (folder / f"test_{number}.py").write_text(text)
    options = ("--disable-plugin-autoload", "-p", "xdist.plugin", "-q", "-n", "2", "--dist", dist)
    return run_script(folder, str(ROOT / ".ci" / "tests"), sys.executable, *options)


@pytest.mark.slow
def test_a_test_that_passes_alone_is_named_in_the_last_line(tmp_path: Path) -> None:
    done = run_tests(tmp_path, ONCE, CRASHES_ONCE)

    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == (
        "passed only alone, in a second run: test_0.py::test_that_fails_once, "
        "test_1.py::test_that_takes_its_worker_along"
    )


@pytest.mark.slow
def test_a_test_that_fails_twice_makes_the_gate_red(tmp_path: Path) -> None:
    done = run_tests(tmp_path, ALWAYS, ONCE)

    assert done.returncode == 1, done.stdout
    assert re.findall("passed only alone.*: (.*)", done.stdout) == ["test_1.py::test_that_fails_once"]


@pytest.mark.slow
def test_a_test_that_takes_its_worker_along_twice_makes_the_gate_red(tmp_path: Path) -> None:
    done = run_tests(tmp_path, CRASHES, dist="load")

    assert done.returncode == 9, done.stdout
    assert "passed only alone" not in done.stdout


@pytest.mark.slow
def test_a_file_that_cannot_be_read_makes_the_gate_red(tmp_path: Path) -> None:
    done = run_tests(tmp_path, "import missing_module")

    assert done.returncode in (1, 2), done.stdout
    assert "No module named 'missing_module'" in done.stdout


def test_fast_tests_are_not_repeated() -> None:
    """One that passes alone only depends on what ran before it."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [recipe] = re.findall(r"^fast:.*\n\t(.*)", makefile, re.MULTILINE)

    assert recipe.startswith("$(PYTEST) ")
    assert ".ci/tests" not in str(re.search(r"^PYTEST := .*", makefile, re.MULTILINE))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts of `.ci` alone, in a folder of their own."""
    return Path(shutil.copytree(ROOT / ".ci", tmp_path / "checkout" / ".ci")).parent


def write_program(path: Path, body: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
    path.chmod(0o755)


def test_without_slurm_the_rest_is_tested_and_the_last_line_says_what_was_not(checkout: Path) -> None:
    (checkout / ".ci" / "slurm-packages").write_text("exit 1")

    done = run_script(checkout, ".ci/with-slurm", "bash", "-c", "echo tested; exit 7")

    assert done.returncode == 7
    first, *_, last = done.stdout.splitlines()
    assert first == "tested"
    assert last.startswith("NOT TESTED: all that needs Slurm")


def test_with_slurm_nothing_is_said(checkout: Path) -> None:
    (checkout / ".ci" / "slurm-packages").write_text("")

    assert run_script(checkout, ".ci/with-slurm", "echo", "tested").stdout == "tested\n"


@pytest.mark.parametrize(("has_slurm", "made"), [(False, []), (True, ["lint", "test"])])
def test_the_gate_fails_without_slurm(checkout: Path, has_slurm: bool, made: Sequence[str]) -> None:
    (checkout / ".ci" / "slurm-packages").write_text("" if has_slurm else "exit 1")
    write_program(checkout / "bin" / "make", 'echo "$*" >>made')
    (checkout / "made").touch()

    done = run_script(checkout, ".ci/run", path=f"{checkout / 'bin'}:{os.environ['PATH']}")

    assert (done.returncode == 0) == has_slurm
    assert (checkout / "made").read_text().split() == made


@pytest.mark.parametrize(("lacking", "exit_code"), [("strace", 0), ("sbatch", 1)])
def test_who_may_not_install_slurm_hears_why_and_strace_is_no_part_of_it(
    checkout: Path, lacking: str, exit_code: int
) -> None:
    tools = checkout / "bin"
    for name in {*SLURM, "strace"} - {lacking}:
        write_program(tools / name, "")
    write_program(tools / "id", "echo 1000")
    write_program(tools / "sudo", "exit 1")

    done = run_script(checkout, ".ci/slurm-packages", path=str(tools))

    assert done.returncode == exit_code
    assert done.stdout == f"not installed: {lacking}; installing them needs root or sudo\n"


@pytest.mark.parametrize(("codes", "exit_code"), [((0, 0), 0), ((3, 0), 0), ((3, 1), 1)])
def test_benches_that_missed_and_those_that_measured_nothing_are_named_in_the_end(
    checkout: Path, codes: tuple[int, int], exit_code: int
) -> None:
    (checkout / "bench").mkdir()
    for name, code in zip("ab", codes, strict=True):
        (checkout / "bench" / f"{name}.py").write_text(f"import sys; print(sys.argv[1:]); sys.exit({code})")

    done = run_script(checkout, ".ci/bench", sys.executable, "a.py --option 'x'", "b.py")

    said = done.stdout.splitlines()
    assert done.returncode == exit_code
    assert said[:4] == ["bench/a.py --option 'x'", "['--option', \"'x'\"]", "bench/b.py", "[]"]
    expected = ["not measured, or not all of it: bench/a.py --option 'x'"] * (3 in codes)
    assert said[4:] == expected + ["missed: bench/b.py"] * (1 in codes)


def test_servers_of_tests_are_reached_where_the_internet_is_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")

    with hub_server(private=True) as hub:
        path = "/api/models/me/it"
        with urllib.request.urlopen(hub.address + path) as answer:
            assert answer.status == 200
        assert httpx.get(hub.address + path).status_code == 200
        assert httpx.get(hub.address.replace("127.0.0.1", "localhost") + path).status_code == 200
