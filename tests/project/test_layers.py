"""What may import what, and how little the command line drags in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.import_scan import ROOT, imported, imported_with, source_of

HEAVY = ("torch", "transformers", "accelerate", "wandb", "datasets", "submitit", "pydantic", "jinja2", "rich.table")
SLURM_COMMANDS = ("sbatch", "srun", "salloc", "scancel", "squeue", "sacct", "sinfo", "scontrol", "sacctmgr", "sstat")
SHARED = ("artifacts", "errors", "gpus", "recipe", "run")
"""What the nodes use of the launcher, too."""


def test_the_layers_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("folder", "most"), [("launcher", 300), ("jobs", 300), ("tests", 500)])
def test_no_module_is_longer_than_can_be_read_at_once(folder: str, most: int) -> None:
    lines = {str(path): len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}

    assert lines
    assert {path: count for path, count in lines.items() if count > most} == {}


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['launcher', '--help']\n"
        "from launcher.cli import run\n"
        "run()\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_every_launcher_module_imports_without_the_training_stack() -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "launcher").rglob("*.py"))
    ]
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "heavy = ('torch', 'transformers', 'accelerate', 'numpy', 'tokenizers', 'jobs')\n"
        "print([name for name in heavy if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)

    assert len(modules) > 10
    assert done.stdout.strip() == "[]"


def test_the_nodes_import_nothing_else_of_the_launcher() -> None:
    names = set().union(*(imported(path) for path in (ROOT / "jobs").rglob("*.py")))
    modules = {".".join(name.split(".")[:2]) for name in names if name.startswith("launcher.")}

    assert {name for name in modules if source_of(name)} - {"launcher.__version__"} == {
        f"launcher.{name}" for name in SHARED
    }


def test_what_the_nodes_import_of_the_launcher_is_light() -> None:
    files = [path for name in SHARED for path in (ROOT / "launcher").glob(f"{name}*/**/*.py")]
    modules = [f"launcher.{name}" for name in SHARED] + [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files
    ]
    needed = set().union(*map(imported_with, modules))

    assert needed <= {"pydantic", "pydantic_core", "typing_extensions"}


def test_only_the_command_line_prints_or_exits() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted((ROOT / "launcher").rglob("*.py"))
        if "cli" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.exit", "exit")
    ]

    assert offenders == []


def test_only_launcher_slurm_and_the_batch_process_call_slurm() -> None:
    """The dev cluster is excepted: it administers the Slurm that it starts."""
    allowed = [ROOT / "launcher" / "slurm", ROOT / "launcher" / "devcluster", ROOT / "jobs" / "batch"]
    modules = [path for folder in ("launcher", "jobs") for path in (ROOT / folder).rglob("*.py")]

    calls = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules
        if not any(path.is_relative_to(folder) for folder in allowed)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _names_slurm_command(node)
    }

    assert calls == set()


@pytest.mark.parametrize("code", ['["scancel", "7"]', '("sacct", *options)', 'which("scontrol")', "['squeue', job]"])
def test_a_call_of_slurm_is_recognised(code: str) -> None:
    assert any(map(_names_slurm_command, ast.walk(ast.parse(code))))


def _names_slurm_command(node: ast.AST) -> bool:
    """Tell whether code begins an argument list with a command of Slurm, or hands one to a function."""
    words = node.elts[:1] if isinstance(node, ast.List | ast.Tuple) else node.args if isinstance(node, ast.Call) else []
    return any(isinstance(word, ast.Constant) and word.value in SLURM_COMMANDS for word in words)


def test_the_batch_process_needs_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules)\nimport jobs.batch.main\n"
        "roots = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'jobs', 'launcher'}))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.strip() == "[]"
