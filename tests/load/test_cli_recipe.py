"""`launcher validate`, `schema` and `init` as typed."""

import json
import os
from pathlib import Path

import jsonschema
import pytest

from launcher.load import load_cluster
from launcher.recipe import KINDS
from tests.operate.test_site import CONFIG, NODES, PARTITIONS
from tests.support.command_line import launcher
from tests.support.model_configs import LLAMA_7B
from tests.support.recipe_files import PROFILE, RECIPE, write

RECIPES = Path(__file__).parents[2] / "recipes"
BIOMED = str(RECIPES / "biomed_llama_cpt.yaml")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LAUNCHER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


def test_validate_says_what_a_recipe_asks_for() -> None:
    said, note = launcher("validate", BIOMED)

    assert said.splitlines() == [
        f"{BIOMED}: ok: biomed-llama-cpt",
        "  32 ranks: 8 nodes x 4 GPUs; global batch 2048 sequences = 1 x 64 accumulation steps x 32 ranks "
        "(4,194,304 tokens)",
        "  one attempt: at most 24h, 768 GPU-hours",
    ]
    assert note == "no cluster profile: only the recipes themselves were checked (`--cluster NAME`)\n"


def test_validate_says_whether_it_fits_a_site_and_what_it_costs(tmp_path: Path) -> None:
    write(tmp_path, json.dumps(LLAMA_7B), "models/huggyllama/llama-7b/config.json")
    write(tmp_path, json.dumps({"counts": {"tokens": {"train": 63 * 10**9}}}), "corpora/pile-pubmed/manifest.json")
    profile = write(
        tmp_path,
        "name: site\nroots: {runs: r, data: d, corpora: corpora, models: models}\ngpus: {type: a100, memory: 80GB}\n",
        "cluster.yaml",
    )

    said, _ = launcher("validate", BIOMED, "--cluster", str(profile), "--set", "secrets=[]")

    assert said.splitlines()[2:] == [
        "  memory of one rank: about 56 GB of 85 GB (estimate)",
        "  RAM of one node while it loads: about 108 GB of 160 GB (estimate)",
        "  whole run: 15,021 steps, 63B tokens, about 5.34k GPU-hours if 45% of the peak is reached",
        "  one attempt: at most 24h, 768 GPU-hours",
    ]


def test_validate_tells_the_faults_of_all_files_at_once(tmp_path: Path) -> None:
    write(tmp_path, RECIPE.replace("1e-5", "-1"), "one.yaml")
    write(tmp_path, RECIPE.replace("cpt", "ctp"), "two.yaml")
    write(tmp_path, RECIPE.replace("abstracts", "missing"), "three.yaml")
    write(tmp_path, PROFILE, "cluster.yaml")

    said, errors = launcher("validate", "one.yaml", "two.yaml", "three.yaml", code=2)

    assert said == ""
    assert [line.split(": ")[0] for line in errors.splitlines()] == ["one.yaml:9", "two.yaml:1", "three.yaml:6"]


def test_validate_reports_sound_recipes_beside_faulty_ones(tmp_path: Path) -> None:
    write(tmp_path, PROFILE, "cluster.yaml")
    write(tmp_path, RECIPE.replace("8 sequences", "8"), "base.yaml")
    for name in ("one", "two"):
        write(tmp_path, f"base: base.yaml\nname: {name}\n", f"{name}.yaml")
    prepares = str(RECIPES / "prepare_pile_pubmed.yaml")

    said, errors = launcher("validate", "one.yaml", "two.yaml", BIOMED, prepares, "--rehearse", code=2)
    as_json, _ = launcher("validate", "one.yaml", "two.yaml", BIOMED, prepares, "--rehearse", "--json", code=2)

    assert [line.split(": ")[1] for line in said.splitlines() if not line.startswith(" ")] == ["ok", "ok"]
    [base] = [line for line in errors.splitlines() if line.startswith("base.yaml")]
    assert base.startswith("base.yaml:7: batch.global_batch") and base.endswith("(a base of `one.yaml`, `two.yaml`)")
    assert len(json.loads(as_json)["recipes"]) == 2


def test_validate_calls_no_recipe_sound_that_cannot_work_at_the_site(tmp_path: Path) -> None:
    write(tmp_path, PROFILE, "cluster.yaml")
    write(tmp_path, RECIPE, "base.yaml")
    write(tmp_path, "base: base.yaml\nname: one\n", "one.yaml")

    said, errors = launcher("validate", "one.yaml", code=2)

    assert said == ""
    assert "base.yaml:6: data.corpora.0.name" in errors and "(a base of `one.yaml`)" in errors


def test_corpora_that_other_files_prepare_are_no_fault(tmp_path: Path) -> None:
    write(tmp_path, PROFILE, "cluster.yaml")

    launcher("validate", BIOMED, str(RECIPES / "prepare_pile_pubmed.yaml"), "--rehearse")


def test_validate_prints_json_for_programs(tmp_path: Path) -> None:
    write(tmp_path, f"{RECIPE}---\n{RECIPE.replace('1e-5', '-1')}", "two.yaml")

    sound, _ = launcher("validate", "two.yaml", "--set", "optim.lr=1e-4", "--json")
    broken, _ = launcher("validate", "two.yaml", "--json", code=2)

    assert [item["name"] for item in json.loads(sound)["recipes"]] == ["tiny", "tiny"]
    assert json.loads(broken)["faults"] == [
        {
            "file": "two.yaml",
            "line": 25,
            "key": "optim.lr",
            "message": "`-1` is not valid here; write a number greater than 0",
            "code": "out-of-range",
        }
    ]


@pytest.mark.parametrize("kind", [[], ["cpt"], ["prepare"], ["pipeline"], ["cluster"]])
def test_schema_prints_a_json_schema(kind: list[str]) -> None:
    said, _ = launcher("schema", *kind)

    jsonschema.Draft202012Validator.check_schema(json.loads(said))


def test_schema_of_an_unknown_kind_names_the_known_ones() -> None:
    _, errors = launcher("schema", "ctp", code=2)

    known = ", ".join(f"`{kind}`" for kind in (*KINDS, "pipeline", "cluster"))
    assert "`cpt`" in known
    assert errors == f"schema: `ctp` is not known; write one of {known}\n"


def test_init_writes_what_slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"scontrol": f"case $2 in config) cat <<'E'\n{CONFIG}E\n;; *) cat <<'E'\n{PARTITIONS}E\n;; esac"}
    answers |= {"sinfo": f"cat <<'E'\n{NODES}E", "sacctmgr": "echo biomed"}
    for name, body in answers.items():
        write(tmp_path, f"#!/bin/sh\n{body}\n", f"bin/{name}").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SCRATCH", "/scratch/me")

    said, _ = launcher("init", "--output", "new/site.yaml", "--name", "ours")

    cluster = load_cluster("new/site.yaml")
    assert said == "new/site.yaml: Slurm 22.05.8, 2 partitions\n"
    assert (cluster.name, cluster.slurm.partition, cluster.slurm.account) == ("ours", "preempt", "biomed")
    assert cluster.roots.runs == "$SCRATCH/launcher/runs"


def test_init_without_slurm_writes_a_local_profile_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    said, _ = launcher("init")

    assert said.startswith("cluster.yaml: no Slurm on this machine (no `scontrol` on PATH), so a profile for local")
    assert load_cluster(None).executor == "local"


def test_init_with_a_slurm_that_does_not_answer_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "#!/bin/sh\necho no configuration >&2; exit 1\n", "bin/scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")

    _, errors = launcher("init", code=1)

    assert "no configuration" in errors
    assert "set SLURM_CONF, or run this on a login node" in errors
    assert not Path("cluster.yaml").exists()


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    write(tmp_path, "mine\n", "cluster.yaml")

    _, errors = launcher("init", code=2)

    assert errors == "--output: `cluster.yaml` exists; remove it, or write another file name\n"
    assert Path("cluster.yaml").read_text() == "mine\n"
