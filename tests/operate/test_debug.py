"""Debugging without Slurm: ranks as processes of this machine, and the parts that are pure."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pexpect
import pytest

from jobs.batch import interactive
from jobs.batch.interactive import alone_srun_argv, debug_srun_argv, others_srun_argv
from jobs.batch.launch import Launch
from jobs.batch.terminal import OtherRanks, Screen
from jobs.rank import debugged
from launcher.cluster import Cluster
from launcher.errors import RunError
from launcher.operate.debug import DebugOptions, interactive_script, load_target
from launcher.run.batch_process import START_SECONDS
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir, published_steps
from launcher.slurm.allocation import allocation_options
from tests.support.checkouts import LISTENING, ROOT, copy_checkout, interrupt, typing
from tests.support.command_line import launcher

SCRIPT = """\
#!/bin/bash
#SBATCH --job-name='it'"'"'s mine'
#SBATCH --nodes=2
#SBATCH --gres=gpu:a100:4
#SBATCH --time=0-01:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=/runs/slurm-%j.log
set -e
module load cuda
export PYTHONPATH=/code
exec /usr/bin/python3 -u -m jobs.batch.main /runs/.submissions/ab-1 --local
"""


class Shown:
    """What a screen showed, and what it kept."""

    def __init__(self) -> None:
        self.text = b""
        self.kept = b""

    def write(self, data: bytes) -> None:
        self.text += data

    def keep(self, data: bytes) -> None:
        self.kept += data


@pytest.fixture
def shown() -> Shown:
    return Shown()


@pytest.fixture
def screen(shown: Shown) -> Screen:
    return Screen("[rank 0] ", shown.write, shown.keep)


def test_each_line_gets_its_label_however_it_arrives(screen: Screen, shown: Shown) -> None:
    for piece in (b"st", b"ep 1\r\nstep 2", b"\r\n\r\nstep 3\r\n"):
        screen.show(piece)

    assert shown.text == b"[rank 0] step 1\r\n[rank 0] step 2\r\n[rank 0] \r\n[rank 0] step 3\r\n"
    assert shown.kept == b"step 1\nstep 2\n\nstep 3\n"


def test_a_prompt_is_drawn_again_below_the_lines_of_others(screen: Screen, shown: Shown) -> None:
    screen.show(b"(Pdb) p x")
    shown.text = b""

    screen.show_between(["[rank 1] hello"])
    screen.show(b"\r\n1\r\n")

    assert shown.text == b"\r\x1b[K[rank 1] hello\r\n[rank 0] (Pdb) p x\r\n[rank 0] 1\r\n"


def test_other_ranks_are_read_line_by_line(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("first\nsec")
    ranks = OtherRanks({1: tmp_path / "one", 2: tmp_path / "two"})

    first = ranks.read()
    with (tmp_path / "one").open("a") as log:
        log.write("ond\n")
    (tmp_path / "two").write_text("late\n")

    assert first == ["[rank 1] first"]
    assert ranks.read() == ["[rank 1] second", "[rank 2] late"]


def test_salloc_asks_for_what_the_batch_script_asks_for() -> None:
    assert allocation_options(SCRIPT) == [
        "--job-name=it's mine", "--nodes=2", "--gres=gpu:a100:4", "--time=0-01:00:00",
    ]  # fmt: skip


def test_a_folder_of_any_name_hides_no_option_from_salloc() -> None:
    script = SCRIPT.replace("#SBATCH --nodes", "#SBATCH --chdir='/runs\u2029of\x85mine'\n#SBATCH --nodes")

    assert allocation_options(script) == allocation_options(SCRIPT)


def test_the_script_differs_from_the_batch_script_in_its_last_line_alone() -> None:
    lines = interactive_script(SCRIPT).splitlines()

    assert lines[:-1] == SCRIPT.splitlines()[:-1]
    assert lines[-1] == ('exec /usr/bin/python3 -u -m jobs.batch.interactive /runs/.submissions/ab-1 --local "$@"')


def make_launch(container: dict[str, Any] | None) -> Launch:
    cluster = {"container": container, "roots": {}, "gpus": {"device": "cpu"}, "environment": {}}
    return Launch(RunDir(Path("/runs/x")), 0, 2, 1, 4, "n1", 10000, cluster, "/recipes")


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        (None, ["--pty", "{python}", "-m", "jobs.batch.rank_log", "/runs/x", "0", "{python}", "-u", "-m", "jobs"]),
        (
            {"runtime": "apptainer", "image": "i.sif", "mounts": [], "python": "python3"},
            [
                "--pty",
                "{python}",
                "-m",
                "jobs.batch.rank_log",
                "/runs/x",
                "0",
                "apptainer",
                "exec",
                "i.sif",
                "python3",
            ],
        ),
        (
            {"runtime": "pyxis", "image": "i", "mounts": [], "python": "python3"},
            ["--pty", "python3", "-m", "jobs.batch.rank_log", "/runs/x", "0", "python3", "-u", "-m", "jobs"],
        ),
    ],
)
def test_rank_0_gets_the_terminal_and_the_others_their_logs(
    container: dict[str, Any] | None, expected: list[str]
) -> None:
    import sys

    argv = debug_srun_argv(make_launch(container), ["n1", "n2"], has_terminal=True)

    at = argv.index("--pty")
    assert argv[at : at + len(expected)] == [word.format(python=sys.executable) for word in expected]
    assert not any(word.startswith("--output") for word in argv)
    assert {"--overlap", "--nodelist=n1,n2", "--kill-on-bad-exit=1"} <= set(argv[:at])


def test_without_a_terminal_all_ranks_write_logs() -> None:
    argv = debug_srun_argv(make_launch(None), ["n1", "n2"], has_terminal=False)

    assert "--pty" not in argv
    assert any(word.startswith("--output=logs/attempt-000/") for word in argv)


def test_a_file_with_several_recipes_is_refused(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    recipe = (ROOT / "recipes" / "prepare_pile_pubmed.yaml").read_text()
    both = tmp_path / "both.yaml"
    both.write_text(f"{recipe}\n---\n{recipe}")

    with pytest.raises(RunError, match="holds 2 recipes"):
        load_target(str(both), make_cluster(), DebugOptions())


PREPARE = """\
kind: prepare
name: tiny
corpus: tiny
sources: [{format: pile, files: ./abstracts.jsonl}]
tokenizer: ./assets/stories260k
resources: {cpus_per_task: 1, time: 10min}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    checkout = copy_checkout(tmp_path / "checkout", LISTENING)
    (checkout / "recipes" / "tiny.yaml").write_text(PREPARE)
    (checkout / "recipes" / "abstracts.jsonl").write_text('{"text": "one"}\n')
    profile = (
        f"name: here\nexecutor: local\nroots: {{runs: {tmp_path}/runs, corpora: {tmp_path}, models: {tmp_path}}}\n"
    )
    (checkout / "cluster.yaml").write_text(profile)
    return checkout


def test_a_rank_that_has_the_terminal_is_alone_in_its_step() -> None:
    launch = replace(make_launch(None), ranks_per_node=2, module="jobs.rank.debugged")

    argv = alone_srun_argv(launch, ["n1", "n2"], 3)

    assert {"--nodes=1", "--ntasks=1", "--nodelist=n2", "--overlap", "--pty", "--chdir=/runs/x"} <= {*argv}
    assert argv[argv.index("-m") + 1] == "jobs.rank.debugged"
    assert not any(word.startswith(("--output", "--ntasks-per-node", "--wait")) for word in argv)


def test_a_placeholder_stands_for_it_among_the_others() -> None:
    argv = others_srun_argv(make_launch(None), ["n1", "n2"], 1)

    at = argv.index("jobs.batch.placeholder")
    assert argv[at + 1 : at + 4] == ["/runs/x", "0", "1"]
    assert {"--ntasks=2", "--overlap", "--output=logs/attempt-000/rank-%5t.log"} <= {*argv}


def test_ranks_of_a_debug_session_wait_for_each_other_for_days() -> None:
    launch = replace(make_launch(None), variables={START_SECONDS: "604800"})

    assert launch.exports[START_SECONDS] == "604800"


def test_a_debugger_that_cannot_work_is_refused(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    job = SimpleNamespace(record=SimpleNamespace(cluster={}))
    monkeypatch.setattr(interactive, "find_job", lambda *_: job)

    code = interactive.main([str(checkout), "--local", "--debugger=pdb:1"])

    assert (code, "no terminal for pdb" in capfd.readouterr().err) == (2, True)


def test_a_rank_that_there_is_not_and_two_debuggers_are_refused(checkout: Path) -> None:
    recipe, profile = str(checkout / "recipes" / "tiny.yaml"), str(checkout / "cluster.yaml")

    _, said = launcher("debug", recipe, "--pdb", "1", "--cluster", profile, code=2)
    assert "--pdb 1: `debug tiny` has rank 0 alone" in said
    _, said = launcher("debug", recipe, "--debugpy", "1", "--cluster", profile, code=2)
    assert "--debugpy 1: `debug tiny` has rank 0 alone" in said
    _, said = launcher("debug", recipe, "--pdb", "0", "--shell", "--cluster", profile, code=2)
    assert "--pdb, --shell: choose one of them" in said
    _, said = launcher("debug", recipe, "--pdb", "0", "--debugpy", "0", "--cluster", profile, code=2)
    assert "--pdb, --debugpy: choose one of them" in said


def test_no_port_leads_to_credentialed_data(checkout: Path) -> None:
    recipe, profile = str(checkout / "recipes" / "tiny.yaml"), str(checkout / "cluster.yaml")

    _, said = launcher(
        "debug", recipe, "--debugpy", "0", "--set", "data_use=credentialed", "--cluster", profile, code=2
    )

    assert "`debug tiny` reads credentialed data; use `--pdb`" in said


def test_a_rank_without_debugpy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_DEBUGGER", "debugpy:0")
    monkeypatch.setattr("jobs.rank.required_packages.find_spec", lambda _: None)

    with pytest.raises(
        SystemExit, match=r"--debugpy needs debugpy, which .*pip install -e '\.\[debug\]'` in a checkout"
    ):
        debugged.main()


@pytest.mark.slow
def test_a_recipe_is_debugged_on_this_machine_and_a_run_again(checkout: Path) -> None:
    with typing(checkout, {}, "debug", "recipes/tiny.yaml") as terminal:
        terminal.expect(r"run directory: (\S+)")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        run = RunDir(Path(terminal.match.group(1)))
        terminal.expect(r"\[rank 0\] rank 0 of 1")
        terminal.expect(r"what\? ")
        interrupt(terminal, "INTERRUPTED")
        terminal.sendline("leave")
        terminal.expect(pexpect.EOF)
    run.checkpoint(7).mkdir(parents=True)
    (run.checkpoint(7) / "COMPLETE").write_text("{}")
    with typing(checkout, {}, "debug", run.root.name) as terminal:
        terminal.expect("starts from a copy of step 7")
        terminal.expect(r"run directory: (\S+/debug-tiny-\S+)")
        assert terminal.match is not None and not isinstance(terminal.match, type)
        again = RunDir(Path(terminal.match.group(1)))
        terminal.sendline("leave")
        terminal.expect(pexpect.EOF)

    [attempt] = read_attempts(run.ledger)
    assert (attempt.exit_code, attempt.action) == (0, "stop")
    assert "INTERRUPTED" in run.rank_log(0, 0).read_text()
    assert published_steps(again) == published_steps(run) == [7]
