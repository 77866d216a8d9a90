"""Which run a person means."""

from pathlib import Path

import pytest

from launcher.cluster import Cluster, Roots
from launcher.errors import RunError
from launcher.monitor.find import find_run, list_runs, run_id
from launcher.run.paths import RunDir
from launcher.run.record import RunRecord


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    runs = tmp_path / "runs"
    add_run(runs, "cpt small", "cpt-small-20260801-120000-aaaa01")
    add_run(runs, "cpt small", "cpt-small-20260802-120000-aaaa02")
    add_run(runs, "sft", "sft-20260801-130000-bbbb01")
    (runs / ".submissions").mkdir()
    (runs / "half-made-20260803-120000-cccc01").mkdir()
    return Cluster(name="here", executor="local", roots=Roots(runs=str(runs), corpora="c", models="m"))


def add_run(runs: Path, name: str, folder: str) -> RunDir:
    run = RunDir(runs / folder)
    run.root.mkdir(parents=True)
    record = RunRecord(run_id(run), name, "cpt", "", 0.0, "", None, "", "", {})
    record.write(run.record)
    return run


def test_runs_are_listed_newest_first_and_unfinished_folders_left_out(cluster: Cluster) -> None:
    assert [run_id(run) for run in list_runs(cluster)] == ["aaaa02", "bbbb01", "aaaa01"]


def test_a_run_that_others_may_not_enter_is_not_in_their_list(stranger: Path) -> None:
    theirs = add_run(stranger / "runs", "notes", "notes-20260801-120000-aaaa01")
    mine = add_run(stranger / "runs", "abstracts", "abstracts-20260801-120000-aaaa02")
    theirs.root.chmod(0)
    cluster = Cluster(name="shared", roots=Roots(runs=str(stranger / "runs"), corpora="c", models="m"))

    assert list_runs(cluster) == [mine]
    with pytest.raises(RunError, match="not a run directory"):
        find_run(cluster, str(theirs.root))


def test_a_site_without_runs_has_an_empty_list(tmp_path: Path) -> None:
    cluster = Cluster(name="new", roots=Roots(runs=str(tmp_path / "none"), corpora="c", models="m"))

    assert list_runs(cluster) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aaaa01", "aaaa01"),
        ("bbb", "bbbb01"),
        ("cpt-small", "aaaa02"),
        ("cpt small", "aaaa02"),
        ("cpt-small-20260801", "aaaa01"),
        ("cpt-small-20260801-120000-aaaa01", "aaaa01"),
        ("sft", "bbbb01"),
    ],
)
def test_a_run_is_found_by_id_folder_or_recipe_name(cluster: Cluster, text: str, expected: str) -> None:
    assert run_id(find_run(cluster, text)) == expected


def test_a_run_elsewhere_is_found_by_its_path(cluster: Cluster, tmp_path: Path) -> None:
    run = add_run(tmp_path / "elsewhere", "other", "other-20260101-000000-dddd01")

    assert find_run(cluster, str(run.root)) == run


def test_a_folder_that_is_no_run_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run directory"):
        find_run(cluster, str(tmp_path))


def test_an_ambiguous_text_names_the_runs_that_fit(cluster: Cluster) -> None:
    with pytest.raises(RunError, match=r"2 runs match: .*aaaa02`, `.*aaaa01`; write more of the id"):
        find_run(cluster, "aaaa")


def test_an_unknown_text_gets_the_nearest_known_name(cluster: Cluster) -> None:
    with pytest.raises(RunError, match="did you mean `cpt-small`"):
        find_run(cluster, "cpt-smal1")


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_a_blank_text_is_no_run_although_each_begins_like_that(tmp_path: Path, text: str) -> None:
    only = add_run(tmp_path / "runs", "sft", "sft-20260801-130000-bbbb01")
    cluster = Cluster(name="here", executor="local", roots=Roots(runs=str(tmp_path / "runs"), corpora="c", models="m"))

    with pytest.raises(RunError, match="is empty; write the id or the name of a run"):
        find_run(cluster, text)
    assert find_run(cluster, "sft") == only


@pytest.mark.parametrize("text", ["b", "bb", "s"])
def test_one_or_two_characters_do_not_choose_a_run(cluster: Cluster, text: str) -> None:
    with pytest.raises(RunError, match=f"`{text}`: is too short to name a run; write at least 3 characters of its id"):
        find_run(cluster, text)


def test_a_recipes_name_may_be_short(cluster: Cluster) -> None:
    run = add_run(Path(cluster.roots.runs), "x", "x-20260801-130000-eeee01")

    assert find_run(cluster, "x") == run
