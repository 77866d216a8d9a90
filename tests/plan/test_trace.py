"""`launcher plan --trace` without torch: what is refused, kept and shown."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.trace.__main__ import main as trace_main
from launcher.artifacts.trace import FEW_LAYERS, PARTS, Trace, TracedMessages, TraceRequest
from launcher.cluster import Cluster
from launcher.errors import LauncherError
from launcher.load import LoadedRecipe, load_recipes
from launcher.plan import trace as traces
from launcher.run.paths import index_root
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B

RECIPES = Path(__file__).parents[2] / "recipes"
FOUND = Trace(
    memory=dict.fromkeys(PARTS, 0) | {"parameters": 6_738_415_616, "activations": 718_626_844},
    place="forward, lm_head",
    messages=(TracedMessages("all-gather", "shard", 4, 4288, 1_281_192_493_056),),
    parameters=6_738_415_616,
    trained=6_738_415_616,
    layers=FEW_LAYERS,
)


@pytest.fixture
def site(make_cluster: Callable[..., Cluster], tmp_path: Path) -> Cluster:
    cluster = make_cluster(gpus={"type": "a100", "memory": "80GB"})
    for name in ("huggyllama/llama-7b", "meta-llama/Meta-Llama-3-8B", "Qwen/Qwen1.5-7B-Chat"):
        folder = Path(cluster.roots.models) / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(LLAMA_7B))
    return cluster


def loaded(name: str, *overrides: str) -> LoadedRecipe:
    (one,) = load_recipes(RECIPES / f"{name}.yaml", overrides)
    return one


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[TraceRequest]:
    """Requests that reached the program, which answers them at once."""
    requests: list[TraceRequest] = []

    def answer(request: TraceRequest) -> str:
        requests.append(TraceRequest.read(request.write()))
        return FOUND.write()

    monkeypatch.setattr(traces, "_carry_out", answer)
    return requests


def test_two_small_models_are_traced_or_the_whole_one(site: Cluster, asked: list[TraceRequest]) -> None:
    recipe = loaded("biomed_llama_cpt")

    for full in (False, True):
        assert traces.trace(recipe, site, full) == FOUND

    assert [one.traced for one in asked] == [FEW_LAYERS, (32,)]
    assert asked[0].recipe["batch"]["micro_batch"] == 1
    assert asked[0].model == str(Path(site.roots.models) / "huggyllama" / "llama-7b")


def test_a_trace_is_kept_for_what_needs_the_same(site: Cluster, asked: list[TraceRequest]) -> None:
    assert traces.kept_trace(loaded("biomed_llama_cpt"), site) is None

    traces.trace(loaded("biomed_llama_cpt"), site, full=False)

    assert traces.kept_trace(loaded("biomed_llama_cpt", "optim.lr=1e-3", "schedule.length=9 steps"), site) == FOUND
    for change in ("resources.nodes=4", "batch.sequence_length=1024", "model.activation_checkpointing=true"):
        assert traces.kept_trace(loaded("biomed_llama_cpt", change), site) is None
    assert len(asked) == 1


@pytest.mark.parametrize("mode", [0o775, 0o700])
def test_what_is_kept_has_the_mode_of_the_folder_of_runs(site: Cluster, asked: list[TraceRequest], mode: int) -> None:
    runs = Path(site.roots.runs)
    runs.mkdir(parents=True, exist_ok=True)
    runs.chmod(mode)
    before = os.umask(0o077)
    try:
        traces.trace(loaded("biomed_llama_cpt"), site, full=False)
    finally:
        os.umask(before)

    folder = index_root(runs) / ".traces"
    [kept] = folder.iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (index_root(runs), folder, kept)]
    assert modes == [mode, mode, mode & 0o666]


def test_where_nothing_can_be_kept_nothing_is_left_behind(
    site: Cluster, asked: list[TraceRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(os, "replace", refuse)

    assert traces.trace(loaded("biomed_llama_cpt"), site, full=False) == FOUND

    assert [*(index_root(Path(site.roots.runs)) / ".traces").iterdir()] == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("prepare_pmc", "`kind: prepare` trains nothing"),
        ("medicalgpt_ppo", "`kind: rl` cannot be traced"),
        ("medcare_stage1", "`parallel.strategy: zero3` is DeepSpeed's"),
        ("pubmedqa_qlora", "quantised weights cannot be traced"),
        ("clinical_baseline_mor", "config.json of `bio-clinicalbert` is not on this machine"),
    ],
)
def test_what_cannot_be_traced_is_refused(site: Cluster, name: str, reason: str) -> None:
    recipe = loaded(name, *(["parallel.strategy=ddp"] if name == "pubmedqa_qlora" else []))

    with pytest.raises(LauncherError) as raised:
        traces.trace(recipe, site, full=False)

    assert reason in str(raised.value)
    assert f"{name}.yaml" in str(raised.value)


def test_without_torch_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("jobs.rank.required_packages.find_spec", lambda name: None if name == "torch" else name)

    assert trace_main() == 78

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("--trace needs torch, which ")
    assert "'.[train]'" in said.err and said.err.count("\n") == 1


def test_full_alone_is_refused(site: Cluster, tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(site.model_dump_json())

    _, said = launcher("plan", str(RECIPES / "biomed_llama_cpt.yaml"), "--full", "--cluster", str(profile), code=2)

    assert "--full: is how `--trace` traces" in said


def test_what_is_kept_stands_beside_the_formula(site: Cluster, asked: list[TraceRequest], tmp_path: Path) -> None:
    profile = tmp_path / "cluster.yaml"
    profile.write_text(site.model_dump_json())
    traces.trace(loaded("biomed_llama_cpt"), site, full=False)

    arguments = ("plan", str(RECIPES / "biomed_llama_cpt.yaml"), "--cluster", str(profile))
    shown, _ = launcher(*arguments, environ={"COLUMNS": "80"})
    [plain] = json.loads(launcher(*arguments, "--json")[0])["recipes"]

    assert "traced with 2 and 4 layers" in shown
    assert ["parameters", "6.74", "GB", "6.74", "GB"] in [line.split() for line in shown.splitlines()]
    assert "at the peak: forward, lm_head" in shown
    assert "a rank sends 1.28 TB in 4,288 x all-gather among 4 ranks of `shard`" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert plain["trace"]["memory"]["activations"] == 718_626_844
