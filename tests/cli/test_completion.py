"""What Tab offers: asked as the shells' scripts ask, and once in a real bash."""

import os
import sys
from pathlib import Path

import pexpect
import pytest
from typer.testing import CliRunner

from launcher import __version__
from launcher.cli import app
from launcher.pipeline.record import PipelineRecord, StageRecord
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord

PATIENCE = 300
BETA = "beta-20260802-120000-bbbb01"
ALPHA = "alpha-20260801-120000-aaaa01"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a profile, two runs, a pipeline, recipes and other files."""
    roots = "".join(f"  {name}: {tmp_path / name}\n" for name in ("runs", "corpora", "models"))
    (tmp_path / "cluster.yaml").write_text(f"name: here\nexecutor: local\nroots:\n{roots}")
    for folder in (ALPHA, BETA):
        run = RunDir(tmp_path / "runs" / folder)
        run.root.mkdir(parents=True)
        RunRecord(folder[-6:], folder.split("-")[0], "cpt", "", 0.0, "", None, "", "", {}).write(run.record)
    pipeline = PipelineDir(tmp_path / "runs" / "table-20260803-120000-cccc01")
    pipeline.root.mkdir()
    stages = (StageRecord("prepare", (), None, ""), StageRecord("train", ("prepare",), None, ""))
    PipelineRecord("cccc01", "table", 0.0, "", False, False, {}, stages).write(pipeline.record)
    (tmp_path / "recipes" / "old").mkdir(parents=True)
    (tmp_path / "recipes" / "tune.yaml").write_text("kind: sft\nname: tune\n")
    (tmp_path / "recipes" / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line: str) -> list[str]:
    """What bash's script would be given for a line whose last word is completed."""
    environ = {"_LAUNCHER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = CliRunner().invoke(app, [], env=environ, prog_name="launcher")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout.split()


def test_runs_and_pipelines_are_offered_by_name_and_folder(desk: Path) -> None:
    assert offered("launcher logs ") == ["beta", "alpha", "table", BETA, ALPHA]
    assert offered("launcher stop alpha a") == ["alpha", ALPHA]
    assert offered("launcher status b") == ["beta", BETA]


def test_stages_are_those_of_the_pipeline(desk: Path) -> None:
    assert offered("launcher logs table ") == ["prepare", "train"]
    assert offered("launcher logs alpha ") == []


def test_recipes_are_yaml_files_and_folders(desk: Path) -> None:
    assert offered("launcher submit recipes/") == ["recipes/old/", "recipes/tune.yaml"]
    assert offered("launcher validate c") == ["cluster.yaml"]


def test_keys_are_those_of_the_kind_and_of_its_sections(desk: Path) -> None:
    assert offered("launcher submit recipes/tune.yaml --set optim.l") == ["optim.lr="]
    assert "adapter." in offered("launcher submit recipes/tune.yaml --set a")
    assert offered("launcher submit recipes/tune.yaml --set corpus") == []
    assert "corpus=" in offered("launcher submit --set corpus")


def test_profiles_are_the_shipped_ones_and_files(desk: Path) -> None:
    assert "a100" in offered("launcher status --cluster ")
    assert offered("launcher status --cluster clu") == ["cluster.yaml"]


def test_a_broken_profile_offers_nothing_and_says_nothing(desk: Path) -> None:
    (desk / "cluster.yaml").write_text("name: [")

    assert offered("launcher logs ") == []


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"launcher {__version__}\n"


@pytest.mark.slow
def test_a_tab_in_bash_completes_a_run(desk: Path) -> None:
    program = desk / "bin" / "launcher"
    program.parent.mkdir()
    # Not as the interpreter of the script: its path may hold spaces.
    program.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c "
        '\'import sys; sys.argv[0] = "launcher"; from launcher.__main__ import main; main()\' "$@"\n'
    )
    program.chmod(0o755)
    environ = os.environ | {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    environ |= {"PS1": "$ ", "TERM": "dumb", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    bash = pexpect.spawn(
        "bash", ["--norc", "--noprofile"], use_poll=True, env=environ, encoding="utf-8", timeout=PATIENCE
    )
    bash.sendline('eval "$(launcher --show-completion bash)"; echo re""ady')
    bash.expect("ready")

    bash.send(f"echo; launcher logs {BETA[:6]}\t")

    bash.expect_exact(BETA)
    bash.sendeof()
    bash.close(force=True)
