"""Rehearsals of corpora and of a curriculum on them, as the heads of the recipes tell to start them, without Slurm."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.corpus import read_manifest
from launcher.ledger import read_json_lines
from launcher.paths import RunDir
from tests.ranks import ASSETS

pytestmark = pytest.mark.slow

RECIPES = ASSETS.parent
PREPARED = ("prepare_medline", "prepare_pmc", "prepare_mimic_iii", "prepare_mimic_iv", "prepare_pubmed_and_mimic")
EXPECTED = {
    "medline-rehearsal": ("open", 120, {"train": 114, "validation": 5}, {"deleted": 1}),
    "pmc-rehearsal": ("open", 2, {"train": 2, "validation": 0}, {}),
    "mimic-iii-rehearsal": ("credentialed", 240, {"train": 151, "validation": 11}, {"error": 6, "too_short": 72}),
    "mimic-rehearsal": ("credentialed", 307, {"train": 212, "validation": 17}, {"error": 6, "too_short": 72}),
}
"""By corpus: data use, records, documents, and what was dropped why."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile of this machine and the corpora of all rehearsals."""
    folder = tmp_path_factory.mktemp("site")
    roots = {name: str(folder / name) for name in ("runs", "data", "corpora")} | {"models": str(ASSETS)}
    profile = {"name": "here", "executor": "local", "gpus": {"device": "cpu"}, "roots": roots}
    (folder / "here.yaml").write_text(json.dumps(profile))
    rehearse(folder, *PREPARED)
    return folder


def rehearse(site: Path, *recipes: str) -> list[RunDir]:
    """Submit rehearsals and wait for their end."""
    paths = [str(RECIPES / f"{name}.yaml") for name in recipes]
    argv = ["submit", "--rehearse", *paths, "--cluster", str(site / "here.yaml"), "--wait", "--json"]
    done = subprocess.run([sys.executable, "-m", "launcher", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return [RunDir(Path(run["folder"])) for run in json.loads(done.stdout)["runs"]]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_rehearsal_of_a_prepare_makes_its_corpus(site: Path, name: str) -> None:
    folder = site / "corpora" / name
    manifest = read_manifest(folder)

    counts = manifest.counts
    assert (manifest.data_use, counts.records, counts.documents, counts.dropped) == EXPECTED[name]
    assert counts.bad_records == 0
    is_closed = stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert is_closed == (manifest.data_use == "credentialed")
    assert sorted(path.name for path in (site / "corpora").iterdir()) == sorted([*EXPECTED, "mimic-iv-rehearsal"])


def test_the_rehearsal_of_the_curriculum_trains_on_two_of_them(site: Path) -> None:
    (run,) = rehearse(site, "clinical_llama_cpt")

    rows = read_json_lines(run.metrics)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (run.outputs / "model" / "model.safetensors").is_file()
    assert json.loads((run.outputs / "model" / "manifest.json").read_text())["data_use"] == "credentialed"
    assert stat.S_IMODE(run.root.stat().st_mode) == 0o700
