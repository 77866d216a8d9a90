"""Installing: the same versions on any day, and an ordinary `pip install .` that needs neither clone nor checkout."""

import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from launcher import __version__
from launcher.errors import how_to_install
from tests.support.checkouts import ROOT, copy_checkout
from tests.support.import_scan import requirements

INSTALLED = ("Makefile", "setup.cfg", "pyproject.toml", "constraints.txt", ".ci/install")
"""What installing reads."""
TOOLS = ("dirname", "grep", "sed", "touch")

RECIPE = """\
kind: prepare
name: abstracts
corpus: abstracts
sources:
  - format: pile
    files: ./abstracts.jsonl
tokenizer: ./tokenizer
resources:
  time: 1h
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: building leaves traces."""
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def packages(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has installed the wheel."""
    target = tmp_path_factory.mktemp("packages")
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    argv = [sys.executable, "-m", "pip", "install", *offline, f"--target={target}", str(checkout)]
    subprocess.run(argv, check=True, capture_output=True)
    assert run_with(target, target, "-c", "import launcher; print(launcher.__path__[0])") == f"{target}/launcher\n"
    return target


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a recipe, away from any checkout."""
    folder = tmp_path / "desk"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "abstracts.jsonl").touch()
    (folder / "abstracts.yaml").write_text(RECIPE)
    return folder


def launcher(packages: Path, desk: Path, *arguments: str) -> str:
    """Type `launcher ARGUMENTS`."""
    return run_with(packages, desk, "-m", "launcher", *arguments, "--cluster", "a100")


def run_with(packages: Path, desk: Path, *arguments: str) -> str:
    """Run Python with the packages of a folder."""
    environ = {**os.environ, "PYTHONPATH": str(packages), "HOME": str(desk), "SCRATCH": str(desk)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=desk, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_installed_launcher_renders_the_script_of_the_checkout(packages: Path, checkout: Path, desk: Path) -> None:
    script = launcher(packages, desk, "render", "abstracts.yaml")

    assert script == launcher(checkout, desk, "render", "abstracts.yaml")
    assert script.startswith("#!/bin/bash")


@pytest.mark.slow
def test_an_installed_launcher_has_every_recipe_and_its_rehearsal_data(
    packages: Path, checkout: Path, desk: Path
) -> None:
    # The copy, since other tests have rehearsals leave results beside the assets of this checkout.
    shipped, ours = packages / "launcher" / "recipes", checkout / "launcher" / "recipes"

    assert sorted(path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()) == sorted(
        path.relative_to(ours) for path in ours.rglob("*") if path.is_file() and path.name != ".schema.json"
    )
    assert (shipped / "assets" / "stories260k" / "config.json").is_file()
    assert launcher(packages, desk, "render", str(shipped / "prepare_pile_pubmed.yaml"), "--rehearse").startswith("#!")


@pytest.mark.slow
@pytest.mark.usefixtures("fake_slurm")
def test_the_code_of_a_run_is_a_copy_of_the_installed_packages(packages: Path, desk: Path) -> None:
    launcher(packages, desk, "submit", "abstracts.yaml", "--yes")

    [code] = desk.glob("runs/abstracts-*/code")
    assert modules(code) == modules(packages) == modules(ROOT)


def modules(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for name in ("launcher", "jobs") for path in (root / name).rglob("*.py"))


def pins() -> dict[str, str]:
    """The versions in constraints.txt, by package."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n")
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_a_pin_fits_any_machine() -> None:
    """Neither a build for one kind of machine (`+cpu`), nor a file, nor a package that only some machines need."""
    assert {name: version for name, version in pins().items() if not re.fullmatch(r"[\d.]+\w*", version)} == {}
    assert [name for name in pins() if name.startswith(("nvidia", "cuda", "triton", "pip"))] == []


@pytest.mark.parametrize("extra", requirements())
def test_what_is_required_is_pinned_within_its_range(extra: str) -> None:
    required = [Requirement(line) for line in requirements()[extra] if not line.startswith("launcher[")]
    versions = pins()

    assert [str(one) for one in required if canonicalize_name(one.name) not in versions] == []
    assert [str(one) for one in required if versions[canonicalize_name(one.name)] not in one.specifier] == []


class Machine:
    """A checkout with an environment whose pip only writes down what it was asked for; no GPU."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.tools = folder / "checkout", folder / "tools"
        for name in INSTALLED:
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.checkout / name)
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).symlink_to(str(shutil.which(name)))
        self.program(self.tools / "g++", "")
        (folder / "Python.h").touch()
        self.python = self.program(folder / "python", f'case "$*" in *include*) echo {folder};; esac')

    def program(self, path: Path, body: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{body}\n")
        path.chmod(0o755)
        return path

    @property
    def script(self) -> list[str]:
        """The command line that installs."""
        return [str(shutil.which("bash")), str(self.checkout / ".ci" / "install")]

    def environ(self, **more: str) -> dict[str, str]:
        """The environment of a user who has nothing but some tools."""
        return {"PATH": str(self.tools), **more}

    def install(self, environment: str, *arguments: str, reaches_index: bool = True) -> list[tuple[str, list[str]]]:
        """Run the script; return pip's constraints and its arguments, call by call."""
        fails = "" if reaches_index else 'case "$*" in *--index-url*) exit 1;; esac'
        pip = self.program(self.checkout / environment / "bin" / "pip", "")
        log = 'echo "$PIP_CONSTRAINT,$PIP_BUILD_CONSTRAINT|$*" >>log'
        self.program(pip.with_name("python"), f"{log}\n{fails}")
        subprocess.run([*self.script, *arguments], env=self.environ(PYTHON=str(self.python)), check=True)
        assert (self.checkout / environment / ".installed").exists()
        calls = [line.split("|", 1) for line in (self.checkout / "log").read_text().splitlines()]
        return [(constraint, options.partition(" install ")[2].split()) for constraint, options in calls]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def torch_range() -> str:
    return next(line for line in requirements()["train"] if line.startswith("torch"))


def test_installing_takes_the_pinned_versions_and_torch_for_cpus_first(machine: Machine) -> None:
    (first, torch), (then, everything) = machine.install(".venv")

    assert first == then == "constraints.txt,constraints.txt"
    assert torch[:2] == ["--no-deps", torch_range()]
    assert everything[0] == "-e"
    assert set(everything[1][2:-1].split(",")) | {"core", "docs"} == set(requirements())  # `dev` brings `docs` along


def test_the_newest_versions_go_into_an_environment_of_their_own(machine: Machine) -> None:
    (first, torch), (then, _) = machine.install("build/latest", "build/latest", "--newest")

    assert first == then == ","
    assert torch[:2] == ["--no-deps", torch_range()]
    assert not (machine.checkout / ".venv").exists()


def test_where_torchs_own_index_is_out_of_reach_the_pinned_torch_is_taken(machine: Machine) -> None:
    _, (_, torch), _ = machine.install("build/latest", "build/latest", "--newest", reaches_index=False)

    assert torch == ["--no-deps", f"torch=={pins()['torch']}"]


@pytest.mark.parametrize("how", ["in the environment", "on the command line"])
def test_make_installs_with_the_python_that_is_named(machine: Machine, how: str) -> None:
    wanted = machine.program(machine.tools.parent / "other" / "python", "touch used; exit 1")
    for name in ("bash", "sh"):
        (machine.tools / name).symlink_to(str(shutil.which(name)))
    argv, name = [str(shutil.which("make")), "install"], f"PYTHON={wanted}"

    done = subprocess.run(
        argv + [name] * (how == "on the command line"),
        cwd=machine.checkout,
        env=machine.environ(**({"PYTHON": str(wanted)} if how == "in the environment" else {})),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (machine.checkout / "used").exists(), done.stderr
    assert "set PYTHON=" in done.stderr


@pytest.mark.parametrize("named", ["python3.12", None])
def test_the_gpu_report_is_made_with_the_python_that_is_named(machine: Machine, named: str | None) -> None:
    environ = machine.environ(**({"PYTHON": named} if named else {}))
    argv = [str(shutil.which("make")), "--dry-run", "gpu"]

    done = subprocess.run(argv, cwd=machine.checkout, env=environ, capture_output=True, text=True, check=True)

    assert done.stdout.split() == [named or "python3", "-m", "bench.gpu"]


def test_who_may_not_install_what_python_lacks_hears_what_to_ask_for(machine: Machine) -> None:
    answers = 'case "$*" in *ensurepip*) exit 1;; *version_info\\[*) echo 3.12;; esac'
    machine.program(machine.python, answers)

    done = subprocess.run(
        machine.script, env=machine.environ(PYTHON=str(machine.python)), capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"{machine.python} cannot make environments, since it lacks ensurepip.")
    assert "`apt-get install python3.12-venv`" in done.stderr


def test_other_pins_are_installed_by_the_next_make(machine: Machine) -> None:
    machine.install(".venv")
    make = ["make", "--dry-run", "install"]
    # The `make` that runs these tests tells others its own variables: `make latest` says `VENV=build/latest`.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    run = partial(subprocess.run, cwd=machine.checkout, env=environ, capture_output=True, text=True, check=True)

    idle, due = (run([*make, *more]).stdout for more in ([], ["--what-if=constraints.txt"]))

    assert "ci/install" not in idle
    assert "bash .ci/install .venv" in due


def test_nobody_is_sent_to_another_project_of_the_package_index() -> None:
    """What is called `launcher` there is not this one; `--no-index` reads a folder of ours."""
    paths = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    paths += [path for name in ("launcher", "jobs") for path in (ROOT / name).rglob("*.py")]

    lines = [line for path in paths for line in path.read_text(encoding="utf-8").split("\n")]
    named = [line for line in lines if re.search(r"(?<![\w./-])launcher\[[a-z,{]", line)]

    assert [line for line in named if "--no-index" not in line] == []


def test_what_is_collected_for_a_machine_without_internet_is_what_is_installed_there() -> None:
    page = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")
    [collected] = re.findall(r"\$ pip download -d wheelhouse -c constraints\.txt '\./launcher-.*\.whl(.*)'", page)
    [installed] = re.findall(r"\$ pip install --no-index --find-links wheelhouse 'launcher(.*)'", page)

    assert collected == installed == "[data,train]"


@pytest.mark.parametrize("extras", [("data",), ("data", "train")])
def test_a_message_names_a_checkout_and_the_wheel(extras: tuple[str, ...]) -> None:
    said = how_to_install(*extras)

    in_checkout, with_wheel = re.findall(r"`pip install (?:-e )?'(.*?)'`", said)
    wheel, its = with_wheel.rstrip("]").split("[")
    assert in_checkout == f".[{its}]" == f".[{','.join(extras)}]"
    assert parse_wheel_filename(Path(wheel).name)[:2] == ("launcher", Version(__version__))
