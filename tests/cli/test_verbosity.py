"""`--quiet` and `--verbose`: what each command says beside its result."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from launcher.cli import app
from launcher.cluster import Cluster
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm

HINT = "no cluster profile: only the recipes themselves were checked"
RECIPE = """kind: prepare
name: first
corpus: a
tokenizer: tokenizer
sources: [{format: pile, files: abstracts.jsonl}]
resources: {time: 1h}
"""


@pytest.fixture
def profile(fake_slurm: FakeSlurm, make_cluster: Callable[..., Cluster], tmp_path: Path) -> Path:
    (tmp_path / "slurm.conf").touch()
    cluster = make_cluster(slurm={"partition": "gpu", "conf": str(tmp_path / "slurm.conf")})
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(cluster.model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "first.yaml"
    path.write_text(RECIPE)
    return path


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for part, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {part}")
    if not hasattr(command, "commands"):
        yield name, command


def test_each_command_takes_both_and_means_the_same_by_their_letters() -> None:
    known = dict(commands(typer.main.get_command(app), "launcher"))

    assert len(known) > 30
    for name, command in known.items():
        options = [one.opts for one in command.params]
        assert [one for one in options if {"-q", "-v"} & {*one}] == [["--quiet", "-q"], ["--verbose", "-v"]], name


def test_each_command_has_help_by_its_letter() -> None:
    for words in ((), ("submit",), ("corpus",), ("corpus", "show")):
        assert launcher(*words, "-h") == launcher(*words, "--help")
        assert launcher(*words, "-h")[0].startswith("Usage: ")


@pytest.mark.parametrize("place", ["before", "behind"])
def test_quiet_leaves_out_hints_and_nothing_else(place: str, recipe: Path) -> None:
    usual, hint = launcher("validate", str(recipe))
    words = ("-q", "validate", str(recipe)) if place == "before" else ("validate", str(recipe), "--quiet")

    assert hint.startswith(HINT) and usual
    assert launcher(*words) == (usual, "")
    assert launcher("validate", str(recipe)) == (usual, hint)  # the next one is not quiet


def test_quiet_leaves_warnings_and_errors(
    recipe: Path, profile: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "other")
    quiet = ("submit", str(recipe), "--cluster", str(profile), "--quiet")

    said = launcher(*quiet, "--dry-run")[1]
    assert said == "warning: SBATCH_PARTITION of this shell would override the script; ignored\n"
    queued, said = launcher(*quiet)
    assert "first" in queued and "launcher logs" not in said
    assert "is queued or running as" in launcher(*quiet)[1]  # there is no other answer
    recipe.write_text(RECIPE.replace("corpus: a", "korpus: a"))
    assert "korpus" in launcher(*quiet, code=2)[1]


def test_verbose_says_what_is_read_called_and_decided(recipe: Path, profile: Path, fake_slurm: FakeSlurm) -> None:
    printed, said = launcher("submit", str(recipe), "--cluster", str(profile), "-v")

    lines = [line[1:-1] for line in said.splitlines() if line.startswith("[")]
    assert f"reads {profile}" in lines and f"reads {recipe}" in lines
    assert f"cluster profile: {profile}" in lines
    called = [line.removeprefix("calls ") for line in lines if " sbatch " in line]
    [queued] = [call.argv for call in fake_slurm.calls("sbatch")]
    assert [shlex.split(line) for line in called] == [
        [f"SLURM_CONF={profile.parent / 'slurm.conf'}", "sbatch", *queued]
    ]
    folder = printed.split()[-1]
    assert any(line.startswith(f"writes {folder}/") for line in lines)
    assert not [line for line in lines if re.search(r"\.pyc?$|/site-packages/", line)]


def test_verbose_adds_nothing_to_a_result_and_ends_with_the_command(recipe: Path, profile: Path) -> None:
    status = ("status", "--cluster", str(profile), "--json")

    usual, said = launcher(*status)
    loud, told = launcher(*status, "--verbose")
    assert loud == usual and told.startswith("[") and not said.startswith("[")
    assert launcher(*status) == (usual, said)


def test_a_file_that_is_looked_for_is_not_said_to_be_read(recipe: Path, profile: Path) -> None:
    recipe.unlink()

    said = launcher("validate", str(recipe), "--cluster", str(profile), "-v", code=2)[1]
    assert f"[looks for {recipe}]" in said and f"reads {recipe}" not in said


def test_a_name_that_moves_the_cursor_is_written_out(tmp_path: Path, profile: Path) -> None:
    recipe = tmp_path / "a\x1b[2Jb\r.yaml"
    recipe.write_text(RECIPE)

    said = launcher("validate", str(recipe), "--cluster", str(profile), "-v")[1]

    assert f"[reads {tmp_path}/a\\x1b[2Jb\\r.yaml]" in said
    assert not [line for line in said.splitlines() if line.startswith("[") and "\x1b" in line]


def test_both_at_once_are_refused(recipe: Path) -> None:
    for words in (("-q", "validate", "-v"), ("validate", "-q", "-v"), ("-v", "-q", "validate")):
        assert "contradict each other" in launcher(*words, str(recipe), code=2)[1]


def test_lines_that_nobody_can_read_end_nothing(recipe: Path, profile: Path) -> None:
    argv = [sys.executable, "-m", "launcher", "validate", str(recipe), "--cluster", str(profile), "-v"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (done.returncode, done.stdout.split(":")[1]) == (0, " ok")
