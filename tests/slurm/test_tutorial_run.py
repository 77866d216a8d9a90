"""The tutorial, typed from top to bottom on a real Slurm: its training is preempted, and nothing is done twice."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.devcluster import DevCluster
from launcher.run.ledger import read_attempts
from launcher.run.paths import RunDir
from tests.slurm.site import Site
from tests.support.tutorial import PAGE, write_files
from tests.support.typed_commands import console_commands

pytestmark = pytest.mark.long

TRAINING = "pubmed-lora-rehearsal"


def commands() -> Iterator[list[str]]:
    """Yield what is typed at any site: neither the commands that set one up, nor those of the real size."""
    for words in console_commands(PAGE):
        if words[0] == "validate" and "--rehearse" not in words:
            return
        if words[0] not in ("recipes", "init", "doctor") and words != ["devcluster", "up"] and "--cluster" not in words:
            yield words


def test_the_page_can_be_typed_from_top_to_bottom(
    small_cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(small_cluster)
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    said: dict[str, str] = {}

    for words in commands():
        if words == ["devcluster", "preempt"]:
            site.preempt(newest(site), step=3)
        elif words[:2] == ["status", TRAINING]:
            site.wait_until_finished(newest(site))
        else:
            said[" ".join(words)] = site.launcher(*words)

    assert [attempt.reason for attempt in read_attempts(newest(site).ledger)] == ["preempted", "finished"]
    perplexities = re.findall(r"^ {2}(?:base|adapted) +(\d+\.\d+) ±", said["compare base adapted"], re.MULTILINE)
    assert float(perplexities[1]) < float(perplexities[0]) / 2
    assert said["submit --rehearse pipeline.yaml"].count("finished already, with the same recipe and inputs") == 5
    for typed, shown in re.findall(r"\$ launcher (submit --rehearse --dry-run [^\n]*)\n(.*?)\.\.\.\n", PAGE, re.DOTALL):
        assert named_stages(said[typed]) == named_stages(shown)


def named_stages(text: str) -> list[str]:
    """Return what is said of each stage, without the names of runs."""
    return re.findall(r"^\w+: (?:finished as|a new run.*)", text, re.MULTILINE)


def newest(site: Site) -> RunDir:
    """Return the run directory of the tutorial's training."""
    return RunDir(max((site.cluster.layout.folder / "runs").glob(f"{TRAINING}-*")))
