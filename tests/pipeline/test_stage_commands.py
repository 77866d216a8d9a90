"""Commands that take a pipeline and one of its stages: `logs`, `debug`, and `watch` for all of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from launcher.pipeline.record import Pipeline, PipelineRecord, StageRecord
from launcher.run.paths import PipelineDir, RunDir
from launcher.run.record import RunRecord
from tests.support.checkouts import LISTENING, copy_checkout, typing
from tests.support.command_line import launcher
from tests.support.run_histories import History


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """A pipeline of three stages: one failed on rank 1, one waits, and the run of the last was removed."""
    runs = tmp_path / "runs"
    failed = History.begin(runs, "aaa111", "corpus").submit("7", at=0).start(0, "7", at=60)
    failed.log(0, 0, "rank 0 waits")
    failed.log(0, 1, "Traceback (most recent call last):", "ValueError: row 3")
    failed.end(0, "error", "stop", at=90, message="rank 1 on a2: exit code 1")
    waits = History.begin(runs, "bbb222", "model")
    made = Pipeline(PipelineDir(runs / "small-20260921-120000-ccc333"))
    made.folder.stages.mkdir(parents=True)
    stages = [StageRecord(name, (), None, name) for name in ("corpus", "model", "scores")]
    PipelineRecord("ccc333", "small", 0.0, "f", False, False, {}, tuple(stages)).write(made.folder.record)
    made.link_stage("corpus", failed.run)
    made.link_stage("model", waits.run)
    made.link_stage("scores", RunDir(runs / "scores-20260921-120000-ddd444"))
    return made


@pytest.fixture
def site(tmp_path: Path) -> str:
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")
    return f"--cluster={profile}"


def test_the_log_of_a_stage_is_that_of_its_run(pipeline: Pipeline, site: str) -> None:
    printed, where = launcher("logs", "small", "corpus", site)

    assert printed.splitlines() == [
        "rank 0 waits", "[rank 1] Traceback (most recent call last):", "[rank 1] ValueError: row 3",
    ]  # fmt: skip
    assert "attempt-000/rank-00000.log" in where and "rank 1 failed first" in where
    assert launcher("logs", "ccc333", "corpus", "--rank", "1", site)[0].endswith("ValueError: row 3\n")


@pytest.mark.parametrize("command", ["logs", "debug"])
def test_a_stage_that_is_not_there_is_told_of(pipeline: Pipeline, site: str, command: str) -> None:
    assert "its stages are `corpus`, `model`, `scores`" in launcher(command, "small", "corpsu", site, code=2)[1]
    assert "the run of stage `scores` was removed" in launcher(command, "small", "scores", site, code=2)[1]
    assert "`large`: no pipeline" in launcher(command, "large", "corpus", site, code=2)[1]


def test_a_stage_without_logs_says_so(pipeline: Pipeline, site: str) -> None:
    assert "has no logs yet" in launcher("logs", "small", "model", site, code=2)[1]


def test_all_stages_of_a_pipeline_are_watched(pipeline: Pipeline, site: str) -> None:
    found = json.loads(launcher("watch", "small", "--json", site)[0])

    assert [(run["id"], run["state"]) for run in found["runs"]] == [("aaa111", "failed"), ("bbb222", "not submitted")]


@pytest.mark.parametrize(
    "options",
    [["--test-only"], ["--after", "aaa111"], ["--max-parallel", "2"], ["--follow"], ["--sweep", "seed=1,2"]],
    ids=lambda given: given[0],
)
def test_options_that_a_pipeline_cannot_take_are_refused_and_nothing_is_queued(
    tmp_path: Path, site: str, options: list[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(PREPARE)
    path = tmp_path / "small.yaml"
    path.write_text("kind: pipeline\nname: small\nstages:\n  corpus: {recipe: ./tiny.yaml}\n")

    told = launcher("submit", str(path), *options, site, code=2)[1]

    assert told.startswith(f"{options[0]}") or f" {options[0]}" in told
    assert not (tmp_path / "runs").exists()


PREPARE = """\
kind: prepare
name: tiny
corpus: tiny
sources: [{format: pile, files: ./abstracts.jsonl}]
tokenizer: ./assets/stories260k
resources: {cpus_per_task: 1, time: 10min}
"""


@pytest.mark.slow
def test_a_stage_is_debugged_with_the_names_of_its_pipeline(tmp_path: Path, site: str) -> None:
    checkout = copy_checkout(tmp_path / "checkout", LISTENING)
    (checkout / "recipes" / "tiny.yaml").write_text(PREPARE)
    (checkout / "recipes" / "abstracts.jsonl").write_text('{"text": "one"}\n')
    path = checkout / "recipes" / "small.yaml"
    path.write_text("kind: pipeline\nname: small\nstages:\n  corpus: {recipe: ./tiny.yaml, set: {seed: 7}}\n")
    # Nobody types what its rank listens for, so that the stage fails.
    argv = [sys.executable, "-m", "launcher", "submit", str(path), "--wait", "--json", site]
    done = subprocess.run(
        argv, cwd=checkout, env={**os.environ}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    told = json.loads(done.stdout)
    [stage] = told["stages"]

    with typing(checkout, {}, "debug", "small", "corpus", site) as terminal:
        terminal.expect(r"run directory: (\S+)")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        debugged = RunDir(Path(terminal.match.group(1)))
        terminal.expect(r"\[rank 0\] rank 0 of 1")
        terminal.sendline("leave")
        terminal.expect(pexpect.EOF)

    record = RunRecord.read(debugged.record)
    assert (record.name, record.stage, record.pipeline) == ("debug tiny", "corpus", told["pipeline"])
    assert json.loads(debugged.recipe.read_text())["seed"] == 7
    assert debugged.root != Path(stage["folder"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cancel", "small", "--where", "r=4"), "--where r=4: chooses points of a sweep"),
        (("stop", "aaa111", "small", "--where", "r=4"), "--where r=4: chooses points of a sweep"),
        (("resume", "small", "--nodes", "2"), "--nodes: is for single runs"),
    ],
)
def test_an_option_that_is_not_for_pipelines_is_refused_before_anything_is_done(
    pipeline: Pipeline, site: str, words: tuple[str, ...], said: str
) -> None:
    assert said in launcher(*words, site, code=2)[1]

    assert not pipeline.folder.stop_request.exists()
