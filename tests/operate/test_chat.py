"""How the chat program is started: the script, the words of srun, what travels in the environment."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.batch.contained_chat import chat_argv
from launcher.cluster import Cluster
from launcher.operate import chat as starting
from launcher.operate.chat import ChatPlan, choose_nodes
from launcher.recipe.sections.chat import ChatRequest, ChatSubject
from launcher.recipe.sections.common import Resources
from launcher.recipe.sections.evaluated_model import EvaluatedModel
from launcher.run.batch_process import CHAT_SITE, CHAT_VARIABLE
from launcher.run.paths import expand
from launcher.run.suspects import NodeReport, report_node
from launcher.slurm.allocation import allocation_options, inside_argv
from tests.support.command_line import launcher
from tests.support.fake_slurm import FakeSlurm

ASSETS = Path(__file__).parents[2] / "recipes" / "assets"
MakeCluster = Callable[..., Cluster]


def plan(here: bool = False, **changes: Any) -> ChatPlan:
    model = EvaluatedModel(path="llama")
    subject = ChatSubject(title="llama", model=model, base="/models/llama", adapters={"none": ()}, choice="none")
    resources = Resources.model_validate({"gpus_per_node": 1, "cpus_per_task": 3, "time": "2h"})
    return ChatPlan(ChatRequest(subjects=(subject.model_copy(update=changes),)), resources, here)


def test_the_allocation_is_one_gpu_and_the_program_gets_its_cores(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(slurm={"partition": "gpu"}, modules=["cuda"], environment={"A": "it's"})
    script = starting._script(plan(), cluster, Path("/code"))
    options = allocation_options(script)

    assert {"--nodes=1", "--gres=gpu:1", "--cpus-per-task=3", "--partition=gpu", "--job-name=chat"} <= set(options)
    assert "--time=0-02:00:00" in options
    assert script.endswith(" -u -m jobs.chat\n")
    assert starting._shell(cluster)[:3] == ["bash", "-l", "-c"]
    argv = inside_argv("7", starting._shell(cluster), True, 3)
    assert argv[:7] == ["srun", "--jobid=7", "--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=3", "--pty"]
    assert not any("models" in word for word in argv)


def test_a_node_that_gave_trouble_is_not_asked_for_unless_one_has_an_allocation(
    make_cluster: MakeCluster, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster()
    runs = expand(cluster.roots.runs)
    runs.mkdir(exist_ok=True)
    report_node(runs, NodeReport("gpu02", "failed the preflight check", time.time(), "ab12cd"))
    fake_slurm.answer("sinfo", "gpu*|gpu01|idle|gpu:4|(null)|64|512000\ngpu*|gpu02|mixed|gpu:4|(null)|64|512000\n")

    assert choose_nodes(plan(), cluster).avoided.options == ("--exclude=gpu02",)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert choose_nodes(plan(), cluster).avoided.options == ()


def test_a_credentialed_model_makes_files_private(make_cluster: MakeCluster) -> None:
    assert "umask 077" in starting._script(plan(data_use="credentialed"), make_cluster(), Path("/code"))
    assert "umask 077" not in starting._script(plan(), make_cluster(), Path("/code"))


def test_what_to_do_is_in_the_environment(make_cluster: MakeCluster) -> None:
    environment = starting._environment(plan(), make_cluster(), "true\n")

    assert ChatRequest.model_validate_json(environment[CHAT_VARIABLE]) == plan().request
    assert (environment["OMP_NUM_THREADS"], environment["PYTHONSAFEPATH"]) == ("3", "1")


@pytest.mark.parametrize("runtime", ["apptainer", "pyxis"])
def test_in_a_container_the_program_sees_the_models_folders(
    make_cluster: MakeCluster, tmp_path: Path, runtime: str
) -> None:
    image = {"runtime": runtime, "image": "/images/torch.sif", "python": "/usr/bin/python3"}
    cluster = make_cluster(container=image, environment={"A": "1"})
    (tmp_path / "elsewhere").mkdir()
    planned = plan(base=str(tmp_path / "elsewhere"))
    environment = starting._environment(planned, cluster, "")
    words = chat_argv(environment)

    assert starting._script(planned, cluster, Path("/code")).endswith("jobs.batch.contained_chat\n")
    assert words[-4:] == ["/usr/bin/python3", "-u", "-m", "jobs.chat"]
    mounted = next(word for word in words if "elsewhere" in word)
    if runtime == "apptainer":
        assert words[:3] == ["apptainer", "exec", "--nv"]
        assert mounted == f"--bind={tmp_path / 'elsewhere'}"
    else:
        assert words[0] == "srun"
        [names] = [word for word in words if word.startswith("--container-env=")]
        assert {CHAT_VARIABLE, "PYTHONPATH", "A"} <= set(names.partition("=")[2].split(","))
    assert json.loads(environment[CHAT_SITE])["has_terminal"] is False


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("--port", "8000"), "--port: is the port of a page; write `--web` as well, or leave it out"),
        (("--length", "0"), "--length: `0`: Input should be greater than or equal to 1"),
        (("--temperature", "-1"), "--temperature: `-1.0`: Input should be greater than or equal to 0"),
        (("--time", "3"), "--time: `3` cannot be read; write a duration"),
        (("--memory", "3"), "--memory: `3` cannot be read; write a size"),
        (("--compare", "nobody"), "`nobody`: no run below"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, words: tuple[str, ...], fault: str) -> None:
    profile = tmp_path / "here.yaml"
    roots = f"{{runs: {tmp_path}/runs, corpora: {tmp_path}/corpora, models: {ASSETS}}}"
    profile.write_text(f"name: here\nexecutor: local\nroots: {roots}\n")
    _, said = launcher("chat", "stories260k", *words, "--cluster", str(profile), code=2)

    assert said.startswith(fault)
    assert not (tmp_path / "runs").exists()
