"""`launcher submit` and `launcher render` as typed: what they print, and what they leave alone."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest
import yaml

from launcher.cluster import Cluster
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord
from tests.support.fake_slurm import FakeSlurm
from tests.support.training_runs import cpt_recipe
from tests.support.waiting import PATIENCE

PREPARE = Path(__file__).parents[2] / "recipes" / "prepare_pile_pubmed.yaml"
LAUNCHER = (sys.executable, "-m", "launcher")
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def profile(fake_slurm: FakeSlurm, make_cluster: MakeCluster, tmp_path: Path) -> Path:
    """The file of a profile whose Slurm is the fake one."""
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(make_cluster().model_dump(mode="json", exclude_defaults=True)))
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe file with two documents."""
    path = tmp_path / "two recipes.yaml"
    common = (
        "kind: prepare\ncorpus: a\ntokenizer: tokenizer\nsources: [{format: pile, files: abstracts.jsonl}]\n"
        "resources: {time: 1h}\n"
    )
    path.write_text(f"name: first\n{common}---\nname: second\n{common}")
    return path


def launcher(*arguments: str | Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*LAUNCHER, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == exit_code, done.stderr
    return done


def test_submit_prints_a_line_for_each_run_and_what_to_type_next(
    profile: Path, recipe: Path, fake_slurm: FakeSlurm
) -> None:
    done = launcher("submit", recipe, "--cluster", profile)

    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[1:3] for row in rows] == [["first", "1001_0"], ["second", "1001_1"]]
    assert all(RunRecord.read(RunDir(Path(row[3])).record).id == row[0] for row in rows)
    assert f"launcher logs -f {rows[0][0]}" in done.stderr


def test_submit_as_json_names_the_folders(profile: Path, recipe: Path, fake_slurm: FakeSlurm) -> None:
    done = launcher("submit", recipe, "--cluster", profile, "--json")

    runs = json.loads(done.stdout)["runs"]
    assert [(run["name"], run["job"]) for run in runs] == [("first", "1001_0"), ("second", "1001_1")]
    assert all(Path(run["folder"]).is_dir() for run in runs)


def test_render_prints_the_bytes_that_submit_sends(profile: Path, recipe: Path, fake_slurm: FakeSlurm) -> None:
    rendered = launcher("render", recipe, "--cluster", profile, "--max-parallel", "1").stdout

    launcher("submit", recipe, "--cluster", profile, "--max-parallel", "1")

    assert rendered == fake_slurm.script("1001")
    assert "#SBATCH --array=0-1%1\n" in rendered


def test_render_shows_what_deepspeed_is_told(profile: Path, tmp_path: Path) -> None:
    path = tmp_path / "cpt.yaml"
    sections = cpt_recipe(parallel={"strategy": "zero3", "offload": "all"}, batch={"micro_batch": "auto"})
    path.write_text(json.dumps(sections))

    told = json.loads(launcher("render", path, "--deepspeed", "--cluster", profile).stdout)

    assert told["zero_optimization"]["offload_param"] == {"device": "cpu", "pin_memory": True}
    assert told["train_micro_batch_size_per_gpu"] * told["gradient_accumulation_steps"] == 8
    path.write_text(json.dumps(cpt_recipe()))
    refused = launcher("render", path, "--deepspeed", "--cluster", profile, exit_code=2)
    assert "--deepspeed: `tiny` has `parallel.strategy: ddp`, which is not DeepSpeed's" in refused.stderr


def test_a_dry_run_shows_the_script_and_touches_nothing(
    profile: Path, recipe: Path, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    done = launcher("submit", recipe, "--cluster", profile, "--dry-run", "--set", "resources.time=2h")

    assert "#SBATCH --time=0-02:00:00" in done.stdout
    assert "2 runs in 1 job" in done.stderr
    assert not (tmp_path / "runs").exists()
    assert fake_slurm.calls("sbatch") == []


def test_test_only_says_in_words_when_slurm_would_start(
    profile: Path, recipe: Path, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    done = launcher("submit", recipe, "--cluster", profile, "--test-only")

    assert done.stdout == "first, second: would start Fri 02 Jan 03:04 on n[1-2] (partition gpu)\n"
    assert not (tmp_path / "runs").exists()


def test_the_faults_of_all_files_are_told_at_once(profile: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("kind: prepare\nnmae: x\n")

    done = launcher("submit", tmp_path / "a.yaml", tmp_path / "b.yaml", "--cluster", profile, exit_code=2)

    assert "a.yaml:2: nmae: unknown key" in done.stderr
    assert "b.yaml:2: nmae: unknown key" in done.stderr
    assert "Traceback" not in done.stderr


def test_variables_that_would_override_the_script_are_named(
    profile: Path, recipe: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "debug")

    done = launcher("submit", recipe, "--cluster", profile)

    assert "warning: SBATCH_PARTITION" in done.stderr


def test_a_full_disk_is_one_message_and_exit_code_1(profile: Path, recipe: Path, fake_slurm: FakeSlurm) -> None:
    with Path("/dev/full").open("w") as disk:
        argv = [*LAUNCHER, "render", str(recipe), "--cluster", str(profile)]
        done = subprocess.run(argv, stdout=disk, stderr=subprocess.PIPE, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "disk: No space left on device\n")


def test_a_refusal_of_sbatch_is_one_message_and_exit_code_1(profile: Path, recipe: Path, fake_slurm: FakeSlurm) -> None:
    fake_slurm.fail("sbatch", 1, "sbatch: error: Batch job submission failed: Invalid account")

    done = launcher("submit", recipe, "--cluster", profile, exit_code=1)

    assert "Invalid account" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("answer", "queued"), [("n", 0), ("y", 1)])
def test_a_person_is_asked_before_several_runs(
    answer: str, queued: int, profile: Path, recipe: Path, fake_slurm: FakeSlurm
) -> None:
    argv = [*LAUNCHER[1:], "submit", str(recipe), "--cluster", str(profile)]
    terminal = pexpect.spawn(LAUNCHER[0], argv, use_poll=True, encoding="utf-8", timeout=PATIENCE, env=dict(os.environ))

    terminal.expect("2 runs in 1 job")
    terminal.expect("would start Fri 02 Jan")
    terminal.expect("submit")
    terminal.sendline(answer)
    terminal.expect(pexpect.EOF)
    terminal.close()

    assert len([call for call in fake_slurm.calls("sbatch") if "--test-only" not in call.argv]) == queued


def test_a_model_that_may_not_fit_is_a_warning(profile: Path, tmp_path: Path, fake_slurm: FakeSlurm) -> None:
    config = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
    config |= {"num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 32000}
    model, corpus = tmp_path / "models" / "large", tmp_path / "corpora" / "words"
    for folder, name, content in ((model, "config.json", config), (corpus, "manifest.json", {})):
        folder.mkdir(parents=True)
        (folder / name).write_text(json.dumps(content))
    recipe = tmp_path / "large.yaml"
    recipe.write_text(
        "kind: cpt\nname: large\nmodel: {path: large}\ndata: {corpora: [{name: words}]}\n"
        "batch: {global_batch: 8 sequences, sequence_length: 128}\noptim: {lr: 1e-5}\nschedule: {length: 10 steps}\n"
        "resources: {gpus_per_node: 8, gpu_memory: 80GB, memory: 1TB, time: 10h}\ntracking: {mode: offline}\n"
    )

    done = launcher("submit", recipe, "--cluster", profile)

    assert "warning: large may not fit: about" in done.stderr
    assert "on 85 GB GPUs" in done.stderr
    assert "may not load: about 2207 GB of RAM for the copies of 8 ranks, 1000 GB asked for" in done.stderr
    assert "large  1001" in done.stdout

    recipe.write_text(recipe.read_text().replace("memory: 1TB, ", ""))
    done = launcher("submit", recipe, "--cluster", profile, "--dry-run")

    assert "large asks for no RAM, and loading takes about 2207 GB a node; write `resources.memory`" in done.stderr


@pytest.mark.parametrize(("reason", "exit_code"), [("finished", 0), ("error", 1)])
def test_waiting_ends_with_the_runs_and_succeeds_if_all_finished(
    reason: str, exit_code: int, recipe: Path, make_cluster: MakeCluster, tmp_path: Path
) -> None:
    event = {"attempt": 0, "started": 9e9, "reason": reason, "action": "done" if reason == "finished" else "stop"}
    python = tmp_path / "python"
    find_run = """sed -n 's/.*"run": "\\([^"]*\\)".*/\\1/p' "$4/manifest.jsonl\""""
    python.write_text(f"#!/bin/sh\necho '{json.dumps(event)}' > \"$({find_run})/attempts.jsonl\"\n")
    python.chmod(0o755)
    local = make_cluster(executor="local", python=str(python))
    profile = tmp_path / "local.yaml"
    profile.write_text(yaml.safe_dump(local.model_dump(mode="json", exclude_defaults=True)))

    done = launcher("submit", recipe, "--cluster", profile, "--wait", exit_code=exit_code)

    ends = "finished" if reason == "finished" else "failed:"
    told = [words[1] for line in done.stderr.splitlines() if ends in (words := line.split())]
    assert sorted(told) == ["first", "second"]  # whichever ends first


@pytest.mark.slow
def test_following_prints_what_the_run_prints_until_it_is_over(tmp_path: Path) -> None:
    profile = tmp_path / "local.yaml"
    roots = ", ".join(f"{name}: {tmp_path}/{name}" for name in ("runs", "data", "corpora", "models"))
    profile.write_text(f"name: here\nexecutor: local\nroots: {{{roots}}}\ngpus: {{device: cpu}}\n")

    done = launcher("submit", PREPARE, "--rehearse", "--follow", "--cluster", profile)

    row, *log = done.stdout.splitlines()
    run = RunDir(Path(row.split()[-1]))
    assert log == run.rank_log(0, 0).read_text().splitlines()
    assert log[-1].endswith("0 of 500 records unreadable")
    assert f"==> {run.rank_log(0, 0)}" in done.stderr
    assert done.stderr.splitlines()[-1] == "==> finished"
