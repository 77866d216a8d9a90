"""Arguments that name nothing, as people type them by mistake: a line says so, and what is there stays as it is."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from launcher.cluster import Cluster
from launcher.run.home import NoHomeError, expand_home, user_name
from tests.support.command_line import launcher
from tests.support.run_histories import History
from tests.support.submissions import MakeCluster

LONG = "x" * 300
UNDECODABLE = os.fsdecode(b"\xff")
OF_RUNS = ("cancel", "stop", "save", "resume", "sync", "status", "why", "logs", "report", "watch", "stacks", "attach")


@pytest.fixture
def site(make_cluster: MakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A site with one run that waits, from whose folder commands are typed."""
    cluster: Cluster = make_cluster(executor="local")
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(cluster.model_dump(mode="json", exclude_defaults=True)))
    run = History.begin(Path(cluster.roots.runs)).submit("local-1", at=0).start(0, "local-1", at=1).run
    monkeypatch.chdir(run.root)
    return f"--cluster={path}"


def contents(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", [*OF_RUNS, "chat", "debug"])
def test_a_blank_name_is_no_run(site: str, tmp_path: Path, command: str) -> None:
    before = contents(tmp_path)

    said = launcher(command, "", site, code=2)[1]

    assert "``: is empty; write the id or the name of a run" in said
    assert contents(tmp_path) == before


def test_a_blank_name_is_waited_for_by_no_recipe(site: str, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "{kind: prepare, name: p, corpus: c, tokenizer: tokenizer, sources: [{format: pile, files: abstracts.jsonl}], "
        "resources: {time: 1h}}"
    )

    assert "``: is empty" in launcher("submit", str(recipe), "--after", "", site, code=2)[1]


@pytest.mark.parametrize("command", ["show", "verify", "sample"])
def test_a_blank_name_is_no_corpus(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")  # what this folder holds is not meant either

    assert "``: is empty; write the name of a corpus" in launcher("corpus", command, "", site, code=2)[1]


def test_a_blank_name_is_no_evaluation(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.json").write_text("{}")  # what this folder holds is not meant either

    assert "``: is empty; name a run of `kind: evaluate`" in launcher("compare", "", site, code=2)[1]


def test_a_blank_profile_is_not_the_one_that_is_found_without_a_name(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "site.yaml").rename(tmp_path / "cluster.yaml")
    assert "tiny cpt" in launcher("status")[0]

    for blank in ("", " "):
        assert "--cluster: is empty" in launcher("status", "--cluster", blank, code=2)[1]
    assert "tiny cpt" in launcher("status", environ={"LAUNCHER_CLUSTER": ""})[0]


TILDES = [
    *([[one, "~nobody-here/x"] for one in ("cancel", "status", "why", "logs", "sync")]),
    ["corpus", "show", "~nobody-here/x"],
    *(["compare", name] for name in ("~nobody-here", "~nobody-here/x")),
    ["compare", "~nobody-here/x", "a"],
    ["chat", "~nobody-here/x"],
]


@pytest.mark.parametrize("words", TILDES, ids=" ".join)
def test_the_home_of_an_unknown_user_is_told_of(site: str, words: list[str]) -> None:
    said = launcher(*words, site, code=2)[1]

    assert "there is no user `nobody-here`; write the folder without `~`" in said


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--dir", "~nobody-here"],
        ["devcluster", "status", "--dir", "~nobody-here"],
        ["status", "--cluster", "~nobody-here/site.yaml"],
    ],
    ids=" ".join,
)
def test_the_home_of_an_unknown_user_is_told_of_in_options(words: list[str]) -> None:
    assert "`~nobody-here" in (said := launcher(*words, code=2)[1]) and "there is no user `nobody-here`" in said


def test_who_has_neither_a_home_nor_a_name_can_work(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number that it does not know."""
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 5)
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 5)
    monkeypatch.chdir(tmp_path)

    assert user_name() == str(2**31 - 5)
    with pytest.raises(NoHomeError, match="`~/x`: you have no home folder here, and HOME is not set"):
        expand_home("~/x")
    assert "tiny cpt" in launcher("status", site)[0]
    assert "no cluster profile: looked for cluster.yaml; write one" in launcher("status", code=2)[1]
    assert "no cluster profile `here`" in launcher("status", "--cluster", "here", code=2)[1]


@pytest.mark.parametrize(
    "words",
    [*([one] for one in (*OF_RUNS, "chat", "debug", "graph", "compare")), ["corpus", "show"], ["corpus", "verify"]],
    ids=" ".join,
)
def test_a_name_that_is_too_long_for_a_file_is_one_that_nothing_has(site: str, words: list[str]) -> None:
    assert f"`{LONG}`" in launcher(*words, LONG, site, code=2)[1]


@pytest.mark.parametrize("words", [["stop"], ["status"], ["report"], ["compare"], ["corpus", "show"]], ids=" ".join)
def test_so_is_a_name_that_is_not_in_utf_8(site: str, words: list[str]) -> None:
    assert f"`{UNDECODABLE}`" in launcher(*words, UNDECODABLE, site, code=2)[1]


def test_a_profile_with_a_name_that_no_file_can_have_is_not_there(tmp_path: Path) -> None:
    for name in (LONG, f"{tmp_path}/{LONG}.yaml", UNDECODABLE):
        assert f"no cluster profile `{name}`" in launcher("status", "--cluster", name, code=2)[1]


def test_a_file_in_a_folder_that_is_not_there_is_refused_before_anything_is_read(site: str, tmp_path: Path) -> None:
    for words in (["graph", "p", "-o"], ["watch", "--svg"]):
        said = launcher(*words, str(tmp_path / "none" / "x.svg"), site, code=2)[1]
        assert f"there is no folder `{tmp_path / 'none'}`; make it" in said


def test_an_error_of_a_path_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    typed = [sys.executable, "-m", "launcher"]
    for words, path in ((["recipes", "--copy", f"{LONG}/x"], LONG), (["init", "-o", f"{LONG}.yaml"], LONG)):
        done = subprocess.run([*typed, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert path in done.stderr and "File name too long" in done.stderr


@pytest.mark.parametrize("columns", [1, 5, 12, 20])
def test_a_terminal_may_be_as_narrow_as_it_likes(site: str, tmp_path: Path, columns: int) -> None:
    history = History.begin(tmp_path / "runs", "def456", "trained").submit("local-1", at=0).start(0, "local-1", at=1)
    history.train(0, 0, 9, at=2)
    environ = {"COLUMNS": str(columns)}

    for words in (["status"], ["status", "def456", "--plot"], ["watch", "--once"], ["why", "def456"], ["recipes"]):
        assert launcher(*words, *([site] if words[0] != "recipes" else []), environ=environ)[0]
    assert ("loss by step" in launcher("status", "def456", "--plot", site, environ=environ)[0]) == (columns >= 20)
